//! Route tables: from a request to the rule that determines what becomes of it.
//!
//! Owns: virtual hosts, rules, what they match and what they do. Refuses to know: streams, filters. Keeps: the first
//! matching rule in order wins; the index only leaves out rules that cannot match, so it never changes which rule that
//! is.

use std::borrow::Cow;
use std::cell::Ref;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::connection::{Peer, TlsFacts};
use sluice_core::value::HostPattern;
use sluice_core::values::SharedValue;
use sluice_core::{ConnInfo, Name, SharedValues};
use sluice_l4::inspect::tls::SNI;
use sluice_l4::rbac::conn::ConnSubject;
use sluice_upstream::{Cluster, ClusterDirectory, Published, PublishedView};

use crate::expression::{RequestAttributes, RequestExpression};
use crate::filters::HttpFilterPlan;
use crate::runtime::Runtime;
use crate::template::HttpTemplate;

pub mod conditions;
pub mod endpoint_match;
pub mod index;
pub mod options;
pub mod require_tls;
pub mod scopes;
pub mod substitution;
#[cfg(test)]
mod tests;

pub use crate::grpc_match::GrpcMatch;
pub use crate::path_match::PathMatch;
pub use crate::path_value::PathValue;
pub use crate::retry_plan::{ResetHeader, RetryAvoid, RetryPlan, RetryReset, RetryRule, RetryWhen};
pub use crate::value_match::{ValueMatch, Values, ValuesOfFilters};
pub use conditions::{ClientCertificate, Conditions, RequestVersion, RuntimeShare};
pub use endpoint_match::EndpointMatch;
use index::{HostIndex, RuleIndex};
pub use options::{
    FollowPlan, FollowScheme, HashBy, HostRewrite, Mirror, MirrorTarget, Originals, RuleOptions,
    Timeouts,
};
pub use require_tls::RequireTls;
use scopes::ScopeIndex;
pub use scopes::{HostScope, ScopeElement, ScopeKeyPart};
pub use substitution::RegexSubstitution;

/// A named table that is replaced as a whole. Survives reloads; a request reads it when its headers are complete.
#[derive(Debug)]
pub struct RouteCell {
    /// Its name in the configuration.
    pub name: Name,
    table: Published<RouteTable>,
}

impl RouteCell {
    /// Creates a cell with a first table.
    pub fn new(name: Name, table: Arc<RouteTable>) -> Self {
        Self { name, table: Published::new(table) }
    }

    /// Puts another table in force.
    pub fn set(&self, table: Arc<RouteTable>) {
        self.table.set(table);
    }

    /// The table in force.
    pub fn get(&self) -> Arc<RouteTable> {
        self.table.get()
    }

    /// A worker's view of the table in force.
    pub fn view(&self) -> PublishedView<RouteTable> {
        PublishedView::new(&self.table)
    }

    /// The table in force, as a view of this cell has it.
    pub fn read<'v>(&self, view: &'v PublishedView<RouteTable>) -> Ref<'v, Arc<RouteTable>> {
        view.get(&self.table)
    }
}

/// A compiled table.
#[derive(Debug)]
pub struct RouteTable {
    /// The hosts without a scope.
    hosts: HostIndex,
    /// Those of scopes, if there are any.
    scopes: Option<Box<ScopeIndex>>,
    /// In the order of the configuration.
    pub virtual_hosts: Vec<VirtualHost>,
    /// The clusters that rules name.
    pub clusters: Vec<Arc<Cluster>>,
    /// Every cluster, for rules that take the name from the request.
    pub directory: Arc<ClusterDirectory>,
    /// The sets of filter settings that rules and virtual hosts have; 0 is the empty set.
    pub overrides: Vec<OverrideSet>,
}

/// Filter settings of a rule and its virtual host, by filter.
pub type Overrides = Vec<(Name, Override)>;

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
    /// The settings on their own; `None` if the filter is left out.
    pub fn own_plan(&self) -> Option<&dyn HttpFilterPlan> {
        match self {
            Self::Skip => None,
            Self::Over(plan) | Self::Instead(plan) => Some(&**plan),
        }
    }

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
    /// Which requests are redirected to HTTPS, whichever rule they match.
    pub require_tls: Option<RequireTls>,
    /// The scopes that they are in; `None` is for requests of no scope.
    pub scope: Option<Box<HostScope>>,
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

/// What to do with a request.
#[derive(Debug)]
pub enum Action {
    /// Forward it to a cluster: index into [`RouteTable::clusters`].
    Cluster(u32),
    /// Forward it to one of several clusters.
    Split(Box<Vec<Share>>),
    /// Forward it to the cluster that a header names.
    ByHeader(Box<str>),
    /// Forward it to the cluster whose name an expression makes.
    ByExpression(Box<RequestExpression>),
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
    /// The metadata that the endpoint must have, in place of what the rule says.
    pub endpoint: Option<EndpointMatch>,
}

/// A redirect. What is `None` stays as requested, except that a new scheme drops the port.
#[derive(Clone, Debug, Default, PartialEq)]
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

impl Redirect {
    /// To the same over TLS, on its usual port.
    pub fn to_https() -> Self {
        let scheme = Some("https".to_owned());
        Self { status: 301, scheme, host: None, port: None, path: None, strip_query: false }
    }
}

/// A response that Sluice generates itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Direct {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: HttpTemplate,
    /// Its media type.
    pub content_type: String,
}

/// How to rewrite a path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    /// Replaces what the rule's prefix matched.
    Prefix(String),
    /// Replaces the whole path; the query stays unless the new path has one.
    Whole(String),
    /// Replaces what a regex matches.
    Regex(Box<RegexSubstitution>),
}

/// What rules may examine.
#[derive(Debug)]
pub struct RouteInput<'a> {
    /// The request.
    pub head: &'a Head,
    /// The source, as trusted hops report it.
    pub source: Peer,
    /// Its connection, if there is one.
    pub conn: Option<&'a ConnInfo>,
    /// The values that filters shared for the request, if it is one that passes filters.
    pub values: Option<&'a SharedValues>,
    /// Runtime values.
    pub runtime: &'a Runtime,
    /// A random number that stays the same for one request, however often it is routed.
    pub random: u64,
}

impl<'a> RouteInput<'a> {
    /// A shared value of the request or, if it has none, of its connection.
    fn shared(&self, name: &str) -> Option<&'a dyn SharedValue> {
        let of_request = self.values.and_then(|values| values.named(name));
        of_request.or_else(|| self.conn?.values.named(name))
    }

    /// The request as expressions see it.
    fn with_attributes<T>(&self, see: impl FnOnce(&RequestAttributes<'_>) -> T) -> T {
        let (head, values, source) = (self.head, self.values, self.source);
        let conn = self.conn.map(|conn| ConnSubject { source, ..ConnSubject::of(conn) });
        let (path, conn) = (head.path_only(), conn.as_ref());
        see(&RequestAttributes { head, path, values, conn, response: None })
    }

    /// What TLS termination found out.
    /// What a header says, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        let value = self.head.get_named(name.as_bytes())?;
        std::str::from_utf8(value).ok().map(Cow::Borrowed)
    }

    /// The text that an expression makes of the request.
    pub(crate) fn made_by(&self, expression: &RequestExpression) -> Option<Cow<'a, str>> {
        self.with_attributes(|of| expression.text(of)).map(Cow::Owned)
    }

    fn tls(&self) -> Option<&'a TlsFacts> {
        self.conn?.tls.get().map(|tls| &**tls)
    }

    /// The server name of the client's TLS handshake, in lower case.
    fn server_name(&self) -> Option<&'a str> {
        self.conn?.nearest_facts()?.get(&SNI)
    }
}

impl Action {
    /// The cluster that a request names itself, by a header or by what an expression makes of it; `None` if it names none,
    /// or the action goes by none.
    pub fn named_by<'h>(&self, of: &RouteInput<'h>) -> Option<Cow<'h, str>> {
        match self {
            Self::ByHeader(header) => of.header(header),
            Self::ByExpression(expression) => of.made_by(expression),
            Self::Cluster(_) | Self::Split(_) | Self::Redirect(_) | Self::Direct(_) => None,
        }
    }
}

impl VirtualHost {
    /// Creates a virtual host with its index.
    pub fn new(hosts: Vec<HostPattern>, rules: Vec<Rule>) -> Self {
        let index = RuleIndex::build(&rules);
        Self { hosts, rules, require_tls: None, scope: None, index }
    }

    /// Whether the request must repeat itself over TLS.
    pub fn refuses_cleartext(&self, subject: &RouteInput<'_>) -> bool {
        self.require_tls.is_some_and(|require| require.refuses(subject))
    }

    /// Returns the place of the first rule that matches.
    pub fn find(&self, subject: &RouteInput<'_>) -> Option<usize> {
        self.index.find(&self.rules, subject.head.path_only(), |rule| rule.fits(subject))
    }
}

/// A host that is declared twice: the pattern, and the places of both virtual hosts.
pub type HostTwice = (HostPattern, usize, usize);

impl RouteTable {
    /// A table without hosts: no request matches.
    pub fn empty() -> Self {
        let built = Self::build(Vec::new(), Vec::new(), Arc::default(), Vec::new());
        built.unwrap_or_else(|_| unreachable!("no host is declared, so none is declared twice"))
    }

    /// Compiles a table.
    ///
    /// # Errors
    /// Hosts that are declared twice.
    pub fn build(
        virtual_hosts: Vec<VirtualHost>,
        clusters: Vec<Arc<Cluster>>,
        directory: Arc<ClusterDirectory>,
        overrides: Vec<OverrideSet>,
    ) -> Result<Self, Vec<HostTwice>> {
        let all = || virtual_hosts.iter().map(|host| host.hosts.as_slice()).enumerate();
        let scope = |place: usize| virtual_hosts.get(place).and_then(|of| of.scope.as_deref());
        let hosts = HostIndex::build(all().filter(|(place, _)| scope(*place).is_none()))?;
        let scoped = all().filter_map(|(place, hosts)| Some((scope(place)?, place, hosts)));
        let scopes = ScopeIndex::build(scoped)?.map(Box::new);
        Ok(Self { hosts, scopes, virtual_hosts, clusters, directory, overrides })
    }

    /// Returns what the set with that number configures for filters.
    pub fn said_of_filters(&self, set: u32) -> &[(Name, Override)] {
        self.overrides.get(set as usize).map_or(&[], |set| &set.said)
    }

    /// Returns the place of the virtual host for a request: by its scope, then by its authority.
    pub fn host(&self, head: &Head) -> Option<usize> {
        let scoped = self.scopes.as_ref().and_then(|scopes| scopes.hosts(head));
        scoped.unwrap_or(&self.hosts).find(head.authority())
    }

    /// Whether a request is in a scope of this table.
    pub fn has_scope(&self, head: &Head) -> bool {
        self.scopes.as_ref().is_some_and(|scopes| scopes.hosts(head).is_some())
    }

    /// Whether the virtual host of a request requires TLS, which the client did not use.
    pub fn refuses_cleartext(&self, subject: &RouteInput<'_>) -> bool {
        let host = self.host(subject.head);
        host.is_some_and(|host| self.virtual_hosts[host].refuses_cleartext(subject))
    }

    /// Returns the places of the virtual host and the rule for a request; none if it must repeat itself over TLS.
    pub fn find(&self, subject: &RouteInput<'_>) -> Option<(usize, usize)> {
        let host = self.host(subject.head)?;
        let of = &self.virtual_hosts[host];
        if of.refuses_cleartext(subject) {
            return None;
        }
        Some((host, of.find(subject)?))
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
