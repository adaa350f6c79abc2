//! The sections of matches: which requests a rule takes.
//!
//! Owns: the conditions on paths, headers and other values. Refuses to know: what the rule does. Keeps: a value that is
//! written alone must be equal; every other comparison is named.

use sluice_core::settings::{
    FieldShape, Plain, Shape, bind_scalar, bind_verbatim, entries_of, wrong_kind,
};
use sluice_core::value::{NamePattern, Percent};
use sluice_core::values::check_name;
use sluice_core::{Cidr, Diags, Node, Path, Setting, Value, section};
use sluice_l7::regexes;
use sluice_l7::routes::{GrpcMatch, PathMatch, RequestVersion, Values};

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
        pub percent: Percent = "100%",
    }
}

/// The path condition of a match.
#[derive(Clone, Debug)]
pub struct PathValue(pub PathMatch);

impl PartialEq for PathValue {
    fn eq(&self, other: &Self) -> bool {
        self.show() == other.show()
    }
}

impl Setting for PathValue {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let what = "a path, { regex: }, { template: } or { starts_with: }";
        let Value::Map(entries) = &node.value else {
            return bind_scalar(node, at, diags, what, PathMatch::parse).map(Self);
        };
        let [entry] = entries.as_slice() else {
            wrong_kind(node, at, diags, what);
            return None;
        };
        let here = at.key(&entry.key);
        let parse = |text: &str| match &*entry.key {
            "regex" => PathMatch::parse_regex(text),
            "template" => PathMatch::parse_template(text),
            "starts_with" if text.starts_with('/') => Ok(PathMatch::StartsWith(text.into())),
            "starts_with" => Err(format!("expected a path that begins with `/`, not `{text}`")),
            key => Err(format!("`{key}` is not one of regex, template, starts_with")),
        };
        if &*entry.key == "regex" && entry.node.text().is_some_and(is_half_anchored) {
            diags
                .warning(
                    "half-anchored",
                    entry.node.span,
                    here,
                    "a regex must match the whole path, not only its beginning",
                )
                .help("add `.*` at the end; `^` and `$` are not needed");
        }
        let bind = if &*entry.key == "regex" { bind_verbatim } else { bind_scalar };
        bind(&entry.node, &here, diags, "text", parse).map(Self)
    }

    fn shape() -> Shape {
        let text = |key, example| FieldShape {
            key,
            doc: String::new(),
            required: false,
            default: None,
            shape: Shape::Text { what: "text", example },
        };
        Shape::Either(vec![
            Shape::Text { what: "a path", example: "/a/*" },
            Shape::Tagged(vec![
                text("regex", "/v[0-9]+/.*"),
                text("template", "/users/{id}"),
                text("starts_with", "/api"),
            ]),
        ])
    }

    fn show(&self) -> Plain {
        let tagged = |key: &str, text: String| Plain::Map(vec![(key.into(), Plain::Text(text))]);
        match &self.0 {
            PathMatch::Regex(regex) => tagged("regex", regexes::written(regex.as_str()).to_owned()),
            PathMatch::HttpTemplate(_) => tagged("template", self.0.to_string()),
            PathMatch::StartsWith(text) => tagged("starts_with", text.to_string()),
            path => Plain::Text(path.to_string()),
        }
    }
}

/// Value conditions by the names of values that filters share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValuesOfFilters(pub Values);

impl Setting for ValuesOfFilters {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let mut known = true;
        for entry in entries_of(node, at, diags, "a map of names to values")? {
            if let Err(message) = check_name(&entry.key) {
                diags.error("unknown-name", entry.key_span, at.key(&entry.key), message);
                known = false;
            }
        }
        known.then(|| Values::bind(node, at, diags))?.map(Self)
    }

    fn shape() -> Shape {
        Values::shape()
    }

    fn show(&self) -> Plain {
        self.0.show()
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// Whether a regex looks as if it were meant as a path prefix: it begins with `^` and ends in a literal character.
fn is_half_anchored(regex: &str) -> bool {
    let Some(last) = regex.strip_prefix('^').and_then(|rest| rest.chars().next_back()) else {
        return false;
    };
    let before = &regex[..regex.len() - last.len_utf8()];
    let escaped = (before.len() - before.trim_end_matches('\\').len()) % 2 == 1;
    // An escaped letter or digit is a class or an assertion, such as `\d` and `\z`.
    if escaped { !last.is_ascii_alphanumeric() } else { !r"\.+*?()[]{}|^$".contains(last) }
}
