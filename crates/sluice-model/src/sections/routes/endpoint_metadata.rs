//! The metadata that a rule asks of endpoints.
//!
//! Owns: values that are fixed, and those that come from requests. Refuses to know: which clusters have them. Keeps: a key
//! has one source.

use std::sync::Arc;

use sluice_core::settings::{FieldShape, Plain};
use sluice_core::{Diags, Node, Path, Setting, Shape, Value, section};
use sluice_l7::routes::EndpointMatch;
use sluice_upstream::SubsetKey;

use super::HeaderName;
use crate::sections::subsets::{bind_pairs, bind_value, not_empty, show_values};

/// A value for each key, fixed or from a request header: `{ version: v2, tenant: { header: x-tenant } }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSources(pub EndpointMatch);

section! {
    /// The value of a request header.
    pub struct ValueFromHeader {
        /// The header; if a request lacks it, the key is left out.
        pub header: HeaderName,
    }
}

/// A value of metadata that is asked for.
enum SubsetSource {
    Fixed(Arc<str>),
    Header(String),
}

impl Setting for SubsetSources {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let pairs = bind_pairs(node, at, diags, |node, here, diags| {
            if matches!(node.value, Value::Map(_)) {
                let from = ValueFromHeader::bind(node, here, diags)?;
                return Some(SubsetSource::Header(from.header.0));
            }
            bind_value(node, here, diags).map(SubsetSource::Fixed)
        })?;
        not_empty(pairs.is_empty(), node, at, diags)?;
        let (mut fixed, mut headers) = (Vec::new(), Vec::new());
        for (key, source) in pairs {
            match source {
                SubsetSource::Fixed(value) => fixed.push((key, value)),
                SubsetSource::Header(header) => headers.push((key, header)),
            }
        }
        Some(Self(EndpointMatch { fixed: Arc::new(SubsetKey::new(fixed)), headers }))
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "a value", example: "v2" };
        let header = FieldShape {
            key: "header",
            doc: String::new(),
            required: false,
            default: None,
            shape: HeaderName::shape(),
        };
        Shape::Named(Box::new(Shape::Either(vec![text, Shape::Tagged(vec![header])])))
    }

    fn show(&self) -> Plain {
        let Plain::Map(mut all) = show_values(&self.0.fixed) else {
            unreachable!("values are shown as a map")
        };
        let header = |(key, name): &(Arc<str>, String)| {
            let from = ValueFromHeader { header: HeaderName(name.clone()) };
            (key.to_string(), from.show())
        };
        all.extend(self.0.headers.iter().map(header));
        Plain::Map(all)
    }
}
