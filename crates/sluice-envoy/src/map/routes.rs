//! Route tables and virtual hosts.
//!
//! Owns: domains, and what a table and its hosts add to their routes. Refuses to know: what routes match and do.

use sluice_core::{Node, Span, Value};

use super::http::HttpDefaults;
use super::{Mapping, UniqueNames};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

/// A route table that was mapped.
pub(super) struct MappedRoutes {
    /// Its native name.
    pub(super) name: String,
    /// Its place.
    pub(super) span: Span,
    /// The filter `set_headers` with the edits of the table.
    pub(super) headers: Node,
    /// Whether it has any.
    pub(super) edits: bool,
    /// Whether a host or route has any.
    pub(super) edited_below: bool,
}

/// What hosts take from their table.
pub(super) struct TableDefaults<'m> {
    pub(super) http: &'m HttpDefaults,
    /// Whether a route may name a cluster that the file does not have.
    pub(super) unknown_clusters: bool,
    /// The scope that the table is of.
    pub(super) scope: Option<&'m Node>,
    /// The edits of a table that is of a scope.
    pub(super) edits: Option<&'m Node>,
}

/// What routes take from their host.
pub(super) struct HostDefaults<'m> {
    pub(super) host: &'m ProtoMessage,
    pub(super) http: &'m HttpDefaults,
    /// Whether a route may name a cluster that the file does not have.
    pub(super) unknown_clusters: bool,
    pub(super) edited: bool,
    /// What the host says of filters.
    pub(super) filters: NativeMap,
}

impl Mapping<'_> {
    /// A route table, under a name of its own.
    pub(super) fn route_table(
        &mut self,
        table: &ProtoMessage,
        http: &HttpDefaults,
    ) -> MappedRoutes {
        let wanted = table.text("name").map_or("routes", |name| name);
        let name = self.name_of_routes(wanted);
        let edits = self.edits_of_table(table);
        self.rule_names = UniqueNames::default();
        let defaults = TableDefaults {
            http,
            unknown_clusters: table.bool("validate_clusters") == Some(false),
            scope: None,
            edits: None,
        };
        let (hosts, edited_below) = self.hosts_of(table, &defaults);
        let span = table.place("name");
        self.add_table(&name, hosts, table.has("vhds"), table.span);
        let edit = !edits.is_empty();
        MappedRoutes {
            name,
            span,
            headers: single("set_headers", edits.node()),
            edits: edit,
            edited_below,
        }
    }

    /// The edits of a table. Whether clusters exist is always validated, and hosts are compared without ports.
    pub(super) fn edits_of_table(&mut self, table: &ProtoMessage) -> NativeMap {
        table.without_effect(&[
            "validate_clusters",
            "ignore_port_in_host_matching",
            "metadata",
            "max_direct_response_body_size_bytes",
            "most_specific_header_mutations_wins",
        ]);
        if let Some(metadata) = table.message("metadata") {
            metadata.all_without_effect();
        }
        if let Some(vhds) = table.message("vhds") {
            // The hosts that have come are in the table already.
            vhds.all_without_effect();
        }
        let mut edits = NativeMap::new(table.span);
        self.header_edits(table, &mut edits);
        edits
    }

    /// The virtual hosts of a table, and whether one of them, or of their routes, edits headers.
    pub(super) fn hosts_of(
        &mut self,
        table: &ProtoMessage,
        defaults: &TableDefaults<'_>,
    ) -> (Vec<Node>, bool) {
        let (mut hosts, mut edited_below) = (Vec::new(), false);
        for host in table.messages("virtual_hosts") {
            let (native, edited) = self.virtual_host(host, defaults);
            edited_below |= edited;
            hosts.push(native);
        }
        (hosts, edited_below)
    }

    /// Adds a table. Without hosts it answers 404, for which a rule stands, unless its hosts come later: then a host without rules
    /// does.
    pub(super) fn add_table(
        &mut self,
        name: &str,
        mut hosts: Vec<Node>,
        comes_later: bool,
        span: Span,
    ) {
        if hosts.is_empty() {
            let mut only = NativeMap::new(span);
            if comes_later {
                only.set("hosts", quoted("*", span));
            } else {
                only.set("respond", single("status", plain(404, span)));
            }
            hosts.push(only.node());
        }
        self.routes.push(name, Node { value: Value::List(hosts), span });
    }

    fn virtual_host(&mut self, host: &ProtoMessage, table: &TableDefaults<'_>) -> (Node, bool) {
        let (http, unknown_clusters) = (table.http, table.unknown_clusters);
        let mut native = NativeMap::new(host.span);
        host.without_effect(&[
            "name",
            "virtual_clusters",
            "per_request_buffer_limit_bytes",
            "request_body_buffer_limit",
        ]);
        for field in ["virtual_clusters", "metadata"] {
            host.field(field).into_iter().for_each(|field| {
                field.value.messages(&mut ProtoMessage::all_without_effect);
            });
        }
        let mut domains: Vec<(String, Span)> = Vec::new();
        for (domain, span) in host.texts("domains") {
            let name = without_port(domain);
            if !domains.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                domains.push((name.to_owned(), span));
            }
        }
        if !domains.iter().any(|(domain, _)| domain == "*") {
            let hosts = domains.iter().map(|(domain, span)| quoted(domain, *span)).collect();
            native.list("hosts", hosts, host.place("domains"));
        }
        match &*host.choice("require_tls") {
            "EXTERNAL_ONLY" => native.word("require_tls", "external", host.place("require_tls")),
            "ALL" => native.word("require_tls", "all", host.place("require_tls")),
            _ => {}
        }
        let mut filters = NativeMap::new(host.span);
        let mut edits = NativeMap::new(host.span);
        self.header_edits(host, &mut edits);
        if let Some(of_table) = table.edits {
            self.add_edits(of_table, &mut edits, host);
        }
        if let Some(scope) = table.scope {
            native.set("scope", scope.clone());
        }
        let mut edited = !edits.is_empty();
        filters.map("set_headers", edits);
        self.filter_overrides(host, &mut filters);
        self.rate_limits(host, false, &mut filters);
        self.skip_what_is_off(&http.off, host, &mut filters);
        native.map("filters", filters.clone());
        let mut defaults = HostDefaults { host, http, unknown_clusters, edited: false, filters };
        let mut rules = Vec::new();
        for route in host.messages("routes") {
            rules.extend(self.rule(route, &mut defaults, None));
        }
        if let Some(matcher) = host.message("matcher") {
            rules.extend(self.rules_of_tree(matcher, &mut defaults));
        }
        edited |= defaults.edited;
        // Routes took what these say.
        host.without_effect(&[
            "retry_policy",
            "hedge_policy",
            "request_mirror_policies",
            "include_request_attempt_count",
            "include_attempt_count_in_response",
        ]);
        native.list("rules", rules, host.place("routes"));
        (native.node(), edited)
    }

    /// What a rule with its host's attempt counts says.
    pub(super) fn attempt_count(&mut self, host: &ProtoMessage, rule: &mut NativeMap) {
        let mut sides = Vec::new();
        if host.is("include_request_attempt_count") {
            sides.push(plain("request", host.place("include_request_attempt_count")));
        }
        if host.is("include_attempt_count_in_response") {
            sides.push(plain("response", host.place("include_attempt_count_in_response")));
        }
        rule.list("attempt_count", sides, host.span);
    }
}

/// A domain without its port.
fn without_port(domain: &str) -> &str {
    match domain.rsplit_once(':') {
        Some((host, port))
            if (port == "*" || port.bytes().all(|b| b.is_ascii_digit()))
                && !port.is_empty()
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => domain,
    }
}
