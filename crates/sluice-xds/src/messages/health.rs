//! The messages of health discovery (HDS).
//!
//! Owns: field numbers and types, as far as they are needed to pass on what a plane wants checked. Refuses to know: how something
//! is checked. Keeps: checks, endpoints and TLS are passed on as they came, encoded.
//!
//! Source: `envoy/service/health/v3/hds.proto`, `envoy/config/cluster/v3/cluster.proto`,
//! `envoy/config/core/v3/health_check.proto`, `envoy/config/endpoint/v3/endpoint_components.proto`.

use bytes::Bytes;

use super::TtlMessage;
use super::load_stats::{LocalityMessage, PlaneAddress};

/// What a plane is told: the first message of a stream, or results.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthAnswer {
    #[prost(message, optional, tag = "1")]
    pub health_check_request: Option<HealthGreeting>,
    #[prost(message, optional, tag = "2")]
    pub endpoint_health_response: Option<HealthResults>,
}

/// Who offers to check, and how.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthGreeting {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub node: Option<Bytes>,
    #[prost(message, optional, tag = "2")]
    pub capability: Option<HealthCapability>,
}

/// The kinds of checks: 0 is HTTP, 1 TCP.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthCapability {
    #[prost(int32, repeated, tag = "1")]
    pub health_check_protocols: Vec<i32>,
}

/// Results.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthResults {
    #[prost(message, repeated, tag = "1")]
    pub endpoints_health: Vec<EndpointHealth>,
    #[prost(message, repeated, tag = "2")]
    pub cluster_endpoints_health: Vec<ClusterHealth>,
}

/// The result of an endpoint, which is passed on as it came.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndpointHealth {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub endpoint: Option<Bytes>,
    #[prost(int32, tag = "2")]
    pub health_status: i32,
}

/// The results of a cluster.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterHealth {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub locality_endpoints_health: Vec<LocalityHealth>,
}

/// The results of a locality.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LocalityHealth {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<LocalityMessage>,
    #[prost(message, repeated, tag = "2")]
    pub endpoints_health: Vec<EndpointHealth>,
}

/// What a plane wants checked, in place of what it wanted before.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthSpecifier {
    #[prost(message, repeated, tag = "1")]
    pub cluster_health_checks: Vec<ClusterChecks>,
    #[prost(message, optional, tag = "2")]
    pub interval: Option<TtlMessage>,
}

/// A cluster whose endpoints are checked.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterChecks {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub health_checks: Vec<Bytes>,
    #[prost(message, repeated, tag = "3")]
    pub locality_endpoints: Vec<LocalityEndpoints>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub transport_socket_matches: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub upstream_bind_config: Option<Bytes>,
}

/// The endpoints of a locality.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LocalityEndpoints {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<LocalityMessage>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub endpoints: Vec<Bytes>,
}

/// What is needed of a `HealthCheck`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckMessage {
    #[prost(message, optional, tag = "2")]
    pub interval: Option<TtlMessage>,
    #[prost(message, optional, tag = "8")]
    pub http_health_check: Option<HttpCheckMessage>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    pub grpc_health_check: Option<Bytes>,
    #[prost(message, optional, tag = "12")]
    pub no_traffic_interval: Option<TtlMessage>,
}

/// What is needed of an `HttpHealthCheck`: 1 is HTTP/2, 2 HTTP/3.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HttpCheckMessage {
    #[prost(int32, tag = "10")]
    pub codec_client_type: i32,
}

/// What is needed of an `Endpoint`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndpointMessage {
    #[prost(message, optional, tag = "1")]
    pub address: Option<PlaneAddress>,
}

/// A cluster in Envoy's form, as far as checks need it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckedClusterMessage {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "4")]
    pub connect_timeout: Option<TtlMessage>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub health_checks: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "14")]
    pub http2_protocol_options: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "21")]
    pub upstream_bind_config: Option<Bytes>,
    #[prost(message, optional, tag = "33")]
    pub load_assignment: Option<CheckedAssignment>,
    #[prost(bytes = "bytes", repeated, tag = "43")]
    pub transport_socket_matches: Vec<Bytes>,
}

/// Its endpoints.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckedAssignment {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub endpoints: Vec<CheckedLocality>,
}

/// The endpoints of a locality.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckedLocality {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<LocalityMessage>,
    #[prost(message, repeated, tag = "2")]
    pub lb_endpoints: Vec<CheckedEndpoint>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckedEndpoint {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub endpoint: Option<Bytes>,
}
