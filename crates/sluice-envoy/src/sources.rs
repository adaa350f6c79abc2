//! Where resources come from that are not in the file.
//!
//! Owns: `dynamic_resources` and every `ConfigSource`; which resources of a bootstrap wait for others. Refuses to know:
//! streams, and what the resources say. Keeps: a source that cannot be used is an error that says what can.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Diags, Node};

use crate::coverage::UNSUPPORTED;
use crate::message::{ProtoMessage, ProtoValue};
use crate::parts::{self, GivenParts, NeededPart, PartKind, inner, text};
use crate::wire;

/// How long a resource waits for what it needs if its source does not say.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

mod api;
mod beside;
mod services;

use api::api;
pub use api::{ApiForm, ApiSource, CallMetadata, Polling};
pub use beside::PlaneBesideFiles;
use services::{called_over_grpc, demands, load_stats_config};
pub use services::{demand_of, load_report_of};

/// Where resources come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// The stream for all types.
    Ads,
    /// A service for one type.
    Api(ApiSource),
    /// A file, which is read again when it changes.
    File(PathBuf),
}

/// Where resources of a type come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceSource {
    /// Where from.
    pub from: SourceKind,
    /// How long to wait for the first; `None` for ever.
    pub fetch_timeout: Option<Duration>,
}

/// The part of a bootstrap that planes have a say in.
#[derive(Debug)]
pub struct DynamicResources {
    node: Option<ProtoMessage>,
    /// The stream for all types.
    pub ads: Option<ApiSource>,
    /// Where clusters come from.
    pub clusters: Option<ResourceSource>,
    /// Where listeners come from.
    pub listeners: Option<ResourceSource>,
    /// The service that reports of load are sent to.
    pub load_stats: Option<ApiSource>,
    /// The service that asks for health checks.
    pub health: Option<ApiSource>,
    /// Where clusters come from that requests ask for, if no listener of a plane says.
    pub demand: Option<ResourceSource>,
    /// The layers of runtime values that come from planes: their names, in order, and where from.
    pub runtime: Vec<(Arc<str>, ResourceSource)>,
    /// The listeners of the file, and its clusters of which a part comes on its own.
    pub fixed: Vec<ProtoMessage>,
    /// The clusters that are whole in the file, in order.
    pub file_clusters: Vec<Arc<str>>,
    /// The static resources of the file.
    pub resources: Option<ProtoMessage>,
    /// The section `node` of the native form.
    pub node_section: Option<Node>,
}

impl DynamicResources {
    /// What planes are told about this process, encoded.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn node(&self) -> Result<Vec<u8>, &'static str> {
        let descriptor = crate::descriptors::message("envoy.config.core.v3.Node");
        let empty = || {
            let (path, span) = ("node".into(), Default::default());
            descriptor.map(|descriptor| ProtoMessage { descriptor, path, span, fields: Vec::new() })
        };
        let node = self.node.clone().or_else(empty);
        let Some(mut node) = node else { return Ok(Vec::new()) };
        for field in ["id", "cluster"] {
            if text(&node, field).is_none() {
                return Err(
                    "control planes know this process by `id` and `cluster` of `node`: set both in the file, or with `--service-node` and `--service-cluster`",
                );
            }
        }
        for (field, value) in
            [("user_agent_name", "sluice"), ("user_agent_version", env!("CARGO_PKG_VERSION"))]
        {
            if node.peek(field).is_none() && node.peek("user_agent_build_version").is_none() {
                node.set(field, node.span, ProtoValue::Text(value.into()));
            }
        }
        Ok(wire::encode(&node))
    }
}

/// Takes out of a bootstrap what planes have a say in; `None` if they have none.
pub fn take(bootstrap: &mut ProtoMessage, diags: &mut Diags) -> Option<DynamicResources> {
    if !has_dynamic(bootstrap) {
        return None;
    }
    let mut found = sources(bootstrap, diags);
    found.node = inner(bootstrap, "node").cloned();
    found.resources = inner(bootstrap, "static_resources").cloned();
    for field in bootstrap.fields.iter_mut().filter(|of| of.descriptor.name() == "static_resources")
    {
        let ProtoValue::Message(resources) = &mut field.value else { continue };
        for field in &mut resources.fields {
            let ProtoValue::List(items) = &mut field.value else { continue };
            let is_listener = field.descriptor.name() == "listeners";
            items.retain(|item| {
                let ProtoValue::Message(message) = &item.value else { return true };
                let goes = is_listener
                    || (field.descriptor.name() == "clusters"
                        && !parts::needed(message).is_empty());
                if goes {
                    let mut fixed = message.clone();
                    if is_listener
                        && text(message, "name").is_none()
                        && let Some(name) = name_by_address(message)
                    {
                        fixed.set("name", message.span, ProtoValue::Text(name));
                    }
                    found.fixed.push(fixed);
                } else if let Some(name) = text(message, "name")
                    && field.descriptor.name() == "clusters"
                {
                    found.file_clusters.push(name);
                }
                !goes
            });
        }
    }
    Some(found)
}

/// The name of a listener that has none: `127.0.0.1-8080`.
pub(crate) fn name_by_address(listener: &ProtoMessage) -> Option<Arc<str>> {
    let socket = inner(inner(listener, "address")?, "socket_address")?;
    let port = match socket.peek("port_value").map(|field| &field.value) {
        Some(ProtoValue::Int(port)) => *port,
        _ => 0,
    };
    Some(format!("{}-{port}", text(socket, "address")?).into())
}

/// Puts resources of a bootstrap together as if nothing had come yet for those that wait, so that the rest is checked.
pub fn complete(bootstrap: &mut ProtoMessage, diags: &mut Diags) -> bool {
    if !has_dynamic(bootstrap) {
        return false;
    }
    let ads = sources(bootstrap, diags).ads.map(|ads| ads.form);
    for field in bootstrap.fields.iter_mut().filter(|of| of.descriptor.name() == "static_resources")
    {
        field.value.messages_mut(&mut |resources| {
            for field in &mut resources.fields {
                let kind = field.descriptor.name().to_owned();
                field.value.messages_mut(&mut |message| {
                    if kind != "clusters" && kind != "listeners" {
                        return;
                    }
                    for part in parts::needed(message) {
                        of_part(message, &part, ads, diags);
                        if part.kind == PartKind::Scopes {
                            of_routes_of_scopes(message, &part, ads, diags);
                        }
                    }
                    *message = parts::whole(message, &GivenParts::default(), diags);
                });
            }
        });
    }
    true
}

/// Where a part of the resource `of` comes from. `ads` is the form of the stream for all types, if there is one.
pub fn of_part(
    of: &ProtoMessage,
    part: &NeededPart<'_>,
    ads: Option<ApiForm>,
    diags: &mut Diags,
) -> Option<ResourceSource> {
    let Some(config) = part.source else {
        let (at, message) = match part.kind {
            PartKind::Endpoints => (
                of.at("eds_cluster_config"),
                "a cluster of the type EDS needs `eds_config`, which says where from".to_owned(),
            ),
            _ => (
                of.path.to_string(),
                format!("`{}` comes on its own; say where from in `config_source`", part.name),
            ),
        };
        diags.error("missing-field", of.span, at, message);
        return None;
    };
    let mut found = source(config, diags)?;
    if part.at_once {
        found.fetch_timeout = Some(Duration::ZERO);
    }
    let form = match &found.from {
        SourceKind::Ads => ads,
        SourceKind::Api(api) => Some(api.form),
        SourceKind::File(_) => None,
    };
    let has_ads = ads.is_some() || found.from != SourceKind::Ads;
    if part.kind == PartKind::Hosts && form != Some(ApiForm::Delta) && has_ads {
        let message = "virtual hosts come over a stream of the `api_type` DELTA_GRPC";
        diags.error(UNSUPPORTED, config.span, &*config.path, message);
    }
    if !has_ads {
        let message = format!("`{}` comes over `ads`, but there is no `ads_config`", part.name);
        let finding = diags.error("missing-field", config.span, &*config.path, message);
        finding.help("add `ads_config` to `dynamic_resources` of the bootstrap");
    }
    Some(found)
}

/// Where the route tables come from that scopes name.
pub fn of_routes_of_scopes(
    of: &ProtoMessage,
    part: &NeededPart<'_>,
    ads: Option<ApiForm>,
    diags: &mut Diags,
) -> Option<ResourceSource> {
    let Some(config) = part.source_of_routes else {
        let message = "`scoped_rds` needs `rds_config_source`, which says where the routes of scopes come from";
        diags.error("missing-field", of.span, of.at("rds_config_source"), message);
        return None;
    };
    let found = source(config, diags)?;
    if ads.is_none() && found.from == SourceKind::Ads {
        let message = "the routes of scopes come over `ads`, but there is no `ads_config`";
        let finding = diags.error("missing-field", config.span, &*config.path, message);
        finding.help("add `ads_config` to `dynamic_resources` of the bootstrap");
    }
    Some(found)
}

fn has_dynamic(bootstrap: &ProtoMessage) -> bool {
    let dynamic = inner(bootstrap, "dynamic_resources");
    if dynamic.is_some_and(|of| of.has("lds_config") || of.has("cds_config")) {
        return true;
    }
    let mut found = !demands(bootstrap).is_empty()
        || load_stats_config(bootstrap).is_some()
        || bootstrap.has("hds_config");
    if let Some(layers) = inner(bootstrap, "layered_runtime").and_then(|of| of.peek("layers")) {
        layers.value.messages(&mut |layer| found |= layer.has("rtds_layer"));
    }
    let Some(resources) = inner(bootstrap, "static_resources") else { return found };
    for field in &resources.fields {
        field.value.messages(&mut |message| {
            let is_owner = ["clusters", "listeners"].contains(&field.descriptor.name());
            found |= is_owner && !parts::needed(message).is_empty();
        });
    }
    found
}

/// The sources that `dynamic_resources` names.
fn sources(bootstrap: &ProtoMessage, diags: &mut Diags) -> DynamicResources {
    let mut found = DynamicResources {
        node: None,
        ads: None,
        clusters: None,
        listeners: None,
        load_stats: None,
        demand: None,
        health: None,
        runtime: Vec::new(),
        fixed: Vec::new(),
        file_clusters: Vec::new(),
        resources: None,
        node_section: None,
    };
    let service = load_stats_config(bootstrap);
    found.load_stats = service.and_then(|of| called_over_grpc(of, "load reports", diags));
    let service = inner(bootstrap, "hds_config");
    found.health = service.and_then(|of| called_over_grpc(of, "requests for health checks", diags));
    if let Some(dynamic) = inner(bootstrap, "dynamic_resources") {
        only(dynamic, &["lds_config", "cds_config", "ads_config"], diags);
        let has_ads = dynamic.has("ads_config");
        found.ads = inner(dynamic, "ads_config").and_then(|of| aggregated(of, diags));
        found.clusters = source_in(dynamic, "cds_config", has_ads, diags);
        found.listeners = source_in(dynamic, "lds_config", has_ads, diags);
    }
    let has_ads = inner(bootstrap, "dynamic_resources").is_some_and(|of| of.has("ads_config"));
    found.runtime = layers(bootstrap, has_ads, diags);
    found
}

/// The service for all types, which has a stream.
fn aggregated(of: &ProtoMessage, diags: &mut Diags) -> Option<ApiSource> {
    let found = api(of, diags)?;
    if matches!(found.form, ApiForm::Rest(_)) {
        let message = "`ads_config` is a stream for all types, and REST is asked for each of them";
        let finding = diags.error("bad-value", of.place("api_type"), of.at("api_type"), message);
        finding.help("use GRPC or DELTA_GRPC, or `api_config_source` with REST for each type");
        return None;
    }
    Some(found)
}

/// The source in a field. One over `ads` needs the stream for all types.
fn source_in(
    of: &ProtoMessage,
    field: &str,
    has_ads: bool,
    diags: &mut Diags,
) -> Option<ResourceSource> {
    let found = source(inner(of, field)?, diags)?;
    if found.from == SourceKind::Ads && !has_ads {
        let message = format!("`{field}` comes over `ads`, but there is no `ads_config`");
        let finding = diags.error("missing-field", of.place(field), of.at(field), message);
        finding.help("add `ads_config` to `dynamic_resources`");
    }
    Some(found)
}

/// The layers of runtime values that come from planes. They win over those of the file, so these must come first.
fn layers(
    bootstrap: &ProtoMessage,
    has_ads: bool,
    diags: &mut Diags,
) -> Vec<(Arc<str>, ResourceSource)> {
    let mut found: Vec<(Arc<str>, ResourceSource)> = Vec::new();
    let Some(runtime) = inner(bootstrap, "layered_runtime") else { return found };
    for field in runtime.fields.iter().filter(|of| of.descriptor.name() == "layers") {
        field.value.messages(&mut |layer| {
            let Some(of) = inner(layer, "rtds_layer") else {
                if !found.is_empty() && layer.has("static_layer") {
                    let message = "a `static_layer` after a layer of a control plane is not supported: values of control planes win";
                    let at = layer.at("static_layer");
                    let finding = diags.error(UNSUPPORTED, layer.place("static_layer"), at, message);
                    finding.help("write the static layers first");
                }
                return;
            };
            only(of, &["name", "rtds_config"], diags);
            let name = text(of, "name").or_else(|| text(layer, "name"));
            let source = source_in(of, "rtds_config", has_ads, diags);
            match name.zip(source) {
                Some((name, _)) if found.iter().any(|(known, _)| *known == name) => {
                    let message = format!("two layers are the resource `{name}`; leave one out");
                    diags.error("duplicate-name", of.place("name"), of.at("name"), message);
                }
                Some(found_one) => found.push(found_one),
                None => {}
            }
        });
    }
    found
}

/// A source that resources or the bootstrap name.
pub fn source(config: &ProtoMessage, diags: &mut Diags) -> Option<ResourceSource> {
    let known = [
        "path",
        "path_config_source",
        "api_config_source",
        "ads",
        "self",
        "initial_fetch_timeout",
        "resource_api_version",
    ];
    only(config, &known, diags);
    version(config, "resource_api_version", diags);
    let fetch_timeout = match config.peek("initial_fetch_timeout").map(|field| &field.value) {
        Some(ProtoValue::Duration(time)) => time.time().filter(|time| !time.is_zero()),
        _ => Some(FETCH_TIMEOUT),
    };
    let from = if config.has("ads") || config.has("self") {
        SourceKind::Ads
    } else if let Some(of) = inner(config, "api_config_source") {
        SourceKind::Api(api(of, diags)?)
    } else {
        let file = inner(config, "path_config_source");
        let path = file.and_then(|of| text(of, "path")).or_else(|| text(config, "path"))?;
        if let Some(of) = file {
            only(of, &["path", "watched_directory"], diags);
            watched(of, &path, diags);
        }
        SourceKind::File(PathBuf::from(&*path))
    };
    Some(ResourceSource { from, fetch_timeout })
}

/// The folder of a file is what is watched.
fn watched(of: &ProtoMessage, path: &str, diags: &mut Diags) {
    let Some(folder) = inner(of, "watched_directory").and_then(|of| text(of, "path")) else {
        return;
    };
    if Path::new(path).parent() != Some(Path::new(&*folder)) {
        let field = "watched_directory";
        let message = format!("`{path}` is not in the folder `{folder}`, which is to be watched");
        let finding = diags.error(UNSUPPORTED, of.place(field), of.at(field), message);
        finding.help("name the file by its path in that folder");
    }
}

/// Planes of the second version are gone.
fn version(of: &ProtoMessage, field: &str, diags: &mut Diags) {
    if let Some(ProtoValue::Enum(_, Some(word))) = of.peek(field).map(|field| &field.value)
        && &**word == "V2"
    {
        let message = format!("`{field}: V2` is not supported");
        diags.error(UNSUPPORTED, of.place(field), of.at(field), message).help("use V3");
    }
}

/// Reports the fields that are not among these.
fn only(of: &ProtoMessage, known: &[&str], diags: &mut Diags) {
    of.without_effect(known);
    for field in of.fields.iter().filter(|field| !known.contains(&field.descriptor.name())) {
        let name = field.descriptor.name();
        let message = format!("`{name}` of {} is not supported", of.type_name());
        diags.error(UNSUPPORTED, field.span, of.at(name), message);
    }
}
