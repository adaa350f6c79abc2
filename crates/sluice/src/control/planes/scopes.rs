//! Scopes of route tables (SRDS), and those whose routes requests ask for.
//!
//! Owns: which scope has which key, whose routes are asked for because a request needs them, and who waits for them. Refuses to
//! know: requests, streams. Keeps: no two scopes have one key; routes that nobody waits for and that have not come are asked for no longer; how many scopes
//! are asked for is bounded.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::limits::Limit;
use sluice_envoy::sources::ResourceSource;
use sluice_xds::{PartKey, XdsType};
use tokio::sync::oneshot;

use super::Planes;
use super::mapper::ScopeFacts;
use crate::control::Control;

sluice_telemetry::metrics! {
    SCOPE_DEMANDS = "sluice_xds_scope_demands_total", Counter, ["result"], "Requests that asked a control plane for the routes of their scope, by result: there, missing (no scope is for them, or its routes have not come in time) or refused (as many are asked for as may).";
    DEMANDED_SCOPES = "sluice_xds_demanded_scopes", Gauge, [], "Scopes whose routes control planes are asked for because requests need them.";
}

/// A scope that has come.
#[derive(Clone, Debug)]
struct KnownScope {
    key: Arc<str>,
    /// Its route table, and where that comes from, if it comes on demand.
    on_demand: Option<(PartKey, ResourceSource)>,
}

/// The scopes that have come, and those that are asked for.
#[derive(Debug, Default)]
pub(super) struct ScopeDemands {
    /// Their names by their keys.
    by_key: RefCell<BTreeMap<Arc<str>, Arc<str>>>,
    known: RefCell<BTreeMap<Arc<str>, KnownScope>>,
    /// Those whose routes are asked for because of requests.
    asked: RefCell<BTreeSet<Arc<str>>>,
    waiting: RefCell<BTreeMap<Arc<str>, Vec<oneshot::Sender<bool>>>>,
}

impl ScopeDemands {
    /// A scope is gone.
    pub(super) fn forget(&self, name: &str) {
        self.release(name);
        self.known.borrow_mut().remove(name);
        self.asked.borrow_mut().remove(name);
    }

    /// The route table of a scope, if it comes on demand.
    fn table_of(&self, name: &str) -> Option<PartKey> {
        let known = self.known.borrow();
        known.get(name)?.on_demand.as_ref().map(|(table, _)| table.clone())
    }

    /// Gives up the key of a scope, of which a new version has come.
    pub(super) fn release(&self, name: &str) {
        let known = self.known.borrow();
        let Some(KnownScope { key, .. }) = known.get(name) else { return };
        let mut by_key = self.by_key.borrow_mut();
        if by_key.get(key).is_some_and(|of| **of == *name) {
            by_key.remove(key);
        }
    }

    /// Gives a scope its key back, of which the new version was refused, unless another has it.
    pub(super) fn reclaim(&self, name: &str) {
        if let Some((name, of)) = self.known.borrow().get_key_value(name) {
            let mut by_key = self.by_key.borrow_mut();
            by_key.entry(Arc::clone(&of.key)).or_insert_with(|| Arc::clone(name));
        }
    }
}

impl Planes {
    /// Why a new version of a scope cannot be: another scope has its key.
    pub(super) fn conflict_of_scope(&self, name: &str, facts: &ScopeFacts) -> Option<String> {
        let by_key = self.demands.scopes.by_key.borrow();
        let other = by_key.get(&facts.key).filter(|other| ***other != *name)?;
        self.inventory.borrow().has(XdsType::Scope, other).then(|| {
            format!("key: the scope `{other}` has the same key; give each scope a key of its own")
        })
    }

    /// Notes what a new version of a scope says. Routes that a request has asked for are among its needs.
    pub(super) fn note_scope(
        &self,
        name: &str,
        facts: ScopeFacts,
        needs: &mut Vec<(PartKey, ResourceSource)>,
    ) {
        let demands = &self.demands.scopes;
        demands.release(name);
        let name: Arc<str> = name.into();
        let ScopeFacts { key, on_demand } = facts;
        match &on_demand {
            Some(table) if demands.asked.borrow().contains(&name) => needs.push(table.clone()),
            Some(_) => {}
            None => drop(demands.asked.borrow_mut().remove(&name)),
        }
        demands.by_key.borrow_mut().insert(Arc::clone(&key), Arc::clone(&name));
        demands.known.borrow_mut().insert(name, KnownScope { key, on_demand });
    }

    /// Takes a question about a scope, by its key. The caller has the turn.
    pub(super) async fn take_scope(
        self: &Rc<Self>,
        control: &Rc<Control>,
        key: Arc<str>,
        answer: oneshot::Sender<bool>,
    ) {
        let count = |result| control.shard.counter(&SCOPE_DEMANDS, &[result]).increment();
        self.prune_scopes(control);
        let demands = &self.demands.scopes;
        let name = demands.by_key.borrow().get(&key).cloned();
        let scope = name.as_ref().and_then(|name| demands.known.borrow().get(name).cloned());
        let table = scope.and_then(|scope| scope.on_demand);
        let Some((name, table)) = name.zip(table) else {
            count("missing");
            // Who asked may have given up, here and below.
            let _ = answer.send(false);
            return;
        };
        let is_asked = demands.asked.borrow().contains(&name);
        if is_asked && self.inventory.borrow().is_in_use(&table.0) {
            count("there");
            let _ = answer.send(true);
            return;
        }
        let most = control.worker.limits.size(Limit::OnDemandScopes);
        if !is_asked && demands.asked.borrow().len() >= most {
            count("refused");
            let _ = answer.send(false);
            return;
        }
        demands.waiting.borrow_mut().entry(Arc::clone(&name)).or_default().push(answer);
        if !is_asked {
            demands.asked.borrow_mut().insert(Arc::clone(&name));
            self.set_demanded(control, &name, vec![table]);
            // Another scope may have the same routes.
            self.apply(control, XdsType::Listener, Vec::new(), self.clock.now()).await;
            self.subscribe(control);
        }
    }

    /// Sets what a scope needs because of requests.
    fn set_demanded(
        self: &Rc<Self>,
        control: &Rc<Control>,
        name: &Arc<str>,
        tables: Vec<(PartKey, ResourceSource)>,
    ) {
        let needs = self.note_sources(tables, self.clock.now());
        let key = PartKey { kind: XdsType::Scope, name: Arc::clone(name) };
        self.inventory.borrow_mut().set_needs(&key, &needs);
        let count = self.demands.scopes.asked.borrow().len() as u64;
        control.shard.gauge(&DEMANDED_SCOPES, &[]).set(count);
    }

    /// Answers the questions about scopes whose routes are there, or were refused.
    pub(super) fn answer_scopes(&self, control: &Rc<Control>) {
        let demands = &self.demands.scopes;
        let names: Vec<Arc<str>> = demands.waiting.borrow().keys().cloned().collect();
        for name in names {
            let table = demands.table_of(&name);
            let is_there = table.map(|table| self.inventory.borrow().is_in_use(&table));
            // One whose routes have not come waits on; one that is gone does not.
            if is_there == Some(false) {
                continue;
            }
            let is_there = is_there.unwrap_or_default();
            let result = if is_there { "there" } else { "missing" };
            for one in demands.waiting.borrow_mut().remove(&name).into_iter().flatten() {
                control.shard.counter(&SCOPE_DEMANDS, &[result]).increment();
                let _ = one.send(is_there);
            }
        }
    }

    /// Asks no longer for routes that nobody waits for and that have not come.
    fn prune_scopes(self: &Rc<Self>, control: &Rc<Control>) {
        let demands = &self.demands.scopes;
        demands.waiting.borrow_mut().retain(|_, all| {
            let before = all.len();
            all.retain(|one| !one.is_closed());
            let gone = (before - all.len()) as u64;
            control.shard.counter(&SCOPE_DEMANDS, &["missing"]).add(gone);
            !all.is_empty()
        });
        let is_idle = |name: &&Arc<str>| {
            let has = |table: PartKey| self.inventory.borrow().has(table.kind, &table.name);
            let is_there = demands.table_of(name).is_some_and(has);
            !is_there && !demands.waiting.borrow().contains_key(*name)
        };
        let idle: Vec<Arc<str>> = demands.asked.borrow().iter().filter(is_idle).cloned().collect();
        for name in &idle {
            demands.asked.borrow_mut().remove(name);
            self.set_demanded(control, name, Vec::new());
        }
        if !idle.is_empty() {
            self.subscribe(control);
        }
    }
}
