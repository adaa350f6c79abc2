//! Route tables: from a request to the rule that determines what becomes of it.
//!
//! Owns: virtual hosts, rules, what they match and what they do. Refuses to know: streams, filters. Keeps: the first
//! matching rule in order wins; the index only leaves out rules that cannot match, so it never changes which rule that
//! is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sluice_codec::{Head, Known};
use sluice_core::connection::TlsFacts;
use sluice_core::value::HostPattern;
use sluice_core::{Cidr, Name};
use sluice_upstream::Cluster;

use crate::filters::HttpFilterPlan;
use crate::header_values::{cookie, media_type, query_parameter};
use crate::runtime::Runtime;
use crate::template::HttpTemplate;

pub mod index;
pub mod paths;
pub mod regexes;
#[cfg(test)]
mod tests;

use index::{HostIndex, RuleIndex};
pub use paths::PathMatch;

/// A named table that is replaced as a whole. Survives reloads; a request reads it when its headers are complete.
#[derive(Debug)]
pub struct RouteCell {
    /// Its name in the configuration.
    pub name: Name,
    table: ArcSwap<RouteTable>,
}

impl RouteCell {
    /// Creates a cell with a first table.
    pub fn new(name: Name, table: Arc<RouteTable>) -> Self {
        Self { name, table: ArcSwap::new(table) }
    }

    /// Puts another table in force.
    pub fn set(&self, table: Arc<RouteTable>) {
        self.table.store(table);
    }

    /// The table in force.
    pub fn get(&self) -> Arc<RouteTable> {
        self.table.load_full()
    }

    /// Whether `table` is the one in force.
    pub fn is(&self, table: &Arc<RouteTable>) -> bool {
        Arc::ptr_eq(&self.table.load(), table)
    }
}

/// A compiled table.
#[derive(Debug)]
pub struct RouteTable {
    hosts: HostIndex,
    /// In the order of the configuration.
    pub virtual_hosts: Vec<VirtualHost>,
    /// The clusters that rules name.
    pub clusters: Vec<Arc<Cluster>>,
    /// All clusters, for rules that take the name from the request.
    pub by_name: BTreeMap<Name, Arc<Cluster>>,
    /// The sets of filter settings that rules and virtual hosts have; 0 is the empty set.
    pub overrides: Vec<OverrideSet>,
}

/// Filter settings of a rule and its virtual host, by filter.
pub type Overrides = Vec<(&'static str, Override)>;

/// Filter settings with the name of the rule or virtual host that contains them. The state of their filters is kept
/// under this name across reloads.
#[derive(Clone, Debug)]
pub struct OverrideSet {
    /// The name, unique within the table.
    pub owner: Name,
    /// The settings.
    pub said: Overrides,
}

/// What a rule, or its virtual host, configures for a filter.
#[derive(Clone, Debug)]
pub enum Override {
    /// The filter is left out.
    Skip,
    /// The filter has these settings, merged onto the chain's if it supports that.
    Over(Arc<dyn HttpFilterPlan>),
    /// The filter has these settings, whatever the chain's are.
    Instead(Arc<dyn HttpFilterPlan>),
}

impl Override {
    /// Returns the result of `self` nested within `outer`.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        match (self, outer) {
            (Self::Over(own), Self::Over(under)) => match own.on_top_of(&**under) {
                Some(both) => Self::Over(both),
                None => self.clone(),
            },
            (Self::Over(own), Self::Instead(under)) => {
                Self::Instead(own.on_top_of(&**under).unwrap_or_else(|| Arc::clone(own)))
            }
            // The outer one removed the chain's settings, and they stay removed.
            (Self::Over(own), Self::Skip) => Self::Instead(Arc::clone(own)),
            (Self::Skip | Self::Instead(_), _) => self.clone(),
        }
    }

    /// Returns the settings to filter a request with, given the chain's.
    pub fn plan(&self, chain: Option<&dyn HttpFilterPlan>) -> Option<Arc<dyn HttpFilterPlan>> {
        match self {
            Self::Skip => None,
            Self::Instead(own) => Some(Arc::clone(own)),
            Self::Over(own) => {
                let both = chain.and_then(|chain| own.on_top_of(chain));
                Some(both.unwrap_or_else(|| Arc::clone(own)))
            }
        }
    }
}

/// Hosts that share rules.
#[derive(Debug)]
pub struct VirtualHost {
    /// The patterns of the hosts.
    pub hosts: Vec<HostPattern>,
    /// The rules in order.
    pub rules: Vec<Rule>,
    index: RuleIndex,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name in records and metrics.
    pub name: Name,
    /// The path that it matches.
    pub path: PathMatch,
    /// Further conditions; most rules have none.
    pub conditions: Option<Box<Conditions>>,
    /// What to do with the request.
    pub action: Action,
    /// The options of the action; shared by rules with the same options.
    pub options: Arc<RuleOptions>,
    /// Index into [`RouteTable::overrides`].
    pub overrides: u32,
}

/// Conditions besides the path; an empty list imposes none.
#[derive(Debug, Default)]
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
    /// Whether the client presented a certificate, or a text that its subject contains.
    pub client_certificate: Option<ClientCertificate>,
    /// Source addresses, any of which must match.
    pub sources: Vec<Cidr>,
    /// A gRPC request, for this service and method.
    pub grpc: Option<GrpcMatch>,
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

/// A gRPC service and optionally a method of it; without either, any gRPC request matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// The service, including its package.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeShare {
    /// The name of the runtime value that overrides `percent`, if there is one.
    pub key: Option<String>,
    /// The percentage, unless a runtime value overrides it.
    pub percent: u64,
}

/// A condition on a value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Is exactly this.
    Exact(String),
    /// Is present, or absent.
    Present(bool),
    /// Starts with this.
    Prefix(String),
    /// Ends with this.
    Suffix(String),
    /// Contains this.
    Contains(String),
    /// Matches this regex as a whole.
    Regex(Box<regex::bytes::Regex>),
    /// Does not fulfil this condition.
    Not(Box<Self>),
}

impl ValueMatch {
    /// Parses a regex, which must match the whole value.
    ///
    /// # Errors
    /// A sentence that describes what is wrong with it.
    pub fn parse_regex(text: &str) -> Result<Self, String> {
        let whole = regexes::whole(text)?;
        let regex = regex::bytes::RegexBuilder::new(&whole)
            .size_limit(regexes::COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| format!("invalid regex: {error}"))?;
        Ok(Self::Regex(Box::new(regex)))
    }

    /// Whether a value, or its absence, fulfils the condition.
    pub fn fits(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => value.is_some() == *wanted,
            (Self::Not(inner), value) => !inner.fits(value),
            (_, None) => false,
            (Self::Exact(text), Some(value)) => value == text.as_bytes(),
            (Self::Prefix(text), Some(value)) => value.starts_with(text.as_bytes()),
            (Self::Suffix(text), Some(value)) => value.ends_with(text.as_bytes()),
            (Self::Contains(text), Some(value)) => {
                text.is_empty() || value.windows(text.len()).any(|part| part == text.as_bytes())
            }
            (Self::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }
}

/// What to do with a request.
#[derive(Debug)]
pub enum Action {
    /// Forward it to a cluster: index into [`RouteTable::clusters`].
    Cluster(u32),
    /// Forward it to one of several clusters.
    Split(Box<Vec<Share>>),
    /// Forward it to the cluster that a header names.
    ByHeader(Box<str>),
    /// Redirect the client.
    Redirect(Box<Redirect>),
    /// Respond to it directly.
    Direct(Box<Direct>),
}

/// The share of one cluster in a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index into [`RouteTable::clusters`].
    pub cluster: u32,
    /// Its weight, unless a runtime value overrides it.
    pub weight: u64,
    /// The name of the runtime value that overrides the weight.
    pub runtime: Option<String>,
}

/// A redirect. What is `None` stays as requested, except that a new scheme drops the port.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// The status.
    pub status: u16,
    /// The new scheme.
    pub scheme: Option<String>,
    /// The new host.
    pub host: Option<String>,
    /// The new port.
    pub port: Option<u16>,
    /// The new path.
    pub path: Option<PathRewrite>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

/// A response that Sluice generates itself.
#[derive(Clone, Debug)]
pub struct Direct {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: HttpTemplate,
    /// Its media type.
    pub content_type: String,
}

/// How to rewrite a path.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// Replaces what the rule's prefix matched.
    Prefix(String),
    /// Replaces the whole path; the query stays unless the new path has one.
    Whole(String),
    /// Replaces what a regex matches; `$1` stands for a group.
    Regex(Box<(regex::Regex, String)>),
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(one), Self::Prefix(two)) | (Self::Whole(one), Self::Whole(two)) => {
                one == two
            }
            (Self::Regex(one), Self::Regex(two)) => {
                one.0.as_str() == two.0.as_str() && one.1 == two.1
            }
            (Self::Prefix(_) | Self::Whole(_) | Self::Regex(_), _) => false,
        }
    }
}

/// How the requests of a rule are handled.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleOptions {
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: RetryPlan,
    /// The path sent to the endpoint.
    pub path: Option<PathRewrite>,
    /// The host sent to the endpoint.
    pub host: HostRewrite,
    /// What a hash balancer hashes; the first source that yields a value is used.
    pub hash: Vec<HashBy>,
    /// The protocols that a client may upgrade to.
    pub upgrades: Vec<String>,
    /// Whether CONNECT may be tunnelled to the cluster.
    pub connect: bool,
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            retry: RetryPlan::default(),
            path: None,
            host: HostRewrite::Keep,
            hash: Vec::new(),
            upgrades: vec!["websocket".into()],
            connect: false,
        }
    }
}

/// The time-outs of a request; `None` disables one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request headers to the last byte.
    pub total: Option<Duration>,
    /// From the end of the request to the response headers, over all attempts; when it expires, there is no retry.
    pub response: Option<Duration>,
    /// From the start of an attempt, connecting included, to the response headers.
    pub per_try: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            total: None,
            response: Some(Duration::from_secs(60)),
            per_try: None,
            idle: Some(Duration::from_secs(300)),
        }
    }
}

/// Retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    /// Attempts in total; with 1, only what [`RetryWhen`] always retries is retried.
    pub attempts: u32,
    /// The failures to retry.
    pub when: RetryWhen,
    /// The statuses to retry.
    pub statuses: Vec<u16>,
    /// The longest first wait; the n-th is up to 2^n - 1 times as long. The wait is random up to that bound.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// Bytes of a request body that are kept for retries; a request with a longer body is not retried.
    pub body_max: usize,
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self {
            attempts: 1,
            when: RetryWhen::default(),
            statuses: Vec::new(),
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            body_max: 64 << 10,
        }
    }
}

/// The failures to retry. Always retried are requests that the endpoint cannot have processed, and idempotent requests
/// whose reused connection ended without a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a word of its own in the configuration")]
pub struct RetryWhen {
    /// Any status from 500, no response at all, and a time-out of the attempt.
    pub server_error: bool,
    /// 502, 503, 504, and a time-out of the attempt.
    pub gateway_error: bool,
    /// The endpoint ended the stream before it responded.
    pub reset: bool,
    /// The attempt timed out.
    pub per_try_timeout: bool,
    /// 409.
    pub conflict: bool,
    /// gRPC statuses in a response without a body, as bits.
    pub grpc: u32,
}

/// The host sent to the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostRewrite {
    /// The host that the client sent.
    #[default]
    Keep,
    /// Always this host.
    Literal(String),
    /// The name of the endpoint.
    Endpoint,
    /// The value of this header; the host that the client sent if it is missing or empty.
    Header(String),
}

/// What to hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The source address.
    SourceIp,
    /// A header.
    Header(String),
    /// A query parameter.
    Query(String),
    /// A cookie; if it has a time to live, it is created if missing.
    Cookie {
        /// Its name.
        name: String,
        /// How long a browser keeps it; `None` never creates one.
        ttl: Option<Duration>,
        /// The path it is for.
        path: Option<String>,
    },
}

/// What rules may examine.
#[derive(Debug)]
pub struct RouteInput<'a> {
    /// The request.
    pub head: &'a Head,
    /// The source address, if known.
    pub source: Option<IpAddr>,
    /// What TLS termination found out.
    pub tls: Option<&'a TlsFacts>,
    /// Runtime values.
    pub runtime: &'a Runtime,
    /// A random number that stays the same for one request, however often it is routed.
    pub random: u64,
}

impl VirtualHost {
    /// Creates a virtual host with its index.
    pub fn new(hosts: Vec<HostPattern>, rules: Vec<Rule>) -> Self {
        let index = RuleIndex::build(&rules);
        Self { hosts, rules, index }
    }

    /// Returns the place of the first rule that matches.
    pub fn find(&self, subject: &RouteInput<'_>) -> Option<usize> {
        self.index.find(&self.rules, subject.head.path_only(), |rule| rule.fits(subject))
    }
}

/// A host that is declared twice: the pattern, and the places of both virtual hosts.
pub type HostTwice = (HostPattern, usize, usize);

impl RouteTable {
    /// Compiles a table.
    ///
    /// # Errors
    /// Hosts that are declared twice.
    pub fn build(
        virtual_hosts: Vec<VirtualHost>,
        clusters: Vec<Arc<Cluster>>,
        by_name: BTreeMap<Name, Arc<Cluster>>,
        overrides: Vec<OverrideSet>,
    ) -> Result<Self, Vec<HostTwice>> {
        let hosts = HostIndex::build(virtual_hosts.iter().map(|host| host.hosts.as_slice()))?;
        Ok(Self { hosts, virtual_hosts, clusters, by_name, overrides })
    }

    /// Returns what the set with that number configures for filters.
    pub fn said_of_filters(&self, set: u32) -> &[(&'static str, Override)] {
        self.overrides.get(set as usize).map_or(&[], |set| &set.said)
    }

    /// Returns the place of the virtual host for an authority.
    pub fn host(&self, authority: &str) -> Option<usize> {
        self.hosts.find(authority)
    }

    /// Returns the places of the virtual host and the rule for a request.
    pub fn find(&self, subject: &RouteInput<'_>) -> Option<(usize, usize)> {
        let host = self.host(subject.head.authority())?;
        Some((host, self.virtual_hosts[host].find(subject)?))
    }
}

impl Rule {
    /// Whether the whole rule matches.
    pub fn fits(&self, subject: &RouteInput<'_>) -> bool {
        self.why_not(subject).is_none()
    }

    /// What about the request does not match; `None` if everything does.
    pub fn why_not(&self, subject: &RouteInput<'_>) -> Option<&'static str> {
        if !self.path.fits(subject.head.path_only()) {
            return Some("path");
        }
        self.conditions.as_deref().and_then(|conditions| conditions.why_not(subject))
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
            client_certificate,
            sources,
            grpc,
            runtime,
        } = self;
        methods.is_empty()
            && headers.is_empty()
            && content_types.is_empty()
            && query.is_empty()
            && cookies.is_empty()
            && client_certificate.is_none()
            && sources.is_empty()
            && grpc.is_none()
            && runtime.is_none()
    }

    fn why_not(&self, subject: &RouteInput<'_>) -> Option<&'static str> {
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
        if !self.sources.is_empty() {
            let holds = |ip: IpAddr| self.sources.iter().any(|block| block.holds(ip));
            if !subject.source.is_some_and(holds) {
                return Some("source");
            }
        }
        if let Some(wanted) = &self.client_certificate {
            let shown = subject.tls.and_then(|tls| tls.client_subject.as_deref());
            let fits = match wanted {
                ClientCertificate::Present(wanted) => shown.is_some() == *wanted,
                ClientCertificate::Subject(text) => shown.is_some_and(|s| s.contains(&**text)),
            };
            if !fits {
                return Some("client_certificate");
            }
        }
        if let Some(share) = &self.runtime {
            let set = share.key.as_deref().and_then(|key| subject.runtime.number(key));
            if subject.random % 100 >= set.unwrap_or(share.percent) {
                return Some("runtime");
            }
        }
        None
    }
}

impl GrpcMatch {
    fn fits(&self, head: &Head) -> bool {
        let mut parts = head.path_only().split('/').skip(1);
        let (service, method) = (parts.next(), parts.next());
        head.is_grpc()
            && self.service.as_deref().is_none_or(|wanted| service == Some(wanted))
            && self.method.as_deref().is_none_or(|wanted| method == Some(wanted))
    }
}
