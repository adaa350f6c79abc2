//! Role-based access control by a tree of matchers.
//!
//! Owns: how a tree of actions becomes policies that allow and deny. Refuses to know: the policies of `rules`. Keeps: the
//! first match decides, as in Envoy, although policies here have no order.

use sluice_core::Node;

use super::Mapping;
use super::policies::{Condition, everybody};
use super::trees::Test;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    /// Adds the policies of a `Matcher` of `rbac`.
    pub(super) fn policies_of_tree(&mut self, matcher: &ProtoMessage, native: &mut NativeMap) {
        let Some(leaves) = self.leaves(matcher) else { return };
        let mut names = super::UniqueNames::default();
        let (mut deny, mut allow) = (NativeMap::new(matcher.span), NativeMap::new(matcher.span));
        // What is allowed before: it is not denied any more.
        let mut allowed: Vec<Node> = Vec::new();
        let mut ends = false;
        for leaf in leaves {
            let Some(config) = leaf.action.message("typed_config") else { continue };
            if config.type_name() != "envoy.config.rbac.v3.Action" {
                self.unsupported_type(config);
                return;
            }
            let name = names.add(config.text("name").map_or("policy", |name| name));
            let Some(condition) = self.all_of(&leaf.tests, config) else { return };
            let action = config.choice("action");
            match (&*action, condition) {
                ("ALLOW", Condition::Always) => {
                    ends = true;
                    // Without policies that allow, all that is not denied passes.
                    if !allow.is_empty() {
                        allow.push(&name, everybody(config.span));
                    }
                }
                ("ALLOW", Condition::Holds(node)) => {
                    allow.push(&name, principals(node.clone()));
                    allowed.push(node);
                }
                ("DENY", Condition::Always) => {
                    ends = true;
                    if allow.is_empty() {
                        deny.push(&name, everybody(config.span));
                    }
                }
                ("DENY", Condition::Holds(node)) => {
                    deny.push(&name, principals(unless(node, &allowed)));
                }
                _ => {
                    self.unsupported(config, "action", "write ALLOW or DENY");
                    return;
                }
            }
            if ends {
                break;
            }
        }
        // Envoy denies what matches nothing.
        if !ends && allow.is_empty() {
            deny.push(&names.add("no-match"), everybody(matcher.span));
        }
        native.map("deny", deny);
        native.map("allow", allow);
    }

    /// All of these tests, as one condition.
    fn all_of(&mut self, tests: &[Test<'_>], place: &ProtoMessage) -> Option<Condition> {
        let mut nodes = Vec::new();
        for test in tests {
            nodes.push(match test {
                Test::Predicate(predicate) => self.predicate(predicate)?,
                Test::Key { input, key, prefix } => self.input(input, key, *prefix)?,
            });
        }
        Some(match nodes.len() {
            0 => Condition::Always,
            1 => Condition::Holds(nodes.remove(0)),
            _ => Condition::Holds(list("all", nodes, place)),
        })
    }

    fn predicate(&mut self, predicate: &ProtoMessage) -> Option<Node> {
        for (field, word) in [("or_matcher", "any"), ("and_matcher", "all")] {
            if let Some(of) = predicate.message(field) {
                let inner: Option<Vec<Node>> =
                    of.messages("predicate").map(|of| self.predicate(of)).collect();
                return Some(list(word, inner?, of));
            }
        }
        if let Some(inner) = predicate.message("not_matcher") {
            return Some(single("not", self.predicate(inner)?));
        }
        let of = predicate.message("single_predicate")?;
        let input = of.message("input")?;
        let Some(value) = of.message("value_match") else {
            self.unsupported(of, "custom_match", "write `value_match`");
            return None;
        };
        if input.message("typed_config").is_some_and(is_header) {
            return self.header_input(input, value);
        }
        self.only_false(value, "ignore_case", "");
        if let Some(exact) = value.text("exact") {
            return self.input(input, exact, false);
        }
        if let Some(prefix) = value.text("prefix") {
            return self.input(input, prefix, true);
        }
        let how = "write `exact` or `prefix`";
        for field in ["suffix", "contains", "safe_regex", "custom"] {
            if value.has(field) {
                self.unsupported(value, field, how);
            }
        }
        None
    }

    /// The condition that an input is, or begins with, a text.
    fn input(&mut self, input: &ProtoMessage, text: &str, prefix: bool) -> Option<Node> {
        input.without_effect(&["name"]);
        let config = input.message("typed_config")?;
        let span = config.span;
        if text.contains('*') {
            self.unsupported_with(config, "a text with a star");
            return None;
        }
        let pattern = if prefix { format!("{text}*") } else { text.to_owned() };
        match config.descriptor.name() {
            // Only an URI has a scheme, and neither a name nor a subject is taken for one.
            "UriSanInput" if text.contains("://") => {
                Some(single("certificate", quoted(&pattern, span)))
            }
            "DnsSanInput" if !text.contains([':', '=']) && !text.is_empty() => {
                Some(single("certificate", quoted(&pattern, span)))
            }
            "ServerNameInput" if !prefix => Some(single("sni", quoted(text, span))),
            "DestinationPortInput" if !prefix => {
                let port = text.parse::<u16>().ok()?;
                Some(single("port", plain(port, span)))
            }
            "HttpRequestHeaderMatchInput" => {
                let name = config.text("header_name")?.to_ascii_lowercase();
                let value = quoted(text, span);
                let value = if prefix { single("prefix", value) } else { value };
                self.named_header(config, &name, value)
            }
            _ => {
                self.unsupported_with(config, "this test of it");
                None
            }
        }
    }

    fn header_input(&mut self, input: &ProtoMessage, value: &ProtoMessage) -> Option<Node> {
        input.without_effect(&["name"]);
        let config = input.message("typed_config")?;
        let name = config.text("header_name")?.to_ascii_lowercase();
        let value = self.string_match(value)?;
        self.named_header(config, &name, value)
    }

    fn named_header(&mut self, config: &ProtoMessage, name: &str, value: Node) -> Option<Node> {
        match name {
            ":method" if value.text().is_some() => Some(single("method", value)),
            ":authority" if value.text().is_some() => Some(single("host", value)),
            ":path" if value.get("prefix").is_some() => {
                let prefix = value.get("prefix")?.node.clone();
                Some(single("path", single("starts_with", prefix)))
            }
            _ if name.starts_with(':') => {
                self.unsupported_with(config, "this test of a part of the request");
                None
            }
            _ => Some(single("headers", single(name, value))),
        }
    }

    /// Reports that something of a message has no counterpart.
    fn unsupported_with(&mut self, of: &ProtoMessage, what: &str) {
        of.all_without_effect();
        let message = format!("{} is not supported with {what}", of.type_name());
        self.diags.error(crate::coverage::UNSUPPORTED, of.span, &*of.path, message);
    }
}

fn is_header(config: &ProtoMessage) -> bool {
    config.descriptor.name() == "HttpRequestHeaderMatchInput"
}

fn principals(node: Node) -> Node {
    single("principals", node)
}

/// A condition, except where one of these holds.
fn unless(node: Node, others: &[Node]) -> Node {
    if others.is_empty() {
        return node;
    }
    let span = node.span;
    let mut all = vec![node];
    all.extend(others.iter().map(|other| single("not", other.clone())));
    let mut native = NativeMap::new(span);
    native.list("all", all, span);
    native.node()
}

fn list(word: &str, nodes: Vec<Node>, place: &ProtoMessage) -> Node {
    let mut native = NativeMap::new(place.span);
    native.list(word, nodes, place.span);
    native.node()
}
