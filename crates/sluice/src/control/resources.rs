//! Resources on the admin pages: which are in force, whose they are, and which newer ones are not in force, and why.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_core::Name;
use sluice_core::clock::rfc3339;
use sluice_model::files::FILES;
use sluice_model::model::Kind;
use sluice_model::store::{Absent, AbsentReason, Store};

use super::endpoint_files::EndpointFileStates;

/// Every resource by kind and name. `newest` is there where a newer version is not in force: the configuration files, if
/// their last reload failed with these errors, are one resource, since they take effect as a whole.
pub(super) fn list(
    store: &Store,
    failure: Option<(&str, Duration)>,
    endpoint_files: &EndpointFileStates,
) -> Vec<Value> {
    let mut newest: BTreeMap<(Kind, &Name), Value> =
        store.absent().map(|(kind, name, absent)| ((kind, name), of_absent(absent))).collect();
    for name in store.names(Kind::Endpoints) {
        if let Some((problem, since)) = endpoint_files.failure(name) {
            newest.insert((Kind::Endpoints, name), rejected(since, vec![problem]));
        }
    }
    let mut items = Vec::new();
    if let Some((errors, since)) = failure {
        let newest = rejected(since, errors.lines().map(str::to_owned).collect());
        items.push(json!({ "kind": "configuration", "name": FILES, "state": "in_force", "newest": newest }));
    }
    for kind in Kind::ALL {
        for name in store.names(kind) {
            let mut item = json!({ "kind": kind.word(), "name": &**name, "state": "in_force" });
            if let Some((source, version)) = store.origin(kind, name) {
                item["source"] = source.into();
                if let Some(version) = version {
                    item["version"] = version.into();
                }
            }
            if let Some(absent) = newest.remove(&(kind, name)) {
                item["newest"] = absent;
            }
            items.push(item);
        }
    }
    // Those that have no predecessor.
    for ((kind, name), absent) in newest {
        let mut item = json!({ "kind": kind.word(), "name": &**name, "state": absent["state"] });
        item["newest"] = absent;
        items.push(item);
    }
    items
}

fn rejected(since: Duration, errors: Vec<String>) -> Value {
    json!({ "state": "rejected", "since": rfc3339(since), "errors": errors })
}

/// Why the newest version of a resource is not in force, and since when.
fn of_absent(absent: &Absent) -> Value {
    let since = rfc3339(absent.since);
    match &absent.why {
        AbsentReason::Rejected(found) => {
            let errors = found.iter().map(|found| match found.path.as_str() {
                "" => found.message.clone(),
                path => format!("{path}: {}", found.message),
            });
            rejected(absent.since, errors.collect())
        }
        AbsentReason::Waiting(waiting) => {
            let what: Vec<String> = waiting.references.iter().map(ToString::to_string).collect();
            let until: Duration = waiting.until;
            json!({ "state": "waiting", "since": since, "waits_for": what, "until": rfc3339(until) })
        }
    }
}
