//! Services that resources come from.
//!
//! Owns: `ApiConfigSource`, and which service it names. Refuses to know: what the service sends. Keeps: a service that cannot
//! be called is an error that says what can.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::Diags;

use super::{only, version};
use crate::coverage::UNSUPPORTED;
use crate::message::{ProtoMessage, ProtoValue};
use crate::parts::{inner, text};

/// How long a request of a service that is polled may take, if it does not say.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Metadata of a call, by lower-case names.
pub type CallMetadata = Vec<(String, Vec<u8>)>;

/// How a service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiForm {
    /// A stream on which each response has all there is.
    Sotw,
    /// A stream on which each response says what has changed.
    Delta,
    /// One request after the other.
    Rest(Polling),
}

/// When a service is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Polling {
    /// The time between two requests.
    pub every: Duration,
    /// The time for a response.
    pub timeout: Duration,
}

/// A service that resources come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiSource {
    /// How it is asked.
    pub form: ApiForm,
    /// The cluster of the service, by its name in Envoy.
    pub cluster: Arc<str>,
    /// The host that its streams name, if not the cluster.
    pub authority: Option<Arc<str>>,
    /// Metadata of its streams.
    pub metadata: CallMetadata,
    /// Whether only the first request of a stream has the node.
    pub node_once: bool,
}

/// The service that `api_config_source` names.
pub(super) fn api(of: &ProtoMessage, diags: &mut Diags) -> Option<ApiSource> {
    let known = [
        "api_type",
        "transport_api_version",
        "grpc_services",
        "cluster_names",
        "set_node_on_first_message_only",
        "request_timeout",
        "refresh_delay",
        "rate_limit_settings",
    ];
    only(of, &known, diags);
    if let Some(limits) = inner(of, "rate_limit_settings") {
        limits.all_without_effect();
        let how =
            "requests to a plane are not limited: each answers a response, or says what is needed";
        let field = "rate_limit_settings";
        diags.warning(crate::coverage::DIFFERS, of.place(field), of.at(field), how);
    }
    version(of, "transport_api_version", diags);
    let kind = match of.peek("api_type").map(|field| &field.value) {
        Some(ProtoValue::Enum(_, Some(word))) => Arc::clone(word),
        _ => "REST".into(),
    };
    let form = match &*kind {
        "GRPC" | "AGGREGATED_GRPC" => ApiForm::Sotw,
        "DELTA_GRPC" | "AGGREGATED_DELTA_GRPC" => ApiForm::Delta,
        "REST" => return polled(of, diags),
        other => {
            let message = format!("the `api_type` {other} is not supported");
            let finding =
                diags.error(UNSUPPORTED, of.place("api_type"), of.at("api_type"), message);
            finding.help("use GRPC, DELTA_GRPC or REST");
            return None;
        }
    };
    let services = match of.peek("grpc_services").map(|field| &field.value) {
        Some(ProtoValue::List(items)) => items.as_slice(),
        _ => &[],
    };
    let [service] = services else {
        let message = format!("expected one of `grpc_services`, not {}", services.len());
        diags.error("bad-value", of.place("grpc_services"), of.at("grpc_services"), message);
        return None;
    };
    let ProtoValue::Message(service) = &service.value else { return None };
    let once = matches!(
        of.peek("set_node_on_first_message_only").map(|field| &field.value),
        Some(ProtoValue::Bool(true))
    );
    let CalledService { cluster, authority, metadata } = called(service, diags)?;
    Some(ApiSource { form, cluster, authority, metadata, node_once: once })
}

/// A service that is asked again and again.
fn polled(of: &ProtoMessage, diags: &mut Diags) -> Option<ApiSource> {
    let clusters = match of.peek("cluster_names").map(|field| &field.value) {
        Some(ProtoValue::List(items)) => items.as_slice(),
        _ => &[],
    };
    let [cluster] = clusters else {
        let message = format!("expected one of `cluster_names`, not {}", clusters.len());
        let finding =
            diags.error("bad-value", of.place("cluster_names"), of.at("cluster_names"), message);
        finding.help("REST names the cluster of the service in `cluster_names`");
        return None;
    };
    let ProtoValue::Text(cluster) = &cluster.value else { return None };
    let time = |field: &str| match of.peek(field).map(|field| &field.value) {
        Some(ProtoValue::Duration(time)) => time.time().filter(|time| !time.is_zero()),
        _ => None,
    };
    let Some(every) = time("refresh_delay") else {
        let (place, at) = (of.place("refresh_delay"), of.at("refresh_delay"));
        let message = "REST needs a `refresh_delay`, the time between two requests".to_owned();
        diags.error("missing-field", place, at, message);
        return None;
    };
    let timeout = time("request_timeout").unwrap_or(REQUEST_TIMEOUT);
    let form = ApiForm::Rest(Polling { every, timeout });
    let (cluster, metadata) = (Arc::clone(cluster), CallMetadata::new());
    Some(ApiSource { form, cluster, authority: None, metadata, node_once: false })
}

/// How a service is called.
struct CalledService {
    cluster: Arc<str>,
    authority: Option<Arc<str>>,
    metadata: CallMetadata,
}

fn called(service: &ProtoMessage, diags: &mut Diags) -> Option<CalledService> {
    if service.has("google_grpc") {
        let field = "google_grpc";
        let message = format!("`{field}` of {} is not supported", service.type_name());
        let finding = diags.error(UNSUPPORTED, service.place(field), service.at(field), message);
        finding.help("add a cluster with `http2_protocol_options` for the target, its TLS as `transport_socket`, and name it in `envoy_grpc`");
        service.field(field).into_iter().for_each(|field| {
            field.value.messages(&mut ProtoMessage::all_without_effect);
        });
        return None;
    }
    // A stream has no end, and Envoy's has no time-out either.
    only(service, &["envoy_grpc", "initial_metadata", "timeout"], diags);
    let envoy = inner(service, "envoy_grpc")?;
    only(envoy, &["cluster_name", "authority", "skip_envoy_headers"], diags);
    let mut metadata = CallMetadata::new();
    for field in service.fields.iter().filter(|of| of.descriptor.name() == "initial_metadata") {
        field.value.messages(&mut |header| {
            let Some(key) = text(header, "key") else { return };
            let raw = match header.peek("raw_value").map(|field| &field.value) {
                Some(ProtoValue::Bytes(bytes)) => Some(bytes.to_vec()),
                _ => None,
            };
            let value = raw.or_else(|| Some(text(header, "value")?.as_bytes().to_vec()));
            metadata.push((key.to_ascii_lowercase(), value.unwrap_or_default()));
        });
    }
    let authority = text(envoy, "authority").filter(|authority| !authority.is_empty());
    Some(CalledService { cluster: text(envoy, "cluster_name")?, authority, metadata })
}
