//! Virtual hosts, scopes and clusters that come on demand: a request waits until its own is there.
//!
//! Owns: what a request waits for, and for how long. Refuses to know: where it comes from. Keeps: a request whose host and cluster
//! are there does not wait; whatever a wait ends with, the request goes on as if it had not waited.

use std::borrow::Cow;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::HttpStream;
use sluice_core::limits::Limit;
use sluice_core::value::show_duration;
use sluice_l4::metrics::count_limit;
use sluice_upstream::demand::{Demanded, Unasked};

use super::reroute::RoutePlace;
use super::{RequestTask, RouteTarget, Stop};
use crate::connection_manager::RouteSnapshot;
use crate::routes::scopes::key_text;

impl RequestTask {
    /// Carries out the action of the rule, as [`RequestTask::choose_cluster_of`], once its cluster is there or was waited for.
    pub(super) async fn choose_on_demand(
        &mut self,
        down: &mut HttpStream,
        snapshot: Rc<RouteSnapshot>,
        found: Option<RoutePlace>,
        wait: Duration,
    ) -> Result<RouteTarget, Stop> {
        let rule = found.map(|(host, rule)| &snapshot.table.virtual_hosts[host].rules[rule]);
        let named = rule.and_then(|rule| rule.action.named_by(&self.route_input()));
        let named = named.map(Cow::into_owned);
        if let Some(name) = named.filter(|name| snapshot.table.directory.find(name).is_none()) {
            let what = Demanded::Cluster(name.as_str().into());
            self.demand(down, &snapshot, what, wait).await?;
        }
        let target = self.choose_cluster_of(Rc::clone(&snapshot), found)?;
        if !target.cluster.is_configured() {
            let what = Demanded::Cluster(Arc::clone(&target.cluster.name));
            self.demand(down, &snapshot, what, wait).await?;
        }
        Ok(target)
    }

    /// Waits for the virtual host of a request that no rule matches; returns the routes that are in force then.
    pub(super) async fn wait_for_host(
        &mut self,
        down: &mut HttpStream,
        snapshot: Rc<RouteSnapshot>,
    ) -> Result<Rc<RouteSnapshot>, Stop> {
        let manager = Rc::clone(&self.manager);
        let Some(hosts) = &manager.plan.options.hosts_on_demand else { return Ok(snapshot) };
        let host = self.request.authority().to_ascii_lowercase();
        // Names of hosts are what is behind the last slash, and none is of the plane's own making.
        if host.is_empty() || host.contains(['/', '*']) {
            return Ok(snapshot);
        }
        let name = format!("{}/{host}", hosts.table);
        let what = Demanded::Host(name.as_str().into());
        self.demand(down, &snapshot, what, hosts.wait).await?;
        Ok(manager.snapshot())
    }

    /// Waits for the routes of the scope of a request that is in none; returns the routes that are in force then.
    pub(super) async fn wait_for_scope(
        &mut self,
        down: &mut HttpStream,
        snapshot: Rc<RouteSnapshot>,
    ) -> Result<Rc<RouteSnapshot>, Stop> {
        let manager = Rc::clone(&self.manager);
        let Some(scopes) = &manager.plan.options.scopes_on_demand else { return Ok(snapshot) };
        if snapshot.table.has_scope(&self.request) {
            return Ok(snapshot);
        }
        let Some(key) = key_text(&scopes.key, &self.request) else { return Ok(snapshot) };
        self.demand(down, &snapshot, Demanded::Scope(key.into()), scopes.wait).await?;
        Ok(manager.snapshot())
    }

    /// Asks for something and waits for it.
    async fn demand(
        &mut self,
        down: &mut HttpStream,
        snapshot: &RouteSnapshot,
        what: Demanded,
        wait: Duration,
    ) -> Result<(), Stop> {
        let (kind, name) = match &what {
            Demanded::Cluster(name) => ("cluster", Arc::clone(name)),
            Demanded::Host(name) => ("virtual host", Arc::clone(name)),
            Demanded::Scope(key) => ("scope", key.trim_end_matches('\0').replace('\0', "|").into()),
        };
        let worker = Rc::clone(self.worker());
        let most = worker.limits.get(Limit::OnDemandRequests);
        let mut asked = match snapshot.table.directory.demands.ask(what, most) {
            Ok(asked) => asked,
            Err(Unasked::NoDesk) => return Ok(()),
            Err(Unasked::Full) => {
                count_limit(&worker, Limit::OnDemandRequests);
                self.summary.detail =
                    Some(format!("as many requests wait for a {kind} as may").into());
                return Ok(());
            }
        };
        let by = worker.now().after(wait).min(self.deadlines.overall());
        let answered = self.guarded(down, by, pin!(asked.answer())).await?;
        self.summary.detail = match answered {
            Some(true) => None,
            Some(false) => Some(format!("there is no {kind} `{name}`").into()),
            None => {
                let within = show_duration(wait);
                Some(format!("the {kind} `{name}` has not come within {within}").into())
            }
        };
        Ok(())
    }
}
