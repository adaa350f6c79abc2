//! The settings of `ext_authz`.
//!
//! Owns: what may be set, and what does not go together. Refuses to know: how the service is asked. Keeps: a setting
//! without effect is refused.

use std::time::Duration;

use sluice_core::settings::{Plain, Short, ShortForm, Size};
use sluice_core::{Diags, Name, Node, Path, Setting, Shape, Spanned};

use crate::filters::{CheckContext, FilterOwner};
use crate::words::{EditableHeader, bind_by_name};

sluice_core::choice! {
    /// How the service is asked.
    pub enum AuthzProtocol {
        /// The gRPC method `envoy.service.auth.v3.Authorization/Check`.
        Grpc = "grpc",
        /// A request with the same method and path; a response with 2xx allows it.
        Http = "http",
    }
}

sluice_core::section! {
    /// Asks a service whether requests may pass.
    pub struct ExtAuthz {
        /// The cluster of the service. In a rule or virtual host, settings without it add to those of the chain: their
        /// `context` and `with_body`.
        pub cluster: Option<Spanned<Name>>,
        /// How the service is asked.
        pub protocol: AuthzProtocol = "grpc",
        /// The time for its answer.
        pub timeout: Duration = "200ms",
        /// Whether requests pass that the service does not decide about: it cannot be reached, is late, or fails.
        pub allow_on_error: bool = "false",
        /// The status of the response to a request that does not pass for that reason, from 400 to 599.
        pub error_status: u16 = "403",
        /// Whether the service is sent the client's certificate, in PEM and percent-encoded: as `source.certificate` over
        /// gRPC, in the header `ssl-client-cert` over HTTP.
        pub client_certificate: bool = "false",
        /// The largest body that the service is sent; a larger one gets a 413 response. If omitted, it gets none.
        pub with_body: Option<Short<AuthzBody>>,
        /// Over gRPC: whether bodies are always sent as bytes (`raw_body`). If not, those that are UTF-8 are sent as a text
        /// (`body`).
        pub body_as_bytes: bool = "false",
        /// What the service is told besides: context extensions over gRPC, headers over HTTP.
        pub context: ContextTexts,
        /// The request headers that the service gets. If omitted, all over gRPC, and `authorization` over HTTP.
        pub request_headers: Option<Vec<EditableHeader>>,
        /// Over HTTP: what stands before the path of the request.
        pub path_prefix: Option<String>,
        /// Over HTTP: the headers of an answer that allows which the endpoint gets. Those of the client are removed.
        pub upstream_headers: Vec<EditableHeader>,
        /// Over HTTP: the headers of an answer that allows which the client gets.
        pub allowed_client_headers: Vec<EditableHeader>,
        /// Over HTTP: the headers of an answer that denies which the client gets, besides the type of the body.
        pub denied_client_headers: Vec<EditableHeader>,
        /// Whether the route is selected again if the answer changes headers of the request.
        pub reroute: bool = "false",
    }
}

sluice_core::section! {
    /// The body of requests, for the service.
    pub struct AuthzBody {
        /// The largest body.
        pub max: Size,
        /// Whether a larger body is not refused: the service decides by its first `max` bytes.
        pub partial: bool = "false",
    }
}

impl ShortForm for AuthzBody {
    const KEY: &'static str = "max";
}

/// Texts by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextTexts(Vec<(String, String)>);

impl ContextTexts {
    /// The texts, with their names.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().cloned()
    }
}

impl Setting for ContextTexts {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_by_name(node, at, diags, String::bind).map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(String::shape()))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.0.iter().map(|(name, text)| (name.clone(), text.show())).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl ExtAuthz {
    /// Whether what the types of the fields do not check is right.
    pub(super) fn is_usable(&self, node: &Node, context: &mut CheckContext<'_>) -> bool {
        let written = |key: &str| {
            let entries = node.entries().unwrap_or_default();
            entries.iter().find(|entry| &*entry.key == key).map(|entry| entry.key_span)
        };
        if self.cluster.is_none() {
            let of_routes = matches!(context.owner, FilterOwner::Routes(_));
            let own = ["context", "with_body"];
            let other = node.entries().unwrap_or_default().iter();
            let other = other.map(|entry| &*entry.key).find(|key| !own.contains(key));
            if of_routes && other.is_none() {
                return true;
            }
            let message = "`ext_authz` needs the `cluster` of the service";
            let finding = context.diags.error("missing-field", node.span, context.at, message);
            finding
                .help("only `context` and `with_body` of a rule add to the settings of its chain");
            return false;
        }
        if !(400..600).contains(&self.error_status) {
            let (span, at) = (written("error_status"), context.at.key("error_status"));
            let message = "`error_status` must be from 400 to 599";
            context.diags.error("bad-value", span, at, message);
            return false;
        }
        if let Some(prefix) = &self.path_prefix
            && (!prefix.starts_with('/') || !prefix.bytes().all(is_path_byte))
        {
            let message = format!("expected a path that begins with `/`, not `{prefix}`");
            let (span, at) = (written("path_prefix"), context.at.key("path_prefix"));
            context.diags.error("bad-value", span, at, message);
            return false;
        }
        let of_http =
            ["path_prefix", "upstream_headers", "allowed_client_headers", "denied_client_headers"];
        if self.protocol == AuthzProtocol::Http && written("body_as_bytes").is_some() {
            let (span, at) = (written("body_as_bytes"), context.at.key("body_as_bytes"));
            let message = "`body_as_bytes` has no effect over HTTP, which sends bodies as they are";
            context.diags.error("useless-setting", span, at, message).help("remove it");
            return false;
        }
        let useless = of_http.into_iter().find(|key| written(key).is_some());
        if let Some(key) = useless.filter(|_| self.protocol == AuthzProtocol::Grpc) {
            let message =
                format!("`{key}` has no effect over gRPC: the answer itself names the headers");
            let (span, at) = (written(key), context.at.key(key));
            let finding = context.diags.error("useless-setting", span, at, message);
            finding.help("remove it, or write `protocol: http`");
            return false;
        }
        true
    }
}

const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')
}
