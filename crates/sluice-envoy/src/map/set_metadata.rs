//! Filters that set metadata: `set_metadata`, `header_to_metadata`, `json_to_metadata`.
//!
//! Owns: how what they set is made by `set_values`. Refuses to know: who reads it. Keeps: what cannot be made exactly is an
//! error, since routes and policies may decide by it.

use std::sync::Arc;

use sluice_core::{Node, Span, Value};

use super::Mapping;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

/// A fixed text and its place; `None` for what is not a single value.
type FixedText = Option<(String, Span)>;

/// Something that is set from a request.
struct MetadataRule<'m> {
    /// The value of `set_values` that it comes from.
    from: Node,
    /// A name for it.
    called: String,
    /// The namespace of pairs that name none.
    namespace: &'static str,
    present: Option<&'m ProtoMessage>,
    missing: Option<&'m ProtoMessage>,
}

impl Mapping<'_> {
    /// The filter `set_values`, from a `set_metadata.v3.Config`. `None` if it sets nothing.
    pub(super) fn set_metadata(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut texts: Vec<(Arc<str>, String, FixedText)> = Vec::new();
        let mut namespaces: Vec<Arc<str>> = Vec::new();
        let old = config.text("metadata_namespace").map(|namespace| (namespace, config, true));
        let entries = config.messages("metadata").filter_map(|entry| {
            Some((entry.text("metadata_namespace")?, entry, entry.is("allow_overwrite")))
        });
        for (namespace, entry, overwrites) in old.into_iter().chain(entries) {
            if entry.descriptor.name() == "Metadata"
                && let Some(typed) = entry.message("typed_value")
            {
                typed.all_without_effect();
                self.differs(entry, "typed_value", "typed metadata is not kept; nothing reads it");
            }
            let Some(value) = entry.json("value") else { continue };
            if namespaces.contains(namespace) && !overwrites {
                continue;
            }
            namespaces.push(namespace.clone());
            let mut found = Vec::new();
            flat(value, "", &mut found);
            for (path, text) in found {
                if text.is_none() {
                    let how = format!("the list `{path}` is not set; what reads it is refused");
                    self.differs(entry, "value", &how);
                }
                texts.retain(|(known, of, _)| (known, of) != (namespace, &path));
                texts.push((namespace.clone(), path, text));
            }
        }
        let mut values = Vec::new();
        for (namespace, path, text) in texts {
            let Some((text, span)) = text else { continue };
            let mut value = NativeMap::new(span);
            value.text("text", &text.replace('%', "%%"), span);
            self.add_value(value, (&namespace, &path), config, &mut values);
        }
        self.set_values(values, config)
    }

    /// The filter `set_values`, from a `header_to_metadata.v3.Config`; `removed` gets the headers that it removes.
    pub(super) fn header_to_metadata(
        &mut self,
        config: &ProtoMessage,
        removed: &mut Vec<Node>,
    ) -> Option<Node> {
        config.without_effect(&["stat_prefix"]);
        let mut values = Vec::new();
        for (field, kind) in [("request_rules", "header"), ("response_rules", "response_header")] {
            for rule in config.messages(field) {
                let cookie = rule.text("cookie").map(|name| ("cookie", &**name));
                let header = rule.text("header").map(|name| (kind, &**name));
                let Some((kind, name)) = cookie.or(header) else { continue };
                let Some(from) = source_of(kind, name) else {
                    self.unsupported(
                        rule,
                        "header",
                        "only `:path`, `:method` and `:authority` are",
                    );
                    continue;
                };
                let missing = rule.message("on_header_missing");
                if kind == "response_header" && missing.is_some() {
                    let how = "only what a response has can be noted of it";
                    self.unsupported(rule, "on_header_missing", how);
                }
                if rule.is("remove") {
                    match kind {
                        "header" => removed.push(quoted(&name.to_ascii_lowercase(), rule.span)),
                        _ => self.unsupported(rule, "remove", "only headers of requests are"),
                    }
                }
                let rule = MetadataRule {
                    from: quoted(&from, rule.span),
                    called: format!("{kind}.{name}"),
                    namespace: "envoy.filters.http.header_to_metadata",
                    present: rule.message("on_header_present"),
                    missing,
                };
                self.rule_values(&rule, &mut values);
            }
        }
        self.set_values(values, config)
    }

    /// The settings of a host or route in place of those of the chain.
    pub(super) fn header_to_metadata_override(
        &mut self,
        config: &ProtoMessage,
    ) -> Option<(&'static str, Node)> {
        if self.metadata.filters > 1 {
            self.unsupported_at(config, "another filter of the chain sets metadata, too");
            return None;
        }
        // It sets the same metadata as the chain does.
        let of_chain = std::mem::take(&mut self.metadata);
        let mut removed = Vec::new();
        let node = self.header_to_metadata(config, &mut removed);
        let own = std::mem::replace(&mut self.metadata, of_chain);
        if !own.is_within(&self.metadata) {
            self.unsupported_at(
                config,
                "the filter of the chain does not set all of this metadata",
            );
        }
        if !removed.is_empty() {
            self.unsupported_at(config, "headers are removed by the filter of the chain");
        }
        let settings = node.as_ref().and_then(|node| node.get("set_values"));
        let settings = settings.map(|entry| entry.node.clone());
        Some(("set_values", settings.unwrap_or_else(|| plain("skip", config.span))))
    }

    /// The filter `set_values`, from a `JsonToMetadata`.
    pub(super) fn json_to_metadata(&mut self, config: &ProtoMessage) -> Option<Node> {
        if config.has("response_rules") {
            self.unsupported(config, "response_rules", "only bodies of requests are read");
        }
        let rules = config.message("request_rules")?;
        for field in ["allow_content_types", "allow_content_types_regex"] {
            if rules.has(field) {
                self.unsupported(rules, field, "bodies of `application/json` and `+json` are read");
            }
        }
        self.only_false(rules, "allow_empty_content_type", "");
        let mut values = Vec::new();
        for rule in rules.messages("rules") {
            let keys: Vec<&str> = rule
                .messages("selectors")
                .filter_map(|of| of.text("key").map(|key| &**key))
                .collect();
            if keys.iter().any(|key| key.contains('.')) {
                self.unsupported(rule, "selectors", "a key that contains a dot");
                continue;
            }
            let path = keys.join(".");
            if let Some(error) = rule.message("on_error") {
                let missing = rule.message("on_missing");
                let same = missing.is_some_and(|missing| says_same(missing, error));
                error.all_without_effect();
                if !same {
                    let how = "a body that is not JSON has nothing: write the same as `on_missing`";
                    self.unsupported(rule, "on_error", how);
                }
            }
            let rule = MetadataRule {
                from: quoted(&format!("json:{path}"), rule.span),
                called: format!("json.{path}"),
                namespace: "envoy.filters.http.json_to_metadata",
                present: rule.message("on_present"),
                missing: rule.message("on_missing"),
            };
            self.rule_values(&rule, &mut values);
        }
        let node = self.set_values(values, config)?;
        self.differs(config, "request_rules", "a body of more than 64KiB gets 413");
        Some(node)
    }

    /// The values of a rule.
    fn rule_values(&mut self, rule: &MetadataRule<'_>, values: &mut Vec<Node>) {
        let place = |pair: &ProtoMessage| {
            let namespace = pair.text("metadata_namespace").cloned();
            let namespace = namespace.unwrap_or_else(|| rule.namespace.into());
            Some((namespace, pair.text("key")?.to_string()))
        };
        let same = match (rule.present, rule.missing) {
            (Some(present), Some(missing)) => place(present) == place(missing),
            _ => false,
        };
        // What is set if there is nothing needs to know that.
        let raw = (rule.missing.is_some() && !same).then(|| {
            let name = self.metadata.helper(&rule.called);
            let mut value = NativeMap::new(rule.from.span);
            value.text("name", &name, rule.from.span);
            value.set("from", rule.from.clone());
            values.push(value.node());
            format!("set.{name}")
        });
        if let Some(pair) = rule.present
            && let Some((namespace, key)) = place(pair)
        {
            let mut value = NativeMap::new(pair.span);
            let from = raw.as_ref().map(|raw| quoted(&format!("value:{raw}"), pair.span));
            value.set("from", from.unwrap_or_else(|| rule.from.clone()));
            self.pair_value(pair, &mut value);
            if same
                && let Some(missing) = rule.missing
                && let Some(text) = self.constant(missing)
            {
                value.text("missing", &text, missing.span);
            }
            self.add_value(value, (&namespace, &key), pair, values);
        }
        if let (Some(pair), Some(raw)) = (rule.missing, raw)
            && let Some((namespace, key)) = place(pair)
            && let Some(text) = self.constant(pair)
        {
            // A value that there is not is written `-`.
            let mut value = NativeMap::new(pair.span);
            value.text("text", &format!("%VALUE({raw})%"), pair.span);
            value.set("map", single("-", quoted(&text, pair.span)));
            self.add_value(value, (&namespace, &key), pair, values);
        }
    }

    /// What becomes of a value that is there.
    fn pair_value(&mut self, pair: &ProtoMessage, value: &mut NativeMap) {
        self.pair_kind(pair);
        if let Some(text) = constant_of(pair) {
            let any = single("(?s).*", quoted(&text, pair.span));
            value.set("map", any);
            value.word("lookup", "regex", pair.span);
        }
        let has = |field: &str| pair.descriptor.get_field_by_name(field).is_some();
        if has("regex_value_rewrite")
            && let Some(rewrite) = pair.message("regex_value_rewrite")
            && let Some(pattern) = rewrite.message("pattern")
        {
            let regex = self.regex(pattern).to_owned();
            let whole = regex.starts_with('^') && regex.ends_with('$');
            if !whole || rewrite.text("substitution").map(|text| &**text) != Some("\\1") {
                let how = "only a regex from `^` to `$` with the substitution `\\1` is";
                self.unsupported(pair, "regex_value_rewrite", how);
                return;
            }
            let how = "a value that does not match the regex is not set; Envoy sets all of it";
            self.differs(pair, "regex_value_rewrite", how);
            value.text("extract", &regex, pattern.place("regex"));
        }
    }

    fn pair_kind(&mut self, pair: &ProtoMessage) {
        // Values are texts here; what reads them compares them so.
        pair.without_effect(&["type"]);
        let has = |field: &str| pair.descriptor.get_field_by_name(field).is_some();
        if has("encode") && &*pair.choice("encode") != "NONE" {
            self.unsupported(pair, "encode", "values are set as they are");
        }
        if has("preserve_existing_metadata_value") {
            // No other filter sets the same.
            pair.without_effect(&["preserve_existing_metadata_value"]);
        }
    }

    /// The fixed value of a pair, which it must have.
    fn constant(&mut self, pair: &ProtoMessage) -> Option<String> {
        self.pair_kind(pair);
        let text = constant_of(pair);
        if text.is_none() {
            self.unsupported(pair, "value", "a text is needed for what is missing");
        }
        text
    }

    /// Adds a value under the name of the metadata that it stands for.
    fn add_value(
        &mut self,
        mut value: NativeMap,
        (namespace, path): (&Arc<str>, &str),
        place: &ProtoMessage,
        values: &mut Vec<Node>,
    ) {
        let picks = &**namespace == "envoy.lb";
        if picks && self.plane.is_some() {
            let how = "in what planes send, subsets are chosen by `metadata_match` of routes only";
            self.unsupported_at(place, how);
            return;
        }
        let Some(name) = self.metadata.add(namespace, path) else {
            let how = format!("`{path}` of the namespace `{namespace}` is set already");
            self.unsupported_at(place, &how);
            return;
        };
        value.text("name", &name, place.span);
        values.push(value.node());
        if picks {
            self.metadata.of_endpoints.push((path.to_owned(), format!("set.{name}")));
        }
    }

    fn set_values(&mut self, values: Vec<Node>, config: &ProtoMessage) -> Option<Node> {
        if values.is_empty() {
            return None;
        }
        let list = Node { value: Value::List(values), span: config.span };
        Some(single("set_values", list))
    }

    /// Adds a filter to those of the chain. Filters that set metadata are one here.
    pub(super) fn push_filter(
        &mut self,
        node: Node,
        place: &ProtoMessage,
        filters: &mut Vec<Node>,
    ) {
        let own = node.get("set_values").map(|entry| entry.node.clone());
        let Some(Node { value: Value::List(own), .. }) = own else {
            filters.push(node);
            return;
        };
        self.metadata.filters += 1;
        let is_one = |filter: &Node| filter.get("set_values").is_some();
        if !filters.iter().any(is_one) {
            filters.push(node);
        } else if let Some(last) = filters.last_mut().filter(|last| is_one(last))
            && let Value::Map(entries) = &mut last.value
            && let Some(entry) = entries.first_mut()
            && let Value::List(values) = &mut entry.node.value
        {
            values.extend(own);
        } else {
            let how = "filters that set metadata stand side by side";
            self.unsupported(place, "typed_config", how);
        }
    }
}

/// What `set_values` takes the value of a header or cookie from; `None` for parts of a request that it does not know.
fn source_of(kind: &str, name: &str) -> Option<String> {
    let name = if kind == "cookie" { name.to_owned() } else { name.to_ascii_lowercase() };
    Some(match (kind, &*name) {
        ("header", ":path") => "path".into(),
        ("header", ":method") => "method".into(),
        ("header", ":authority" | "host") => "host".into(),
        ("response_header", ":status") => "status".into(),
        (_, name) if name.starts_with(':') => return None,
        (kind, name) => format!("{kind}:{name}"),
    })
}

/// The fixed text of a pair, if it has one.
fn constant_of(pair: &ProtoMessage) -> Option<String> {
    match &pair.field("value")?.value {
        ProtoValue::Text(text) if !text.is_empty() => Some(text.to_string()),
        ProtoValue::Json(node) => node.text().map(str::to_owned),
        _ => None,
    }
}

/// Whether two pairs set the same.
fn says_same(a: &ProtoMessage, b: &ProtoMessage) -> bool {
    let place = |pair: &ProtoMessage| {
        (pair.text("metadata_namespace").cloned(), pair.text("key").cloned(), constant_of(pair))
    };
    place(a) == place(b)
}

/// The single values below a node by their paths; lists are noted without a text.
fn flat(node: &Node, above: &str, found: &mut Vec<(String, FixedText)>) {
    for entry in node.entries().unwrap_or_default() {
        let path =
            if above.is_empty() { entry.key.to_string() } else { format!("{above}.{}", entry.key) };
        match &entry.node.value {
            Value::Map(_) => flat(&entry.node, &path, found),
            _ => {
                found.push((path, entry.node.text().map(|text| (text.to_owned(), entry.node.span))))
            }
        }
    }
}
