//! The metadata that a rule asks of endpoints.
//!
//! Owns: values that are fixed, and those that come from requests. Refuses to know: which clusters have them. Keeps: a key
//! has one source.

use std::sync::Arc;

use sluice_core::settings::{FieldShape, Plain};
use sluice_core::values::check_name;
use sluice_core::{Diags, Node, Path, Setting, Shape, Spanned, Value, section};
use sluice_l7::routes::EndpointMatch;
use sluice_upstream::SubsetKey;

use super::HeaderName;
use crate::sections::subsets::{bind_pairs, bind_value, not_empty, show_values};

/// A value for each key, fixed, from a request header, or one that filters shared: `{ version: v2, tenant: { header:
/// x-tenant }, tier: { value: set.tier } }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSources(pub EndpointMatch);

section! {
    /// The value of a request header.
    pub struct ValueFromHeader {
        /// The header; if a request lacks it, the key is left out.
        pub header: HeaderName,
    }
}

section! {
    /// A value that filters shared.
    pub struct ValueOfFilters {
        /// Its name, such as `set.version`; if a request lacks it, the key is left out.
        pub value: Spanned<String>,
    }
}

/// A value of metadata that is asked for.
enum SubsetSource {
    Fixed(Arc<str>),
    Header(String),
    Shared(String),
}

impl Setting for SubsetSources {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let pairs = bind_pairs(node, at, diags, |node, here, diags| {
            if node.get("value").is_some() {
                let from = ValueOfFilters::bind(node, here, diags)?.value;
                if let Err(message) = check_name(&from.value) {
                    diags.error("unknown-name", from.span, here.key("value"), message);
                    return None;
                }
                return Some(SubsetSource::Shared(from.value));
            }
            if matches!(node.value, Value::Map(_)) {
                let from = ValueFromHeader::bind(node, here, diags)?;
                return Some(SubsetSource::Header(from.header.0));
            }
            bind_value(node, here, diags).map(SubsetSource::Fixed)
        })?;
        not_empty(pairs.is_empty(), node, at, diags)?;
        let (mut fixed, mut headers, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (key, source) in pairs {
            match source {
                SubsetSource::Fixed(value) => fixed.push((key, value)),
                SubsetSource::Header(header) => headers.push((key, header)),
                SubsetSource::Shared(name) => values.push((key, name)),
            }
        }
        Some(Self(EndpointMatch { fixed: Arc::new(SubsetKey::new(fixed)), headers, values }))
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "a value", example: "v2" };
        let source = |key, shape| FieldShape {
            key,
            doc: String::new(),
            required: false,
            default: None,
            shape,
        };
        let sources = vec![source("header", HeaderName::shape()), source("value", String::shape())];
        Shape::Named(Box::new(Shape::Either(vec![text, Shape::Tagged(sources)])))
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
        let shared = |(key, name): &(Arc<str>, String)| {
            let from = Plain::Map(vec![("value".into(), Plain::Text(name.clone()))]);
            (key.to_string(), from)
        };
        all.extend(self.0.values.iter().map(shared));
        Plain::Map(all)
    }
}
