//! Edits of headers.
//!
//! Owns: `HeaderValueOption`, removals, and the operators in values. Refuses to know: what has them.

use sluice_core::tree::MapEntry;
use sluice_core::{Node, Value};

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted, single};

/// The filter that edits headers.
const FILTER: &str = "set_headers";

impl Mapping<'_> {
    /// Adds the edits of a route table, host, route or weighted cluster, as settings of `set_headers`.
    pub(super) fn header_edits(&mut self, of: &ProtoMessage, edits: &mut NativeMap) {
        for (add, remove, side) in [
            ("request_headers_to_add", "request_headers_to_remove", "request"),
            ("response_headers_to_add", "response_headers_to_remove", "response"),
        ] {
            let options: Vec<&ProtoMessage> = of.messages(add).collect();
            self.header_options(&options, side, edits);
            let removed: Vec<Node> =
                of.texts(remove).map(|(name, span)| quoted(name, span)).collect();
            edits.list(&format!("remove_{side}"), removed, of.place(remove));
        }
    }

    /// Makes one filter of all that edit headers. It comes last, where the router edits them.
    pub(super) fn join_edits(&mut self, filters: &mut Vec<Node>, hcm: &ProtoMessage) {
        let edits = |filter: &Node| filter.get(FILTER).map(|entry| entry.node.clone());
        let all: Vec<Node> = filters.iter().filter_map(edits).collect();
        if all.len() < 2 {
            return;
        }
        let mut joined = NativeMap::new(all[0].span);
        for one in &all {
            if let Err(header) = join(one, &mut joined) {
                let how = format!("two filters, or a filter and a route table, edit `{header}`");
                self.unsupported(hcm, "http_filters", &how);
                return;
            }
        }
        let is_edit = |filter: &Node| filter.get(FILTER).is_some();
        if filters.iter().skip_while(|of| !is_edit(of)).any(|of| !is_edit(of)) {
            let how = "headers are edited behind all other filters, which see them as they were";
            self.differs(hcm, "http_filters", how);
        }
        filters.retain(|filter| !is_edit(filter));
        filters.push(single(FILTER, joined.node()));
    }

    /// Adds the edits of the table of a scope to those of a host of it.
    pub(super) fn add_edits(&mut self, table: &Node, edits: &mut NativeMap, host: &ProtoMessage) {
        if let Err(header) = join(table, edits) {
            let how = format!("the table of a scope and its host both edit `{header}`");
            self.unsupported_at(host, &how);
        }
    }

    /// Adds `HeaderValueOption`s on one side.
    pub(super) fn header_options(
        &mut self,
        options: &[&ProtoMessage],
        side: &str,
        edits: &mut NativeMap,
    ) {
        let mut kinds = [const { None::<NativeMap> }; ACTIONS.len()];
        for option in options {
            let Some(header) = option.message("header") else { continue };
            let Some(name) = header.text("key").map(|name| name.to_ascii_lowercase()) else {
                continue;
            };
            if header.has("raw_value") {
                self.unsupported(header, "raw_value", "write `value`");
                continue;
            }
            let value = header.text("value").map_or("", |text| text);
            option.without_effect(&["keep_empty_value"]);
            if value.is_empty() && !option.is("keep_empty_value") {
                continue;
            }
            let action = option.choice("append_action");
            let action = match option.bool("append") {
                Some(true) => "APPEND_IF_EXISTS_OR_ADD",
                Some(false) => "OVERWRITE_IF_EXISTS_OR_ADD",
                None => &*action,
            };
            let Some(kind) = ACTIONS.iter().position(|(known, _)| *known == action) else {
                self.unsupported(option, "append_action", "");
                continue;
            };
            if kinds.iter().flatten().any(|of| of.has(&name)) {
                self.unsupported(option, "header", "the same header is set twice here");
                continue;
            }
            let value = self.operators(value);
            let target = kinds[kind].get_or_insert_with(|| NativeMap::new(option.span));
            target.text(&name, &value, header.place("value"));
        }
        for (kind, (_, prefix)) in kinds.into_iter().zip(ACTIONS) {
            if let Some(kind) = kind {
                edits.map(&format!("{prefix}{side}"), kind);
            }
        }
    }
}

/// What may be done with a header, and what the key of that begins with in `set_headers`.
const ACTIONS: [(&str, &str); 4] = [
    ("OVERWRITE_IF_EXISTS_OR_ADD", ""),
    ("APPEND_IF_EXISTS_OR_ADD", "add_"),
    ("OVERWRITE_IF_EXISTS", "overwrite_"),
    ("ADD_IF_ABSENT", "default_"),
];

/// Adds the edits of a filter to others; `Err` is a header that both edit.
fn join(edits: &Node, joined: &mut NativeMap) -> Result<(), String> {
    let edits = edits.entries().unwrap_or_default();
    for side in ["request", "response"] {
        let of_side = |all: &[MapEntry]| -> Vec<String> {
            let parts = all.iter().filter(|part| part.key.ends_with(side));
            parts.flat_map(|part| names(&part.node)).collect()
        };
        let known = of_side(joined.entries());
        if let Some(twice) = of_side(edits).into_iter().find(|name| known.contains(name)) {
            return Err(twice);
        }
    }
    for MapEntry { key, node, .. } in edits {
        let value = match (joined.take(key).map(|node| node.value), node.value.clone()) {
            (Some(Value::Map(all)), Value::Map(more)) => Value::Map([all, more].concat()),
            (Some(Value::List(all)), Value::List(more)) => Value::List([all, more].concat()),
            (_, own) => own,
        };
        joined.set(key, Node { value, span: node.span });
    }
    Ok(())
}

/// The headers of a list or map.
fn names(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Map(entries) => entries.iter().map(|entry| entry.key.to_string()).collect(),
        _ => node.items().iter().filter_map(|item| item.text().map(str::to_owned)).collect(),
    }
}
