//! Attributes of requests that the service is told, by Envoy's names.
//!
//! Owns: which there are, and their form in messages. Refuses to know: their values, which are those of expressions.
//! Keeps: an attribute that is not known is refused when the configuration is read.

use std::collections::BTreeMap;

use sluice_core::settings::{Plain, bind_scalar};
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_expr::{AttributeSource as _, AttributeUse, AttributeValue};

use crate::expression::{RequestAttributes, known_attribute};
use crate::filters::ext_authz::messages::{StructMessage, ValueKind, ValueMessage};
use crate::filters::rbac::request::RequestSubject;

/// Under which name the attributes are sent.
pub(super) const NAMESPACE: &str = "envoy.filters.http.ext_proc";

/// An attribute, such as `request.path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeName {
    written: String,
    of: AttributeUse,
}

impl Setting for AttributeName {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "an attribute", |text| match known_attribute(text) {
            Some(of) => Ok(Self { written: text.to_owned(), of }),
            None => Err(format!("there is no attribute `{text}`")),
        })
    }

    fn shape() -> Shape {
        Shape::Text { what: "an attribute", example: "request.path" }
    }

    fn show(&self) -> Plain {
        Plain::Text(self.written.clone())
    }
}

/// The values of these attributes; those that a request does not have are left out.
pub(super) fn values(names: &[AttributeName], of: &RequestSubject<'_>) -> StructMessage {
    let (path, values, conn) = (of.head.path_only(), Some(of.values), Some(&of.conn));
    let request = RequestAttributes { head: of.head, path, values, conn, response: None };
    let fields = names.iter().filter_map(|name| {
        let value = request.attribute(&name.of)?;
        Some((name.written.clone(), message(value)))
    });
    StructMessage { fields: fields.collect() }
}

fn message(value: AttributeValue) -> ValueMessage {
    let kind = match value {
        AttributeValue::Bool(flag) => ValueKind::Bool(flag),
        #[allow(clippy::cast_precision_loss, reason = "a `Value` has no other numbers")]
        AttributeValue::Number(number) => ValueKind::Number(number as f64),
        AttributeValue::Text(text) => ValueKind::Text(text),
        AttributeValue::Map(texts) => {
            let text = |text| ValueMessage { kind: Some(ValueKind::Text(text)) };
            let fields: BTreeMap<_, _> =
                texts.into_iter().map(|(name, value)| (name, text(value))).collect();
            ValueKind::Struct(StructMessage { fields })
        }
    };
    ValueMessage { kind: Some(kind) }
}
