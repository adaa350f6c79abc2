//! Active checks, and the end of ejections.
//!
//! Owns: when each endpoint is checked and what a streak of results means. Refuses to know: protocols above the probe.
//! Keeps: checks of a cluster are spread over the interval; an endpoint is considered healthy until enough checks in a
//! row fail.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{LocalFuture, reason};
use sluice_io::Reactor;
use sluice_telemetry::{CounterSet, Shard};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::connector::{self, ConnectFailure};
use crate::endpoint::EndpointState;
use crate::metrics;
use crate::plan::{ClusterPlan, HealthPlan, OutlierPlan};

/// Checks whether an endpoint is healthy.
pub trait HealthProbe {
    /// Performs one check.
    fn probe(&self, endpoint: &Arc<EndpointState>) -> LocalFuture<Result<(), CheckError>>;
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// The endpoint is at fault.
    Endpoint(String),
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
        let text = failure.detail.unwrap_or_else(|| failure.why.to_string());
        if local { Self::Local(text) } else { Self::Endpoint(text) }
    }
}

/// Makes the probe for the checks of a cluster.
pub type Probes = Rc<dyn Fn(&Arc<ClusterPlan>) -> Rc<dyn HealthProbe>>;

/// Healthy if the endpoint accepts a TCP connection.
#[derive(Debug)]
pub struct TcpProbe {
    /// The reactor of the thread that the probe runs on.
    pub reactor: Rc<Reactor>,
}

impl HealthProbe for TcpProbe {
    fn probe(&self, endpoint: &Arc<EndpointState>) -> LocalFuture<Result<(), CheckError>> {
        let (endpoint, reactor) = (Arc::clone(endpoint), Rc::clone(&self.reactor));
        Box::pin(async move {
            let opened = connector::open(&endpoint, &reactor).await;
            let stream = opened.map_err(|error| {
                let detail = Some(error.to_string());
                ConnectFailure { detail, ..ConnectFailure::from(error) }
            })?;
            // A reset leaves no TIME_WAIT behind, here or there.
            stream.reset_on_drop();
            Ok(())
        })
    }
}

/// Watches the health of a cluster, forever. Sleeps until something changes or an ejection ends.
pub(crate) async fn watch(cluster: Arc<Cluster>, shard: Shard, probes: Probes) {
    let plan = cluster.plan();
    let probe = probes(&plan);
    let gauges = ["healthy", "unhealthy", "ejected"]
        .map(|state| shard.gauge(&metrics::ENDPOINTS, &[&cluster.name, state]));
    let mut checks = Checks { of: HashMap::new(), running: JoinSet::new() };
    let mut ejections: HashMap<Arc<str>, Ejection> = HashMap::new();
    loop {
        let members = cluster.members();
        let readmitted =
            readmit(&cluster, &members.endpoints, plan.outlier.as_ref(), &mut ejections);
        let next = readmitted.into_iter().chain(cluster.rebalance()).min();
        if let Some(health) = &plan.health {
            checks.follow(&cluster, &members.endpoints, health, &probe, &shard);
        }
        let count = |state: fn(&EndpointState) -> bool| {
            members.endpoints.iter().filter(|endpoint| state(endpoint)).count() as u64
        };
        gauges[0].set(count(EndpointState::is_usable));
        gauges[1].set(count(|endpoint| !endpoint.is_healthy()));
        gauges[2].set(count(EndpointState::is_ejected));
        match next {
            None => cluster.changed().await,
            // Elapsed or not, the next pass looks at everything.
            Some(end) => drop(tokio::time::timeout_at(end, cluster.changed()).await),
        }
    }
}

struct Ejection {
    times: u32,
    until: Option<Instant>,
}

/// Readmits ejected endpoints when their time is over; at once if the cluster has no ejection any more. Returns when
/// the next ejection ends, if there is one.
fn readmit(
    cluster: &Cluster,
    endpoints: &[Arc<EndpointState>],
    outlier: Option<&OutlierPlan>,
    ejections: &mut HashMap<Arc<str>, Ejection>,
) -> Option<Instant> {
    ejections.retain(|name, ejection| {
        let endpoint = endpoints.iter().find(|endpoint| endpoint.name == *name);
        // An endpoint that left and came back starts afresh, but its ejections are remembered.
        ejection.until =
            ejection.until.filter(|_| endpoint.is_some_and(|known| known.is_ejected()));
        endpoint.is_some()
    });
    let now = Instant::now();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.is_ejected()) {
        let entry = ejections
            .entry(Arc::clone(&endpoint.name))
            .or_insert(Ejection { times: 0, until: None });
        let until = if outlier.is_some() { entry.until } else { Some(now) };
        match (until, outlier) {
            (None, Some(outlier)) => {
                entry.times = entry.times.saturating_add(1);
                let length = outlier.ejection.saturating_mul(entry.times).min(outlier.ejection_max);
                entry.until = Some(now + length);
            }
            (Some(until), _) if until <= now => {
                entry.until = None;
                endpoint.readmit();
                tracing::info!(
                    cluster = &*cluster.name,
                    endpoint = &*endpoint.name,
                    "endpoint is back in use"
                );
            }
            _ => {}
        }
    }
    ejections.values().filter_map(|ejection| ejection.until).min()
}

struct Checks {
    of: HashMap<Arc<str>, tokio::task::AbortHandle>,
    running: JoinSet<()>,
}

impl Checks {
    /// Starts checks of new endpoints, ends those of endpoints that left.
    fn follow(
        &mut self,
        cluster: &Arc<Cluster>,
        endpoints: &[Arc<EndpointState>],
        plan: &HealthPlan,
        probe: &Rc<dyn HealthProbe>,
        shard: &Shard,
    ) {
        self.of.retain(|name, task| {
            let stays = endpoints.iter().any(|endpoint| endpoint.name == *name);
            if !stays {
                task.abort();
            }
            stays
        });
        while self.running.try_join_next().is_some() {}
        for endpoint in endpoints {
            if !self.of.contains_key(&endpoint.name) {
                let check = check_for_ever(
                    Arc::clone(cluster),
                    Arc::clone(endpoint),
                    plan.clone(),
                    Rc::clone(probe),
                    shard.clone(),
                );
                let task = self.running.spawn_local(check);
                self.of.insert(Arc::clone(&endpoint.name), task);
            }
        }
    }
}

async fn check_for_ever(
    cluster: Arc<Cluster>,
    endpoint: Arc<EndpointState>,
    plan: HealthPlan,
    probe: Rc<dyn HealthProbe>,
    shard: Shard,
) {
    let mut run = CheckStreak { healthy: endpoint.is_healthy(), against: 0 };
    // The first checks of a cluster are spread, but within a second.
    tokio::time::sleep(plan.interval.min(Duration::from_secs(1)).mul_f64(fastrand::f64())).await;
    let checks: CounterSet<&'static str> = CounterSet::default();
    // Checks that Sluice could not perform are logged once until one can be performed again; each is counted.
    let mut told = false;
    loop {
        let result = match tokio::time::timeout(plan.timeout, probe.probe(&endpoint)).await {
            Ok(result) => result,
            Err(_) => Err(CheckError::Endpoint("timed out".into())),
        };
        let code = match &result {
            Ok(()) => "ok",
            Err(CheckError::Endpoint(_)) => "failed",
            Err(CheckError::Local(_)) => "local",
        };
        checks.count(&code, |code| shard.counter(&metrics::CHECKS, &[&cluster.name, code]));
        let name = &*endpoint.name;
        let said = match &result {
            Err(CheckError::Local(error)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(
                        cluster = &*cluster.name,
                        endpoint = name,
                        error,
                        "cannot check the health of an endpoint"
                    );
                }
                None
            }
            Err(CheckError::Endpoint(error)) => Some(Err(error.as_str())),
            Ok(()) => Some(Ok(())),
        };
        told &= said.is_none();
        if let Some(said) = said
            && run.take(said.is_ok(), &plan)
            && endpoint.set_health(said)
        {
            cluster.announce();
            match said {
                Ok(()) => tracing::info!(
                    cluster = &*cluster.name,
                    endpoint = name,
                    "endpoint is healthy again"
                ),
                Err(error) => {
                    tracing::warn!(
                        cluster = &*cluster.name,
                        endpoint = name,
                        error,
                        "endpoint is unhealthy"
                    )
                }
            }
        }
        tokio::time::sleep(plan.interval.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
    }
}

/// Consecutive results that contradict the current state.
#[derive(Debug)]
struct CheckStreak {
    healthy: bool,
    against: u32,
}

impl CheckStreak {
    /// Takes a result; returns whether the state changed.
    const fn take(&mut self, good: bool, plan: &HealthPlan) -> bool {
        if good == self.healthy {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if self.healthy { plan.unhealthy_after } else { plan.healthy_after };
        if self.against < needed {
            return false;
        }
        self.healthy = good;
        self.against = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let plan = HealthPlan {
            kind: crate::plan::CheckKind::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut run = CheckStreak { healthy: true, against: 0 };
        let results = [false, false, true, false, false, false, true, false, true, true];
        let turns: Vec<bool> = results.iter().map(|good| run.take(*good, &plan)).collect();
        let turned: Vec<usize> = turns
            .iter()
            .enumerate()
            .filter(|(_, turned)| **turned)
            .map(|(index, _)| index)
            .collect();
        assert_eq!(turned, [5, 9]);
        assert!(run.healthy);
    }

    #[test]
    fn a_cluster_that_ejects_no_more_takes_its_endpoints_back() {
        let cluster = Cluster::new(Arc::new(crate::cluster::tests::plan(None)));
        let target = crate::endpoint::Target::Ip(([127, 0, 0, 1], 1).into());
        let endpoints = [Arc::new(EndpointState::new(target, None))];
        let hour = Duration::from_secs(3600);
        let outlier = OutlierPlan {
            connect_failures: 1,
            consecutive_5xx: 0,
            ejection: hour,
            ejection_max: hour,
            max_ejected_percent: 100,
        };
        let mut ejections = HashMap::new();
        let nothing = readmit(&cluster, &endpoints, Some(&outlier), &mut ejections);
        assert_eq!(nothing, None, "nothing is ejected, so nothing is to be awaited");
        assert!(endpoints[0].eject("it failed").is_some());
        let end = readmit(&cluster, &endpoints, Some(&outlier), &mut ejections);
        assert!(endpoints[0].is_ejected(), "its time is not over");
        assert!(end.is_some_and(|end| end > Instant::now()), "{end:?}");
        assert_eq!(readmit(&cluster, &endpoints, None, &mut ejections), None);
        assert!(!endpoints[0].is_ejected());
    }

    /// Returns the same result each time, and counts.
    struct Says(Result<(), CheckError>, std::cell::Cell<u32>);

    impl HealthProbe for Says {
        fn probe(&self, _: &Arc<EndpointState>) -> LocalFuture<Result<(), CheckError>> {
            self.1.set(self.1.get() + 1);
            Box::pin(std::future::ready(self.0.clone()))
        }
    }

    /// Whether an endpoint is considered healthy after ten checks with `result`.
    fn healthy_after(result: Result<(), CheckError>) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let health = HealthPlan {
                kind: crate::plan::CheckKind::Tcp,
                interval: Duration::from_millis(1),
                timeout: Duration::from_secs(10),
                unhealthy_after: 3,
                healthy_after: 1,
            };
            let plan = Arc::new(crate::cluster::tests::plan(None));
            let cluster = Arc::new(Cluster::new(plan));
            let target = crate::endpoint::Target::Ip(([127, 0, 0, 1], 1).into());
            let endpoint = Arc::new(EndpointState::new(target, None));
            let says = Rc::new(Says(result, std::cell::Cell::new(0)));
            let shard = sluice_telemetry::Registry::new().shard(1);
            let probe = Rc::clone(&says) as Rc<dyn HealthProbe>;
            let checks = check_for_ever(cluster, Arc::clone(&endpoint), health, probe, shard);
            let checks = tokio::task::spawn_local(checks);
            while says.1.get() < 10 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            checks.abort();
            endpoint.is_healthy()
        })
    }

    #[test]
    fn what_sluice_lacks_makes_no_endpoint_unhealthy() {
        assert!(healthy_after(Ok(())));
        assert!(!healthy_after(Err(CheckError::Endpoint("refused".into()))));
        let own = ConnectFailure::from(sluice_sys::socket::no_descriptor());
        assert!(healthy_after(Err(own.into())));
    }
}
