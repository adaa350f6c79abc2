//! Clusters that come on demand: a request waits until its own is there.
//!
//! Owns: which cluster a request waits for, and for how long. Refuses to know: where clusters come from. Keeps: a request whose
//! cluster is there does not wait; whatever a wait ends with, the request goes on as if it had not waited.

use std::borrow::Cow;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::HttpStream;
use sluice_core::limits::Limit;
use sluice_core::value::show_duration;
use sluice_l4::metrics::count_limit;
use sluice_upstream::directory::Unasked;

use super::reroute::RoutePlace;
use super::{RequestTask, RouteTarget, Stop};
use crate::connection_manager::RouteSnapshot;

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
            self.demand(down, &snapshot, &name, wait).await?;
        }
        let target = self.choose_cluster_of(Rc::clone(&snapshot), found)?;
        if !target.cluster.is_configured() {
            let name = Arc::clone(&target.cluster.name);
            self.demand(down, &snapshot, &name, wait).await?;
        }
        Ok(target)
    }

    /// Asks for a cluster and waits for it.
    async fn demand(
        &mut self,
        down: &mut HttpStream,
        snapshot: &RouteSnapshot,
        name: &str,
        wait: Duration,
    ) -> Result<(), Stop> {
        let worker = Rc::clone(self.worker());
        let most = worker.limits.get(Limit::OnDemandRequests);
        let mut asked = match snapshot.table.directory.ask(name, most) {
            Ok(asked) => asked,
            Err(Unasked::NoDesk) => return Ok(()),
            Err(Unasked::Full) => {
                count_limit(&worker, Limit::OnDemandRequests);
                self.summary.detail = Some("as many requests wait for clusters as may".into());
                return Ok(());
            }
        };
        let by = worker.now().after(wait).min(self.deadlines.overall());
        let answered = self.guarded(down, by, pin!(asked.answer())).await?;
        self.summary.detail = match answered {
            Some(true) => None,
            Some(false) => Some(format!("there is no cluster `{name}`").into()),
            None => {
                let within = show_duration(wait);
                Some(format!("the cluster `{name}` has not come within {within}").into())
            }
        };
        Ok(())
    }
}
