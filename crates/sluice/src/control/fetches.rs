//! Content that is fetched for filters, on the admin pages: how old it is, and why it is not newer.

use serde_json::{Value, json};
use sluice_core::Clock;
use sluice_core::clock::rfc3339;
use sluice_core::value::show_duration;
use sluice_l4::filters::Fetches;

/// Every fetch by name.
pub(super) fn list(fetches: &Fetches, clock: &Clock) -> Vec<Value> {
    let mut items = Vec::new();
    let at = |moment| rfc3339(clock.wall(moment));
    fetches.each(|name, schedule, status| {
        let (fetched, failure) = (status.fetched_at(), status.failure());
        let state = match (fetched, &failure) {
            (Some(_), None) => "current",
            (Some(_), Some(_)) => "stale",
            (None, _) => "missing",
        };
        let refresh = show_duration(schedule.refresh);
        let mut item = json!({ "name": name, "state": state, "refresh": refresh });
        if let Some(fetched) = fetched {
            item["fetched_at"] = at(fetched).into();
        }
        if let Some(attempted) = status.attempted_at() {
            item["attempted_at"] = at(attempted).into();
        }
        if let Some(failure) = failure {
            item["failure"] = failure.as_str().into();
        }
        items.push(item);
    });
    items
}
