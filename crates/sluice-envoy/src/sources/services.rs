//! Services of a plane besides the discovery of resources, and clusters that requests ask for.
//!
//! Owns: `load_stats_config`, `lrs_server`, `hds_config` and `odcds`, as far as they say where from and where to. Refuses to know: what
//! goes over the streams. Keeps: a service that cannot be called is an error that says what can.

use sluice_core::Diags;

use super::{ApiForm, ApiSource, ResourceSource, SourceKind, api, source};
use crate::coverage::UNSUPPORTED;
use crate::message::ProtoMessage;
use crate::parts::{inner, text};

/// The filter for what comes on demand.
const ON_DEMAND: &str = "envoy.extensions.filters.http.on_demand.v3.OnDemand";

/// The filters with clusters that come on demand, below a resource.
pub(super) fn demands(below: &ProtoMessage) -> Vec<&ProtoMessage> {
    let mut found = Vec::new();
    if below.type_name() == ON_DEMAND {
        found.extend(inner(below, "odcds"));
        return found;
    }
    for field in &below.fields {
        field.value.messages(&mut |inner| found.extend(demands(inner)));
    }
    found
}

/// Where the clusters of a listener come from that its requests ask for; `None` if they ask for none. `over_ads` tells
/// why they cannot come over the stream for all types.
pub fn demand_of(
    listener: &ProtoMessage,
    over_ads: Option<&str>,
    diags: &mut Diags,
) -> Option<ResourceSource> {
    let mut first: Option<ResourceSource> = None;
    for odcds in demands(listener) {
        let Some(config) = inner(odcds, "source") else {
            let message = "`odcds` needs a `source`, which says where clusters come from";
            diags.error("missing-field", odcds.span, odcds.at("source"), message);
            continue;
        };
        let Some(found) = source(config, diags) else { continue };
        let problem = match &found.from {
            SourceKind::Ads => over_ads,
            SourceKind::Api(api) if api.form == ApiForm::Delta => None,
            _ => Some("clusters on demand come over a stream of the `api_type` DELTA_GRPC"),
        };
        if let Some(problem) = problem {
            diags.error(UNSUPPORTED, config.span, &*config.path, problem);
        }
        if first.as_ref().is_some_and(|first| first.from != found.from) {
            let message = "two sources of clusters on demand; name the same in each `odcds`";
            diags.error(UNSUPPORTED, config.span, &*config.path, message);
        }
        first.get_or_insert(found);
    }
    first
}

/// A service that is called over gRPC, for `what`.
pub(super) fn called_over_grpc(
    of: &ProtoMessage,
    what: &str,
    diags: &mut Diags,
) -> Option<ApiSource> {
    let found = api(of, diags)?;
    if found.form != ApiForm::Sotw {
        let message = format!("{what} go over a stream of the `api_type` GRPC");
        let finding = diags.error("bad-value", of.place("api_type"), of.at("api_type"), message);
        finding.help("use GRPC, and name the cluster in `grpc_services`");
        return None;
    }
    Some(found)
}

/// The service that reports of load are sent to.
pub(super) fn load_stats_config(bootstrap: &ProtoMessage) -> Option<&ProtoMessage> {
    inner(inner(bootstrap, "cluster_manager")?, "load_stats_config")
}

/// What a cluster says of reports of its load: the name of its endpoints at the plane, empty if that is its own, and whether the
/// plane that it comes from wants to know of it.
pub fn load_report_of(cluster: &ProtoMessage) -> (String, bool) {
    let service = inner(cluster, "eds_cluster_config").and_then(|of| text(of, "service_name"));
    let to_own_plane = inner(cluster, "lrs_server").is_some_and(|of| of.has("self"));
    (service.map_or_else(String::new, |name| name.to_string()), to_own_plane)
}
