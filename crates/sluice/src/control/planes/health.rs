//! Health checks on behalf of control planes (HDS).
//!
//! Owns: which clusters are made for what a plane asks for, and reading their health. Refuses to know: how something is checked,
//! the messages. Keeps: such clusters are named apart from all others, so that nothing leads there; what cannot be checked
//! leaves the rest alone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_core::limits::Limit;
use sluice_core::{Moment, Name};
use sluice_l7::GrpcCallError;
use sluice_model::model::Kind;
use sluice_model::store::{Outcome, Update};
use sluice_upstream::EndpointState;
use sluice_xds::health_discovery::greeting;
use sluice_xds::messages::health::{HealthAnswer, HealthSpecifier};
use sluice_xds::{AskedEndpoint, AskedHealth, CheckedCluster, CheckedHealth};

use super::Planes;
use super::calls::{PlaneCall, send};
use super::load_stats::address;
use super::mapper::CHECKED_PREFIX;
use crate::control::Control;

sluice_telemetry::metrics! {
    HEALTH_REQUESTS = "sluice_xds_health_requests_total", Counter, ["source", "result"], "Requests of control planes for health checks, by cluster: `accepted`, or `rejected` as a whole or in part.";
    HEALTH_ANSWERS = "sluice_xds_health_answers_total", Counter, ["source"], "Results of health checks that were sent to control planes, by cluster.";
}

const METHOD: &str = "/envoy.service.health.v3.HealthDiscoveryService/StreamHealthCheck";

/// The service that asks for checks.
#[derive(Debug)]
pub(super) struct HealthService {
    pub(super) call: PlaneCall,
    asked: RefCell<Option<AskedHealth>>,
    /// The clusters in force, by the names that they are made under.
    made: RefCell<BTreeMap<String, MadeCluster>>,
    /// What cannot be checked, by the same names.
    pub(super) refused: RefCell<BTreeMap<String, String>>,
    due: Cell<Option<Moment>>,
}

/// A cluster that was made for a check.
#[derive(Debug)]
struct MadeCluster {
    encoded: Bytes,
    native: Arc<str>,
    keys: Vec<(Kind, Name)>,
}

impl HealthService {
    /// How many clusters are checked.
    pub(super) fn count(&self) -> usize {
        self.asked.borrow().as_ref().map_or(0, |asked| asked.clusters.len())
    }
}

/// The name of the cluster that is made for a check.
fn name_of(cluster: &CheckedCluster, check: usize) -> String {
    format!("{CHECKED_PREFIX}{check}/{}", cluster.name)
}

impl Planes {
    /// Begins to offer health checks to the service that the bootstrap names.
    pub(super) fn begin_health(self: &Rc<Self>, control: &Rc<Control>) {
        let Some(api) = self.dynamic.health.clone() else { return };
        let service = Rc::new(HealthService {
            call: PlaneCall::new(api, "health checks", self.clock.now()),
            asked: RefCell::default(),
            made: RefCell::default(),
            refused: RefCell::default(),
            due: Cell::new(None),
        });
        *self.health.borrow_mut() = Some(Rc::clone(&service));
        let (planes, control) = (Rc::clone(self), Rc::clone(control));
        tokio::task::spawn_local(async move {
            let converse = async || {
                // What was asked for before is checked on, and told once it is asked for again.
                service.due.set(None);
                planes.check_health(&control, &service).await
            };
            planes.keep_calling(&control, &service.call, converse).await;
        });
    }

    /// Opens a stream and answers until it ends.
    async fn check_health(
        self: &Rc<Self>,
        control: &Rc<Control>,
        service: &Rc<HealthService>,
    ) -> Result<(), GrpcCallError> {
        let api = &service.call.api;
        let mut wire =
            self.open_call::<HealthAnswer, HealthSpecifier>(control, api, METHOD).await?;
        send(&mut wire, &greeting(&self.node)).await?;
        loop {
            let (due, now) = (service.due.get(), self.clock.now());
            tokio::select! {
                message = wire.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    service.call.responded(control, self.clock.now());
                    self.take_specifier(control, service, message).await;
                }
                () = tokio::time::sleep(due.unwrap_or(now).since(now)), if due.is_some() => {
                    let answer = self.health_answer(control, service);
                    if let Some(asked) = &*service.asked.borrow() {
                        service.due.set(Some(self.clock.now().after(asked.interval)));
                    }
                    if let Some(answer) = answer {
                        send(&mut wire, &answer).await?;
                        control.shard.counter(&HEALTH_ANSWERS, &[&api.cluster]).increment();
                    }
                }
            }
        }
    }

    /// Takes what a plane wants checked.
    async fn take_specifier(
        self: &Rc<Self>,
        control: &Rc<Control>,
        service: &HealthService,
        specifier: HealthSpecifier,
    ) {
        let source = &*service.call.api.cluster;
        let count = |result| {
            control.shard.counter(&HEALTH_REQUESTS, &[source, result]).increment();
        };
        let most = control.worker.limits.size(Limit::HealthDiscovery);
        let asked = match AskedHealth::of(specifier, most) {
            Ok(asked) => asked,
            Err(problem) => {
                count("rejected");
                tracing::warn!("what `{source}` wants checked is not accepted: {problem}");
                service.refused.borrow_mut().insert("*".to_owned(), problem);
                return;
            }
        };
        let turn = self.turn.lock().await;
        self.make_checked(control, service, &asked).await;
        drop(turn);
        let refused = service.refused.borrow();
        count(if refused.is_empty() { "accepted" } else { "rejected" });
        for (name, problem) in &*refused {
            let name = name.strip_prefix(CHECKED_PREFIX).unwrap_or(name);
            tracing::warn!("`{name}` of `{source}` cannot be checked: {problem}");
        }
        service.due.set(Some(self.clock.now().after(asked.interval)));
        service.asked.replace(Some(asked));
    }

    /// Puts the clusters in force that the checks need, and removes others. The caller has the turn.
    async fn make_checked(
        self: &Rc<Self>,
        control: &Rc<Control>,
        service: &HealthService,
        asked: &AskedHealth,
    ) {
        let mut wanted: BTreeMap<String, Bytes> = BTreeMap::new();
        for cluster in &asked.clusters {
            for check in 0..cluster.checks() {
                let name = name_of(cluster, check);
                let encoded = cluster.encoded(&name, check).into();
                wanted.insert(name, encoded);
            }
        }
        let (mut updates, new) = {
            let mut made = service.made.borrow_mut();
            let gone: Vec<MadeCluster> =
                made.extract_if(.., |name, _| !wanted.contains_key(name)).map(|of| of.1).collect();
            let keys = gone.into_iter().flat_map(|of| of.keys);
            let updates: Vec<Update> =
                keys.map(|(kind, name)| Update::Remove { kind, name }).collect();
            let is_new = |(name, encoded): &(&String, &Bytes)| {
                made.get(*name).is_none_or(|made| made.encoded != **encoded)
            };
            let new: Vec<(String, Bytes)> =
                wanted.iter().filter(is_new).map(|(name, of)| (name.clone(), of.clone())).collect();
            (updates, new)
        };
        service.refused.borrow_mut().retain(|name, _| wanted.contains_key(name));
        let built = self.with_mapper(move |mapper| {
            let build = |(name, encoded): (String, Bytes)| {
                let built = mapper.build_checked(&name, &encoded);
                (name, encoded, built)
            };
            new.into_iter().map(build).collect::<Vec<_>>()
        });
        let mut candidates = Vec::new();
        for (name, encoded, built) in built.await {
            service.refused.borrow_mut().remove(&name);
            match built {
                Ok((native, found)) => {
                    let keys: Vec<(Kind, Name)> = found.keys().cloned().collect();
                    updates.extend(found.updates);
                    candidates.push((name, MadeCluster { encoded, native, keys }));
                }
                Err(problem) => {
                    service.refused.borrow_mut().insert(name, problem);
                }
            }
        }
        let verdicts = self.put_in_force(control, updates).await;
        for (name, cluster) in candidates {
            let problem = match &verdicts {
                Err(problem) => Some(problem.clone()),
                Ok(verdicts) => cluster.keys.iter().find_map(|key| {
                    let Outcome::Rejected(found) = &verdicts.get(key)?.outcome else { return None };
                    Some(found.first().map_or_else(String::new, |of| of.message.clone()))
                }),
            };
            if let Some(problem) = problem {
                service.refused.borrow_mut().insert(name.clone(), problem);
            }
            service.made.borrow_mut().insert(name, cluster);
        }
    }

    /// The results as of now; `None` if nothing was asked for.
    fn health_answer(&self, control: &Control, service: &HealthService) -> Option<HealthAnswer> {
        let asked = service.asked.borrow();
        let asked = asked.as_ref()?;
        let made = service.made.borrow();
        let clusters = &control.builder.around.clusters;
        // The endpoints of each cluster, by the check and the address.
        let states: Vec<Vec<BTreeMap<String, Arc<EndpointState>>>> = asked
            .clusters
            .iter()
            .map(|cluster| {
                let checks = (0..cluster.checks()).map(|check| {
                    let made = made.get(&name_of(cluster, check));
                    let found = made.and_then(|made| clusters.find(&made.native));
                    let members = found.iter().flat_map(|found| found.members().endpoints.to_vec());
                    members.map(|of| (format!("{:?}", address(&of.target)), of)).collect()
                });
                checks.collect()
            })
            .collect();
        Some(asked.answer(|place, endpoint| {
            let checks = states.get(place).map_or(&[][..], Vec::as_slice);
            let each = checks.iter().map(|states| health_of(states, endpoint));
            each.max().unwrap_or(CheckedHealth::Unknown)
        }))
    }

    /// The names in Envoy of the clusters that are made for checks.
    pub(super) fn checked_names(&self) -> Vec<Arc<str>> {
        let health = self.health.borrow();
        let made =
            health.iter().flat_map(|of| of.made.borrow().keys().cloned().collect::<Vec<_>>());
        made.map(Into::into).collect()
    }
}

fn health_of(
    states: &BTreeMap<String, Arc<EndpointState>>,
    endpoint: &AskedEndpoint,
) -> CheckedHealth {
    let Some(state) = states.get(&format!("{:?}", endpoint.address)) else {
        return CheckedHealth::Unknown;
    };
    if state.awaits_check() {
        return CheckedHealth::Unknown;
    }
    match state.why_unhealthy() {
        None => CheckedHealth::Healthy,
        Some(trouble) if trouble.cause.starts_with("timed out") => CheckedHealth::Timeout,
        Some(_) => CheckedHealth::Unhealthy,
    }
}
