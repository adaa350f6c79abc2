//! JSON that someone else wrote: parsed whole, without ambiguity.
//!
//! Owns: the tree, and the look-up of a member by its path. Refuses to know: what is in it. Keeps: an object with two
//! members of one name is refused at any depth, since two readers could disagree about it (RFC 8259 §4); nesting is
//! bounded.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use sluice_core::values::{SharedValue, ValueParts};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Whole(i128),
    /// Any other number.
    Number(f64),
    /// A string.
    Text(Box<str>),
    /// An array.
    List(Box<[Self]>),
    /// An object, in the order in which it was written.
    Object(Box<[(Box<str>, Self)]>),
}

impl Json {
    /// Parses a text that is one value and nothing else.
    ///
    /// # Errors
    /// What is wrong, without any of the content: `not JSON at line 1, column 3`, `a name occurs twice`.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| {
            if error.is_data() {
                return "a name occurs twice in an object".into();
            }
            format!("it is not JSON (line {}, column {})", error.line(), error.column())
        })
    }

    /// The member of an object with that name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(own, _)| &**own == name).map(|(_, value)| value)
    }

    /// The member at a path of names with dots between them. A name may contain dots itself, as
    /// `https://example.com/roles` does; the longest name that leads to something counts.
    pub fn at(&self, path: &str) -> Option<&Self> {
        if let Some(value) = self.get(path) {
            return Some(value);
        }
        path.rmatch_indices('.').find_map(|(dot, _)| self.get(&path[..dot])?.at(&path[dot + 1..]))
    }

    /// The text of a string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members of an array.
    pub fn items(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The members of an object.
    pub fn members(&self) -> Option<&[(Box<str>, Self)]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// A number, rounded to one of 64 bits.
    pub fn number(&self) -> Option<f64> {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "it is rounded")]
            Self::Whole(number) => Some(*number as f64),
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Whole(_) | Self::Number(_) => 0,
            Self::Text(text) => text.len(),
            Self::List(items) => {
                items.iter().map(|item| size_of::<Self>() + item.heap_bytes()).sum()
            }
            Self::Object(members) => {
                let of = |(name, value): &(Box<str>, Self)| {
                    size_of::<(Box<str>, Self)>() + name.len() + value.heap_bytes()
                };
                members.iter().map(of).sum()
            }
        }
    }

    /// Writes it as JSON.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |f: &mut fmt::Formatter<'_>, text: &str| {
            f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
        };
        match self {
            Self::Text(own) => text(f, own),
            Self::List(items) => {
                f.write_str("[")?;
                for (place, item) in items.iter().enumerate() {
                    f.write_str(if place == 0 { "" } else { "," })?;
                    item.write(f)?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (place, (name, value)) in members.iter().enumerate() {
                    f.write_str(if place == 0 { "" } else { "," })?;
                    text(f, name)?;
                    f.write_str(":")?;
                    value.write(f)?;
                }
                f.write_str("}")
            }
            scalar => write!(f, "{scalar}"),
        }
    }
}

/// A string as its text; anything else as JSON.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::List(_) | Self::Object(_) => self.write(f),
        }
    }
}

impl ValueParts for Json {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        self.at(name).map(|value| value as _)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Whole(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Whole(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Json::List(all.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut all: Vec<(Box<str>, Json)> = Vec::new();
        while let Some(name) = members.next_key::<Box<str>>()? {
            all.push((name, members.next_value()?));
        }
        let mut names: Vec<&str> = all.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) {
            return Err(de::Error::custom("twice"));
        }
        Ok(Json::Object(all.into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_value_is_printed_as_text_or_as_json() {
        for (text, printed) in [
            ("\"a\\\"b\"", "a\"b"),
            ("[\"a\\\"b\", 1, null]", "[\"a\\\"b\",1,null]"),
            ("{\"b\": {\"c\": [true]}, \"a\": -7}", "{\"b\":{\"c\":[true]},\"a\":-7}"),
            ("18446744073709551615", "18446744073709551615"),
            ("1.5", "1.5"),
            ("1e3", "1000"),
            (" [] ", "[]"),
        ] {
            assert_eq!(json(text).to_string(), printed);
        }
    }

    #[test]
    fn members_are_found_by_path_and_names_may_contain_dots() {
        let own =
            json(r#"{"a":{"b":{"c":1},"b.c":2},"https://x.test/r":["y"],"a.b":{"d":3},"":4}"#);
        for (path, found) in [
            ("a.b.c", Some("2")),
            ("a.b.d", Some("3")),
            ("https://x.test/r", Some("[\"y\"]")),
            ("a.b", Some("{\"d\":3}")),
            ("", Some("4")),
            ("a.c", None),
            ("a.", None),
            (".", None),
            ("b", None),
        ] {
            assert_eq!(own.at(path).map(ToString::to_string).as_deref(), found, "{path}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let twice = "a name occurs twice in an object";
        for (text, problem) in [
            (r#"{"a":1,"a":1}"#, twice),
            (r#"{"a":1,"\u0061":2}"#, twice),
            (r#"[{"x":{"a":1,"b":2,"a":3}}]"#, twice),
            ("{}x", "it is not JSON (line 1, column 3)"),
            ("{'a':1}", "it is not JSON (line 1, column 2)"),
            ("\"\\ud800\"", "it is not JSON (line 1, column 8)"),
            ("NaN", "it is not JSON (line 1, column 1)"),
            ("1e999", "it is not JSON (line 1, column 5)"),
            ("", "it is not JSON (line 1, column 0)"),
        ] {
            assert_eq!(Json::parse(text.as_bytes()).unwrap_err(), problem, "{text}");
        }
        assert!(Json::parse(b"\"\xff\"").is_err() && Json::parse(b"\xef\xbb\xbf{}").is_err());
        assert!(Json::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn cut_anywhere_it_is_refused() {
        let whole = r#"{"a":[1,-2.5e3,true,null,"\u00e9"],"b":{"c":"d"}}"#;
        for end in 0..whole.len() {
            assert!(Json::parse(&whole.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
