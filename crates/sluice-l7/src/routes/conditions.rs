//! The conditions of a rule besides its path.
//!
//! Owns: what they compare. Refuses to know: virtual hosts, and what the rule does. Keeps: all conditions of a rule
//! must hold; the first that does not can be named.

use std::net::IpAddr;

use sluice_codec::{Known, Version};
use sluice_core::connection::TlsFacts;
use sluice_core::fine_percent::{FinePercent, PERCENT};
use sluice_core::value::NamePattern;
use sluice_core::{Cidr, choice};

use super::{GrpcMatch, RouteInput};
use crate::expression::RequestExpression;
use crate::header_values::{cookie, media_type, query_parameter};
use crate::runtime::Runtime;
use crate::value_match::ValueMatch;

/// Conditions besides the path; an empty list imposes none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Methods, any of which must match.
    pub methods: Vec<String>,
    /// Headers, all of which must match.
    pub headers: Vec<(String, ValueMatch)>,
    /// Media types, any of which must match; parameters and case are ignored.
    pub content_types: Vec<String>,
    /// Query parameters, all of which must match.
    pub query: Vec<(String, ValueMatch)>,
    /// Cookies, all of which must match.
    pub cookies: Vec<(String, ValueMatch)>,
    /// Values that filters shared, by their names, all of which must match.
    pub values: Vec<(String, ValueMatch)>,
    /// Whether the client presented a certificate, or a text that its subject contains.
    pub client_certificate: Option<ClientCertificate>,
    /// Source addresses, any of which must match.
    pub sources: Vec<Cidr>,
    /// Whether the client's connection uses TLS.
    pub tls: Option<bool>,
    /// Server names (SNI) of the client's TLS handshake, any of which must match.
    pub sni: Vec<NamePattern>,
    /// HTTP versions, any of which must match.
    pub versions: Vec<RequestVersion>,
    /// A gRPC request, for this service and method.
    pub grpc: Option<GrpcMatch>,
    /// An expression that must be true.
    pub when: Option<Box<RequestExpression>>,
    /// A share of requests, set by a runtime value.
    pub runtime: Option<RuntimeShare>,
}

/// A condition on the client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It is present, or absent.
    Present(bool),
    /// Its subject contains this text.
    Subject(String),
}

choice! {
    /// The HTTP version of a request.
    pub enum RequestVersion {
        /// HTTP/1.1 or HTTP/1.0.
        Http1 = "http1",
        /// HTTP/2.
        Http2 = "http2",
        /// HTTP/3.
        Http3 = "http3",
    }
}

impl RequestVersion {
    const fn of(version: Version) -> Self {
        match version {
            Version::Http10 | Version::Http11 => Self::Http1,
            Version::Http2 => Self::Http2,
            Version::Http3 => Self::Http3,
        }
    }
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeShare {
    /// The name of the runtime value that overrides `percent`, if there is one.
    pub key: Option<String>,
    /// The percentage, unless a runtime value overrides it.
    pub percent: FinePercent,
}

impl RuntimeShare {
    /// The numbers that [`Self::takes`] tells apart.
    pub const STEPS: usize = 100 * PERCENT as usize;

    /// Whether a number drawn at random is within the share.
    pub fn takes(&self, drawn: u64, runtime: &Runtime) -> bool {
        let set = self.key.as_deref().and_then(|key| runtime.number(key));
        let set = set.map(|percent| percent.saturating_mul(PERCENT.into()));
        drawn % (Self::STEPS as u64) < set.unwrap_or_else(|| self.percent.0.into())
    }
}

impl Conditions {
    /// Whether there is no condition. The pattern names every field, so a new condition cannot be forgotten here.
    pub fn is_empty(&self) -> bool {
        let Self {
            methods,
            headers,
            content_types,
            query,
            cookies,
            values,
            client_certificate,
            sources,
            tls,
            sni,
            versions,
            grpc,
            when,
            runtime,
        } = self;
        methods.is_empty()
            && headers.is_empty()
            && content_types.is_empty()
            && query.is_empty()
            && cookies.is_empty()
            && values.is_empty()
            && client_certificate.is_none()
            && sources.is_empty()
            && tls.is_none()
            && sni.is_empty()
            && versions.is_empty()
            && grpc.is_none()
            && when.is_none()
            && runtime.is_none()
    }

    pub(super) fn why_not(&self, subject: &RouteInput<'_>) -> Option<&'static str> {
        let head = subject.head;
        if !self.methods.is_empty() && !self.methods.iter().any(|m| m == head.method_text()) {
            return Some("method");
        }
        if let Some(grpc) = &self.grpc
            && !grpc.fits(head)
        {
            return Some("grpc");
        }
        let fits = |(name, wanted): &(String, ValueMatch)| {
            wanted.fits(match name.as_str() {
                "host" => Some(head.authority().as_bytes()),
                name => head.get_named(name.as_bytes()),
            })
        };
        if !self.headers.iter().all(fits) {
            return Some("headers");
        }
        if !self.content_types.is_empty() {
            let kind = head.get(Known::ContentType).map(media_type);
            let fits = |wanted: &String| {
                kind.is_some_and(|kind| kind.eq_ignore_ascii_case(wanted.as_bytes()))
            };
            if !self.content_types.iter().any(fits) {
                return Some("content_type");
            }
        }
        let query = head.query().unwrap_or_default();
        let fits = |(name, wanted): &(String, ValueMatch)| {
            wanted.fits(query_parameter(query, name).map(str::as_bytes))
        };
        if !self.query.iter().all(fits) {
            return Some("query");
        }
        let cookies = head.get(Known::Cookie).unwrap_or_default();
        let fits =
            |(name, wanted): &(String, ValueMatch)| wanted.fits(cookie(cookies, name.as_bytes()));
        if !self.cookies.iter().all(fits) {
            return Some("cookies");
        }
        let fits = |(name, wanted): &(String, ValueMatch)| wanted.fits_shared(subject.shared(name));
        if !self.values.iter().all(fits) {
            return Some("values");
        }
        if !self.sources.is_empty() {
            let holds = |ip: IpAddr| self.sources.iter().any(|block| block.holds(ip));
            if !subject.source.ip().is_some_and(holds) {
                return Some("source");
            }
        }
        if self.tls.is_some_and(|wanted| subject.tls().is_some() != wanted) {
            return Some("tls");
        }
        if !self.sni.is_empty() {
            let fits = |name: &str| self.sni.iter().any(|pattern| pattern.fits(name));
            if !subject.server_name().is_some_and(fits) {
                return Some("sni");
            }
        }
        if !self.versions.is_empty() && !self.versions.contains(&RequestVersion::of(head.version()))
        {
            return Some("version");
        }
        if let Some(wanted) = &self.client_certificate {
            let shown = subject.tls().and_then(TlsFacts::client_subject);
            let fits = match wanted {
                ClientCertificate::Present(wanted) => shown.is_some() == *wanted,
                ClientCertificate::Subject(text) => shown.is_some_and(|s| s.contains(&**text)),
            };
            if !fits {
                return Some("client_certificate");
            }
        }
        if let Some(when) = &self.when {
            let is_true = subject.with_attributes(|request| when.is_true(request));
            if !is_true {
                return Some("when");
            }
        }
        if let Some(share) = &self.runtime
            && !share.takes(subject.random, subject.runtime)
        {
            return Some("runtime");
        }
        None
    }
}
