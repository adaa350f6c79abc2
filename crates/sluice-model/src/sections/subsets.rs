//! The sections about the metadata of endpoints, and the subsets that it makes.
//!
//! Owns: how metadata, subsets, and what is asked of an endpoint are written. Refuses to know: which cluster a rule leads
//! to. Keeps: keys and values are text of bounded length, whatever they look like in YAML.

use std::collections::HashSet;
use std::sync::Arc;

use sluice_core::settings::{Plain, Short, ShortForm, bind_entries, bind_scalar, entries_of};
use sluice_core::{Diags, Node, Path, Setting, Shape, Span, Spanned, Value, choice, section};
use sluice_upstream::metadata::{
    EndpointMetadata, METADATA_BYTES_MAX, METADATA_KEYS_MAX, METADATA_VALUES_MAX, MetadataValues,
    SubsetKey,
};

section! {
    /// Subsets of the endpoints, by their `metadata`: a rule or relay asks for one with `endpoint_metadata`. The short
    /// form is `selectors`.
    pub struct Subsets {
        /// The keys that make subsets, one for each combination of their values: a key, or a list of keys.
        pub selectors: Vec<Spanned<Short<SubsetSelector>>>,
        /// Where a connection or request goes that asks for no metadata, or for a subset without endpoints.
        pub fallback: Fallback = "none",
        /// The metadata of the default subset.
        pub default_subset: Option<Spanned<SubsetValues>>,
    }
}

impl ShortForm for Subsets {
    const KEY: &'static str = "selectors";
}

section! {
    /// Keys that make subsets. The short form is the keys: one or a list.
    pub struct SubsetSelector {
        /// The keys.
        pub keys: Vec<MetadataKey>,
        /// Where a connection or request goes that asks for a subset of these keys without endpoints; if omitted, as
        /// `fallback` of the subsets says.
        pub fallback: Option<FallbackOfKeys>,
    }
}

impl ShortForm for SubsetSelector {
    const KEY: &'static str = "keys";
}

choice! {
    /// Where a connection or request goes instead of a subset.
    pub enum Fallback {
        /// Nowhere: it is refused (`upstream.no_subset`).
        Refuse = "none",
        /// To any endpoint.
        AnyEndpoint = "any_endpoint",
        /// To an endpoint of the default subset.
        DefaultSubset = "default_subset",
    }
}

/// Where a connection or request goes instead of a subset of certain keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FallbackOfKeys {
    /// As without them.
    Usual(Fallback),
    /// To the subset by some of the keys.
    KeysSubset(Vec<MetadataKey>),
}

section! {
    /// To the subset by some of the keys.
    pub struct KeysSubset {
        /// The keys that still count; another selector must have them.
        pub keys_subset: Vec<MetadataKey>,
    }
}

impl Setting for FallbackOfKeys {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            return KeysSubset::bind(node, at, diags).map(|of| Self::KeysSubset(of.keys_subset));
        }
        Fallback::bind(node, at, diags).map(Self::Usual)
    }

    fn shape() -> Shape {
        Shape::Either(vec![Fallback::shape(), KeysSubset::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Usual(usual) => usual.show(),
            Self::KeysSubset(keys) => KeysSubset { keys_subset: keys.clone() }.show(),
        }
    }
}

/// A key of metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataKey(pub Arc<str>);

sluice_core::text_setting! {
    MetadataKey, "a key", "version", |text| check_key(text).map(|key| Self(key.into())), |key| key.0.to_string();
}

fn check_key(text: &str) -> Result<&str, String> {
    match text.len() {
        0 => Err("a key of metadata must not be empty".into()),
        1..=METADATA_BYTES_MAX => Ok(text),
        _ => Err(format!("a key of metadata has at most {METADATA_BYTES_MAX} bytes")),
    }
}

pub(super) fn bind_value(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Arc<str>> {
    bind_scalar(node, at, diags, "a value", |text| {
        let fits = text.len() <= METADATA_BYTES_MAX;
        let message = || format!("a value of metadata has at most {METADATA_BYTES_MAX} bytes");
        fits.then(|| text.into()).ok_or_else(message)
    })
}

/// Binds each entry of a map of metadata.
pub(super) fn bind_pairs<T>(
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
    mut bind: impl FnMut(&Node, &Path<'_>, &mut Diags) -> Option<T>,
) -> Option<Vec<(Arc<str>, T)>> {
    let entries = entries_of(node, at, diags, "a map of keys and values")?;
    if entries.len() > METADATA_KEYS_MAX {
        let message = format!("metadata has at most {METADATA_KEYS_MAX} keys");
        diags.error("bad-value", node.span, at, message);
        return None;
    }
    bind_entries(entries, at, diags, |entry, here, diags| {
        let key: Option<Arc<str>> = key_of(&entry.key, entry.key_span, here, diags);
        key.zip(bind(&entry.node, here, diags))
    })
}

fn key_of(key: &str, span: Span, at: &Path<'_>, diags: &mut Diags) -> Option<Arc<str>> {
    match check_key(key) {
        Ok(key) => Some(key.into()),
        Err(message) => {
            diags.error("bad-value", span, at, message);
            None
        }
    }
}

/// The metadata of an endpoint, as written: `{ version: v2, stage: [prod, canary] }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataEntries(pub EndpointMetadata);

impl Setting for MetadataEntries {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let pairs = bind_pairs(node, at, diags, |node, here, diags| {
            let Value::List(items) = &node.value else {
                return bind_value(node, here, diags).map(|value| vec![value].into());
            };
            if !(1..=METADATA_VALUES_MAX).contains(&items.len()) {
                let message = format!("a key has from 1 to {METADATA_VALUES_MAX} values");
                diags.error("bad-value", node.span, here, message);
                return None;
            }
            let values = items.iter().enumerate();
            let values = values.map(|(place, item)| bind_value(item, &here.index(place), diags));
            values.collect::<Option<Box<[Arc<str>]>>>()
        });
        Some(Self(EndpointMetadata::new(pairs?)))
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "a value", example: "v2" };
        Shape::Named(Box::new(Shape::OneOrMany(Box::new(text))))
    }

    fn show(&self) -> Plain {
        let text = |value: &Arc<str>| Plain::Text(value.to_string());
        let entry = |(key, values): &MetadataValues| match &**values {
            [one] => (key.to_string(), text(one)),
            many => (key.to_string(), Plain::List(many.iter().map(text).collect())),
        };
        Plain::Map(self.0.iter().map(entry).collect())
    }
}

/// A value for each key: `{ version: v2 }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetValues(pub SubsetKey);

impl Setting for SubsetValues {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let pairs = bind_pairs(node, at, diags, bind_value)?;
        not_empty(pairs.is_empty(), node, at, diags)?;
        Some(Self(SubsetKey::new(pairs)))
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Text { what: "a value", example: "v2" }))
    }

    fn show(&self) -> Plain {
        show_values(&self.0)
    }
}

pub(super) fn show_values(key: &SubsetKey) -> Plain {
    let entry =
        |(key, value): &(Arc<str>, Arc<str>)| (key.to_string(), Plain::Text(value.to_string()));
    Plain::Map(key.iter().map(entry).collect())
}

/// Refuses a map without any key, which would do nothing.
pub(super) fn not_empty(
    is_empty: bool,
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<()> {
    if is_empty {
        diags
            .error("missing-field", node.span, at, "at least one key and its value are needed")
            .help("write for example `{ version: v2 }`, or remove it");
    }
    (!is_empty).then_some(())
}

impl SubsetSelector {
    /// The keys, in order and each once.
    pub fn sorted(&self) -> Vec<Arc<str>> {
        in_order(&self.keys)
    }

    /// Whether a key is written twice.
    pub fn has_duplicates(&self) -> bool {
        self.keys.iter().map(|key| &key.0).collect::<HashSet<_>>().len() < self.keys.len()
    }
}

/// Keys in order, each once.
pub fn in_order(keys: &[MetadataKey]) -> Vec<Arc<str>> {
    let mut keys: Vec<Arc<str>> = keys.iter().map(|key| Arc::clone(&key.0)).collect();
    keys.sort();
    keys.dedup();
    keys
}
