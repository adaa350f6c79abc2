//! The messages of `envoy.service.auth.v3.Authorization/Check`, as far as they are used.
//!
//! Owns: field numbers and types. Refuses to know: what is asked, and what becomes of the answer. Keeps: fields that are
//! not here are skipped when they are received, as Protocol Buffers prescribe.
//!
//! Source: `envoy/service/auth/v3/external_auth.proto`, `attribute_context.proto`, `envoy/config/core/v3/base.proto`.
#![allow(missing_docs, reason = "the fields are those of the service's definition")]

use std::collections::BTreeMap;

/// The method.
pub(crate) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The question.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) attributes: Option<AttributeContext>,
}

/// Everything that the service is told.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AttributeContext {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<AttributePeer>,
    #[prost(message, optional, tag = "2")]
    pub(crate) destination: Option<AttributePeer>,
    #[prost(message, optional, tag = "4")]
    pub(crate) request: Option<AttributeRequest>,
    #[prost(btree_map = "string, string", tag = "10")]
    pub(crate) context_extensions: BTreeMap<String, String>,
    #[prost(message, optional, tag = "12")]
    pub(crate) tls_session: Option<TlsSession>,
}

/// One end of the connection.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AttributePeer {
    #[prost(message, optional, tag = "1")]
    pub(crate) address: Option<AddressMessage>,
    #[prost(string, tag = "4")]
    pub(crate) principal: String,
    /// In PEM, percent-encoded.
    #[prost(string, tag = "5")]
    pub(crate) certificate: String,
}

/// An address.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AddressMessage {
    #[prost(message, optional, tag = "1")]
    pub(crate) socket_address: Option<SocketAddressMessage>,
}

/// An IP address and a port.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SocketAddressMessage {
    #[prost(string, tag = "2")]
    pub(crate) address: String,
    #[prost(uint32, tag = "3")]
    pub(crate) port_value: u32,
}

/// A request, and when it began.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AttributeRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) time: Option<TimestampMessage>,
    #[prost(message, optional, tag = "2")]
    pub(crate) http: Option<HttpRequestMessage>,
}

/// A time since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct TimestampMessage {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

/// A request of HTTP.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HttpRequestMessage {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) headers: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    pub(crate) path: String,
    #[prost(string, tag = "5")]
    pub(crate) host: String,
    #[prost(string, tag = "6")]
    pub(crate) scheme: String,
    /// The length of the body; -1 if it is not known.
    #[prost(int64, tag = "9")]
    pub(crate) size: i64,
    #[prost(string, tag = "10")]
    pub(crate) protocol: String,
    /// The body, if it is text.
    #[prost(string, tag = "11")]
    pub(crate) body: String,
    /// The body, if it is not.
    #[prost(bytes = "bytes", tag = "12")]
    pub(crate) raw_body: bytes::Bytes,
}

/// What the TLS handshake revealed.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TlsSession {
    #[prost(string, tag = "1")]
    pub(crate) sni: String,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CheckResponse {
    /// Whether the request may pass: code 0.
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<RpcStatus>,
    #[prost(message, optional, tag = "2")]
    pub(crate) denied_response: Option<DeniedHttpResponse>,
    #[prost(message, optional, tag = "3")]
    pub(crate) ok_response: Option<OkHttpResponse>,
    #[prost(message, optional, tag = "4")]
    pub(crate) dynamic_metadata: Option<StructMessage>,
}

/// A status of gRPC.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
}

/// What the client gets if the request may not pass.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeniedHttpResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<HttpStatusMessage>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) headers: Vec<HeaderValueOption>,
    #[prost(string, tag = "3")]
    pub(crate) body: String,
}

/// A status of HTTP.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct HttpStatusMessage {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
}

/// What changes if the request may pass.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OkHttpResponse {
    #[prost(message, repeated, tag = "2")]
    pub(crate) headers: Vec<HeaderValueOption>,
    #[prost(message, optional, tag = "3")]
    pub(crate) dynamic_metadata: Option<StructMessage>,
    #[prost(string, repeated, tag = "5")]
    pub(crate) headers_to_remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) response_headers_to_add: Vec<HeaderValueOption>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) query_parameters_to_set: Vec<QueryParameterMessage>,
    #[prost(string, repeated, tag = "8")]
    pub(crate) query_parameters_to_remove: Vec<String>,
}

/// A query parameter.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct QueryParameterMessage {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// A header, and what becomes of those of its name.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<HeaderValueMessage>,
    /// `BoolValue`, which `bool` is to prost.
    #[prost(message, optional, tag = "2")]
    pub(crate) append: Option<bool>,
    #[prost(int32, tag = "3")]
    pub(crate) append_action: i32,
}

/// A header.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderValueMessage {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) raw_value: bytes::Bytes,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StructMessage {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) fields: BTreeMap<String, ValueMessage>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValueMessage {
    #[prost(oneof = "ValueKind", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) kind: Option<ValueKind>,
}

/// One of the kinds of values.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum ValueKind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(StructMessage),
    #[prost(message, tag = "6")]
    List(ListMessage),
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListMessage {
    #[prost(message, repeated, tag = "1")]
    pub(crate) values: Vec<ValueMessage>,
}
