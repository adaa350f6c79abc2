//! What the first bytes of a stream reveal.
//!
//! Owns: the protocol, the transport, and typed facts by key. Refuses to know: any protocol; each inspector declares the
//! facts that it finds beside itself. Keeps: a connection without further facts allocates nothing for them; a key reads
//! only what was written under it, with the type that it was declared with.

use std::fmt;
use std::marker::PhantomData;

/// The protocol of a stream, by the word used in configuration, logs and metrics. Inspectors declare theirs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(&'static str);

impl Protocol {
    /// The client sent nothing until the deadline: it waits for the server to speak first.
    pub const SILENT: Self = Self("silent");

    /// Bytes arrived, but no inspector recognised them.
    pub const UNKNOWN: Self = Self("unknown");

    /// Declares a protocol.
    pub const fn new(word: &'static str) -> Self {
        Self(word)
    }

    /// The word used in configuration, logs and metrics.
    pub const fn word(self) -> &'static str {
        self.0
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The transport of a connection, as a chain matches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportKind {
    /// Plaintext.
    #[default]
    Plain,
    /// TLS, either from the first byte or after a STARTTLS.
    Tls,
    /// QUIC, which includes TLS.
    Quic,
}

impl TransportKind {
    /// The word used in configuration and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }
}

/// What the first bytes of a stream reveal.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The protocol of the stream.
    pub protocol: Option<Protocol>,
    /// The transport of the stream.
    pub transport: TransportKind,
    /// Few: a search through them is faster than a hash.
    found: Vec<(&'static FactDef, FactValue)>,
}

/// The declaration of a fact. Two facts are the same if their declarations are the same place in memory.
#[derive(Debug)]
pub struct FactDef {
    /// The name, of the form `protocol.what`.
    pub name: &'static str,
}

/// A fact that may be found, and its type. A `static` beside the inspector that finds it.
#[derive(Debug)]
pub struct FactKey<T> {
    def: FactDef,
    of: PhantomData<fn() -> T>,
}

impl<T: FactType> FactKey<T> {
    /// Declares a fact.
    pub const fn new(name: &'static str) -> Self {
        Self { def: FactDef { name }, of: PhantomData }
    }

    /// The declaration.
    pub const fn def(&'static self) -> &'static FactDef {
        &self.def
    }
}

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// It is so.
    Flag,
    /// A name.
    Text(Box<str>),
    /// Several byte strings.
    List(ByteList),
}

/// A type that facts may have: `()` for what is so or is not, a text, or a list of byte strings.
pub trait FactType: Sized {
    /// What a reader gets.
    type View: ?Sized;

    /// The value as it is stored.
    fn into_value(self) -> FactValue;

    /// The stored value as a reader gets it.
    fn view(value: &FactValue) -> Option<&Self::View>;
}

impl FactType for () {
    type View = ();

    fn into_value(self) -> FactValue {
        FactValue::Flag
    }

    fn view(value: &FactValue) -> Option<&()> {
        matches!(value, FactValue::Flag).then_some(&())
    }
}

impl FactType for Box<str> {
    type View = str;

    fn into_value(self) -> FactValue {
        FactValue::Text(self)
    }

    fn view(value: &FactValue) -> Option<&str> {
        match value {
            FactValue::Text(text) => Some(text),
            FactValue::Flag | FactValue::List(_) => None,
        }
    }
}

impl FactType for ByteList {
    type View = Self;

    fn into_value(self) -> FactValue {
        FactValue::List(self)
    }

    fn view(value: &FactValue) -> Option<&Self> {
        match value {
            FactValue::List(list) => Some(list),
            FactValue::Flag | FactValue::Text(_) => None,
        }
    }
}

impl Facts {
    /// Facts without anything that has a key.
    pub const fn new(protocol: Option<Protocol>, transport: TransportKind) -> Self {
        Self { protocol, transport, found: Vec::new() }
    }

    /// A plaintext protocol.
    pub const fn of(protocol: Protocol) -> Self {
        Self::new(Some(protocol), TransportKind::Plain)
    }

    /// Adds a fact, or replaces it.
    pub fn set<T: FactType>(&mut self, key: &'static FactKey<T>, value: T) {
        let value = value.into_value();
        match self.found.iter_mut().find(|(def, _)| std::ptr::eq(*def, key.def())) {
            Some((_, found)) => *found = value,
            None => {
                // No room for more: most connections have two facts, and keep them as long as they live.
                self.found.reserve_exact(1);
                self.found.push((key.def(), value));
            }
        }
    }

    /// The same with a fact added or replaced.
    #[must_use]
    pub fn with<T: FactType>(mut self, key: &'static FactKey<T>, value: T) -> Self {
        self.set(key, value);
        self
    }

    /// The value of a fact, if it was found.
    pub fn get<T: FactType>(&self, key: &'static FactKey<T>) -> Option<&T::View> {
        self.value(key.def()).and_then(T::view)
    }

    /// Replaces the facts declared here by those of `other`, or removes them if it has none.
    pub fn take_from(&mut self, other: &Self, facts: &[&'static FactDef]) {
        let among = |def: &FactDef| facts.iter().any(|fact| std::ptr::eq(*fact, def));
        self.found.retain(|(def, _)| !among(def));
        let taken: Vec<_> = other.found.iter().filter(|(def, _)| among(def)).cloned().collect();
        self.found.reserve_exact(taken.len());
        self.found.extend(taken);
    }

    fn value(&self, def: &FactDef) -> Option<&FactValue> {
        self.found.iter().find(|(of, _)| std::ptr::eq(*of, def)).map(|(_, value)| value)
    }
}

/// The order in which facts were found does not matter.
impl PartialEq for Facts {
    fn eq(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.transport == other.transport
            && self.found.len() == other.found.len()
            && self.found.iter().all(|(def, value)| other.value(def) == Some(value))
    }
}

impl Eq for Facts {}

/// Byte strings in one allocation, each of at most 255 bytes; a longer one is left out.
#[derive(Clone, PartialEq, Eq)]
pub struct ByteList(Box<[u8]>);

impl ByteList {
    /// The strings, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first()?;
            let (string, behind) = behind.split_at_checked(usize::from(*length))?;
            rest = behind;
            Some(string)
        })
    }

    /// Whether it has this string.
    pub fn contains(&self, string: &[u8]) -> bool {
        self.iter().any(|one| one == string)
    }
}

impl<'a> FromIterator<&'a [u8]> for ByteList {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(strings: I) -> Self {
        let mut bytes = Vec::new();
        for string in strings {
            if let Ok(length) = u8::try_from(string.len()) {
                bytes.push(length);
                bytes.extend_from_slice(string);
            }
        }
        Self(bytes.into_boxed_slice())
    }
}

impl fmt::Debug for ByteList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::escape_ascii)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NAME: FactKey<Box<str>> = FactKey::new("test.name");
    static OTHER: FactKey<Box<str>> = FactKey::new("test.other");
    static OFFERS: FactKey<ByteList> = FactKey::new("test.offers");
    static ASKED: FactKey<()> = FactKey::new("test.asked");

    fn offers(strings: &[&str]) -> ByteList {
        strings.iter().map(|string| string.as_bytes()).collect()
    }

    #[test]
    fn a_key_reads_what_was_written_under_it_and_nothing_else() {
        let mut facts = Facts::of(Protocol::new("test"));
        assert_eq!(facts.get(&NAME), None);
        facts.set(&NAME, "a".into());
        facts.set(&ASKED, ());
        facts.set(&OFFERS, offers(&["h2", "", "http/1.1"]));
        assert_eq!((facts.get(&NAME), facts.get(&OTHER)), (Some("a"), None));
        assert!(facts.get(&ASKED).is_some());
        let list = facts.get(&OFFERS).unwrap();
        assert!(list.iter().eq([&b"h2"[..], b"", b"http/1.1"]));
        assert!(list.contains(b"http/1.1") && !list.contains(b"http"));
        facts.set(&NAME, "b".into());
        assert_eq!(facts.get(&NAME), Some("b"), "a later value replaces an earlier one");
    }

    #[test]
    fn facts_are_equal_whatever_their_order() {
        let (one, two) = ("a", "b");
        let facts = Facts::default().with(&NAME, one.into()).with(&OTHER, two.into());
        assert_eq!(facts, Facts::default().with(&OTHER, two.into()).with(&NAME, one.into()));
        assert_ne!(facts, Facts::default().with(&NAME, two.into()).with(&OTHER, one.into()));
        assert_ne!(facts, Facts::default().with(&NAME, one.into()));
    }

    #[test]
    fn facts_of_one_kind_are_taken_from_the_outside_of_a_stream() {
        let outside = Facts::default().with(&NAME, "out".into()).with(&OTHER, "out".into());
        let mut inside = Facts::default().with(&NAME, "in".into()).with(&ASKED, ());
        inside.take_from(&outside, &[NAME.def(), ASKED.def()]);
        assert_eq!(inside, Facts::default().with(&NAME, "out".into()));
    }

    #[test]
    fn facts_cost_little() {
        assert!(size_of::<Facts>() <= 48, "{}", size_of::<Facts>());
        assert!(size_of::<(&FactDef, FactValue)>() <= 32);
        assert_eq!(Facts::of(Protocol::UNKNOWN).found.capacity(), 0);
        assert_eq!(Facts::default().with(&NAME, "a".into()).found.capacity(), 1);
    }

    #[test]
    fn a_string_that_is_too_long_is_left_out() {
        let long = "x".repeat(256);
        assert!(offers(&[&long, "h3"]).iter().eq([b"h3"]));
    }
}
