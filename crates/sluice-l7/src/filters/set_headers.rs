//! `set_headers`: removes, sets and adds headers of requests and responses.
//!
//! Keeps: headers that frame or route a message cannot be set: that would allow two readings of it. The settings of a
//! rule add to those of its virtual host, and these to those of the chain.

use std::collections::BTreeMap;

use sluice_codec::Head;
use sluice_codec::names::is_field_value;
use sluice_core::settings::{Plain, Shape, bind_entries, bind_verbatim, entries_of};
use sluice_core::{Diags, Node, Path, Setting};
use smallvec::SmallVec;

use super::{Cx, HeadStep, HttpFilter, OfSettings, ResponseStep};
use crate::record::View;
use crate::template::HttpTemplate;
use crate::words::{EditableHeader, editable_name};

sluice_core::section! {
    /// Removes, sets and adds headers, in this order. Values may contain `%OPERATOR%`s.
    pub struct SetHeaders {
        /// Request headers to set; each replaces all headers with its name.
        pub request: HeaderTemplates,
        /// Response headers to set; each replaces all headers with its name.
        pub response: HeaderTemplates,
        /// Request headers to add to those with the same name.
        pub add_request: HeaderTemplates,
        /// Response headers to add to those with the same name.
        pub add_response: HeaderTemplates,
        /// Request headers to remove.
        pub remove_request: Vec<EditableHeader>,
        /// Response headers to remove.
        pub remove_response: Vec<EditableHeader>,
        /// On a rule or virtual host: whether to replace the settings of the chain and the virtual host instead of
        /// adding to them.
        pub replace: bool = "false",
    }
}

/// Settings that apply in sequence: those of the chain, of the virtual host, of the rule. For the same header, a later
/// layer wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers(Vec<SetHeaders>);

impl Setting for Layers {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        SetHeaders::bind(node, at, diags).map(|only| Self(vec![only]))
    }

    fn shape() -> Shape {
        SetHeaders::shape()
    }

    fn show(&self) -> Plain {
        self.0.last().map_or(Plain::Null, Setting::show)
    }
}

/// Header values by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderTemplates(BTreeMap<String, HttpTemplate>);

impl HeaderTemplates {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and values.
    pub(super) fn into_vec(self) -> Vec<(String, HttpTemplate)> {
        self.0.into_iter().collect()
    }
}

impl Setting for HeaderTemplates {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of headers, such as `x-edge: a`")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            let key = editable_name(&entry.key)
                .map_err(|message| diags.error("bad-value", entry.key_span, here, message))
                .ok();
            let value = bind_verbatim(&entry.node, here, diags, "a value", |text| {
                if !is_field_value(text.as_bytes()) {
                    return Err("a header value must not contain control characters".into());
                }
                HttpTemplate::parse(text)
            });
            key.zip(value)
        })
        .map(Self)
    }

    fn shape() -> Shape {
        let value = Shape::Text { what: "a value", example: "%DOWNSTREAM_REMOTE_ADDRESS%" };
        Shape::Named(Box::new(value))
    }

    fn show(&self) -> Plain {
        let shown = |(name, value): (&String, &HttpTemplate)| {
            (name.clone(), Plain::Text(value.source().to_owned()))
        };
        Plain::Map(self.0.iter().map(shown).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl OfSettings for Layers {
    const NAME: &'static str = "set_headers";
    const HELP: &'static str = "Sets, adds and removes headers of requests and responses.";

    fn on_top_of(&self, under: &Self) -> Option<Self> {
        (!self.says_replace()).then(|| Self([&*under.0, &*self.0].concat()))
    }

    fn says_replace(&self) -> bool {
        self.0.iter().any(|layer| layer.replace)
    }
}

/// Removes control characters that an operator brought in, which could end the header.
pub(super) fn clean(value: String) -> String {
    if is_field_value(value.as_bytes()) {
        value
    } else {
        value.chars().filter(|c| !c.is_control()).collect()
    }
}

/// The changes that one layer makes to a head.
struct Edit<'a> {
    removed: &'a [EditableHeader],
    set: Vec<(&'a str, String)>,
    added: Vec<(&'a str, String)>,
}

impl<'a> Edit<'a> {
    fn new(
        removed: &'a [EditableHeader],
        set: &'a HeaderTemplates,
        added: &'a HeaderTemplates,
        view: &View<'_>,
    ) -> Self {
        let values = |fields: &'a HeaderTemplates| {
            let value =
                |(name, value): (&'a String, &HttpTemplate)| (&**name, clean(value.fill(view)));
            fields.0.iter().map(value).collect()
        };
        Self { removed, set: values(set), added: values(added) }
    }

    fn apply(self, head: &mut Head) {
        for name in self.removed {
            head.remove(name.0.as_bytes());
        }
        for (name, value) in self.set {
            head.set(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in self.added {
            head.append(name.as_bytes(), value.as_bytes());
        }
    }
}

/// All values are rendered from the message as it arrived, before any layer changes it.
impl HttpFilter for Layers {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let view = cx.view(head);
        let edits = self
            .0
            .iter()
            .map(|of| Edit::new(&of.remove_request, &of.request, &of.add_request, &view));
        let edits: SmallVec<[Edit<'_>; 1]> = edits.collect();
        edits.into_iter().for_each(|edit| edit.apply(head));
        HeadStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let none = Head::default();
        let view = View { response: Some(head), ..cx.view(cx.request.unwrap_or(&none)) };
        let edits = self
            .0
            .iter()
            .map(|of| Edit::new(&of.remove_response, &of.response, &of.add_response, &view));
        let edits: SmallVec<[Edit<'_>; 1]> = edits.collect();
        edits.into_iter().for_each(|edit| edit.apply(head));
        ResponseStep::Continue
    }
}
