//! Control planes: their resources are put in force beside those of the file.
//!
//! Owns: in which order types are asked for, what is applied when, what a plane is told of it, readiness. Refuses to know:
//! streams on the wire, how a change is put in force. Keeps: one response after the other; a resource that is refused
//! leaves its predecessor in force and the others alone; clusters come before the listeners that use them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_core::clock::Clock;
use sluice_core::{Moment, Name};
use sluice_envoy::message::ProtoMessage;
use sluice_envoy::sources::{DynamicResources, PlaneBesideFiles, ResourceSource, SourceKind};
use sluice_envoy::stats::names::OwnerStatNames;
use sluice_model::model::Kind;
use sluice_model::sections::PlaneResource;
use sluice_xds::{Inventory, OwnerKey, OwnerKind, PartKey, WantedNames, XdsType};
use tokio::sync::Notify;

use super::Control;
use super::build::Built;

mod applying;
mod calls;
mod dump;
mod files;
mod health;
mod hosts;
mod last_good;
mod load_stats;
mod mapper;
mod on_demand;
mod page;
mod polling;
mod scopes;
mod streams;
mod taking;

pub(super) use dump::{ResourceInForce, WaitingResource};
use health::HealthService;
use last_good::LastGood;
pub(crate) use last_good::LastGoodPlan;
use load_stats::{LoadStream, ReportedAs};
use mapper::{GivenResource, PlaneMapper};
use on_demand::Demands;
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
    /// As it was read, until it is applied: a tree takes many times the memory of its bytes. One of the bootstrap stays.
    read: RefCell<Option<ProtoMessage>>,
    /// The same, encoded; empty for one of the bootstrap.
    body: Bytes,
    /// Whether a secret is in it.
    has_secret: bool,
}

impl XdsContent {
    /// What it says, to be applied.
    fn given(&self, kind: XdsType) -> GivenResource {
        let read = if self.body.is_empty() { self.read.borrow().clone() } else { self.read.take() };
        let received = || GivenResource::Received(kind, self.body.clone());
        read.map_or_else(received, GivenResource::Read)
    }
}

/// What is in force of a cluster or listener.
#[derive(Debug, Default)]
struct AppliedOwner {
    keys: Box<[(Kind, Name)]>,
    /// The clusters that it names.
    clusters: Box<[Arc<str>]>,
    /// Its names in Envoy's statistics.
    stat_names: Option<OwnerStatNames>,
}

/// The control planes of a bootstrap, and what they are told of this process, encoded.
#[derive(Debug)]
pub(crate) struct PlanesPlan {
    pub(crate) dynamic: DynamicResources,
    pub(crate) node: Vec<u8>,
    /// Where what they said last is kept.
    pub(crate) last_good: Option<LastGoodPlan>,
}

impl PlanesPlan {
    /// The control plane that files of the native form name; `None` if they name none.
    pub(crate) fn beside_files(built: &Built) -> Option<Self> {
        let section = built.process.control_plane.as_ref()?;
        let time = section.timeout.0;
        let plane = PlaneBesideFiles {
            cluster: Arc::clone(&section.cluster.value),
            incremental: section.incremental,
            node: (section.id.as_ref()?.value.clone(), section.group.value.clone()),
            clusters: section.sends(PlaneResource::Clusters),
            listeners: section.sends(PlaneResource::Listeners),
            fetch_timeout: (!time.is_zero()).then_some(time),
        };
        let clusters = built.staged.verdicts.iter().filter(|of| of.kind == Kind::Cluster);
        let clusters = clusters.map(|of| Arc::clone(&of.name)).collect();
        let dynamic = DynamicResources::beside(plane, clusters, built.node_section.clone());
        let node = dynamic.node().ok()?;
        Some(Self { dynamic, node, last_good: None })
    }
}

/// Where the first resources have been waited for so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FirstLoad {
    Runtime,
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
    /// Streams of load reports.
    loads: RefCell<Vec<Rc<LoadStream>>>,
    /// What requests ask for.
    demands: Demands,
    /// The service that asks for health checks.
    health: RefCell<Option<Rc<HealthService>>>,
    /// What clusters say of reports about them, by name.
    reported_as: RefCell<BTreeMap<Arc<str>, ReportedAs>>,
    /// Where parts come from.
    part_sources: RefCell<BTreeMap<PartKey, SourceKind>>,
    /// The state of what is needed that was asked for; `None` to ask again.
    subscribed: Cell<Option<u64>>,
    /// The access logs of the listeners that have any.
    logs: RefCell<BTreeMap<OwnerKey, applying::PlaneLogs>>,
    /// Those that are written.
    logs_in_use: RefCell<Option<applying::PlaneLogs>>,
    load: Cell<FirstLoad>,
    last_good: Option<LastGood>,
    /// The types of which a first response came, or was waited for long enough.
    answered: RefCell<BTreeSet<XdsType>>,
    /// Something came, or something else is to be waited for.
    changed: Notify,
}

impl Planes {
    /// The planes of a bootstrap.
    pub(crate) fn new(plan: PlanesPlan, clock: Clock) -> Self {
        let PlanesPlan { dynamic, node, last_good } = plan;
        let demands = Demands::default();
        demands.source.replace(dynamic.demand.clone());
        let node = Bytes::from(node);
        Self {
            mapper: RefCell::new(Some(PlaneMapper::new(&dynamic, last_good.is_some()))),
            dynamic,
            last_good: last_good.map(|plan| LastGood::new(plan, node.clone())),
            node,
            clock,
            turn: tokio::sync::Mutex::new(()),
            inventory: RefCell::default(),
            applied: RefCell::default(),
            streams: RefCell::default(),
            loads: RefCell::default(),
            demands,
            health: RefCell::default(),
            reported_as: RefCell::default(),
            part_sources: RefCell::default(),
            subscribed: Cell::new(None),
            logs: RefCell::default(),
            logs_in_use: RefCell::default(),
            load: Cell::new(FirstLoad::Runtime),
            answered: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// Asks for what the bootstrap names and applies what comes, for ever. `ready` is told once the first clusters and
    /// listeners are there, or were waited for long enough.
    pub(super) async fn run(self: Rc<Self>, control: Rc<Control>, ready: Rc<Notify>) {
        self.read_last_good().await;
        self.begin_load_stats(&control);
        self.begin_health(&control);
        self.begin_demands(&control);
        let begun = self.clock.now();
        self.begin(&control, OwnerKind::Runtime).await;
        let mut waits_since = begun;
        loop {
            self.settle(&control).await;
            loop {
                if let Some((kind, until)) = self.first_wait(waits_since)
                    && self.falls_back(kind, until)
                {
                    self.fall_back(&control, kind).await;
                    self.settle(&control).await;
                }
                if !self.first_load_is_over(waits_since) {
                    break;
                }
                waits_since = self.clock.now();
                match self.load.get() {
                    FirstLoad::Runtime => {
                        self.load.set(FirstLoad::Clusters);
                        self.begin(&control, OwnerKind::Cluster).await;
                        self.settle(&control).await;
                    }
                    FirstLoad::Clusters => {
                        self.load.set(FirstLoad::Listeners);
                        self.begin(&control, OwnerKind::Listener).await;
                        self.settle(&control).await;
                    }
                    FirstLoad::Listeners => {
                        self.load.set(FirstLoad::Done);
                        self.forget_kept();
                        ready.notify_one();
                    }
                    FirstLoad::Done => break,
                }
            }
            if self.load.get() == FirstLoad::Done {
                self.keep_last_good().await;
            }
            let next = self.next_wake(waits_since);
            let now = self.clock.now();
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(next.since(now)), if next != Moment::NEVER => {}
            }
        }
    }

    /// What the bootstrap has of a kind, and a subscription to others.
    async fn begin(self: &Rc<Self>, control: &Rc<Control>, kind: OwnerKind) {
        let turn = self.turn.lock().await;
        let xds = kind.xds_type();
        let of_kind =
            |message: &&ProtoMessage| xds.url().rsplit('/').next() == Some(message.type_name());
        let fixed: Vec<ProtoMessage> = self.dynamic.fixed.iter().filter(of_kind).cloned().collect();
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
        let sources = self.sources_of(kind);
        if sources.is_empty() {
            self.answered.borrow_mut().insert(xds);
        }
        for (source, wanted) in sources {
            self.want(control, xds, &source.from, wanted);
        }
        self.subscribe(control);
    }

    /// Where the resources of a kind come from, and which are asked for.
    fn sources_of(&self, kind: OwnerKind) -> Vec<(ResourceSource, WantedNames)> {
        let all = |source: &Option<ResourceSource>| {
            source.iter().map(|source| (source.clone(), WantedNames::All)).collect()
        };
        match kind {
            OwnerKind::Cluster => all(&self.dynamic.clusters),
            OwnerKind::Listener => all(&self.dynamic.listeners),
            OwnerKind::Runtime => {
                let mut found: Vec<(ResourceSource, BTreeSet<String>)> = Vec::new();
                for (name, source) in &self.dynamic.runtime {
                    let known = found.iter_mut().find(|(of, _)| of.from == source.from);
                    match known {
                        Some((_, names)) => drop(names.insert(name.to_string())),
                        None => found.push((source.clone(), BTreeSet::from([name.to_string()]))),
                    }
                }
                let these = |(source, names)| (source, WantedNames::These(names));
                found.into_iter().map(these).collect()
            }
        }
    }

    /// What is waited for first, and until when.
    fn first_wait(&self, since: Moment) -> Option<(OwnerKind, Moment)> {
        let kind = match self.load.get() {
            FirstLoad::Runtime => OwnerKind::Runtime,
            FirstLoad::Clusters => OwnerKind::Cluster,
            FirstLoad::Listeners => OwnerKind::Listener,
            FirstLoad::Done => return None,
        };
        let sources = self.sources_of(kind).into_iter();
        let until = sources.map(|(source, _)| {
            source.fetch_timeout.map_or(Moment::NEVER, |timeout| since.after(timeout))
        });
        Some((kind, until.max().unwrap_or(since)))
    }

    /// Whether what is waited for first has come, or is waited for no longer.
    fn first_load_is_over(&self, since: Moment) -> bool {
        let Some((kind, until)) = self.first_wait(since) else { return false };
        let answered = self.answered.borrow().contains(&kind.xds_type());
        (answered || self.clock.now() >= until) && self.inventory.borrow().is_settled(kind)
    }

    /// When something is over that is waited for.
    fn next_wake(&self, since: Moment) -> Moment {
        let first = self.first_wait(since).map(|(_, until)| until);
        let now = self.clock.now();
        let first = first.filter(|at| *at > now);
        let expiries = self.streams.borrow();
        let expiries = expiries.iter().filter_map(|stream| stream.machine.borrow().next_expiry());
        let write = Some(self.next_write()).filter(|_| self.load.get() == FirstLoad::Done);
        let all = expiries.chain(first).chain(self.inventory.borrow().next_deadline()).chain(write);
        all.min().unwrap_or(Moment::NEVER)
    }

    /// Applies what has waited for long enough, and removes what has lived for long enough.
    async fn settle(self: &Rc<Self>, control: &Rc<Control>) {
        let turn = self.turn.lock().await;
        let now = self.clock.now();
        let expired: Vec<(XdsType, String)> = {
            let streams = self.streams.borrow();
            streams.iter().flat_map(|stream| stream.machine.borrow_mut().expire(now)).collect()
        };
        self.restore_late(now).await;
        for kind in [XdsType::VirtualHost, XdsType::Scope] {
            let gone = expired.iter().filter(|(of, _)| *of == kind);
            let gone: Vec<String> = gone.map(|(_, name)| name.clone()).collect();
            self.remove_members(kind, &gone);
        }
        for kind in [XdsType::Runtime, XdsType::Cluster, XdsType::Listener] {
            let gone = expired.iter().filter(|(of, _)| *of == kind);
            let gone = gone.map(|(_, name)| name.clone()).collect();
            self.apply(control, kind, gone, now).await;
        }
        drop(turn);
        self.subscribe(control);
    }

    /// Asks for exactly what something needs.
    fn subscribe(self: &Rc<Self>, control: &Rc<Control>) {
        let changes = self.inventory.borrow().changes_of_need();
        if self.subscribed.replace(Some(changes)) == Some(changes) {
            return;
        }
        let mut wanted: BTreeMap<(XdsType, SourceKind), BTreeSet<String>> = BTreeMap::new();
        {
            let (inventory, mut sources) =
                (self.inventory.borrow(), self.part_sources.borrow_mut());
            sources.retain(|key, _| inventory.is_needed(key));
            for (key, source) in sources.iter() {
                let names = wanted.entry((key.kind, source.clone())).or_default();
                names.insert(key.name.to_string());
            }
        }
        // Sources of which nothing is needed any more.
        for stream in self.streams.borrow().iter() {
            for kind in stream.kinds.borrow().iter().filter(|kind| XdsType::PARTS.contains(kind)) {
                wanted.entry((*kind, stream.source.clone())).or_default();
            }
        }
        for ((kind, source), names) in wanted {
            let wanted = match kind {
                XdsType::VirtualHost => {
                    WantedNames::Below { names: self.hosts_asked_of(&names), groups: names }
                }
                // Their group has no name.
                XdsType::Scope if !names.is_empty() => WantedNames::All,
                _ => WantedNames::These(names),
            };
            self.want(control, kind, &source, wanted);
        }
    }
}
