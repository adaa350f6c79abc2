//! Runtime values: numbers and flags that can change without a new configuration.
//!
//! Owns: the layers, the values that result from them, and what they may be. Refuses to know: files, admin pages, and
//! who reads a value.
//! Keeps: a later layer wins (configuration, then file, then control plane, then
//! operator); readers see all of a change or none of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// Where a value comes from; later origins win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `runtime.values` of the configuration.
    Static,
    /// The file named by `runtime.file`.
    File,
    /// A control plane.
    Plane,
    /// The operator, through the admin pages.
    Admin,
}

impl Origin {
    /// The name of the origin on the admin page.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::File => "file",
            Self::Plane => "control_plane",
            Self::Admin => "admin",
        }
    }
}

/// What a runtime value is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuntimeKind {
    /// A number, such as a weight or a rate; `10%` is 10.
    Number,
    /// A percentage from 0 to 100, with or without `%`.
    Percent,
    /// `true` or `false`.
    Flag,
}

impl RuntimeKind {
    /// Checks a value.
    ///
    /// # Errors
    /// It cannot be read so: what was expected.
    pub fn check(self, value: &str) -> Result<(), String> {
        let (fits, expected) = match self {
            Self::Number => (number(value).is_some(), "a number, such as 20"),
            Self::Percent => {
                let fits = number(value).is_some_and(|percent| percent <= 100);
                (fits, "a percentage from 0 to 100, such as 20")
            }
            Self::Flag => (value.parse::<bool>().is_ok(), "true or false"),
        };
        if fits { Ok(()) } else { Err(format!("expected {expected}, not `{value}`")) }
    }
}

fn number(value: &str) -> Option<u64> {
    value.strip_suffix('%').unwrap_or(value).parse().ok()
}

/// Values by name.
pub type RuntimeMap = BTreeMap<String, String>;

/// A value in force, where it comes from, and the values that it overrides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRuntime {
    /// The value.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The overridden values of earlier layers.
    pub hidden: Vec<(Origin, String)>,
}

/// The runtime values of the process.
#[derive(Debug, Default)]
pub struct Runtime {
    layers: Mutex<BTreeMap<Origin, RuntimeMap>>,
    in_force: ArcSwap<BTreeMap<String, ActiveRuntime>>,
}

impl Runtime {
    /// Replaces a layer.
    pub fn set_layer(&self, origin: Origin, values: RuntimeMap) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.insert(origin, values);
        self.publish(&layers);
    }

    /// Sets one value of the operator's layer; `None` removes it.
    pub fn set_override(&self, key: &str, value: Option<String>) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let admin = layers.entry(Origin::Admin).or_default();
        match value {
            Some(value) => admin.insert(key.to_owned(), value),
            None => admin.remove(key),
        };
        self.publish(&layers);
    }

    fn publish(&self, layers: &BTreeMap<Origin, RuntimeMap>) {
        let mut all: BTreeMap<String, ActiveRuntime> = BTreeMap::new();
        for (origin, values) in layers {
            for (key, value) in values {
                let new =
                    ActiveRuntime { value: value.clone(), origin: *origin, hidden: Vec::new() };
                let before = all.insert(key.clone(), new);
                if let (Some(before), Some(now)) = (before, all.get_mut(key)) {
                    now.hidden = before.hidden;
                    now.hidden.push((before.origin, before.value));
                }
            }
        }
        self.in_force.store(Arc::new(all));
    }

    /// Returns all values in force.
    pub fn all(&self) -> Arc<BTreeMap<String, ActiveRuntime>> {
        self.in_force.load_full()
    }

    /// Returns a value as a number (`10%` is 10), or `None` if it is not set or not a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        let all = self.in_force.load();
        number(&all.get(key)?.value)
    }

    /// Returns a value as `true` or `false`, or `None` if it is not set or neither.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.in_force.load().get(key)?.value.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_must_be_of_the_kind_that_is_read() {
        use RuntimeKind::{Flag, Number, Percent};
        for (kind, value, fits) in [
            (Number, "500", true),
            (Number, "10%", true),
            (Number, "", false),
            (Number, "-1", false),
            (Number, "1.5", false),
            (Number, "5/s", false),
            (Percent, "100%", true),
            (Percent, "101", false),
            (Flag, "true", true),
            (Flag, "1", false),
        ] {
            assert_eq!(kind.check(value).is_ok(), fits, "{kind:?} {value:?}");
        }
        let said = Percent.check("150%").unwrap_err();
        assert_eq!(said, "expected a percentage from 0 to 100, such as 20, not `150%`");
    }

    #[test]
    fn a_later_layer_wins_and_what_it_hides_is_known() {
        let runtime = Runtime::default();
        let one = |value: &str| RuntimeMap::from([("a.b".to_owned(), value.to_owned())]);
        runtime.set_layer(Origin::File, one("20%"));
        runtime.set_layer(Origin::Static, one("10"));
        assert_eq!(runtime.number("a.b"), Some(20));
        runtime.set_override("a.b", Some("true".into()));
        assert_eq!((runtime.number("a.b"), runtime.flag("a.b")), (None, Some(true)));
        let shown = &runtime.all()["a.b"];
        assert_eq!(shown.origin, Origin::Admin);
        assert_eq!(shown.hidden, [(Origin::Static, "10".into()), (Origin::File, "20%".into())]);
        runtime.set_override("a.b", None);
        runtime.set_layer(Origin::File, RuntimeMap::new());
        assert_eq!(runtime.number("a.b"), Some(10));
        assert_eq!(runtime.number("c"), None);
    }
}
