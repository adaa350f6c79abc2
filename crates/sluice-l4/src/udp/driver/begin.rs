//! How a flow begins.
//!
//! Owns: the order of filters, endpoint, room and socket. Refuses to know: where datagrams come from. Keeps: a refused
//! flow costs no descriptor; no flow is evicted for one that the filters refuse; a flow that replaces another is not
//! counted twice.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::limits::Limit;
use sluice_core::{Facts, LocalFuture, Moment, Reason, Verdict};
use sluice_io::AdmitResume;
use sluice_io::timers::Timer;
use sluice_telemetry::Counter;
use sluice_upstream::cluster::Claim;

use super::UdpSlot;
use crate::connection::next_id;
use crate::metrics::count_limit;
use crate::reasons;
use crate::udp::admission::{AdmissionStep, FilterCheck, FlowAdmission};
use crate::udp::flow::{Flow, FlowState};
use crate::udp::flow_table::{FlowId, FlowKey};
use crate::udp::listener::{FlowOrigin, UdpListener, UpstreamSocket};

/// What a flow begins with.
#[derive(Debug)]
pub(super) struct FlowStart<'a> {
    /// Its first datagram.
    pub(super) datagram: &'a [u8],
    /// What the first datagram revealed.
    pub(super) facts: Option<Facts>,
    /// Where its datagrams went before.
    pub(super) origin: FlowOrigin,
    /// The flow that it replaces.
    pub(super) replaces: Option<(FlowId, &'a Rc<Flow>)>,
}

impl<'a> FlowStart<'a> {
    pub(super) const fn with(datagram: &'a [u8], origin: FlowOrigin) -> Self {
        Self { datagram, facts: None, origin, replaces: None }
    }
}

/// What came of a flow that was to begin.
pub(super) enum FlowBegun {
    /// It has begun.
    Flow(FlowId, Rc<Flow>),
    /// A filter has yet to decide; until then its datagrams are to be held.
    Waits,
}

/// A flow that asks to begin.
#[derive(Debug)]
struct NewFlow {
    key: FlowKey,
    info: ConnInfo,
    origin: FlowOrigin,
    admission: FlowAdmission,
}

impl UdpSlot {
    /// Begins a flow, in place of another if it `replaces` one. A flow that cannot begin is counted with the reason, unless
    /// another continues in its place.
    pub(super) fn begin(
        self: &Rc<Self>,
        key: FlowKey,
        now: Moment,
        start: FlowStart<'_>,
    ) -> Result<FlowBegun, Reason> {
        let FlowStart { datagram, facts, origin, replaces } = start;
        let listener = Rc::clone(&self.listener.borrow());
        let client = Peer::Ip(key.client);
        let local = key.local.map_or(self.local, |ip| SocketAddr::new(ip, self.local.port()));
        let info =
            ConnInfo::new(next_id(), listener.plan.name.clone(), client, Peer::Ip(local), now);
        if let Some(facts) = facts {
            let _ = info.facts.set(Box::new(facts));
        }
        // Filters that count the flow already are not asked again.
        let counted = replaces.is_some_and(|(_, flow)| Rc::ptr_eq(&listener, &flow.listener));
        let check = if counted { FilterCheck::Skip } else { FilterCheck::Run };
        let admission = FlowAdmission::new(listener, check);
        let mut new = NewFlow { key, info, origin, admission };
        let refused = |new: &NewFlow, why| {
            if replaces.is_none() {
                // It never became a flow, but its end still has a reason.
                self.record(&new.info, &new.admission.listener, why, (1, 0));
            }
            why
        };
        let later = match self.ask(&mut new, now, replaces.is_some()) {
            Ok(AdmissionStep::Wait(later)) => later,
            Ok(AdmissionStep::Admitted(chain)) => {
                return match self.open(&new, chain, now, datagram, replaces) {
                    Ok(opened) => {
                        let (id, flow) = self.add(new, chain, now, opened);
                        Ok(FlowBegun::Flow(id, flow))
                    }
                    Err(why) => Err(refused(&new, why)),
                };
            }
            Err(why) => return Err(refused(&new, why)),
        };
        if !self.waiting.borrow_mut().begin(key) {
            count_limit(&self.worker, Limit::FlowsWaiting);
            new.admission.withdraw(&new.info);
            return Err(refused(&new, reasons::FLOW_WAITING_FULL));
        }
        if let Some((old, _)) = replaces {
            self.end(old, reasons::FLOW_MOVED);
        }
        self.worker.spawn(Rc::clone(self).decide(new, later));
        Ok(FlowBegun::Waits)
    }

    /// Asks the filters, unless there is no room for the flow.
    fn ask(&self, new: &mut NewFlow, now: Moment, replaces: bool) -> Result<AdmissionStep, Reason> {
        if !replaces {
            self.spare(&new.admission.listener, now)?;
        }
        new.admission.proceed(&new.info, &new.origin)
    }

    /// Waits for the filters of a flow, and begins it if they admit it.
    async fn decide(self: Rc<Self>, mut new: NewFlow, later: LocalFuture<AdmitResume>) {
        let decided = self.decided(&mut new, later).await;
        let now = self.worker.now();
        let held = self.waiting.borrow_mut().end(&new.key);
        let first = held.first().map_or(&[][..], |first| first);
        let opened =
            decided.and_then(|chain| Ok((chain, self.open(&new, chain, now, first, None)?)));
        match opened {
            Ok((chain, opened)) => {
                let begun = self.add(new, chain, now, opened);
                self.flush_held(begun, &held);
            }
            Err(why) => {
                let (listener, count) = (&new.admission.listener, held.len() as u64);
                listener.counters.refused.add(count);
                self.record(&new.info, listener, why, (count, 0));
            }
        }
        // The socket's task has another flow to expire, or no more to wait for.
        self.wake.notify_one();
    }

    /// Waits for the filters; each has its own time.
    async fn decided(
        &self,
        new: &mut NewFlow,
        mut later: LocalFuture<AdmitResume>,
    ) -> Result<usize, Reason> {
        let wait = Duration::from_secs(self.worker.limits.get(Limit::FilterWait));
        let timer = Timer::new(&self.worker.timers);
        loop {
            let verdict = match timer.until(self.worker.now().after(wait), later).await {
                Ok(resume) => resume(&new.info),
                Err(_) => Verdict::Reject(reasons::FILTER_TIMEOUT),
            };
            new.admission.note(verdict, &new.info)?;
            match new.admission.proceed(&new.info, &new.origin)? {
                AdmissionStep::Admitted(chain) => return Ok(chain),
                AdmissionStep::Wait(next) => later = next,
            }
        }
    }

    /// Picks an endpoint and opens a socket to it, which takes the place of that of a flow that is replaced; else
    /// another flow may have to be evicted.
    fn open(
        &self,
        new: &NewFlow,
        chain: usize,
        now: Moment,
        datagram: &[u8],
        replaces: Option<(FlowId, &Rc<Flow>)>,
    ) -> Result<(Claim, UpstreamSocket), Reason> {
        let NewFlow { info, origin, admission, .. } = new;
        let listener = &admission.listener;
        let picked = listener.pick(&self.worker, info, chain, origin, datagram);
        let opened = picked.and_then(|claim| {
            if replaces.is_none() {
                self.make_room(listener, now)?;
            }
            let upstream = listener.open(&self.worker, &claim, info)?;
            Ok((claim, upstream))
        });
        let opened = opened.inspect_err(|_| admission.withdraw(info))?;
        if let Some((old, flow)) = replaces {
            if admission.was_skipped() {
                flow.state.note_replaced();
                listener.tell_moved(flow.chain, &flow.info, info);
            }
            self.end(old, reasons::FLOW_MOVED);
        }
        Ok(opened)
    }

    /// Adds a flow to the table.
    fn add(
        self: &Rc<Self>,
        new: NewFlow,
        chain: usize,
        now: Moment,
        (claim, upstream): (Claim, UpstreamSocket),
    ) -> (FlowId, Rc<Flow>) {
        let NewFlow { key, info, origin, admission } = new;
        let listener = admission.listener;
        let plan = &listener.plan.chains[chain];
        let unanswered = Duration::from_secs(self.worker.limits.get(Limit::FlowUnanswered));
        let idle = plan.idle_timeout.map_or(unanswered, |idle| idle.min(unanswered));
        listener.chains[chain].selected.increment();
        listener.counters.flows.increment();
        listener.counters.active.increment();
        let id_length = match &origin {
            FlowOrigin::Moved(owner) => owner.id_length,
            _ => 0,
        };
        let (state, task) = (FlowState::new(id_length), RefCell::default());
        let filters = RefCell::new(listener.datagram_filters(chain, &info));
        let flow = Flow { info, key, listener, chain, upstream, claim, filters, state, task };
        let flow = Rc::new(flow);
        let id = self.table.borrow_mut().admit(key, Some(idle), now, Rc::clone(&flow));
        let task = tokio::task::spawn_local(Rc::clone(self).answer(id, Rc::clone(&flow)));
        *flow.task.borrow_mut() = Some(task.abort_handle());
        (id, flow)
    }

    /// Evicts a flow if there is no room for another.
    fn make_room(&self, listener: &UdpListener, now: Moment) -> Result<(), Reason> {
        if let Some((id, reached)) = self.spare(listener, now)? {
            reached.increment();
            // Its descriptor is freed once its task has ended, which is soon.
            self.end(id, reasons::FLOW_EVICTED);
        }
        Ok(())
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
}
