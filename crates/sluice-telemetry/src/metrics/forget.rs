//! Removal of the series of names that are no longer in use.
//!
//! Owns: which of them may be removed. Refuses to know: which names are in use.
//! Keeps: a name is removed with all its series or not at all, and only when no thread holds a handle to any of them,
//! so that what is still counted for it adds up.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Family, Registry};

/// The labels of one series, with their values.
#[derive(Clone, Copy, Debug)]
pub struct SeriesLabels<'a> {
    /// The name of the metric.
    pub metric: &'a str,
    labels: &'a [&'static str],
    values: &'a [Arc<str>],
}

/// Labels that make a name together, such as a listener and one of its chains.
pub type NameLabels = &'static [&'static str];

/// The values of labels that make a name.
type SeriesName = Vec<(&'static str, Arc<str>)>;

impl SeriesLabels<'_> {
    /// The value of a label; `None` if the metric does not have it.
    pub fn get(&self, label: &str) -> Option<&str> {
        let place = self.labels.iter().position(|of| *of == label)?;
        self.values.get(place).map(|value| &**value)
    }

    fn name(&self, labels: NameLabels) -> SeriesName {
        let all = self.labels.iter().copied().zip(self.values.iter().cloned());
        all.filter(|(label, _)| labels.contains(label)).collect()
    }
}

impl Registry {
    /// Removes the series of every name that `gone` returns for one of them. Returns whether some remain, because
    /// something that is still open counts in them.
    pub fn forget(&self, gone: impl Fn(&SeriesLabels<'_>) -> Vec<NameLabels>) -> bool {
        let gone = |metric: &str, labels: &[&'static str], values: &[Arc<str>]| {
            let series = SeriesLabels { metric, labels, values };
            gone(&series).into_iter().map(|name| series.name(name)).collect::<Vec<_>>()
        };
        let mut families = self.families();
        let mut held: BTreeSet<SeriesName> = BTreeSet::new();
        for (metric, Family { labels, series, .. }) in families.iter() {
            for (values, shards) in series {
                if shards.are_held() {
                    held.extend(gone(metric, labels, values));
                }
            }
        }
        for (metric, Family { labels, series, .. }) in families.iter_mut() {
            series.retain(|values, _| {
                let names = gone(metric, labels, values);
                names.is_empty() || names.iter().any(|name| held.contains(name))
            });
        }
        !held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::metrics! {
        OPEN = "test_open", Gauge, ["listener"], "Open.";
        ENDED = "test_ended_total", Counter, ["listener", "reason"], "Ended.";
    }

    #[test]
    fn a_name_leaves_with_all_its_series_once_nothing_counts_in_them() {
        let registry = Registry::new();
        let shard = registry.shard(1);
        let open = shard.gauge(&OPEN, &["old"]);
        shard.counter(&ENDED, &["old", "done"]).increment();
        shard.counter(&ENDED, &["new", "done"]).increment();
        let gone = |series: &SeriesLabels<'_>| -> Vec<NameLabels> {
            if series.get("listener") == Some("new") { vec![] } else { vec![&["listener"]] }
        };
        assert!(registry.forget(gone), "a gauge is held");
        assert_eq!(registry.value("test_ended_total", &["old", "done"]), Some(1));
        drop(open);
        assert!(!registry.forget(gone));
        assert_eq!(registry.value("test_ended_total", &["old", "done"]), None);
        assert_eq!(registry.value("test_open", &["old"]), None);
        assert_eq!(registry.value("test_ended_total", &["new", "done"]), Some(1));
    }

    #[test]
    fn a_name_of_two_labels_leaves_alone() {
        let registry = Registry::new();
        let shard = registry.shard(1);
        let held = shard.counter(&ENDED, &["a", "kept"]);
        for labels in [["a", "old"], ["b", "old"]] {
            shard.counter(&ENDED, &labels).increment();
        }
        let gone = |series: &SeriesLabels<'_>| -> Vec<NameLabels> {
            let old = series.metric == ENDED.name && series.get("reason") == Some("old");
            let of_a = series.get("listener") == Some("a") && series.get("other").is_none();
            if old && of_a { vec![&["listener", "reason"]] } else { vec![] }
        };
        assert!(!registry.forget(gone));
        let values = ["kept", "old"].map(|reason| registry.value(ENDED.name, &["a", reason]));
        assert_eq!((values, registry.value(ENDED.name, &["b", "old"])), ([Some(0), None], Some(1)));
        drop(held);
    }
}
