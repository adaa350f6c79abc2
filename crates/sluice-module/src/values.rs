//! Values that libraries share.
//!
//! Owns: their names and the room that they have. Refuses to know: who reads them. Keeps: what libraries share about a request
//! takes a bounded number of bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sluice_core::SharedValues;
use sluice_core::values::{SharedValue, ValueFamily, ValueParts};
use sluice_sys::module::{HostAnswer, HostRefusal};

/// The most bytes that libraries share about one request, with names.
const SHARED_BYTES: usize = 64 * 1024;

sluice_core::values! {
    SHARED: ValueFamily = "module.values.*", "What filters of loaded libraries shared about the request (`value_set`), by name.";
    ERROR: String = "module.error", "How a filter of a loaded library failed, if the request passed nevertheless (`on_error: continue`).";
}

/// What was shared, by name.
#[derive(Clone, Debug, Default)]
struct OfModules {
    values: BTreeMap<String, String>,
    bytes: usize,
}

impl fmt::Display for OfModules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.values {
            write!(f, "{name}={value} ")?;
        }
        Ok(())
    }
}

impl ValueParts for OfModules {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        self.values.get(name).map(|value| value as &dyn SharedValue)
    }
}

/// Shares a value, in place of an earlier one.
pub(crate) fn share(values: &mut SharedValues, name: &str, value: &[u8]) -> HostAnswer<()> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let value = std::str::from_utf8(value).map_err(|_| HostRefusal::Invalid)?;
    if name.is_empty() || !name.bytes().all(is_name) || value.contains(char::is_control) {
        return Err(HostRefusal::Invalid);
    }
    let family = values.get(&SHARED).map(|family| {
        let family: &dyn std::any::Any = &*family.0;
        family.downcast_ref::<OfModules>().cloned().unwrap_or_default()
    });
    let mut all = family.unwrap_or_default();
    if let Some(earlier) = all.values.remove(name) {
        all.bytes -= name.len() + earlier.len();
    }
    all.bytes += name.len() + value.len();
    if all.bytes > SHARED_BYTES {
        return Err(HostRefusal::TooLarge);
    }
    all.values.insert(name.to_owned(), value.to_owned());
    values.set(&SHARED, ValueFamily(Arc::new(all)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_names_and_a_bounded_room() {
        let mut values = SharedValues::default();
        assert_eq!(share(&mut values, "tier", b"gold"), Ok(()));
        let half = vec![b'x'; SHARED_BYTES / 2];
        assert_eq!(share(&mut values, "a", &half), Ok(()));
        assert_eq!(share(&mut values, "b", &half), Err(HostRefusal::TooLarge));
        // In place of the earlier one there is room.
        assert_eq!(share(&mut values, "a", &half), Ok(()));
        assert_eq!(share(&mut values, "a", b""), Ok(()));
        assert_eq!(share(&mut values, "b", &half), Ok(()));
        for (name, value) in [("", &b"a"[..]), ("a b", b"a"), ("a", b"\xff"), ("a", b"a\nb")] {
            assert_eq!(share(&mut values, name, value), Err(HostRefusal::Invalid), "{name}");
        }
        let tier = values.named("module.values.tier").map(ToString::to_string);
        assert_eq!(tier.as_deref(), Some("gold"));
    }
}
