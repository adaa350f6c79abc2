//! Route tables.

use std::sync::Arc;

use sluice_core::limits::Limit;
use sluice_core::settings::Members;
use sluice_core::value::HostPattern;
use sluice_core::{Diags, Name, Path, Span, Spanned};
use sluice_l7::routes::{Direct, HashBy, PathMatch, Redirect, RetryPlan, RuleOptions, Timeouts};
use sluice_upstream::plan::BreakerClass;

pub use matching::written;
pub(super) use scopes::scope_key;

use super::{Context, Translated};
use crate::check;
use crate::model::routes::{Action, FilterOverride, RouteTable, Rule, Share, VirtualHost};
use crate::model::{Kind, Resource};
use crate::provenance::Provenance;
use crate::sections::HostOrRule;
use crate::sections::routes::forwarding::{AttemptCount, ConnectMode, RulePriority};
use crate::sections::routes::{self as sections, HashKey, HashSource, RouteTimeout};
use crate::store::Update;

impl Context<'_> {
    pub(super) fn routes(self, all: &mut Translated, diags: &mut Diags) {
        let at = Path::ROOT.key("routes");
        let routes = &self.config.routes;
        all.declared.extend(routes.names().map(|name| (Kind::Routes, Arc::clone(name))));
        // The options of rules that set none are one allocation.
        let mut shared = SharedOptions::default();
        for (name, section) in routes.iter() {
            let inline = self.inline.get(&(Kind::Routes, Arc::clone(name)));
            let at = inline.map_or_else(|| at.key(name), |place| Path::ROOT.key(place));
            let scopes_max = self.config.limits.0.size(Limit::RouteScopes);
            if let Some(table) = table(section, scopes_max, &mut shared, &at, diags) {
                let from = Provenance::File { at: at.to_string().into(), moved: moved(section) };
                all.updates.push(Update::set(name, Resource::Routes(Arc::new(table)), from));
            }
        }
    }
}

/// The places of hosts and rules that come after an invalid one.
fn moved(hosts: &Members<HostOrRule>) -> Vec<(String, String)> {
    let mut moved = Vec::new();
    for (index, (place, host)) in hosts.places().enumerate() {
        if index != place {
            moved.push((format!("[{index}]"), format!("[{place}]")));
        }
        for (rule, (written, _)) in host.rules.places().enumerate().filter(|(i, (p, _))| i != p) {
            let paths = (format!("[{index}].rules[{rule}]"), format!("[{place}].rules[{written}]"));
            moved.push(paths);
        }
    }
    moved
}

fn table(
    hosts: &Spanned<Members<HostOrRule>>,
    scopes_max: usize,
    shared: &mut SharedOptions,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<RouteTable> {
    let mut built = Some(Vec::new());
    if hosts.is_empty() {
        diags
            .warning(
                "no-rules",
                hosts.span,
                at,
                "this route table is empty: every request gets 404",
            )
            .help("add a rule: `{ cluster: NAME }`");
    }
    for (place, host) in hosts.places() {
        let here = at.index(place);
        if host.rules.is_empty() {
            let message = "this virtual host has no rules: its requests get 404";
            diags
                .warning("no-rules", host.span, here.key("rules"), message)
                .help("add a rule: `rules: [{ cluster: NAME }]`");
        }
        match (virtual_host(host, shared, &here, diags), &mut built) {
            (Some(host), Some(all)) => all.push(host),
            _ => built = None,
        }
    }
    if !scopes::check(hosts, scopes_max, at, diags) {
        built = None;
    }
    let table = RouteTable { virtual_hosts: built? };
    redirects::check_routes(hosts, &table, at, diags);
    Some(table)
}

fn virtual_host(
    host: &Spanned<HostOrRule>,
    shared: &mut SharedOptions,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<VirtualHost> {
    let list = at.key("rules");
    let first = host.hosts.first().map_or_else(|| "*".to_owned(), |host| host.value.to_string());
    let mut rules = Some(Vec::new());
    let mut catches_all: Option<Span> = None;
    for (place, rule) in host.rules.places() {
        let here = list.index(place);
        if let Some(before) = catches_all {
            diags
                .warning("unreachable-rule", rule.span, here, "no request reaches this rule")
                .other(before, "this rule matches every request of the host")
                .help("move it before that rule");
            catches_all = None;
        }
        let name = rule.name.clone().unwrap_or_else(|| format!("{first}/{place}").into());
        match (self::rule(name, rule, shared, &here, diags), &mut rules) {
            (Some(built), Some(all)) => {
                if matches!(built.path, PathMatch::Any) && built.conditions.is_none() {
                    catches_all = Some(rule.span);
                }
                all.push(built);
            }
            _ => rules = None,
        }
    }
    let mut hosts: Vec<_> = host.hosts.iter().map(|host| host.value.clone()).collect();
    if hosts.is_empty() {
        hosts.push(HostPattern::Any);
    }
    let scope = match &host.scope {
        Some(scope) => Some(Box::new(scopes::scope(scope, &at.key("scope"), diags)?)),
        None => None,
    };
    Some(VirtualHost {
        hosts,
        require_tls: host.require_tls,
        scope,
        filters: overrides(&host.filters),
        rules: rules?,
    })
}

/// Filter settings by name; `skip` leaves a filter out.
fn overrides(section: &sections::Overrides) -> Vec<FilterOverride> {
    let settings = |node: &sluice_core::Node| (node.text() != Some("skip")).then(|| node.clone());
    let of = section.0.iter().map(|(name, node)| FilterOverride {
        filter: name.value.clone(),
        settings: settings(node),
    });
    of.collect()
}

/// Options of rules, most of which are the usual ones or those of the rule before.
#[derive(Default)]
struct SharedOptions {
    usual: Arc<RuleOptions>,
    last: Arc<RuleOptions>,
}

impl SharedOptions {
    fn share(&mut self, options: RuleOptions) -> Arc<RuleOptions> {
        if options == *self.usual {
            return Arc::clone(&self.usual);
        }
        if options != *self.last {
            self.last = Arc::new(options);
        }
        Arc::clone(&self.last)
    }
}

fn rule(
    name: Name,
    rule: &Spanned<sections::Rule>,
    shared: &mut SharedOptions,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Rule> {
    let options = options(rule, shared, at, diags);
    let action = action(rule, at, diags);
    let (path, conditions) = match &rule.matches {
        None => (Some(PathMatch::Any), None),
        Some(matches) => {
            (matching::path(matches, &at.key("match"), diags), matching::conditions(matches))
        }
    };
    let filters = overrides(&rule.filters);
    Some(Rule { name, path: path?, conditions, action: action?, options: options?, filters })
}

fn action(rule: &Spanned<sections::Rule>, at: &Path<'_>, diags: &mut Diags) -> Option<Action> {
    let given = [
        rule.cluster.is_some(),
        rule.cluster_header.is_some(),
        rule.cluster_from.is_some(),
        rule.split.is_some(),
        rule.redirect.is_some(),
        rule.respond.is_some(),
    ];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => {
            diags
                .error("missing-field", rule.span, at, "this rule has no action")
                .help("add `cluster: NAME`, or one of cluster_header, cluster_from, split, redirect, respond");
            return None;
        }
        _ => {
            let message = "this rule has more than one action";
            diags.error("short-and-long", rule.span, at, message).help(
                "keep one of cluster, cluster_header, cluster_from, split, redirect, respond",
            );
            return None;
        }
    }
    if let Some(cluster) = &rule.cluster {
        return Some(Action::Cluster(cluster.value.clone()));
    }
    if let Some(header) = &rule.cluster_header {
        return Some(Action::ByHeader(header.0.as_str().into()));
    }
    if let Some(expression) = &rule.cluster_from {
        return Some(Action::ByExpression(Box::new(expression.clone())));
    }
    if let Some(split) = &rule.split {
        let share = |(cluster, share): &(Spanned<Name>, sections::Share)| Share {
            cluster: cluster.value.clone(),
            weight: share.weight.value(),
            runtime: share.runtime.clone(),
            // Without metadata of its own, the rule's counts.
            endpoint: share.endpoint_metadata.as_ref().and_then(|_| {
                check::routes::of_share(rule.endpoint_metadata.as_ref().map(|of| &of.0), share)
            }),
        };
        return Some(Action::Split(split.0.iter().map(share).collect()));
    }
    if let Some(redirect) = &rule.redirect {
        return self::redirect(redirect, &at.key("redirect"), diags);
    }
    let respond = rule.respond.as_ref()?;
    if !(200..600).contains(&respond.status) {
        let here = at.key("respond");
        diags.error(
            "bad-value",
            respond.span,
            here.key("status"),
            "`status` must be from 200 to 599",
        );
        return None;
    }
    Some(Action::Direct(Box::new(Direct {
        status: respond.status,
        body: respond.body.clone(),
        content_type: respond.content_type.clone(),
    })))
}

fn redirect(
    redirect: &Spanned<sections::Redirect>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Action> {
    let sections::Redirect { status, scheme, host, port, path, replace_prefix, regex, strip_query } =
        &redirect.value;
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        let message = "the status of a redirect must be 301, 302, 303, 307 or 308";
        diags.error("bad-value", redirect.span, at.key("status"), message);
        return None;
    }
    let path = rewriting::path((path, replace_prefix, regex), redirect.span, at, diags)?;
    let to = Redirect {
        status: *status,
        scheme: scheme.as_ref().map(|scheme| scheme.0.clone()),
        host: host.as_ref().map(|host| host.0.clone()),
        port: *port,
        path,
        strip_query: *strip_query,
    };
    let keeps_target = to.scheme.is_none() && to.host.is_none() && to.port.is_none();
    if keeps_target && to.path.is_none() && !to.strip_query {
        diags
            .error("missing-field", redirect.span, at, "this redirect points back to itself")
            .help(
                "set what changes: scheme, host, port, path, replace_prefix, regex or strip_query",
            );
        return None;
    }
    Some(Action::Redirect(Box::new(to)))
}

fn options(
    rule: &Spanned<sections::Rule>,
    shared: &mut SharedOptions,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Arc<RuleOptions>> {
    // Fields are listed by name, here and below, so that a new one cannot be forgotten.
    let RouteTimeout {
        total,
        total_jitter,
        response,
        per_try,
        per_try_idle,
        idle,
        grpc_max,
        grpc_offset,
    } = &rule.timeout;
    if total.is_none_or(|total| total.0.is_none()) && total_jitter.0 > 0 {
        let message = "`total_jitter` has no effect without `total`";
        diags
            .warning("useless-setting", rule.span, at.key("timeout").key("total_jitter"), message)
            .help("set `total`, the time after which a request is ended");
    }
    for (key, value) in [("response", response.0), ("idle", idle.0)] {
        if value.is_none() {
            let here = at.key("timeout");
            diags
                    .warning("no-timeout", rule.span, here.key(key), format!("`{key}: none` waits forever"))
                    .help("a lost endpoint would hold the client and its own connection; set a long timeout instead");
        }
    }
    let rewrites = rewriting::rewrites(&rule.rewrite, rule.span, &at.key("rewrite"), diags)?;
    let mirrors = mirrors::mirrors(&rule.mirror, rule.span, &at.key("mirror"), diags)?;
    let follow = match &rule.follow_redirects {
        None => None,
        Some(follow) => {
            Some(Box::new(redirects::follow(follow, &at.key("follow_redirects"), diags)?))
        }
    };
    let options = RuleOptions {
        timeouts: Timeouts {
            total: *total,
            total_jitter_percent: total_jitter.0,
            // Only a client asks for it, with a header.
            stream: None,
            response: response.0,
            per_try: per_try.0,
            per_try_idle: per_try_idle.0,
            grpc_max: grpc_max.0,
            grpc_offset: grpc_offset.0,
            idle: idle.0,
        },
        retry: match &rule.retry {
            None => RetryPlan::default(),
            Some(retry) => retries::retry_plan(retry, &at.key("retry"), diags)?,
        },
        path: rewrites.path,
        host: rewrites.host,
        originals: rewrites.originals,
        class: match rule.priority {
            RulePriority::Default => BreakerClass::Default,
            RulePriority::High => BreakerClass::High,
        },
        hash: rule.hash.iter().map(|source| hash_by(&source.0)).collect(),
        endpoint: rule.endpoint_metadata.as_ref().map(|of| of.0.clone()),
        mirrors,
        follow,
        envoy_headers: rule.envoy_headers,
        attempt_in_request: rule.attempt_count.contains(&AttemptCount::Request),
        attempts_in_response: rule.attempt_count.contains(&AttemptCount::Response),
        upgrades: rule.upgrades.0.clone(),
        connect: rule.connect != ConnectMode::Refuse,
        ends_connect: rule.connect.terminates(),
        ends_post: rule.connect == ConnectMode::TerminatePost,
    };
    Some(shared.share(options))
}

fn hash_by(source: &HashSource) -> HashBy {
    let HashSource { by, ttl, path } = source;
    match by {
        HashKey::SourceIp => HashBy::SourceIp,
        HashKey::Header(name) => HashBy::Header(name.clone()),
        HashKey::Query(name) => HashBy::Query(name.clone()),
        HashKey::Cel(expression) => HashBy::Cel(expression.clone()),
        HashKey::Cookie(name) => {
            HashBy::Cookie { name: name.clone(), ttl: ttl.map(|ttl| ttl.0), path: path.clone() }
        }
    }
}

mod matching;
mod mirrors;
mod redirects;
mod retries;
mod rewriting;
mod scopes;
#[cfg(test)]
mod tests;
