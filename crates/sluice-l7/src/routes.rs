//! Route tables: from a request to the rule that says what becomes of it.
//!
//! Owns: virtual hosts, rules, what they match and what they do. Refuses to know: streams, filters.
//! Keeps: the first rule in order that matches wins; the index only leaves out rules that cannot
//! match, so it never changes which one that is.

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

/// A table by name, put in force whole. Lives on over reloads; requests read it when their head is
/// complete.
#[derive(Debug)]
pub struct RouteCell {
    /// Its name in the configuration.
    pub name: Name,
    table: ArcSwap<RouteTable>,
}

impl RouteCell {
    /// A cell with a first table.
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
    /// In the order in which they were written.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Every cluster that a rule may choose by name of its own.
    pub clusters: Vec<Arc<Cluster>>,
    /// Every cluster there is, for rules that take the name from the request.
    pub by_name: BTreeMap<Name, Arc<Cluster>>,
    /// Sets of filter settings that rules have of their own; 0 is the empty set.
    pub overrides: Vec<OverrideSet>,
}

/// Filter settings of a rule and its virtual host, by filter.
pub type Overrides = Vec<(&'static str, Override)>;

/// Filter settings with the name of the rule or virtual host that they are written in. What their filters remember
/// is kept under it over reloads.
#[derive(Clone, Debug)]
pub struct OverrideSet {
    /// The name, unique within the table.
    pub owner: Name,
    /// The settings.
    pub said: Overrides,
}

/// What a rule, or its virtual host, says of a filter.
#[derive(Clone, Debug)]
pub enum Override {
    /// It is left out.
    Skip,
    /// It has these settings, on top of the chain's where the filter adds them up.
    Over(Arc<dyn HttpFilterPlan>),
    /// It has these settings, whatever the chain's are.
    Instead(Arc<dyn HttpFilterPlan>),
}

impl Override {
    /// What holds where `self` is said within `outer`.
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
            // The outer one took the chain's settings away, and they stay away.
            (Self::Over(own), Self::Skip) => Self::Instead(Arc::clone(own)),
            (Self::Skip | Self::Instead(_), _) => self.clone(),
        }
    }

    /// The settings that a request is filtered with, where the chain has `chain`.
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
    /// Which hosts.
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
    /// The path it is for.
    pub path: PathMatch,
    /// What else must hold; most rules ask for nothing else.
    pub conditions: Option<Box<Conditions>>,
    /// What becomes of the request.
    pub action: Action,
    /// How; shared by rules that say the same.
    pub options: Arc<RuleOptions>,
    /// Index into [`RouteTable::overrides`].
    pub overrides: u32,
}

/// What must hold beside the path; empty lists ask for nothing.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Methods, any of which.
    pub methods: Vec<String>,
    /// Header fields, all of which.
    pub headers: Vec<(String, ValueMatch)>,
    /// Media types, any of which; parameters and case do not count.
    pub content_types: Vec<String>,
    /// Parameters of the query, all of which.
    pub query: Vec<(String, ValueMatch)>,
    /// Cookies, all of which.
    pub cookies: Vec<(String, ValueMatch)>,
    /// Whether the client showed a certificate, or a word that its subject holds.
    pub client_certificate: Option<ClientCertificate>,
    /// Where it comes from, any of which.
    pub sources: Vec<Cidr>,
    /// gRPC, of this service and method.
    pub grpc: Option<GrpcMatch>,
    /// A share of requests, by a runtime value.
    pub runtime: Option<RuntimeShare>,
}

/// What a client's certificate must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It is there, or it is not.
    Present(bool),
    /// Its subject holds this text.
    Subject(String),
}

/// A gRPC service and perhaps a method of it; neither asks for any gRPC at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// The service with its package.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeShare {
    /// The value that says how many in a hundred; without one `percent` holds.
    pub key: Option<String>,
    /// How many in a hundred where no value says otherwise.
    pub percent: u64,
}

/// What a value must be like.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Exactly this.
    Exact(String),
    /// There, or not there.
    Present(bool),
    /// Begins so.
    Prefix(String),
    /// Ends so.
    Suffix(String),
    /// Holds this.
    Contains(String),
    /// The whole of it matches.
    Regex(Box<regex::bytes::Regex>),
    /// Anything but.
    Not(Box<Self>),
}

impl ValueMatch {
    /// Reads a regex, which must match the whole value.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse_regex(text: &str) -> Result<Self, String> {
        let whole = regexes::whole(text)?;
        let regex = regex::bytes::RegexBuilder::new(&whole)
            .size_limit(regexes::COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| format!("invalid regex: {error}"))?;
        Ok(Self::Regex(Box::new(regex)))
    }

    /// Whether a value, or its absence, fits.
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

/// What becomes of a request.
#[derive(Debug)]
pub enum Action {
    /// It goes to a cluster: index into [`RouteTable::clusters`].
    Cluster(u32),
    /// It goes to one of several.
    Split(Box<Vec<Share>>),
    /// It goes to the cluster that a header names.
    ByHeader(Box<str>),
    /// The client is sent elsewhere.
    Redirect(Box<Redirect>),
    /// It is answered here.
    Direct(Box<Direct>),
}

/// A cluster's share of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index into [`RouteTable::clusters`].
    pub cluster: u32,
    /// Its weight where no runtime value says otherwise.
    pub weight: u64,
    /// The runtime value that does.
    pub runtime: Option<String>,
}

/// Sending a client elsewhere. What is left out stays as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// The status.
    pub status: u16,
    /// Another scheme.
    pub scheme: Option<String>,
    /// Another host.
    pub host: Option<String>,
    /// Another port.
    pub port: Option<u16>,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

/// An answer of Sluice's own.
#[derive(Clone, Debug)]
pub struct Direct {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: HttpTemplate,
    /// Its media type.
    pub content_type: String,
}

/// How a path becomes another.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// What the rule's prefix matched is replaced.
    Prefix(String),
    /// The whole path is replaced; the query stays.
    Whole(String),
    /// What a regex matches is replaced; `$1` stands for a group.
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

/// How a rule's requests are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleOptions {
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Trying again.
    pub retry: RetryPlan,
    /// Another path for the endpoint.
    pub path: Option<PathRewrite>,
    /// Another host for the endpoint.
    pub host: HostRewrite,
    /// What a hash balancer goes by; the first that gives something.
    pub hash: Vec<HashBy>,
    /// Protocols that a client may upgrade to.
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

/// Time-outs of a request; `None` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first to the last byte.
    pub total: Option<Duration>,
    /// From the end of the request to the head of the response, all tries together.
    pub response: Option<Duration>,
    /// The same for one try.
    pub per_try: Option<Duration>,
    /// No byte either way.
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

/// Trying again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    /// Tries in all; 1 never tries again for what an endpoint did with a request.
    pub attempts: u32,
    /// What is worth another try.
    pub when: RetryWhen,
    /// Statuses worth another try.
    pub statuses: Vec<u16>,
    /// The longest first wait; the n-th is up to 2^n - 1 times as long, at random.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// Bytes of a request's body that are kept for another try; a longer one is tried once.
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

/// What is worth another try. What an endpoint cannot have seen is always tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a word of its own in the configuration")]
pub struct RetryWhen {
    /// Any status from 500 on, and no answer at all.
    pub server_error: bool,
    /// 502, 503, 504.
    pub gateway_error: bool,
    /// The endpoint ended the stream before it answered.
    pub reset: bool,
    /// The time for one try was over.
    pub per_try_timeout: bool,
    /// 409.
    pub conflict: bool,
    /// gRPC statuses in a response without a body, as bits.
    pub grpc: u32,
}

/// Another host for the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostRewrite {
    /// The client's.
    #[default]
    Keep,
    /// Always this.
    Literal(String),
    /// The endpoint's own name.
    Endpoint,
    /// The value of this header.
    Header(String),
}

/// What a hash goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The source's address.
    SourceIp,
    /// A header.
    Header(String),
    /// A parameter of the query.
    Query(String),
    /// A cookie; with a time to live it is made where there is none.
    Cookie {
        /// Its name.
        name: String,
        /// How long a browser keeps it; `None` never makes one.
        ttl: Option<Duration>,
        /// The path it is for.
        path: Option<String>,
    },
}

/// What a rule may look at.
#[derive(Debug)]
pub struct RouteInput<'a> {
    /// The request.
    pub head: &'a Head,
    /// Where it comes from.
    pub source: Option<IpAddr>,
    /// What termination found.
    pub tls: Option<&'a TlsFacts>,
    /// Runtime values.
    pub runtime: &'a Runtime,
    /// A number that stays the same for one request, however often it is routed.
    pub random: u64,
}

impl VirtualHost {
    /// A virtual host with its index.
    pub fn new(hosts: Vec<HostPattern>, rules: Vec<Rule>) -> Self {
        let index = RuleIndex::build(&rules);
        Self { hosts, rules, index }
    }

    /// The place of the first rule that matches.
    pub fn find(&self, subject: &RouteInput<'_>) -> Option<usize> {
        self.index.find(&self.rules, subject.head.path_only(), |rule| rule.fits(subject))
    }
}

/// A host that two virtual hosts claim: the pattern, and the places of both.
pub type HostTwice = (HostPattern, usize, usize);

impl RouteTable {
    /// Compiles a table.
    ///
    /// # Errors
    /// Hosts that are claimed twice.
    pub fn build(
        virtual_hosts: Vec<VirtualHost>,
        clusters: Vec<Arc<Cluster>>,
        by_name: BTreeMap<Name, Arc<Cluster>>,
        overrides: Vec<OverrideSet>,
    ) -> Result<Self, Vec<HostTwice>> {
        let hosts = HostIndex::build(virtual_hosts.iter().map(|host| host.hosts.as_slice()))?;
        Ok(Self { hosts, virtual_hosts, clusters, by_name, overrides })
    }

    /// What the set of that number says of filters.
    pub fn said_of_filters(&self, set: u32) -> &[(&'static str, Override)] {
        self.overrides.get(set as usize).map_or(&[], |set| &set.said)
    }

    /// The place of the virtual host for an authority.
    pub fn host(&self, authority: &str) -> Option<usize> {
        self.hosts.find(authority)
    }

    /// Virtual host and rule of a request.
    pub fn find(&self, subject: &RouteInput<'_>) -> Option<(usize, usize)> {
        let host = self.host(subject.head.authority())?;
        Some((host, self.virtual_hosts[host].find(subject)?))
    }
}

impl Rule {
    /// Whether the whole rule fits.
    pub fn fits(&self, subject: &RouteInput<'_>) -> bool {
        self.why_not(subject).is_none()
    }

    /// What about the request does not fit; none when it all does.
    pub fn why_not(&self, subject: &RouteInput<'_>) -> Option<&'static str> {
        if !self.path.fits(subject.head.path_only()) {
            return Some("path");
        }
        self.conditions.as_deref().and_then(|conditions| conditions.why_not(subject))
    }
}

impl Conditions {
    /// Whether nothing is asked for. The pattern names every field, so a new condition cannot be forgotten here.
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
