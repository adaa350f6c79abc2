//! Which endpoint is next: the balancers and their tables.
//!
//! Owns: tables built once per membership, and the pick. Refuses to know: why an endpoint cannot be used; the caller
//! decides. Keeps: a usable endpoint is found if there is one; a weighted choice keeps the weights; a hash leads to the
//! same endpoint on every worker and in every Sluice.

use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::endpoint::EndpointState;

#[cfg(test)]
mod tests;

sluice_core::choice! {
    /// How a cluster chooses among its endpoints.
    pub enum Balance {
        /// In turn, by weight. Each worker starts at a random position.
        RoundRobin = "round_robin",
        /// Of two random endpoints, the one with less load for its weight: relayed connections plus requests in flight.
        LeastRequest = "least_request",
        /// At random, by weight.
        Random = "random",
        /// By hash on a ring; adding or removing an endpoint moves few hashes to other endpoints.
        RingHash = "ring_hash",
        /// By hash in a table; spreads more evenly than a ring and has faster look-ups.
        Maglev = "maglev",
    }
}

/// The longest weighted sequence; weights are scaled down to fit.
const SEQUENCE_MAX: u64 = 4096;

/// Points of the lightest endpoint on the ring; the others have more, by their weight.
const RING_POINTS: u64 = 160;

/// The most points on the ring; beyond that every endpoint has fewer.
const RING_MAX: u64 = 1 << 20;

/// Slots of the Maglev table: a prime, over a hundred times the number of endpoints in a usual cluster.
const MAGLEV_SLOTS: usize = 65_537;

/// What a pick needs besides the table.
pub struct Pick<'a> {
    /// A random number below a bound.
    pub random: &'a mut dyn FnMut(usize) -> usize,
    /// The worker's position in the sequence.
    pub position: usize,
    /// The hash of the connection; without one a hash balancer picks at random.
    pub hash: Option<u64>,
    /// Whether an endpoint may be chosen: usable, below its limit, not attempted before.
    pub may: &'a dyn Fn(usize) -> bool,
}

/// A balancer's table over the endpoints of one membership.
#[derive(Debug)]
pub enum BalancerTable {
    /// Indexes in a smooth weighted sequence.
    InTurn(Vec<u32>),
    /// Weights only.
    LeastRequest(Vec<u32>),
    /// The same sequence, entered at random.
    Random(Vec<u32>),
    /// Points in order, each with the index of its endpoint.
    Ring(Vec<(u64, u32)>),
    /// Slots with the index of their endpoint.
    Maglev(Vec<u32>),
}

impl BalancerTable {
    /// Builds the table of `balance` over `endpoints`.
    pub fn build(balance: Balance, endpoints: &[Arc<EndpointState>]) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight().max(1)).collect();
        let names = || endpoints.iter().map(|endpoint| &*endpoint.name);
        match balance {
            Balance::RoundRobin => Self::InTurn(smooth_sequence(&weights)),
            Balance::Random => Self::Random(smooth_sequence(&weights)),
            Balance::LeastRequest => Self::LeastRequest(weights),
            Balance::RingHash => Self::Ring(ring(names(), &weights)),
            Balance::Maglev => Self::Maglev(maglev(names(), &weights)),
        }
    }

    /// The index of an endpoint that may be chosen, if there is one.
    pub fn pick(&self, endpoints: &[Arc<EndpointState>], pick: &mut Pick<'_>) -> Option<usize> {
        match self {
            Self::InTurn(sequence) => walk(sequence, pick.position, pick.may, |index| *index),
            Self::Random(sequence) => {
                let start = (pick.random)(sequence.len());
                walk(sequence, start, pick.may, |index| *index)
            }
            Self::LeastRequest(weights) => less_loaded(weights, endpoints, pick),
            Self::Ring(points) => {
                let start = match pick.hash {
                    Some(hash) => points.partition_point(|(point, _)| *point < hash),
                    None => (pick.random)(points.len()),
                };
                walk(points, start, pick.may, |(_, index)| *index)
            }
            Self::Maglev(slots) => {
                let start = match pick.hash {
                    Some(hash) => usize::try_from(hash % slots.len().max(1) as u64).unwrap_or(0),
                    None => (pick.random)(slots.len()),
                };
                walk(slots, start, pick.may, |index| *index)
            }
        }
    }
}

/// The first entry from `start` on, wrapping around once, that may be chosen.
fn walk<T>(
    entries: &[T],
    start: usize,
    may: &dyn Fn(usize) -> bool,
    index_of: impl Fn(&T) -> u32,
) -> Option<usize> {
    let start = start.checked_rem(entries.len())?;
    let (before, after) = entries.split_at(start);
    after.iter().chain(before).map(|entry| index_of(entry) as usize).find(|index| may(*index))
}

fn less_loaded(
    weights: &[u32],
    endpoints: &[Arc<EndpointState>],
    pick: &mut Pick<'_>,
) -> Option<usize> {
    let count = weights.len();
    let start = (pick.random)(count);
    let all: Vec<u32>;
    let first = if (pick.may)(start) && count > 0 {
        start
    } else {
        all = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
        walk(&all, start, pick.may, |index| *index)?
    };
    if count == 1 {
        return Some(first);
    }
    let second = (first + 1 + (pick.random)(count - 1)) % count;
    if !(pick.may)(second) {
        return Some(first);
    }
    // Compares (load + 1) / weight without dividing.
    let load = |one: usize, other: usize| {
        u128::from(endpoints[one].load() + 1) * u128::from(weights[other])
    };
    Some(if load(second, first) < load(first, second) { second } else { first })
}

/// Each index as often as its weight requires, spread as evenly as possible.
fn smooth_sequence(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight))).max(1);
    let total: u64 = weights.iter().map(|weight| u64::from(*weight) / divisor).sum();
    let scale = total.div_ceil(SEQUENCE_MAX).max(1);
    let shares: Vec<i64> =
        weights.iter().map(|w| (u64::from(*w) / divisor / scale).max(1).cast_signed()).collect();
    let sum: i64 = shares.iter().sum();
    let mut credit = vec![0_i64; shares.len()];
    (0..sum)
        .map(|_| {
            credit.iter_mut().zip(&shares).for_each(|(credit, share)| *credit += share);
            let richest = (0..credit.len()).rev().max_by_key(|index| credit[*index]).unwrap_or(0);
            credit[richest] -= sum;
            u32::try_from(richest).expect("clusters have fewer than 2^32 endpoints")
        })
        .collect()
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn ring<'a>(names: impl Iterator<Item = &'a str>, weights: &[u32]) -> Vec<(u64, u32)> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let least = weights.iter().min().map_or(1, |weight| u64::from(*weight));
    // Based on the lightest endpoint, not on the number of endpoints: an endpoint that is added or removed must not
    // change the points of the others.
    let per_weight =
        |weight: u64| (weight * RING_POINTS / least).min(RING_MAX * weight / total).max(1);
    let mut ring: Vec<(u64, u32)> = Vec::new();
    for (index, (name, weight)) in (0_u32..).zip(names.zip(weights)) {
        let points = 0..per_weight(u64::from(*weight));
        ring.extend(points.map(|point| (xxh3_64_with_seed(name.as_bytes(), point), index)));
    }
    ring.sort_unstable();
    ring
}

/// Eisenbud et al., "Maglev", NSDI 2016, §3.4, with weights: an endpoint takes its turn as often as its weight allows.
fn maglev<'a>(names: impl Iterator<Item = &'a str>, weights: &[u32]) -> Vec<u32> {
    const EMPTY: u32 = u32::MAX;
    let size = MAGLEV_SLOTS as u64;
    let heaviest = weights.iter().max().copied().unwrap_or(1);
    let mut places: Vec<(u64, u64, u32)> = names
        .map(|name| {
            let offset = xxh3_64(name.as_bytes()) % size;
            let skip = xxh3_64_with_seed(name.as_bytes(), 1) % (size - 1) + 1;
            (offset, skip, 0)
        })
        .collect();
    let mut slots = vec![EMPTY; if places.is_empty() { 0 } else { MAGLEV_SLOTS }];
    let mut filled = 0;
    while filled < slots.len() {
        for (index, (next, skip, credit)) in (0_u32..).zip(&mut places) {
            *credit += weights[index as usize];
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
            slots[slot] = index;
            filled += 1;
            if filled == slots.len() {
                break;
            }
        }
    }
    slots
}
