//! Values that guests share.
//!
//! Owns: their names and the room that they have. Refuses to know: who reads them. Keeps: what guests share about a request takes a
//! bounded number of bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sluice_core::SharedValues;
use sluice_core::values::{SharedValue, ValueFamily, ValueParts};

use crate::abi::Status;
use crate::limits::VALUE_BYTES;

sluice_core::values! {
    SHARED: ValueFamily = "wasm.values.*", "What guests of the filter `wasm` shared about the request (`proxy_set_property`), by the parts of its path, joined by dots.";
    ERROR: String = "wasm.error", "How a guest of the filter `wasm` failed, if the request passed nevertheless (`on_error: continue`).";
}

/// A value, which need not be a text.
#[derive(Clone, Debug)]
struct GuestValue(Vec<u8>);

impl fmt::Display for GuestValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        text.chars().try_for_each(|c| write!(f, "{}", if c.is_control() { ' ' } else { c }))
    }
}

/// What was shared, by name.
#[derive(Clone, Debug, Default)]
struct OfGuests {
    values: BTreeMap<String, GuestValue>,
    bytes: usize,
}

impl fmt::Display for OfGuests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.iter().try_for_each(|(name, value)| write!(f, "{name}={value} "))
    }
}

impl ValueParts for OfGuests {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        self.values.get(name).map(|value| value as &dyn SharedValue)
    }
}

fn of_guests(values: &SharedValues) -> Option<&OfGuests> {
    let family: &dyn std::any::Any = &*values.get(&SHARED)?.0;
    family.downcast_ref()
}

/// A value that was shared.
pub(crate) fn shared(values: &SharedValues, path: &[&str]) -> Option<Vec<u8>> {
    of_guests(values)?.values.get(&path.join(".")).map(|value| value.0.clone())
}

/// Shares a value, in place of an earlier one.
///
/// # Errors
/// The name is none, or there is no room.
pub(crate) fn share(values: &mut SharedValues, path: &[&str], value: &[u8]) -> Result<(), Status> {
    let name = path.join(".");
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(Status::BadArgument);
    }
    let mut all = of_guests(values).cloned().unwrap_or_default();
    if let Some(earlier) = all.values.remove(&name) {
        all.bytes -= name.len() + earlier.0.len();
    }
    all.bytes += name.len() + value.len();
    if all.bytes > VALUE_BYTES {
        return Err(Status::InternalFailure);
    }
    all.values.insert(name, GuestValue(value.to_vec()));
    values.set(&SHARED, ValueFamily(Arc::new(all)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_names_and_a_bounded_room() {
        let mut values = SharedValues::default();
        assert_eq!(share(&mut values, &["app", "tier"], b"gold\n\xff"), Ok(()));
        assert_eq!(shared(&values, &["app", "tier"]).as_deref(), Some(&b"gold\n\xff"[..]));
        let text = values.named("wasm.values.app.tier").map(ToString::to_string);
        assert_eq!(text.as_deref(), Some("gold \u{fffd}"));
        let half = vec![b'x'; VALUE_BYTES / 2];
        assert_eq!(share(&mut values, &["a"], &half), Ok(()));
        assert_eq!(share(&mut values, &["b"], &half), Err(Status::InternalFailure));
        assert_eq!(share(&mut values, &["a"], b""), Ok(()));
        assert_eq!(share(&mut values, &["b"], &half), Ok(()));
        assert_eq!(share(&mut values, &["a b"], b""), Err(Status::BadArgument));
    }
}
