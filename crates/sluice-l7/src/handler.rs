//! HTTP on one worker: from a stream of bytes to exchanges, one after the other or side by side.
//!
//! Owns: the choice of version, connections between exchanges, what of a plan belongs to one worker.
//! Refuses to know: what becomes of a request. Keeps: a connection of HTTP/1 is driven by one task,
//! and so is each stream of HTTP/2; between two requests a connection holds no buffer and no head.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use sluice_codec::h1::{H1Stream, Role};
use sluice_codec::h2::{Accepted, H2Server};
use sluice_codec::h3::{H3Server, H3Stream};
use sluice_codec::quic::Connection;
use sluice_codec::{ErrorKind, Head, HttpError, HttpStream};
use sluice_core::reason::end;
use sluice_core::{Moment, Protocol, Reason};
use sluice_io::timers::Timer;
use sluice_io::{Conn, LocalFuture, Stream, StreamHandler, WorkerCx};
use sluice_l4::HandlerPlan;

use crate::exchange::{self, Exchange};
use crate::plan::{HttpPlan, Versions};
use crate::reasons;
use crate::slots::Slots;
use crate::station::{Lane, Station};

/// What a client of HTTP/2 says first, RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read and thrown away at most after an answer that did not wait for its request.
const LINGER_BYTES: u64 = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// How long a client of HTTP/3 has to take its last answers and close, once it has heard that no more is taken.
const DELIVERY_TIME: Duration = Duration::from_secs(5);

type ExchangeSlots = Slots<Exchange, HttpStream>;

/// HTTP on one worker.
#[derive(Debug)]
pub struct HttpHandler {
    station: Rc<Station>,
    slots: Rc<ExchangeSlots>,
}

impl HandlerPlan for HttpPlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>) -> Rc<dyn StreamHandler> {
        let slots = worker.local(|| Slots::new(exchange::run));
        Rc::new(HttpHandler {
            station: Station::new(self.clone(), worker),
            slots: Rc::clone(&slots),
        })
    }
}

impl StreamHandler for HttpHandler {
    fn handle(self: Rc<Self>, stream: Stream, conn: Rc<Conn>) -> LocalFuture<Reason> {
        let alpn = conn.info.tls.get().and_then(|tls| tls.alpn.as_deref());
        let facts = conn.info.nearest_facts();
        let h2 = match self.station.plan.options.versions {
            Versions::Http1 => Some(false),
            Versions::Http2 => Some(true),
            Versions::Any => match (alpn, facts.protocol) {
                (Some(b"h2"), _) | (None, Some(Protocol::Http2)) => Some(true),
                (Some(b"http/1.1" | b"http/1.0"), _) | (None, Some(Protocol::Http1)) => Some(false),
                _ => None,
            },
        };
        let lane = Lane::new(conn);
        if h2 == Some(true) {
            return Box::pin(serve_h2(self, lane, stream));
        }
        Box::pin(async move {
            let h1 = H1Stream::new(stream, Role::Server, Rc::clone(&self.station.h1));
            match serve_h1(&self, &lane, h1, h2.is_none()).await {
                Served::Ended(reason) => reason,
                // Boxed: few connections that begin as a guess turn out so.
                Served::IsH2(stream) => Box::pin(serve_h2(self, lane, stream)).await,
            }
        })
    }
}

/// How a connection of HTTP/1 went.
enum Served {
    Ended(Reason),
    /// The client speaks HTTP/2; its first bytes were given back.
    IsH2(Stream),
}

async fn serve_h1(
    handler: &Rc<HttpHandler>,
    lane: &Rc<Lane>,
    mut h1: Box<H1Stream>,
    guess: bool,
) -> Served {
    let (conn, options) = (&lane.conn, &handler.station.plan.options);
    let worker = &handler.station.worker;
    if guess {
        let by = worker.now().after(options.head_timeout);
        let sniffed = conn.until(by, poll_fn(|cx| sniff(&mut h1, cx, worker))).await;
        match sniffed {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                let (mut stream, input) = h1.into_parts();
                let kept = input.map_or(Ok(()), |input| stream.give_back(&worker.buffers, &input));
                if kept.is_err() {
                    return Served::Ended(sluice_l4::reasons::BUFFERS);
                }
                return Served::IsH2(stream);
            }
            Ok(Err(error)) => return Served::Ended(quiet_end(conn, &error)),
            Err(_) => return Served::Ended(reasons::HEAD_TIMEOUT),
        }
    }
    let mut served: u64 = 0;
    loop {
        let head = match next_head(handler, lane, &mut h1, served).await {
            Next::Head(head) => head,
            Next::End(reason) => return Served::Ended(reason),
            Next::Fault(error) => {
                let reason = fault_reason(&error);
                handler.station.count_fault(&error);
                conn.info.note(&error);
                // Boxed: what few connections come to is not room that each holds.
                Box::pin(exchange::refuse(&handler.station, &mut h1, &error)).await;
                Box::pin(part(worker, conn, &mut h1)).await;
                count_bytes(conn, &mut h1);
                return Served::Ended(reason);
            }
        };
        served += 1;
        let over = options.requests_max.is_some_and(|max| served >= max);
        if over {
            h1.refuse_reuse();
        }
        let exchange = Exchange {
            station: Rc::clone(&handler.station),
            lane: Rc::clone(lane),
            stream: HttpStream::H1(h1),
            request: head,
            timer: None,
        };
        let HttpStream::H1(mut after) = handler.slots.run(exchange).await else {
            unreachable!("an exchange gives back the stream that it was given")
        };
        count_bytes(conn, &mut after);
        if !after.next_exchange() {
            Box::pin(part(worker, conn, &mut after)).await;
            return Served::Ended(end::DONE);
        }
        h1 = after;
    }
}

fn note_moved(conn: &Conn, server: &H3Server) {
    let (received, sent) = server.moved();
    conn.info.received.set(received);
    conn.info.sent.set(sent);
}

fn count_bytes(conn: &Conn, h1: &mut H1Stream) {
    let (received, sent) = h1.take_moved();
    conn.info.received.set(conn.info.received.get() + received);
    conn.info.sent.set(conn.info.sent.get() + sent);
}

/// Whether a client speaks HTTP/2, by its first bytes.
fn sniff(
    h1: &mut H1Stream,
    cx: &mut std::task::Context<'_>,
    worker: &WorkerCx,
) -> Poll<Result<bool, HttpError>> {
    loop {
        let seen = h1.unparsed();
        let common = seen.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        if common == PREFACE.len() {
            return Poll::Ready(Ok(true));
        }
        if common < seen.len() {
            return Poll::Ready(Ok(false));
        }
        let had = seen.len();
        std::task::ready!(h1.poll_unparsed(cx, worker, had + 1))?;
        if h1.unparsed().len() == had {
            let closed = "the client closed before it said anything whole";
            return Poll::Ready(Err(HttpError::new(ErrorKind::Finished, closed)));
        }
    }
}

/// What came of waiting for a request.
enum Next {
    Head(Box<Head>),
    Fault(HttpError),
    End(Reason),
}

async fn next_head(handler: &HttpHandler, lane: &Lane, h1: &mut H1Stream, served: u64) -> Next {
    let (conn, options, worker) =
        (&lane.conn, &handler.station.plan.options, &handler.station.worker);
    let heads = &handler.station.shared.heads;
    let now = worker.now();
    // The first request is due at once, further ones whenever the client likes.
    let mut begun = served == 0 || !h1.unparsed().is_empty();
    conn.deadline.set(if begun {
        now.after(options.head_timeout)
    } else {
        now.after_bound(options.idle_timeout)
    });
    let next = poll_fn(|cx| {
        // What of the last answer the client was too slow to take leaves first.
        if let Poll::Ready(Err(error)) = h1.poll_flushed(cx, worker) {
            return Poll::Ready(Next::End(quiet_end(conn, &error)));
        }
        if conn.is_finishing() && h1.unparsed().is_empty() && served > 0 {
            return Poll::Ready(Next::End(end::DRAIN));
        }
        let mut head = heads.take();
        match h1.poll_recv_head(cx, worker, &mut head) {
            Poll::Ready(Ok(())) => return Poll::Ready(Next::Head(head)),
            Poll::Ready(Err(error)) => {
                heads.give(head);
                return Poll::Ready(match error.kind() {
                    ErrorKind::Malformed(_) => Next::Fault(error),
                    _ => Next::End(quiet_end(conn, &error)),
                });
            }
            Poll::Pending => heads.give(head),
        }
        if !begun && !h1.unparsed().is_empty() {
            begun = true;
            conn.deadline.set(worker.now().after(options.head_timeout));
        }
        std::task::ready!(conn.deadline.poll(cx));
        Poll::Ready(match begun {
            false => Next::End(reasons::KEEPALIVE_IDLE),
            true if h1.unparsed().is_empty() => Next::End(reasons::HEAD_TIMEOUT),
            true => Next::Fault(HttpError::new(ErrorKind::Malformed(408), "http1.head_timeout")),
        })
    })
    .await;
    conn.deadline.set(Moment::NEVER);
    next
}

/// The reason for the end of a connection that was not in the middle of an exchange.
fn quiet_end(conn: &Conn, error: &HttpError) -> Reason {
    match error.kind() {
        ErrorKind::Finished => end::DONE,
        ErrorKind::ClosedEarly => end::DOWNSTREAM_CLOSED,
        ErrorKind::Malformed(_) => {
            conn.info.note(error);
            reasons::MALFORMED
        }
        ErrorKind::Flood => {
            conn.info.note(error);
            reasons::FLOOD
        }
        _ => {
            conn.info.note(error);
            end::DOWNSTREAM_RESET
        }
    }
}

fn fault_reason(error: &HttpError) -> Reason {
    match error.kind() {
        ErrorKind::Malformed(408) => reasons::HEAD_TIMEOUT,
        ErrorKind::Malformed(414 | 431) => reasons::HEAD_TOO_LARGE,
        _ => reasons::MALFORMED,
    }
}

/// Ends a connection so that the client can read its last answer: our side is finished, and what the
/// client still sends is read for a while. Closing at once would answer it with a reset, which can
/// overtake the answer.
async fn part(worker: &WorkerCx, conn: &Conn, h1: &mut H1Stream) {
    let by = worker.now().after(LINGER_TIME);
    let mut left = LINGER_BYTES;
    let parting = poll_fn(|cx| {
        if std::task::ready!(h1.poll_finish(cx, worker)).is_err() {
            return Poll::Ready(());
        }
        loop {
            let read = worker.with_scratch(|scratch| h1.poll_discard(cx, worker, scratch));
            match std::task::ready!(read) {
                Ok(count) if count > 0 && left > count as u64 => left -= count as u64,
                _ => return Poll::Ready(()),
            }
        }
    });
    let _ = conn.until(by, parting).await;
}

async fn serve_h2(handler: Rc<HttpHandler>, lane: Rc<Lane>, stream: Stream) -> Reason {
    let (conn, options) = (&lane.conn, &handler.station.plan.options);
    let worker = &handler.station.worker;
    let greeting =
        H2Server::handshake(stream, Rc::clone(worker), &options.h2, Some(Rc::clone(conn)));
    let mut server = match conn.until(worker.now().after(options.head_timeout), greeting).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            handler.station.count_fault(&error);
            return quiet_end(conn, &error);
        }
        Err(_) => return reasons::HEAD_TIMEOUT,
    };
    let mut care = Care { drained: false, asked: None, served: 0 };
    loop {
        match poll_fn(|cx| care.poll(cx, &handler, &lane, &mut server)).await {
            Event::Request(accepted) => {
                let Accepted { head, stream } = *accepted;
                care.served += 1;
                if options.requests_max.is_some_and(|max| care.served >= max) {
                    server.drain();
                }
                let exchange = Exchange {
                    station: Rc::clone(&handler.station),
                    lane: Rc::clone(&lane),
                    stream: HttpStream::H2(Box::new(stream)),
                    request: head,
                    timer: Some(Timer::new(&worker.timers)),
                };
                lane.open.set(lane.open.get() + 1);
                let open = OpenStream(Rc::clone(&lane));
                let slots = Rc::clone(&handler.slots);
                worker.spawn(async move {
                    let _open = open;
                    slots.run(exchange).await;
                });
            }
            Event::End(reason) => return reason,
        }
    }
}

impl HttpHandler {
    /// Serves a connection of QUIC that carries HTTP/3, and says why it ended.
    pub(crate) async fn serve_quic(self: Rc<Self>, quic: Connection, conn: Rc<Conn>) -> Reason {
        let (options, worker) = (&self.station.plan.options, &self.station.worker);
        let greeting = H3Server::greet(quic, worker, options.h3);
        let mut server = match conn.until(worker.now().after(options.head_timeout), greeting).await
        {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => return quiet_end(&conn, &error),
            Err(_) => return reasons::HEAD_TIMEOUT,
        };
        let lane = Lane::new(Rc::clone(&conn));
        let (mut served, mut over) = (0, None);
        let reason = loop {
            if options.requests_max.is_some_and(|max| served >= max) {
                over = over.or(Some(end::DRAIN));
            }
            let mut idle_since = None;
            let accepted = poll_fn(|cx| {
                loop {
                    // Woken when it is asked to finish.
                    if conn.is_finishing() {
                        over = over.or(Some(end::DRAIN));
                    }
                    if over.is_some() {
                        server.drain(cx);
                    }
                    if let Poll::Ready(accepted) = server.poll_accept(cx) {
                        return Poll::Ready(Ok(accepted));
                    }
                    std::task::ready!(server.poll_idle(cx));
                    if let Some(over) = over {
                        return Poll::Ready(Err(over));
                    }
                    let since = *idle_since.get_or_insert_with(|| worker.now());
                    conn.deadline.set(since.after_bound(options.idle_timeout));
                    std::task::ready!(conn.deadline.poll(cx));
                    over = Some(reasons::KEEPALIVE_IDLE);
                }
            })
            .await;
            conn.deadline.set(Moment::NEVER);
            note_moved(&conn, &server);
            match accepted {
                Ok(Ok(stream)) => {
                    served += 1;
                    let (handler, lane) = (Rc::clone(&self), Rc::clone(&lane));
                    worker.spawn(handler.serve_h3(lane, stream));
                }
                Ok(Err(error)) => {
                    if matches!(error.kind(), ErrorKind::Malformed(_) | ErrorKind::Flood) {
                        self.station.count_fault(&error);
                    }
                    break quiet_end(&conn, &error);
                }
                Err(over) => break over,
            }
        };
        note_moved(&conn, &server);
        self.station.count_path(&conn);
        if over.is_some() {
            // What was answered last may still be on its way, and closing would end it: the client, who has
            // heard that no more is taken, closes when it has everything.
            let _ = conn.until(worker.now().after(DELIVERY_TIME), server.closed()).await;
        }
        reason
    }

    /// Reads the head of a request on its stream and serves it.
    async fn serve_h3(self: Rc<Self>, lane: Rc<Lane>, mut stream: H3Stream) {
        let (options, worker) = (&self.station.plan.options, &self.station.worker);
        let timer = Timer::new(&worker.timers);
        let mut head = self.station.shared.heads.take();
        let by = worker.now().after(options.head_timeout);
        let reading = poll_fn(|cx| stream.poll_recv_head(cx, worker, &mut head));
        let error = match timer.until(by, reading).await {
            Ok(Ok(())) => {
                let exchange = Exchange {
                    station: Rc::clone(&self.station),
                    lane,
                    stream: HttpStream::H3(Box::new(stream)),
                    request: head,
                    timer: Some(timer),
                };
                self.slots.run(exchange).await;
                return;
            }
            Ok(Err(error)) => error,
            Err(_) => HttpError::new(ErrorKind::Malformed(408), "http3.head_timeout"),
        };
        self.station.shared.heads.give(head);
        if let ErrorKind::Malformed(status) = error.kind() {
            self.station.count_fault(&error);
            lane.conn.info.note(&error);
            // Boxed: few streams come to this.
            Box::pin(exchange::refuse_stream(&self.station, &mut stream, status, &error)).await;
        }
    }
}

/// A stream of HTTP/2 that is open; on drop the connection is woken, which may be waiting for it.
struct OpenStream(Rc<Lane>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.conn.wake();
        }
    }
}

/// What keeps a connection of HTTP/2 in order.
struct Care {
    drained: bool,
    /// When the client was asked whether it is there.
    asked: Option<Moment>,
    served: u64,
}

enum Event {
    Request(Box<Accepted>),
    End(Reason),
}

impl Care {
    fn poll(
        &mut self,
        cx: &mut std::task::Context<'_>,
        handler: &HttpHandler,
        lane: &Lane,
        server: &mut H2Server,
    ) -> Poll<Event> {
        let (conn, options) = (&lane.conn, &handler.station.plan.options);
        if conn.is_finishing() && !self.drained {
            self.drained = true;
            server.drain();
        }
        match server.poll_accept(cx) {
            Poll::Ready(Some(Ok(accepted))) => {
                return Poll::Ready(Event::Request(Box::new(accepted)));
            }
            Poll::Ready(Some(Err(error))) => {
                if matches!(error.kind(), ErrorKind::Malformed(_) | ErrorKind::Flood) {
                    handler.station.count_fault(&error);
                }
                return Poll::Ready(Event::End(quiet_end(conn, &error)));
            }
            Poll::Ready(None) => {
                let reason = if self.drained { end::DRAIN } else { end::DONE };
                return Poll::Ready(Event::End(reason));
            }
            Poll::Pending => {}
        }
        if self.asked.is_some() && server.poll_pong(cx).is_ready() {
            self.asked = None;
        }
        let now = handler.station.worker.now();
        let due = if lane.open.get() == 0 {
            now.after_bound(options.idle_timeout)
        } else {
            match (self.asked, options.h2.ping_interval) {
                (Some(asked), _) => asked.after(options.h2.ping_timeout),
                (None, Some(interval)) => now.after(interval),
                (None, None) => Moment::NEVER,
            }
        };
        if lane.conn.deadline.poll(cx).is_ready() {
            if lane.open.get() == 0 {
                if !self.drained {
                    self.drained = true;
                    server.drain();
                    conn.deadline.set(now.after(LINGER_TIME));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                return Poll::Ready(Event::End(reasons::KEEPALIVE_IDLE));
            }
            match (self.asked, options.h2.ping_interval) {
                (Some(_), _) => {
                    conn.info.note("no answer to a ping");
                    return Poll::Ready(Event::End(end::DOWNSTREAM_CLOSED));
                }
                (None, Some(_)) => {
                    server.ping();
                    self.asked = Some(now);
                    conn.deadline.set(now.after(options.h2.ping_timeout));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                (None, None) => {}
            }
        }
        if !self.drained {
            conn.deadline.set(due);
        }
        let _ = conn.deadline.poll(cx);
        Poll::Pending
    }
}
