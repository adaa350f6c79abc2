//! Runtime values on the admin pages.
//!
//! Owns: the list, and which keys may be set. Refuses to know: what a value does.
//! Keeps: a key that nothing reads cannot be set, so that a typo is not mistaken for a change.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_core::settings::suggest_word;
use sluice_l7::Runtime;
use sluice_l7::runtime::ActiveRuntime;
use sluice_model::process::Process;
use sluice_model::store::Store;

/// Every key that the configuration refers to or sets: its value, its origin and the values it hides.
pub(super) fn list(runtime: &Runtime, store: &Store) -> Vec<Value> {
    let in_force = runtime.all();
    let used: BTreeSet<&str> = store.runtime_keys().map(|(key, _)| key).collect();
    let set = in_force.keys().map(String::as_str);
    let keys: BTreeSet<&str> = used.iter().copied().chain(set).collect();
    let item = |key: &str| {
        let found = in_force.get(key);
        json!({
            "name": key,
            "value": found.map(|found| &found.value),
            "origin": found.map_or("unset", |found| found.origin.word()),
            "used": used.contains(key),
            "hidden": found.map_or_else(|| json!({}), hidden),
        })
    };
    keys.into_iter().map(item).collect()
}

fn hidden(value: &ActiveRuntime) -> Value {
    let hidden = value.hidden.iter();
    Value::Object(
        hidden.map(|(origin, value)| (origin.word().to_owned(), value.clone().into())).collect(),
    )
}

/// Checks that `key` may be set to `value`: the configuration refers to it, or gives it a value, and what reads it can read
/// this one.
pub(super) fn check_value(
    key: &str,
    value: &str,
    store: &Store,
    process: &Process,
) -> Result<(), String> {
    check_key(key, store, process)?;
    check_kind(key, value, store)
}

/// Checks that what reads `key`, if anything does, can read `value`.
pub(super) fn check_kind(key: &str, value: &str, store: &Store) -> Result<(), String> {
    let mut kinds = store.runtime_keys().filter(|(name, _)| *name == key).map(|(_, kind)| kind);
    kinds.try_for_each(|kind| kind.check(value)).map_err(|message| format!("`{key}`: {message}"))
}

fn check_key(key: &str, store: &Store, process: &Process) -> Result<(), String> {
    let (own, of_file) = &process.runtime_values;
    let set = own.keys().chain(of_file.keys()).map(String::as_str);
    let known: BTreeSet<&str> = store.runtime_keys().map(|(key, _)| key).chain(set).collect();
    if known.contains(key) {
        return Ok(());
    }
    let known: Vec<&str> = known.into_iter().collect();
    let help = suggest_word(key, &known).unwrap_or_else(|| match known.as_slice() {
        [] => "it uses none; a rule's `split` or `match.runtime`, or a filter, can use one".into(),
        some => format!("known values: {}", some.join(", ")),
    });
    Err(format!("the configuration does not use a runtime value `{key}`; {help}"))
}
