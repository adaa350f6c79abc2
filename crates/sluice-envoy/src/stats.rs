//! Statistics under Envoy's names.
//!
//! Owns: how the series of Sluice become Envoy's statistics, and what is shown of them. Refuses to know: who asks, and where
//! the values come from. Keeps: only what Sluice counts has a name here; the data path counts nothing for it, since all of it
//! is derived from series that are there anyway.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_telemetry::metrics::FamilySnapshot;

pub mod names;
mod quantiles;
mod rules;
pub mod server;
pub mod show;
pub mod table;
mod tags;

pub use rules::{StatRuleProblem, StatRules};

use names::{ListenerStatNames, StatNames};
use table::{Only, StatRow, StatScope, TABLE};

/// The type of a statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatKind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// A distribution of times, in milliseconds.
    Histogram,
}

/// A statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// The whole name, with dots.
    pub name: String,
    /// Its type.
    pub kind: StatKind,
    /// The value of a counter or gauge.
    pub value: u64,
    /// Whether something was counted since the start: a gauge that was set to 0 is used, too.
    pub used: bool,
    /// The cells of a histogram: the number of times in each bucket, and then their sum in microseconds.
    pub times: Vec<u64>,
}

impl Statistic {
    /// A gauge that was set.
    pub fn gauge(name: impl Into<String>, value: u64) -> Self {
        Self { name: name.into(), kind: StatKind::Gauge, value, used: true, times: Vec::new() }
    }

    /// A counter.
    pub fn counter(name: impl Into<String>, value: u64) -> Self {
        let (kind, used) = (StatKind::Counter, value > 0);
        Self { name: name.into(), kind, value, used, times: Vec::new() }
    }
}

/// What the series of a name add up to.
#[derive(Debug)]
struct StatSum {
    kind: StatKind,
    value: i64,
    used: bool,
    times: Vec<u64>,
}

/// The statistics that these series are, with `more` of them, by name.
pub fn collect(
    families: &[FamilySnapshot],
    names: &StatNames,
    more: Vec<Statistic>,
) -> Vec<Statistic> {
    let mut sums: BTreeMap<String, StatSum> = BTreeMap::new();
    names.declare(&mut |prefix, scope| declare(&mut sums, prefix, scope));
    for family in families {
        for row in TABLE.iter().filter(|row| row.metric == family.name) {
            add(&mut sums, row, family, names);
        }
    }
    let mut all: Vec<Statistic> = statistics(sums).chain(more).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// What a cluster or listener has from its beginning is there before it is counted.
fn declare(sums: &mut BTreeMap<String, StatSum>, prefix: &str, scope: StatScope) {
    for row in TABLE.iter().filter(|row| row.scope == scope && !row.lazy) {
        sums.entry(format!("{prefix}{}", row.stat)).or_insert_with(|| StatSum::new(row));
    }
}

fn add(
    sums: &mut BTreeMap<String, StatSum>,
    row: &StatRow,
    family: &FamilySnapshot,
    names: &StatNames,
) {
    let place = |label: &str| family.labels.iter().position(|of| *of == label);
    let owner = row.scope.label().map(place);
    let only: Vec<(Only, Option<usize>)> =
        row.only.iter().map(|only| (*only, place(only.label()))).collect();
    for (values, cells) in &family.series {
        let value_of = |place: Option<usize>| place.and_then(|at| values.get(at));
        let fits = |(only, place): &(Only, Option<usize>)| {
            value_of(*place).is_some_and(|value| only.takes(value))
        };
        if !only.iter().all(fits) {
            continue;
        }
        let Some(prefix) = prefix_of(row.scope, value_of(owner.flatten()), names) else { continue };
        let number = only.iter().find(|(only, _)| matches!(only, Only::Each(..)));
        let stat = match number.and_then(|(_, place)| value_of(*place)) {
            Some(number) => Cow::Owned(format!("{}{number}", row.stat)),
            None => Cow::Borrowed(row.stat),
        };
        let sum = sums.entry(format!("{prefix}{stat}")).or_insert_with(|| StatSum::new(row));
        sum.add(row, cells);
    }
}

/// What a worker counted for a listener.
#[derive(Clone, Debug)]
pub struct WorkerSeries {
    /// The metric.
    pub metric: &'static str,
    /// The native name of the listener.
    pub listener: Arc<str>,
    /// The number of the worker, from 0.
    pub worker: usize,
    /// The value.
    pub value: u64,
}

/// The statistics of workers, by listener and worker.
pub fn of_workers(series: &[WorkerSeries], names: &StatNames, workers: usize) -> Vec<Statistic> {
    let mut sums: BTreeMap<String, StatSum> = BTreeMap::new();
    let rows = || TABLE.iter().filter(|row| row.scope == StatScope::ListenerWorker);
    let name = |of: &ListenerStatNames, worker: usize, row: &StatRow| {
        format!("listener.{}.worker_{worker}.{}", of.address, row.stat)
    };
    for (_, of) in names.listeners() {
        for (worker, row) in (0..workers).flat_map(|worker| rows().map(move |row| (worker, row))) {
            sums.entry(name(of, worker, row)).or_insert_with(|| StatSum::new(row));
        }
    }
    for one in series {
        let Some(of) = names.listener(&one.listener) else { continue };
        for row in rows().filter(|row| row.metric == one.metric) {
            if let Some(sum) = sums.get_mut(&name(of, one.worker, row)) {
                sum.add(row, &[one.value]);
            }
        }
    }
    statistics(sums).collect()
}

fn statistics(sums: BTreeMap<String, StatSum>) -> impl Iterator<Item = Statistic> {
    sums.into_iter().map(|(name, sum)| {
        let StatSum { kind, value, used, times } = sum;
        Statistic { name, kind, value: u64::try_from(value).unwrap_or(0), used, times }
    })
}

/// What stands before the names of a scope; `None` if what it is about is not known by a name of Envoy.
fn prefix_of(scope: StatScope, owner: Option<&Arc<str>>, names: &StatNames) -> Option<String> {
    let Some(owner) = owner else { return (scope == StatScope::Process).then(String::new) };
    if scope == StatScope::Cluster {
        return Some(format!("cluster.{}.", names.cluster(owner)?.stat));
    }
    names.listener(owner).and_then(|of| of.prefix(scope))
}

impl ListenerStatNames {
    /// What stands before the names of a scope; `None` if the listener has none of it.
    fn prefix(&self, scope: StatScope) -> Option<String> {
        let address = &self.address;
        let of = |of: &Option<Arc<str>>, all: bool, word: &str| {
            Some(format!("{word}.{}.", of.as_ref().filter(|_| all)?))
        };
        match scope {
            StatScope::Process | StatScope::Cluster | StatScope::ListenerWorker => None,
            StatScope::Listener => Some(format!("listener.{address}.")),
            StatScope::ListenerHttp => of(&self.http, true, &format!("listener.{address}.http")),
            StatScope::Http => of(&self.http, true, "http"),
            StatScope::HttpConnections => of(&self.http, self.is_uniform, "http"),
            StatScope::Rbac | StatScope::RbacShadow => {
                let shadow = scope == StatScope::RbacShadow;
                let (http, rbac) = (self.http.as_ref()?, self.rbac.as_ref()?);
                let rules = if shadow { &rbac.shadow_rules } else { &rbac.rules };
                Some(format!("http.{http}.rbac.{rules}"))
            }
            StatScope::Tcp => of(&self.tcp, self.is_uniform, "tcp"),
            StatScope::Udp => of(&self.udp, self.is_uniform, "udp"),
        }
    }
}

impl StatSum {
    const fn new(row: &StatRow) -> Self {
        Self { kind: row.kind, value: 0, used: false, times: Vec::new() }
    }

    fn add(&mut self, row: &StatRow, cells: &[u64]) {
        if self.kind == StatKind::Histogram {
            if self.times.len() < cells.len() {
                self.times.resize(cells.len(), 0);
            }
            let own = self.times.iter_mut().zip(cells);
            own.for_each(|(sum, cell)| *sum = sum.wrapping_add(*cell));
            self.used |= cells.iter().any(|cell| *cell > 0);
            return;
        }
        let value = cells.first().map_or(0, |cell| cell.cast_signed());
        self.value += if row.minus { -value } else { value };
        self.used |= self.kind == StatKind::Gauge || value != 0;
    }
}

#[cfg(test)]
mod tests;
