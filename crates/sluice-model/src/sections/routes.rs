//! The sections of routes.
//!
//! Owns: virtual hosts, rules, time-outs, filter settings; below it, what rules match and do. Keeps: each short form is
//! equivalent to one long form.

use std::time::Duration;

use sluice_core::settings::{Members, OrNone, OrZero, Plain, Shape, Short, entries_of};
use sluice_core::value::{HostPattern, Percent};
use sluice_core::{Diags, Name, Node, Path, Setting, Spanned, Value, section};
use sluice_l7::expression::RequestExpression;
use sluice_l7::routes::RequireTls;

pub mod actions;
pub mod endpoint_metadata;
pub mod forwarding;
pub mod hashing;
pub mod matching;
pub mod retries;
pub mod rewriting;
pub mod runtime;
pub mod scopes;
pub mod words;

pub use actions::{Redirect, Respond, Scheme, Share, ShareWeight, Shares};
pub use hashing::{HashKey, HashSource};
pub use matching::{RouteMatch, RuntimeShare};
pub use rewriting::{HostPart, HostRegex, Original, RegexRewrite, Rewrite};
pub use runtime::{RuntimeSection, RuntimeValues};
pub use words::{HeaderName, MethodName, Token, Upgrades};

use endpoint_metadata::SubsetSources;
use forwarding::{AttemptCount, ConnectMode, FollowRedirects, Mirror, RulePriority};
use retries::Retry;
use scopes::Scope;

section! {
    /// A virtual host: hosts that share rules. If several match, an exact name wins over the longest *.suffix, that
    /// over the longest prefix.*, and * comes last.
    pub struct VirtualHost {
        /// Host names, without ports; if omitted, any host.
        pub hosts: Vec<Spanned<HostPattern>>,
        /// Which requests must use TLS: all, or external for those whose source is neither loopback nor private. Others are
        /// redirected to https with 301, on the default port. If omitted, none must.
        pub require_tls: Option<RequireTls>,
        /// The requests that may use these hosts, by values of headers; if omitted, those that no other scope of the table is
        /// for.
        pub scope: Option<Spanned<Scope>>,
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
    const ACTIONS: [&'static str; 6] =
        ["cluster", "cluster_header", "cluster_from", "split", "redirect", "respond"];

    /// A virtual host for any host with a single rule.
    pub fn of_rule(rule: Spanned<Rule>) -> Self {
        let filters = Overrides::default();
        let (hosts, require_tls, scope) = (Vec::new(), None, None);
        Self(VirtualHost { hosts, require_tls, scope, filters, rules: Members::one(rule) })
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
    /// A rule: which requests it takes, and what happens to them. Exactly one of cluster, cluster_header, cluster_from,
    /// split, redirect and respond is required.
    pub struct Rule {
        /// Name in access logs and metrics; if omitted, the first host and the rule's index, e.g. `shop.example.com/0`.
        pub name: Option<Name>,
        /// Which requests the rule takes; if omitted, all requests of the host.
        pub matches as "match": Option<Spanned<RouteMatch>>,
        /// Forward to this cluster.
        pub cluster: Option<Spanned<Name>>,
        /// Forward to the cluster named by this header.
        pub cluster_header: Option<HeaderName>,
        /// Forward to the cluster whose name this expression in CEL makes: `lookup('tenants', request.hostname)`.
        pub cluster_from: Option<RequestExpression>,
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
        /// Which limits of the cluster apply: those of `limits`, or with `high` those of `limits.high`, which are counted
        /// apart, as are the connections of its pool. In the queue of a cluster, requests with `high` come first.
        pub priority: RulePriority = "default",
        /// The hash key of ring_hash and maglev, and of `split` (session affinity, sticky sessions); the first source that
        /// yields a value is used.
        pub hash: Vec<Short<HashSource>>,
        /// The metadata that the endpoint must have, for a cluster with `subsets`: a value for each key, or
        /// `{ header: NAME }` for that of a request header, `{ value: NAME }` for one that filters shared.
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
        /// Whether CONNECT is accepted: it is passed on to an endpoint of the cluster, which must be a proxy; a cluster with
        /// `forward` opens a tunnel to the host that it names.
        pub connect: ConnectMode = "false",
        /// Filter settings for this rule, by filter name, in place of those of the virtual host and the chain; `skip`
        /// disables a filter. Those of `set_headers` add up instead, in the order chain, virtual host, rule.
        pub filters: Overrides,
    }
}

section! {
    /// Timeouts of a request.
    pub struct RouteTimeout {
        /// The whole request, from its headers to the last byte of the response. If omitted, `max_stream_duration` of the
        /// listener's `http`, which has none by default.
        pub total: Option<OrNone<Duration>>,
        /// Part of `total` by which it is longer, at random up to this share, so that long streams do not all end at once.
        pub total_jitter: Percent = "0%",
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
