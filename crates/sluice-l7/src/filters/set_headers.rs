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
    /// Removes, sets, adds, overwrites and completes headers, in this order. Values may contain `%OPERATOR%`s.
    pub struct SetHeaders {
        /// Request headers to set; each replaces all headers with its name.
        pub request: HeaderTemplates,
        /// Response headers to set; each replaces all headers with its name.
        pub response: HeaderTemplates,
        /// Request headers to add to those with the same name.
        pub add_request: HeaderTemplates,
        /// Response headers to add to those with the same name.
        pub add_response: HeaderTemplates,
        /// Request headers to set if there are any with the name; each replaces them.
        pub overwrite_request: HeaderTemplates,
        /// Response headers to set if there are any with the name; each replaces them.
        pub overwrite_response: HeaderTemplates,
        /// Request headers to set if there are none with the name.
        pub default_request: HeaderTemplates,
        /// Response headers to set if there are none with the name.
        pub default_response: HeaderTemplates,
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
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &HttpTemplate)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The same, taken out.
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
pub(crate) fn clean(value: String) -> String {
    if is_field_value(value.as_bytes()) {
        value
    } else {
        value.chars().filter(|c| !c.is_control()).collect()
    }
}

/// What a layer says of one side.
struct SideSettings<'a> {
    removed: &'a [EditableHeader],
    set: &'a HeaderTemplates,
    added: &'a HeaderTemplates,
    overwritten: &'a HeaderTemplates,
    defaults: &'a HeaderTemplates,
}

impl SetHeaders {
    fn of_request(&self) -> SideSettings<'_> {
        SideSettings {
            removed: &self.remove_request,
            set: &self.request,
            added: &self.add_request,
            overwritten: &self.overwrite_request,
            defaults: &self.default_request,
        }
    }

    fn of_response(&self) -> SideSettings<'_> {
        SideSettings {
            removed: &self.remove_response,
            set: &self.response,
            added: &self.add_response,
            overwritten: &self.overwrite_response,
            defaults: &self.default_response,
        }
    }
}

/// Names and values that are ready to be set.
type ReadyHeaders<'a> = Vec<(&'a str, String)>;

/// The changes that one layer makes to a head.
struct Edit<'a> {
    removed: &'a [EditableHeader],
    set: ReadyHeaders<'a>,
    added: ReadyHeaders<'a>,
    overwritten: ReadyHeaders<'a>,
    defaults: ReadyHeaders<'a>,
}

impl<'a> Edit<'a> {
    fn new(of: SideSettings<'a>, view: &View<'_>) -> Self {
        let values = |fields: &'a HeaderTemplates| {
            let value =
                |(name, value): (&'a String, &HttpTemplate)| (&**name, clean(value.fill(view)));
            fields.0.iter().map(value).collect()
        };
        Self {
            removed: of.removed,
            set: values(of.set),
            added: values(of.added),
            overwritten: values(of.overwritten),
            defaults: values(of.defaults),
        }
    }

    fn apply(&self, head: &mut Head) {
        for name in self.removed {
            head.remove(name.0.as_bytes());
        }
        for (name, value) in &self.set {
            head.set(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in &self.added {
            head.append(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in &self.overwritten {
            if head.get_named(name.as_bytes()).is_some() {
                head.set(name.as_bytes(), value.as_bytes());
            }
        }
    }

    /// Sets what is missing once all layers have been applied.
    fn complete(&self, head: &mut Head) {
        for (name, value) in &self.defaults {
            if head.get_named(name.as_bytes()).is_none() {
                head.set(name.as_bytes(), value.as_bytes());
            }
        }
    }
}

/// Applies the edits of all layers. Of defaults, those of the last layer count.
fn apply_all(edits: &[Edit<'_>], head: &mut Head) {
    edits.iter().for_each(|edit| edit.apply(head));
    edits.iter().rev().for_each(|edit| edit.complete(head));
}

/// All values are rendered from the message as it arrived, before any layer changes it.
impl HttpFilter for Layers {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let view = cx.view(head);
        let edits = self.0.iter().map(|layer| Edit::new(layer.of_request(), &view));
        let edits: SmallVec<[Edit<'_>; 1]> = edits.collect();
        apply_all(&edits, head);
        HeadStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let none = Head::default();
        let view = View { response: Some(head), ..cx.view(cx.request.unwrap_or(&none)) };
        let edits = self.0.iter().map(|layer| Edit::new(layer.of_response(), &view));
        let edits: SmallVec<[Edit<'_>; 1]> = edits.collect();
        apply_all(&edits, head);
        ResponseStep::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What two layers make of a head with `x-there: old`.
    #[track_caller]
    fn check(first: Edit<'_>, second: Edit<'_>, expected: &[(&str, &str)]) {
        let mut head = Head::request("GET", "http", "a", "/");
        head.append(b"x-there", b"old");
        apply_all(&[first, second], &mut head);
        let found = head.fields().map(|(name, value)| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(name), text(value))
        });
        let found: Vec<(String, String)> = found.collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        assert_eq!(found, expected);
    }

    fn none<'a>() -> Edit<'a> {
        let [set, added, overwritten, defaults] = [const { Vec::new() }; 4];
        Edit { removed: &[], set, added, overwritten, defaults }
    }

    #[test]
    fn headers_are_overwritten_where_there_are_some_and_added_where_there_are_none() {
        let edit = |value: &str| Edit {
            overwritten: vec![("x-there", value.into()), ("x-over", value.into())],
            defaults: vec![("x-there", value.into()), ("x-new", value.into())],
            ..none()
        };
        check(edit("1"), none(), &[("x-there", "1"), ("x-new", "1")]);
        // The later layer wins.
        check(edit("1"), edit("2"), &[("x-there", "2"), ("x-new", "2")]);
        let set = Edit { set: vec![("x-new", "3".into())], ..none() };
        check(edit("1"), set, &[("x-there", "1"), ("x-new", "3")]);
    }
}
