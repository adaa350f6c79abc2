//! `/config_dump`: the configuration as Envoy's messages.
//!
//! Owns: the sections and what is selected of them. Refuses to know: how messages are written. Keeps: what is sensitive is
//! hidden; messages are decoded beside the control thread.

use std::time::Duration;

use serde_json::{Map, Value, json};
use sluice_core::Diags;
use sluice_core::clock::rfc3339;
use sluice_envoy::message::ProtoMessage;
use sluice_envoy::stats::show::StatQuery;
use sluice_envoy::{descriptors, dump, wire};
use sluice_xds::XdsType;

use super::bootstrap;
use super::{EnvoyPages, JSON, PageText, Parameters, pretty};
use crate::control::planes::ResourceInForce;

/// The longest mask, in bytes.
const MASK_BYTES_MAX: usize = 4096;

/// A list within a section: the type of the section, the field, and the type of its members.
const LISTS: [(&str, &str, &str); 13] = [
    ("ClustersConfigDump", "static_clusters", "StaticCluster"),
    ("ClustersConfigDump", "dynamic_active_clusters", "DynamicCluster"),
    ("EndpointsConfigDump", "static_endpoint_configs", "StaticEndpointConfig"),
    ("EndpointsConfigDump", "dynamic_endpoint_configs", "DynamicEndpointConfig"),
    ("ListenersConfigDump", "static_listeners", "StaticListener"),
    ("ListenersConfigDump", "dynamic_listeners", "DynamicListener"),
    ("RoutesConfigDump", "static_route_configs", "StaticRouteConfig"),
    ("RoutesConfigDump", "dynamic_route_configs", "DynamicRouteConfig"),
    ("ScopedRoutesConfigDump", "inline_scoped_route_configs", "InlineScopedRouteConfigs"),
    ("ScopedRoutesConfigDump", "dynamic_scoped_route_configs", "DynamicScopedRouteConfigs"),
    ("SecretsConfigDump", "static_secrets", "StaticSecret"),
    ("SecretsConfigDump", "dynamic_active_secrets", "DynamicSecret"),
    ("EcdsConfigDump", "ecds_filters", "EcdsFilterConfig"),
];

/// What a request selects.
#[derive(Debug)]
struct DumpQuery {
    resource: Option<String>,
    mask: Option<String>,
    names: StatQuery,
    with_endpoints: bool,
}

impl EnvoyPages {
    pub(super) async fn config_dump(&self, parameters: &Parameters) -> PageText {
        let mut names = StatQuery::default();
        if let Some(regex) = parameters.get("name_regex").filter(|regex| !regex.is_empty()) {
            let wrong = |problem| (400, format!("Error while parsing name_regex: {problem}"));
            names.set_filter(regex).map_err(wrong)?;
        }
        let text = |name| parameters.get(name).filter(|of| !of.is_empty()).map(str::to_owned);
        let query = DumpQuery {
            resource: text("resource"),
            mask: text("mask"),
            names,
            with_endpoints: parameters.has("include_eds"),
        };
        if query.mask.as_ref().is_some_and(|mask| mask.len() > MASK_BYTES_MAX) {
            return Err((400, format!("the mask is longer than {MASK_BYTES_MAX} bytes")));
        }
        let (loaded_at, sources) = {
            let in_force = self.control.in_force.borrow();
            (in_force.loaded_at, in_force.sources.clone())
        };
        let planes = self.control.planes.borrow().as_ref().map(std::rc::Rc::clone);
        let dynamic = planes.map(|planes| planes.in_force()).unwrap_or_default();
        let builder = std::sync::Arc::clone(&self.control.builder);
        let work = move || {
            let bootstrap = bootstrap::read(&sources, &builder.form);
            query.page(&sections(bootstrap.as_ref(), &dynamic, loaded_at))
        };
        let page = tokio::task::spawn_blocking(work).await;
        let page =
            page.unwrap_or_else(|_| Err((500, "the configuration cannot be shown".into())))?;
        Ok((JSON, pretty(&page)))
    }
}

impl DumpQuery {
    fn page(&self, all: &[Map<String, Value>]) -> Result<Value, (u16, String)> {
        let endpoints = self.with_endpoints
            || self.resource.as_ref().is_some_and(|of| of.contains("endpoint_configs"));
        let wanted = all.iter().filter(|section| endpoints || !is(section, "EndpointsConfigDump"));
        let masked = |of: Value| match &self.mask {
            Some(mask) => dump::masked(&of, mask),
            None => of,
        };
        let Some(resource) = &self.resource else {
            let shown = wanted.map(|section| masked(Value::Object(self.named(section))));
            return Ok(json!({ "configs": shown.collect::<Vec<_>>() }));
        };
        let mut found = Vec::new();
        let mut is_known = false;
        for section in wanted {
            let Some(list) = section.get(resource).and_then(Value::as_array) else { continue };
            is_known = true;
            let member = LISTS.iter().find(|(of, field, _)| is(section, of) && field == resource);
            let (of, _, member) = member.copied().unwrap_or_default();
            for item in list.iter().filter(|item| self.takes(item)) {
                let mut item = item.clone();
                if let Some(fields) = item.as_object_mut() {
                    let url = format!("type.googleapis.com/envoy.admin.v3.{of}.{member}");
                    fields.insert("@type".into(), url.into());
                }
                found.push(masked(item));
            }
        }
        if is_known || LISTS.iter().any(|(_, field, _)| field == resource) {
            return Ok(json!({ "configs": found }));
        }
        Err((404, format!("{resource} not found in config dump")))
    }

    /// A section with the resources whose names are asked for.
    fn named(&self, section: &Map<String, Value>) -> Map<String, Value> {
        let mut section = section.clone();
        for value in section.values_mut() {
            if let Value::Array(items) = value {
                items.retain(|item| self.takes(item));
            }
        }
        section
    }

    fn takes(&self, item: &Value) -> bool {
        let inner = ["cluster", "listener", "route_config", "endpoint_config"];
        let inner = inner.iter().find_map(|field| item.get(*field));
        let name = |of: &Value| {
            let name = of.get("name").or_else(|| of.get("cluster_name"))?;
            name.as_str().map(str::to_owned)
        };
        let name = name(item).or_else(|| inner.and_then(name)).unwrap_or_default();
        self.names.matches(&name)
    }
}

fn is(section: &Map<String, Value>, kind: &str) -> bool {
    section.get("@type").and_then(Value::as_str).is_some_and(|url| url.ends_with(kind))
}

/// A message that says what it is.
fn typed(message: &ProtoMessage) -> Value {
    let mut value = dump::of_message(message);
    if let Some(fields) = value.as_object_mut() {
        let url = format!("type.googleapis.com/{}", message.type_name());
        fields.insert("@type".into(), url.into());
    }
    value
}

/// Every section.
fn sections(
    bootstrap: Option<&ProtoMessage>,
    dynamic: &[ResourceInForce],
    loaded_at: Duration,
) -> Vec<Map<String, Value>> {
    let at = rfc3339(loaded_at);
    let resources = bootstrap.and_then(|of| of.message("static_resources"));
    let of_file = |field: &str| -> Vec<&ProtoMessage> {
        resources.map(|of| of.messages(field).collect()).unwrap_or_default()
    };
    let fixed = |all: &[&ProtoMessage], field: &str| -> Vec<Value> {
        all.iter().map(|of| json!({ field: typed(of), "last_updated": at })).collect()
    };
    let decoded: Vec<(&ResourceInForce, ProtoMessage)> =
        dynamic.iter().filter_map(|of| Some((of, decode(of)?))).collect();
    let of_plane = |kind: XdsType, field: &str| -> Vec<Value> {
        let own = decoded.iter().filter(|(of, _)| of.kind == kind);
        own.map(|(of, message)| {
            json!({ "version_info": &*of.version, field: typed(message), "last_updated": rfc3339(of.since) })
        })
        .collect()
    };
    let version = |kind: XdsType| {
        let last = decoded.iter().filter(|(of, _)| of.kind == kind).max_by_key(|(of, _)| of.since);
        Value::from(last.map_or("", |(of, _)| &*of.version))
    };
    let (clusters, listeners) = (of_file("clusters"), of_file("listeners"));
    let assignments: Vec<&ProtoMessage> =
        clusters.iter().filter_map(|of| of.message("load_assignment")).collect();
    let (mut routes, mut scoped) = (Vec::new(), Vec::new());
    let own = decoded.iter().filter(|(of, _)| of.kind == XdsType::Listener);
    for of in listeners.iter().copied().chain(own.map(|(_, of)| of)) {
        of_managers(of, &mut |manager| {
            routes.extend(manager.message("route_config"));
            scoped.extend(manager.message("scoped_routes"));
        });
    }
    let listeners_of_planes = decoded.iter().filter(|(of, _)| of.kind == XdsType::Listener);
    let listeners_of_planes: Vec<Value> = listeners_of_planes
        .map(|(of, message)| {
            json!({
                "name": &*of.name,
                "active_state": { "version_info": &*of.version, "listener": typed(message), "last_updated": rfc3339(of.since) },
            })
        })
        .collect();
    let named_secrets = |mut all: Vec<Value>| -> Vec<Value> {
        for item in &mut all {
            item["name"] = item["secret"]["name"].clone();
        }
        all
    };
    let file = bootstrap.map(dump::of_message).unwrap_or_default();
    [
        ("BootstrapConfigDump", json!({ "bootstrap": file, "last_updated": at })),
        (
            "ClustersConfigDump",
            json!({
                "version_info": version(XdsType::Cluster),
                "static_clusters": fixed(&clusters, "cluster"),
                "dynamic_active_clusters": of_plane(XdsType::Cluster, "cluster"),
            }),
        ),
        (
            "EndpointsConfigDump",
            json!({
                "static_endpoint_configs": fixed(&assignments, "endpoint_config"),
                "dynamic_endpoint_configs": of_plane(XdsType::Assignment, "endpoint_config"),
            }),
        ),
        (
            "ListenersConfigDump",
            json!({
                "version_info": version(XdsType::Listener),
                "static_listeners": fixed(&listeners, "listener"),
                "dynamic_listeners": listeners_of_planes,
            }),
        ),
        (
            "RoutesConfigDump",
            json!({
                "static_route_configs": fixed(&routes, "route_config"),
                "dynamic_route_configs": of_plane(XdsType::Routes, "route_config"),
            }),
        ),
        (
            "ScopedRoutesConfigDump",
            json!({
                "inline_scoped_route_configs": inline_scopes(&scoped, &at),
                "dynamic_scoped_route_configs": scopes_of_plane(&scoped, &decoded),
            }),
        ),
        (
            "SecretsConfigDump",
            json!({
                "static_secrets": named_secrets(fixed(&of_file("secrets"), "secret")),
                "dynamic_active_secrets": named_secrets(of_plane(XdsType::Secret, "secret")),
            }),
        ),
        ("EcdsConfigDump", json!({ "ecds_filters": of_plane(XdsType::Extension, "ecds_filter") })),
    ]
    .into_iter()
    .map(|(kind, section)| section_of(kind, section))
    .filter(|section| section.len() > 1)
    .collect()
}

/// A section with its type first, and without lists that are empty.
fn section_of(kind: &str, section: Value) -> Map<String, Value> {
    let mut found = Map::new();
    found.insert("@type".into(), format!("type.googleapis.com/envoy.admin.v3.{kind}").into());
    let Value::Object(fields) = section else { return found };
    let is_empty = |value: &Value| {
        value.as_array().is_some_and(Vec::is_empty) || value.as_str().is_some_and(str::is_empty)
    };
    found.extend(fields.into_iter().filter(|(_, value)| !is_empty(value)));
    found
}

fn decode(of: &ResourceInForce) -> Option<ProtoMessage> {
    wire::decode(descriptors::name_of(of.kind.url())?, &of.body, 1, &mut Diags::new())
}

/// The scopes that connection managers have themselves.
fn inline_scopes(scoped: &[&ProtoMessage], at: &str) -> Vec<Value> {
    let own = scoped.iter().filter_map(|of| {
        let list = of.message("scoped_route_configurations_list")?;
        let scopes = list.messages("scoped_route_configurations").map(typed).collect::<Vec<_>>();
        let name = of.text("name").map_or("", |name| name);
        Some(json!({ "name": name, "scoped_route_configs": scopes, "last_updated": at }))
    });
    own.collect()
}

/// The scopes of planes, which every connection manager has that asks for them.
fn scopes_of_plane(
    scoped: &[&ProtoMessage],
    decoded: &[(&ResourceInForce, ProtoMessage)],
) -> Vec<Value> {
    let all = decoded.iter().filter(|(of, _)| of.kind == XdsType::Scope);
    let newest = all.clone().map(|(of, _)| of).max_by_key(|of| of.since);
    let Some(newest) = newest else { return Vec::new() };
    let scopes: Vec<Value> = all.map(|(_, message)| typed(message)).collect();
    let asking = scoped.iter().filter(|of| of.has("scoped_rds"));
    let section = asking.map(|of| {
        json!({
            "name": of.text("name").map_or("", |name| name),
            "version_info": &*newest.version,
            "scoped_route_configs": scopes,
            "last_updated": rfc3339(newest.since),
        })
    });
    section.collect()
}

/// Visits the connection managers in a message.
fn of_managers<'a>(of: &'a ProtoMessage, visit: &mut dyn FnMut(&'a ProtoMessage)) {
    if of.descriptor.name() == "HttpConnectionManager" {
        visit(of);
        return;
    }
    for field in &of.fields {
        field.value.messages(&mut |inner| of_managers(inner, visit));
    }
}
