//! Builds route tables from sections.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sluice_core::settings::{Members, suggest_word};
use sluice_core::value::HostPattern;
use sluice_core::{Diags, Name, Node, Path, Span, Spanned};
use sluice_l4::filters::{FilterFactory, FilterOwner};
use sluice_l7::filters::HttpFilterPlan;
use sluice_l7::routes::{
    Action, ClientCertificate, Conditions, Direct, HashBy, HostRewrite, Override, OverrideSet,
    Overrides, PathMatch, PathRewrite, RetryPlan, RetryWhen, Rule, RuleOptions, RuntimeShare,
    Share, Timeouts, VirtualHost, regexes,
};
use sluice_l7::{RouteCell, RouteTable, routes};
use sluice_upstream::Cluster;

use super::Build;
use super::clusters::ClusterMap;
use crate::sections::routes::{
    self as sections, HashKey, HashSource, RegexRewrite, RetryOn, Rewrite, RouteMatch, RouteTimeout,
};
use crate::sections::{Config, HostOrRule};

/// The cell and the new table of each name.
pub(super) type RouteMap = BTreeMap<Name, (Arc<RouteCell>, Arc<RouteTable>)>;

impl Build<'_> {
    pub(super) fn routes(
        &mut self,
        config: &Config,
        clusters: &ClusterMap,
        diags: &mut Diags,
    ) -> RouteMap {
        let at = Path::ROOT.key("routes");
        let mut all = RouteMap::new();
        for (name, section) in config.routes.iter() {
            let at = at.key(name);
            let mut table = TableBuilder {
                build: self,
                name,
                config,
                clusters,
                chosen: Vec::new(),
                places: HashMap::new(),
                overrides: vec![OverrideSet { owner: "".into(), said: Overrides::new() }],
                usual: Arc::default(),
            };
            if let Some(built) = table.build(section, &at, diags) {
                let built = Arc::new(built);
                let cell = (self.input.routes)(name, &built);
                all.insert(Arc::clone(name), (cell, built));
            }
        }
        all
    }
}

/// A route table being built.
struct TableBuilder<'a, 'b> {
    build: &'a Build<'b>,
    /// The name of the table.
    name: &'a Name,
    config: &'a Config,
    clusters: &'a ClusterMap,
    /// Clusters named by rules, in the order in which they were first named.
    chosen: Vec<Arc<Cluster>>,
    /// The index in `chosen` of each cluster in it.
    places: HashMap<Name, u32>,
    overrides: Vec<OverrideSet>,
    /// The options of rules that set none.
    usual: Arc<RuleOptions>,
}

impl TableBuilder<'_, '_> {
    fn build(
        &mut self,
        hosts: &Spanned<Members<HostOrRule>>,
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
            match (self.virtual_host(host, &here, diags), &mut built) {
                (Some(host), Some(all)) => all.push(host),
                _ => built = None,
            }
        }
        let by_name =
            self.clusters.iter().map(|(name, (_, cluster))| (name.clone(), Arc::clone(cluster)));
        let (chosen, overrides) =
            (std::mem::take(&mut self.chosen), std::mem::take(&mut self.overrides));
        match RouteTable::build(built?, chosen, by_name.collect(), overrides) {
            Ok(table) => Some(table),
            Err(twice) => {
                for (host, first, second) in twice {
                    let span = |place: usize| {
                        let section = hosts.iter().nth(place);
                        // The last of them in the second virtual host, for it may be the first as well.
                        let named = |section: &&Spanned<HostOrRule>| {
                            let mut own = section.hosts.iter().filter(|of| of.value == host);
                            let own = if place == second { own.next_back() } else { own.next() };
                            Some(own.map_or(section.span, |of| of.span))
                        };
                        section.as_ref().and_then(named)
                    };
                    let list = at.index(second);
                    let message = format!("the host `{host}` is declared twice");
                    let finding =
                        diags.error("duplicate-name", span(second), list.key("hosts"), message);
                    if let Some(other) = span(first) {
                        finding.other(other, "the other one");
                    }
                }
                None
            }
        }
    }

    fn virtual_host(
        &mut self,
        host: &Spanned<HostOrRule>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<VirtualHost> {
        let list = at.key("rules");
        let first =
            host.hosts.first().map_or_else(|| "*".to_owned(), |host| host.value.to_string());
        let of_host = self.said_of_filters(&host.filters, &at.key("filters"), diags);
        let mut rules = of_host.as_ref().map(|_| Vec::new());
        let said = of_host.unwrap_or_default();
        // No rule has this name: rules without a name are named after their index.
        let owner = format!("{first}/*").into();
        let of_host = Outer { number: self.number(owner, said.clone())?, said };
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
            match (self.rule(name, rule, &of_host, &here, diags), &mut rules) {
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
        Some(VirtualHost::new(hosts, rules?))
    }

    fn rule(
        &mut self,
        name: Name,
        rule: &Spanned<sections::Rule>,
        of_host: &Outer,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Rule> {
        let options = self.options(rule, at, diags);
        let overrides = self.rule_filters(&name, &rule.filters, of_host, &at.key("filters"), diags);
        let action = self.action(rule, at, diags);
        let (path, conditions) = match &rule.matches {
            None => (PathMatch::Any, None),
            Some(matches) => (
                matches.path.as_ref().map_or(PathMatch::Any, |path| path.0.clone()),
                conditions(matches),
            ),
        };
        Some(Rule {
            name,
            path,
            conditions,
            action: action?,
            options: options?,
            overrides: overrides?,
        })
    }

    fn action(
        &mut self,
        rule: &Spanned<sections::Rule>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Action> {
        let given = [
            rule.cluster.is_some(),
            rule.cluster_header.is_some(),
            rule.split.is_some(),
            rule.redirect.is_some(),
            rule.respond.is_some(),
        ];
        match given.iter().filter(|given| **given).count() {
            1 => {}
            0 => {
                diags.error("missing-field", rule.span, at, "this rule has no action").help(
                    "add `cluster: NAME`, or one of cluster_header, split, redirect, respond",
                );
                return None;
            }
            _ => {
                let message = "this rule has more than one action";
                diags
                    .error("short-and-long", rule.span, at, message)
                    .help("keep one of cluster, cluster_header, split, redirect, respond");
                return None;
            }
        }
        if let Some(cluster) = &rule.cluster {
            return self.cluster(cluster, &at.key("cluster"), diags).map(Action::Cluster);
        }
        if let Some(header) = &rule.cluster_header {
            return Some(Action::ByHeader(header.0.as_str().into()));
        }
        if let Some(split) = &rule.split {
            let here = at.key("split");
            let mut shares = Some(Vec::new());
            for (name, share) in &split.0 {
                match (self.cluster(name, &here.key(&name.value), diags), &mut shares) {
                    (Some(cluster), Some(all)) => all.push(Share {
                        cluster,
                        weight: share.weight,
                        runtime: share.runtime.clone(),
                    }),
                    _ => shares = None,
                }
            }
            return shares.map(|shares| Action::Split(Box::new(shares)));
        }
        if let Some(redirect) = &rule.redirect {
            return self.redirect(redirect, &at.key("redirect"), diags);
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
            body: respond.body.0.clone(),
            content_type: respond.content_type.clone(),
        })))
    }

    fn redirect(
        &self,
        redirect: &Spanned<sections::Redirect>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Action> {
        let sections::Redirect {
            status,
            scheme,
            host,
            port,
            path,
            replace_prefix,
            regex,
            strip_query,
        } = &redirect.value;
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let message = "the status of a redirect must be 301, 302, 303, 307 or 308";
            diags.error("bad-value", redirect.span, at.key("status"), message);
            return None;
        }
        let path = path_rewrite((path, replace_prefix, regex), redirect.span, at, diags)?;
        let to = routes::Redirect {
            status: *status,
            scheme: scheme.map(|scheme| scheme.word().to_owned()),
            host: host.as_ref().map(|host| host.0.clone()),
            port: *port,
            path,
            strip_query: *strip_query,
        };
        let keeps_target = to.scheme.is_none() && to.host.is_none() && to.port.is_none();
        if keeps_target && to.path.is_none() && !to.strip_query {
            diags
                .error("missing-field", redirect.span, at, "this redirect points back to itself")
                .help("set what changes: scheme, host, port, path, replace_prefix, regex or strip_query");
            return None;
        }
        Some(Action::Redirect(Box::new(to)))
    }

    /// The index of a cluster in this table.
    fn cluster(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> Option<u32> {
        let Some((_, cluster)) = self.clusters.get(&name.value) else {
            unknown_cluster(self.config, name, at, diags);
            return None;
        };
        if let Some(known) = self.places.get(&name.value) {
            return Some(*known);
        }
        let place = u32::try_from(self.chosen.len()).ok()?;
        self.chosen.push(Arc::clone(cluster));
        self.places.insert(Arc::clone(&name.value), place);
        Some(place)
    }

    fn options(
        &self,
        rule: &Spanned<sections::Rule>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<RuleOptions>> {
        // Fields are listed by name, here and below, so that a new one cannot be forgotten.
        let RouteTimeout { total, response, per_try, idle } = &rule.timeout;
        for (key, value) in [("response", response.0), ("idle", idle.0)] {
            if value.is_none() {
                let here = at.key("timeout");
                diags
                    .warning("no-timeout", rule.span, here.key(key), format!("`{key}: none` waits forever"))
                    .help("a lost endpoint would hold the client and its own connection; set a long timeout instead");
            }
        }
        let Rewrite { path, replace_prefix, regex, host, host_header, host_of_endpoint } =
            &rule.rewrite;
        let here = at.key("rewrite");
        let path = path_rewrite((path, replace_prefix, regex), rule.span, &here, diags)?;
        let host = match (host, host_header, *host_of_endpoint) {
            (None, None, false) => HostRewrite::Keep,
            (Some(host), None, false) => HostRewrite::Literal(host.0.clone()),
            (None, Some(header), false) => HostRewrite::Header(header.0.clone()),
            (None, None, true) => HostRewrite::Endpoint,
            _ => {
                let message = "the host is rewritten in more than one way";
                diags
                    .error("short-and-long", rule.span, here.key("host"), message)
                    .help("keep one of host, host_header, host_of_endpoint");
                return None;
            }
        };
        let options = RuleOptions {
            timeouts: Timeouts {
                total: total.0,
                response: response.0,
                per_try: per_try.0,
                idle: idle.0,
            },
            retry: match &rule.retry {
                None => RetryPlan::default(),
                Some(retry) => retry_plan(retry),
            },
            path,
            host,
            hash: rule.hash.iter().map(|source| hash_by(&source.0)).collect(),
            upgrades: rule.upgrades.0.clone(),
            connect: rule.connect,
        };
        let usual = &self.usual;
        Some(if options == **usual { Arc::clone(usual) } else { Arc::new(options) })
    }

    /// The index of the filter settings of a rule, combined with those of its virtual host.
    fn rule_filters(
        &mut self,
        rule: &Name,
        section: &sections::Overrides,
        of_host: &Outer,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<u32> {
        if section.0.is_empty() {
            return Some(of_host.number);
        }
        let own = self.said_of_filters(section, at, diags)?;
        let mut all = of_host.said.clone();
        for (name, said) in own {
            match all.iter_mut().find(|(of, _)| *of == name) {
                Some((_, outer)) => *outer = said.within(outer),
                None => all.push((name, said)),
            }
        }
        self.number(Arc::clone(rule), all)
    }

    /// Stores a set of filter settings and returns its index; 0 is the empty set.
    fn number(&mut self, owner: Name, said: Overrides) -> Option<u32> {
        if said.is_empty() {
            return Some(0);
        }
        self.overrides.push(OverrideSet { owner, said });
        u32::try_from(self.overrides.len() - 1).ok()
    }

    fn checked(
        &self,
        factory: &dyn FilterFactory<dyn HttpFilterPlan>,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let (owner, names) = (FilterOwner::Routes(self.name), (self.config, self.clusters));
        self.build.checked(factory, settings, owner, names, at, diags)
    }

    fn said_of_filters(
        &self,
        section: &sections::Overrides,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Overrides> {
        let mut set = Some(Overrides::new());
        for (name, settings) in &section.0 {
            let here = at.key(&name.value);
            let Some(factory) = self.build.input.http_filters.get(&name.value) else {
                unknown_filter(self.build, name, &here, diags);
                set = None;
                continue;
            };
            let said = match settings.text() {
                Some("skip") => Some(Override::Skip),
                _ => self.checked(&**factory, settings, &here, diags).map(|plan| {
                    match plan.says_replace() {
                        true => Override::Instead(plan),
                        false => Override::Over(plan),
                    }
                }),
            };
            match (said, &mut set) {
                (Some(said), Some(all)) => all.push((factory.name(), said)),
                _ => set = None,
            }
        }
        set
    }
}

/// The filter settings of a virtual host, with their index in the table.
struct Outer {
    number: u32,
    said: Overrides,
}

/// A remedy that ends with the names there are.
pub(super) fn known(remedy: &str, names: &[&str]) -> String {
    if names.is_empty() {
        format!("{remedy}: none yet")
    } else {
        format!("{remedy}: {}", names.join(", "))
    }
}

/// The filters of a chain that serves HTTP.
pub(super) fn http_filters(
    build: &Build<'_>,
    uses: &[crate::sections::FilterUse],
    owner: FilterOwner<'_>,
    names: (&Config, &ClusterMap),
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Vec<(&'static str, Arc<dyn HttpFilterPlan>)>> {
    let mut plans: Option<Vec<(&'static str, Arc<dyn HttpFilterPlan>)>> = Some(Vec::new());
    for (index, filter) in uses.iter().enumerate() {
        let at = at.index(index);
        let here = at.key(&filter.name);
        let Some(factory) = build.input.http_filters.get(&filter.name) else {
            unknown_filter(build, &filter.name, &here, diags);
            plans = None;
            continue;
        };
        if plans.as_ref().is_some_and(|all| all.iter().any(|(name, _)| *name == factory.name())) {
            let message = format!("the filter `{}` is listed twice", factory.name());
            diags.error("duplicate-name", filter.name.span, here, message).help(
                "list each filter once; rules refer to filters by name to change their settings",
            );
            plans = None;
            continue;
        }
        let plan = build.checked(&**factory, &filter.settings, owner, names, &here, diags);
        if plan.as_ref().is_some_and(|plan| plan.says_replace()) {
            diags
                .error(
                    "wrong-kind",
                    filter.name.span,
                    here.key("replace"),
                    "`replace` has nothing to replace in the settings of a chain",
                )
                .help("use `replace: true` only in the `filters` of a rule or virtual host");
            plans = None;
            continue;
        }
        match (plan, &mut plans) {
            (Some(plan), Some(all)) => {
                if let Some((guard, _)) = all.iter().find(|(_, before)| before.is_guard())
                    && plan.edits_target()
                {
                    let message = format!(
                        "`{}` may change what a request asks for after `{guard}` has judged it",
                        factory.name()
                    );
                    diags
                        .warning("edit-after-guard", filter.name.span, here, message)
                        .help(format!("move it before `{guard}`"));
                }
                let keys = plan.runtime_keys().into_iter().map(str::to_owned);
                build.runtime_keys.borrow_mut().extend(keys);
                all.push((factory.name(), plan));
            }
            _ => plans = None,
        }
    }
    plans
}

fn unknown_filter(build: &Build<'_>, name: &Spanned<String>, at: &Path<'_>, diags: &mut Diags) {
    let names: Vec<&str> = build.input.http_filters.iter().map(|f| f.name()).collect();
    let help = suggest_word(&name.value, &names)
        .unwrap_or_else(|| format!("known HTTP filters: {}", names.join(", ")));
    let message = format!("there is no HTTP filter `{}`", name.value);
    diags.error("unknown-name", name.span, at, message).help(help);
}

/// Reports a cluster that does not exist; one that exists and is wrong has its own errors.
pub(super) fn unknown_cluster(
    config: &Config,
    name: &Spanned<Name>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let names: Vec<&str> = config.clusters.names().map(|name| &**name).collect();
    if names.contains(&&*name.value) {
        return;
    }
    let help = suggest_word(&name.value, &names)
        .unwrap_or_else(|| known("add it under `clusters`; known clusters", &names));
    let message = format!("there is no cluster `{}`", name.value);
    diags.error("unknown-name", name.span, at, message).help(help);
}

type Ways<'a> = (&'a Option<String>, &'a Option<String>, &'a Option<RegexRewrite>);

fn path_rewrite(
    ways: Ways<'_>,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Option<PathRewrite>> {
    match ways {
        (None, None, None) => Some(None),
        (Some(path), None, None) if path.starts_with('/') => {
            Some(Some(PathRewrite::Whole(path.clone())))
        }
        (Some(path), None, None) => {
            let message = format!("expected a path that begins with `/`, not `{path}`");
            diags.error("bad-value", span, at.key("path"), message);
            None
        }
        (None, Some(prefix), None) => Some(Some(PathRewrite::Prefix(prefix.clone()))),
        (None, None, Some(rewrite)) => match regexes::anywhere(&rewrite.find) {
            Ok(regex) => Some(Some(PathRewrite::Regex(Box::new((regex, rewrite.replace.clone()))))),
            Err(message) => {
                diags.error("bad-value", span, at.key("regex"), message);
                None
            }
        },
        _ => {
            diags
                .error(
                    "short-and-long",
                    span,
                    at.key("path"),
                    "the path is rewritten in more than one way",
                )
                .help("keep one of path, replace_prefix, regex");
            None
        }
    }
}

fn retry_plan(retry: &Spanned<sections::Retry>) -> RetryPlan {
    let sections::Retry { when: words, statuses, attempts, backoff, backoff_max, body } =
        &retry.value;
    let mut when = RetryWhen::default();
    for word in words {
        match word {
            RetryOn::ServerError => when.server_error = true,
            RetryOn::GatewayError => when.gateway_error = true,
            RetryOn::Reset => when.reset = true,
            RetryOn::TryTimeout => when.per_try_timeout = true,
            RetryOn::Conflict => when.conflict = true,
            // Both are retried regardless of the rule.
            RetryOn::ConnectFailure | RetryOn::RefusedStream => {}
            RetryOn::Cancelled => when.grpc |= 1 << 1,
            RetryOn::DeadlineExceeded => when.grpc |= 1 << 4,
            RetryOn::ResourceExhausted => when.grpc |= 1 << 8,
            RetryOn::Internal => when.grpc |= 1 << 13,
            RetryOn::Unavailable => when.grpc |= 1 << 14,
        }
    }
    RetryPlan {
        attempts: attempts.get(),
        when,
        statuses: statuses.iter().map(|status| status.0).collect(),
        backoff: backoff.0,
        backoff_max: backoff_max.0,
        body_max: usize::try_from(body.0).unwrap_or(usize::MAX),
    }
}

fn hash_by(source: &HashSource) -> HashBy {
    let HashSource { by, ttl, path } = source;
    match by {
        HashKey::SourceIp => HashBy::SourceIp,
        HashKey::Header(name) => HashBy::Header(name.clone()),
        HashKey::Query(name) => HashBy::Query(name.clone()),
        HashKey::Cookie(name) => {
            HashBy::Cookie { name: name.clone(), ttl: ttl.map(|ttl| ttl.0), path: path.clone() }
        }
    }
}

/// The conditions of a match apart from its path. Fields are listed by name so that a new one cannot be forgotten.
fn conditions(of: &RouteMatch) -> Option<Box<Conditions>> {
    let RouteMatch {
        path: _,
        method,
        headers,
        content_type,
        query,
        cookies,
        client_certificate,
        source,
        grpc,
        runtime,
    } = of;
    let conditions = Conditions {
        methods: method.iter().map(|method| method.0.clone()).collect(),
        headers: headers.0.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone())).collect(),
        content_types: content_type.clone(),
        query: query.0.clone(),
        cookies: cookies.0.clone(),
        client_certificate: client_certificate.as_deref().map(|text| match text {
            "true" => ClientCertificate::Present(true),
            "false" => ClientCertificate::Present(false),
            subject => ClientCertificate::Subject(subject.to_owned()),
        }),
        sources: source.clone(),
        grpc: grpc.as_ref().map(|grpc| grpc.0.clone()),
        runtime: runtime
            .as_ref()
            .map(|share| RuntimeShare { key: share.key.clone(), percent: share.percent.0.into() }),
    };
    (!conditions.is_empty()).then(|| Box::new(conditions))
}

#[cfg(test)]
mod tests;
