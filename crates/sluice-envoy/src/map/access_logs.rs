//! Access logs.
//!
//! Owns: sinks and formats, and whether all listeners log alike. Refuses to know: what operators mean. Keeps: records
//! go to every log, so a file whose listeners log differently is refused.

use std::collections::BTreeMap;

use sluice_core::{Node, Value};

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

/// Envoy's format where none is given.
const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"";

/// The loggers of each kind of record, as the first of that kind has them.
#[derive(Debug, Default)]
pub(super) struct Loggers {
    kinds: BTreeMap<&'static str, Vec<Node>>,
    /// Those of listeners without relays, for connections.
    of_listeners: Option<Vec<Node>>,
}

/// The kind of a connection's record.
const CONNECTION: &str = "connection";

impl Loggers {
    /// The logs in the native form.
    pub(super) fn into_native(mut self) -> Vec<Node> {
        if let Some(of_listeners) = self.of_listeners.filter(|logs| !logs.is_empty()) {
            self.kinds.insert(CONNECTION, of_listeners);
        }
        self.kinds.into_values().flatten().collect()
    }
}

impl Mapping<'_> {
    /// The loggers of a listener, which Envoy asks when a connection ends. Each adds to those of its filters, of which those
    /// of a `tcp_proxy` would write the same record.
    pub(super) fn logs_of_listener(&mut self, listener: &ProtoMessage, relays: bool) {
        if relays {
            if listener.has("access_log") {
                listener.messages("access_log").for_each(ProtoMessage::all_without_effect);
                self.unsupported(listener, "access_log", "log in the filters of its chains");
            }
            return;
        }
        let mut logs = Vec::new();
        for log in listener.messages("access_log") {
            logs.extend(self.logger(log, CONNECTION));
        }
        let of_relays = self.logs.kinds.get(CONNECTION);
        let known = self.logs.of_listeners.get_or_insert_with(|| logs.clone());
        let agrees = *known == logs && (logs.is_empty() || of_relays.is_none_or(|of| *of == logs));
        if !agrees {
            let how = "all listeners write the same records of connections, and another one in this file has others";
            self.unsupported(listener, "access_log", how);
        }
    }

    /// The loggers of a filter for this kind of record.
    pub(super) fn logs_of(&mut self, of: &ProtoMessage, kind: &'static str) {
        let mut logs = Vec::new();
        for log in of.messages("access_log") {
            logs.extend(self.logger(log, kind));
        }
        let of_listeners = self.logs.of_listeners.as_ref().filter(|logs| !logs.is_empty());
        let of_listeners = of_listeners.filter(|_| kind == CONNECTION).cloned();
        let known = self.logs.kinds.get(kind).cloned().or(of_listeners);
        match known {
            None => {
                self.logs.kinds.insert(kind, logs);
            }
            Some(known) if known == logs => {}
            Some(_) => {
                let how = "all filters of a kind write the same logs, and another one in this file has others";
                self.unsupported(of, "access_log", how);
            }
        }
    }

    fn logger(&mut self, log: &ProtoMessage, kind: &str) -> Option<Node> {
        log.without_effect(&["name"]);
        if log.has("filter") {
            self.unsupported(log, "filter", "every record is written");
        }
        let config = log.message("typed_config")?;
        let mut native = NativeMap::new(log.span);
        let format = match config.descriptor.name() {
            "FileAccessLog" => {
                let path = config.text("path")?;
                let sink = match &**path {
                    "/dev/stdout" => "stdout",
                    "/dev/stderr" => "stderr",
                    path => path,
                };
                native.text("sink", sink, config.place("path"));
                self.file_format(config)
            }
            "StdoutAccessLog" => {
                native.text("sink", "stdout", config.span);
                config.message("log_format").and_then(|of| self.log_format(of))
            }
            "StderrAccessLog" => {
                native.text("sink", "stderr", config.span);
                config.message("log_format").and_then(|of| self.log_format(of))
            }
            _ => {
                self.unsupported_type(config);
                return None;
            }
        };
        native.set("format", format.unwrap_or_else(|| quoted(DEFAULT_FORMAT, config.span)));
        native.list("kinds", vec![plain(kind, log.span)], log.span);
        Some(native.node())
    }

    fn file_format(&mut self, config: &ProtoMessage) -> Option<Node> {
        if let Some(text) = config.text("format") {
            return Some(self.line(text, config.place("format")));
        }
        for field in ["json_format", "typed_json_format"] {
            if let Some(node) = config.json(field) {
                let node = node.clone();
                return self.json_fields(config, field, &node);
            }
        }
        config.message("log_format").and_then(|of| self.log_format(of))
    }

    fn log_format(&mut self, format: &ProtoMessage) -> Option<Node> {
        format.without_effect(&["content_type", "omit_empty_values", "json_format_options"]);
        if let Some(options) = format.message("json_format_options") {
            options.all_without_effect();
        }
        if let Some(text) = format.text("text_format") {
            return Some(self.line(text, format.place("text_format")));
        }
        if let Some(source) = format.message("text_format_source") {
            return self.inline_text(source).map(|text| self.line(&text, source.span));
        }
        let node = format.json("json_format")?.clone();
        self.json_fields(format, "json_format", &node)
    }

    fn json_fields(&mut self, of: &ProtoMessage, field: &str, node: &Node) -> Option<Node> {
        let mut fields = NativeMap::new(node.span);
        for entry in node.entries().unwrap_or_default() {
            match &entry.node.value {
                Value::Scalar { text, .. } => {
                    let text = self.operators(text);
                    fields.text(&entry.key, &text, entry.node.span);
                }
                _ => {
                    self.unsupported(of, field, "only texts are, not objects in objects");
                    return None;
                }
            }
        }
        Some(single("json", fields.node()))
    }

    /// A line without its end, which every record has.
    fn line(&self, text: &str, span: sluice_core::Span) -> Node {
        quoted(&self.operators(text.strip_suffix('\n').unwrap_or(text)), span)
    }
}
