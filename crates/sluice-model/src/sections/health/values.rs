//! Values that only health checks and outlier ejection have.
//!
//! Owns: how they are written. Refuses to know: what they are for. Keeps: what is shown reads back.

use sluice_codec::names::is_field_value;
use sluice_core::settings::{Plain, bind_scalar, bind_verbatim};
use sluice_core::{Diags, Node, Path, Setting, Shape, Value, section};
use sluice_l7::words::bind_by_name;

/// Bytes of a check: text, or hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

section! {
    /// Bytes.
    pub struct HexBytes {
        /// The bytes as hexadecimal digits; blanks between them are ignored.
        pub hex: HexDigits,
    }
}

/// Bytes as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HexDigits(pub Vec<u8>);

impl Setting for HexDigits {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "hexadecimal digits", |text| {
            let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
            data_encoding::HEXLOWER_PERMISSIVE
                .decode(&digits)
                .map(Self)
                .map_err(|_| format!("expected an even number of hexadecimal digits, not `{text}`"))
        })
    }

    fn shape() -> Shape {
        Shape::Text { what: "hexadecimal digits", example: "0d0a" }
    }

    fn show(&self) -> Plain {
        Plain::Text(data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl Setting for Payload {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let bytes = match node.value {
            Value::Map(_) => HexBytes::bind(node, at, diags)?.hex.0,
            _ => bind_verbatim(node, at, diags, "text or { hex: DIGITS }", |text| {
                Ok(text.as_bytes().to_vec())
            })?,
        };
        if bytes.is_empty() {
            diags
                .error("bad-value", node.span, at, "there is nothing to send or to expect")
                .help("leave the field out");
            return None;
        }
        Some(Self(bytes))
    }

    fn shape() -> Shape {
        Shape::Either(vec![String::shape(), HexBytes::shape()])
    }

    fn show(&self) -> Plain {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Plain::Text(text.to_owned()),
            Err(_) => HexBytes { hex: HexDigits(self.0.clone()) }.show(),
        }
    }
}

/// A name to query: labels of at most 63 bytes, of the characters that host names and service names have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsName(pub String);

impl Setting for DnsName {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "a domain name", |text| {
            let name = text.strip_suffix('.').unwrap_or(text);
            let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            let fits = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(usual);
            if text == "." || (name.len() <= 253 && name.split('.').all(fits)) {
                Ok(Self(text.to_owned()))
            } else {
                Err(format!("expected a domain name such as example.org, not `{text}`"))
            }
        })
    }

    fn shape() -> Shape {
        Shape::Text { what: "a domain name", example: "example.org" }
    }

    fn show(&self) -> Plain {
        Plain::Text(self.0.clone())
    }
}

/// Headers that are sent: their values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderTexts(pub Vec<(String, String)>);

impl Setting for HeaderTexts {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let value = |node: &Node, at: &Path<'_>, diags: &mut Diags| {
            bind_scalar(node, at, diags, "the value of a header", |text| {
                if is_field_value(text.as_bytes()) {
                    Ok(text.to_owned())
                } else {
                    Err("the value of a header has no control characters".into())
                }
            })
        };
        bind_by_name(node, at, diags, value).map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Text { what: "a value", example: "gold" }))
    }

    fn show(&self) -> Plain {
        let shown = self.0.iter().map(|(name, value)| (name.clone(), Plain::Text(value.clone())));
        Plain::Map(shown.collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Span;

    use super::*;

    /// The value that is written as `text`, as it is shown.
    fn shown<T: Setting>(text: &str) -> Option<Plain> {
        let scalar = Value::Scalar { text: text.into(), quoted: false };
        let node = Node { value: scalar, span: Span::default() };
        T::bind(&node, &Path::ROOT, &mut Diags::new()).map(|value| value.show())
    }

    #[test]
    fn domain_names() {
        let long = "a.".repeat(126) + "a";
        for text in ["example.org", "example.org.", ".", "_sip._tcp.a-b.test", &long] {
            assert_eq!(shown::<DnsName>(text), Some(Plain::Text(text.into())), "{text}");
        }
        let (label, name) = ("a".repeat(64), "a.".repeat(127) + "a");
        for text in ["", "a..b", ".a", "a b", "ä.test", "*.test", &label, &name] {
            assert_eq!(shown::<DnsName>(text), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(shown::<HexDigits>("0d 0A"), Some(Plain::Text("0d0a".into())));
        for text in ["0d0", "0x0d", "zz"] {
            assert_eq!(shown::<HexDigits>(text), None, "{text}");
        }
    }
}
