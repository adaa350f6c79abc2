//! What a route matches.
//!
//! Owns: conditions on paths, headers, queries, cookies, TLS. Refuses to know: what the route does. Keeps: a condition
//! that cannot be written exactly is an error: leaving one out would make the route match too much.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    /// The `match` of a rule; whether it is one of CONNECT.
    pub(super) fn route_match(&mut self, of: &ProtoMessage) -> (NativeMap, bool) {
        let mut native = NativeMap::new(of.span);
        let connect = of.message("connect_matcher").is_some();
        if connect {
            native.text("method", "CONNECT", of.span);
        } else if let Some(path) = self.path(of) {
            native.set("path", path);
        }
        if of.bool("case_sensitive") == Some(false) && native.has("path") {
            native.word("case_sensitive", false, of.place("case_sensitive"));
        }
        if let Some(fraction) = of.message("runtime_fraction")
            && let Some(share) = self.runtime_share(fraction)
        {
            native.map("runtime", share);
        }
        let mut methods = Vec::new();
        let mut headers = NativeMap::new(of.place("headers"));
        for header in of.messages("headers") {
            self.route_header(header, &mut headers, &mut methods);
        }
        native.list("method", methods, of.place("headers"));
        native.map("headers", headers);
        for (field, key) in [("query_parameters", "query"), ("cookies", "cookies")] {
            let mut values = NativeMap::new(of.place(field));
            for matcher in of.messages(field) {
                self.named_value(matcher, &mut values);
            }
            native.map(key, values);
        }
        let mut values = NativeMap::new(of.place("dynamic_metadata"));
        for matcher in of.messages("dynamic_metadata") {
            match self.metadata_condition(matcher) {
                Some((name, _)) if values.has(&name) => {
                    self.unsupported(matcher, "path", "the value has a condition already");
                }
                Some((name, condition)) => values.set(&name, condition),
                None => {}
            }
        }
        native.map("values", values);
        if of.message("grpc").is_some() {
            native.text("grpc", "*", of.place("grpc"));
        }
        if let Some(tls) = of.message("tls_context") {
            for field in ["presented", "validated"] {
                // A certificate that does not verify never gets this far.
                if let Some(wanted) = tls.bool(field) {
                    native.text("client_certificate", &wanted.to_string(), tls.place(field));
                }
            }
        }
        (native, connect)
    }

    fn path(&mut self, of: &ProtoMessage) -> Option<Node> {
        if let Some(field) = of.field("prefix") {
            let prefix = of.text("prefix").map_or("", |text| text);
            let any = prefix.is_empty() || prefix == "/";
            return (!any).then(|| single("starts_with", quoted(prefix, field.span)));
        }
        if of.has("path") {
            let path = of.text("path").map_or("", |text| text);
            // A star would be read as a wildcard.
            return Some(if path.contains('*') {
                single("regex", quoted(&regex::escape(path), of.place("path")))
            } else {
                quoted(path, of.place("path"))
            });
        }
        if let Some(prefix) = of.text("path_separated_prefix") {
            let span = of.place("path_separated_prefix");
            return Some(if prefix.contains('*') {
                let regex = format!("{}(/.*)?", regex::escape(prefix));
                single("regex", quoted(&regex, span))
            } else {
                quoted(&format!("{prefix}/*"), span)
            });
        }
        if let Some(matcher) = of.message("safe_regex") {
            let text = self.regex(matcher).to_owned();
            return Some(single("regex", quoted(&text, matcher.span)));
        }
        let policy = of.message("path_match_policy")?;
        policy.without_effect(&["name"]);
        let config = policy.message("typed_config")?;
        if config.descriptor.name() != "UriTemplateMatchConfig" {
            self.unsupported_type(config);
            return None;
        }
        let template = config.text("path_template")?;
        Some(single("template", quoted(template, config.place("path_template"))))
    }

    /// A share of requests, from a `RuntimeFractionalPercent`.
    pub(super) fn runtime_share(&mut self, fraction: &ProtoMessage) -> Option<NativeMap> {
        let mut share = NativeMap::new(fraction.span);
        if let Some(key) = fraction.text("runtime_key") {
            share.text("key", key, fraction.place("runtime_key"));
        }
        let percent = self.fine_fraction(fraction, "default_value")?;
        share.word("percent", percent, fraction.place("default_value"));
        Some(share)
    }

    fn route_header(
        &mut self,
        of: &ProtoMessage,
        headers: &mut NativeMap,
        methods: &mut Vec<Node>,
    ) {
        let Some(name) = of.text("name").map(|name| name.to_ascii_lowercase()) else { return };
        if name == ":method" && !of.is("invert_match") {
            let exact = of.text("exact_match");
            let exact = exact.or_else(|| {
                let matcher = of.message("string_match")?;
                (!matcher.is("ignore_case")).then(|| matcher.text("exact"))?
            });
            if let Some(method) = exact
                && methods.is_empty()
            {
                methods.push(quoted(method, of.span));
                return;
            }
        }
        if headers.has(&name) {
            self.unsupported(of, "name", "the header has a condition already");
            return;
        }
        if let Some(value) = self.header_match(of) {
            headers.set(&name, value);
        }
    }

    /// The condition of a `HeaderMatcher` on its header.
    pub(super) fn header_match(&mut self, of: &ProtoMessage) -> Option<Node> {
        let invert = of.is("invert_match");
        let missing_is_empty = of.is("treat_missing_header_as_empty");
        let span = of.span;
        let kinds = [
            ("exact_match", ""),
            ("prefix_match", "prefix"),
            ("suffix_match", "suffix"),
            ("contains_match", "contains"),
        ];
        let specified = kinds.iter().find(|(field, _)| of.has(field));
        let condition = if let Some((field, kind)) = specified {
            let text = of.text(field).map_or("", |text| text);
            let value = quoted(text, of.place(field));
            if kind.is_empty() { value } else { single(kind, value) }
        } else if let Some(matcher) = of.message("safe_regex_match") {
            let text = self.regex(matcher).to_owned();
            single("regex", quoted(&text, matcher.span))
        } else if let Some(matcher) = of.message("string_match") {
            self.string_match(matcher)?
        } else if let Some(range) = of.message("range_match") {
            self.range(range)?
        } else {
            // Presence, which is also what is meant if nothing is said.
            let wanted = of.bool("present_match") != Some(false);
            return Some(single("present", plain(wanted != invert, span)));
        };
        if !invert {
            if missing_is_empty {
                self.unsupported(of, "treat_missing_header_as_empty", "only with `invert_match`");
            }
            return Some(condition);
        }
        if !missing_is_empty {
            // In Envoy, a request without the header does not match; `not` would take it.
            let how = "a request without the header would match; set `treat_missing_header_as_empty`, or match what the value is";
            self.unsupported(of, "invert_match", how);
            return None;
        }
        Some(single("not", condition))
    }

    /// An `Int64Range`, without its end.
    fn range(&mut self, range: &ProtoMessage) -> Option<Node> {
        let (start, end) = (range.integer("start"), range.integer("end"));
        if start >= end {
            self.unsupported(range, "end", "no number is in the range, so nothing would match");
            return None;
        }
        Some(single("range", quoted(&format!("{start}..{end}"), range.span)))
    }

    /// A condition on a query parameter or a cookie.
    pub(super) fn named_value(&mut self, of: &ProtoMessage, values: &mut NativeMap) {
        let Some(name) = of.text("name") else { return };
        if values.has(name) {
            self.unsupported(of, "name", "it has a condition already");
            return;
        }
        if of.descriptor.name() == "CookieMatcher" && of.is("invert_match") {
            self.unsupported(of, "invert_match", "a request without the cookie would match");
            return;
        }
        let value = match of.message("string_match") {
            Some(matcher) => self.string_match(matcher),
            None if of.descriptor.name() == "CookieMatcher" => None,
            None => {
                let wanted = of.bool("present_match") != Some(false);
                Some(single("present", plain(wanted, of.span)))
            }
        };
        if let Some(value) = value {
            values.set(name, value);
        }
    }
}
