//! The tables of balancers.
//!
//! Owns: a table per balancer over a list of endpoints, and the pick from it. Refuses to know: why an endpoint cannot be
//! used; the caller decides. Keeps: an endpoint that may be chosen is found if there is one; a weighted choice keeps the
//! weights; a hash leads to the same endpoint on every worker and in every Sluice.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::Moment;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{BalancePlan, LeastRequestPlan, MaglevPlan, PeakEwmaPlan, RingPlan};
use crate::endpoint::EndpointState;

pub mod extension;
mod strides;

pub use extension::ExtendedTable;
pub use strides::StrideTable;

/// Points of the lightest endpoint on the ring; the others have more, by their weight.
const RING_POINTS: u64 = 160;

/// Entries of a hash table that are looked at before all endpoints are.
const NEAR: usize = 8;

/// Turns that are looked at before all endpoints are.
const TURNS: usize = 16;

/// What a pick needs besides the table.
pub struct Pick<'a> {
    /// A random number below a bound.
    pub random: &'a mut dyn FnMut(usize) -> usize,
    /// The worker's next position in a sequence.
    pub turn: &'a mut dyn FnMut() -> usize,
    /// The hash of the connection; without one a hash balancer picks at random.
    pub hash: Option<u64>,
    /// Whether an endpoint may be chosen: usable, below its limit, not attempted before.
    pub may: &'a dyn Fn(u32) -> bool,
    /// The load of all endpoints together.
    pub load: &'a dyn Fn() -> u64,
    /// The time.
    pub now: &'a dyn Fn() -> Moment,
    /// Called when the balancer, an extension, fails. Without it, no extension is asked, but the next endpoint in turn taken.
    pub failed: Option<&'a dyn Fn()>,
}

impl Pick<'_> {
    fn note_failure(&self) {
        if let Some(failed) = self.failed {
            failed();
        }
    }
}

/// An endpoint as a table sees it: its index in the membership, and its weight, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// The index in the membership.
    pub index: u32,
    /// The weight.
    pub weight: u64,
}

/// A balancer's table over some endpoints of a membership.
#[derive(Debug)]
pub enum BalancerTable {
    /// In turn.
    InTurn(StrideTable),
    /// The turn at a random position.
    Random(StrideTable),
    /// The endpoints and their weights.
    LeastRequest(LeastRequestPlan, Vec<Weighted>),
    /// The endpoints and their weights.
    PeakEwma(PeakEwmaPlan, Vec<Weighted>),
    /// By hash.
    Hash(HashTable),
    /// As an extension says.
    Extended(ExtendedTable),
}

/// The table of a balancer that chooses by hash.
#[derive(Debug)]
pub struct HashTable {
    entries: HashEntries,
    /// By index.
    endpoints: Vec<Weighted>,
    total_weight: u64,
    /// The most load of an endpoint, in percent of its fair share ("Consistent Hashing with Bounded Loads", Mirrokni et
    /// al., 2017).
    load_max: Option<u32>,
}

#[derive(Debug)]
enum HashEntries {
    /// Points in order, each with the index of its endpoint.
    Ring(Vec<(u64, u32)>),
    /// Slots with the index of their endpoint.
    Maglev(Vec<u32>),
}

impl BalancerTable {
    /// Builds the table of a balancer over `chosen`, which are indexes into `endpoints`.
    pub fn build(
        balance: &BalancePlan,
        endpoints: &[Arc<EndpointState>],
        chosen: Vec<Weighted>,
    ) -> Self {
        let hash = |entries, chosen: Vec<Weighted>| {
            let total_weight = chosen.iter().map(|one| one.weight).sum::<u64>().max(1);
            let load_max = balance.load_max();
            Self::Hash(HashTable { entries, endpoints: chosen, total_weight, load_max })
        };
        match balance {
            // Every hash leads to the only endpoint.
            balance if balance.hashes() && chosen.len() == 1 => {
                hash(HashEntries::Maglev(vec![chosen[0].index]), chosen)
            }
            BalancePlan::RoundRobin | BalancePlan::LoadReports(_) => {
                Self::InTurn(StrideTable::build(&chosen))
            }
            BalancePlan::Random => Self::Random(StrideTable::build(&chosen)),
            BalancePlan::LeastRequest(plan) => Self::LeastRequest(*plan, chosen),
            BalancePlan::PeakEwma(plan) => Self::PeakEwma(*plan, chosen),
            BalancePlan::RingHash(plan) => {
                hash(HashEntries::Ring(ring(plan, endpoints, &chosen)), chosen)
            }
            BalancePlan::Maglev(plan) => {
                hash(HashEntries::Maglev(maglev(*plan, endpoints, &chosen)), chosen)
            }
            BalancePlan::Extension(plan) => {
                Self::Extended(ExtendedTable::build(plan, endpoints, chosen))
            }
        }
    }

    /// The index of an endpoint that may be chosen, if there is one.
    pub fn pick(&self, endpoints: &[Arc<EndpointState>], pick: &mut Pick<'_>) -> Option<u32> {
        match self {
            Self::InTurn(table) => in_turn(table, (pick.turn)(), pick.may),
            Self::Random(table) => in_turn(table, (pick.random)(table.round()), pick.may),
            Self::LeastRequest(plan, all) => best_of(plan.choices, all, pick, |one, other| {
                is_less_loaded(plan.bias, one, other, endpoints)
            }),
            Self::PeakEwma(plan, all) => {
                let now = (pick.now)();
                best_of(Some(2), all, pick, |one, other| {
                    is_faster(*plan, one, other, endpoints, now)
                })
            }
            Self::Hash(table) => table.pick(endpoints, pick),
            Self::Extended(table) => table.pick(endpoints, pick),
        }
    }
}

/// The endpoint that has the turn at `position`, or, if it may not be chosen, one of the next turns.
fn in_turn(table: &StrideTable, position: usize, may: &dyn Fn(u32) -> bool) -> Option<u32> {
    if table.round() == 0 {
        return None;
    }
    let first = table.at(position);
    // Nearly always.
    if may(first) {
        return Some(first);
    }
    let turns = table.round().min(TURNS);
    let mut next = (1..turns).map(|turn| table.at(position.wrapping_add(turn)));
    next.find(|index| may(*index)).or_else(|| walk(table.indexes(), position, may, |index| *index))
}

/// The first entry from `start` on, wrapping around once, that may be chosen.
fn walk<T>(
    entries: &[T],
    start: usize,
    may: &dyn Fn(u32) -> bool,
    index_of: impl Fn(&T) -> u32,
) -> Option<u32> {
    let start = start.checked_rem(entries.len())?;
    // Nearly always the first.
    let first = index_of(&entries[start]);
    if may(first) {
        return Some(first);
    }
    let (before, after) = entries.split_at(start);
    after.iter().skip(1).chain(before).map(index_of).find(|index| may(*index))
}

/// The best of some random endpoints, or of all.
fn best_of(
    choices: Option<u32>,
    all: &[Weighted],
    pick: &mut Pick<'_>,
    less: impl Fn(&Weighted, &Weighted) -> bool,
) -> Option<u32> {
    let lesser = |best: Option<Weighted>, one: &Weighted| match best {
        Some(best) if !less(one, &best) => Some(best),
        Some(_) | None => Some(*one),
    };
    let start = (pick.random)(all.len());
    let Some(choices) = choices.filter(|choices| (*choices as usize) < all.len()) else {
        // From a random one on, so that equals are chosen alike.
        let (before, after) = all.split_at(start);
        let open = after.iter().chain(before).filter(|one| (pick.may)(one.index));
        return open.fold(None, lesser).map(|one| one.index);
    };
    let mut best = all.get(start).filter(|one| (pick.may)(one.index)).copied();
    for _ in 1..choices {
        let one = &all[(pick.random)(all.len())];
        if (pick.may)(one.index) {
            best = lesser(best, one);
        }
    }
    best.map(|one| one.index).or_else(|| walk(all, start, pick.may, |one| one.index))
}

/// Whether a request to `one` costs less for its weight than one to `other`.
fn is_faster(
    plan: PeakEwmaPlan,
    one: &Weighted,
    other: &Weighted,
    endpoints: &[Arc<EndpointState>],
    now: Moment,
) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a comparison of weights needs no more")]
    let cost = |of: &Weighted, by: &Weighted| {
        let endpoint = &endpoints[of.index as usize];
        endpoint.latency.cost(endpoint.load(), now, plan.decay) * by.weight as f64
    };
    cost(one, other) < cost(other, one)
}

/// Whether `one` has less load for its weight than `other`.
fn is_less_loaded(
    bias: u32,
    one: &Weighted,
    other: &Weighted,
    endpoints: &[Arc<EndpointState>],
) -> bool {
    let load = |of: &Weighted| endpoints[of.index as usize].load() + 1;
    if bias == 1000 {
        // Compares load / weight without dividing.
        let crossed =
            |one: &Weighted, other: &Weighted| u128::from(load(one)) * u128::from(other.weight);
        return crossed(one, other) < crossed(other, one);
    }
    let exponent = f64::from(bias) / 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "precise up to 2^52 requests")]
    let load = |of: &Weighted| (load(of) as f64).powf(exponent) / of.weight as f64;
    load(one) < load(other)
}

impl HashTable {
    fn pick(&self, endpoints: &[Arc<EndpointState>], pick: &mut Pick<'_>) -> Option<u32> {
        let hash = pick.hash.unwrap_or_else(|| (pick.random)(usize::MAX) as u64);
        let first = self.at(hash, pick.may)?;
        let Some(percent) = self.load_max else { return Some(first) };
        let load = (pick.load)();
        let is_overloaded = |index| self.is_overloaded(index, percent, endpoints, load);
        if !is_overloaded(first) {
            return Some(first);
        }
        // The next one is found by the hash of the hash: a neighbour would inherit all load of an overloaded endpoint.
        let may = |index| (pick.may)(index) && !is_overloaded(index);
        self.at(xxh3_64(&hash.to_ne_bytes()), &may).or(Some(first))
    }

    /// The endpoint at `hash`, or the next that may be chosen.
    fn at(&self, hash: u64, may: &dyn Fn(u32) -> bool) -> Option<u32> {
        match &self.entries {
            HashEntries::Ring(points) => {
                let start = points.partition_point(|(point, _)| *point < hash);
                self.search(points, start, may, |(_, index)| *index)
            }
            HashEntries::Maglev(slots) => {
                let start = usize::try_from(hash.checked_rem(slots.len() as u64)?).ok()?;
                self.search(slots, start, may, |index| *index)
            }
        }
    }

    /// Walks the entries from `start` on. They are many times as many as endpoints, so that it asks whether any may be
    /// chosen before it goes far.
    fn search<T>(
        &self,
        entries: &[T],
        start: usize,
        may: &dyn Fn(u32) -> bool,
        index_of: impl Fn(&T) -> u32,
    ) -> Option<u32> {
        let near = entries.iter().skip(start).take(NEAR).map(&index_of).find(|index| may(*index));
        near.or_else(|| {
            self.endpoints.iter().any(|one| may(one.index)).then_some(())?;
            walk(entries, start, may, index_of)
        })
    }

    /// Whether an endpoint has all the load it may have, of `load` in total.
    fn is_overloaded(
        &self,
        index: u32,
        percent: u32,
        endpoints: &[Arc<EndpointState>],
        load: u64,
    ) -> bool {
        let Ok(place) = self.endpoints.binary_search_by_key(&index, |one| one.index) else {
            return false;
        };
        let all = (u128::from(load) + 1) * u128::from(percent);
        let weight = u128::from(self.endpoints[place].weight);
        let most = (all * weight).div_ceil(100 * u128::from(self.total_weight)).max(1);
        u128::from(endpoints[index as usize].load()) >= most
    }
}

fn ring(plan: &RingPlan, endpoints: &[Arc<EndpointState>], chosen: &[Weighted]) -> Vec<(u64, u32)> {
    let total: u64 = chosen.iter().map(|one| one.weight).sum();
    let least = chosen.iter().map(|one| one.weight).min().unwrap_or(1);
    // Based on the lightest endpoint, not on the number of endpoints: an endpoint that is added or removed must not
    // change the points of the others, as long as the ring is within its bounds.
    let points_of = |weight: u64| {
        let usual = weight * RING_POINTS / least;
        let floor = plan.size_min.saturating_mul(weight).div_ceil(total);
        usual.max(floor).min(plan.size_max.saturating_mul(weight) / total).max(1)
    };
    let mut ring: Vec<(u64, u32)> = Vec::new();
    let keys = keys_of(plan.by_host, endpoints, chosen);
    for (Weighted { index, weight }, key) in chosen.iter().zip(keys) {
        let points = 0..points_of(*weight);
        ring.extend(points.map(|point| (xxh3_64_with_seed(key.as_bytes(), point), *index)));
    }
    ring.sort_unstable();
    ring
}

/// What the endpoints have their places by: their addresses or, `by_host`, their host names. Where several have one host
/// name, the first address has its places, and the others have those of their addresses.
fn keys_of<'e>(
    by_host: bool,
    endpoints: &'e [Arc<EndpointState>],
    chosen: &[Weighted],
) -> Vec<&'e str> {
    let all = chosen.iter().map(|one| &endpoints[one.index as usize]);
    if !by_host {
        return all.map(|endpoint| &*endpoint.name).collect();
    }
    let mut first: HashMap<&str, &str> = HashMap::new();
    for endpoint in all.clone() {
        if let Some(host) = &endpoint.host {
            let least = first.entry(host).or_insert(&endpoint.name);
            *least = (*least).min(&endpoint.name);
        }
    }
    all.map(|endpoint| match endpoint.host.as_deref() {
        Some(host) if first.get(host) == Some(&&*endpoint.name) => host,
        _ => &*endpoint.name,
    })
    .collect()
}

/// Eisenbud et al., "Maglev", NSDI 2016, §3.4, with weights: an endpoint takes its turn as often as its weight allows.
fn maglev(plan: MaglevPlan, endpoints: &[Arc<EndpointState>], chosen: &[Weighted]) -> Vec<u32> {
    const EMPTY: u32 = u32::MAX;
    if chosen.is_empty() {
        return Vec::new();
    }
    let size = u64::from(plan.slots);
    let heaviest = chosen.iter().map(|one| one.weight).max().unwrap_or(1);
    let mut places: Vec<(u64, u64, u64)> = keys_of(plan.by_host, endpoints, chosen)
        .into_iter()
        .map(|key| {
            let key = key.as_bytes();
            (xxh3_64(key) % size, xxh3_64_with_seed(key, 1) % (size - 1) + 1, 0)
        })
        .collect();
    let mut slots = vec![EMPTY; plan.slots as usize];
    let mut filled = 0;
    while filled < slots.len() {
        for (one, (next, skip, credit)) in chosen.iter().zip(&mut places) {
            *credit += one.weight;
            if *credit < heaviest {
                continue;
            }
            *credit -= heaviest;
            let slot = loop {
                let slot = usize::try_from(*next).expect("below the table's size");
                *next = (*next + *skip) % size;
                if slots[slot] == EMPTY {
                    break slot;
                }
            };
            slots[slot] = one.index;
            filled += 1;
            if filled == slots.len() {
                break;
            }
        }
    }
    slots
}

#[cfg(test)]
mod tests;
