//! From request headers to a route: everything before a request is forwarded.
//!
//! Owns: the order of hygiene, early data, misdirected requests, forwarding headers, routing and filters. Refuses to
//! know: endpoints. Keeps: routes are those that were current when the headers were complete; a rewritten path passes
//! the same hygiene as a path from a client.

use std::rc::Rc;

use sluice_codec::{HttpStream, Method};
use sluice_core::settings::OrNone;

use super::deadlines::TotalSource;
use super::reroute::RoutePlace;
use super::{RequestTask, RouteTarget, Stop};
use crate::connection_manager::{FilterList, RouteSnapshot};
use crate::host_name::without_port;
use crate::hygiene::{self, Underscores};
use crate::plan::HttpOptions;
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{Action, PathRewrite, Redirect, RouteInput, Rule, Timeouts};

impl RequestTask {
    /// Runs everything before the request is forwarded: hygiene, routing, filters.
    pub(super) async fn admit(&mut self, stream: &mut HttpStream) -> Result<RouteTarget, Stop> {
        self.clean()?;
        self.handle_early_data(stream)?;
        self.refuse_misdirected()?;
        let conn = &self.downstream.conn;
        let tls = conn.info.tls.get();
        let HttpOptions { edge, ref tunnel, .. } = self.manager.plan.options;
        // Of a request that is made here, no hop has said anything, and the proxy that gets it need not know its client.
        if tunnel.is_none() {
            self.summary.source = edge.apply(
                &mut self.request,
                conn.info.source(),
                self.downstream.address(),
                tls.is_some(),
            );
        }
        let mut snapshot = self.manager.snapshot();
        let mut found = self.find_route(&snapshot);
        if found.is_none() && self.manager.plan.options.hosts_on_demand.is_some() {
            // Boxed, so that other requests have no room for it; and below.
            snapshot = Box::pin(self.wait_for_host(stream, snapshot)).await?;
            found = self.find_route(&snapshot);
        }
        if found.is_none() && self.manager.plan.options.scopes_on_demand.is_some() {
            snapshot = Box::pin(self.wait_for_scope(stream, snapshot)).await?;
            found = self.find_route(&snapshot);
        }
        self.filters = self.take_route(&snapshot, found);
        let found = self.run_filters(stream, &snapshot, found, 0).await?;
        if let Some(wait) = self.manager.plan.options.cluster_wait {
            return Box::pin(self.choose_on_demand(stream, snapshot, found, wait)).await;
        }
        self.choose_cluster_of(snapshot, found)
    }

    /// Carries out the action of the rule, if one matched; returns the cluster to forward to.
    pub(super) fn choose_cluster_of(
        &mut self,
        snapshot: Rc<RouteSnapshot>,
        found: Option<RoutePlace>,
    ) -> Result<RouteTarget, Stop> {
        match found {
            Some(place) => self.choose_cluster(snapshot, place),
            None if snapshot.table.refuses_cleartext(&self.route_input()) => {
                let redirect = Redirect::to_https();
                let location = self.location(&redirect, self.request.path_only().to_owned())?;
                Err(Stop::reply(Reply::redirect(redirect.status, location)))
            }
            None => {
                let why = reasons::ROUTE_UNMATCHED;
                Err(Stop::reply(Reply::new(404, why, "route_not_found", "")))
            }
        }
    }

    /// The place of the rule that matches the request as it is now.
    pub(super) fn find_route(&self, snapshot: &RouteSnapshot) -> Option<RoutePlace> {
        snapshot.table.find(&self.route_input())
    }

    pub(super) fn route_input(&self) -> RouteInput<'_> {
        RouteInput {
            head: &self.request,
            source: self.summary.source,
            conn: Some(&self.downstream.conn.info),
            values: Some(&self.values),
            runtime: &self.manager.plan.runtime,
            random: self.random,
        }
    }

    /// Notes the route and starts its deadlines; returns its filters. Without a route, the filters of the chain still see
    /// the request.
    pub(super) fn take_route(
        &mut self,
        snapshot: &RouteSnapshot,
        found: Option<RoutePlace>,
    ) -> Rc<FilterList> {
        let rule = found.map(|(host, rule)| &snapshot.table.virtual_hosts[host].rules[rule]);
        self.summary.route = rule.map(|rule| rule.name.clone());
        self.summary.destination = match rule.map(|rule| &rule.action) {
            Some(Action::Cluster(index)) => {
                Some(snapshot.table.clusters[*index as usize].name.clone())
            }
            _ => None,
        };
        if let Some(rule) = rule {
            let Timeouts { total, total_jitter_percent, .. } = rule.options.timeouts;
            let jittered = |total| self.worker().jittered(total, total_jitter_percent);
            let (total, source) = match total {
                Some(OrNone(total)) => (total.map(jittered), TotalSource::Rule),
                None => (self.manager.plan.options.stream_duration_max, TotalSource::Listener),
            };
            self.deadlines.configure(&rule.options.timeouts);
            self.deadlines.bound(total, source, self.began);
        }
        self.manager.filters(snapshot, rule.map_or(0, |rule| rule.overrides))
    }

    /// Normalises the path, and rejects or removes headers with underscores if so configured.
    fn clean(&mut self) -> Result<(), Stop> {
        let hygiene = &self.manager.plan.options.hygiene;
        let refused = |details| Stop::reply(Reply::malformed(details, format!("{details}\n")));
        match hygiene::path(hygiene, self.request.path()) {
            hygiene::PathVerdict::Normal => {}
            hygiene::PathVerdict::Changed(path) => {
                self.summary.original_path = self.request.path().to_owned();
                self.request.set_path(path.as_bytes());
            }
            hygiene::PathVerdict::Redirect(path) => {
                return Err(Stop::reply(Reply::redirect(307, path)));
            }
            hygiene::PathVerdict::Refused => return Err(refused("path_normalization_failed")),
        }
        if hygiene.underscores != Underscores::Keep {
            let has = self.request.fields().any(|(name, _)| name.contains(&b'_'));
            if has && hygiene.underscores == Underscores::Reject {
                return Err(refused("header_with_underscore"));
            }
            if has {
                self.request.remove_where(|name, _| name.contains(&b'_'));
            }
        }
        Ok(())
    }

    /// Refuses a request for a host that authenticates clients differently than this client was authenticated: the
    /// client must use a connection to that host, RFC 9110 §15.5.20.
    pub(super) fn refuse_misdirected(&self) -> Result<(), Stop> {
        let misdirected = self.manager.plan.client_auth.as_ref().is_some_and(|client_auth| {
            let (authority, info) = (self.request.authority(), &self.downstream.conn.info);
            if self.method == Method::Connect && self.request.upgrade().is_none() {
                client_auth.misdirected_tunnel(authority, info)
            } else {
                client_auth.misdirected(authority, info)
            }
        });
        if !misdirected {
            return Ok(());
        }
        let body =
            "this host has different client certificate settings: connect to it by its own name\n";
        Err(Stop::reply(Reply::new(421, reasons::MISDIRECTED, "misdirected_request", body)))
    }

    /// Handles a request in early data, which may be a replay. One with a safe method is forwarded, marked with
    /// `early-data` for the servers behind Sluice; any other must be repeated after the handshake, RFC 8470 §5.
    fn handle_early_data(&mut self, stream: &HttpStream) -> Result<(), Stop> {
        if !stream.is_early() {
            return Ok(());
        }
        if let Some(path) = self.downstream.conn.info.path.get() {
            path.note_early();
        }
        if !self.method.is_safe() {
            let body = "too early: repeat the request after the handshake\n";
            return Err(Stop::reply(Reply::new(425, reasons::TOO_EARLY, "too_early", body)));
        }
        self.request.set(b"early-data", b"1");
        Ok(())
    }

    /// Carries out the action of the rule; returns the cluster to forward to.
    fn choose_cluster(
        &mut self,
        snapshot: Rc<RouteSnapshot>,
        place: (usize, usize),
    ) -> Result<RouteTarget, Stop> {
        let table = &snapshot.table;
        let rule = &table.virtual_hosts[place.0].rules[place.1];
        let mut share = 0;
        let cluster = match &rule.action {
            Action::Cluster(index) => table.clusters[*index as usize].clone(),
            Action::Split(shares) => {
                share = self.share(rule, shares, table);
                table.clusters[shares[share].cluster as usize].clone()
            }
            Action::ByHeader(_) | Action::ByExpression(_) => {
                let named = rule.action.named_by(&self.route_input());
                match named.as_deref().and_then(|name| table.directory.find(name)) {
                    Some(cluster) => cluster,
                    None => {
                        let named = named.as_deref().unwrap_or("no name");
                        let detail = match &rule.action {
                            Action::ByHeader(header) => format!("`{header}` contains {named}"),
                            _ => format!("`cluster_from` makes {named}"),
                        };
                        self.summary.detail = Some(detail.into());
                        let why = sluice_upstream::reasons::CLUSTER_UNKNOWN;
                        return Err(Stop::reply(Reply::new(503, why, "cluster_not_found", "")));
                    }
                }
            }
            Action::Redirect(redirect) => {
                let path = match &redirect.path {
                    None => self.request.path_only().to_owned(),
                    Some(rewrite) => self.rewritten(rule, rewrite)?,
                };
                let location = self.location(redirect, path)?;
                return Err(Stop::reply(Reply::redirect(redirect.status, location)));
            }
            Action::Direct(direct) => {
                let body = direct.body.fill(&self.view());
                let mut reply = Reply::new(direct.status, reasons::LOCAL, "direct_response", body);
                reply.content_type = direct.content_type.clone().into();
                return Err(Stop::reply(reply));
            }
        };
        self.summary.cluster = Some(cluster.name.clone());
        Ok(RouteTarget { snapshot, place, cluster, share })
    }

    /// The `location` of a redirect to `path`.
    fn location(&self, redirect: &Redirect, path: String) -> Result<String, Stop> {
        let request = &self.request;
        let scheme = redirect.scheme.as_deref().unwrap_or_else(|| request.scheme());
        let authority = request.authority();
        let host = without_port(authority);
        let port = match redirect.port {
            Some(port) => Some(port.to_string()),
            // Another scheme has another default port, and another host a port of its own.
            None if redirect.scheme.is_some() || redirect.host.is_some() => None,
            None => authority
                .strip_prefix(host)
                .and_then(|port| port.strip_prefix(':'))
                .map(str::to_owned),
        };
        let target = redirect.host.as_deref().unwrap_or(host);
        // HTTP/1.0 allows a request to name none.
        if target.is_empty() {
            let body = "the request names no host, so it cannot be redirected\n";
            return Err(Stop::reply(Reply::malformed("missing_host", body)));
        }
        let usual = if scheme == "https" { "443" } else { "80" };
        let port =
            port.filter(|port| port != usual).map_or_else(String::new, |port| format!(":{port}"));
        // OPTIONS * has no path.
        let path = if path.starts_with('/') { path } else { "/".to_owned() };
        let query = request.query().filter(|_| !redirect.strip_query && !path.contains('?'));
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        Ok(format!("{scheme}://{target}{port}{path}{query}"))
    }

    /// The path that the rule rewrites the request's path to. It passes hygiene again: parts that are normal on their
    /// own may form dot segments when joined, which would leave the folder that the rule was written for.
    pub(super) fn rewritten(&self, rule: &Rule, rewrite: &PathRewrite) -> Result<String, Stop> {
        let path = rewritten(rule, self.request.path_only(), rewrite);
        hygiene::rewritten(&self.manager.plan.options.hygiene, path).ok_or_else(|| {
            let body = "the rewritten path is invalid\n";
            Stop::reply(Reply::malformed("path_rewrite_failed", body))
        })
    }
}

/// Rewrites a path, without its query.
fn rewritten(rule: &Rule, path: &str, rewrite: &PathRewrite) -> String {
    match rewrite {
        PathRewrite::Whole(whole) => whole.clone(),
        PathRewrite::Prefix(prefix) => {
            let rest = path.strip_prefix(rule.path.matched(path)).unwrap_or_default();
            let joined = match (prefix.ends_with('/'), rest.starts_with('/')) {
                (true, true) => format!("{prefix}{}", &rest[1..]),
                _ => format!("{prefix}{rest}"),
            };
            if joined.starts_with('/') { joined } else { format!("/{joined}") }
        }
        PathRewrite::Regex(regex) => regex.apply(path).into_owned(),
    }
}
