//! The messages of `envoy.service.ext_proc.v3.ExternalProcessor/Process`, as far as they are used.
//!
//! Owns: field numbers and types. Refuses to know: what is sent when, and what becomes of the answers. Keeps: fields that
//! are not here are skipped when they are received, as Protocol Buffers prescribe.
//!
//! Source: `envoy/service/ext_proc/v3/external_processor.proto`,
//! `envoy/extensions/filters/http/ext_proc/v3/processing_mode.proto`.
#![allow(missing_docs, reason = "the fields are those of the service's definition")]

use std::collections::BTreeMap;

use crate::filters::ext_authz::messages::{
    HeaderValueMessage, HeaderValueOption, HttpStatusMessage, StructMessage,
};
use crate::filters::global_rate_limit::messages::DurationMessage;

/// The method.
pub(super) const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// What the service is sent.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ProcessingRequest {
    #[prost(oneof = "RequestPart", tags = "2, 3, 4, 5, 6, 7")]
    pub(crate) request: Option<RequestPart>,
    #[prost(btree_map = "string, message", tag = "9")]
    pub(crate) attributes: BTreeMap<String, StructMessage>,
    #[prost(bool, tag = "10")]
    pub(crate) observability_mode: bool,
    /// In the first message only.
    #[prost(message, optional, tag = "11")]
    pub(crate) protocol_config: Option<ProtocolConfiguration>,
}

/// A part of a message of HTTP.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum RequestPart {
    #[prost(message, tag = "2")]
    RequestHeaders(HttpHeaders),
    #[prost(message, tag = "3")]
    ResponseHeaders(HttpHeaders),
    #[prost(message, tag = "4")]
    RequestBody(HttpBody),
    #[prost(message, tag = "5")]
    ResponseBody(HttpBody),
    #[prost(message, tag = "6")]
    RequestTrailers(HttpTrailers),
    #[prost(message, tag = "7")]
    ResponseTrailers(HttpTrailers),
}

/// How bodies are sent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ProtocolConfiguration {
    #[prost(int32, tag = "1")]
    pub(crate) request_body_mode: i32,
    #[prost(int32, tag = "2")]
    pub(crate) response_body_mode: i32,
}

/// Headers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HttpHeaders {
    #[prost(message, optional, tag = "1")]
    pub(crate) headers: Option<HeaderMapMessage>,
    #[prost(bool, tag = "3")]
    pub(crate) end_of_stream: bool,
}

/// `envoy.config.core.v3.HeaderMap`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderMapMessage {
    #[prost(message, repeated, tag = "1")]
    pub(crate) headers: Vec<HeaderValueMessage>,
}

/// A body, or a piece of one.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HttpBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) body: bytes::Bytes,
    #[prost(bool, tag = "2")]
    pub(crate) end_of_stream: bool,
}

/// Trailers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HttpTrailers {
    #[prost(message, optional, tag = "1")]
    pub(crate) trailers: Option<HeaderMapMessage>,
}

/// What the service answers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ProcessingResponse {
    #[prost(oneof = "ResponsePart", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub(crate) response: Option<ResponsePart>,
    #[prost(message, optional, tag = "8")]
    pub(crate) dynamic_metadata: Option<StructMessage>,
    #[prost(message, optional, tag = "9")]
    pub(crate) mode_override: Option<ProcessingMode>,
    #[prost(message, optional, tag = "10")]
    pub(crate) override_message_timeout: Option<DurationMessage>,
}

/// The answer to a part, or a response in place of all.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum ResponsePart {
    #[prost(message, tag = "1")]
    RequestHeaders(CommonAnswer),
    #[prost(message, tag = "2")]
    ResponseHeaders(CommonAnswer),
    #[prost(message, tag = "3")]
    RequestBody(CommonAnswer),
    #[prost(message, tag = "4")]
    ResponseBody(CommonAnswer),
    #[prost(message, tag = "5")]
    RequestTrailers(TrailersAnswer),
    #[prost(message, tag = "6")]
    ResponseTrailers(TrailersAnswer),
    #[prost(message, tag = "7")]
    Immediate(ImmediateResponse),
}

/// `HeadersResponse` and `BodyResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CommonAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) response: Option<CommonResponse>,
}

/// `TrailersResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TrailersAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header_mutation: Option<HeaderMutation>,
}

/// What changes in a message.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CommonResponse {
    /// 1: replace the body, and ask no more about this message.
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) header_mutation: Option<HeaderMutation>,
    #[prost(message, optional, tag = "3")]
    pub(crate) body_mutation: Option<BodyMutation>,
    #[prost(bool, tag = "5")]
    pub(crate) clear_route_cache: bool,
}

/// A response in place of all.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ImmediateResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<HttpStatusMessage>,
    #[prost(message, optional, tag = "2")]
    pub(crate) headers: Option<HeaderMutation>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) body: bytes::Bytes,
    #[prost(message, optional, tag = "4")]
    pub(crate) grpc_status: Option<GrpcStatusMessage>,
    #[prost(string, tag = "5")]
    pub(crate) details: String,
}

/// A status of gRPC.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct GrpcStatusMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) status: u32,
}

/// Changes of headers or trailers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderMutation {
    #[prost(message, repeated, tag = "1")]
    pub(crate) set_headers: Vec<HeaderValueOption>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) remove_headers: Vec<String>,
}

/// A change of a body.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BodyMutation {
    #[prost(oneof = "BodyChange", tags = "1, 2, 3")]
    pub(crate) mutation: Option<BodyChange>,
}

/// What becomes of a body, or of a piece of it.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum BodyChange {
    #[prost(bytes = "bytes", tag = "1")]
    Replace(bytes::Bytes),
    #[prost(bool, tag = "2")]
    Clear(bool),
    #[prost(message, tag = "3")]
    Streamed(StreamedBody),
}

/// A piece of a body that the service streams.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamedBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) body: bytes::Bytes,
    #[prost(bool, tag = "2")]
    pub(crate) end_of_stream: bool,
}

/// What is sent, as the service overrides it: of headers and trailers 1 sends and 2 skips; bodies by [`BodyMode`].
///
/// [`BodyMode`]: super::settings::BodyMode
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ProcessingMode {
    #[prost(int32, tag = "2")]
    pub(crate) response_header_mode: i32,
    #[prost(int32, tag = "3")]
    pub(crate) request_body_mode: i32,
    #[prost(int32, tag = "4")]
    pub(crate) response_body_mode: i32,
    #[prost(int32, tag = "5")]
    pub(crate) request_trailer_mode: i32,
    #[prost(int32, tag = "6")]
    pub(crate) response_trailer_mode: i32,
}
