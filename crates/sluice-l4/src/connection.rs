//! The life of a TCP connection: seven phases, in the order of `admission`.
//!
//! Owns: the order of phases and what is passed from one to the next. Refuses to know: what inspectors, filters and
//! handlers do, and how a phase that talks to the client does so; those have files of their own. Keeps: every accepted
//! connection is counted, ends with one reason and leaves one record, whatever happens, panics included.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Facts, LocalFuture, Reason, TransportKind, Verdict};
use sluice_io::{Admit, Conn, ConnectionFilter, RawStream, Source, Stream, WorkerCx};
use sluice_sys::socket::original_destination;
use sluice_telemetry::RecordKind;
use sluice_tls::reasons as tls_reasons;

use crate::chain::{Chain, ChainOnWorker, InnerPlan, Transport};
use crate::inspect::tls;
use crate::listener::{InspectPlan, Listener};
use crate::metrics;
use crate::quic::QuicClient;
use crate::reasons;
use crate::record::ConnectionRecord;
use crate::select::{ChainInput, ChainTable};

mod first_bytes;
mod prefix;
mod proxy_header;
mod termination;
#[cfg(test)]
mod tests;

use first_bytes::inspect;
use proxy_header::take_proxy_header;
use termination::{HelloAlert, refuse_hello, terminate, turn_away};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Returns the next ID of a connection or flow.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Relaxed)
}

/// Starts the life of an accepted connection.
pub fn start(
    listener: &Rc<Listener>,
    worker: &Rc<WorkerCx>,
    socket: Source,
    peer: Peer,
    local: Peer,
) {
    let asks = listener.plan.original_destination;
    let wanted = asks.then(|| original_destination(&socket)).flatten().map(Peer::Ip);
    let wanted = wanted.filter(|wanted| *wanted != local);
    let Some(guard) = enter(listener, worker, peer, wanted.unwrap_or(local)) else { return };
    guard.conn.info.redirected.set(wanted.is_some());
    // Boxed, and freed once the handler has the stream: an idle connection holds little.
    let conn = Rc::clone(&guard.conn);
    let admission = admission(Rc::clone(listener), conn, RawStream::new(socket));
    worker.spawn(ConnectionTask::new(guard, admission));
}

/// Starts the life of a QUIC connection whose hello has been read: the same phases, except that inspection is done and
/// `client` performs the handshake.
pub fn start_quic(
    listener: &Rc<Listener>,
    worker: &Rc<WorkerCx>,
    client: Box<dyn QuicClient>,
    facts: Facts,
    peer: Peer,
    local: Peer,
) {
    let Some(guard) = enter(listener, worker, peer, local) else { return };
    let _ = guard.conn.info.facts.set(Box::new(facts));
    let conn = Rc::clone(&guard.conn);
    worker.spawn(ConnectionTask::new(guard, quic_admission(Rc::clone(listener), conn, client)));
}

/// Counts and records a QUIC client that is refused before it has a connection.
pub fn refuse_quic(
    listener: &Rc<Listener>,
    worker: &Rc<WorkerCx>,
    ends: (Peer, Peer),
    reason: Reason,
    detail: impl std::fmt::Display,
) {
    let Some(guard) = enter(listener, worker, ends.0, ends.1) else { return };
    guard.conn.info.note(detail);
    guard.reason.set(Some(reason));
}

/// Counts a connection in, unless the worker has as many as it may.
fn enter(
    listener: &Rc<Listener>,
    worker: &Rc<WorkerCx>,
    peer: Peer,
    local: Peer,
) -> Option<EndGuard> {
    let info = ConnInfo::new(next_id(), listener.name().clone(), peer, local, worker.now());
    let conn = Conn::enter(worker, info);
    listener.counters.accepted.increment();
    listener.counters.active.increment();
    let guard =
        EndGuard { listener: Rc::clone(listener), conn: Rc::clone(&conn), reason: Cell::new(None) };
    if worker.connections.len() > worker.limits.size(Limit::WorkerConnections) {
        metrics::count_limit(worker, Limit::WorkerConnections);
        conn.info.note(format_args!("limits: {}", Limit::WorkerConnections.def().name));
        guard.reason.set(Some(reasons::LIMIT));
        return None;
    }
    Some(guard)
}

/// The task of a connection, until the connection ends for whatever reason. Written by hand because an `async fn`
/// stores its arguments twice; boxed because a task's own allocation is aligned, which makes its content cost more
/// there. On drop, the phase is dropped first, then the filters are notified of the end, then the record is written.
struct ConnectionTask<A> {
    phase: TaskPhase<A>,
    admitted: Option<Admitted>,
    guard: EndGuard,
}

impl<A> ConnectionTask<A> {
    fn new(guard: EndGuard, admission: A) -> Pin<Box<Self>> {
        Box::pin(Self { phase: TaskPhase::Admission(Box::pin(admission)), admitted: None, guard })
    }
}

enum TaskPhase<A> {
    Admission(Pin<Box<A>>),
    Serving(LocalFuture<Reason>),
}

impl<A: Future<Output = Result<Served, Reason>>> Future for ConnectionTask<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Self { phase, admitted, guard } = this;
        let living = poll_fn(|cx| {
            loop {
                match phase {
                    TaskPhase::Admission(admission) => match ready!(admission.as_mut().poll(cx)) {
                        Ok(served) => {
                            *admitted = Some(served.admitted);
                            *phase = TaskPhase::Serving(served.serving);
                        }
                        Err(reason) => return Poll::Ready(reason),
                    },
                    TaskPhase::Serving(serving) => return serving.as_mut().poll(cx),
                }
            }
        });
        let (Ok(reason) | Err(reason)) = ready!(std::pin::pin!(guard.conn.live(living)).poll(cx));
        this.guard.reason.set(Some(reason));
        Poll::Ready(())
    }
}

impl<A> Unpin for ConnectionTask<A> {}

/// A connection that was admitted and handed over to its handler.
struct Served {
    serving: LocalFuture<Reason>,
    admitted: Admitted,
}

/// The filters that admitted a connection; on drop they are notified that it has ended.
struct Admitted {
    conn: Rc<Conn>,
    filters: Box<[Rc<dyn ConnectionFilter>]>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.filters.iter().for_each(|filter| filter.ended(&self.conn.info));
    }
}

/// Counts the end and leaves the record on drop: at the end, or when a panic unwinds.
struct EndGuard {
    listener: Rc<Listener>,
    conn: Rc<Conn>,
    reason: Cell<Option<Reason>>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let (info, worker) = (&self.conn.info, &self.conn.worker);
        let unset = if std::thread::panicking() { end::WORKER_PANIC } else { end::FORCED };
        let reason = self.reason.get().unwrap_or(unset);
        info.path.get().into_iter().for_each(|path| path.ended());
        let counters = &self.listener.counters;
        counters.active.decrement();
        counters.received.add(info.received.get());
        counters.sent.add(info.sent.get());
        self.listener.count_end(worker, reason);
        if worker.log.wants(RecordKind::Connection) {
            let record = ConnectionRecord::new(info, &worker.clock, worker.now(), reason, None);
            worker.log.push(Box::new(record));
        }
    }
}

/// The phases from Accept to the beginning of Handle. `Err` is an end before the handler got the stream.
async fn admission(
    listener: Rc<Listener>,
    conn: Rc<Conn>,
    raw: RawStream,
) -> Result<Served, Reason> {
    let mut admitted = Admitted { conn: Rc::clone(&conn), filters: Box::default() };
    let (listener, conn) = (&*listener, &conn);
    let plan = &listener.plan;
    let mut stream = Stream::Raw(raw);
    // 1. Accept: the source, and whether it is admitted.
    if let Some(proxy) = &plan.proxy_protocol {
        Box::pin(take_proxy_header(proxy, conn, &mut stream)).await?;
    }
    admitted.judge(&listener.filters).await?;

    // 2. Inspect.
    if plan.inspect.needs.any() {
        let facts =
            Box::pin(inspect(&plan.inspect, &listener.inspectors, conn, &mut stream)).await?;
        let _ = conn.info.facts.set(Box::new(facts));
    }

    // 3. Select.
    let none = Facts::default();
    let facts = conn.info.facts.get().map_or(&none, |facts| &**facts);
    let selected = select(&plan.table, &listener.chains, conn, facts);
    if selected.is_err() && facts.transport == TransportKind::Tls {
        refuse_hello(&mut stream, conn, HelloAlert::UnrecognizedName).await;
    }
    let mut chain = selected?;

    // 4. Transport.
    let outer = Rc::clone(&chain);
    if let Transport::Terminate(termination) = outer.transport() {
        let Stream::Raw(raw) = stream else { unreachable!("nothing was terminated before") };
        stream = Box::pin(terminate(listener, termination, conn, raw)).await?;
        if let (Some(plans), Some(inner)) = (&termination.inner, &outer.inner) {
            chain = Box::pin(choose_inside(&plan.inspect, plans, inner, conn, &mut stream)).await?;
        }
    }
    let name = if Rc::ptr_eq(&outer, &chain) {
        outer.name.clone()
    } else {
        format!("{}/{}", outer.name, chain.name).into()
    };
    let _ = conn.info.chain.set(name);
    chain.selected.increment();
    drop(outer);

    // 5. Filter.
    if let Err(refused) = admitted.judge(&chain.filters).await {
        Box::pin(turn_away(&mut stream, conn, facts.transport)).await;
        return Err(refused);
    }

    // 6. Handle.
    let handler = chain.handler.clone().ok_or(reasons::UNMATCHED)?;
    Ok(Served { serving: handler.handle(stream, Rc::clone(conn)), admitted })
    // 7. Log: done by `EndGuard`.
}

/// The same for QUIC, from Accept on.
async fn quic_admission(
    listener: Rc<Listener>,
    conn: Rc<Conn>,
    client: Box<dyn QuicClient>,
) -> Result<Served, Reason> {
    let mut admitted = Admitted { conn: Rc::clone(&conn), filters: Box::default() };
    admitted.judge(&listener.filters).await?;
    let facts = conn.info.facts.get().map(|facts| Facts::clone(facts)).unwrap_or_default();
    let index = find(&listener.plan.table, &conn, &facts)?;
    let chain = Rc::clone(&listener.chains[index]);
    let Transport::Terminate(termination) = chain.transport() else {
        return Err(reasons::UNMATCHED);
    };
    let _ = conn.info.chain.set(chain.name.clone());
    chain.selected.increment();
    // What only the handshake shows is judged after it.
    let judging = |certificate| {
        chain.filters.iter().filter(move |filter| filter.judges_certificate() == certificate)
    };
    admitted.judge(judging(false)).await?;
    let started = conn.worker.now();
    let handshakes = &listener.counters.handshakes;
    let accepting = client.accept_handshake(index, Rc::clone(&conn));
    let (reason, detail) = match conn.until(started.after(termination.timeout), accepting).await {
        Ok(Ok(serving)) => {
            let resumed = conn.info.tls.get().is_some_and(|tls| tls.resumed);
            if resumed { &handshakes.resumed } else { &handshakes.full }.increment();
            listener.counters.handshake_time.record(conn.worker.now().since(started));
            admitted.judge(judging(true)).await?;
            return Ok(Served { serving, admitted });
        }
        Ok(Err(failed)) => failed,
        Err(_) => (tls_reasons::TIMEOUT, "the handshake was not complete in time".into()),
    };
    handshakes.failed.increment();
    conn.info.note(detail);
    Err(reason)
}

impl Admitted {
    /// Adds a filter to a list that takes little room in the task of the connection, and none if it is empty.
    fn add(&mut self, filter: Rc<dyn ConnectionFilter>) {
        let mut filters = std::mem::take(&mut self.filters).into_vec();
        filters.reserve_exact(1);
        filters.push(filter);
        self.filters = filters.into_boxed_slice();
    }

    async fn judge<'f>(
        &mut self,
        filters: impl IntoIterator<Item = &'f Rc<dyn ConnectionFilter>>,
    ) -> Result<(), Reason> {
        for filter in filters {
            let verdict = match filter.admit(&self.conn.info) {
                Admit::Now(verdict) => verdict,
                Admit::Wait(later) => {
                    let wait = self.conn.worker.limits.get(Limit::FilterWait);
                    let by = self.conn.worker.now().after(Duration::from_secs(wait));
                    match self.conn.until(by, later).await {
                        Ok(resume) => resume(&self.conn.info),
                        Err(_) => Verdict::Reject(reasons::FILTER_TIMEOUT),
                    }
                }
            };
            match verdict {
                Verdict::Continue => self.add(Rc::clone(filter)),
                Verdict::Reject(reason) => return Err(reason),
            }
            let info = &self.conn.info;
            let (tap, bytes) = (filter.tap(info), filter.byte_filter(info));
            if tap.is_some() || bytes.is_some() {
                let mut hooks = self.conn.byte_hooks.borrow_mut();
                let hooks = hooks.get_or_insert_default();
                hooks.taps.extend(tap);
                hooks.filters.extend(bytes);
            }
        }
        Ok(())
    }
}

/// Selects a chain by the connection's addresses and facts.
fn select(
    table: &ChainTable,
    chains: &[Rc<Chain>],
    conn: &Conn,
    facts: &Facts,
) -> Result<Rc<Chain>, Reason> {
    find(table, conn, facts).map(|index| Rc::clone(&chains[index]))
}

fn find(table: &ChainTable, conn: &Conn, facts: &Facts) -> Result<usize, Reason> {
    table.find(&ChainInput::of(&conn.info, facts)).ok_or(reasons::UNMATCHED)
}

/// Inspect and Select again, on the clear text.
async fn choose_inside(
    limits: &InspectPlan,
    plans: &InnerPlan,
    inner: &ChainOnWorker,
    conn: &Conn,
    stream: &mut Stream,
) -> Result<Rc<Chain>, Reason> {
    let mut facts = if plans.needs.any() {
        let plan = InspectPlan { needs: plans.needs, ..limits.clone() };
        inspect(&plan, &inner.inspectors, conn, stream).await?
    } else {
        Facts::default()
    };
    // The name was sent outside and still applies; the protocol is the one found inside.
    facts.transport = TransportKind::Tls;
    let none = Facts::default();
    facts.take_from(conn.info.facts.get().map_or(&none, |outside| &**outside), &tls::FACTS);
    let chain = select(&plans.table, &inner.chains, conn, &facts)?;
    let _ = conn.info.inner_facts.set(Box::new(facts));
    Ok(chain)
}
