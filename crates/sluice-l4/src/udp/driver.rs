//! The driver of UDP flows: sockets and tasks around the flow table.
//!
//! Owns: the listening socket of a worker, a connected socket and a task per flow. Refuses to know: which flow a
//! datagram belongs to and which one makes room; the table decides. Keeps: datagrams of a flow stay in order; a
//! datagram that cannot be sent at once is dropped and counted, as a network would; replies are sent from the address
//! that the client sent to.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::limits::Limit;
use sluice_core::{Facts, Moment, Name, Reason, TransportKind};
use sluice_io::timers::Timer;
use sluice_io::{Interest, Source, WorkerCx};
use sluice_sys::datagram::{BATCH, Datagram, Outgoing, Received, send};
use sluice_sys::socket::local_address;
use sluice_telemetry::{Counter, RecordKind};
use sluice_upstream::cluster::Claim;
use sluice_upstream::hops::{self, HopTransport};
use sluice_upstream::plan::OnUnhealthy;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::FlowChainPlan;
use super::flow_table::{FlowId, FlowKey, FlowTable};
use super::listener::{FilterCheck, UdpListener, UpstreamSocket};
use super::names::{FirstDatagram, SniTable};
use crate::connection::next_id;
use crate::metrics;
use crate::quic::ids::{self, Owner};
use crate::reasons;
use crate::record::ConnectionRecord;

/// A worker's UDP socket, which outlives the listener plans it serves.
#[derive(Debug)]
pub struct UdpSlot {
    worker: Rc<WorkerCx>,
    socket: Source,
    local: SocketAddr,
    _own: hops::ListenerGuard,
    listener: RefCell<Rc<UdpListener>>,
    table: RefCell<FlowTable<Rc<Flow>>>,
    names: SniTable,
    draining: Cell<bool>,
    wake: Notify,
}

/// A flow.
#[derive(Debug)]
pub struct Flow {
    /// What is known about the flow.
    pub info: ConnInfo,
    key: FlowKey,
    listener: Rc<UdpListener>,
    chain: usize,
    upstream: UpstreamSocket,
    claim: Claim,
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Whether its endpoint has replied.
    answered: Cell<bool>,
    /// When the flow may next attempt to leave an unhealthy endpoint.
    move_at: Cell<Moment>,
    /// Whether the flow that replaced this one has taken over its place in the filters' counts.
    replaced: Cell<bool>,
    /// Replies that are still expected, if they are counted.
    awaited: Cell<u64>,
    /// For QUIC: the connection ID seen last; all IDs of its server have the same length.
    id: RefCell<Vec<u8>>,
    /// How many more IDs are learnt.
    ids_left: Cell<u8>,
    task: RefCell<Option<AbortHandle>>,
}

impl Flow {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<str> {
        &self.claim.endpoint().name
    }

    fn plan(&self) -> &FlowChainPlan {
        &self.listener.plan.chains[self.chain]
    }
}

impl UdpSlot {
    /// Creates a socket that serves `listener`.
    ///
    /// # Errors
    /// The reactor does not accept the socket.
    pub fn new(
        socket: OwnedFd,
        listener: Rc<UdpListener>,
        worker: &Rc<WorkerCx>,
    ) -> io::Result<Rc<Self>> {
        let socket = worker.reactor.register_datagrams(socket)?;
        let local = local_address(&socket).ok_or(io::ErrorKind::AddrNotAvailable)?;
        listener.take_together(&socket);
        let bound = worker.limits.size(Limit::FlowTable);
        Ok(Rc::new(Self {
            worker: Rc::clone(worker),
            socket,
            local,
            _own: hops::ListenerGuard::on(HopTransport::Datagram, local),
            listener: RefCell::new(listener),
            table: RefCell::new(FlowTable::new(bound)),
            names: SniTable::new(worker),
            draining: Cell::new(false),
            wake: Notify::new(),
        }))
    }

    /// Serves `listener` from the next new flow on.
    pub fn replace(&self, listener: Rc<UdpListener>) {
        listener.take_together(&self.socket);
        *self.listener.borrow_mut() = listener;
    }

    /// Changes the receive buffer of the socket.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn change_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        sluice_sys::listen::change_datagrams(&self.socket, bytes)
    }

    /// Accepts no new flows, and ends when the last one has ended.
    pub fn drain(&self) {
        self.draining.set(true);
        self.wake.notify_one();
    }

    /// The number of flows.
    pub fn flow_count(&self) -> usize {
        self.table.borrow().len()
    }

    /// The current flows.
    pub fn flows(&self) -> Vec<Rc<Flow>> {
        self.table.borrow().iter().map(|(_, flow)| Rc::clone(flow)).collect()
    }

    /// Ends the flows for which `which` returns true.
    pub fn end_flows(&self, why: Reason, which: impl Fn(&Flow) -> bool) {
        let ids: Vec<FlowId> =
            self.table.borrow().iter().filter(|(_, flow)| which(flow)).map(|(id, _)| id).collect();
        for id in ids {
            self.end(id, why);
        }
    }

    /// Reads datagrams and ends idle flows, until drained.
    pub async fn run(self: Rc<Self>) {
        let timer = Timer::new(&self.worker.timers);
        loop {
            let mut woken = pin!(self.wake.notified());
            let finished = poll_fn(|cx| {
                // Once woken, the next turn of the loop waits for notification again.
                if woken.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(self.draining.get() && self.table.borrow().is_empty());
                }
                self.expire();
                if self.draining.get() && self.table.borrow().is_empty() {
                    return Poll::Ready(true);
                }
                timer.set(self.table.borrow().next_expiry());
                if timer.poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                self.poll_datagrams(cx).map(|()| false)
            })
            .await;
            if finished {
                return;
            }
        }
    }

    fn expire(&self) {
        let mut ended = Vec::new();
        self.table.borrow_mut().expire(self.worker.now(), |flow| ended.push(flow));
        for flow in &ended {
            let why =
                if flow.answered.get() { reasons::FLOW_IDLE } else { reasons::FLOW_UNANSWERED };
            self.finish(flow, why);
        }
    }

    /// Reads one batch. After a full batch other tasks get their turn.
    fn poll_datagrams(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.socket.poll_ready(cx, Interest::Read));
        let more = self.worker.with_datagrams(|batch| {
            let more = receive(&self.socket, batch)?;
            self.take_batch(batch.iter());
            Ok::<_, io::Error>(more)
        });
        match more {
            Ok(More::Perhaps) => turn_over(cx),
            // The error concerns another socket: this one has no peer.
            Ok(More::No) | Err(_) => Poll::Ready(()),
        }
    }

    /// Forwards each run of datagrams of one flow with one call.
    fn take_batch<'a>(self: &Rc<Self>, datagrams: impl Iterator<Item = Datagram<'a>>) {
        let now = self.worker.now();
        let mut run: SmallVec<[Outgoing<'_>; BATCH]> = SmallVec::new();
        let mut of: Option<(FlowId, Rc<Flow>)> = None;
        for datagram in datagrams {
            let Some(client) = datagram.from else { continue };
            let key = FlowKey { client, local: datagram.to };
            if of.as_ref().is_none_or(|(_, flow)| flow.key != key) {
                self.flush(of.take(), &mut run);
                of = self.known(&key, now);
            }
            if of.is_some() {
                let Datagram { data, segment, .. } = datagram;
                run.push(Outgoing { data, to: None, from: None, segment });
                continue;
            }
            // From an unknown source, each datagram is inspected until the destination is known.
            let segment = datagram.segment.map_or(usize::MAX, usize::from);
            let mut rest = datagram.data;
            loop {
                let (data, behind) = rest.split_at(segment.min(rest.len()));
                if of.is_none() {
                    match self.first_datagram(key, now, data) {
                        FlowLookup::Flow(id, flow) => of = Some((id, flow)),
                        FlowLookup::Held => {}
                        FlowLookup::None => self.listener.borrow().counters.refused.increment(),
                    }
                }
                if of.is_some() {
                    run.push(Outgoing { data, to: None, from: None, segment: None });
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
        }
        self.flush(of, &mut run);
    }

    fn flush(&self, of: Option<(FlowId, Rc<Flow>)>, run: &mut SmallVec<[Outgoing<'_>; BATCH]>) {
        let Some((id, flow)) = of else { return };
        let counters = &flow.listener.counters;
        let bytes: usize = run.iter().map(|datagram| datagram.data.len()).sum();
        let count = count_of(run);
        counters.received.add(count);
        flow.received.set(flow.received.get() + count);
        flow.info.add_received(bytes);
        if let Some(responses) = flow.plan().responses {
            flow.awaited.set(flow.awaited.get() + u64::from(responses) * count);
        }
        let length = flow.id.borrow().len();
        if length > 0 {
            // The server issues other IDs under encryption; a client that starts to use one reveals it.
            let last = run.iter().rev().find_map(|datagram| ids::of_short(datagram.data, length));
            last.into_iter().for_each(|id| self.learn(&flow, id));
        }
        let mut rest = &run[..];
        while !rest.is_empty() {
            match send(flow.upstream.socket.as_fd(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if is_of_icmp(&error) => {
                    // A reply to an earlier datagram; this one has not been sent.
                    counters.icmp.increment();
                    counters.dropped.add(count_of(rest));
                    self.end(id, reasons::FLOW_ICMP);
                    break;
                }
                Err(_) => {
                    counters.dropped.add(count_of(rest));
                    break;
                }
            }
        }
        run.clear();
    }

    /// The flow that datagrams of `key` belong to, if there is one.
    fn known(self: &Rc<Self>, key: &FlowKey, now: Moment) -> Option<(FlowId, Rc<Flow>)> {
        let mut table = self.table.borrow_mut();
        let id = table.arrive(key, now)?;
        let flow = table.get(id).map(Rc::clone)?;
        drop(table);
        if flow.claim.endpoint().is_usable() || !self.moves(&flow) {
            return Some((id, flow));
        }
        let facts = flow.info.facts.get().map(|facts| Facts::clone(facts));
        let moved = self.begin(*key, now, facts, None, Some((id, &flow)));
        // If no other flow can begin, this one continues.
        Some(moved.unwrap_or_else(|_| {
            flow.move_at.set(now.after(MOVE_AGAIN));
            (id, flow)
        }))
    }

    /// Whether a flow leaves its unhealthy endpoint: if the cluster is configured so, and another endpoint is healthy.
    /// A QUIC connection whose ID is known stays, because no other endpoint has its keys.
    fn moves(&self, flow: &Flow) -> bool {
        let cluster = &flow.plan().cluster;
        !self.draining.get()
            && cluster.peek_plan().on_endpoint_unhealthy == OnUnhealthy::Move
            && flow.id.borrow().is_empty()
            && self.worker.now() >= flow.move_at.get()
            && cluster.has_usable()
    }

    /// Handles a datagram that belongs to no flow; a flow may begin with it.
    fn first_datagram(self: &Rc<Self>, key: FlowKey, now: Moment, datagram: &[u8]) -> FlowLookup {
        if self.draining.get() {
            return FlowLookup::None;
        }
        let plan = Rc::clone(&self.listener.borrow());
        let (facts, owner, kept) = if plan.plan.named {
            match self.names.look(now, key, &plan.plan.name, datagram) {
                FirstDatagram::Held => return FlowLookup::Held,
                FirstDatagram::Begins { facts, owner, kept } => (Some(facts), owner, kept),
            }
        } else {
            (None, None, Vec::new())
        };
        let Ok((id, flow)) = self.begin(key, now, facts, owner.as_ref(), None) else {
            return FlowLookup::None;
        };
        if !kept.is_empty() {
            let outgoing = |data| Outgoing { data, to: None, from: None, segment: None };
            let mut run = kept.iter().map(|data| outgoing(&**data)).collect();
            self.flush(Some((id, Rc::clone(&flow))), &mut run);
        }
        FlowLookup::Flow(id, flow)
    }

    /// Begins a flow, in place of `replaces` if given. A flow that cannot begin is counted with the reason, unless
    /// another continues in its place.
    fn begin(
        self: &Rc<Self>,
        key: FlowKey,
        now: Moment,
        facts: Option<Facts>,
        owner: Option<&Owner>,
        replaces: Option<(FlowId, &Rc<Flow>)>,
    ) -> Result<(FlowId, Rc<Flow>), Reason> {
        let listener = Rc::clone(&self.listener.borrow());
        let client = Peer::Ip(key.client);
        let local = key.local.map_or(self.local, |ip| SocketAddr::new(ip, self.local.port()));
        let name: Name = listener.plan.name.clone();
        let info = ConnInfo::new(next_id(), name, client, Peer::Ip(local), now);
        if let Some(facts) = facts {
            let _ = info.facts.set(Box::new(facts));
        }
        let (chain, claim, upstream) = match replaces {
            Some((old, flow)) => {
                let opened = self.open_other(&listener, &info, flow)?;
                self.end(old, reasons::FLOW_MOVED);
                opened
            }
            None => self.open(&listener, &info, now, owner).inspect_err(|why| {
                // It never became a flow, but its end still has a reason.
                self.record(&info, &listener, *why, (1, 0));
            })?,
        };
        let plan = &listener.plan.chains[chain];
        let unanswered = Duration::from_secs(self.worker.limits.get(Limit::FlowUnanswered));
        let idle = plan.idle_timeout.map_or(unanswered, |idle| idle.min(unanswered));
        listener.chains[chain].selected.increment();
        let flow = Rc::new(Flow {
            info,
            key,
            listener: Rc::clone(&listener),
            chain,
            upstream,
            claim,
            received: Cell::new(0),
            sent: Cell::new(0),
            answered: Cell::new(false),
            move_at: Cell::default(),
            replaced: Cell::new(false),
            awaited: Cell::new(0),
            id: RefCell::new(vec![0; owner.map_or(0, |owner| owner.id_length)]),
            ids_left: Cell::new(IDS_OF_FLOW),
            task: RefCell::default(),
        });
        let id = self.table.borrow_mut().admit(key, Some(idle), now, Rc::clone(&flow));
        listener.counters.flows.increment();
        listener.counters.active.increment();
        let task = tokio::task::spawn_local(Rc::clone(self).answer(id, Rc::clone(&flow)));
        *flow.task.borrow_mut() = Some(task.abort_handle());
        Ok((id, flow))
    }

    /// Runs the filters, picks an endpoint and opens the socket, in this order, so that a refused flow costs no
    /// descriptor, and no flow is evicted for one that the filters refuse.
    fn open(
        &self,
        listener: &UdpListener,
        info: &ConnInfo,
        now: Moment,
        owner: Option<&Owner>,
    ) -> Result<(usize, Claim, UpstreamSocket), Reason> {
        self.spare(listener, now)?;
        let (chain, claim) = listener.choose(&self.worker, info, owner, FilterCheck::Run)?;
        let opened = self.spare(listener, now).and_then(|spare| {
            if let Some((id, reached)) = spare {
                reached.increment();
                // Its descriptor is freed once its task has ended, which is soon.
                self.end(id, reasons::FLOW_EVICTED);
            }
            listener.open(&self.worker, chain, &claim, info)
        });
        let upstream = opened.inspect_err(|_| listener.tell_filters(chain, info))?;
        Ok((chain, claim, upstream))
    }

    /// Picks another endpoint for a flow and opens a socket to it. It replaces the old socket, so no flow is evicted;
    /// filters that count the flow already are not asked again.
    fn open_other(
        &self,
        listener: &Rc<UdpListener>,
        info: &ConnInfo,
        flow: &Flow,
    ) -> Result<(usize, Claim, UpstreamSocket), Reason> {
        let counted = Rc::ptr_eq(listener, &flow.listener);
        let check = if counted { FilterCheck::Skip } else { FilterCheck::Run };
        let (chain, claim) = listener.choose(&self.worker, info, None, check)?;
        let upstream = listener.open(&self.worker, chain, &claim, info).inspect_err(|_| {
            if !counted {
                listener.tell_filters(chain, info);
            }
        })?;
        flow.replaced.set(counted);
        Ok((chain, claim, upstream))
    }

    /// The flow that must be evicted before another begins, and the counter of the limit that was reached; `None` if
    /// there is room.
    fn spare<'a>(
        &self,
        listener: &'a UdpListener,
        now: Moment,
    ) -> Result<Option<(FlowId, &'a Counter)>, Reason> {
        let table = self.table.borrow();
        let (reached, why) = if table.is_full() {
            (&listener.counters.table_full, reasons::FLOW_TABLE_FULL)
        } else if !self.worker.reactor.descriptors().has_for_flow() {
            (&listener.counters.descriptors, sluice_upstream::reasons::FDS)
        } else {
            return Ok(None);
        };
        match table.spare(now) {
            Some(id) => Ok(Some((id, reached))),
            None => {
                reached.increment();
                Err(why)
            }
        }
    }

    /// Forwards the replies of a flow to its client, for as long as the flow lasts.
    async fn answer(self: Rc<Self>, id: FlowId, flow: Rc<Flow>) {
        let why = poll_fn(|cx| {
            loop {
                // An ICMP error makes the socket readable: what is read is the error.
                ready!(flow.upstream.socket.poll_ready(cx, Interest::Read));
                let got = self.worker.with_datagrams(|batch| {
                    let more = receive(&flow.upstream.socket, batch)?;
                    self.send_back(&flow, batch.iter());
                    Ok::<_, io::Error>(more)
                });
                match got {
                    Ok(more) => {
                        let mut table = self.table.borrow_mut();
                        if !flow.answered.replace(true) {
                            table.set_idle(id, flow.plan().idle_timeout);
                        }
                        flow.claim.endpoint().responded();
                        table.touch(id, self.worker.now());
                        drop(table);
                        if flow.plan().responses.is_some() && flow.awaited.get() == 0 {
                            return Poll::Ready(reasons::FLOW_DONE);
                        }
                        if more == More::Perhaps {
                            return turn_over(cx);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        flow.listener.counters.icmp.increment();
                        flow.info.note(error);
                        return Poll::Ready(reasons::FLOW_ICMP);
                    }
                }
            }
        })
        .await;
        // Prevents the end from aborting this very task.
        flow.task.borrow_mut().take();
        self.end(id, why);
    }

    fn send_back<'a>(&self, flow: &Flow, datagrams: impl Iterator<Item = Datagram<'a>>) {
        let to = Some(flow.key.client);
        let quic =
            flow.info.facts.get().is_some_and(|facts| facts.transport == TransportKind::Quic);
        let run: SmallVec<[Outgoing<'_>; BATCH]> = datagrams
            .map(|Datagram { data, segment, .. }| Outgoing {
                data,
                to,
                from: flow.key.local,
                segment,
            })
            .collect();
        if quic {
            // A server chooses its first ID in the handshake; later packets have short headers.
            let first = run.iter().find_map(|datagram| ids::chosen(datagram.data));
            first.into_iter().for_each(|id| self.learn(flow, id));
        }
        let counters = &flow.listener.counters;
        flow.awaited.set(flow.awaited.get().saturating_sub(count_of(&run)));
        let mut rest = &run[..];
        while !rest.is_empty() {
            let Ok(count) = send(self.socket.as_fd(), rest) else {
                counters.dropped.add(count_of(rest));
                break;
            };
            let bytes: usize = rest[..count].iter().map(|datagram| datagram.data.len()).sum();
            flow.info.add_sent(bytes);
            let sent = count_of(&rest[..count]);
            flow.sent.set(flow.sent.get() + sent);
            counters.sent.add(sent);
            rest = &rest[count..];
        }
    }

    /// Learns that an ID leads to the endpoint of a flow, so that its client may come from another address.
    fn learn(&self, flow: &Flow, id: &[u8]) {
        let mut last = flow.id.borrow_mut();
        if *last == id {
            return;
        }
        last.clear();
        last.extend_from_slice(id);
        // A client that shows one ID after another must not push out the IDs of other flows.
        let Some(left) = flow.ids_left.get().checked_sub(1) else { return };
        flow.ids_left.set(left);
        let forgot = ids::learn(id, self.worker.limits.size(Limit::QuicIds), || Owner {
            listener: flow.info.listener.clone(),
            chain: flow.plan().name.clone(),
            endpoint: Arc::clone(flow.endpoint()),
            id_length: id.len(),
        });
        if forgot {
            metrics::count_limit(&self.worker, Limit::QuicIds);
        }
    }

    /// Removes a flow from the table and finishes it.
    fn end(&self, id: FlowId, why: Reason) {
        if self.table.borrow().get(id).is_none() {
            return;
        }
        let flow = self.table.borrow_mut().remove(id);
        self.finish(&flow, why);
        if self.draining.get() {
            self.wake.notify_one();
        }
    }

    /// Finishes a flow that is no longer in the table.
    fn finish(&self, flow: &Rc<Flow>, why: Reason) {
        if let Some(task) = flow.task.borrow_mut().take() {
            task.abort();
        }
        if why == reasons::FLOW_ICMP {
            let handle = &flow.listener.chains[flow.chain].handle;
            handle.note_failure(&self.worker, flow.claim.endpoint(), why);
        }
        let counters = &flow.listener.counters;
        counters.active.decrement();
        counters.bytes_received.add(flow.info.received.get());
        counters.bytes_sent.add(flow.info.sent.get());
        if !flow.replaced.get() {
            flow.listener.tell_filters(flow.chain, &flow.info);
        }
        self.record(&flow.info, &flow.listener, why, (flow.received.get(), flow.sent.get()));
    }

    fn record(&self, info: &ConnInfo, listener: &UdpListener, why: Reason, datagrams: (u64, u64)) {
        let worker = &self.worker;
        listener.counters.ended.count(&why, |why| {
            worker.shard.counter(&metrics::FLOW_ENDED, &[&listener.plan.name, why.code()])
        });
        if worker.log.wants(RecordKind::Flow) {
            let record =
                ConnectionRecord::new(info, &worker.clock, worker.now(), why, Some(datagrams));
            worker.log.push(Box::new(record));
        }
    }
}

/// Connection IDs that are learnt per flow; a client changes its ID when its address changes, and then it has another
/// flow.
const IDS_OF_FLOW: u8 = 8;

/// How long a flow that could not leave its unhealthy endpoint waits before it retries.
const MOVE_AGAIN: Duration = Duration::from_secs(1);

/// The number of datagrams, counting each segment of those that are sent as one.
fn count_of(datagrams: &[Outgoing<'_>]) -> u64 {
    datagrams.iter().map(|datagram| datagram.count() as u64).sum()
}

/// The flow that a datagram belongs to.
enum FlowLookup {
    Flow(FlowId, Rc<Flow>),
    /// The datagram is kept until its destination is known.
    Held,
    None,
}

/// Whether the error is an ICMP error for an earlier datagram.
fn is_of_icmp(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Whether a socket has more datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    No,
    Perhaps,
}

/// Receives a batch. If it is not full, no more datagrams are waiting, which saves the call that would find that out.
fn receive(socket: &Source, batch: &mut Received) -> io::Result<More> {
    match batch.receive(socket.as_fd()) {
        Ok(BATCH) => Ok(More::Perhaps),
        Ok(_) => {
            socket.exhausted(Interest::Read);
            Ok(More::No)
        }
        Err(error) => {
            socket.would_block(Interest::Read);
            Err(error)
        }
    }
}

/// Continues after the other tasks.
fn turn_over<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
