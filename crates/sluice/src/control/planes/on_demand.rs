//! Clusters that requests ask for (ODCDS).
//!
//! Owns: which clusters are asked for because a request needs them, and who waits for them. Refuses to know: requests, streams.
//! Keeps: a name that nobody waits for and nothing came for is asked for no longer; how many are asked for is bounded.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::Name;
use sluice_core::limits::Limit;
use sluice_envoy::sources::ResourceSource;
use sluice_upstream::demand::{DemandQuestion, Demanded};
use sluice_xds::{PartKey, WantedNames, XdsType};
use tokio::sync::{mpsc, oneshot};

use super::Planes;
use super::hosts::HostDemands;
use super::scopes::ScopeDemands;
use crate::control::Control;

sluice_telemetry::metrics! {
    DEMANDS = "sluice_xds_demands_total", Counter, ["result"], "Requests that asked a control plane for a cluster, by result: there, missing (the plane has none, or none in time) or refused (as many are asked for as may).";
    DEMANDED = "sluice_xds_demanded_clusters", Gauge, [], "Clusters that control planes are asked for on demand.";
}

/// Questions of workers that wait to be taken.
const QUESTIONS: usize = 1024;

/// What is asked for on demand.
#[derive(Debug, Default)]
pub(super) struct Demands {
    /// Where clusters come from.
    pub(super) source: RefCell<Option<ResourceSource>>,
    begun: Cell<bool>,
    asked: RefCell<BTreeSet<Arc<str>>>,
    waiting: RefCell<BTreeMap<Arc<str>, Vec<oneshot::Sender<bool>>>>,
    /// The same of virtual hosts.
    pub(super) hosts: HostDemands,
    /// The same of scopes.
    pub(super) scopes: ScopeDemands,
}

impl Planes {
    /// Begins to take questions, once it is known where clusters, virtual hosts or scopes come from.
    pub(super) fn begin_demands(self: &Rc<Self>, control: &Rc<Control>) {
        let is_asked_for =
            |key: &PartKey| matches!(key.kind, XdsType::VirtualHost | XdsType::Scope);
        let is_due = || {
            let needs = || self.inventory.borrow().needed().any(is_asked_for);
            self.demands.source.borrow().is_some() || needs()
        };
        if self.demands.begun.get() || !is_due() {
            return;
        }
        self.demands.begun.set(true);
        let (desk, mut questions) = mpsc::channel(QUESTIONS);
        control.builder.around.clusters.demands.open(desk);
        let (planes, control) = (Rc::clone(self), Rc::clone(control));
        tokio::task::spawn_local(async move {
            while let Some(question) = questions.recv().await {
                planes.take_question(&control, question).await;
            }
        });
    }

    async fn take_question(self: &Rc<Self>, control: &Rc<Control>, question: DemandQuestion) {
        let turn = self.turn.lock().await;
        match question.what {
            Demanded::Cluster(name) => self.take_cluster(control, name, question.answer),
            Demanded::Host(name) => self.take_host(control, name, question.answer),
            Demanded::Scope(key) => self.take_scope(control, key, question.answer).await,
        }
        drop(turn);
    }

    /// Takes a question about a cluster, by its native name.
    fn take_cluster(
        self: &Rc<Self>,
        control: &Rc<Control>,
        native: Name,
        answer: oneshot::Sender<bool>,
    ) {
        let count = |result| control.shard.counter(&DEMANDS, &[result]).increment();
        if control.builder.around.clusters.find(&native).is_some() {
            count("there");
            // Who asked may have given up, here and below.
            let _ = answer.send(true);
            return;
        }
        let name = self.mapper.borrow().as_ref().map(|mapper| mapper.original(&native));
        let name = name.unwrap_or_else(|| Arc::clone(&native));
        self.prune_demands(control, &BTreeSet::new());
        let most = control.worker.limits.size(Limit::OnDemandClusters);
        let is_new = !self.demands.asked.borrow().contains(&name);
        if is_new && self.demands.asked.borrow().len() >= most {
            count("refused");
            let _ = answer.send(false);
            return;
        }
        self.demands.waiting.borrow_mut().entry(Arc::clone(&name)).or_default().push(answer);
        if is_new {
            self.demands.asked.borrow_mut().insert(name);
            self.want_demanded(control);
        }
    }

    /// Answers the questions about clusters that are there now, or that the plane does not have.
    pub(super) fn answer_demands(self: &Rc<Self>, control: &Rc<Control>, missing: &[String]) {
        if !self.demands.begun.get() {
            return;
        }
        let count = |result, by| control.shard.counter(&DEMANDS, &[result]).add(by);
        let answer = |waiting: Vec<oneshot::Sender<bool>>, there| {
            count(if there { "there" } else { "missing" }, waiting.len() as u64);
            for one in waiting {
                // It may have given up.
                let _ = one.send(there);
            }
        };
        let names: Vec<Arc<str>> = self.demands.waiting.borrow().keys().cloned().collect();
        for name in names {
            let native = self.mapper.borrow_mut().as_mut().map(|mapper| mapper.cluster(&name));
            let is_there = native
                .is_some_and(|native| control.builder.around.clusters.find(&native).is_some());
            if is_there || missing.iter().any(|of| **of == *name) {
                let waiting = self.demands.waiting.borrow_mut().remove(&name);
                answer(waiting.unwrap_or_default(), is_there);
            }
        }
        let missing = missing.iter().map(|name| Arc::from(name.as_str())).collect();
        self.prune_demands(control, &missing);
    }

    /// Asks no longer for what nobody waits for and nothing came for, or what the plane does not have.
    fn prune_demands(self: &Rc<Self>, control: &Rc<Control>, missing: &BTreeSet<Arc<str>>) {
        let mut waiting = self.demands.waiting.borrow_mut();
        let shard = &control.shard;
        waiting.retain(|_, all| {
            let before = all.len();
            all.retain(|one| !one.is_closed());
            shard.counter(&DEMANDS, &["missing"]).add((before - all.len()) as u64);
            !all.is_empty()
        });
        let stays = |name: &Arc<str>| {
            !missing.contains(name)
                && (waiting.contains_key(name)
                    || self.inventory.borrow().has(XdsType::Cluster, name))
        };
        let before = self.demands.asked.borrow().len();
        self.demands.asked.borrow_mut().retain(stays);
        drop(waiting);
        if self.demands.asked.borrow().len() != before {
            self.want_demanded(control);
        }
    }

    fn want_demanded(self: &Rc<Self>, control: &Rc<Control>) {
        let Some(source) = self.demands.source.borrow().clone() else { return };
        let names: BTreeSet<String> =
            self.demands.asked.borrow().iter().map(ToString::to_string).collect();
        control.shard.gauge(&DEMANDED, &[]).set(names.len() as u64);
        self.want(control, XdsType::Cluster, &source.from, WantedNames::These(names));
    }
}
