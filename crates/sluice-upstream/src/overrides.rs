//! What operators decided about endpoints, beside the configuration.
//!
//! Owns: the overrides of all clusters by address, and when they end. Refuses to know: who sets them, and whether the
//! endpoint is a member now. Keeps: an override stays until it is removed or ends, whatever becomes of the configuration
//! and of the endpoint; there is at most one per endpoint, and a bounded number of all.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use sluice_core::Name;
use tokio::time::Instant;

/// What an operator wants of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideAction {
    /// No new connections, flows and requests, except those of a sticky session.
    Drain,
    /// Nothing new; what is open continues as `on_endpoint_unhealthy` says.
    Maintenance,
    /// Another load balancing weight.
    Weight(NonZeroU32),
}

impl fmt::Display for OverrideAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain => f.write_str("drain"),
            Self::Maintenance => f.write_str("maintenance"),
            Self::Weight(weight) => write!(f, "weight {weight}"),
        }
    }
}

/// An override of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointOverride {
    /// What is wanted.
    pub action: OverrideAction,
    /// When it was set.
    pub since: Instant,
    /// When it ends by itself.
    pub until: Option<Instant>,
}

/// The overrides of one cluster, by the name of the endpoint: its address as text.
pub type ClusterOverrides = BTreeMap<Arc<str>, EndpointOverride>;

/// The overrides of all clusters.
#[derive(Debug, Default)]
pub struct EndpointOverrides(BTreeMap<Name, Arc<ClusterOverrides>>);

impl EndpointOverrides {
    /// The number of overrides.
    pub fn len(&self) -> usize {
        self.0.values().map(|of| of.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The overrides of a cluster.
    pub fn of(&self, cluster: &str) -> Arc<ClusterOverrides> {
        self.0.get(cluster).cloned().unwrap_or_default()
    }

    /// The override of an endpoint.
    pub fn get(&self, cluster: &str, endpoint: &str) -> Option<EndpointOverride> {
        self.0.get(cluster)?.get(endpoint).copied()
    }

    /// Every override, by cluster and endpoint.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<str>, &EndpointOverride)> {
        self.0.iter().flat_map(|(cluster, of)| {
            of.iter().map(move |(endpoint, one)| (cluster, endpoint, one))
        })
    }

    /// Replaces the override of an endpoint, or removes it. Returns the one before.
    pub(crate) fn set(
        &mut self,
        cluster: &Name,
        endpoint: &Arc<str>,
        to: Option<EndpointOverride>,
    ) -> Option<EndpointOverride> {
        let own = self.0.entry(Arc::clone(cluster)).or_default();
        let all = Arc::make_mut(own);
        let before = match to {
            Some(one) => all.insert(Arc::clone(endpoint), one),
            None => all.remove(endpoint),
        };
        if all.is_empty() {
            self.0.remove(cluster);
        }
        before
    }

    /// When the next override ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.iter().filter_map(|(_, _, one)| one.until).min()
    }

    /// Those that have ended by `now`.
    pub fn ended(&self, now: Instant) -> Vec<(Name, Arc<str>, EndpointOverride)> {
        let ended = self.iter().filter(|(_, _, one)| one.until.is_some_and(|until| until <= now));
        ended.map(|(cluster, name, one)| (Arc::clone(cluster), Arc::clone(name), *one)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn there_is_one_per_endpoint_and_it_ends_when_it_should() {
        let mut all = EndpointOverrides::default();
        let start = Instant::now();
        let until = |seconds| start + Duration::from_secs(seconds);
        let one = |action, end: Option<u64>| {
            Some(EndpointOverride { action, since: start, until: end.map(until) })
        };
        let (db, web): (Name, Name) = ("db".into(), "web".into());
        let (a, b): (Arc<str>, Arc<str>) = ("a:1".into(), "b:1".into());
        assert_eq!(all.set(&db, &a, one(OverrideAction::Drain, Some(5))), None);
        assert_eq!(all.set(&db, &b, one(OverrideAction::Maintenance, None)), None);
        assert_eq!(all.set(&web, &a, one(OverrideAction::Drain, Some(9))), None);
        let weight = OverrideAction::Weight(NonZeroU32::new(7).unwrap());
        let before = all.set(&db, &a, one(weight, Some(6))).unwrap();
        assert_eq!(before.action, OverrideAction::Drain);
        assert_eq!((all.len(), all.of("db").len(), all.of("none").len()), (3, 2, 0));
        assert_eq!(all.get("db", "a:1").unwrap().action.to_string(), "weight 7");
        assert_eq!(all.next_end(), Some(until(6)));
        assert!(all.ended(until(5)).is_empty());
        let ended: Vec<_> = all.ended(until(6)).into_iter().map(|(of, at, _)| (of, at)).collect();
        assert_eq!(ended, [(Arc::clone(&db), Arc::clone(&a))]);
        for (cluster, endpoint) in [(&db, &a), (&db, &b), (&web, &a)] {
            assert!(all.set(cluster, endpoint, None).is_some());
        }
        assert_eq!(all.set(&db, &a, None), None);
        assert!(all.is_empty() && all.next_end().is_none());
    }
}
