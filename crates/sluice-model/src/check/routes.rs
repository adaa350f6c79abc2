//! Checks of routes that need more than one section.
//!
//! Owns: rules that can never take effect as written. Refuses to know: how rules are matched.

use std::collections::HashMap;

use sluice_core::{Diags, Name, Path, Setting, Span, Spanned};
use sluice_l7::routes::{EndpointMatch, RequestVersion};

use crate::sections::routes::forwarding::{ConnectMode, RulePriority};
use crate::sections::routes::{HashKey, Rewrite, RouteTimeout, Rule, Share, ShareWeight, Shares};
use crate::sections::{Config, HostOrRule, Http};

/// Checks every route table.
pub fn routes(config: &Config, diags: &mut Diags) {
    let at = Path::ROOT.key("routes");
    for (name, hosts) in config.routes.iter() {
        let at = at.key(name);
        let filters = filters_of(config, name);
        let mut names: HashMap<&Name, Span> = HashMap::new();
        for (place, host) in hosts.places() {
            let here = at.index(place);
            useless_skips(&host.filters, filters.as_deref(), &here, diags);
            let list = here.key("rules");
            for (place, rule) in host.rules.places() {
                let here = list.index(place);
                rule_name(rule, &mut names, &here, diags);
                useless_skips(&rule.filters, filters.as_deref(), &here, diags);
                useless_settings(rule, &here, diags);
                connection(rule, &here, diags);
                shares(rule, &here, diags);
                hedging(rule, &here, diags);
                hashes(config, rule, &here, diags);
                metadata(config, rule, &here, diags);
                ended_tunnels(config, rule, &here, diags);
            }
        }
    }
}

/// Checks that rule names are unique within their table, since access logs and metrics identify rules by name.
fn rule_name<'c>(
    rule: &'c Spanned<Rule>,
    names: &mut HashMap<&'c Name, Span>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Some(name) = &rule.name else { return };
    if let Some(first) = names.insert(name, rule.span) {
        let message = format!("the rule `{name}` is declared twice in these routes");
        diags
            .error("duplicate-name", rule.span, at.key("name"), message)
            .other(first, "the other one")
            .help("give each rule its own name; records and metrics identify rules by name");
    }
}

/// The HTTP filters of every chain that uses the routes; `None` if no chain does.
fn filters_of(config: &Config, routes: &Name) -> Option<Vec<String>> {
    let users = config.listeners.iter().flat_map(|listener| super::https_of(listener));
    let users: Vec<&Http> = users.filter(|http| http.routes.value == *routes).collect();
    let filters = users.iter().flat_map(|http| &http.filters).map(|of| of.name.value.clone());
    (!users.is_empty()).then(|| filters.collect())
}

fn useless_skips(
    settings: &crate::sections::routes::Overrides,
    filters: Option<&[String]>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Some(filters) = filters else { return };
    let at = at.key("filters");
    let skipped = settings.0.iter().filter(|(_, node)| node.text() == Some("skip"));
    for (name, _) in skipped.filter(|(name, _)| !filters.contains(&name.value)) {
        let message = format!("no chain that uses these routes has the filter `{}`", name.value);
        diags
            .warning("useless-skip", name.span, at.key(&name.value), message)
            .help("remove it, or add the filter to `http.filters` of the chain");
    }
}

/// Warns of settings that only affect requests to a cluster.
fn useless_settings(rule: &Spanned<Rule>, at: &Path<'_>, diags: &mut Diags) {
    let action = match (&rule.redirect, &rule.respond) {
        (Some(_), None) => "redirect",
        (None, Some(_)) => "respond",
        _ => return,
    };
    let said = [
        ("rewrite", Rewrite::absent().is_some_and(|usual| rule.rewrite != usual)),
        ("timeout", RouteTimeout::absent().is_some_and(|usual| rule.timeout != usual)),
        ("retry", rule.retry.is_some()),
        ("priority", rule.priority == RulePriority::High),
        ("hash", !rule.hash.is_empty()),
        ("endpoint_metadata", rule.endpoint_metadata.is_some()),
        ("mirror", !rule.mirror.is_empty()),
        ("follow_redirects", rule.follow_redirects.is_some()),
        ("envoy_headers", rule.envoy_headers),
        ("attempt_count", !rule.attempt_count.is_empty()),
        ("connect", rule.connect != ConnectMode::Refuse),
    ];
    for (key, _) in said.iter().filter(|(_, said)| *said) {
        let message = format!("`{key}` has no effect on a rule with `{action}`");
        diags
            .warning("useless-setting", rule.span, at.key(key), message)
            .help("it applies to requests that go to a cluster; remove it");
    }
}

/// Refuses tunnels that end here and would have to go on in TLS, which `tls` of a cluster begins for requests only.
fn ended_tunnels(config: &Config, rule: &Spanned<Rule>, at: &Path<'_>, diags: &mut Diags) {
    if !rule.connect.terminates() {
        return;
    }
    let split = rule.split.iter().flat_map(|split| split.0.iter().map(|(name, _)| name));
    for name in rule.cluster.iter().chain(split) {
        let Some(cluster) = config.clusters.get(&name.value) else { continue };
        if let Some(tls) = &cluster.tls {
            let message = format!(
                "the bytes of tunnels go to endpoints as they are, but the cluster `{}` has `tls`",
                name.value
            );
            diags
                .error("wrong-kind", rule.span, at.key("connect"), message)
                .other(tls.span, "this setting")
                .help("name a cluster without `tls`; clients speak TLS within the tunnel if they like");
        }
    }
}

/// Checks the shares of a split, and warns of a rule for 0% of requests.
fn shares(rule: &Spanned<Rule>, at: &Path<'_>, diags: &mut Diags) {
    if let Some(split) = &rule.split {
        split_shares(split, &at.key("split"), diags);
    }
    let never = rule.matches.as_ref().and_then(|of| of.runtime.as_ref());
    if never.is_some_and(|share| share.key.is_none() && share.percent.0 == 0) {
        let matches = at.key("match");
        diags
            .warning(
                "unreachable-rule",
                rule.span,
                matches.key("runtime"),
                "`percent: 0%` matches no request",
            )
            .help("add `key: NAME` for a runtime value that changes it, or remove the rule");
    }
}

/// Warns of a rule whose conditions on the connection exclude each other.
fn connection(rule: &Spanned<Rule>, at: &Path<'_>, diags: &mut Diags) {
    let Some(of) = rule.matches.as_ref().filter(|of| of.tls == Some(false)) else { return };
    let needs_tls = [
        ("sni", !of.sni.is_empty()),
        ("client_certificate", of.client_certificate.as_deref().is_some_and(|of| of != "false")),
        (
            "version",
            !of.version.is_empty() && of.version.iter().all(|v| *v == RequestVersion::Http3),
        ),
    ];
    if let Some((key, _)) = needs_tls.iter().find(|(_, needs)| *needs) {
        let matches = at.key("match");
        let message = format!("`tls: false` excludes every request that `{key}` matches");
        diags
            .warning("unreachable-rule", rule.span, matches.key(key), message)
            .help("remove one of them");
    }
}

/// Checks that shares in percent add up to 100%, and that weights are not all 0.
pub(crate) fn split_shares(split: &Spanned<Shares>, at: &Path<'_>, diags: &mut Diags) {
    let percent = |share: &Share| matches!(share.weight, ShareWeight::Percent(_));
    let (in_percent, weights): (Vec<_>, Vec<_>) =
        split.0.iter().partition(|(_, share)| percent(share));
    let sum: u64 = in_percent.iter().map(|(_, share)| share.weight.value()).sum();
    let zero = |share: &Share| share.weight.value() == 0 && share.runtime.is_none();
    if let (Some(_), Some((name, _))) = (in_percent.first(), weights.first()) {
        let message = "shares in percent and weights cannot be mixed";
        diags
            .error("short-and-long", name.span, at.key(&name.value), message)
            .help("write all shares in percent, or none");
    } else if !in_percent.is_empty() && sum != 100 {
        let message = format!("the shares add up to {sum}%, not 100%");
        diags.error("bad-value", split.span, at, message).help(
            "change them, or write weights without percent signs, which need not add up to 100",
        );
    } else if split.0.iter().all(|(_, share)| zero(share)) {
        diags
            .error("bad-value", split.span, at, "all weights are 0")
            .help("give the clusters weights such as 95 and 5; they need not add up to 100");
    }
}

/// Checks that an attempt can be late, and followed by another.
fn hedging(rule: &Spanned<Rule>, at: &Path<'_>, diags: &mut Diags) {
    let Some(retry) = rule.retry.as_ref().filter(|retry| retry.hedge) else { return };
    let at = at.key("retry");
    if retry.attempts.get() == 1 && !rule.envoy_headers {
        diags
            .error("wrong-kind", retry.span, at.key("hedge"), "`hedge` needs a second attempt")
            .help("set `attempts: 2`, or remove `hedge`");
    }
    if rule.timeout.per_try.0.is_none() && !rule.envoy_headers {
        let message = "`hedge` needs `timeout.per_try`, after which an attempt is late";
        diags
            .error("wrong-kind", retry.span, at.key("hedge"), message)
            .help("add `timeout: { per_try: 500ms }` to the rule, or remove `hedge`");
    }
}

fn hashes(config: &Config, rule: &Spanned<Rule>, at: &Path<'_>, diags: &mut Diags) {
    let split = rule.split.iter().flat_map(|split| split.0.iter().map(|(name, _)| name));
    for source in rule.hash.iter().map(|source| &source.0) {
        let cookie = matches!(source.by, HashKey::Cookie(_));
        if !cookie && (source.ttl.is_some() || source.path.is_some()) {
            diags
                .warning(
                    "useless-setting",
                    rule.span,
                    at.key("hash"),
                    "`ttl` and `path` apply to `cookie:NAME` only",
                )
                .help("remove them");
        }
    }
    let hash = !rule.hash.is_empty();
    if let Some(cluster) = &rule.cluster {
        super::hash_fits(config, cluster, hash, rule.span, at, diags);
    }
    // A hash is of use to a split in any case: it decides between the clusters.
    for cluster in split.filter(|_| !hash) {
        super::hash_fits(config, cluster, false, rule.span, at, diags);
    }
}

/// Checks that the clusters of a rule have the subsets that it asks for.
fn metadata(config: &Config, rule: &Spanned<Rule>, at: &Path<'_>, diags: &mut Diags) {
    let of_rule = rule.endpoint_metadata.as_ref().map(|of| &of.0);
    let span = rule.endpoint_metadata.as_ref().map_or(rule.span, |of| of.span);
    if let Some(cluster) = &rule.cluster {
        super::subsets::asked(config, cluster, of_rule, span, at, diags);
    }
    let split = at.key("split");
    for (name, share) in rule.split.iter().flat_map(|split| &split.0) {
        let at = split.key(&name.value);
        let span = share.endpoint_metadata.as_ref().map_or(span, |of| of.span);
        let asked = of_share(of_rule, share);
        super::subsets::asked(config, name, asked.as_ref(), span, &at, diags);
    }
    let list = at.key("mirror");
    for (place, mirror) in rule.mirror.iter().enumerate() {
        let Some(cluster) = &mirror.cluster else { continue };
        super::subsets::copies(config, cluster, rule.span, &list.index(place), diags);
    }
}

/// The metadata that the share of a split asks for: its own, and the rest of that of the rule or relay.
pub(crate) fn of_share(outer: Option<&EndpointMatch>, share: &Share) -> Option<EndpointMatch> {
    let own = share.endpoint_metadata.as_ref().map(|of| EndpointMatch::fixed(of.0.clone()));
    match (outer, own) {
        (outer, None) => outer.cloned(),
        (None, own) => own,
        (Some(outer), Some(own)) => Some(outer.with(&own)),
    }
}

/// Whether the requests of a rule may name any cluster.
pub(super) fn names_clusters(rule: &Rule) -> bool {
    rule.cluster_header.is_some()
        || rule.cluster_from.is_some()
        || rule.mirror.iter().any(|mirror| mirror.cluster.is_none())
}

/// Whether a rule forwards requests without rewriting them.
pub(super) fn keeps_requests(rule: &Rule) -> bool {
    Rewrite::absent().is_some_and(|usual| rule.rewrite == usual)
}

/// The clusters that the rules of virtual hosts route to or send copies to, each with its rule.
pub(crate) fn led_to<'c>(
    hosts: impl Iterator<Item = &'c Spanned<HostOrRule>>,
) -> impl Iterator<Item = (&'c Spanned<Name>, &'c Rule)> {
    hosts.flat_map(|host| host.rules.iter()).flat_map(|rule| {
        let split = rule.split.iter().flat_map(|split| split.0.iter().map(|(name, _)| name));
        let mirrors = rule.mirror.iter().filter_map(|mirror| mirror.cluster.as_ref());
        rule.cluster.iter().chain(split).chain(mirrors).map(move |name| (name, &rule.value))
    })
}
