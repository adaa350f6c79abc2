//! Scoped routes: one native table, whose hosts say for which scopes they are.
//!
//! Owns: the key of a request, the keys of scopes, which table is of which scope. Refuses to know: what hosts and routes say, and
//! where scopes come from. Keeps: a table that several scopes have is mapped once.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::{Node, Span, Value};

use super::http::HttpDefaults;
use super::routes::{MappedRoutes, TableDefaults};
use super::{Mapping, UniqueNames};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted, single};

/// A table, and the keys of the scopes that have it.
struct ScopedTable<'m> {
    table: &'m ProtoMessage,
    keys: Vec<Node>,
}

impl Mapping<'_> {
    /// The routes of all scopes. What their requests wait for, if they do, is added to `http`.
    pub(super) fn scoped_table(
        &mut self,
        scoped: &ProtoMessage,
        http: &HttpDefaults,
        native: &mut NativeMap,
    ) -> Option<MappedRoutes> {
        for field in ["rds_config_source", "scoped_rds"] {
            // What has come is in the list already.
            if let Some(of) = scoped.message(field) {
                of.all_without_effect();
            }
        }
        let builder = scoped.message("scope_key_builder")?;
        let parts = builder.messages("fragments").map(|of| self.part_of_key(of));
        let parts: Vec<Node> = parts.collect::<Option<_>>()?;
        let span = builder.span;
        let key = Node { value: Value::List(parts), span };
        let comes = scoped.has("scoped_rds");
        if comes {
            native.set("scopes_on_demand", single("key", key.clone()));
        }
        let list = scoped.message("scoped_route_configurations_list");
        let scopes = list.map(|of| of.messages("scoped_route_configurations").collect::<Vec<_>>());
        let scopes = scopes.unwrap_or_default();
        let tables = self.tables_of(&scopes, key.items().len(), comes);
        let name = self.name_of_routes(scoped.text("name").map_or("scopes", |name| name));
        self.rule_names = UniqueNames::default();
        let (mut hosts, mut edited_below) = (Vec::new(), false);
        for ScopedTable { table, keys } in tables {
            let keys = Node { value: Value::List(keys), span: table.span };
            let mut scope = NativeMap::new(table.span);
            scope.set("key", key.clone());
            scope.set("values", keys);
            let (scope, edits) = (scope.node(), self.edits_of_table(table));
            table.without_effect(&["name"]);
            let edits = (!edits.is_empty()).then(|| edits.node());
            let defaults = TableDefaults {
                http,
                unknown_clusters: table.bool("validate_clusters") == Some(false),
                scope: Some(&scope),
                edits: edits.as_ref(),
            };
            let (more, edited) = self.hosts_of(table, &defaults);
            edited_below |= edited;
            hosts.extend(more);
        }
        self.add_table(&name, hosts, true, scoped.span);
        let headers = single("set_headers", NativeMap::new(scoped.span).node());
        let span = scoped.place("name");
        Some(MappedRoutes { name, span, headers, edits: false, edited_below })
    }

    /// The tables of scopes, each with the keys of those that have it. `comes` says that scopes come on their own: then a table
    /// may be one that another scope has.
    fn tables_of<'m>(
        &mut self,
        scopes: &[&'m ProtoMessage],
        parts: usize,
        comes: bool,
    ) -> Vec<ScopedTable<'m>> {
        let mut tables: Vec<ScopedTable<'m>> = Vec::new();
        let mut by_name: HashMap<Arc<str>, usize> = HashMap::new();
        let mut known: HashMap<Vec<&'m str>, &'m str> = HashMap::new();
        for scope in scopes {
            let name = scope.text("name").map_or("", |name| name);
            scope.without_effect(&["on_demand"]);
            let Some(key) = scope.message("key") else { continue };
            let fragments = || key.messages("fragments");
            let text: Vec<&str> =
                fragments().map(|of| of.text("string_key").map_or("", |text| text)).collect();
            if let Some(other) = known.insert(text.clone(), name) {
                let message = format!("the scope `{other}` has the same key");
                let finding = self.diags.error("duplicate-name", key.span, &*key.path, message);
                finding.help("give each scope a key of its own");
                continue;
            }
            let named = scope.text("route_configuration_name");
            if let (Some(_), false) = (named, comes) {
                let message =
                    "a scope that is written in the file has its routes in `route_configuration`";
                let field = "route_configuration_name";
                let at = scope.at(field);
                self.diags.error("bad-value", scope.place(field), at, message);
                continue;
            }
            let place = named.and_then(|name| by_name.get(name).copied());
            let place = match (place, scope.message("route_configuration")) {
                (_, Some(table)) => {
                    tables.push(ScopedTable { table, keys: Vec::new() });
                    if let Some(named) = named {
                        by_name.insert(Arc::clone(named), tables.len() - 1);
                    }
                    tables.len() - 1
                }
                (Some(place), None) => place,
                // It has not come, or is not there: its requests get 404.
                (None, None) => {
                    if !comes {
                        let message = "`route_configuration` is missing";
                        self.diags.error("missing-field", scope.span, &*scope.path, message);
                    }
                    continue;
                }
            };
            if text.len() != parts {
                let how = format!(
                    "no request is in this scope: its key has {} parts, and those of requests have {parts}",
                    text.len()
                );
                self.differs(scope, "key", &how);
                continue;
            }
            let items = fragments().zip(&text).map(|(of, text)| quoted(text, of.span)).collect();
            if let Some(of) = tables.get_mut(place) {
                of.keys.push(Node { value: Value::List(items), span: key.span });
            }
        }
        // One whose keys no request has.
        tables.retain(|of| {
            if of.keys.is_empty() {
                of.table.all_without_effect();
            }
            !of.keys.is_empty()
        });
        tables
    }

    /// A part of the key of requests.
    fn part_of_key(&mut self, fragment: &ProtoMessage) -> Option<Node> {
        let Some(header) = fragment.message("header_value_extractor") else {
            self.unsupported_at(fragment, "only `header_value_extractor` is");
            return None;
        };
        let name = header.text("name")?;
        let mut part = NativeMap::new(header.span);
        part.text("header", &name.to_ascii_lowercase(), header.place("name"));
        let separator = header.text("element_separator").filter(|of| !of.is_empty());
        if let Some(separator) = separator {
            part.text("separator", separator, header.place("element_separator"));
        }
        let span: Span = header.span;
        if let Some(element) = header.message("element") {
            part.text("element", element.text("key").map_or("", |key| key), element.place("key"));
            let sign = element.text("separator").map_or("", |sign| sign);
            part.text("assignment", sign, element.place("separator"));
        } else if let Some(index) = header.number("index") {
            if index > 0 && separator.is_none() {
                let message =
                    "`index` is above 0, and without `element_separator` there is one element";
                let at = header.at("index");
                self.diags.error("bad-value", header.place("index"), at, message);
                return None;
            }
            if index > 0 {
                part.word("item", index + 1, header.place("index"));
            }
        } else {
            let message = "`header_value_extractor` needs `element` or `index`";
            self.diags.error("missing-field", span, &*header.path, message);
            return None;
        }
        Some(part.node())
    }
}
