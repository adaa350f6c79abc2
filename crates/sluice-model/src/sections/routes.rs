//! The sections of routes.
//!
//! Owns: virtual hosts, rules, what they match and do. Keeps: each short form is equivalent to one long form.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_codec::names::is_token;
use sluice_core::settings::{
    FieldShape, Members, OrNone, OrZero, Plain, Shape, Short, ShortForm, Verbatim, bind_entries,
    bind_scalar, bind_verbatim, entries_of, wrong_kind,
};
use sluice_core::value::{Authority, HostPattern, Percent};
use sluice_core::values::check_name;
use sluice_core::{Cidr, Diags, Name, Node, Path, Setting, Spanned, Value, choice, section};
use sluice_l7::regexes;
use sluice_l7::routes::{GrpcMatch, PathMatch, ValueMatch};
use sluice_l7::template::HttpTemplate;

pub mod endpoint_metadata;
pub mod forwarding;
pub mod retries;

use super::subsets::SubsetValues;
use endpoint_metadata::SubsetSources;
use forwarding::{AttemptCount, FollowRedirects, Mirror};
use retries::Retry;

section! {
    /// A virtual host: hosts that share rules. If several match, an exact name wins over the longest *.suffix, that
    /// over the longest prefix.*, and * comes last.
    pub struct VirtualHost {
        /// Host names, without ports; if omitted, any host.
        pub hosts: Vec<Spanned<HostPattern>>,
        /// Filter settings for these hosts, by filter name, as in rules.
        pub filters: Overrides,
        /// The rules; the first that matches wins.
        pub rules: Members<Rule>,
    }
}

/// A virtual host, or the short form of one that takes any host and has a single rule: that rule.
#[derive(Clone, Debug, PartialEq)]
pub struct HostOrRule(pub VirtualHost);

impl std::ops::Deref for HostOrRule {
    type Target = VirtualHost;

    fn deref(&self) -> &VirtualHost {
        &self.0
    }
}

impl HostOrRule {
    /// The keys that only a rule has and that say what it does.
    const ACTIONS: [&'static str; 5] =
        ["cluster", "cluster_header", "split", "redirect", "respond"];

    /// A virtual host for any host with a single rule.
    pub fn of_rule(rule: Spanned<Rule>) -> Self {
        let filters = Overrides::default();
        Self(VirtualHost { hosts: Vec::new(), filters, rules: Members::one(rule) })
    }
}

impl Setting for HostOrRule {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let is_rule = matches!(&node.value, Value::Map(entries)
            if entries.iter().any(|entry| Self::ACTIONS.contains(&&*entry.key)));
        if !is_rule {
            return VirtualHost::bind(node, at, diags).map(Self);
        }
        Spanned::<Rule>::bind(node, at, diags).map(Self::of_rule)
    }

    fn shape() -> Shape {
        Shape::Either(vec![VirtualHost::shape(), Rule::shape()])
    }

    fn show(&self) -> Plain {
        self.0.show()
    }
}

section! {
    /// A rule: which requests it takes, and what happens to them. Exactly one of cluster, cluster_header, split,
    /// redirect and respond is required.
    pub struct Rule {
        /// Name in access logs and metrics; if omitted, the first host and the rule's index, e.g. `shop.example.com/0`.
        pub name: Option<Name>,
        /// Which requests the rule takes; if omitted, all requests of the host.
        pub matches as "match": Option<Spanned<RouteMatch>>,
        /// Forward to this cluster.
        pub cluster: Option<Spanned<Name>>,
        /// Forward to the cluster named by this header.
        pub cluster_header: Option<FieldName>,
        /// Split traffic among clusters (canary releases), in percent or by weight: `split: { web: 95%, canary: 5% }`.
        pub split: Option<Spanned<Shares>>,
        /// Redirect the client.
        pub redirect: Option<Spanned<Redirect>>,
        /// Respond directly.
        pub respond: Option<Spanned<Respond>>,
        /// Rewrites of the path and host that the endpoint receives.
        pub rewrite: Rewrite,
        /// Timeouts.
        pub timeout: RouteTimeout,
        /// Retries. If omitted, a request is retried only if no endpoint can have processed it.
        pub retry: Option<Spanned<Retry>>,
        /// The hash key of ring_hash and maglev (session affinity, sticky sessions); the first source that yields a
        /// value is used.
        pub hash: Vec<Short<HashSource>>,
        /// The metadata that the endpoint must have, for a cluster with `subsets`: a value for each key, or
        /// `{ header: NAME }` for that of a request header.
        pub endpoint_metadata: Option<Spanned<SubsetSources>>,
        /// Clusters that get a copy of each request, or of a share of them; their responses are discarded (shadowing).
        pub mirror: Vec<Short<Mirror>>,
        /// Redirects of endpoints that Sluice follows itself, instead of the client (internal redirects).
        pub follow_redirects: Option<Spanned<FollowRedirects>>,
        /// Whether clients may set retries and time-outs with Envoy's headers (`x-envoy-retry-on`, `x-envoy-max-retries`,
        /// `x-envoy-upstream-rq-timeout-ms` and others). Only for clients that are trusted. A response because of the
        /// cluster's `limits` then has `x-envoy-overloaded`.
        pub envoy_headers: bool = "false",
        /// Where `x-envoy-attempt-count` is added: to the request, the response, or both.
        pub attempt_count: Vec<AttemptCount>,
        /// Protocols that clients may upgrade to.
        pub upgrades: Upgrades = "websocket",
        /// Whether CONNECT is tunnelled to the cluster.
        pub connect: bool = "false",
        /// Filter settings for this rule, by filter name, in place of those of the virtual host and the chain; `skip`
        /// disables a filter. Those of `set_headers` add up instead, in the order chain, virtual host, rule.
        pub filters: Overrides,
    }
}

section! {
    /// Which requests a rule takes. All given fields must match.
    pub struct RouteMatch {
        /// The path: `/a` exactly, `/a/*` for it and everything below, or { regex: }, { template: }, { starts_with: }.
        /// A regex matches the whole path.
        pub path: Option<PathValue>,
        /// The method; one or a list.
        pub method: Vec<Method>,
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
        /// gRPC: a service, a service/Method, or * for any.
        pub grpc: Option<GrpcValue>,
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

choice! {
    /// The URL scheme of a redirect.
    pub enum Scheme {
        /// Plaintext.
        Http = "http",
        /// TLS.
        Https = "https",
    }
}

section! {
    /// A redirect. Parts of the URL that are omitted stay as requested.
    pub struct Redirect {
        /// The status: 301, 302, 303, 307 or 308.
        pub status: u16 = "301",
        /// The new scheme.
        pub scheme: Option<Scheme>,
        /// The new host.
        pub host: Option<Authority>,
        /// The new port.
        pub port: Option<u16>,
        /// The new path.
        pub path: Option<String>,
        /// Replaces the part of the path that the rule matched.
        pub replace_prefix: Option<String>,
        /// Replaces the first match of a regex in the path.
        pub regex: Option<RegexRewrite>,
        /// Whether the query is dropped.
        pub strip_query: bool = "false",
    }
}

section! {
    /// Replaces the first match of a regex in the path.
    pub struct RegexRewrite {
        /// The regex.
        pub find: Verbatim,
        /// The replacement; $1 is the first group.
        pub replace: Verbatim,
    }
}

section! {
    /// A direct response, without an endpoint.
    pub struct Respond {
        /// The status.
        pub status: u16 = "200",
        /// The body; it may contain %OPERATOR%s.
        pub body: Text = "",
        /// The media type of the body.
        pub content_type: String = "text/plain; charset=utf-8",
    }
}

section! {
    /// Rewrites of the path and host that the endpoint receives.
    pub struct Rewrite {
        /// The new path.
        pub path: Option<String>,
        /// Replaces the part of the path that the rule matched.
        pub replace_prefix: Option<String>,
        /// Replaces the first match of a regex in the path.
        pub regex: Option<RegexRewrite>,
        /// The new host.
        pub host: Option<Authority>,
        /// Use the value of this header as host.
        pub host_header: Option<FieldName>,
        /// Use the endpoint's own name as host.
        pub host_of_endpoint: bool = "false",
    }
}

section! {
    /// Timeouts of a request.
    pub struct RouteTimeout {
        /// The whole request, from its headers to the last byte of the response.
        pub total: OrNone<Duration> = "none",
        /// From the end of the request to the response headers, across all attempts.
        pub response: OrNone<Duration> = "60s",
        /// One attempt, from its start (connecting included) to the response headers.
        pub per_try: OrNone<Duration> = "none",
        /// How long no byte may move in either direction within one attempt. Before the response headers, the attempt
        /// may be retried (`retry: { when: try_timeout }`).
        pub per_try_idle: OrNone<Duration> = "none",
        /// How long no byte may move in either direction.
        pub idle: OrNone<Duration> = "5m",
        /// The most that counts of the deadline of a gRPC client (`grpc-timeout`); the endpoint is told of the cap.
        pub grpc_max: OrNone<Duration> = "none",
        /// What is taken off the deadline of a gRPC client, so that the response reaches it in time; a shorter deadline
        /// counts as it is.
        pub grpc_offset: OrZero = "0s",
    }
}

section! {
    /// A source of the hash key. The short form is `source_ip`, or `header:NAME`, `query:NAME`, `cookie:NAME`.
    pub struct HashSource {
        /// source_ip, header:NAME, query:NAME or cookie:NAME.
        pub by: HashKey,
        /// cookie: lifetime of the cookie that Sluice sets if the client sends none (sticky session); 0s for a session
        /// cookie. If omitted, none is set.
        pub ttl: Option<OrZero>,
        /// cookie: its path; `/` if omitted.
        pub path: Option<String>,
    }
}

/// A source of the hash key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The source address.
    SourceIp,
    /// A header.
    Header(String),
    /// A query parameter.
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
    ($(#[doc = $doc:literal] $name:ident($inner:ty), $bind:ident, $what:literal, $example:literal, $parse:expr, $show:expr;)+) => {$(
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(pub $inner);

        impl Setting for $name {
            fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
                $bind(node, at, diags, $what, $parse).map(Self)
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
    #[doc = "Text that may contain `%OPERATOR%`s."]
    Text(HttpTemplate), bind_verbatim, "text", "hello", HttpTemplate::parse, |text| text.source().to_owned();
    #[doc = "A method."]
    Method(String), bind_scalar, "a method", "GET", parse_method, Clone::clone;
    #[doc = "A protocol that clients may upgrade to."]
    Token(String), bind_scalar, "a protocol", "websocket", |text| if is_token(text.as_bytes()) { Ok(text.to_owned()) } else { Err(format!("`{text}` is not the name of a protocol")) }, Clone::clone;
    #[doc = "A header name."]
    FieldName(String), bind_scalar, "a header name", "x-tier", |text| if is_token(text.as_bytes()) { Ok(text.to_ascii_lowercase()) } else { Err(format!("`{text}` is not a valid header name")) }, Clone::clone;
    #[doc = "A gRPC service, optionally with a method."]
    GrpcValue(GrpcMatch), bind_scalar, "a service, service/Method or *", "orders.v1.Orders", parse_grpc, show_grpc;
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

/// Protocols that clients may upgrade to; `none` allows none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrades(pub Vec<String>);

impl Setting for Upgrades {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if node.text() == Some("none") {
            return Some(Self(Vec::new()));
        }
        let all = Vec::<Token>::bind(node, at, diags)?;
        if all.iter().any(|token| token.0.eq_ignore_ascii_case("h2c")) {
            diags.error("bad-value", node.span, at, "upgrades to h2c are never forwarded").help(
                "for cleartext HTTP/2 with prior knowledge, set `protocol: http2` on the cluster",
            );
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

/// Value conditions by name: of headers, query parameters or cookies.
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
                let message = format!("`{}` is not a valid name", entry.key);
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
    let bind = if &*entry.key == "regex" { bind_verbatim } else { bind_scalar };
    let parse = |text: &str| match &*entry.key {
        "prefix" => Ok(ValueMatch::Prefix(text.to_owned())),
        "suffix" => Ok(ValueMatch::Suffix(text.to_owned())),
        "contains" => Ok(ValueMatch::Contains(text.to_owned())),
        "regex" => ValueMatch::parse_regex(text),
        key => Err(format!("`{key}` is not one of present, prefix, suffix, contains, regex, not")),
    };
    bind(&entry.node, &here, diags, "text", parse)
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
        /// The share if the runtime value is not set: in percent, which add up to 100% over all clusters, or a weight in
        /// relation to the others'.
        pub weight: ShareWeight,
        /// The runtime value that overrides the weight: a number, in percent if the shares are.
        pub runtime: Option<String>,
        /// The metadata that the endpoint must have, for a cluster with `subsets`; the keys that it names replace those of
        /// the rule or relay.
        pub endpoint_metadata: Option<Spanned<SubsetValues>>,
    }
}

/// The weight of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareWeight {
    /// In relation to the others.
    Relative(u64),
    /// Of a hundred.
    Percent(Percent),
}

impl ShareWeight {
    /// The number.
    pub fn value(self) -> u64 {
        match self {
            Self::Relative(weight) => weight,
            Self::Percent(percent) => percent.0.into(),
        }
    }
}

impl Setting for ShareWeight {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if node.text().is_some_and(|text| text.ends_with('%')) {
            let percent = Percent::bind(node, at, diags);
            if percent.is_none() {
                diags.last_mut()?.help("for finer shares, write weights such as 995 and 5");
            }
            return percent.map(Self::Percent);
        }
        u64::bind(node, at, diags).map(Self::Relative)
    }

    fn shape() -> Shape {
        Shape::Either(vec![Percent::shape(), u64::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Relative(weight) => weight.show(),
            Self::Percent(percent) => percent.show(),
        }
    }
}

impl ShortForm for Share {
    const KEY: &'static str = "weight";
}

impl Setting for Shares {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of clusters to shares")?;
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

/// Filter settings by filter name; parsed by the filters.
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
    /// Values that change without a new configuration. The file takes precedence over `values`, an override by the
    /// operator over both.
    pub struct RuntimeSection {
        /// A file of `name: value` lines; reloaded when it changes.
        pub file: Option<Spanned<std::path::PathBuf>>,
        /// Values used if neither the file nor the operator sets them.
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
