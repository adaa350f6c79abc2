//! The settings of `ext_proc`, and how those of a rule join those around it.
//!
//! Owns: what is written, what of it can be used, and the defaults. Refuses to know: requests, and the service. Keeps: a
//! setting that a rule leaves out is that of the settings around it.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::Size;
use sluice_core::{Name, Node, Spanned};
use sluice_upstream::Cluster;

use super::attributes::AttributeName;
use super::changes::{AllowedChanges, HeaderChanges};
use crate::GrpcMethod;
use crate::filters::ext_authz::settings::ContextTexts;
use crate::filters::{CheckContext, FilterOwner};
use crate::words::HeaderName;

sluice_core::choice! {
    /// How a body is sent to the service.
    pub enum BodyMode {
        /// Not at all.
        None = "none",
        /// Piece by piece; each waits for its answer.
        Streamed = "streamed",
        /// Whole.
        Buffered = "buffered",
        /// Its first `body_max` bytes at once; what follows passes as it is.
        Partial = "partial",
        /// Piece by piece, while the service sends pieces of a new body in its own time.
        Duplex = "duplex",
    }
}

sluice_core::choice! {
    /// When the route is selected again after the headers of the request were answered.
    pub enum ReroutePolicy {
        /// If the answer asks for it.
        Asked = "asked",
        /// Always.
        Always = "always",
        /// Never.
        Never = "never",
    }
}

sluice_core::section! {
    /// Has a service change requests and responses. A rule or virtual host leaves out what the settings around it say.
    pub struct ExtProc {
        /// The cluster of the service.
        pub cluster: Option<Spanned<Name>>,
        /// The time for each answer; 200ms if omitted. It does not bound bodies that are `duplex`.
        pub timeout: Option<Duration>,
        /// How much time an answer may ask for, once, in place of `timeout` (`override_message_timeout`). None if omitted.
        pub timeout_max: Option<Duration>,
        /// What the service is sent.
        pub send: Option<SentParts>,
        /// Whether the answer to headers may change what the service is sent of the rest (`mode_override`); false if omitted.
        pub allow_override: Option<bool>,
        /// What it may change it to: one of these, whatever they say of the headers of requests. Anything if omitted or empty; what
        /// is not among them is ignored.
        pub override_modes: Option<Vec<SentParts>>,
        /// Whether requests and responses pass as they are if the service fails: it cannot be reached, is late, or answers
        /// what it should not. False if omitted.
        pub allow_on_error: Option<bool>,
        /// The status of the response if it fails, from 400 to 599. If omitted 500, and 504 if the service is late.
        pub error_status: Option<u16>,
        /// The largest body that is sent at once (`buffered`, `partial`): a request with a larger one gets 413, a larger
        /// response becomes 500. 512KiB if omitted.
        pub body_max: Option<Size>,
        /// The headers and trailers that the service gets, besides method, scheme, host, path and status. All if omitted.
        pub headers: Option<Vec<HeaderName>>,
        /// The headers and trailers that it does not get.
        pub except_headers: Option<Vec<HeaderName>>,
        /// Which headers and trailers the service may change.
        pub changes: Option<AllowedChanges>,
        /// Attributes of the request and its connection, by Envoy's names, that are sent with the first part of the request.
        pub attributes: Option<Vec<AttributeName>>,
        /// The same, with the first part of the response.
        pub response_attributes: Option<Vec<AttributeName>>,
        /// Metadata that each call begins with.
        pub call_metadata: Option<ContextTexts>,
        /// The namespaces of the dynamic metadata that the service may set. None if omitted.
        pub receive_metadata: Option<Vec<Name>>,
        /// Whether the service may respond itself (`immediate_response`); true if omitted. If not, the request passes as it
        /// is, and the service is not asked any more.
        pub responds: Option<bool>,
        /// When the route is selected again; `asked` if omitted.
        pub reroute: Option<ReroutePolicy>,
        /// Whether the service only observes: it is sent what passes, nothing waits for it, and what it answers is ignored.
        /// Bodies are `streamed` or not sent. False if omitted.
        pub observe: Option<bool>,
        /// How long a call may stay open when its request has ended; 5s if omitted.
        pub close_timeout: Option<Duration>,
    }
}

sluice_core::section! {
    /// What a service is sent of requests and responses.
    pub struct SentParts {
        /// Whether it is sent the headers of requests.
        pub request_headers: bool = "true",
        /// How it is sent their bodies.
        pub request_body: BodyMode = "none",
        /// Whether it is sent their trailers, as it always is if the body is `duplex`.
        pub request_trailers: bool = "false",
        /// Whether it is sent the headers of responses.
        pub response_headers: bool = "true",
        /// How it is sent their bodies.
        pub response_body: BodyMode = "none",
        /// Whether it is sent their trailers, as it always is if the body is `duplex`.
        pub response_trailers: bool = "false",
    }
}

/// The longest time for an answer, as in Envoy.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

impl ExtProc {
    /// Checks what the types of the fields do not.
    pub(super) fn is_usable(&self, node: &Node, context: &mut CheckContext<'_>) -> bool {
        let of_routes = matches!(context.owner, FilterOwner::Routes(_));
        let mut refuse = |key: &str, message: &str, help: &str| {
            let entries = node.entries().unwrap_or_default();
            let span = entries.iter().find(|entry| &*entry.key == key).map(|entry| entry.key_span);
            let finding = context.diags.error("bad-value", span, context.at.key(key), message);
            if !help.is_empty() {
                finding.help(help);
            }
            false
        };
        if self.cluster.is_none() && !of_routes {
            let message = "`ext_proc` needs the `cluster` of the service";
            context.diags.error("missing-field", node.span, context.at, message);
            return false;
        }
        if self.error_status.is_some_and(|status| !(400..600).contains(&status)) {
            return refuse("error_status", "`error_status` must be from 400 to 599", "");
        }
        let timeouts = [("timeout", self.timeout), ("timeout_max", self.timeout_max)];
        for (key, time) in timeouts {
            if time.is_some_and(|time| time > TIMEOUT_MAX) {
                return refuse(key, &format!("`{key}` is at most 1h"), "");
            }
        }
        if !self.bodies_fit() {
            let message = "a service that observes is sent bodies piece by piece";
            return refuse("send", message, "write `streamed` or `none`, or remove `observe`");
        }
        true
    }

    /// Whether bodies are sent as one who observes may get them.
    pub(super) fn bodies_fit(&self) -> bool {
        let bodies = self.send.as_ref().map(|send| [send.request_body, send.response_body]);
        let fits = |mode: &BodyMode| matches!(mode, BodyMode::None | BodyMode::Streamed);
        self.observe != Some(true) || bodies.iter().flatten().all(fits)
    }

    /// These settings on top of others.
    pub(super) fn over(&self, under: &Self) -> Self {
        macro_rules! overlay {
            ($($field:ident)+) => {
                Self { $($field: self.$field.clone().or_else(|| under.$field.clone()),)+ }
            };
        }
        overlay!(cluster timeout timeout_max send allow_override override_modes allow_on_error error_status
            body_max headers except_headers changes attributes response_attributes call_metadata
            receive_metadata responds reroute observe close_timeout)
    }
}

/// A method, with the metadata that calls begin with.
pub(crate) fn method(
    path: &'static str,
    texts: &ContextTexts,
    node: &Node,
    context: &mut CheckContext<'_>,
) -> Option<GrpcMethod> {
    let mut method = GrpcMethod::new(path);
    for (name, value) in texts.texts() {
        method = match method.with(&name.to_ascii_lowercase(), value.as_bytes()) {
            Ok(method) => method,
            Err(error) => {
                let at = context.at.key("call_metadata");
                let message = format!("`{name}` cannot be sent: {error}");
                context.diags.error("bad-value", node.span, at, message);
                return None;
            }
        };
    }
    Some(method)
}

/// The settings in force for a request.
#[derive(Debug)]
pub(super) struct ProcSettings {
    pub(super) cluster: Arc<Cluster>,
    pub(super) method: GrpcMethod,
    pub(super) timeout: Duration,
    pub(super) timeout_max: Duration,
    pub(super) send: SentParts,
    pub(super) allow_override: bool,
    pub(super) override_modes: Vec<SentParts>,
    pub(super) allow_on_error: bool,
    pub(super) error_status: Option<u16>,
    pub(super) body_max: usize,
    pub(super) headers: Option<Vec<HeaderName>>,
    pub(super) except_headers: Vec<HeaderName>,
    pub(super) changes: HeaderChanges,
    pub(super) attributes: Vec<AttributeName>,
    pub(super) response_attributes: Vec<AttributeName>,
    pub(super) receive_metadata: Vec<Name>,
    pub(super) responds: bool,
    pub(super) reroute: ReroutePolicy,
    pub(super) observe: bool,
    pub(super) close_timeout: Duration,
}

impl ProcSettings {
    pub(super) fn new(
        written: &ExtProc,
        cluster: Arc<Cluster>,
        method: Option<GrpcMethod>,
    ) -> Self {
        let of = written.clone();
        let changes = of.changes.unwrap_or_else(AllowedChanges::usual);
        Self {
            cluster,
            method: method.unwrap_or_else(|| GrpcMethod::new(super::messages::PROCESS)),
            timeout: of.timeout.unwrap_or(Duration::from_millis(200)),
            timeout_max: of.timeout_max.unwrap_or_default(),
            send: of.send.unwrap_or_else(SentParts::usual),
            allow_override: of.allow_override.unwrap_or(false),
            override_modes: of.override_modes.unwrap_or_default(),
            allow_on_error: of.allow_on_error.unwrap_or(false),
            error_status: of.error_status,
            body_max: of
                .body_max
                .map_or(512 * 1024, |max| usize::try_from(max.0).unwrap_or(usize::MAX)),
            headers: of.headers,
            except_headers: of.except_headers.unwrap_or_default(),
            changes: HeaderChanges::new(changes),
            attributes: of.attributes.unwrap_or_default(),
            response_attributes: of.response_attributes.unwrap_or_default(),
            receive_metadata: of.receive_metadata.unwrap_or_default(),
            responds: of.responds.unwrap_or(true),
            reroute: of.reroute.unwrap_or(ReroutePolicy::Asked),
            observe: of.observe.unwrap_or(false),
            close_timeout: of.close_timeout.unwrap_or(Duration::from_secs(5)),
        }
    }
}

impl SentParts {
    /// What is sent if nothing is written.
    pub(super) const fn usual() -> Self {
        Self {
            request_headers: true,
            request_body: BodyMode::None,
            request_trailers: false,
            response_headers: true,
            response_body: BodyMode::None,
            response_trailers: false,
        }
    }
}

impl BodyMode {
    /// The number of Envoy's `BodySendMode`.
    pub(super) const fn number(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Streamed => 1,
            Self::Buffered => 2,
            Self::Partial => 3,
            Self::Duplex => 4,
        }
    }

    /// The mode with that number.
    pub(super) fn of_number(number: i32) -> Option<Self> {
        let all = [Self::None, Self::Streamed, Self::Buffered, Self::Partial, Self::Duplex];
        all.into_iter().find(|mode| mode.number() == number)
    }
}
