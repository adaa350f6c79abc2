//! Active checks, and the end of ejections.
//!
//! Owns: what a check reports, and the watch over the health of a cluster. Refuses to know: listeners, and who uses an
//! endpoint. Keeps: checks of a cluster are spread over the interval; one task per cluster reacts to every change of
//! health, whatever caused it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{LocalFuture, reason};
use sluice_io::WorkerCx;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::connector::ConnectFailure;
use crate::endpoint::EndpointState;
use crate::metrics;
use crate::plan::{ClusterPlan, ServerRole};

mod datagram;
mod dialogue;
pub mod dns;
mod ejections;
mod mysql;
mod postgres;
mod probe;
mod redis;
mod schedule;
mod scram;
mod send_expect;

pub use dialogue::{Dialogue, DialogueTurn, Encryption};
pub use probe::{ConnectionProbe, dialogue_of};

/// Checks whether an endpoint is healthy.
pub trait HealthProbe {
    /// Performs one check.
    fn probe(&self) -> LocalFuture<CheckResult>;
}

/// What a check found.
pub type CheckResult = Result<CheckPassed, CheckError>;

/// An endpoint is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckPassed {
    /// It asks to be used only if others do not suffice.
    pub degraded: bool,
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// The endpoint did not respond as it should; it may be of passage, so that several in a row count.
    Endpoint(String),
    /// The endpoint said that it is not fit for traffic: it is unhealthy at once.
    Unfit(String),
    /// Sluice lacked a resource of its own, such as an open file: this says nothing about the endpoint.
    Local(String),
}

impl From<String> for CheckError {
    fn from(error: String) -> Self {
        Self::Endpoint(error)
    }
}

impl From<ConnectFailure> for CheckError {
    fn from(failure: ConnectFailure) -> Self {
        let local = failure.why.def().side == reason::Side::Local;
        let system = || failure.errno.map(|errno| io::Error::from_raw_os_error(errno).to_string());
        let text = failure.detail.clone().or_else(system);
        // The first sentence tells what happened, the others what to do.
        let said = || failure.why.def().help.split(". ").next().unwrap_or_default().to_owned();
        let text = text.unwrap_or_else(said);
        if local { Self::Local(text) } else { Self::Endpoint(text) }
    }
}

/// Makes the probe for the checks of an endpoint.
pub type Probes = Rc<dyn Fn(&Arc<ClusterPlan>, &Arc<EndpointState>) -> Rc<dyn HealthProbe>>;

/// Called when endpoints of a cluster stop being usable.
pub type UnhealthyHook = Rc<dyn Fn(&Arc<Cluster>, &[Arc<EndpointState>])>;

/// Called with endpoints that have left their cluster.
pub type RemovedHook = Rc<dyn Fn(&Arc<Cluster>, &[Arc<EndpointState>])>;

/// What the watch over a cluster needs from the control thread.
pub struct HealthWatch {
    /// The context of the control thread, for metrics and records.
    pub worker: Rc<WorkerCx>,
    /// Performs the checks.
    pub probes: Probes,
    /// Is told of endpoints that became unhealthy or were ejected.
    pub on_unhealthy: UnhealthyHook,
    /// Notified when an endpoint has been checked for the first time.
    pub checked: Notify,
}

impl std::fmt::Debug for HealthWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HealthWatch")
    }
}

/// Watches the health of a cluster, forever. Sleeps until something changes or an ejection ends.
pub(crate) async fn watch(
    cluster: Arc<Cluster>,
    watcher: Rc<HealthWatch>,
    on_removed: RemovedHook,
) {
    let (plan, worker) = (cluster.plan(), &watcher.worker);
    let gauges = ["healthy", "unhealthy", "ejected"]
        .map(|state| watcher.worker.shard.gauge(&metrics::ENDPOINTS, &[&cluster.name, state]));
    // A cluster that has no subsets any more shows that.
    let of_subsets = cluster.shows_subsets(&plan).then(|| {
        ["made", "left_out"]
            .map(|state| watcher.worker.shard.gauge(&metrics::SUBSETS, &[&cluster.name, state]))
    });
    // Made when there are checks: most clusters of a control plane have none.
    let mut checks: Option<Box<schedule::Checks>> = None;
    let mut ejections = ejections::Ejections::default();
    loop {
        let members = cluster.members();
        let endpoints = &members.endpoints;
        let outlier = plan.outlier.as_ref();
        let ejected = ejections.look(
            worker,
            &cluster,
            endpoints,
            outlier,
            Instant::now(),
            &mut fastrand::f64,
        );
        for (kind, found) in ejected {
            found.count(&watcher.worker.shard, &cluster.name, kind);
        }
        match &plan.health {
            Some(health) => {
                let checks = checks.get_or_insert_default();
                checks.follow(&cluster, endpoints, health, &plan, &watcher);
            }
            // What checks found before they were removed from the configuration holds no longer.
            None => endpoints.iter().for_each(|endpoint| _ = endpoint.set_health(Ok(()))),
        }
        let count = |state: fn(&EndpointState) -> bool| {
            endpoints.iter().filter(|endpoint| state(endpoint)).count() as u64
        };
        gauges[0].set(count(EndpointState::is_sound));
        gauges[1].set(count(EndpointState::is_unhealthy));
        gauges[2].set(count(EndpointState::is_ejected));
        if let Some([made, left_out]) = &of_subsets {
            let subsets = members.subsets.as_ref();
            made.set(subsets.map_or(0, |of| of.iter().count() as u64));
            left_out.set(subsets.map_or(0, |of| of.left_out() as u64));
        }
        let fallen = endpoints.iter().filter(|endpoint| endpoint.note_fall());
        let fallen: Vec<Arc<EndpointState>> = fallen.cloned().collect();
        if !fallen.is_empty() {
            (watcher.on_unhealthy)(&cluster, &fallen);
            let left = cluster.dismiss();
            if !left.is_empty() {
                on_removed(&cluster, &left);
            }
        }
        match ejections.next(outlier).into_iter().chain(cluster.rebalance()).min() {
            None => cluster.changed().await,
            // Elapsed or not, the next pass looks at everything. Boxed: most clusters never wait for a time.
            Some(end) => drop(Box::pin(tokio::time::timeout_at(end, cluster.changed())).await),
        }
    }
}

/// Whether a server has the role that is expected of it, if any is; `replica` is its protocol's word for one.
fn expect_role(
    expected: Option<ServerRole>,
    found: ServerRole,
    replica: &str,
) -> Result<(), CheckError> {
    let word = |role| match role {
        ServerRole::Primary => "primary",
        ServerRole::Replica => replica,
    };
    match expected {
        Some(expected) if expected != found => {
            Err(CheckError::Unfit(format!("it is a {}, not a {}", word(found), word(expected))))
        }
        _ => Ok(()),
    }
}

/// The beginning of what an endpoint said, for a message.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let printable = |c: char| if c.is_control() { '.' } else { c };
    text.chars().take(CHARS_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_of_failed_connections() {
        let cause = |failure: ConnectFailure| CheckError::from(failure);
        let refused = io::Error::from_raw_os_error(111);
        let said = "Connection refused (os error 111)";
        assert_eq!(cause(refused.into()), CheckError::Endpoint(said.into()));
        let starttls = ConnectFailure::of(crate::reasons::STARTTLS_REFUSED);
        let said = "The endpoint refused the request to start TLS";
        assert_eq!(cause(starttls), CheckError::Endpoint(said.into()));
        let none_left = sluice_sys::socket::no_descriptor();
        assert!(matches!(cause(none_left.into()), CheckError::Local(_)));
    }

    #[test]
    fn what_an_endpoint_says_is_printed_in_part() {
        assert_eq!(excerpt("a\u{1b}[31m\r\nb"), "a.[31m..b");
        assert_eq!(excerpt(&"ä".repeat(500)), "ä".repeat(120));
    }
}
