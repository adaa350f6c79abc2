//! Routes on the admin pages: the tables, and how a request would be routed.
//!
//! Owns: the questions and answers. Refuses to know: how requests are served; it queries the same
//! tables. Keeps: an answer names every rule before the matching one, and why it does
//! not match.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_admin::Question;
use sluice_codec::{Head, Version};
use sluice_config::{Sources, explain, redact};
use sluice_core::connection::{ClientCertFacts, Peer, TlsFacts};
use sluice_core::{ConnInfo, Facts, ListenAddress, Moment, Name, SharedValues};
use sluice_l4::inspect::tls::{SNI, TLS};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_l7::Runtime;
use sluice_l7::filters::{FilterRuling, HttpFilterPlan, TriedRequest};
use sluice_l7::identity::{Identity, Means, WHO};
use sluice_l7::routes::{
    Action, EndpointMatch, Override, RetryAvoid, RetryRule, RouteInput, RouteTable, Rule,
};
use sluice_model::model::Listener;
use sluice_model::model::listener::Service;
use sluice_model::sections::routes::endpoint_metadata::SubsetSources;
use sluice_model::store::Store;
use sluice_model::translate::routes::written;
use sluice_upstream::Cluster;

use super::clusters;

/// Every table: hosts and rules in order, each with its conditions as configured.
pub(super) fn list(store: &Store, sources: &Sources) -> Vec<Value> {
    let item = |(name, _, table): (&Name, _, &Arc<RouteTable>)| {
        let hosts = table.virtual_hosts.iter().map(|host| {
            let rules: Vec<Value> =
                host.rules.iter().map(|rule| of_rule(rule, table, sources)).collect();
            let hosts: Vec<String> = host.hosts.iter().map(ToString::to_string).collect();
            let mut item = json!({ "hosts": hosts, "rules": rules });
            if let Some(require) = host.require_tls {
                item["require_tls"] = require.word().into();
            }
            if let Some(scope) = &host.scope {
                let key = scope.key.iter().map(|part| &*part.header).collect::<Vec<_>>();
                let values = scope.values.iter().map(|value| value.iter().map(|part| &**part));
                let values = values.map(Iterator::collect::<Vec<_>>).collect::<Vec<_>>();
                item["scope"] = json!({ "headers": key, "values": values });
            }
            item
        });
        json!({ "name": &**name, "virtual_hosts": hosts.collect::<Vec<_>>() })
    };
    store.routes().map(item).collect()
}

fn of_rule(rule: &Rule, table: &RouteTable, sources: &Sources) -> Value {
    let conditions = rule.conditions.as_deref();
    let conditions = conditions.map_or_else(|| json!({}), |of| explain::json(&written(of)));
    let mut item = json!({
        "name": &*rule.name,
        "path": rule.path.to_string(),
        "conditions": conditions,
    });
    for key in ["path", "conditions"] {
        redact::placeholders(&mut item[key], sources);
    }
    let (key, value) = action(&rule.action, table);
    item[key] = value;
    if let Some(of) = &rule.options.endpoint {
        item["endpoint_metadata"] = asked(of);
    }
    item
}

/// The metadata that an endpoint must have, as configured.
fn asked(of: &EndpointMatch) -> Value {
    explain::json(&SubsetSources(of.clone()))
}

fn action(action: &Action, table: &RouteTable) -> (&'static str, Value) {
    let name = |cluster: u32| table.clusters[cluster as usize].name.to_string();
    match action {
        Action::Cluster(cluster) => ("cluster", name(*cluster).into()),
        Action::Split(shares) => {
            let shares = shares.iter().map(|share| {
                let weight = Value::from(share.weight);
                let shown = match &share.endpoint {
                    None => weight,
                    Some(of) => json!({ "weight": weight, "endpoint_metadata": asked(of) }),
                };
                (name(share.cluster), shown)
            });
            ("split", Value::Object(shares.collect()))
        }
        Action::ByHeader(header) => ("cluster_header", (&**header).into()),
        Action::ByExpression(expression) => ("cluster_from", expression.source().into()),
        Action::Redirect(redirect) => ("redirect", redirect.status.into()),
        Action::Direct(direct) => ("respond", direct.status.into()),
    }
}

/// What an answer is based on.
pub(super) struct RouteTrial<'a> {
    pub(super) store: &'a Store,
    pub(super) runtime: &'a Runtime,
    pub(super) wall: Duration,
    /// The limit `side_call_reserve_percent`.
    pub(super) reserve_percent: u64,
}

impl RouteTrial<'_> {
    /// How a request would be routed, for each chain that serves HTTP.
    pub(super) fn answer(&self, question: &Question) -> Result<Vec<Value>, String> {
        let head = head_of(question)?;
        let who = question.identity.as_deref().map(str::parse::<Identity>).transpose()?;
        let (who, certificate) = match who {
            Some(who) if who.means == Means::Certificate => (None, Some(who.name)),
            who => (who, None),
        };
        let certificate = certificate_of(question, certificate)?;
        let tls = tls_of(question, certificate.is_some())?;
        let mut values = SharedValues::default();
        for value in &question.values {
            let (name, text) = pair("value", value)?;
            values.set_named(name, text)?;
        }
        if let Some(who) = who {
            values.set(&WHO, Arc::new(who));
        }
        let peer = peer_of(question)?;
        let mut items = Vec::new();
        for (name, listener) in self.store.listeners() {
            if question.listener.as_deref().is_some_and(|asked| asked != &**name) {
                continue;
            }
            for (chain, terminates, service) in listener.services() {
                let server_name = question.sni.as_deref().map(str::to_ascii_lowercase);
                if server_name.is_some_and(|name| !listener.can_get(&chain, &name)) {
                    continue;
                }
                let Service::Http(http) = service else {
                    // Who names a server wants to know where it leads.
                    if question.sni.is_some() {
                        let result = "the chain relays the connection; no rule applies";
                        let (listener, chain) = (&**name, &*chain);
                        items.push(
                            json!({ "listener": listener, "chain": chain, "result": result }),
                        );
                    }
                    continue;
                };
                if let Some((_, table)) = self.store.routes_named(&http.routes) {
                    let mut item = json!({
                        "listener": &**name,
                        "chain": chain,
                        "routes": &*http.routes,
                    });
                    let tls = tls.unwrap_or(terminates);
                    let mut conn =
                        ConnInfo::new(0, Arc::clone(name), peer, local(listener), Moment::NEVER);
                    if tls {
                        encrypt(&mut conn, question, certificate.as_ref());
                    }
                    let mut head = head.clone();
                    let address = peer.ip().map_or_else(String::new, |ip| ip.to_string());
                    let source = http.options.edge.apply(&mut head, peer, &address, tls);
                    item["source"] = source.ip().map(|ip| ip.to_string()).into();
                    item["scheme"] = head.scheme().into();
                    let subject = RouteInput {
                        head: &head,
                        source,
                        conn: Some(&conn),
                        values: Some(&values),
                        runtime: self.runtime,
                        random: 0,
                    };
                    let of_chain = self.store.http_filters(name, &chain);
                    let conn = ConnSubject { source, ..ConnSubject::of(&conn) };
                    let tried = TriedRequest { conn, head: &head, values: &values };
                    let overrides = self.judge(&mut item, table, &subject);
                    filters(&mut item, table.said_of_filters(overrides), of_chain, &tried);
                    items.push(item);
                }
            }
        }
        if items.is_empty() {
            return Err(
                "no chain serves HTTP or takes this server name, or the listener does not exist; see /listeners".into()
            );
        }
        Ok(items)
    }

    /// Says which rule takes the request. Returns the set of filter settings that it has.
    fn judge(&self, item: &mut Value, table: &RouteTable, subject: &RouteInput<'_>) -> u32 {
        let Some(place) = table.host(subject.head) else {
            item["result"] = "no virtual host matches this host: 404".into();
            return 0;
        };
        let host = &table.virtual_hosts[place];
        item["hosts"] = host.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().into();
        if host.refuses_cleartext(subject) {
            item["result"] = "the virtual host requires TLS: 301 to https".into();
            return 0;
        }
        let mut passed_over = Vec::new();
        let mut overrides = 0;
        let found = host.rules.iter().find(|rule| match rule.why_not(subject) {
            None => true,
            Some(why) => {
                passed_over.push(json!({ "rule": &*rule.name, "does_not_fit": why }));
                false
            }
        });
        match found {
            None => item["result"] = "no rule of the virtual host matches: 404".into(),
            Some(rule) => {
                item["rule"] = (&*rule.name).into();
                let (key, value) = action(&rule.action, table);
                item[key] = value;
                if let Some(of) = &rule.options.endpoint {
                    item["endpoint_metadata"] = asked(of);
                }
                overrides = rule.overrides;
                let balancing = self.balancing(rule, table, subject);
                if !balancing.is_empty() {
                    item["balancing"] = balancing.into();
                    item["retry"] = retry(rule, subject);
                }
            }
        }
        item["passed_over"] = passed_over.into();
        overrides
    }

    /// How each cluster that a rule may send the request to would choose an endpoint.
    fn balancing(&self, rule: &Rule, table: &RouteTable, subject: &RouteInput<'_>) -> Vec<Value> {
        let numbered = |cluster: u32| Arc::clone(&table.clusters[cluster as usize]);
        let clusters: Vec<Arc<Cluster>> = match &rule.action {
            Action::Cluster(cluster) => vec![numbered(*cluster)],
            Action::Split(shares) => shares.iter().map(|share| numbered(share.cluster)).collect(),
            Action::ByHeader(_) | Action::ByExpression(_) => {
                let named = rule.action.named_by(subject);
                named.and_then(|name| table.directory.find(&name)).into_iter().collect()
            }
            Action::Redirect(_) | Action::Direct(_) => Vec::new(),
        };
        let of = |cluster| clusters::decision(cluster, self.wall, self.reserve_percent);
        clusters.iter().flat_map(of).collect()
    }
}

/// The request that is asked about.
fn head_of(question: &Question) -> Result<Head, String> {
    let of =
        |part: &Option<String>, usual: &'static str| part.clone().unwrap_or_else(|| usual.into());
    let (method, path) = (of(&question.method, "GET"), of(&question.path, "/"));
    let host = of(&question.host, "");
    let mut head = Head::request(&method, "http", &host, &path);
    // What no request can contain was left out.
    for (parameter, given, taken) in [
        ("method", &method, head.method_text()),
        ("host", &host, head.authority()),
        ("path", &path, head.path()),
    ] {
        if given != taken {
            return Err(format!(
                "no request has the {parameter} `{given}`; spaces and letters that are not ASCII are written %20 in it, and %2520 here"
            ));
        }
    }
    if let Some(version) = &question.version {
        head.set_version(version_of(version)?);
    }
    for header in &question.headers {
        let (name, value) = pair("header", header)?;
        head.append(name.as_bytes(), value.as_bytes());
        if !head.is_sound() {
            return Err(format!("`{header}` is not a valid header"));
        }
    }
    Ok(head)
}

fn version_of(word: &str) -> Result<Version, String> {
    match word {
        "http1" => Ok(Version::Http11),
        "http2" => Ok(Version::Http2),
        "http3" => Ok(Version::Http3),
        _ => Err(format!("`version` must be http1, http2 or http3, not `{word}`")),
    }
}

/// Whether the connection uses TLS, if that is said.
fn tls_of(question: &Question, certificate: bool) -> Result<Option<bool>, String> {
    let needs_it = [("sni", question.sni.is_some()), ("client_certificate", certificate)];
    let needs_it = needs_it.iter().find(|(_, given)| *given).map(|(parameter, _)| parameter);
    match (question.tls.as_deref(), needs_it) {
        (None, given) => Ok(given.is_some().then_some(true)),
        (Some("true"), _) => Ok(Some(true)),
        (Some("false"), None) => Ok(Some(false)),
        (Some("false"), Some(parameter)) => Err(format!("without TLS there is no `{parameter}`")),
        (Some(other), _) => Err(format!("`tls` must be true or false, not `{other}`")),
    }
}

/// The other end of the connection.
fn peer_of(question: &Question) -> Result<Peer, String> {
    let Some(text) = &question.source else { return Ok(Peer::Unknown) };
    let ip: IpAddr = text.parse().map_err(|_| format!("`{text}` is not an IP address"))?;
    Ok(Peer::Ip((ip, 0).into()))
}

/// The certificate of the client: with this subject, or with the name that the identity is known by.
fn certificate_of(
    question: &Question,
    name: Option<Box<str>>,
) -> Result<Option<ClientCertFacts>, String> {
    let mut facts = ClientCertFacts::default();
    match (&question.client_certificate, name) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(
                "`client_certificate` and `as=certificate:NAME` both name a certificate".into()
            );
        }
        (Some(subject), None) => facts.subject = subject.as_str().into(),
        (None, Some(uri)) if uri.contains("://") => facts.uris = [uri].into(),
        (None, Some(subject)) if subject.contains('=') => facts.subject = subject,
        (None, Some(name)) => facts.names = [name].into(),
    }
    Ok(Some(facts))
}

/// The address that the client connects to: the first of the listener.
fn local(listener: &Listener) -> Peer {
    match listener.addresses.first() {
        Some(ListenAddress::Tcp(address) | ListenAddress::Udp(address)) => Peer::Ip(*address),
        Some(ListenAddress::Unix(_)) => Peer::Unix,
        None => Peer::Unknown,
    }
}

/// Adds TLS to a connection, with the server name and the certificate that are asked about.
fn encrypt(conn: &mut ConnInfo, question: &Question, certificate: Option<&ClientCertFacts>) {
    conn.tls.get_or_init(|| {
        let (version, cipher, alpn) = ("1.3", "unknown", None);
        let client = certificate.map(|facts| Arc::new(facts.clone()));
        Box::new(TlsFacts { version, cipher, alpn, client, resumed: false, early: false })
    });
    if let Some(name) = &question.sni {
        let facts = || Facts::of(TLS).with(&SNI, name.to_ascii_lowercase().into());
        conn.facts.get_or_init(|| Box::new(facts()));
    }
}

/// A parameter of the form `NAME:VALUE`.
fn pair<'a>(parameter: &str, text: &'a str) -> Result<(&'a str, &'a str), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("expected {parameter}=NAME:VALUE, not `{text}`"))?;
    Ok((name.trim(), value.trim()))
}

/// What the rule would retry of this request.
fn retry(rule: &Rule, subject: &RouteInput<'_>) -> Value {
    let plan = &rule.options.retry;
    let mut item = json!({ "attempts": plan.attempts });
    if !plan.takes(subject.head) {
        item["not_covered"] = "`methods` or `request_headers` of `retry` leave this request out; it is retried only if no endpoint can have seen it".into();
    }
    let rules = plan.rules(subject.head).into_iter().map(RetryRule::word);
    item["rules"] = rules.collect::<Vec<_>>().into();
    item["avoid"] = match plan.avoid {
        RetryAvoid::Nothing => "nothing",
        RetryAvoid::Endpoint => "endpoint",
        RetryAvoid::Priority => "priority",
    }
    .into();
    item
}

/// Adds the filters that a request passes, in order, and what those decide that can say it.
fn filters(
    item: &mut Value,
    own: &[(Name, Override)],
    of_chain: &[(Name, Arc<dyn HttpFilterPlan>)],
    tried: &TriedRequest<'_>,
) {
    let said = |name: &str| own.iter().find(|(of, _)| **of == *name).map(|(_, said)| said);
    let kept = of_chain.iter().filter_map(|(name, plan)| match said(name) {
        Some(said) => said.plan(Some(&**plan)).map(|plan| (&**name, plan)),
        None => Some((&**name, Arc::clone(plan))),
    });
    let of_chain = |name: &str| of_chain.iter().any(|(of, _)| **of == *name);
    let added = own.iter().filter(|(name, _)| !of_chain(name));
    let added = added.filter_map(|(name, said)| Some((&**name, said.plan(None)?)));
    let (mut names, mut decisions, mut ended) = (Vec::new(), Vec::new(), false);
    for (name, plan) in kept.chain(added) {
        names.push(name);
        if ended {
            continue;
        }
        let Some(FilterRuling { refused, notes }) = plan.would_decide(tried) else { continue };
        let mut decision = json!({ "filter": name, "refused": refused.is_some() });
        notes.into_iter().for_each(|(key, text)| decision[key] = text.into());
        decisions.push(decision);
        if let Some(status) = refused {
            item["result"] = format!("`{name}` refuses the request: {status}").into();
            ended = true;
        }
    }
    item["filters"] = names.into();
    if !decisions.is_empty() {
        item["decisions"] = decisions.into();
    }
}
