//! `HttpUri` and `GrpcService`: where something is asked.
//!
//! Owns: the cluster that a request or a call goes to, and the host, path and time of a request. Refuses to know: what is
//! asked. Keeps: a URI without a scheme is read like one with a scheme; the cluster, not the URI, decides about TLS; only
//! Sluice's own client makes calls.

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::NativeMap;

impl Mapping<'_> {
    /// Adds `cluster`, `host`, `path` and `timeout`; `None` if the cluster or the URI is missing.
    pub(super) fn http_uri(&mut self, of: &ProtoMessage, native: &mut NativeMap) -> Option<()> {
        let cluster = self.cluster(of.text("cluster")?, of, "cluster");
        native.text("cluster", &cluster, of.place("cluster"));
        let uri = of.text("uri")?;
        let rest = uri.split_once("://").map_or(&**uri, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        native.text("host", host, of.place("uri"));
        native.text("path", &format!("/{path}"), of.place("uri"));
        if let Some(timeout) = self.duration(of, "timeout", Zero::Refused) {
            native.set("timeout", timeout);
        }
        Some(())
    }

    /// Adds the cluster of a service as `field`; `None` if it is missing.
    pub(super) fn grpc_cluster(
        &mut self,
        service: &ProtoMessage,
        field: &'static str,
        native: &mut NativeMap,
    ) -> Option<()> {
        let Some(envoy) = service.message("envoy_grpc") else {
            self.unsupported(service, "google_grpc", "name a cluster (`envoy_grpc`)");
            return None;
        };
        let cluster = self.cluster(envoy.text("cluster_name")?, envoy, "cluster_name");
        native.text(field, &cluster, envoy.place("cluster_name"));
        Some(())
    }
}
