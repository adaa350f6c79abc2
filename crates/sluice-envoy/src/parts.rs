//! Clusters and listeners whose endpoints and route tables come on their own.
//!
//! Owns: what a resource needs of others, and how it is put together with them. Refuses to know: where they come from, and
//! what they are in the native form. Keeps: a resource that is put together is like one that was written as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::{Diags, Span};

use crate::descriptors;
use crate::message::{ProtoMessage, ProtoValue};

const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ASSIGNMENT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const TABLE: &str = "envoy.config.route.v3.RouteConfiguration";

/// Something that a resource needs.
#[derive(Debug)]
pub struct NeededPart<'m> {
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from: a `ConfigSource`; `None` if that is not said.
    pub source: Option<&'m ProtoMessage>,
}

/// The name of a cluster or listener.
pub fn name_of(message: &ProtoMessage) -> Arc<str> {
    text(message, "name").unwrap_or_else(|| "".into())
}

/// The endpoints that a cluster needs.
pub fn of_cluster(cluster: &ProtoMessage) -> Option<NeededPart<'_>> {
    let kind = cluster.peek("type")?;
    if !matches!(&kind.value, ProtoValue::Enum(_, Some(word)) if &**word == "EDS") {
        return None;
    }
    let config = inner(cluster, "eds_cluster_config");
    let named = config.and_then(|config| text(config, "service_name"));
    let name = named.or_else(|| text(cluster, "name"))?;
    Some(NeededPart { name, source: config.and_then(|config| inner(config, "eds_config")) })
}

/// The route tables that a listener needs.
pub fn of_listener(listener: &ProtoMessage) -> Vec<NeededPart<'_>> {
    let mut found = Vec::new();
    collect(listener, &mut found);
    found
}

fn collect<'m>(message: &'m ProtoMessage, found: &mut Vec<NeededPart<'m>>) {
    if message.type_name() == MANAGER {
        if let Some(rds) = inner(message, "rds")
            && let Some(name) = text(rds, "route_config_name")
            && !found.iter().any(|part: &NeededPart<'_>| part.name == name)
        {
            found.push(NeededPart { name, source: inner(rds, "config_source") });
        }
        return;
    }
    for field in &message.fields {
        field.value.messages(&mut |inner| collect(inner, found));
    }
}

/// A cluster with its endpoints; without any if there are none yet.
pub fn with_endpoints(
    cluster: &ProtoMessage,
    assignment: Option<&ProtoMessage>,
    diags: &mut Diags,
) -> ProtoMessage {
    let mut whole = cluster.clone();
    let (span, empty) = (cluster.place("type"), nothing(ASSIGNMENT, cluster.place("type")));
    let Some(assignment) = assignment.cloned().or(empty) else { return whole };
    check(&assignment, diags);
    whole.unset("type");
    whole.unset("eds_cluster_config");
    whole.set("load_assignment", span, ProtoValue::Message(assignment));
    whole
}

/// A listener with its route tables; one that is not there yet has no hosts.
pub fn with_routes(
    listener: &ProtoMessage,
    tables: &HashMap<Arc<str>, &ProtoMessage>,
) -> ProtoMessage {
    let mut whole = listener.clone();
    insert(&mut whole, tables);
    whole
}

fn insert(message: &mut ProtoMessage, tables: &HashMap<Arc<str>, &ProtoMessage>) {
    if message.type_name() == MANAGER {
        let span = message.place("rds");
        let name = inner(message, "rds").and_then(|rds| text(rds, "route_config_name"));
        let Some(name) = name else { return };
        let table = tables.get(&name).map(|table| (*table).clone());
        let Some(mut table) = table.or_else(|| nothing(TABLE, span)) else { return };
        if table.peek("name").is_none() {
            table.set("name", span, ProtoValue::Text(name));
        }
        // Routes that come on their own may name clusters that come later.
        if table.peek("validate_clusters").is_none() {
            table.set("validate_clusters", span, ProtoValue::Bool(false));
        }
        message.set("route_config", span, ProtoValue::Message(table));
        return;
    }
    for field in &mut message.fields {
        field.value.messages_mut(&mut |inner| insert(inner, tables));
    }
}

/// Refuses what endpoints from a plane say and has no counterpart.
fn check(assignment: &ProtoMessage, diags: &mut Diags) {
    if let Some(policy) = inner(assignment, "policy")
        && let Some(drops) = policy.peek("drop_overloads")
        && matches!(&drops.value, ProtoValue::List(items) if !items.is_empty())
    {
        let message = "`drop_overloads` is not supported: requests are not dropped by share";
        let finding = diags.error(
            crate::coverage::UNSUPPORTED,
            drops.span,
            policy.at("drop_overloads"),
            message,
        );
        finding.help(
            "send fewer requests, or limit them with `circuit_breakers` or `local_ratelimit`",
        );
    }
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

pub(crate) fn text(of: &ProtoMessage, field: &str) -> Option<Arc<str>> {
    match &of.peek(field)?.value {
        ProtoValue::Text(text) if !text.is_empty() => Some(Arc::clone(text)),
        _ => None,
    }
}
