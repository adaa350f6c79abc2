//! The record of a request, and the operators that name its values.
//!
//! Owns: what is known of a request while it is in flight and after it has ended. Refuses to know: where records go.
//! Keeps: operators mean the same in header values as in records.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::{Head, Known, Version};
use sluice_core::connection::{Attempt, Peer};
use sluice_core::{ConnValues, Name, Reason, SharedValues, values};
use sluice_expr::{AttributeSource as _, AttributeValue, Expression};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_l4::record::without_port;
use sluice_telemetry::{Argument, Operator, Record, RecordKind, TemplateField};
use smallvec::SmallVec;

use crate::expression::{
    RequestAttributes, ResponseAttributes, attribute_of_exchange, exchange_expression,
};
use crate::identity::who;

mod conn_facts;

pub use conn_facts::ConnFacts;

sluice_telemetry::operators! {
    /// All operators of requests.
    pub OPERATORS:
    START_TIME = "START_TIME", "The start time, RFC 3339 in UTC.";
    METHOD = "METHOD", "The method.";
    HOST = "HOST", "The requested authority.";
    PATH = "PATH", "The path and query as sent by the client.";
    REQ = "REQ"("NAME?OTHER"), "A request header, or another if it is missing; :METHOD, :PATH, :AUTHORITY and :SCHEME are also accepted.";
    REQUEST_HEADER = "REQUEST_HEADER"("NAME?OTHER"), "The same as REQ.";
    RESP = "RESP"("NAME?OTHER"), "A response header, or another if it is missing.";
    RESPONSE_HEADER = "RESPONSE_HEADER"("NAME?OTHER"), "The same as RESP.";
    QUERY_PARAM = "QUERY_PARAM"("NAME"), "A query parameter.";
    PROTOCOL = "PROTOCOL", "The HTTP version used by the client.";
    UPSTREAM_PROTOCOL = "UPSTREAM_PROTOCOL", "The HTTP version used by the endpoint.";
    RESPONSE_CODE = "RESPONSE_CODE", "The response status; 0 if none was sent.";
    DETAILS = "RESPONSE_CODE_DETAILS", "The cause of the status, as Envoy's response code detail where it has one.";
    FLAGS = "RESPONSE_FLAGS", "Envoy's response flag for the reason.";
    LOCAL_REPLY_BODY = "LOCAL_REPLY_BODY", "The text of a response that Sluice generates itself, without the reason and the request ID, and before `local_replies` makes its body from it.";
    GRPC_STATUS = "GRPC_STATUS_NUMBER", "The gRPC status of the response.";
    ROUTE = "ROUTE_NAME", "The rule that matched.";
    CLUSTER = "UPSTREAM_CLUSTER", "The cluster.";
    UPSTREAM = "UPSTREAM_HOST", "The endpoint of the last attempt, whether it responded or not.";
    ATTEMPTS = "UPSTREAM_HOSTS_ATTEMPTED", "Every endpoint that was attempted, with the failure.";
    ATTEMPT_COUNT = "UPSTREAM_REQUEST_ATTEMPT_COUNT", "The number of attempts.";
    RECEIVED = "BYTES_RECEIVED", "Bytes of the request body.";
    SENT = "BYTES_SENT", "Bytes of the response body.";
    DURATION = "DURATION", "Milliseconds from the request headers to the end.";
    REQUEST_DURATION = "REQUEST_DURATION", "Milliseconds from the request headers to the end of the request.";
    RESPONSE_DURATION = "RESPONSE_DURATION", "Milliseconds from the request headers to the response headers.";
    RESPONSE_TX_DURATION = "RESPONSE_TX_DURATION", "Milliseconds from the response headers to the end of the response.";
    STREAM_ID = "STREAM_ID", "The number of the request, unique within the process.";
    REASON = "REASON", "The reason for the end; `sluice explain --reasons` describes each.";
    PHASE = "PHASE", "The phase in which it ended.";
    SIDE = "SIDE", "The side that caused the end: downstream, upstream or local.";
    DETAIL = "DETAIL", "Details of the end, from the system or the codec.";
    CONNECTION_ID = "CONNECTION_ID", "The number of the request's connection.";
    LISTENER = "LISTENER", "The listener.";
    CHAIN = "FILTER_CHAIN_NAME", "The filter chain.";
    REMOTE = "DOWNSTREAM_REMOTE_ADDRESS", "The source address: from trusted x-forwarded-for or PROXY header, or the peer.";
    REMOTE_IP = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "The same without its port.";
    REMOTE_PORT = "DOWNSTREAM_REMOTE_PORT", "The port of the source address.";
    PEER = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", "The remote address of the socket.";
    PEER_IP = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "The same without its port.";
    PEER_PORT = "DOWNSTREAM_DIRECT_REMOTE_PORT", "The port of the remote address of the socket.";
    LOCAL = "DOWNSTREAM_LOCAL_ADDRESS", "The address that the client connected to.";
    LOCAL_IP = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "The address that the client connected to, without its port.";
    LOCAL_PORT = "DOWNSTREAM_LOCAL_PORT", "The port that the client connected to.";
    SNI = "REQUESTED_SERVER_NAME", "The server name in the ClientHello.";
    TLS_VERSION = "DOWNSTREAM_TLS_VERSION", "The TLS version, if TLS was terminated.";
    TLS_CIPHER = "DOWNSTREAM_TLS_CIPHER", "The cipher suite, if TLS was terminated.";
    CLIENT_SUBJECT = "DOWNSTREAM_PEER_SUBJECT", "The subject of the client's certificate.";
    IDENTITY = "IDENTITY", "Who made the request: whom a filter has verified, or else the holder of the client's certificate. `jwt:PROVIDER/SUBJECT`, `oidc:PROVIDER/SUBJECT`, `basic:USER`, `api_key:NAME` or `certificate:NAME`.";
    TRACE_ID = "TRACE_ID", "The trace ID in `traceparent`.";
    RESPONSE_FILTER = "RESPONSE_FILTER", "The filter that responded, in place of an endpoint or of its response.";
    SIDE_CALLS = "SIDE_CALLS", "Every request that a filter sent to a cluster, with the status or failure, the time it took, and the number of attempts if there were several.";
    VALUE = "VALUE"("NAME", values::check_name), "A value that a filter shared, by its name: of the request or, if it has none, of its connection.";
    CEL = "CEL"("EXPRESSION" => exchange_expression), "What an expression in CEL makes of the request, its response and its connection; that over a connection in records of connections.";
}

/// The text format behind `format: text` for a sink that takes only requests; modelled on Envoy's.
pub const DEFAULT_TEXT: &str = "[%START_TIME%] \"%METHOD% %PATH% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%HOST%\" \"%UPSTREAM_HOST%\" %REASON%";

/// Headers that JSON records contain by default, by key.
pub const DEFAULT_HEADERS: &[(&str, &str)] = &[
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("referer", "%REQ(REFERER)%"),
];

/// What is known of a request besides its heads.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its number.
    pub id: u64,
    /// The wall-clock time at which it began, since the Unix epoch.
    pub started: Duration,
    /// How long it has lasted.
    pub lasted: Duration,
    /// When the request was received completely, since its beginning.
    pub request_end: Option<Duration>,
    /// When the response headers were received, since its beginning.
    pub response_start: Option<Duration>,
    /// The HTTP version of the client.
    pub version: Version,
    /// The HTTP version of the endpoint.
    pub upstream_version: Option<Version>,
    /// Path and query as received; empty if nothing changed them.
    pub original_path: String,
    /// The source address of the client.
    pub source: Peer,
    /// The rule.
    pub route: Option<Name>,
    /// The cluster that the rule forwards to, if it names a single one; known before filters run.
    pub destination: Option<Name>,
    /// The cluster.
    pub cluster: Option<Name>,
    /// The attempts, in order.
    pub attempts: SmallVec<[Attempt; 1]>,
    /// The filter that responded, in place of an endpoint or of its response.
    pub filter: Option<Name>,
    /// The side calls of filters that have ended, in order.
    pub side_calls: Vec<SideCallRecord>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// The status; 0 if none was sent.
    pub status: u16,
    /// The gRPC status, from the trailers or from the headers of a response without a body.
    pub grpc_status: Option<u32>,
    /// Why it ended.
    pub reason: Option<Reason>,
    /// How the status came about.
    pub details: Cow<'static, str>,
    /// What the system or the codec reported.
    pub detail: Option<Box<str>>,
    /// The text of a response that Sluice generates itself.
    pub local_text: Option<Bytes>,
}

impl Summary {
    /// What is known of a request when its head was received.
    pub(crate) fn begun(id: u64, started: Duration, version: Version, source: Peer) -> Self {
        Self {
            id,
            started,
            lasted: Duration::ZERO,
            request_end: None,
            response_start: None,
            version,
            upstream_version: None,
            original_path: String::new(),
            source,
            route: None,
            destination: None,
            cluster: None,
            attempts: SmallVec::new(),
            side_calls: Vec::new(),
            filter: None,
            received: 0,
            sent: 0,
            status: 0,
            grpc_status: None,
            reason: None,
            details: Cow::Borrowed(""),
            detail: None,
            local_text: None,
        }
    }
}

/// A side call of a filter that has ended.
#[derive(Clone, Debug)]
pub struct SideCallRecord {
    /// The cluster.
    pub cluster: Name,
    /// The status or the failure; `None` if the request of the filter ended first.
    pub end: Option<Result<u16, Box<str>>>,
    /// How long it lasted.
    pub took: Duration,
    /// The number of attempts.
    pub attempts: u32,
}

impl std::fmt::Display for SideCallRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster, end, took, attempts } = self;
        let ms = took.as_millis();
        match end {
            Some(Ok(status)) => write!(f, "{cluster} {status} in {ms} ms"),
            Some(Err(_)) => write!(f, "{cluster} failed in {ms} ms"),
            None => write!(f, "{cluster} dropped after {ms} ms"),
        }?;
        if *attempts > 1 {
            write!(f, " and {attempts} attempts")?;
        }
        match end {
            Some(Err(failure)) => write!(f, ": {failure}"),
            _ => Ok(()),
        }
    }
}

/// A request as templates and records see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its connection.
    pub conn: &'a ConnFacts,
    /// The request head.
    pub request: &'a Head,
    /// The response head, once there is one.
    pub response: Option<&'a Head>,
    /// Everything else.
    pub summary: &'a Summary,
    /// What filters share about the request.
    pub values: &'a SharedValues,
    /// What filters share about its connection.
    pub conn_values: &'a ConnValues,
}

impl View<'_> {
    /// Returns the value of an operator.
    pub fn field<'f>(&self, operator: &Operator, argument: &Argument) -> TemplateField<'f> {
        let owned = |text: Option<&str>| TemplateField::from(text.map(str::to_owned));
        let (conn, request, summary) = (self.conn, self.request, self.summary);
        let since = |at: Option<Duration>| at.map_or(TemplateField::Missing, TemplateField::Millis);
        match operator.name {
            name if name == START_TIME.name => TemplateField::Time(summary.started),
            name if name == METHOD.name => owned(Some(request.method_text())),
            name if name == HOST.name => owned(Some(request.authority())),
            name if name == PATH.name => owned(Some(self.path())),
            name if name == REQ.name || name == REQUEST_HEADER.name => {
                either(argument, |name| self.request_field(name))
            }
            name if name == RESP.name || name == RESPONSE_HEADER.name => {
                either(argument, |name| header(self.response?, name))
            }
            name if name == QUERY_PARAM.name => {
                let query = request.query().unwrap_or_default();
                owned(crate::header_values::query_parameter(query, argument))
            }
            name if name == PROTOCOL.name => owned(Some(summary.version.word())),
            name if name == UPSTREAM_PROTOCOL.name => {
                owned(summary.upstream_version.map(Version::word))
            }
            name if name == RESPONSE_CODE.name => TemplateField::Number(summary.status.into()),
            name if name == DETAILS.name => {
                owned(Some(&*summary.details).filter(|details| !details.is_empty()))
            }
            name if name == FLAGS.name => {
                let flag = summary.reason.map(|reason| reason.def().envoy_flag);
                match (flag, self.values.named("fault.delay")) {
                    (None | Some("-"), Some(_)) => TemplateField::from("DI".to_owned()),
                    (Some(flag), Some(_)) => TemplateField::from(format!("DI,{flag}")),
                    (flag, None) => owned(flag),
                }
            }
            name if name == LOCAL_REPLY_BODY.name => {
                let text = summary.local_text.as_deref();
                text.map(|text| String::from_utf8_lossy(text).into_owned()).into()
            }
            name if name == GRPC_STATUS.name => summary
                .grpc_status
                .map_or(TemplateField::Missing, |status| TemplateField::Number(status.into())),
            name if name == ROUTE.name => owned(summary.route.as_deref()),
            name if name == CLUSTER.name => owned(summary.cluster.as_deref()),
            name if name == UPSTREAM.name => {
                owned(summary.attempts.last().map(|attempt| &*attempt.endpoint))
            }
            name if name == ATTEMPTS.name => {
                TemplateField::List(summary.attempts.iter().map(ToString::to_string).collect())
            }
            name if name == ATTEMPT_COUNT.name => {
                TemplateField::Number(summary.attempts.len() as u64)
            }
            name if name == RECEIVED.name => TemplateField::Number(summary.received),
            name if name == SENT.name => TemplateField::Number(summary.sent),
            name if name == DURATION.name => TemplateField::Millis(summary.lasted),
            name if name == REQUEST_DURATION.name => since(summary.request_end),
            name if name == RESPONSE_DURATION.name => since(summary.response_start),
            name if name == RESPONSE_TX_DURATION.name => {
                since(summary.response_start.map(|at| summary.lasted.saturating_sub(at)))
            }
            name if name == STREAM_ID.name => TemplateField::Number(summary.id),
            name if name == REASON.name => owned(summary.reason.map(Reason::code)),
            name if name == PHASE.name => owned(summary.reason.map(|r| r.def().phase.word())),
            name if name == SIDE.name => owned(summary.reason.map(|r| r.def().side.word())),
            name if name == DETAIL.name => owned(summary.detail.as_deref()),
            name if name == CONNECTION_ID.name => TemplateField::Number(conn.id),
            name if name == LISTENER.name => owned(Some(&conn.listener)),
            name if name == CHAIN.name => owned(conn.chain.as_deref()),
            name if name == REMOTE.name => TemplateField::from(summary.source.to_string()),
            name if name == REMOTE_IP.name => TemplateField::from(without_port(summary.source)),
            name if name == PEER.name => TemplateField::from(conn.peer.to_string()),
            name if name == PEER_IP.name => TemplateField::from(without_port(conn.peer)),
            name if name == LOCAL.name => TemplateField::from(conn.local.to_string()),
            name if name == LOCAL_IP.name => TemplateField::from(without_port(conn.local)),
            name if name == LOCAL_PORT.name => port_of(conn.local),
            name if name == REMOTE_PORT.name => port_of(summary.source),
            name if name == PEER_PORT.name => port_of(conn.peer),
            name if name == SNI.name => owned(conn.sni.as_deref()),
            name if name == TLS_VERSION.name => owned(conn.tls.as_ref().map(|tls| tls.version)),
            name if name == TLS_CIPHER.name => owned(conn.tls.as_ref().map(|tls| tls.cipher)),
            name if name == CLIENT_SUBJECT.name => {
                owned(conn.tls.as_ref().and_then(|tls| tls.client_subject()))
            }
            name if name == IDENTITY.name => {
                owned(who(self.values, conn.tls.as_deref()).map(|who| who.to_string()).as_deref())
            }
            name if name == TRACE_ID.name => {
                let parent = request.get(Known::Traceparent);
                let parent = parent.and_then(|value| std::str::from_utf8(value).ok());
                owned(parent.and_then(|value| value.split('-').nth(1)))
            }
            name if name == RESPONSE_FILTER.name => owned(summary.filter.as_deref()),
            name if name == SIDE_CALLS.name => match summary.side_calls.as_slice() {
                [] => TemplateField::Missing,
                calls => TemplateField::List(calls.iter().map(ToString::to_string).collect()),
            },
            name if name == CEL.name => argument
                .parsed::<Expression>()
                .and_then(|expression| expression.text(&self.attributes(&self.subject())).ok())
                .into(),
            name if name == VALUE.name => {
                let value =
                    self.values.named(argument).or_else(|| self.conn_values.named(argument));
                value.map_or(TemplateField::Missing, TemplateField::shared)
            }
            _ => TemplateField::Missing,
        }
    }

    /// Its connection as expressions see it.
    pub(crate) fn subject(&self) -> ConnSubject<'_> {
        self.conn.subject(self.summary.source, self.conn_values)
    }

    /// The request as expressions see it.
    pub(crate) fn attributes<'a>(&'a self, conn: &'a ConnSubject<'a>) -> RequestAttributes<'a> {
        // The status is counted only once the response is on its way.
        let status = |response: &Head| match self.summary.status {
            0 => response.status(),
            status => status,
        };
        let response = self.response.map(|response| ResponseAttributes {
            status: status(response),
            head: response,
            reason: self.summary.reason,
            details: &self.summary.details,
        });
        let (head, path) = (self.request, self.request.path_only());
        RequestAttributes { head, path, values: Some(self.values), conn: Some(conn), response }
    }

    /// The attribute that expressions write as `ROOT.FIELD`; of a map of headers, only `member`, if one is given.
    pub fn attribute(
        &self,
        root: &str,
        field: &str,
        member: Option<&str>,
    ) -> Option<AttributeValue> {
        let of = attribute_of_exchange(root, field, member)?;
        self.attributes(&self.subject()).attribute(&of)
    }

    fn path(&self) -> &str {
        let original = &self.summary.original_path;
        if original.is_empty() { self.request.path() } else { original }
    }

    fn request_field(&self, name: &str) -> Option<String> {
        let request = self.request;
        let pseudo = if name.eq_ignore_ascii_case(":method") {
            request.method_text()
        } else if name.eq_ignore_ascii_case(":path") {
            request.path()
        } else if name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host") {
            request.authority()
        } else if name.eq_ignore_ascii_case(":scheme") {
            request.scheme()
        } else if name.eq_ignore_ascii_case("x-envoy-original-path") {
            &self.summary.original_path
        } else {
            return header(request, name);
        };
        Some(pseudo.to_owned()).filter(|text| !text.is_empty())
    }
}

fn header(head: &Head, name: &str) -> Option<String> {
    head.get_named(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
}

/// Resolves `NAME` or `NAME?OTHER`.
fn either<'f>(argument: &str, get: impl Fn(&str) -> Option<String>) -> TemplateField<'f> {
    let (name, other) = argument.split_once('?').unwrap_or((argument, ""));
    get(name).or_else(|| get(other).filter(|_| !other.is_empty())).into()
}

/// The record of a request that has ended.
#[derive(Debug)]
pub struct RequestRecord {
    pub(crate) conn: Arc<ConnFacts>,
    pub(crate) request: Box<Head>,
    pub(crate) response: Option<Box<Head>>,
    pub(crate) summary: Summary,
    pub(crate) values: SharedValues,
    pub(crate) conn_values: ConnValues,
}

impl Record for RequestRecord {
    fn kind(&self) -> RecordKind {
        RecordKind::Request
    }

    fn field(&self, operator: &Operator, argument: &Argument) -> TemplateField<'_> {
        let view = View {
            conn: &self.conn,
            request: &self.request,
            response: self.response.as_deref(),
            summary: &self.summary,
            values: &self.values,
            conn_values: &self.conn_values,
        };
        view.field(operator, argument)
    }
}

/// The port of an address, if it has one.
fn port_of(peer: Peer) -> TemplateField<'static> {
    peer.socket()
        .map_or(TemplateField::Missing, |socket| TemplateField::Number(socket.port().into()))
}
