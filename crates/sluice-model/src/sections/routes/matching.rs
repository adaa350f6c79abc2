//! The sections of matches: which requests a rule takes.
//!
//! Owns: the conditions on paths, headers and other values. Refuses to know: what the rule does. Keeps: a value that is
//! written alone must be equal; every other comparison is named.

use sluice_core::fine_percent::FinePercent;
use sluice_core::value::NamePattern;
use sluice_core::{Cidr, section};
use sluice_l7::expression::RequestExpression;
use sluice_l7::routes::{GrpcMatch, PathValue, RequestVersion, Values, ValuesOfFilters};

use super::words::MethodName;

section! {
    /// Which requests a rule takes. All given fields must match.
    pub struct RouteMatch {
        /// The path: `/a` exactly, `/a/*` for it and everything below, or { regex: }, { template: }, { starts_with: }.
        /// A regex matches the whole path.
        pub path: Option<PathValue>,
        /// Whether upper and lower case letters of the path are told apart. A regex says it itself: `(?i)`.
        pub case_sensitive: bool = "true",
        /// The method; one or a list.
        pub method: Vec<MethodName>,
        /// Headers: a value, or { present: }, { prefix: }, { suffix: }, { contains: }, { regex: }, { not: }. A regex
        /// matches the whole value.
        pub headers: Values,
        /// The media type of the request, regardless of parameters and case; one or a list.
        pub content_type: Vec<String>,
        /// Query parameters, matched like headers.
        pub query: Values,
        /// Cookies, matched like headers.
        pub cookies: Values,
        /// Values that filters share, by their names, matched like headers, as they are printed. Before filters run,
        /// only those of the connection are set.
        pub values: ValuesOfFilters,
        /// Whether the client presented a certificate: true, false, or a text that its subject contains.
        pub client_certificate: Option<String>,
        /// Source addresses; one or a list.
        pub source: Vec<Cidr>,
        /// Whether the client's connection uses TLS.
        pub tls: Option<bool>,
        /// Server names (SNI) of the client's TLS handshake: exact, or *.suffix for any name below it; one or a list.
        pub sni: Vec<NamePattern>,
        /// The HTTP version of the request; one or a list.
        pub version: Vec<RequestVersion>,
        /// gRPC: a service, a service/Method, or * for any.
        pub grpc: Option<GrpcMatch>,
        /// An expression in CEL that must be true, over `request`, `source`, `destination`, `connection` and `metadata`. Before filters
        /// run, `metadata` has only the values of the connection.
        pub when: Option<RequestExpression>,
        /// A share of requests.
        pub runtime: Option<RuntimeShare>,
    }
}

section! {
    /// A share of requests. The draw is made once per request: a request is on the same side in every rule.
    pub struct RuntimeShare {
        /// The runtime value that sets the percentage.
        pub key: Option<String>,
        /// The percentage if the runtime value is not set.
        pub percent: FinePercent = "100%",
    }
}
