//! A worker: a thread with its own runtime, sockets and connections.
//!
//! Owns: the thread and the commands that the control thread may send it. Refuses to know: configuration.
//! Keeps: commands are executed in the order in which they were sent; the thread ends when its command
//! channel is closed, and not before.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_core::clock::{ClockOrigin, rfc3339};
use sluice_core::connection::ConnInfo;
use sluice_core::{Limits, ListenAddress, Name, Reason};
use sluice_io::{Budget, WorkerCx, turn};
use sluice_l4::accept::Slot;
use sluice_l4::inspect::tls;
use sluice_l4::udp::UdpSlot;
use sluice_l7::attempts::Departure;
use sluice_l7::in_flight;
use sluice_l7::worker::HttpWorker;
use sluice_quic::{QuicSlot, ReuseportMember};
use sluice_telemetry::Registry;
use sluice_telemetry::log::QueueSeed;
use sluice_upstream::LeftEndpoints;
use sluice_upstream::plan::OnRemoved;
use tokio::sync::{mpsc, oneshot};

mod prepared;

use prepared::Prepared;
pub(crate) use prepared::{Wanted, tcp_options};

/// Commands that may be queued for a worker; the control thread sends them one at a time.
const ORDERS: usize = 64;

/// Identifies a listening socket across reloads: its address, and its listener if the system chooses
/// the port.
pub(crate) type SocketKey = (ListenAddress, Option<Name>);

/// A command from the control thread to a worker.
pub(crate) enum WorkerCommand {
    /// Prepare to serve these sockets with these plans; change nothing in force.
    Prepare(Vec<Wanted>, oneshot::Sender<Result<(), UnservedListener>>),
    /// Serve what was prepared, or for now only some of its sockets. It cannot fail.
    Commit { part: ServeScope, done: oneshot::Sender<()> },
    /// Discard what was prepared.
    Abandon,
    /// Accept queued connections, close the listening sockets, keep serving open connections.
    Drain,
    /// Have health checks of clients fail, since a drain is about to begin.
    Leave,
    /// Have health checks of clients fail or not, and connections of these listeners end after the next response.
    #[cfg(feature = "envoy")]
    Stand { leaving: bool, closing: sluice_l7::worker::ClosingListeners },
    /// Close these listening sockets, and keep serving open connections.
    #[cfg(feature = "envoy")]
    Close(Arc<HashSet<SocketKey>>),
    /// Clusters were removed.
    ForgetClusters(Arc<[Name]>),
    /// Endpoints of a cluster are to be used no longer.
    Left { cluster: Name, endpoints: Arc<LeftEndpoints>, policy: OnRemoved, departure: Departure },
    /// Accept no connections on these listeners, and go on with all others.
    Pause(Arc<BTreeSet<Name>>, oneshot::Sender<()>),
    /// End every connection and flow.
    EndAll(Reason),
    /// End the connection or flow with this number; the answer describes it, if it is of this worker.
    Kill { id: u64, why: Reason, answer: oneshot::Sender<Option<String>> },
    /// Report the number of connections and flows by listener.
    Count(oneshot::Sender<HashMap<Name, usize>>),
    /// List open connections and flows for the admin page: of one listener or all, up to a limit.
    List { listener: Option<Name>, limit: Option<usize>, answer: oneshot::Sender<Vec<Value>> },
}

/// A listener that cannot be served.
#[derive(Debug)]
pub(crate) struct UnservedListener {
    pub(crate) name: Name,
    pub(crate) problem: String,
}

impl std::fmt::Display for UnservedListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for UnservedListener {}

/// How much of what was prepared to serve.
#[derive(Clone)]
pub(crate) enum ServeScope {
    /// These sockets, while others wait.
    Sockets(Arc<HashSet<SocketKey>>),
    /// All of it; these other sockets are retired.
    All { gone: Arc<[SocketKey]> },
}

/// The control thread's handle to a worker.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: Option<mpsc::Sender<WorkerCommand>>,
    thread: Option<JoinHandle<()>>,
}

/// What a worker is started with.
pub(crate) struct WorkerConfig {
    pub(crate) number: usize,
    pub(crate) workers: usize,
    pub(crate) origin: ClockOrigin,
    pub(crate) registry: Registry,
    pub(crate) log: QueueSeed,
    pub(crate) limits: Limits,
    pub(crate) descriptors: Arc<Budget>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(seed: WorkerConfig) -> anyhow::Result<Self> {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let thread = std::thread::Builder::new()
            .name(format!("sluice-{}", seed.number))
            .spawn(move || run(seed, inbox))
            .context("cannot start a worker thread")?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Sends a command; one to a worker that has ended is ignored.
    pub(crate) async fn order(&self, order: WorkerCommand) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order).await;
        }
    }

    /// Sends a command and waits for its result.
    pub(crate) async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> WorkerCommand,
    ) -> Option<T> {
        let (answer, wait) = oneshot::channel();
        self.order(order(answer)).await;
        wait.await.ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing the channel ends the thread.
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(seed: WorkerConfig, inbox: mpsc::Receiver<WorkerCommand>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_unpark(turn::next)
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("the process has descriptors for an event queue");
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let place = ReuseportMember { number: small(seed.number), count: small(seed.workers) };
    let shard = seed.registry.shard(seed.number + 1);
    let log = seed.log.take_root(&shard, &seed.number.to_string());
    let worker =
        WorkerCx::new(seed.number, seed.origin.clock(), shard, log, seed.limits, &seed.descriptors);
    runtime.block_on(async move {
        worker.start();
        let slots = SlotMap::new();
        let (paused, retired) = (Arc::default(), Vec::new());
        WorkerLoop { worker, place, slots, paused, prepared: None, retired }.work(inbox).await;
    });
}

enum AnySlot {
    Stream(Rc<Slot>),
    Datagram(Rc<UdpSlot>),
    Quic(Rc<QuicSlot>),
}

/// The sockets that a worker serves.
type SlotMap = HashMap<SocketKey, AnySlot>;

/// The command loop.
struct WorkerLoop {
    worker: Rc<WorkerCx>,
    /// Index among the workers, and thus of its sockets among those that share a port.
    place: ReuseportMember,
    slots: SlotMap,
    /// Listeners that accept no connections, served now or not.
    paused: Arc<BTreeSet<Name>>,
    /// What the next snapshot is to be served with, once every worker has prepared it.
    prepared: Option<Prepared>,
    /// UDP sockets that accept no new flows and still have some.
    retired: Vec<Rc<UdpSlot>>,
}

impl WorkerLoop {
    async fn work(mut self, mut inbox: mpsc::Receiver<WorkerCommand>) {
        while let Some(order) = inbox.recv().await {
            match order {
                WorkerCommand::Prepare(wanted, done) => {
                    let (slots, worker) = (&self.slots, &self.worker);
                    let prepared = Prepared::new(wanted, slots, self.place, worker);
                    // The control thread may have stopped waiting for the result.
                    let _ = done.send(prepared.map(|ready| {
                        self.prepared = Some(ready);
                    }));
                }
                WorkerCommand::Commit { part, done } => {
                    self.commit(part);
                    let _ = done.send(());
                }
                WorkerCommand::Abandon => self.prepared = None,
                WorkerCommand::Leave => HttpWorker::of(&self.worker).leave(),
                WorkerCommand::Drain => {
                    let slots: Vec<AnySlot> = self.slots.drain().map(|(_, slot)| slot).collect();
                    slots.into_iter().for_each(|slot| self.retire(slot));
                    self.worker.connections.list().iter().for_each(|conn| conn.finish());
                }
                #[cfg(feature = "envoy")]
                WorkerCommand::Stand { leaving, closing } => {
                    let all = self.worker.connections.list();
                    let ending = all.iter().filter(|conn| closing.contains(&conn.info.listener));
                    ending.for_each(|conn| conn.finish());
                    HttpWorker::of(&self.worker).stand(leaving, closing);
                }
                #[cfg(feature = "envoy")]
                WorkerCommand::Close(keys) => {
                    let closed = self.slots.extract_if(|key, _| keys.contains(key));
                    let closed: Vec<AnySlot> = closed.map(|(_, slot)| slot).collect();
                    closed.into_iter().for_each(|slot| self.retire(slot));
                }
                WorkerCommand::ForgetClusters(gone) => {
                    HttpWorker::of(&self.worker).pools.keep_only(|name| !gone.contains(name));
                }
                WorkerCommand::Left { cluster, endpoints, policy, departure } => {
                    self.left(&cluster, endpoints, policy, departure)
                }
                WorkerCommand::Pause(paused, done) => {
                    self.paused = paused;
                    self.pause();
                    let _ = done.send(());
                }
                WorkerCommand::EndAll(why) => {
                    self.worker.connections.list().iter().for_each(|conn| conn.kill(why));
                    self.udp_slots().for_each(|slot| slot.end_flows(why, |_| true));
                }
                WorkerCommand::Kill { id, why, answer } => {
                    let _ = answer.send(self.kill(id, why));
                }
                WorkerCommand::Count(answer) => {
                    let _ = answer.send(self.count());
                }
                WorkerCommand::List { listener, limit, answer } => {
                    let _ = answer.send(self.list(listener.as_ref(), limit));
                }
            }
        }
    }

    /// Applies what was prepared, or a part of it.
    fn commit(&mut self, part: ServeScope) {
        let Some(mut prepared) = self.prepared.take() else { return };
        let gone = match part {
            ServeScope::Sockets(keys) => {
                prepared.commit(|key| keys.contains(key), &mut self.slots, &self.worker);
                self.prepared = Some(prepared);
                self.pause();
                return;
            }
            ServeScope::All { gone } => gone,
        };
        prepared.commit(|_| true, &mut self.slots, &self.worker);
        // Before a new socket accepts for the first time.
        self.pause();
        for key in &*gone {
            if let Some(slot) = self.slots.remove(key) {
                self.retire(slot);
            }
        }
    }

    /// Has each listener accept or wait, as operators decided.
    fn pause(&self) {
        for slot in self.slots.values() {
            if let AnySlot::Stream(slot) = slot {
                slot.pause(self.paused.contains(slot.listener().name()));
            }
        }
    }

    fn retire(&mut self, slot: AnySlot) {
        match slot {
            AnySlot::Stream(slot) => slot.drain(),
            AnySlot::Quic(slot) => slot.drain(),
            AnySlot::Datagram(slot) => {
                slot.drain();
                self.retired.retain(|slot| slot.flow_count() > 0);
                self.retired.push(slot);
            }
        }
    }

    fn udp_slots(&self) -> impl Iterator<Item = &Rc<UdpSlot>> {
        let open = self.slots.values().filter_map(|slot| match slot {
            AnySlot::Datagram(slot) => Some(slot),
            AnySlot::Stream(_) | AnySlot::Quic(_) => None,
        });
        open.chain(&self.retired)
    }

    fn left(
        &self,
        cluster: &Name,
        endpoints: Arc<LeftEndpoints>,
        policy: OnRemoved,
        departure: Departure,
    ) {
        let http = HttpWorker::of(&self.worker);
        http.endpoints_left(&self.worker, cluster, &endpoints, policy, departure);
        let wait = match policy {
            OnRemoved::Keep => return,
            OnRemoved::Close => std::time::Duration::ZERO,
            OnRemoved::Drain(wait) => wait,
        };
        let worker = Rc::clone(&self.worker);
        let slots: Vec<Rc<UdpSlot>> = self.udp_slots().cloned().collect();
        let cluster = cluster.clone();
        // Only existing connections: later ones selected among the remaining endpoints.
        let until = worker.now();
        self.worker.spawn(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let why = departure.reason();
            let concerns = |info: &ConnInfo, endpoint: Option<&Arc<str>>| {
                info.started <= until
                    && info.cluster() == Some(&cluster)
                    && endpoint.is_some_and(|endpoint| endpoints.contains(endpoint))
            };
            for conn in worker.connections.list() {
                if concerns(
                    &conn.info,
                    conn.info.reached().and_then(|r| r.endpoint.borrow().clone()).as_ref(),
                ) {
                    conn.kill(why);
                }
            }
            for slot in slots {
                slot.end_flows(why, |flow| concerns(&flow.info, Some(flow.endpoint())));
            }
        });
    }

    /// Ends one connection or flow.
    fn kill(&self, id: u64, why: Reason) -> Option<String> {
        let of = |kind: &str, info: &ConnInfo| {
            format!("{kind} {id} of {} at the listener `{}`", info.source(), info.listener)
        };
        if let Some(conn) = self.worker.connections.list().iter().find(|conn| conn.info.id == id) {
            conn.kill(why);
            return Some(of("connection", &conn.info));
        }
        self.udp_slots().find_map(|slot| {
            let flow = slot.flows().into_iter().find(|flow| flow.info.id == id)?;
            slot.end_flows(why, |flow| flow.info.id == id);
            Some(of("flow", &flow.info))
        })
    }

    fn count(&self) -> HashMap<Name, usize> {
        let mut counts: HashMap<Name, usize> = HashMap::new();
        for conn in self.worker.connections.list() {
            *counts.entry(conn.info.listener.clone()).or_default() += 1;
        }
        for flow in self.udp_slots().flat_map(|slot| slot.flows()) {
            *counts.entry(flow.info.listener.clone()).or_default() += 1;
        }
        counts
    }

    fn list(&self, listener: Option<&Name>, limit: Option<usize>) -> Vec<Value> {
        let wanted = |info: &ConnInfo| listener.is_none_or(|name| info.listener == *name);
        let mut requests: HashMap<u64, Vec<Value>> = HashMap::new();
        for request in HttpWorker::of(&self.worker).in_flight.list() {
            requests.entry(request.connection).or_default().push(self.of_request(&request));
        }
        let connections = self.worker.connections.list();
        let connections = connections.iter().filter(|conn| wanted(&conn.info)).map(|conn| {
            let endpoint = conn.info.reached().and_then(|r| r.endpoint.borrow().clone());
            let mut item = self.describe("connection", &conn.info, endpoint.as_deref());
            if let Some(requests) = requests.remove(&conn.info.id) {
                item["requests"] = requests.into();
            }
            item
        });
        let flows = self.udp_slots().flat_map(|slot| slot.flows());
        let flows = flows
            .filter(|flow| wanted(&flow.info))
            .map(|flow| self.describe("flow", &flow.info, Some(flow.endpoint())));
        connections.chain(flows).take(limit.unwrap_or(usize::MAX)).collect()
    }

    /// A request in flight. Its query is omitted: it may contain secrets.
    fn of_request(&self, request: &in_flight::Request) -> Value {
        let clock = &self.worker.clock;
        let mut item = json!({
            "protocol": request.version,
            "method": request.method(),
            "host": request.host(),
            "path": request.path(),
            "age_ms": millis(clock.now().since(request.began)),
            "received_bytes": request.received,
            "sent_bytes": request.sent,
        });
        if let Some((cluster, endpoint)) = &request.at {
            item["cluster"] = (**cluster).into();
            item["endpoint"] = (**endpoint).into();
        }
        item
    }

    fn describe(&self, kind: &str, info: &ConnInfo, endpoint: Option<&str>) -> Value {
        let facts = info.nearest_facts();
        let clock = &self.worker.clock;
        let mut item = json!({
            "id": info.id,
            "kind": kind,
            "listener": &*info.listener,
            "source": info.source().to_string(),
            "peer": info.peer.to_string(),
            "local": info.local.to_string(),
            "worker": self.worker.number,
            "started": rfc3339(clock.wall(info.started)),
            "age_ms": millis(clock.now().since(info.started)),
            "received_bytes": info.received.get(),
            "sent_bytes": info.sent.get(),
        });
        let optional = [
            ("chain", info.chain.get().map(|name| name.to_string())),
            ("protocol", facts.and_then(|of| of.protocol).map(|of| of.word().to_owned())),
            ("sni", facts.and_then(|of| of.get(&tls::SNI)).map(String::from)),
            ("tls_version", info.tls.get().map(|tls| tls.version.to_owned())),
            ("cluster", info.cluster().map(|name| name.to_string())),
            ("endpoint", endpoint.map(str::to_owned)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                item[key] = value.into();
            }
        }
        if let Some(path) = info.path.get().map(|path| path.facts()) {
            item["quic"] = json!({
                "version": path.version,
                "client": path.client.to_string(),
                "rtt_us": u64::try_from(path.rtt.as_micros()).unwrap_or(u64::MAX),
                "mtu": path.mtu,
                "packets_sent": path.packets_sent,
                "packets_lost": path.packets_lost,
                "migrations": path.migrations,
                "early_data": path.early_data,
            });
        }
        item
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
