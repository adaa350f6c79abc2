//! The messages of load reports (LRS).
//!
//! Owns: field numbers and types. Refuses to know: what is counted. Keeps: fields that are not here are skipped when they are
//! received.
//!
//! Source: `envoy/service/load_stats/v3/lrs.proto`, `envoy/config/endpoint/v3/load_report.proto`,
//! `envoy/config/core/v3/base.proto`, `envoy/config/core/v3/address.proto`.

use bytes::Bytes;

use super::TtlMessage;

/// A report; the first on a stream has the node alone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LoadStatsRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub node: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub cluster_stats: Vec<ClusterStats>,
}

/// What is to be reported from now on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LoadStatsResponse {
    #[prost(string, repeated, tag = "1")]
    pub clusters: Vec<String>,
    #[prost(message, optional, tag = "2")]
    pub load_reporting_interval: Option<TtlMessage>,
    #[prost(bool, tag = "3")]
    pub report_endpoint_granularity: bool,
    #[prost(bool, tag = "4")]
    pub send_all_clusters: bool,
}

/// The load of a cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterStats {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub upstream_locality_stats: Vec<LocalityStats>,
    #[prost(uint64, tag = "3")]
    pub total_dropped_requests: u64,
    #[prost(message, optional, tag = "4")]
    pub load_report_interval: Option<TtlMessage>,
    #[prost(message, repeated, tag = "5")]
    pub dropped_requests: Vec<DroppedRequests>,
    #[prost(string, tag = "6")]
    pub cluster_service_name: String,
}

/// What was dropped in a category.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DroppedRequests {
    #[prost(string, tag = "1")]
    pub category: String,
    #[prost(uint64, tag = "2")]
    pub dropped_count: u64,
}

/// The load of a locality, of one priority.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocalityStats {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<LocalityMessage>,
    #[prost(uint64, tag = "2")]
    pub total_successful_requests: u64,
    #[prost(uint64, tag = "3")]
    pub total_requests_in_progress: u64,
    #[prost(uint64, tag = "4")]
    pub total_error_requests: u64,
    #[prost(message, repeated, tag = "5")]
    pub load_metric_stats: Vec<MetricStats>,
    #[prost(uint32, tag = "6")]
    pub priority: u32,
    #[prost(message, repeated, tag = "7")]
    pub upstream_endpoint_stats: Vec<EndpointStats>,
    #[prost(uint64, tag = "8")]
    pub total_issued_requests: u64,
}

/// The load of an endpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EndpointStats {
    #[prost(message, optional, tag = "1")]
    pub address: Option<PlaneAddress>,
    #[prost(uint64, tag = "2")]
    pub total_successful_requests: u64,
    #[prost(uint64, tag = "3")]
    pub total_requests_in_progress: u64,
    #[prost(uint64, tag = "4")]
    pub total_error_requests: u64,
    #[prost(message, repeated, tag = "5")]
    pub load_metric_stats: Vec<MetricStats>,
    #[prost(uint64, tag = "7")]
    pub total_issued_requests: u64,
}

/// What endpoints have reported of a metric.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricStats {
    #[prost(string, tag = "1")]
    pub metric_name: String,
    #[prost(uint64, tag = "2")]
    pub num_requests_finished_with_metric: u64,
    #[prost(double, tag = "3")]
    pub total_metric_value: f64,
}

/// Where an endpoint is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct LocalityMessage {
    #[prost(string, tag = "1")]
    pub region: String,
    #[prost(string, tag = "2")]
    pub zone: String,
    #[prost(string, tag = "3")]
    pub sub_zone: String,
}

/// The address of an endpoint.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PlaneAddress {
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<PlaneSocketAddress>,
    #[prost(message, optional, tag = "2")]
    pub pipe: Option<PipeMessage>,
}

/// An address and a port.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PlaneSocketAddress {
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint32, tag = "3")]
    pub port_value: u32,
}

/// The path of a unix socket.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PipeMessage {
    #[prost(string, tag = "1")]
    pub path: String,
}
