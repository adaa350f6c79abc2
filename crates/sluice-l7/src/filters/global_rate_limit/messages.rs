//! The messages of `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`, as far as they are used.
//!
//! Owns: field numbers and types. Refuses to know: what is counted, and what becomes of the answer. Keeps: fields that are
//! not here are skipped when they are received, as Protocol Buffers prescribe.
//!
//! Source: `envoy/service/ratelimit/v3/rls.proto`, `envoy/extensions/common/ratelimit/v3/ratelimit.proto`.
#![allow(missing_docs, reason = "the fields are those of the service's definition")]

use super::super::ext_authz::messages::{HeaderValueMessage, StructMessage};

/// The method.
pub(crate) const SHOULD_RATE_LIMIT: &str =
    "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// The question.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RateLimitRequest {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) descriptors: Vec<DescriptorMessage>,
}

/// What is counted.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DescriptorMessage {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<EntryMessage>,
    #[prost(message, optional, tag = "2")]
    pub(crate) limit: Option<LimitOverrideMessage>,
    /// `UInt64Value`, which `u64` is to prost.
    #[prost(message, optional, tag = "3")]
    pub(crate) hits_addend: Option<u64>,
}

/// A part of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct EntryMessage {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// A limit in place of the one that the service has.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct LimitOverrideMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) requests_per_unit: u32,
    /// 1 for a second, 2 for a minute, 3 for an hour, 4 for a day.
    #[prost(int32, tag = "2")]
    pub(crate) unit: i32,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RateLimitResponse {
    /// 1 if the request is within all limits, 2 if it is not.
    #[prost(int32, tag = "1")]
    pub(crate) overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) statuses: Vec<DescriptorStatusMessage>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) response_headers_to_add: Vec<HeaderValueMessage>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) request_headers_to_add: Vec<HeaderValueMessage>,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) raw_body: bytes::Bytes,
    #[prost(message, optional, tag = "6")]
    pub(crate) dynamic_metadata: Option<StructMessage>,
}

/// What became of a descriptor.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct DescriptorStatusMessage {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    /// Absent if the service has no limit for the descriptor.
    #[prost(message, optional, tag = "2")]
    pub(crate) current_limit: Option<CurrentLimitMessage>,
    #[prost(uint32, tag = "3")]
    pub(crate) limit_remaining: u32,
    #[prost(message, optional, tag = "4")]
    pub(crate) duration_until_reset: Option<DurationMessage>,
}

/// The limit of a descriptor.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CurrentLimitMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) requests_per_unit: u32,
    /// 1 for a second, 2 for a minute, 3 for an hour, 4 for a day, 5 for a month, 6 for a year, 7 for a week.
    #[prost(int32, tag = "2")]
    pub(crate) unit: i32,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
}

/// A length of time.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct DurationMessage {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}
