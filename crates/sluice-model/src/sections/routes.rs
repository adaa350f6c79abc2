//! The sections of routes.
//!
//! Owns: virtual hosts, rules, what they match and do. Keeps: a short form stands for one long form.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use sluice_codec::names::is_token;
use sluice_core::settings::{
    FieldShape, Members, OrNone, OrZero, Plain, Shape, Short, ShortForm, Size, Status,
    bind_entries, bind_scalar, entries_of, wrong_kind,
};
use sluice_core::value::{Authority, HostPattern, Percent};
use sluice_core::{Cidr, Diags, Name, Node, Path, Setting, Spanned, Value, choice, section};
use sluice_l7::routes::{GrpcMatch, PathMatch, ValueMatch, regexes};
use sluice_l7::template::HttpTemplate;

section! {
    /// Hosts that share rules. Of several that fit, exact goes before the longest *.suffix, that before the
    /// longest prefix.*, and * comes last.
    pub struct VirtualHost {
        /// Which hosts, without ports.
        pub hosts: Vec<Spanned<HostPattern>>,
        /// Settings of filters for these hosts, by filter, as rules have them.
        pub filters: Overrides,
        /// The rules; the first that matches wins.
        pub rules: Members<Rule>,
    }
}

section! {
    /// A rule: which requests, and what becomes of them. Exactly one of cluster, cluster_header, split,
    /// redirect and respond says what.
    pub struct Rule {
        /// Its name in records and metrics; by default its place.
        pub name: Option<Name>,
        /// Which requests; all of the host where it is left out.
        pub matches as "match": Option<Spanned<RouteMatch>>,
        /// They go to this cluster.
        pub cluster: Option<Spanned<Name>>,
        /// They go to the cluster that this header names.
        pub cluster_header: Option<FieldName>,
        /// They are split among clusters by weight: `split: { web: 95, canary: 5 }`.
        pub split: Option<Spanned<Shares>>,
        /// The client is sent elsewhere.
        pub redirect: Option<Spanned<Redirect>>,
        /// They are answered here.
        pub respond: Option<Spanned<Respond>>,
        /// What the endpoint sees instead of what the client sent.
        pub rewrite: Rewrite,
        /// Time-outs.
        pub timeout: RouteTimeout,
        /// Trying again. Left out, only what an endpoint cannot have seen is tried again.
        pub retry: Option<Spanned<Retry>>,
        /// What ring_hash and maglev go by; the first that gives something.
        pub hash: Vec<Short<HashSource>>,
        /// Protocols that clients may upgrade to.
        pub upgrades: Upgrades = "websocket",
        /// Whether CONNECT is tunnelled to the cluster.
        pub connect: bool = "false",
        /// Settings of filters for this rule, by filter, instead of the virtual host's and the chain's; `skip` leaves one
        /// out. Those of `set_headers` add to them, in the order chain, virtual host, rule.
        pub filters: Overrides,
    }
}

section! {
    /// Which requests a rule takes. Every field that is there must fit.
    pub struct RouteMatch {
        /// The path: `/a` exactly, `/a/*` it and everything below, or { regex: }, { template: }, { starts_with: }. A
        /// regex matches the whole path.
        pub path: Option<PathValue>,
        /// The method; one or a list.
        pub method: Vec<Method>,
        /// Header fields: a value, or { present: }, { prefix: }, { suffix: }, { contains: }, { regex: }, { not: }. A
        /// regex matches the whole value.
        pub headers: Values,
        /// The media type, whatever its parameters and case; one or a list.
        pub content_type: Vec<String>,
        /// Parameters of the query, matched as headers are.
        pub query: Values,
        /// Cookies, matched as headers are.
        pub cookies: Values,
        /// Whether the client showed a certificate: true, false, or a text that its subject holds.
        pub client_certificate: Option<String>,
        /// Where it comes from; one or a list.
        pub source: Vec<Cidr>,
        /// gRPC: a service, a service/Method, or * for any.
        pub grpc: Option<GrpcValue>,
        /// A share of requests.
        pub runtime: Option<RuntimeShare>,
    }
}

section! {
    /// A share of requests. One request is always on the same side.
    pub struct RuntimeShare {
        /// The runtime value that says how many in a hundred.
        pub key: Option<String>,
        /// How many where no value says otherwise.
        pub percent: Percent = "100%",
    }
}

choice! {
    /// A scheme that a redirect may lead to.
    pub enum Scheme {
        /// In clear.
        Http = "http",
        /// In TLS.
        Https = "https",
    }
}

section! {
    /// Sending a client elsewhere. What is left out stays as it was asked for.
    pub struct Redirect {
        /// The status: 301, 302, 303, 307 or 308.
        pub status: u16 = "301",
        /// Another scheme.
        pub scheme: Option<Scheme>,
        /// Another host.
        pub host: Option<Authority>,
        /// Another port.
        pub port: Option<u16>,
        /// Another path.
        pub path: Option<String>,
        /// What the rule's path matched is replaced by this.
        pub replace_prefix: Option<String>,
        /// What a regex matches is replaced.
        pub regex: Option<RegexRewrite>,
        /// Whether the query is dropped.
        pub strip_query: bool = "false",
    }
}

section! {
    /// What a regex matches is replaced.
    pub struct RegexRewrite {
        /// The regex.
        pub find: String,
        /// What stands there instead; $1 is the first group.
        pub replace: String,
    }
}

section! {
    /// An answer of Sluice's own.
    pub struct Respond {
        /// The status.
        pub status: u16 = "200",
        /// The body; it may hold %OPERATOR%s.
        pub body: Text = "",
        /// Its media type.
        pub content_type: String = "text/plain; charset=utf-8",
    }
}

section! {
    /// What the endpoint sees instead of what the client sent.
    pub struct Rewrite {
        /// Another path.
        pub path: Option<String>,
        /// What the rule's path matched is replaced by this.
        pub replace_prefix: Option<String>,
        /// What a regex matches is replaced.
        pub regex: Option<RegexRewrite>,
        /// Another host.
        pub host: Option<Authority>,
        /// The host is the value of this header.
        pub host_header: Option<FieldName>,
        /// The host is the endpoint's own name.
        pub host_of_endpoint: bool = "false",
    }
}

section! {
    /// Time-outs of a request.
    pub struct RouteTimeout {
        /// From the first to the last byte.
        pub total: OrNone<Duration> = "none",
        /// From the end of the request to the head of the response, all tries together.
        pub response: OrNone<Duration> = "60s",
        /// The same for one try.
        pub per_try: OrNone<Duration> = "none",
        /// No byte either way.
        pub idle: OrNone<Duration> = "5m",
    }
}

choice! {
    /// What is worth another try.
    pub enum RetryOn {
        /// Any status from 500 on, and no answer at all.
        ServerError = "server_error",
        /// 502, 503 or 504.
        GatewayError = "gateway_error",
        /// The stream ended before an answer.
        Reset = "reset",
        /// No connection; always tried again, whether it stands here or not.
        ConnectFailure = "connect_failure",
        /// The endpoint refused the stream without looking at it; always tried again.
        RefusedStream = "refused_stream",
        /// The time for one try was over.
        TryTimeout = "try_timeout",
        /// 409.
        Conflict = "conflict",
        /// gRPC status 1.
        Cancelled = "grpc_cancelled",
        /// gRPC status 4.
        DeadlineExceeded = "grpc_deadline_exceeded",
        /// gRPC status 13.
        Internal = "grpc_internal",
        /// gRPC status 8.
        ResourceExhausted = "grpc_resource_exhausted",
        /// gRPC status 14.
        Unavailable = "grpc_unavailable",
    }
}

section! {
    /// Trying again, at another endpoint where there is one.
    pub struct Retry {
        /// What is worth another try.
        pub when: Vec<RetryOn>,
        /// Statuses worth another try.
        pub statuses: Vec<Status>,
        /// Tries in all.
        pub attempts: NonZeroU32 = "2",
        /// The longest first wait; the n-th is up to 2^n - 1 times as long, at random.
        pub backoff: OrZero = "25ms",
        /// The longest wait.
        pub backoff_max: OrZero = "250ms",
        /// Bytes of a body that are kept for another try; a longer one is tried once.
        pub body: Size = "64KiB",
    }
}

section! {
    /// What a hash goes by. The short form is `source_ip`, or `header:NAME`, `query:NAME`, `cookie:NAME`.
    pub struct HashSource {
        /// source_ip, header:NAME, query:NAME or cookie:NAME.
        pub by: HashKey,
        /// cookie: how long a browser keeps the one that it is given where it has none; 0s for a session. Left
        /// out, none is given.
        pub ttl: Option<OrZero>,
        /// cookie: the path that it is for.
        pub path: Option<String>,
    }
}

/// What a hash goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The source's address.
    SourceIp,
    /// A header.
    Header(String),
    /// A parameter of the query.
    Query(String),
    /// A cookie.
    Cookie(String),
}

impl Setting for HashKey {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "source_ip, header:NAME, query:NAME or cookie:NAME", |text| {
            if text == "source_ip" {
                return Ok(Self::SourceIp);
            }
            let wrong = || {
                format!("expected source_ip, header:NAME, query:NAME or cookie:NAME, not `{text}`")
            };
            let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
            let name = name.trim().to_owned();
            match kind {
                _ if !is_token(name.as_bytes()) => Err(wrong()),
                "header" => Ok(Self::Header(name.to_ascii_lowercase())),
                "query" => Ok(Self::Query(name)),
                "cookie" => Ok(Self::Cookie(name)),
                _ => Err(wrong()),
            }
        })
    }

    fn shape() -> Shape {
        Shape::Text {
            what: "source_ip, header:NAME, query:NAME or cookie:NAME",
            example: "source_ip",
        }
    }

    fn show(&self) -> Plain {
        Plain::Text(match self {
            Self::SourceIp => "source_ip".into(),
            Self::Header(name) => format!("header:{name}"),
            Self::Query(name) => format!("query:{name}"),
            Self::Cookie(name) => format!("cookie:{name}"),
        })
    }
}

impl ShortForm for HashSource {
    const KEY: &'static str = "by";
}

macro_rules! text_value {
    ($(#[doc = $doc:literal] $name:ident($inner:ty), $what:literal, $example:literal, $parse:expr, $show:expr;)+) => {$(
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(pub $inner);

        impl Setting for $name {
            fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
                bind_scalar(node, at, diags, $what, $parse).map(Self)
            }

            fn shape() -> Shape {
                Shape::Text { what: $what, example: $example }
            }

            fn show(&self) -> Plain {
                let show: fn(&$inner) -> String = $show;
                Plain::Text(show(&self.0))
            }
        }
    )+};
}

text_value! {
    #[doc = "A text that may hold `%OPERATOR%`s."]
    Text(HttpTemplate), "a text", "hello", HttpTemplate::parse, |text| text.source().to_owned();
    #[doc = "A method."]
    Method(String), "a method", "GET", parse_method, Clone::clone;
    #[doc = "A protocol that clients may upgrade to."]
    Token(String), "a protocol", "websocket", |text| if is_token(text.as_bytes()) { Ok(text.to_owned()) } else { Err(format!("`{text}` is not the name of a protocol")) }, Clone::clone;
    #[doc = "The name of a header field."]
    FieldName(String), "the name of a header field", "x-tier", |text| if is_token(text.as_bytes()) { Ok(text.to_ascii_lowercase()) } else { Err(format!("`{text}` is no name of a header field")) }, Clone::clone;
    #[doc = "A gRPC service, perhaps with a method."]
    GrpcValue(GrpcMatch), "a service, service/Method or *", "orders.v1.Orders", parse_grpc, show_grpc;
}

fn parse_method(text: &str) -> Result<String, String> {
    const USUAL: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if !is_token(text.as_bytes()) {
        return Err(format!("`{text}` is not a method"));
    }
    match USUAL.iter().find(|usual| usual.eq_ignore_ascii_case(text)) {
        Some(usual) if *usual != text => Err(format!(
            "methods are case-sensitive, so `{text}` would match nothing; write {usual}"
        )),
        _ => Ok(text.to_owned()),
    }
}

fn parse_grpc(text: &str) -> Result<GrpcMatch, String> {
    if text == "*" {
        return Ok(GrpcMatch::default());
    }
    let (service, method) = text.split_once('/').map_or((text, None), |(s, m)| (s, Some(m)));
    let fits = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_')
    };
    if !fits(service) || !method.is_none_or(fits) {
        return Err(format!(
            "expected a service such as orders.v1.Orders, service/Method or *, not `{text}`"
        ));
    }
    Ok(GrpcMatch { service: Some(service.into()), method: method.map(Into::into) })
}

fn show_grpc(of: &GrpcMatch) -> String {
    match (&of.service, &of.method) {
        (Some(service), Some(method)) => format!("{service}/{method}"),
        (Some(service), None) => service.clone(),
        (None, _) => "*".into(),
    }
}

/// Protocols that clients may upgrade to; `none` for no upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrades(pub Vec<String>);

impl Setting for Upgrades {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if node.text() == Some("none") {
            return Some(Self(Vec::new()));
        }
        let all = Vec::<Token>::bind(node, at, diags)?;
        if all.iter().any(|token| token.0.eq_ignore_ascii_case("h2c")) {
            diags
                .error("bad-value", node.span, at, "an upgrade to h2c is never passed on")
                .help("HTTP/2 in clear is spoken with prior knowledge: set `protocol: http2` on the cluster");
            return None;
        }
        Some(Self(all.into_iter().map(|token| token.0).collect()))
    }

    fn shape() -> Shape {
        let word = Shape::Text { what: "a protocol", example: "websocket" };
        Shape::OrNone(Box::new(Shape::OneOrMany(Box::new(word))))
    }

    fn show(&self) -> Plain {
        if self.0.is_empty() {
            return Plain::Text("none".into());
        }
        Plain::List(self.0.iter().cloned().map(Plain::Text).collect())
    }
}

/// Whether a regex looks as if it were meant for the beginning of a path: it begins with `^` and ends in a character
/// that stands for itself.
fn is_half_anchored(regex: &str) -> bool {
    let Some(last) = regex.strip_prefix('^').and_then(|rest| rest.chars().next_back()) else {
        return false;
    };
    let before = &regex[..regex.len() - last.len_utf8()];
    let escaped = (before.len() - before.trim_end_matches('\\').len()) % 2 == 1;
    // An escaped letter or digit is a class or an assertion, such as `\d` and `\z`.
    if escaped { !last.is_ascii_alphanumeric() } else { !r"\.+*?()[]{}|^$".contains(last) }
}

/// The path of a match.
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
            "starts_with" => Err(format!("a path begins with `/`, unlike `{text}`")),
            key => Err(format!("`{key}` is none of regex, template, starts_with")),
        };
        if &*entry.key == "regex" && entry.node.text().is_some_and(is_half_anchored) {
            diags
                .warning(
                    "half-anchored",
                    entry.node.span,
                    here,
                    "a regex matches the whole path, not its beginning",
                )
                .help("add `.*` at its end; `^` and `$` are not needed");
        }
        bind_scalar(&entry.node, &here, diags, "a text", parse).map(Self)
    }

    fn shape() -> Shape {
        let text = |key, example| FieldShape {
            key,
            doc: String::new(),
            required: false,
            default: None,
            shape: Shape::Text { what: "a text", example },
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

/// Values by name: of headers, query or cookies.
#[derive(Clone, Debug, Default)]
pub struct Values(pub Vec<(String, ValueMatch)>);

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.show() == other.show()
    }
}

impl Setting for Values {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of names to values")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            if !is_token(entry.key.as_bytes()) {
                let message = format!("`{}` is no name", entry.key);
                diags.error("bad-name", entry.key_span, here, message);
                return None;
            }
            Some((entry.key.to_string(), bind_value(&entry.node, here, diags)?))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "a value", example: "gold" };
        Shape::Named(Box::new(Shape::Either(vec![text, Shape::Any])))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.0.iter().map(|(name, value)| (name.clone(), show_value(value))).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

fn bind_value(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<ValueMatch> {
    const KINDS: &str = "a value, or one of present, prefix, suffix, contains, regex, not";
    let Value::Map(entries) = &node.value else {
        return bind_scalar(node, at, diags, KINDS, |text| Ok(ValueMatch::Exact(text.to_owned())));
    };
    let [entry] = entries.as_slice() else {
        wrong_kind(node, at, diags, KINDS);
        return None;
    };
    let here = at.key(&entry.key);
    if &*entry.key == "not" {
        let inner = bind_value(&entry.node, &here, diags)?;
        return Some(ValueMatch::Not(Box::new(inner)));
    }
    if &*entry.key == "present" {
        return bool::bind(&entry.node, &here, diags).map(ValueMatch::Present);
    }
    bind_scalar(&entry.node, &here, diags, "a text", |text| match &*entry.key {
        "prefix" => Ok(ValueMatch::Prefix(text.to_owned())),
        "suffix" => Ok(ValueMatch::Suffix(text.to_owned())),
        "contains" => Ok(ValueMatch::Contains(text.to_owned())),
        "regex" => ValueMatch::parse_regex(text),
        key => Err(format!("`{key}` is none of present, prefix, suffix, contains, regex, not")),
    })
}

fn show_value(value: &ValueMatch) -> Plain {
    let tagged = |key: &str, value: Plain| Plain::Map(vec![(key.into(), value)]);
    let text = |text: &str| Plain::Text(text.to_owned());
    match value {
        ValueMatch::Exact(exact) => text(exact),
        ValueMatch::Present(present) => tagged("present", Plain::Bool(*present)),
        ValueMatch::Prefix(prefix) => tagged("prefix", text(prefix)),
        ValueMatch::Suffix(suffix) => tagged("suffix", text(suffix)),
        ValueMatch::Contains(part) => tagged("contains", text(part)),
        ValueMatch::Regex(regex) => tagged("regex", text(regexes::written(regex.as_str()))),
        ValueMatch::Not(inner) => tagged("not", show_value(inner)),
    }
}

/// Clusters and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares(pub Vec<(Spanned<Name>, Share)>);

section! {
    /// A cluster's share. The short form is its weight.
    pub struct Share {
        /// The weight where no runtime value says otherwise.
        pub weight: u64,
        /// The runtime value that does.
        pub runtime: Option<String>,
    }
}

impl ShortForm for Share {
    const KEY: &'static str = "weight";
}

impl Setting for Shares {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            wrong_kind(node, at, diags, "a map of clusters to weights");
            return None;
        };
        if entries.is_empty() {
            diags.error("missing-field", node.span, at, "a split needs at least one cluster");
            return None;
        }
        bind_entries(entries, at, diags, |entry, here, diags| {
            let share = Short::<Share>::bind(&entry.node, here, diags)?;
            Some((Spanned { value: entry.key.clone(), span: entry.key_span }, share.0))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Short::<Share>::shape()))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.0.iter().map(|(name, share)| (name.to_string(), share.show())).collect())
    }
}

/// Settings of filters by filter; bound by the filters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides(pub Vec<(Spanned<String>, Node)>);

impl Setting for Overrides {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of filters to their settings")?;
        let own = |entry: &sluice_core::tree::MapEntry| {
            let name = Spanned { value: entry.key.to_string(), span: entry.key_span };
            (name, entry.node.clone())
        };
        Some(Self(entries.iter().map(own).collect()))
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Any))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.0.iter().map(|(name, node)| (name.value.clone(), node.show())).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

section! {
    /// Values that change without a new configuration. A file goes before what stands here, the operator's
    /// override before both.
    pub struct RuntimeSection {
        /// A file of `name: value` lines; read again when it changes.
        pub file: Option<Spanned<std::path::PathBuf>>,
        /// Values where nothing says otherwise.
        pub values: RuntimeValues,
    }
}

/// Values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeValues(pub BTreeMap<String, String>);

impl Setting for RuntimeValues {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of names to values")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            let value =
                bind_scalar(&entry.node, here, diags, "a value", |text| Ok(text.to_owned()));
            Some((entry.key.to_string(), value?))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Text { what: "a value", example: "5%" }))
    }

    fn show(&self) -> Plain {
        let shown = self.0.iter().map(|(name, value)| (name.clone(), Plain::Text(value.clone())));
        Plain::Map(shown.collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}
