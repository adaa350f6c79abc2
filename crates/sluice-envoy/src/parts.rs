//! Clusters and listeners of which parts come on their own: endpoints, route tables, secrets, settings of filters.
//!
//! Owns: what a resource needs of others, and how it is put together with them. Refuses to know: where they come from, and
//! what they are in the native form. Keeps: a resource that is put together is like one that was written as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sluice_core::{Diags, Span};

use crate::message::{ProtoField, ProtoItem, ProtoMessage, ProtoValue};
use crate::secret_files::path_of;
use crate::{descriptors, rules};

const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const HTTP_FILTER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";
const NETWORK_FILTER: &str = "envoy.config.listener.v3.Filter";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const ASSIGNMENT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const SCOPES: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRouteConfigurationsList";
const TABLE: &str = "envoy.config.route.v3.RouteConfiguration";

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// The endpoints of a cluster.
    Endpoints,
    /// The scopes of route tables.
    Scopes,
    /// A route table.
    Routes,
    /// The virtual hosts of a route table.
    Hosts,
    /// A secret.
    Secret,
    /// The settings of a filter.
    Extension,
}

/// Something that a resource needs.
#[derive(Debug)]
pub struct NeededPart<'m> {
    /// What it is.
    pub kind: PartKind,
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from: a `ConfigSource`; `None` if that is not said.
    pub source: Option<&'m ProtoMessage>,
    /// Whether it is not waited for.
    pub at_once: bool,
    /// Of scopes, where the route tables come from that they name.
    pub source_of_routes: Option<&'m ProtoMessage>,
}

/// Parts that have come. Secrets are looked up where they are used.
#[derive(Debug, Default)]
pub struct GivenParts<'m> {
    /// The endpoints of the cluster.
    pub endpoints: Option<&'m ProtoMessage>,
    /// Route tables by name.
    pub routes: HashMap<Arc<str>, &'m ProtoMessage>,
    /// Virtual hosts by the name of their route table.
    pub hosts: HashMap<Arc<str>, Vec<&'m ProtoMessage>>,
    /// Scopes, in order.
    pub scopes: Vec<&'m ProtoMessage>,
    /// Settings of filters by name.
    pub extensions: HashMap<Arc<str>, &'m ProtoMessage>,
}

/// What a scope says of itself.
#[derive(Debug)]
pub struct ScopeParts {
    /// Its key: each part with a zero byte behind it.
    pub key: Arc<str>,
    /// The name of its route table, unless the table is in it.
    pub routes: Option<Arc<str>>,
    /// Whether its route table is asked for once a request needs it.
    pub on_demand: bool,
}

impl ScopeParts {
    /// Of a `ScopedRouteConfiguration`.
    pub fn of(scope: &ProtoMessage) -> Self {
        let mut key = String::new();
        for fragment in inner(scope, "key").into_iter().flat_map(|key| items(key, "fragments")) {
            key.push_str(&text(fragment, "string_key").unwrap_or_default());
            key.push('\0');
        }
        let named = text(scope, "route_configuration_name");
        let routes = named.filter(|_| !scope.has("route_configuration"));
        Self { key: key.into(), routes, on_demand: is_true(scope, "on_demand") }
    }
}

/// The name of a resource.
pub fn name_of(message: &ProtoMessage) -> Arc<str> {
    text(message, "name").unwrap_or_else(|| "".into())
}

/// What a cluster, listener or route table needs that comes on its own.
pub fn needed(owner: &ProtoMessage) -> Vec<NeededPart<'_>> {
    let mut found: Vec<NeededPart<'_>> = endpoints(owner).into_iter().collect();
    collect(owner, &mut found);
    found
}

/// The endpoints that a cluster needs.
fn endpoints(cluster: &ProtoMessage) -> Option<NeededPart<'_>> {
    if cluster.type_name() != CLUSTER || !is_of_eds(cluster) {
        return None;
    }
    let config = inner(cluster, "eds_cluster_config");
    let named = config.and_then(|config| text(config, "service_name"));
    let name = named.or_else(|| text(cluster, "name"))?;
    let source = config.and_then(|config| inner(config, "eds_config"));
    let kind = PartKind::Endpoints;
    Some(NeededPart { kind, name, source, at_once: false, source_of_routes: None })
}

fn is_of_eds(cluster: &ProtoMessage) -> bool {
    let kind = cluster.peek("type").map(|field| &field.value);
    matches!(kind, Some(ProtoValue::Enum(_, Some(word))) if &**word == "EDS")
}

fn collect<'m>(message: &'m ProtoMessage, found: &mut Vec<NeededPart<'m>>) {
    let part = match message.type_name() {
        MANAGER => routes_of(message),
        TABLE => inner(message, "vhds").and_then(|of| {
            let (kind, source) = (PartKind::Hosts, inner(of, "config_source"));
            let name = text(message, "name")?;
            Some(NeededPart { kind, name, source, at_once: false, source_of_routes: None })
        }),
        HTTP_FILTER | NETWORK_FILTER => inner(message, "config_discovery").and_then(|config| {
            let (kind, source) = (PartKind::Extension, inner(config, "config_source"));
            let at_once = is_true(config, "apply_default_config_without_warming");
            let name = text(message, "name")?;
            Some(NeededPart { kind, name, source, at_once, source_of_routes: None })
        }),
        SECRET => inner(message, "sds_config").filter(|of| path_of(of).is_none()).and_then(|of| {
            let name = text(message, "name")?;
            let (kind, source) = (PartKind::Secret, Some(of));
            Some(NeededPart { kind, name, source, at_once: false, source_of_routes: None })
        }),
        _ => None,
    };
    if let Some(part) = part
        && !found.iter().any(|other| other.kind == part.kind && other.name == part.name)
    {
        found.push(part);
    }
    for field in &message.fields {
        field.value.messages(&mut |inner| collect(inner, found));
    }
}

/// The route table, or the scopes, that a connection manager needs.
fn routes_of(manager: &ProtoMessage) -> Option<NeededPart<'_>> {
    if let Some(scoped) = inner(manager, "scoped_routes") {
        let rds = inner(scoped, "scoped_rds")?;
        return Some(NeededPart {
            kind: PartKind::Scopes,
            name: "scopes".into(),
            source: inner(rds, "scoped_rds_config_source"),
            at_once: false,
            source_of_routes: inner(scoped, "rds_config_source"),
        });
    }
    let rds = inner(manager, "rds")?;
    let (kind, source) = (PartKind::Routes, inner(rds, "config_source"));
    let name = text(rds, "route_config_name")?;
    Some(NeededPart { kind, name, source, at_once: false, source_of_routes: None })
}

/// A cluster or listener with the parts that have come.
pub fn whole(owner: &ProtoMessage, parts: &GivenParts<'_>, diags: &mut Diags) -> ProtoMessage {
    if owner.type_name() != CLUSTER {
        let mut whole = owner.clone();
        insert(&mut whole, parts, diags);
        return whole;
    }
    if is_of_eds(owner) { with_endpoints(owner, parts.endpoints) } else { owner.clone() }
}

/// A cluster with its endpoints; without any if there are none yet.
fn with_endpoints(cluster: &ProtoMessage, assignment: Option<&ProtoMessage>) -> ProtoMessage {
    let mut whole = cluster.clone();
    let (span, empty) = (cluster.place("type"), nothing(ASSIGNMENT, cluster.place("type")));
    let Some(assignment) = assignment.cloned().or(empty) else { return whole };
    whole.unset("type");
    whole.unset("eds_cluster_config");
    whole.set("load_assignment", span, ProtoValue::Message(assignment));
    whole
}

/// Adds route tables and settings of filters; a table that is not there yet has no hosts.
fn insert(message: &mut ProtoMessage, parts: &GivenParts<'_>, diags: &mut Diags) {
    match message.type_name() {
        MANAGER => {
            insert_table(message, parts);
            insert_scopes(message, parts);
        }
        TABLE => insert_hosts(message, parts),
        HTTP_FILTER | NETWORK_FILTER => insert_settings(message, parts, diags),
        _ => {}
    }
    for field in &mut message.fields {
        field.value.messages_mut(&mut |inner| insert(inner, parts, diags));
    }
}

fn insert_table(manager: &mut ProtoMessage, parts: &GivenParts<'_>) {
    let span = manager.place("rds");
    let name = inner(manager, "rds").and_then(|rds| text(rds, "route_config_name"));
    let Some(name) = name else { return };
    let table = parts.routes.get(&name).map(|table| (*table).clone());
    let Some(mut table) = table.or_else(|| nothing(TABLE, span)) else { return };
    if table.peek("name").is_none() {
        table.set("name", span, ProtoValue::Text(name));
    }
    // Routes that come on their own may name clusters that come later.
    if table.peek("validate_clusters").is_none() {
        table.set("validate_clusters", span, ProtoValue::Bool(false));
    }
    manager.set("route_config", span, ProtoValue::Message(table));
}

/// Adds the scopes whose route tables have come. A table that several have is in the first of them, and those behind it name it.
fn insert_scopes(manager: &mut ProtoMessage, parts: &GivenParts<'_>) {
    let fields = manager.fields.iter_mut().filter(|of| of.descriptor.name() == "scoped_routes");
    for field in fields {
        field.value.messages_mut(&mut |scoped| {
            if !scoped.has("scoped_rds") {
                return;
            }
            let span = scoped.place("scoped_rds");
            let mut known: HashSet<Arc<str>> = HashSet::new();
            let mut there = Vec::new();
            for given in &parts.scopes {
                let mut scope = (*given).clone();
                if let Some(name) = ScopeParts::of(given).routes
                    && !known.contains(&name)
                {
                    let Some(table) = parts.routes.get(&name) else { continue };
                    let mut table = (*table).clone();
                    // Routes that come on their own may name clusters that come later.
                    if table.peek("validate_clusters").is_none() {
                        table.set("validate_clusters", span, ProtoValue::Bool(false));
                    }
                    scope.set("route_configuration", span, ProtoValue::Message(table));
                    known.insert(name);
                }
                there.push(ProtoItem { span: given.span, value: ProtoValue::Message(scope) });
            }
            let list = nothing(SCOPES, span);
            let Some(mut list) = list else { return };
            list.set("scoped_route_configurations", span, ProtoValue::List(there));
            // Beside `scoped_rds`, which says that they came on their own: in what somebody sends, the two exclude each other.
            let field = scoped.descriptor.get_field_by_name("scoped_route_configurations_list");
            let Some(field) = field else { return };
            scoped.fields.push(ProtoField::new(field, span, span, ProtoValue::Message(list)));
        });
    }
}

/// Adds the virtual hosts that have come beside those that the table has itself.
fn insert_hosts(table: &mut ProtoMessage, parts: &GivenParts<'_>) {
    let given = text(table, "name").and_then(|name| parts.hosts.get(&name));
    let Some(given) = given.filter(|_| table.has("vhds")) else { return };
    let span = table.place("vhds");
    let mut hosts = match table.peek("virtual_hosts").map(|field| &field.value) {
        Some(ProtoValue::List(own)) => own.clone(),
        _ => Vec::new(),
    };
    hosts.extend(given.iter().map(|host| {
        let (span, value) = (host.span, ProtoValue::Message((*host).clone()));
        ProtoItem { span, value }
    }));
    table.set("virtual_hosts", span, ProtoValue::List(hosts));
}

/// The settings that have come, or else the default ones. Without either, the filter stays as it is, and its chain refuses
/// connections.
fn insert_settings(filter: &mut ProtoMessage, parts: &GivenParts<'_>, diags: &mut Diags) {
    let Some(config) = inner(filter, "config_discovery") else { return };
    let Some(name) = text(filter, "name") else { return };
    let given = parts.extensions.get(&name).and_then(|of| inner(of, "typed_config"));
    let Some(settings) = given.or_else(|| inner(config, "default_config")) else { return };
    let types: Vec<Arc<str>> = match config.peek("type_urls").map(|field| &field.value) {
        Some(ProtoValue::List(items)) => {
            let texts = items.iter().filter_map(|item| match &item.value {
                ProtoValue::Text(text) => Some(Arc::clone(text)),
                _ => None,
            });
            texts.collect()
        }
        _ => Vec::new(),
    };
    let own = settings.type_name();
    let fits = |url: &Arc<str>| descriptors::name_of(url) == Some(own);
    if !types.iter().any(fits) {
        let message = format!(
            "the settings are of the type {own}; the filter `{name}` takes {}",
            types.join(", ")
        );
        let finding = diags.error("bad-value", settings.span, &*settings.path, message);
        finding.help("list the type among the `type_urls` of the filter, or send another");
    }
    let (span, settings) = (settings.span, settings.clone());
    filter.set("typed_config", span, ProtoValue::Message(settings));
}

/// A message of a type, without any field.
fn nothing(name: &str, span: Span) -> Option<ProtoMessage> {
    let descriptor = descriptors::message(name)?;
    Some(ProtoMessage { descriptor, path: "".into(), span, fields: Vec::new() })
}

pub(crate) fn inner<'m>(of: &'m ProtoMessage, field: &str) -> Option<&'m ProtoMessage> {
    match &of.peek(field)?.value {
        ProtoValue::Message(message) => Some(message),
        _ => None,
    }
}

/// Whether a resource contains a secret: a field that its definition calls sensitive, other than by the name of a file.
pub fn has_secret(of: &ProtoMessage) -> bool {
    of.fields.iter().any(|field| {
        let is_secret = rules::is_sensitive(&field.descriptor) && !is_elsewhere(&field.value);
        let mut inner = false;
        field.value.messages(&mut |message| inner |= has_secret(message));
        is_secret || inner
    })
}

/// Whether every value is in a file or in the environment.
fn is_elsewhere(value: &ProtoValue) -> bool {
    match value {
        ProtoValue::Message(of) if of.descriptor.name() == "DataSource" => {
            of.has("filename") || of.has("environment_variable")
        }
        ProtoValue::List(items) => items.iter().all(|item| is_elsewhere(&item.value)),
        ProtoValue::Map(entries) => entries.iter().all(|(_, item)| is_elsewhere(&item.value)),
        _ => false,
    }
}

fn is_true(of: &ProtoMessage, field: &str) -> bool {
    matches!(of.peek(field).map(|field| &field.value), Some(ProtoValue::Bool(true)))
}

/// The messages of a repeated field, without counting it as read.
pub(crate) fn items<'m>(of: &'m ProtoMessage, field: &str) -> Vec<&'m ProtoMessage> {
    let mut found = Vec::new();
    for field in of.fields.iter().filter(|found| found.descriptor.name() == field) {
        field.value.messages(&mut |message| found.push(message));
    }
    found
}

pub(crate) fn text(of: &ProtoMessage, field: &str) -> Option<Arc<str>> {
    match &of.peek(field)?.value {
        ProtoValue::Text(text) if !text.is_empty() => Some(Arc::clone(text)),
        _ => None,
    }
}
