//! Removal of the series of names that are no longer in use.
//!
//! Owns: which of them may be removed. Refuses to know: which names are in use.
//! Keeps: a name is removed with all its series or not at all, and only when no thread holds a handle to any of them,
//! so that what is still counted for it adds up.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Family, Registry};

type SeriesName = (&'static str, Arc<str>);

impl Registry {
    /// Removes the series of every label and value for which `gone` returns `true`. Returns whether some remain,
    /// because something that is still open counts in them.
    pub fn forget(&self, gone: impl Fn(&str, &str) -> bool) -> bool {
        let mut families = self.families();
        let mut held: BTreeSet<SeriesName> = BTreeSet::new();
        for Family { labels, series, .. } in families.values() {
            for (values, shards) in series {
                if shards.are_held() {
                    held.extend(named(labels, values).filter(|(label, value)| gone(label, value)));
                }
            }
        }
        for Family { labels, series, .. } in families.values_mut() {
            series.retain(|values, _| {
                !named(labels, values).any(|(label, value)| gone(label, &value))
                    || named(labels, values).any(|name| held.contains(&name))
            });
        }
        !held.is_empty()
    }
}

fn named(labels: &[&'static str], values: &[Arc<str>]) -> impl Iterator<Item = SeriesName> {
    labels.iter().copied().zip(values.iter().cloned())
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
        let gone = |label: &str, value: &str| label == "listener" && value != "new";
        assert!(registry.forget(gone), "a gauge is held");
        assert_eq!(registry.value("test_ended_total", &["old", "done"]), Some(1));
        drop(open);
        assert!(!registry.forget(gone));
        assert_eq!(registry.value("test_ended_total", &["old", "done"]), None);
        assert_eq!(registry.value("test_open", &["old"]), None);
        assert_eq!(registry.value("test_ended_total", &["new", "done"]), Some(1));
    }
}
