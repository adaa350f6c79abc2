//! When endpoints are checked, and what a sequence of results means.
//!
//! Owns: the task per endpoint, and the verdict over its results. Refuses to know: what a check does. Keeps: checks are
//! spread; the first result decides alone; a check that Sluice could not perform decides nothing.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sluice_telemetry::CounterSet;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{CheckError, CheckPassed, CheckResult, HealthProbe, HealthWatch};
use crate::cluster::Cluster;
use crate::endpoint::{ConnectTo, EndpointCheck, EndpointState};
use crate::events::EndpointEvent;
use crate::metrics;
use crate::outlier;
use crate::plan::{ClusterPlan, HealthPlan};

/// The longest delay of the first check of an endpoint.
const FIRST_DELAY_MAX: Duration = Duration::from_secs(1);

/// Checks begin at multiples of this part of their interval, and of [`TOGETHER_MAX`] at most.
const TOGETHER_SHARE: u32 = 100;

/// The longest time between moments at which checks begin.
const TOGETHER_MAX: Duration = Duration::from_millis(50);

/// What these moments are counted from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The checks of a cluster.
#[derive(Debug, Default)]
pub(super) struct Checks {
    of: HashMap<Arc<str>, RunningCheck>,
    running: JoinSet<()>,
}

/// The task that checks an endpoint. An endpoint that left and came back has the same name and is another one.
#[derive(Debug)]
struct RunningCheck {
    endpoint: Arc<EndpointState>,
    /// What its checks differed in from those of the cluster when they began.
    check: Option<Arc<EndpointCheck>>,
    task: tokio::task::AbortHandle,
}

impl Checks {
    /// Starts checks of new endpoints, ends those of endpoints that left.
    pub(super) fn follow(
        &mut self,
        cluster: &Arc<Cluster>,
        endpoints: &[Arc<EndpointState>],
        health: &HealthPlan,
        plan: &Arc<ClusterPlan>,
        watcher: &Rc<HealthWatch>,
    ) {
        let members: HashSet<*const EndpointState> = endpoints.iter().map(Arc::as_ptr).collect();
        self.of.retain(|_, running| {
            let is_member = members.contains(&Arc::as_ptr(&running.endpoint));
            let stays = is_member && running.check == running.endpoint.check();
            if !stays {
                running.task.abort();
            }
            stays
        });
        while self.running.try_join_next().is_some() {}
        for endpoint in endpoints {
            if !self.of.contains_key(&endpoint.name) {
                let own = endpoint.check();
                let connect_to = own.as_ref().map_or_else(ConnectTo::default, |own| own.connect_to);
                let connect_to = connect_to.or(health.connect_to);
                let target = connect_to.target(&endpoint.target);
                let checked = if target == endpoint.target {
                    Arc::clone(endpoint)
                } else {
                    let host = endpoint.host.clone();
                    let checked = match connect_to.ip {
                        Some(_) => EndpointState::listed(target, host),
                        None => EndpointState::new(target, host),
                    };
                    checked.set_check(own.clone());
                    Arc::new(checked)
                };
                let check = CheckTask {
                    cluster: Arc::clone(cluster),
                    endpoint: Arc::clone(endpoint),
                    plan: health.clone(),
                    probe: (watcher.probes)(plan, &checked),
                    watcher: Rc::clone(watcher),
                };
                // The first checks of a cluster are spread, but an endpoint that waits for one waits briefly.
                let spread = match endpoint.awaits_check() {
                    true => Duration::from_millis(endpoints.len() as u64),
                    false => health.interval,
                };
                let delay = spread.min(FIRST_DELAY_MAX).mul_f64(fastrand::f64());
                let task = self.running.spawn_local(check.run(delay));
                let running = RunningCheck { endpoint: Arc::clone(endpoint), check: own, task };
                self.of.insert(Arc::clone(&endpoint.name), running);
            }
        }
    }
}

/// The checks of an endpoint.
struct CheckTask {
    cluster: Arc<Cluster>,
    endpoint: Arc<EndpointState>,
    plan: HealthPlan,
    probe: Rc<dyn HealthProbe>,
    watcher: Rc<HealthWatch>,
}

impl CheckTask {
    async fn run(self, delay: Duration) {
        tokio::time::sleep(delay).await;
        let mut streak = CheckStreak::default();
        let results: CounterSet<&'static str> = CounterSet::default();
        let mut used = false;
        // Checks that Sluice could not perform are logged once until one can be performed again; each is counted.
        let mut told = false;
        loop {
            let result = match tokio::time::timeout(self.plan.timeout, self.probe.probe()).await {
                Ok(result) => result,
                Err(_) => Err(CheckError::Endpoint("timed out".into())),
            };
            let code = match &result {
                Ok(_) => "ok",
                Err(CheckError::Endpoint(_) | CheckError::Unfit(_)) => "failed",
                Err(CheckError::Local(_)) => "local",
            };
            let counter = |code: &&'static str| {
                self.watcher.worker.shard.counter(&metrics::CHECKS, &[&self.cluster.name, code])
            };
            results.count(&code, counter);
            match &result {
                Err(CheckError::Local(error)) => {
                    if !std::mem::replace(&mut told, true) {
                        self.tell_local(error);
                    }
                }
                decided => {
                    told = false;
                    self.decide(&mut streak, decided);
                }
            }
            used = used || self.plan.no_traffic_interval.is_none() || has_traffic(&self.cluster);
            let pause = pause(&self.plan, self.endpoint.is_healthy(), used);
            let next = Instant::now() + jittered(pause, self.plan.jitter_percent);
            tokio::time::sleep_until(together(next, *ORIGIN, pause)).await;
        }
    }

    fn tell_local(&self, error: &str) {
        tracing::error!(
            cluster = &*self.cluster.name,
            endpoint = &*self.endpoint.name,
            error,
            "cannot check the health of an endpoint"
        );
    }

    /// Takes the result of a check that was performed.
    fn decide(&self, streak: &mut CheckStreak, result: &CheckResult) {
        let endpoint = &self.endpoint;
        let (outcome, cause) = match result {
            Ok(CheckPassed { .. }) => (CheckOutcome::Passed, ""),
            Err(CheckError::Unfit(error)) => (CheckOutcome::Unfit, error.as_str()),
            Err(CheckError::Endpoint(error) | CheckError::Local(error)) => {
                (CheckOutcome::Failed, error.as_str())
            }
        };
        let first = endpoint.note_checked();
        let mut changed = first;
        if let Ok(CheckPassed { degraded }) = result {
            changed |= endpoint.set_degraded(*degraded);
        }
        match streak.take(endpoint.is_healthy(), first, outcome, &self.plan) {
            Some(true) => {
                endpoint.set_health(Ok(()));
                self.tell_healthy(first);
                changed = true;
            }
            Some(false) => {
                endpoint.set_health(Err(cause));
                self.tell_unhealthy(cause);
                changed = true;
            }
            None if outcome != CheckOutcome::Passed && !endpoint.is_healthy() => {
                endpoint.update_cause(cause);
                if first {
                    self.tell_unhealthy(cause);
                }
            }
            None => {}
        }
        changed |= outcome == CheckOutcome::Passed && self.readmit();
        if changed {
            self.cluster.announce();
        }
        if first {
            self.watcher.checked.notify_waiters();
        }
    }

    /// Ends an ejection whose cause the check has refuted; returns whether it did.
    fn readmit(&self) -> bool {
        let endpoint = &self.endpoint;
        let (Some(kind), true) = (endpoint.ejected_for(), endpoint.is_healthy()) else {
            return false;
        };
        let plan = self.cluster.plan();
        let may = plan.outlier.as_ref().is_some_and(|outlier| outlier.readmit_after_check);
        if !may || !outlier::is_refuted(kind, &self.plan.kind) {
            return false;
        }
        endpoint.readmit();
        EndpointEvent::EjectionRefuted.tell(&self.watcher.worker, &self.cluster, endpoint);
        true
    }

    fn tell_healthy(&self, first: bool) {
        let event = if first { EndpointEvent::FirstHealthy } else { EndpointEvent::Healthy };
        self.tell("healthy", event);
    }

    fn tell_unhealthy(&self, error: &str) {
        self.tell("unhealthy", EndpointEvent::Unhealthy(error));
    }

    fn tell(&self, to: &str, event: EndpointEvent<'_>) {
        let worker = &self.watcher.worker;
        let labels = [&*self.cluster.name, to];
        worker.shard.counter(&metrics::HEALTH_CHANGES, &labels).increment();
        event.tell(worker, &self.cluster, &self.endpoint);
    }
}

/// Whether the cluster has ever had a connection.
fn has_traffic(cluster: &Cluster) -> bool {
    cluster.active() > 0 || cluster.members().endpoints.iter().any(|member| member.total() > 0)
}

/// The time until the next check of an endpoint, before jitter.
fn pause(plan: &HealthPlan, healthy: bool, used: bool) -> Duration {
    match plan.no_traffic_interval {
        Some(interval) if !used => interval,
        _ if healthy => plan.interval,
        _ => plan.unhealthy_interval,
    }
}

fn jittered(pause: Duration, percent: u8) -> Duration {
    let share = f64::from(percent) / 100.0;
    pause.mul_f64(1.0 - share + fastrand::f64() * 2.0 * share)
}

/// Puts off a check to the next moment at which others of its interval begin too: it is the wake-ups that checks cost.
fn together(at: Instant, origin: Instant, interval: Duration) -> Instant {
    let step = (interval / TOGETHER_SHARE).min(TOGETHER_MAX).as_micros();
    let past = at.saturating_duration_since(origin).as_micros();
    let late = past.checked_rem(step).filter(|late| *late > 0).map_or(0, |late| step - late);
    at + Duration::from_micros(u64::try_from(late).unwrap_or(0))
}

/// The outcome of a check that was performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckOutcome {
    Passed,
    Failed,
    /// It decides alone.
    Unfit,
}

/// Consecutive results that contradict the current state.
#[derive(Debug, Default)]
struct CheckStreak {
    /// The state that they contradict.
    healthy: bool,
    against: u32,
}

impl CheckStreak {
    /// Takes a result of an endpoint in the state `healthy`, which others may have changed since the last result;
    /// `first` is its first result ever. Returns the new state if it changes.
    fn take(
        &mut self,
        healthy: bool,
        first: bool,
        outcome: CheckOutcome,
        plan: &HealthPlan,
    ) -> Option<bool> {
        let passed = outcome == CheckOutcome::Passed;
        if healthy != self.healthy || passed == healthy {
            *self = Self { healthy, against: 0 };
        }
        if passed == healthy {
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if healthy { plan.unhealthy_after } else { plan.healthy_after };
        (first || outcome == CheckOutcome::Unfit || self.against >= needed).then_some(passed)
    }
}

#[cfg(test)]
mod tests;
