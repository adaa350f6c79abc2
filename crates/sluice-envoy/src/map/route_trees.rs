//! Routes by a tree of matchers.
//!
//! Owns: how the tests of a tree become conditions of rules. Refuses to know: what a route does. Keeps: where a tree has
//! chosen routes of which none matches, the response is 404, as in Envoy, not that of another route.

use sluice_core::{Node, Span};

use super::Mapping;
use super::conditions::{Both, both, header_is};
use super::routes::HostDefaults;
use super::trees::Test;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted, single};

/// How many conditions the tests on the way to an action may make.
const ALTERNATIVES_MAX: usize = 64;

impl Mapping<'_> {
    /// The rules of a `Matcher` of a virtual host.
    pub(super) fn rules_of_tree(
        &mut self,
        matcher: &ProtoMessage,
        defaults: &mut HostDefaults<'_>,
    ) -> Vec<Node> {
        let mut rules = Vec::new();
        for leaf in self.leaves(matcher).unwrap_or_default() {
            let Some(config) = leaf.action.message("typed_config") else { continue };
            let Some(alternatives) = self.alternatives(&leaf.tests, config.span) else {
                config.all_without_effect();
                continue;
            };
            let routes: Vec<&ProtoMessage> = match config.type_name() {
                "envoy.config.route.v3.Route" => vec![config],
                "envoy.config.route.v3.RouteList" => config.messages("routes").collect(),
                _ => {
                    self.unsupported_type(config);
                    continue;
                }
            };
            for route in routes {
                rules.extend(self.rule(route, defaults, Some(&alternatives)));
            }
            for condition in alternatives {
                let mut respond = NativeMap::new(config.span);
                respond.word("status", 404, config.span);
                let mut rule = NativeMap::new(config.span);
                rule.map("match", condition);
                rule.map("respond", respond);
                rules.push(rule.node());
            }
        }
        rules
    }

    /// The `match` sections of which one must hold so that all of these tests do.
    pub(super) fn alternatives(
        &mut self,
        tests: &[Test<'_>],
        span: Span,
    ) -> Option<Vec<NativeMap>> {
        let mut found = vec![NativeMap::new(span)];
        for test in tests {
            let next = match test {
                Test::Predicate(predicate) => self.route_predicate(predicate)?,
                Test::Key { input, key, prefix } => {
                    let value = quoted(key, input.span);
                    let value = if *prefix { single("prefix", value) } else { value };
                    vec![self.route_input(input, value)?]
                }
            };
            found = self.joined(&found, &next, tests)?;
        }
        Some(found)
    }

    /// Every pair that can hold at once.
    fn joined(
        &mut self,
        all: &[NativeMap],
        others: &[NativeMap],
        tests: &[Test<'_>],
    ) -> Option<Vec<NativeMap>> {
        let mut found = Vec::new();
        for one in all {
            for other in others {
                match both(one, other) {
                    Both::As(joined) => found.push(joined),
                    Both::Never => {}
                    Both::Unclear => {
                        self.refuse_test(tests, "these tests cannot be written as one condition");
                        return None;
                    }
                }
            }
        }
        if found.len() > ALTERNATIVES_MAX {
            self.refuse_test(tests, "these tests make more than 64 conditions");
            return None;
        }
        Some(found)
    }

    fn refuse_test(&mut self, tests: &[Test<'_>], why: &str) {
        let Some(Test::Predicate(place) | Test::Key { input: place, .. }) = tests.last() else {
            return;
        };
        place.all_without_effect();
        let message = format!("{} is not supported here: {why}", place.type_name());
        self.diags.error(crate::coverage::UNSUPPORTED, place.span, &*place.path, message);
    }

    fn route_predicate(&mut self, predicate: &ProtoMessage) -> Option<Vec<NativeMap>> {
        if let Some(list) = predicate.message("or_matcher") {
            let mut found = Vec::new();
            for inner in list.messages("predicate") {
                found.extend(self.route_predicate(inner)?);
            }
            return Some(found);
        }
        if let Some(list) = predicate.message("and_matcher") {
            let mut found = vec![NativeMap::new(list.span)];
            for inner in list.messages("predicate") {
                let next = self.route_predicate(inner)?;
                found = self.joined(&found, &next, &[Test::Predicate(inner)])?;
            }
            return Some(found);
        }
        let (of, negated) = match predicate.message("not_matcher") {
            Some(inner) => (inner, true),
            None => (predicate, false),
        };
        let Some(single_test) = of.message("single_predicate") else {
            self.refuse_test(&[Test::Predicate(predicate)], "only a single test can be negated");
            return None;
        };
        let input = single_test.message("input")?;
        let Some(matcher) = single_test.message("value_match") else {
            self.unsupported(single_test, "custom_match", "write `value_match`");
            return None;
        };
        let mut value = self.string_match(matcher)?;
        if negated {
            value = single("not", value);
        }
        self.route_input(input, value).map(|condition| vec![condition])
    }

    /// The condition that an input has this value.
    fn route_input(&mut self, input: &ProtoMessage, value: Node) -> Option<NativeMap> {
        input.without_effect(&["name"]);
        let config = input.message("typed_config")?;
        let condition = match config.descriptor.name() {
            "HttpRequestHeaderMatchInput" => {
                let name = config.text("header_name")?.to_ascii_lowercase();
                let exact_path = name == ":path" && value.text().is_some();
                let condition = header_is(&name, value);
                if exact_path && condition.is_some() {
                    let how = "the path is compared without its query";
                    self.differs(config, "header_name", how);
                }
                condition
            }
            "HttpRequestQueryParamMatchInput" => {
                let name = config.text("query_param")?;
                let mut native = NativeMap::new(config.span);
                native.set("query", single(name, value));
                Some(native)
            }
            _ => {
                self.unsupported_type(config);
                return None;
            }
        };
        if condition.is_none() {
            self.refuse_test(&[Test::Predicate(config)], "routes cannot test it so");
        }
        condition
    }
}
