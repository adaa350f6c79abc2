//! How responses look that the proxy generates itself (`local_reply_config`).
//!
//! Owns: the rules for them, and the format of their bodies. Refuses to know: which responses there are. Keeps: the first mapper
//! whose filter a response passes is the only one that counts, as in Envoy.

use sluice_core::tree::MapEntry;
use sluice_core::{Node, Value};

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted};

impl Mapping<'_> {
    /// The `local_replies` of a connection manager.
    pub(super) fn local_replies(&mut self, hcm: &ProtoMessage, http: &mut NativeMap) {
        let Some(config) = hcm.message("local_reply_config") else { return };
        let mut native = NativeMap::new(config.span);
        if let Some(format) = config.message("body_format") {
            self.body_format(format, &mut native);
        }
        let mut rules = Vec::new();
        for mapper in config.messages("mappers") {
            rules.extend(self.reply_rule(mapper));
        }
        native.list("rules", rules, config.place("mappers"));
        http.map("local_replies", native);
    }

    fn reply_rule(&mut self, mapper: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(mapper.span);
        let filter = mapper.message("filter");
        let condition = filter.and_then(|filter| self.record_condition(filter));
        if let Some(condition) = &condition {
            native.text("when", condition, mapper.place("filter"));
        }
        if let Some(status) = mapper.number("status_code") {
            native.word("status", status, mapper.place("status_code"));
        }
        if let Some(source) = mapper.message("body")
            && let Some(text) = self.inline_text(source)
        {
            native.text("text", &text, source.span);
            native.text("content_type", "text/plain", source.span);
        }
        if let Some(format) = mapper.message("body_format_override") {
            self.body_format(format, &mut native);
        }
        self.reply_headers(mapper, "headers_to_add", &mut native);
        condition.map(|_| native.node())
    }

    /// Headers that a reply gets.
    pub(super) fn reply_headers(&mut self, of: &ProtoMessage, field: &str, native: &mut NativeMap) {
        let options: Vec<&ProtoMessage> = of.messages(field).collect();
        let mut edits = NativeMap::new(of.place(field));
        self.header_options(&options, "response", &mut edits);
        for (from, key) in [
            ("response", "headers"),
            ("add_response", "add_headers"),
            ("overwrite_response", "overwrite_headers"),
            ("default_response", "default_headers"),
        ] {
            if let Some(node) = edits.take(from) {
                native.set(key, node);
            }
        }
    }

    /// The body that a `SubstitutionFormatString` makes, and its media type.
    pub(super) fn body_format(&mut self, format: &ProtoMessage, native: &mut NativeMap) {
        let is_json = format.has("json_format");
        let usual = if is_json { "application/json" } else { "text/plain" };
        let content_type = format.text("content_type").filter(|text| !text.is_empty());
        let content_type = content_type.map_or(usual, |text| text);
        native.text("content_type", content_type, format.place("content_type"));
        if let Some(options) = format.message("json_format_options") {
            options.all_without_effect();
        }
        if format.is("omit_empty_values") && !is_json {
            let how = "an operator without a value is `-`";
            self.differs(format, "omit_empty_values", how);
        }
        if let Some(node) = format.json("json_format") {
            let node = node.clone();
            if let Some(body) = self.json_body(format, &node) {
                native.set("json", body);
            }
            return;
        }
        let (text, span) = if let Some(text) = format.text("text_format") {
            (Some(text.to_string()), format.place("text_format"))
        } else if let Some(source) = format.message("text_format_source") {
            (self.inline_text(source), source.span)
        } else {
            (None, format.span)
        };
        if let Some(text) = text {
            native.set("body", quoted(&self.operators(&text), span));
        }
    }

    /// A JSON object, whose members Envoy sorts.
    fn json_body(&mut self, of: &ProtoMessage, node: &Node) -> Option<Node> {
        let mut entries: Vec<MapEntry> = Vec::new();
        for entry in node.entries()? {
            let value = match &entry.node.value {
                Value::Map(_) => self.json_body(of, &entry.node)?,
                Value::Scalar { text, quoted: true } => {
                    quoted(&self.operators(text), entry.node.span)
                }
                Value::Scalar { text, quoted: false } if is_text(text) => {
                    quoted(&self.operators(text), entry.node.span)
                }
                Value::Scalar { text, .. } => plain(text, entry.node.span),
                Value::Null => plain("null", entry.node.span),
                Value::List(_) | Value::Substituted(_) => {
                    self.unsupported(of, "json_format", "write texts, numbers and objects");
                    return None;
                }
            };
            entries.push(MapEntry { node: value, ..entry.clone() });
        }
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        Some(Node { value: Value::Map(entries), span: node.span })
    }
}

/// Whether a scalar without quotes is a text in YAML all the same.
fn is_text(text: &str) -> bool {
    text.parse::<f64>().is_err() && !matches!(text, "true" | "false" | "null")
}
