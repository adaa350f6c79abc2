//! Values that filters share: typed, by key, for one request or one connection.
//!
//! Owns: the keys, and the set of values that a request or a connection has. Refuses to know: what any value means, and
//! who reads it. Keeps: a key is declared in a table with its help, never made up where it is used; a set has at most
//! one value per key, and an empty set takes no memory of its own.
//!
//! A set has few values, so that a look-up compares names in order and hashes nothing.

use std::any::Any;
use std::cell::OnceCell;
use std::fmt::{Debug, Display};
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use crate::suggest::nearest;

/// The name of a shared value as operators print it.
#[derive(Debug, PartialEq, Eq)]
pub struct ValueDef {
    /// `filter.what`, unique in the process; `filter.*` for a family of values, see [`ValueParts`].
    pub name: &'static str,
    /// What it is, in one sentence.
    pub help: &'static str,
}

impl ValueDef {
    /// The name of a part, if this is a family and `name` one of its parts.
    fn part_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.name.strip_suffix('*')?).filter(|part| !part.is_empty())
    }

    fn covers(&self, name: &str) -> bool {
        self.name == name || self.part_of(name).is_some()
    }
}

/// A value whose parts have names that are known only at run time, such as the claims of a token. A key whose name ends
/// in `.*` has this type.
pub trait ValueParts: Any + Debug + Display + Send + Sync {
    /// The part with that name.
    fn part(&self, name: &str) -> Option<&dyn SharedValue>;
}

/// A family of values that a filter shares.
#[derive(Clone, Debug)]
pub struct ValueFamily(pub Arc<dyn ValueParts>);

impl Display for ValueFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// A part of a family that is set by name, to try out what depends on it.
#[derive(Debug)]
struct NamedPart {
    name: String,
    text: String,
    earlier: Option<ValueFamily>,
}

impl Display for NamedPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl ValueParts for NamedPart {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        if self.name == name {
            return Some(&self.text);
        }
        self.earlier.as_ref()?.0.part(name)
    }
}

/// A value, or the part of it, that is called `name`.
fn named_in<'v>(
    entries: impl Iterator<Item = (&'static ValueDef, &'v dyn SharedValue)>,
    name: &str,
) -> Option<&'v dyn SharedValue> {
    let mut covering = entries.filter(|(def, _)| def.covers(name));
    covering.find_map(|(def, value)| {
        let Some(part) = def.part_of(name) else { return Some(value) };
        let value: &dyn Any = value;
        value.downcast_ref::<ValueFamily>()?.0.part(part)
    })
}

/// The key of a shared value of type `T`; declared by the [`values!`](crate::values!) macro.
pub struct ValueKey<T>(&'static ValueDef, PhantomData<fn() -> T>);

impl<T> ValueKey<T> {
    /// The key that `def` describes; used by the [`values!`](crate::values!) macro.
    pub const fn new(def: &'static ValueDef) -> Self {
        Self(def, PhantomData)
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.0.name
    }
}

impl<T> Debug for ValueKey<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

/// What can be shared: read by its type where the key is known, printed where only the name is.
pub trait SharedValue: Any + Debug + Display + Send + Sync {}

impl<T: Any + Debug + Display + Send + Sync> SharedValue for T {}

/// The values of one request or one connection.
#[derive(Clone, Debug, Default)]
pub struct SharedValues(Vec<(&'static ValueDef, Arc<dyn SharedValue>)>);

impl SharedValues {
    /// Sets a value, in place of an earlier one.
    pub fn set<T: SharedValue>(&mut self, key: &ValueKey<T>, value: T) {
        let value: Arc<dyn SharedValue> = Arc::new(value);
        match self.0.iter_mut().find(|(def, _)| is_same(def, key.0)) {
            Some((_, earlier)) => *earlier = value,
            None => self.0.push((key.0, value)),
        }
    }

    /// Sets the value of that name to a text, to try out what depends on how it is printed.
    ///
    /// # Errors
    /// As [`check_name`].
    pub fn set_named(&mut self, name: &str, text: &str) -> Result<(), String> {
        check_name(name)?;
        let mut declared = DECLARED.get().into_iter().flatten();
        let Some(def) = declared.find(|def| def.covers(name)) else { return Ok(()) };
        let Some(part) = def.part_of(name) else {
            self.set(&ValueKey(def, PhantomData), text.to_owned());
            return Ok(());
        };
        let key = ValueKey::<ValueFamily>(def, PhantomData);
        let earlier = self.get(&key).cloned();
        let part = NamedPart { name: part.to_owned(), text: text.to_owned(), earlier };
        self.set(&key, ValueFamily(Arc::new(part)));
        Ok(())
    }

    /// Returns a value.
    pub fn get<T: SharedValue>(&self, key: &ValueKey<T>) -> Option<&T> {
        let (_, value) = self.0.iter().find(|(def, _)| is_same(def, key.0))?;
        let value: &dyn Any = &**value;
        value.downcast_ref()
    }

    /// Returns the value with that name.
    pub fn named(&self, name: &str) -> Option<&dyn SharedValue> {
        named_in(self.0.iter().map(|(def, value)| (*def, &**value)), name)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Keys are compared by their place in memory where that is enough, and a constant may have several places.
fn is_same(one: &'static ValueDef, other: &'static ValueDef) -> bool {
    std::ptr::eq(one, other) || one.name == other.name
}

/// The values of a connection: each is written once, and all requests of the connection read the same.
#[derive(Clone, Debug, Default)]
pub struct ConnValues(OnceCell<Box<ConnValue>>);

/// A value of a connection, and those that were written after it.
#[derive(Clone, Debug)]
struct ConnValue {
    def: &'static ValueDef,
    value: Arc<dyn SharedValue>,
    later: ConnValues,
}

impl ConnValues {
    /// Sets a value, unless there is one; returns whether it was set.
    pub fn set<T: SharedValue>(&self, key: &ValueKey<T>, value: T) -> bool {
        let mut end = self;
        while let Some(entry) = end.0.get() {
            if is_same(entry.def, key.0) {
                return false;
            }
            end = &entry.later;
        }
        let entry = ConnValue { def: key.0, value: Arc::new(value), later: Self::default() };
        end.0.set(Box::new(entry)).is_ok()
    }

    /// Returns a value.
    pub fn get<T: SharedValue>(&self, key: &ValueKey<T>) -> Option<&T> {
        let entry = self.entries().find(|entry| is_same(entry.def, key.0))?;
        let value: &dyn Any = &*entry.value;
        value.downcast_ref()
    }

    /// Returns the value with that name.
    pub fn named(&self, name: &str) -> Option<&dyn SharedValue> {
        named_in(self.entries().map(|entry| (entry.def, &*entry.value)), name)
    }

    fn entries(&self) -> impl Iterator<Item = &ConnValue> {
        std::iter::successors(self.0.get(), |entry| entry.later.0.get()).map(|entry| &**entry)
    }
}

/// The values that the filters of this program declare.
static DECLARED: OnceLock<Vec<&'static ValueDef>> = OnceLock::new();

/// Declares the values of all filters, once, before a configuration is read; a later call has no effect.
pub fn declare(values: impl IntoIterator<Item = &'static ValueDef>) {
    DECLARED.get_or_init(|| values.into_iter().collect());
}

/// Checks the name of a value in a configuration.
///
/// # Errors
/// No filter of this program declares it; the message suggests a similar name.
pub fn check_name(name: &str) -> Result<(), String> {
    let declared = || DECLARED.get().into_iter().flatten();
    if declared().any(|def| def.covers(name)) {
        return Ok(());
    }
    let near = nearest(name, declared().map(|def| def.name));
    let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    Err(format!("no filter of this program shares a value `{name}`{near}"))
}

/// Declares keys of shared values: one constant per row, and `VALUES` with all of them.
///
/// ```
/// sluice_core::values! {
///     COOK: String = "kitchen.cook", "Who cooks.";
///     GUESTS: u64 = "kitchen.guests", "How many eat.";
/// }
/// let mut values = sluice_core::SharedValues::default();
/// values.set(&GUESTS, 4);
/// assert_eq!(values.get(&GUESTS), Some(&4));
/// assert_eq!(values.get(&COOK), None);
/// assert_eq!(VALUES.len(), 2);
/// ```
#[macro_export]
macro_rules! values {
    ($($key:ident: $type:ty = $name:literal, $help:literal;)+) => {
        $(
            #[doc = $help]
            #[allow(unreachable_pub, reason = "the table may be private to a filter")]
            pub const $key: $crate::values::ValueKey<$type> = $crate::values::ValueKey::new(
                &$crate::values::ValueDef { name: $name, help: $help },
            );
        )+
        /// Every value declared here, in order.
        #[allow(unreachable_pub, reason = "the table may be private to a filter")]
        pub const VALUES: &[$crate::values::ValueDef] =
            &[$($crate::values::ValueDef { name: $name, help: $help }),+];
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::values! {
        USER: String = "test.user", "A name.";
        COUNT: u64 = "test.count", "A number.";
        PARTS: ValueFamily = "parts.*", "Numbers by name.";
    }

    #[derive(Debug)]
    struct Two(u64, u64);

    impl Display for Two {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{} {}", self.0, self.1)
        }
    }

    impl ValueParts for Two {
        fn part(&self, name: &str) -> Option<&dyn SharedValue> {
            match name {
                "a" => Some(&self.0),
                "b.c" => Some(&self.1),
                _ => None,
            }
        }
    }

    /// A key with the name of another and another type.
    const OTHER: ValueKey<u64> = ValueKey::new(&ValueDef { name: "test.user", help: "Wrong." });

    #[test]
    fn values_are_found_by_key_and_by_name() {
        let mut values = SharedValues::default();
        assert!(values.is_empty() && values.get(&USER).is_none());
        values.set(&USER, "ann".to_owned());
        values.set(&COUNT, 3);
        values.set(&USER, "bob".to_owned());
        assert_eq!((values.get(&USER).unwrap().as_str(), values.get(&COUNT)), ("bob", Some(&3)));
        assert_eq!(values.named("test.user").unwrap().to_string(), "bob");
        assert!(values.named("test.else").is_none());
        assert_eq!(values.get(&OTHER), None, "a value is never read as another type");
        assert_eq!(VALUES[1].name, COUNT.name());
    }

    #[test]
    fn only_names_that_were_declared_are_known() {
        declare(VALUES);
        assert_eq!(check_name("test.user"), Ok(()));
        let unknown = |name: &str, near: &str| {
            let message = format!("no filter of this program shares a value `{name}`{near}");
            assert_eq!(check_name(name), Err(message));
        };
        let mut values = SharedValues::default();
        assert_eq!(values.set_named("test.count", "many"), Ok(()));
        assert_eq!(values.named("test.count").unwrap().to_string(), "many");
        assert_eq!(values.get(&COUNT), None, "it is a text");
        assert_eq!(values.set_named("test.usr", "x"), check_name("test.usr"));
        for (name, text) in [("parts.a", "1"), ("parts.b.c", "2"), ("parts.a", "3")] {
            assert_eq!(values.set_named(name, text), Ok(()));
            assert_eq!(values.named(name).unwrap().to_string(), text);
        }
        assert_eq!(values.named("parts.b.c").unwrap().to_string(), "2");
        unknown("parts.", "; did you mean `parts.*`?");
        unknown("parts", "");
        unknown("test.usr", "; did you mean `test.user`?");
        unknown("elsewhere", "");
        unknown("", "");
    }

    #[test]
    fn the_values_of_a_family_are_found_by_their_names() {
        let mut values = SharedValues::default();
        values.set(&USER, "ann".to_owned());
        values.set(&PARTS, ValueFamily(Arc::new(Two(1, 2))));
        let found = |name| values.named(name).map(ToString::to_string);
        assert_eq!(found("parts.a").as_deref(), Some("1"));
        assert_eq!(found("parts.b.c").as_deref(), Some("2"));
        for name in ["parts", "parts.", "parts.b", "parts.a.", "xparts.a", "parts.*"] {
            assert_eq!(found(name), None, "{name}");
        }
        let of_conn = ConnValues::default();
        assert!(of_conn.set(&PARTS, ValueFamily(Arc::new(Two(3, 4)))));
        assert_eq!(of_conn.named("parts.a").unwrap().to_string(), "3");
    }

    #[test]
    fn a_value_of_a_connection_is_written_once() {
        let values = ConnValues::default();
        assert!(values.get(&COUNT).is_none() && values.named("test.count").is_none());
        assert!(values.set(&COUNT, 1));
        assert!(!values.set(&COUNT, 2));
        assert!(values.set(&USER, "ann".to_owned()));
        assert_eq!(values.get(&COUNT), Some(&1));
        assert_eq!(values.clone().named("test.user").unwrap().to_string(), "ann");
    }
}
