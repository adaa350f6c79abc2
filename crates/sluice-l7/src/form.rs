//! Forms: names and values as the queries of URLs and the bodies of requests carry them.
//!
//! Owns: `application/x-www-form-urlencoded` (WHATWG URL §5), both ways. Refuses to know: what the values mean. Keeps: a
//! value has no character that means something else; a name that occurs twice has no value, since two readers could take
//! different ones.

use std::fmt::Write as _;

/// Why a parameter has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// It occurs more than once.
    Twice,
    /// It is not percent-encoded UTF-8.
    Malformed,
}

/// A form that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormText(String);

impl FormText {
    /// Adds a name and its value.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        let _ = write!(self.0, "{}={}", encode(name.as_bytes()), encode(value.as_bytes()));
        self
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// Encodes a text.
pub fn encode(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                encoded.push(char::from(*byte));
            }
            b' ' => encoded.push('+'),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Decodes a text; `None` if it is malformed, or is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = digit(bytes.next())? * 16 + digit(bytes.next())?;
                u8::try_from(pair).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(decoded).ok()
}

/// The value of the parameter `name`, decoded; `None` if there is none.
///
/// # Errors
/// It occurs twice, or cannot be decoded.
pub fn parameter(form: &str, name: &str) -> Result<Option<String>, FormError> {
    let mut found = None;
    for pair in form.split('&') {
        let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(own).as_deref() != Some(name) {
            continue;
        }
        let value = decode(value).ok_or(FormError::Malformed)?;
        if found.replace(value).is_some() {
            return Err(FormError::Twice);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_form_has_no_character_that_means_something_else() {
        assert_eq!(encode("a b&c=d+e%ä/*-._".as_bytes()), "a+b%26c%3Dd%2Be%25%C3%A4%2F*-._");
        let form = FormText::default().with("a b", "1&2").with("c", "");
        assert_eq!(form.into_text(), "a+b=1%262&c=");
    }

    #[test]
    fn a_parameter_has_one_value() {
        for (form, value) in [
            ("a=1", Ok(Some("1"))),
            ("b=2&a=%2f+x&c", Ok(Some("/ x"))),
            ("%61=1", Ok(Some("1"))),
            ("a", Ok(Some(""))),
            ("b=1", Ok(None)),
            ("", Ok(None)),
            ("a=1&a=1", Err(FormError::Twice)),
            ("a=1&%61=2", Err(FormError::Twice)),
            ("a=%", Err(FormError::Malformed)),
            ("a=%4", Err(FormError::Malformed)),
            ("a=%zz", Err(FormError::Malformed)),
            ("a=%ff", Err(FormError::Malformed)),
        ] {
            assert_eq!(parameter(form, "a"), value.map(|own: Option<&str>| own.map(Into::into)));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(text: String) {
            prop_assert_eq!(decode(&encode(text.as_bytes())), Some(text));
        }

        #[test]
        fn any_text_can_be_asked(form: String, name: String) {
            let _ = parameter(&form, &name);
        }
    }
}
