//! PEM texts, and the names in certificates.
//!
//! Owns: how each is written in the configuration. Refuses to know: what it is used for. Keeps: an inline text is never
//! shown, since it may be a private key.

use std::path::PathBuf;

use sluice_core::settings::{FieldShape, Path, Plain, Setting, Shape, wrong_kind};
use sluice_core::{Diags, Node, SecretText, Value, text_setting};
use sluice_tls::CertName;

/// A PEM text: the path of a file, or `{ inline: TEXT }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// The path of a file.
    File(PathBuf),
    /// The text itself.
    Inline(SecretText),
}

impl Pem {
    const KEY: &str = "inline";
}

impl Setting for Pem {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return PathBuf::bind(node, at, diags).map(Self::File);
        };
        match entries.as_slice() {
            [entry] if &*entry.key == Self::KEY => {
                SecretText::bind(&entry.node, &at.key(Self::KEY), diags).map(Self::Inline)
            }
            _ => {
                wrong_kind(node, at, diags, "a path");
                diags.last_mut()?.help("write the path of a PEM file, or `{ inline: TEXT }`");
                None
            }
        }
    }

    fn shape() -> Shape {
        let inline = FieldShape {
            key: Self::KEY,
            doc: "The text itself.".into(),
            required: true,
            default: None,
            shape: Shape::Secret,
        };
        Shape::Either(vec![PathBuf::shape(), Shape::Tagged(vec![inline])])
    }

    fn show(&self) -> Plain {
        match self {
            Self::File(path) => path.show(),
            Self::Inline(text) => Plain::Map(vec![(Self::KEY.into(), text.show())]),
        }
    }
}

/// A name that a certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameOfCert(pub CertName);

text_setting! {
    NameOfCert, "dns:NAME, uri:URI or ip:ADDRESS", "uri:spiffe://mesh/*", |text| CertName::parse(text).map(NameOfCert), |v| v.0.to_string();
}
