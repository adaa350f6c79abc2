//! Control planes: their resources are put in force beside those of the file.
//!
//! Owns: in which order types are asked for, what is applied when, what a plane is told of it, readiness. Refuses to know:
//! streams on the wire, how a change is put in force. Keeps: one response after the other; a resource that is refused
//! leaves its predecessor in force and the others alone; clusters come before the listeners that use them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_core::clock::Clock;
use sluice_core::{Moment, Name};
use sluice_envoy::message::ProtoMessage;
use sluice_envoy::sources::{DynamicResources, ResourceSource, SourceKind};
use sluice_model::model::Kind;
use sluice_xds::{
    Inventory, OwnerKey, OwnerKind, PartKey, ResourceFault, Versioned, WantedNames, XdsResponse,
    XdsType,
};
use tokio::sync::Notify;

use super::Control;

mod applying;
mod files;
mod mapper;
mod page;
mod streams;

use mapper::{Decoded, PlaneMapper};
use streams::PlaneStream;

sluice_telemetry::metrics! {
    RESPONSES = "sluice_xds_responses_total", Counter, ["type", "result"], "Responses of control planes by type of resource: accepted, rejected, or ignored because nobody asked for the type.";
    CONNECTED = "sluice_xds_connected", Gauge, ["source"], "Streams to control planes that are open and have had a response, by cluster.";
    STREAMS = "sluice_xds_streams_total", Counter, ["source", "result"], "Streams to control planes that have ended, by cluster: `failed` before a response, otherwise `closed`.";
    RESOURCES = "sluice_xds_resources", Gauge, ["type", "state"], "Resources of control planes by type: active, warming (they wait for others), rejected (the newest version is not in use).";
}

/// The version of what the bootstrap itself has.
const BOOTSTRAP: &str = "bootstrap";

/// A resource as it is kept.
#[derive(Debug)]
struct XdsContent {
    message: ProtoMessage,
    /// The same, encoded; empty for one of the bootstrap.
    body: Bytes,
}

/// What is in force of a cluster or listener.
#[derive(Debug, Default)]
struct AppliedOwner {
    keys: BTreeSet<(Kind, Name)>,
    /// The clusters that it names.
    clusters: HashSet<Arc<str>>,
    logs: applying::PlaneLogs,
}

/// The control planes of a bootstrap, and what they are told of this process, encoded.
#[derive(Debug)]
pub(crate) struct PlanesPlan {
    pub(crate) dynamic: DynamicResources,
    pub(crate) node: Vec<u8>,
}

/// Where the first resources have been waited for so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FirstLoad {
    Clusters,
    Listeners,
    Done,
}

/// The control planes of a bootstrap.
pub(crate) struct Planes {
    dynamic: DynamicResources,
    /// What planes are told of this process, encoded.
    node: Bytes,
    clock: Clock,
    mapper: RefCell<Option<PlaneMapper>>,
    /// One response is applied at a time.
    turn: tokio::sync::Mutex<()>,
    inventory: RefCell<Inventory<XdsContent>>,
    applied: RefCell<BTreeMap<OwnerKey, AppliedOwner>>,
    streams: RefCell<Vec<Rc<PlaneStream>>>,
    /// Where parts come from.
    part_sources: RefCell<BTreeMap<PartKey, SourceKind>>,
    /// The access logs of listeners that are written.
    logs_in_use: RefCell<applying::PlaneLogs>,
    load: Cell<FirstLoad>,
    /// The types of which a first response came, or was waited for long enough.
    answered: RefCell<BTreeSet<XdsType>>,
    /// Something came, or something else is to be waited for.
    changed: Notify,
}

impl Planes {
    /// The planes of a bootstrap.
    pub(crate) fn new(plan: PlanesPlan, clock: Clock) -> Self {
        let PlanesPlan { dynamic, node } = plan;
        Self {
            mapper: RefCell::new(Some(PlaneMapper::new(&dynamic))),
            dynamic,
            node: node.into(),
            clock,
            turn: tokio::sync::Mutex::new(()),
            inventory: RefCell::default(),
            applied: RefCell::default(),
            streams: RefCell::default(),
            part_sources: RefCell::default(),
            logs_in_use: RefCell::default(),
            load: Cell::new(FirstLoad::Clusters),
            answered: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// Asks for what the bootstrap names and applies what comes, for ever. `ready` is told once the first clusters and
    /// listeners are there, or were waited for long enough.
    pub(super) async fn run(self: Rc<Self>, control: Rc<Control>, ready: Rc<Notify>) {
        let begun = self.clock.now();
        self.begin(&control, OwnerKind::Cluster).await;
        let mut waits_since = begun;
        loop {
            self.settle(&control).await;
            while self.first_load_is_over(waits_since) {
                waits_since = self.clock.now();
                match self.load.get() {
                    FirstLoad::Clusters => {
                        self.load.set(FirstLoad::Listeners);
                        self.begin(&control, OwnerKind::Listener).await;
                        self.settle(&control).await;
                    }
                    FirstLoad::Listeners => {
                        self.load.set(FirstLoad::Done);
                        ready.notify_one();
                    }
                    FirstLoad::Done => break,
                }
            }
            let next = self.next_wake(waits_since);
            let now = self.clock.now();
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(next.since(now)), if next != Moment::NEVER => {}
            }
        }
    }

    /// The clusters or listeners of the bootstrap, and a subscription to others.
    async fn begin(self: &Rc<Self>, control: &Rc<Control>, kind: OwnerKind) {
        let turn = self.turn.lock().await;
        let of_kind = |message: &&ProtoMessage| {
            (message.descriptor.name() == "Cluster") == (kind == OwnerKind::Cluster)
        };
        let fixed: Vec<ProtoMessage> = self.dynamic.fixed.iter().filter(of_kind).cloned().collect();
        let xds = kind.xds_type();
        let checked = self.with_mapper(move |mapper| {
            let check = |of: ProtoMessage| mapper.check(xds, Some(of), Default::default());
            fixed.into_iter().map(check).collect::<Vec<_>>()
        });
        for decoded in checked.await {
            match decoded {
                Ok(decoded) => {
                    let name = sluice_envoy::parts::name_of(&decoded.message);
                    self.offer(xds, &name, &BOOTSTRAP.into(), decoded, Bytes::new(), true);
                }
                // The whole file was checked before.
                Err(problem) => tracing::error!("the bootstrap: {problem}"),
            }
        }
        drop(turn);
        let source = match kind {
            OwnerKind::Cluster => &self.dynamic.clusters,
            OwnerKind::Listener => &self.dynamic.listeners,
        };
        match source {
            Some(source) => self.want(control, xds, &source.from, WantedNames::All),
            None => drop(self.answered.borrow_mut().insert(xds)),
        }
        self.subscribe(control);
    }

    /// Whether what is waited for first has come, or is waited for no longer.
    fn first_load_is_over(&self, since: Moment) -> bool {
        let (kind, source) = match self.load.get() {
            FirstLoad::Clusters => (OwnerKind::Cluster, &self.dynamic.clusters),
            FirstLoad::Listeners => (OwnerKind::Listener, &self.dynamic.listeners),
            FirstLoad::Done => return false,
        };
        let answered = self.answered.borrow().contains(&kind.xds_type());
        let late = source
            .as_ref()
            .and_then(|source| source.fetch_timeout)
            .is_some_and(|timeout| self.clock.now() >= since.after(timeout));
        (answered || late) && self.inventory.borrow().is_settled(kind)
    }

    /// When something is over that is waited for.
    fn next_wake(&self, since: Moment) -> Moment {
        let first = match self.load.get() {
            FirstLoad::Clusters => self.dynamic.clusters.as_ref(),
            FirstLoad::Listeners => self.dynamic.listeners.as_ref(),
            FirstLoad::Done => None,
        };
        let first = first.and_then(|source| source.fetch_timeout).map(|time| since.after(time));
        let now = self.clock.now();
        let first = first.filter(|at| *at > now);
        let expiries = self.streams.borrow();
        let expiries = expiries.iter().filter_map(|stream| stream.machine.borrow().next_expiry());
        let all = expiries.chain(first).chain(self.inventory.borrow().next_deadline());
        all.min().unwrap_or(Moment::NEVER)
    }

    /// Takes a response of a plane; returns what was not accepted.
    pub(super) async fn take(
        self: &Rc<Self>,
        control: &Rc<Control>,
        response: XdsResponse,
    ) -> Vec<ResourceFault> {
        let turn = self.turn.lock().await;
        let XdsResponse { kind, version, resources, removed, complete, mut faults } = response;
        let mut there: HashSet<String> = faults.iter().map(|fault| fault.name.clone()).collect();
        let now = self.clock.now();
        let mut new = Vec::new();
        for resource in resources {
            there.insert(resource.name.clone());
            let version: Arc<str> = resource.version.as_str().into();
            let same = |content: &XdsContent| content.body == resource.body;
            if !self.inventory.borrow_mut().renew(kind, &resource.name, &version, same) {
                new.push((resource.name, version, resource.body));
            }
        }
        for fault in &faults {
            self.refuse(kind, &fault.name, &version, &fault.problem);
        }
        let decoded = self.with_mapper(move |mapper| {
            let decode = |(name, version, body): (String, Arc<str>, Bytes)| {
                let decoded = mapper.decode(kind, &body);
                (name, version, body, decoded)
            };
            new.into_iter().map(decode).collect::<Vec<_>>()
        });
        for (name, version, body, decoded) in decoded.await {
            let problem = match decoded {
                Ok(decoded) => {
                    if self.offer(kind, &name, &version, decoded, body, false) {
                        continue;
                    }
                    format!("the bootstrap has a {kind} of this name; rename one of the two")
                }
                Err(problem) => problem,
            };
            self.refuse(kind, &name, &version, &problem);
            faults.push(ResourceFault { name, problem });
        }
        let mut gone = removed;
        if complete {
            gone.extend(self.missing(kind, &there));
        }
        let refused = self.apply(control, kind, gone, now).await;
        let own = refused.into_iter().filter(|(of, ..)| *of == kind);
        faults.extend(
            own.map(|(_, name, problem)| ResourceFault { name: name.to_string(), problem }),
        );
        let result = if faults.is_empty() { "accepted" } else { "rejected" };
        control.shard.counter(&RESPONSES, &[kind.discovery(), result]).increment();
        self.answered.borrow_mut().insert(kind);
        drop(turn);
        self.subscribe(control);
        self.changed.notify_one();
        faults
    }

    /// The clusters or listeners that a complete response does not have any more.
    fn missing(&self, kind: XdsType, there: &HashSet<String>) -> Vec<String> {
        let of = if kind == XdsType::Cluster { OwnerKind::Cluster } else { OwnerKind::Listener };
        let inventory = self.inventory.borrow();
        let names = inventory.names(of).filter(|name| !there.contains(&***name));
        names.map(ToString::to_string).collect()
    }

    /// Adds a resource that was read; `false` if the bootstrap has one of its name.
    fn offer(
        &self,
        kind: XdsType,
        name: &str,
        version: &Arc<str>,
        decoded: Decoded,
        body: Bytes,
        fixed: bool,
    ) -> bool {
        let Decoded { message, needs, warnings } = decoded;
        for warning in warnings {
            tracing::warn!("{kind} `{name}`: {warning}");
        }
        let now = self.clock.now();
        let content = XdsContent { message, body };
        let versioned = Versioned { version: Arc::clone(version), since: now, content };
        let owner = match kind {
            XdsType::Cluster => OwnerKind::Cluster,
            XdsType::Listener => OwnerKind::Listener,
            XdsType::Assignment | XdsType::Routes => {
                let key = PartKey { kind, name: name.into() };
                self.inventory.borrow_mut().offer_part(key, versioned);
                return true;
            }
        };
        let mut deadline = now;
        let mut sources = self.part_sources.borrow_mut();
        for (key, ResourceSource { from, fetch_timeout }) in &needs {
            sources.insert(key.clone(), from.clone());
            deadline = deadline.max(fetch_timeout.map_or(Moment::NEVER, |time| now.after(time)));
        }
        let needs = needs.into_iter().map(|(key, _)| key).collect();
        let key = OwnerKey { kind: owner, name: name.into() };
        self.inventory.borrow_mut().offer(key, versioned, needs, deadline, fixed)
    }

    fn refuse(&self, kind: XdsType, name: &str, version: &str, problem: &str) {
        tracing::warn!("{kind} `{name}` of the control plane is not accepted: {problem}");
        let now = self.clock.now();
        self.inventory.borrow_mut().refuse(kind, name, version, problem, now);
    }

    /// Applies what has waited for long enough, and removes what has lived for long enough.
    async fn settle(self: &Rc<Self>, control: &Rc<Control>) {
        let turn = self.turn.lock().await;
        let now = self.clock.now();
        let expired: Vec<(XdsType, String)> = {
            let streams = self.streams.borrow();
            streams.iter().flat_map(|stream| stream.machine.borrow_mut().expire(now)).collect()
        };
        for kind in [XdsType::Cluster, XdsType::Listener] {
            let gone = expired.iter().filter(|(of, _)| *of == kind);
            let gone = gone.map(|(_, name)| name.clone()).collect();
            self.apply(control, kind, gone, now).await;
        }
        drop(turn);
        self.subscribe(control);
    }

    /// Asks for exactly what something needs.
    fn subscribe(self: &Rc<Self>, control: &Rc<Control>) {
        for kind in [XdsType::Assignment, XdsType::Routes] {
            let wanted = self.inventory.borrow().wanted(kind);
            let mut by_source: BTreeMap<SourceKind, BTreeSet<String>> = BTreeMap::new();
            {
                let mut sources = self.part_sources.borrow_mut();
                sources.retain(|key, _| key.kind != kind || wanted.contains(&*key.name));
                for (key, source) in sources.iter().filter(|(key, _)| key.kind == kind) {
                    by_source.entry(source.clone()).or_default().insert(key.name.to_string());
                }
            }
            // Sources of which nothing is needed any more.
            for stream in self.streams.borrow().iter() {
                if stream.kinds.borrow().contains(&kind) {
                    by_source.entry(stream.source.clone()).or_default();
                }
            }
            for (source, names) in by_source {
                self.want(control, kind, &source, WantedNames::These(names));
            }
        }
    }
}
