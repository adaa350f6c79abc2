//! Route tables.

use std::sync::Arc;

use sluice_core::value::HostPattern;
use sluice_core::{Name, Node, Path};
use sluice_l7::expression::RequestExpression;
use sluice_l7::routes::{
    Conditions, Direct, EndpointMatch, HostScope, MirrorTarget, PathMatch, Redirect, RequireTls,
    RuleOptions,
};

use super::{Kind, Reference, References};

/// A route table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    /// The virtual hosts.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// Hosts that share rules.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// The patterns of the hosts; at least one.
    pub hosts: Vec<HostPattern>,
    /// Which requests must use TLS.
    pub require_tls: Option<RequireTls>,
    /// The scopes that they are in; `None` is for requests of no scope.
    pub scope: Option<Box<HostScope>>,
    /// Filter settings for these hosts.
    pub filters: Vec<FilterOverride>,
    /// The rules; the first that matches wins.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name in records and metrics.
    pub name: Name,
    /// The path that it matches.
    pub path: PathMatch,
    /// Further conditions.
    pub conditions: Option<Box<Conditions>>,
    /// What to do with the request.
    pub action: Action,
    /// The options of the action.
    pub options: Arc<RuleOptions>,
    /// Filter settings for this rule, in place of those of the virtual host and the chain.
    pub filters: Vec<FilterOverride>,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Forward it to a cluster.
    Cluster(Name),
    /// Forward it to one of several clusters.
    Split(Vec<Share>),
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
    /// The cluster.
    pub cluster: Name,
    /// Its weight, unless a runtime value overrides it.
    pub weight: u64,
    /// The name of the runtime value that overrides the weight.
    pub runtime: Option<String>,
    /// The metadata that the endpoint must have, in place of what the rule says.
    pub endpoint: Option<EndpointMatch>,
}

/// What a rule or a virtual host configures for a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterOverride {
    /// The name of the filter.
    pub filter: String,
    /// Its settings; `None` leaves the filter out.
    pub settings: Option<Node>,
}

impl RouteTable {
    /// Every rule with its virtual host, in order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.virtual_hosts.iter().flat_map(|host| &host.rules)
    }

    pub(crate) fn references(&self, found: &mut References) {
        for (place, host) in self.virtual_hosts.iter().enumerate() {
            let at = Path::ROOT.index(place);
            let list = at.key("rules");
            for (place, rule) in host.rules.iter().enumerate() {
                rule.references(&list.index(place), found);
            }
        }
    }
}

impl Rule {
    /// The clusters that it routes to by name, or sends copies to.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        let (one, shares) = match &self.action {
            Action::Cluster(name) => (Some(name), &[][..]),
            Action::Split(shares) => (None, shares.as_slice()),
            Action::ByHeader(_)
            | Action::ByExpression(_)
            | Action::Redirect(_)
            | Action::Direct(_) => (None, &[][..]),
        };
        let mirrors = self.options.mirrors.iter().filter_map(|mirror| match &mirror.to {
            MirrorTarget::Cluster(name) => Some(name),
            MirrorTarget::Header(_) | MirrorTarget::Expression(_) => None,
        });
        one.into_iter().chain(shares.iter().map(|share| &share.cluster)).chain(mirrors)
    }

    /// Whether its requests may name any cluster.
    pub fn names_clusters(&self) -> bool {
        let mut mirrors = self.options.mirrors.iter();
        matches!(self.action, Action::ByHeader(_) | Action::ByExpression(_))
            || mirrors.any(|mirror| !matches!(mirror.to, MirrorTarget::Cluster(_)))
    }

    fn references(&self, at: &Path<'_>, found: &mut References) {
        for (place, mirror) in self.options.mirrors.iter().enumerate() {
            let list = at.key("mirror");
            if let MirrorTarget::Cluster(name) = &mirror.to {
                found.add(Kind::Cluster, name, list.index(place));
            }
        }
        match &self.action {
            Action::Cluster(name) => found.add(Kind::Cluster, name, at.key("cluster")),
            Action::Split(shares) => {
                let split = at.key("split");
                found.0.extend(shares.iter().map(|share| Reference {
                    kind: Kind::Cluster,
                    name: Arc::clone(&share.cluster),
                    at: split.key(&share.cluster).to_string(),
                    in_key: true,
                }));
            }
            Action::ByHeader(_)
            | Action::ByExpression(_)
            | Action::Redirect(_)
            | Action::Direct(_) => {}
        }
    }
}
