//! The messages of discovery streams.
//!
//! Owns: field numbers and types. Refuses to know: what is asked for, and what becomes of an answer. Keeps: fields that
//! are not here are skipped when they are received, as Protocol Buffers prescribe.
//!
//! Source: `envoy/service/discovery/v3/discovery.proto`, `google/rpc/status.proto`, `google/protobuf/any.proto`.
#![allow(missing_docs, reason = "the fields are those of the protocol's definition")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

pub mod health;
pub mod load_stats;

/// The type URL of a resource in an envelope.
pub const ENVELOPE: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// A message and its type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyMessage {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// An error in words.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ErrorDetail {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// A duration.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TtlMessage {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl TtlMessage {
    /// The time; `None` if it is not a positive one.
    pub fn time(self) -> Option<Duration> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanos = u32::try_from(self.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        Some(Duration::new(seconds, nanos)).filter(|time| !time.is_zero())
    }

    /// The message for a time.
    pub fn of(time: Duration) -> Self {
        Self {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
        }
    }
}

/// A request of the state-of-the-world form. The node is encoded already.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub node: Option<Bytes>,
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<ErrorDetail>,
}

/// A response of the state-of-the-world form.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<AnyMessage>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// A request of the incremental form. The node is encoded already.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub node: Option<Bytes>,
    #[prost(string, tag = "2")]
    pub type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<ErrorDetail>,
}

/// A response of the incremental form.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<ResourceEnvelope>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// A resource with its name, version and time to live.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceEnvelope {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(message, optional, tag = "2")]
    pub resource: Option<AnyMessage>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
    #[prost(message, optional, tag = "6")]
    pub ttl: Option<TtlMessage>,
}

/// What every resource begins with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamedMessage {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// What a node begins with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeMessage {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub cluster: String,
}

/// What is kept beyond the process: a message of this program alone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeptMessage {
    #[prost(string, tag = "1")]
    pub node_id: String,
    #[prost(string, tag = "2")]
    pub node_cluster: String,
    #[prost(string, tag = "3")]
    pub program: String,
    #[prost(uint64, tag = "4")]
    pub saved: u64,
    #[prost(message, repeated, tag = "5")]
    pub resources: Vec<KeptResource>,
    /// The last field: it is missing if the end is.
    #[prost(bool, tag = "15")]
    pub whole: bool,
}

/// A resource that is kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeptResource {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub version: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
}
