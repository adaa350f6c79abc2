//! The driver of UDP flows: sockets and tasks around the flow table.
//!
//! Owns: the listening socket of a worker, a connected socket and a task per flow. Refuses to know: which flow a
//! datagram belongs to and which one makes room; the table decides. Below: how flows begin, and their datagrams. Keeps: datagrams of a flow stay in order; a
//! datagram that cannot be sent at once is dropped and counted, as a network would; replies are sent from the address
//! that the client sent to.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sluice_core::connection::ConnInfo;
use sluice_core::limits::Limit;
use sluice_core::{Facts, Moment, Reason};
use sluice_io::timers::Timer;
use sluice_io::{Interest, Source, WorkerCx};
use sluice_sys::datagram::{Datagram, Outgoing};
use sluice_sys::socket::local_address;
use sluice_telemetry::RecordKind;
use sluice_upstream::hops::{self, HopTransport};
use sluice_upstream::plan::OnUnhealthy;
use tokio::sync::Notify;

use super::batch::{More, receive, turn_over};
use super::flow::Flow;
use super::flow_table::{FlowId, FlowKey, FlowTable};
use super::held::WaitingFlows;
use super::listener::{FlowOrigin, UdpListener};
use super::names::{FirstDatagram, SniTable};
use crate::metrics;
use crate::quic::ids::{self, Owner};
use crate::reasons;
use crate::record::ConnectionRecord;
use begin::{FlowBegun, FlowStart};
use forward::DatagramRun;

mod begin;
mod forward;
mod per_packet;
#[cfg(test)]
mod tests;

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
    waiting: RefCell<WaitingFlows>,
    draining: Cell<bool>,
    wake: Notify,
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
            waiting: RefCell::new(WaitingFlows::new(
                worker,
                worker.limits.size(Limit::FlowsWaiting),
            )),
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

    fn is_drained(&self) -> bool {
        self.draining.get() && self.table.borrow().is_empty() && self.waiting.borrow().is_empty()
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
                    return Poll::Ready(self.is_drained());
                }
                self.expire();
                if self.is_drained() {
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
            self.finish(flow, flow.state.why_expired());
        }
    }

    /// Reads one batch. After a full batch other tasks get their turn.
    fn poll_datagrams(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.socket.poll_ready(cx, Interest::Read));
        let more = self.worker.with_datagrams(|batch| {
            let more = receive(&self.socket, batch)?;
            if self.listener.borrow().per_packet {
                self.take_packets(batch.iter());
            } else {
                self.take_batch(batch.iter());
            }
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
        let mut run = DatagramRun::new();
        let mut of: Option<(FlowId, Rc<Flow>)> = None;
        for datagram in datagrams {
            let Some(client) = datagram.from else { continue };
            let key = FlowKey { client, local: datagram.to, endpoint: None };
            if of.as_ref().is_none_or(|(_, flow)| flow.key != key) {
                self.flush(of.take(), &mut run);
                of = self.known(&key, now, datagram.data);
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

    /// The flow that datagrams of `key` belong to, if there is one; `datagram` is the first of them.
    fn known(
        self: &Rc<Self>,
        key: &FlowKey,
        now: Moment,
        datagram: &[u8],
    ) -> Option<(FlowId, Rc<Flow>)> {
        let mut table = self.table.borrow_mut();
        let id = table.arrive(key, now)?;
        let flow = table.get(id).map(Rc::clone)?;
        drop(table);
        if flow.claim.endpoint().may_continue() || !self.moves(&flow) {
            return Some((id, flow));
        }
        let facts = flow.info.facts.get().map(|facts| Facts::clone(facts));
        let replaces = Some((id, &flow));
        let origin = FlowOrigin::Replaced(flow.claim.handle().cluster.name.clone());
        let start = FlowStart { facts, replaces, ..FlowStart::with(datagram, origin) };
        match self.begin(*key, now, start) {
            Ok(FlowBegun::Flow(id, flow)) => Some((id, flow)),
            Ok(FlowBegun::Waits) => None,
            // No other flow can begin, so this one continues.
            Err(_) => {
                flow.state.stays(now);
                Some((id, flow))
            }
        }
    }

    /// Whether a flow leaves its unhealthy endpoint: if the cluster is configured so, and another endpoint is healthy.
    /// A QUIC connection whose ID is known stays, because no other endpoint has its keys.
    fn moves(&self, flow: &Flow) -> bool {
        let cluster = &flow.claim.handle().cluster;
        !self.draining.get()
            && cluster.peek_plan().on_endpoint_unhealthy == OnUnhealthy::Move
            && flow.state.may_move(self.worker.now())
            && cluster.can_serve()
    }

    /// Handles a datagram that belongs to no flow; a flow may begin with it.
    fn first_datagram(self: &Rc<Self>, key: FlowKey, now: Moment, datagram: &[u8]) -> FlowLookup {
        if let Some(lookup) = self.hold(&key, datagram) {
            return lookup;
        }
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
        let origin = owner.map_or(FlowOrigin::New, FlowOrigin::Moved);
        let start = FlowStart { facts, ..FlowStart::with(datagram, origin) };
        match self.begin(key, now, start) {
            Ok(FlowBegun::Flow(id, flow)) => {
                self.flush_held((id, Rc::clone(&flow)), &kept);
                FlowLookup::Flow(id, flow)
            }
            Ok(FlowBegun::Waits) => {
                kept.iter().for_each(|kept| drop(self.hold(&key, kept)));
                self.hold(&key, datagram).unwrap_or(FlowLookup::None)
            }
            Err(_) => FlowLookup::None,
        }
    }

    /// Keeps a datagram of a flow that waits for a filter; `None` if no such flow waits.
    fn hold(&self, key: &FlowKey, datagram: &[u8]) -> Option<FlowLookup> {
        let held = self.waiting.borrow_mut().hold(key, datagram)?;
        Some(if held { FlowLookup::Held } else { FlowLookup::None })
    }

    /// Learns that an ID leads to the endpoint of a flow, so that its client may come from another address.
    fn learn(&self, flow: &Flow, id: &[u8]) {
        if !flow.state.is_to_learn(id) {
            return;
        }
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
            let claim = &flow.claim;
            claim.handle().note_failure(&self.worker, claim.endpoint(), why);
        }
        let counters = &flow.listener.counters;
        counters.active.decrement();
        counters.bytes_received.add(flow.info.received.get());
        counters.bytes_sent.add(flow.info.sent.get());
        if !flow.state.is_replaced() {
            flow.listener.tell_filters(flow.chain, &flow.info);
        }
        self.record(&flow.info, &flow.listener, why, flow.state.datagrams());
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

/// The flow that a datagram belongs to.
enum FlowLookup {
    Flow(FlowId, Rc<Flow>),
    /// The datagram is kept until its destination is known.
    Held,
    None,
}
