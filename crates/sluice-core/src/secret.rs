//! Secrets: texts that are used and never shown.
//!
//! Owns: the text of a secret, and how settings give or name one. Refuses to know: what it is used for, and which
//! secrets there are. Keeps: neither `Debug` nor `show` prints a byte of it, and no message of a finding does.

use std::fmt;
use std::sync::Arc;

use crate::Name;
use crate::diagnostics::Diags;
use crate::settings::{
    FieldShape, Path, Plain, Setting, Shape, bind_scalar, suggest_word, wrong_kind,
};
use crate::tree::{MapEntry, Node, Spanned, Value};

/// What is shown in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// The text of a secret, at least one byte. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretText(Arc<[u8]>);

impl SecretText {
    /// The secret with this text; `None` if it is empty, which would be no secret.
    pub fn new(text: &[u8]) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The text.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl Setting for SecretText {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let parse = |text: &str| {
            Self::new(text.as_bytes()).ok_or_else(|| "a secret must not be empty".to_owned())
        };
        let bound = bind_scalar(node, at, diags, "a secret", parse);
        if bound.is_none()
            && matches!(node.value, Value::Map(_) | Value::List(_))
            && let Some(finding) = diags.last_mut()
        {
            finding.help("write its text, `{ file: PATH }` or `{ env: NAME }`");
        }
        bound
    }

    fn shape() -> Shape {
        Shape::Secret
    }

    fn show(&self) -> Plain {
        Plain::Text(REDACTED.into())
    }
}

/// A secret in the settings of a filter: its text, directly or by `{ file: PATH }` or `{ env: NAME }`, or the name of a
/// secret of the configuration, `{ secret: NAME }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Its text.
    Text(SecretText),
    /// The name of a secret.
    Named(Spanned<Name>),
}

/// What else to write.
const FORMS: &str =
    "write `{ secret: NAME }` for one under `secrets`, `{ file: PATH }` or `{ env: NAME }`";

impl SecretSource {
    /// The key before the name of a secret.
    pub const KEY: &str = "secret";
}

impl Setting for SecretSource {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return SecretText::bind(node, at, diags).map(Self::Text);
        };
        match entries.as_slice() {
            [MapEntry { key, node, .. }] if &**key == Self::KEY => {
                Spanned::bind(node, &at.key(Self::KEY), diags).map(Self::Named)
            }
            [MapEntry { key, key_span, .. }] => {
                let help = suggest_word(key, &[Self::KEY, "file", "env"]);
                diags
                    .error(
                        "unknown-field",
                        *key_span,
                        at.key(key),
                        format!("unknown field `{key}`"),
                    )
                    .help(help.unwrap_or_else(|| FORMS.into()));
                None
            }
            _ => {
                wrong_kind(node, at, diags, "a secret");
                diags.last_mut()?.help(FORMS);
                None
            }
        }
    }

    fn shape() -> Shape {
        let named = FieldShape {
            key: Self::KEY,
            doc: "The name of a secret under `secrets`.".into(),
            required: true,
            default: None,
            shape: Name::shape(),
        };
        Shape::Either(vec![Shape::Secret, Shape::Tagged(vec![named])])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Text(text) => text.show(),
            Self::Named(name) => Plain::Map(vec![(Self::KEY.into(), name.show())]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Span;

    fn text(text: &str) -> Node {
        Node { value: Value::Scalar { text: text.into(), quoted: false }, span: Span::default() }
    }

    fn map(entries: &[(&str, &str)]) -> Node {
        let entry = |(key, value): &(&str, &str)| MapEntry {
            key: (*key).into(),
            key_span: Span::default(),
            node: text(value),
        };
        Node { value: Value::Map(entries.iter().map(entry).collect()), span: Span::default() }
    }

    fn bind(node: &Node) -> Result<SecretSource, String> {
        let mut diags = Diags::new();
        let bound = SecretSource::bind(node, &Path::ROOT, &mut diags);
        let said = |diags: Diags| {
            let found = diags.into_sorted();
            format!("{}; {}", found[0].message, found[0].help.as_deref().unwrap_or_default())
        };
        bound.ok_or_else(|| said(diags))
    }

    #[test]
    fn a_secret_is_a_text_or_the_name_of_one() {
        let SecretSource::Text(own) = bind(&text("s3cret")).unwrap() else { panic!("a text") };
        assert_eq!(own.bytes(), b"s3cret");
        let named = bind(&map(&[("secret", "keys")])).unwrap();
        assert!(matches!(&named, SecretSource::Named(name) if &*name.value == "keys"));
        for (wrong, part) in [
            (map(&[("secrte", "keys")]), "did you mean `secret`?"),
            (map(&[("vault", "keys")]), "write `{ secret: NAME }`"),
            (map(&[("secret", "a"), ("file", "b")]), "expected a secret, found a map"),
            (map(&[]), "expected a secret"),
            (text(""), "must not be empty"),
        ] {
            let error = bind(&wrong).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = bind(&text("s3cret")).unwrap();
        assert!(!format!("{secret:?}").contains("s3cret"));
        assert_eq!(secret.show(), Plain::Text(REDACTED.into()));
    }
}
