//! Configurations of libraries: a text, and what a library makes of it.
//!
//! Owns: the objects in use, and what a library declares while it makes one. Refuses to know: where a text was written. Keeps:
//! equal texts for the same filter are one object, over all listeners, rules and reloads; an object is freed when nothing uses
//! it any more.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use sluice_sys::module::{ConfigCall, HostAnswer, HostRefusal, Module, ModuleConfig};

/// The most counters of a configuration.
const COUNTERS_MAX: usize = 64;

/// The most bytes of the name of a counter.
const COUNTER_NAME_MAX: usize = 64;

/// What a library made of a text, for one of its filters.
#[derive(Debug)]
pub(crate) struct CheckedConfig {
    pub(crate) filter: String,
    text: String,
    pub(crate) object: Arc<ModuleConfig>,
    pub(crate) declared: Declared,
}

/// What a library said about a configuration.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) counters: Vec<String>,
    pub(crate) edits_target: bool,
    refusal: Option<String>,
}

/// The objects in use.
static IN_USE: Mutex<Vec<Weak<CheckedConfig>>> = Mutex::new(Vec::new());

impl CheckedConfig {
    /// The object for a text.
    ///
    /// # Errors
    /// Why the library refuses it.
    pub(crate) fn of(
        module: &'static Module,
        filter: &str,
        text: &str,
    ) -> Result<Arc<Self>, String> {
        let in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let known = in_use.iter().filter_map(Weak::upgrade).find(|known| {
            std::ptr::eq(known.object.module(), module)
                && (&*known.filter, &*known.text) == (filter, text)
        });
        // A library may take its time, and frees what nothing uses when `known` is dropped.
        drop(in_use);
        if let Some(known) = known {
            return Ok(known);
        }
        let mut declared = Declared::default();
        let object = match module.config(filter, text.as_bytes(), &mut declared) {
            Ok(object) => Arc::new(object),
            Err(_) => {
                let silent = || "it does not say why; the log may".to_owned();
                return Err(declared.refusal.unwrap_or_else(silent));
            }
        };
        let (filter, text) = (filter.to_owned(), text.to_owned());
        let made = Arc::new(Self { filter, text, object, declared });
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|known| known.strong_count() > 0);
        in_use.push(Arc::downgrade(&made));
        Ok(made)
    }
}

impl ConfigCall for Declared {
    fn refuse(&mut self, why: String) {
        self.refusal = Some(why);
    }

    fn counter(&mut self, name: &[u8]) -> HostAnswer<u32> {
        let fits = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
        let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
        if name.is_empty() || name.len() > COUNTER_NAME_MAX || !name.as_bytes().iter().all(fits) {
            return Err(HostRefusal::Invalid);
        }
        let known = self.counters.iter().position(|known| known == name);
        let place = known.unwrap_or(self.counters.len());
        if place >= COUNTERS_MAX {
            return Err(HostRefusal::TooLarge);
        }
        if known.is_none() {
            self.counters.push(name.to_owned());
        }
        u32::try_from(place).map_err(|_| HostRefusal::TooLarge)
    }

    fn edits_target(&mut self) {
        self.edits_target = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_names_that_metrics_may_have() {
        let mut declared = Declared::default();
        assert_eq!(declared.counter(b"hits_2"), Ok(0));
        assert_eq!(declared.counter(b"misses"), Ok(1));
        assert_eq!(declared.counter(b"hits_2"), Ok(0));
        for name in [&b""[..], b"Hits", b"a b", b"\"", b"\xff", &[b'a'; COUNTER_NAME_MAX + 1]] {
            assert_eq!(declared.counter(name), Err(HostRefusal::Invalid));
        }
        for number in 2..COUNTERS_MAX {
            declared.counter(format!("c{number}").as_bytes()).unwrap();
        }
        assert_eq!(declared.counter(b"one_more"), Err(HostRefusal::TooLarge));
    }
}
