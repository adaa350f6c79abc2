//! Edits of headers.
//!
//! Owns: `HeaderValueOption`, removals, and the operators in values. Refuses to know: what has them.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted};

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

    /// Adds `HeaderValueOption`s on one side.
    pub(super) fn header_options(
        &mut self,
        options: &[&ProtoMessage],
        side: &str,
        edits: &mut NativeMap,
    ) {
        let mut set = NativeMap::new(edits_span(options));
        let mut add = NativeMap::new(edits_span(options));
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
            let overwrite = match (&*action, option.bool("append")) {
                (_, Some(append)) => !append,
                ("OVERWRITE_IF_EXISTS_OR_ADD", _) => true,
                ("APPEND_IF_EXISTS_OR_ADD", _) => false,
                _ => {
                    self.unsupported(
                        option,
                        "append_action",
                        "write APPEND_IF_EXISTS_OR_ADD or OVERWRITE_IF_EXISTS_OR_ADD",
                    );
                    continue;
                }
            };
            let target = if overwrite { &mut set } else { &mut add };
            if target.has(&name) {
                self.unsupported(option, "header", "the same header is set twice here");
                continue;
            }
            let value = self.operators(value);
            target.text(&name, &value, header.place("value"));
        }
        edits.map(side, set);
        edits.map(&format!("add_{side}"), add);
    }
}

fn edits_span(options: &[&ProtoMessage]) -> sluice_core::Span {
    options.first().map(|option| option.span).unwrap_or_default()
}
