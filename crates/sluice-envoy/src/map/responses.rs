//! Responses that routes give themselves.
//!
//! Owns: redirects and direct responses. Refuses to know: which requests get them.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::NativeMap;

impl Mapping<'_> {
    /// The `redirect` of a rule.
    pub(super) fn redirect(&mut self, action: &ProtoMessage) -> Node {
        let mut native = NativeMap::new(action.span);
        let status = match &*action.choice("response_code") {
            "FOUND" => 302,
            "SEE_OTHER" => 303,
            "TEMPORARY_REDIRECT" => 307,
            "PERMANENT_REDIRECT" => 308,
            _ => 301,
        };
        native.word("status", status, action.place("response_code"));
        if action.is("https_redirect") {
            native.word("scheme", "https", action.place("https_redirect"));
        }
        if let Some(scheme) = action.text("scheme_redirect") {
            native.word("scheme", scheme, action.place("scheme_redirect"));
        }
        for (field, key) in [
            ("host_redirect", "host"),
            ("path_redirect", "path"),
            ("prefix_rewrite", "replace_prefix"),
        ] {
            if let Some(text) = action.text(field) {
                native.text(key, text, action.place(field));
            }
        }
        if let Some(port) = action.number("port_redirect").filter(|port| *port > 0) {
            native.word("port", port, action.place("port_redirect"));
        }
        if let Some(regex) = action.message("regex_rewrite")
            && let Some(regex) = self.substitution(regex)
        {
            native.set("regex", regex);
        }
        if action.is("strip_query") {
            native.word("strip_query", true, action.place("strip_query"));
        }
        native.node()
    }

    /// The `respond` of a rule.
    pub(super) fn direct_response(&mut self, action: &ProtoMessage) -> Node {
        let mut native = NativeMap::new(action.span);
        native.word("status", action.number("status").unwrap_or(200), action.place("status"));
        if let Some(body) = action.message("body")
            && let Some(text) = self.inline_text(body)
        {
            // Bodies are templates here; in Envoy only with `body_format`.
            native.text("body", &text.replace('%', "%%"), body.span);
            native.text("content_type", "text/plain", body.span);
        }
        if action.has("body_format") {
            self.unsupported(action, "body_format", "write `body`");
        }
        native.node()
    }
}
