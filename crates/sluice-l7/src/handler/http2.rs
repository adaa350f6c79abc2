//! An HTTP/2 connection.
//!
//! Owns: accepting requests, pings, GOAWAY. Refuses to know: what becomes of a request. Keeps: one task drives the
//! connection, and one each stream.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_codec::h2::{Accepted, H2Event, H2Server};
use sluice_codec::{ErrorKind, HttpStream};
use sluice_core::reason::end;
use sluice_core::{Moment, Reason};
use sluice_io::Stream;
use sluice_io::timers::Timer;

use super::{HttpHandler, end_reason};
use crate::connection_manager::DownstreamConn;
use crate::exchange::Exchange;
use crate::handler::Turn;
use crate::reasons;
use crate::task_pool::TaskPool;

/// Serves a connection to its end. Idle connections keep this future.
#[allow(clippy::manual_async_fn, reason = "it would keep its arguments twice")]
pub(super) fn serve_h2(
    handler: Rc<HttpHandler>,
    downstream: Rc<DownstreamConn>,
    stream: Stream,
) -> impl Future<Output = Reason> {
    // Only what is captured as a box gives its room back.
    let handshake = Box::pin(H2Server::handshake(
        stream,
        Rc::clone(&handler.manager.worker),
        &handler.manager.plan.options.h2,
        Some(Rc::clone(&downstream.conn)),
    ));
    async move {
        let (conn, options) = (&downstream.conn, &handler.manager.plan.options);
        let worker = &handler.manager.worker;
        let mut server = match conn.until(worker.now().after(options.head_timeout), handshake).await
        {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => {
                handler.manager.count_protocol_error(&error);
                return end_reason(conn, &error);
            }
            Err(_) => return reasons::HEAD_TIMEOUT,
        };
        let mut care = ConnectionCare {
            drained: None,
            expired_at: None,
            asked: None,
            served: 0,
            used: false,
            idle_since: worker.now(),
        };
        let mut turn = Turn::default();
        loop {
            let event = poll_fn(|cx| care.poll(cx, &handler, &downstream, &mut server)).await;
            if let Some(reason) = care.take(event, &handler, &downstream, &mut server) {
                return reason;
            }
            turn.took_another().await;
        }
    }
}

/// The tasks of a worker's HTTP/2 streams.
pub(super) type StreamTasks = TaskPool<Exchange, HttpStream, OpenStreamGuard>;

/// Counts an open HTTP/2 stream. When the last one is dropped, wakes the connection, which may be waiting for that.
#[derive(Debug)]
pub(super) struct OpenStreamGuard(Rc<DownstreamConn>);

impl Drop for OpenStreamGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.conn.wake();
        }
    }
}

/// The maintenance of an HTTP/2 connection: draining, pings and idle time.
struct ConnectionCare {
    /// Why GOAWAY was sent, if it was.
    drained: Option<Reason>,
    /// When the connection became too old, if it did.
    expired_at: Option<Moment>,
    /// When the ping was sent that is not acknowledged yet.
    asked: Option<Moment>,
    served: u64,
    /// Whether streams were open at the last poll.
    used: bool,
    /// Since when no stream is open, if none is. Other frames from the client do not change it.
    idle_since: Moment,
}

enum Event {
    Request(Accepted),
    End(Reason),
}

impl ConnectionCare {
    /// Starts the exchange of a request; returns the reason if the connection has ended. Not a part of the future that
    /// calls it, which would keep room for the event.
    fn take(
        &mut self,
        event: Event,
        handler: &HttpHandler,
        downstream: &Rc<DownstreamConn>,
        server: &mut H2Server,
    ) -> Option<Reason> {
        let Accepted { head, stream, charge } = match event {
            Event::Request(accepted) => accepted,
            Event::End(reason) => return Some(reason),
        };
        let worker = &handler.manager.worker;
        self.served += 1;
        self.used = true;
        let requests_max = handler.manager.plan.options.requests_max;
        if requests_max.is_some_and(|max| self.served >= max) {
            server.drain();
        }
        let exchange = Exchange {
            manager: Rc::clone(&handler.manager),
            downstream: Rc::clone(downstream),
            stream: HttpStream::H2(stream),
            charge,
            request: head,
            timer: Some(Timer::new(&worker.timers)),
        };
        downstream.open.set(downstream.open.get() + 1);
        handler.tasks.spawn(worker, exchange, OpenStreamGuard(Rc::clone(downstream)));
        None
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        handler: &HttpHandler,
        downstream: &DownstreamConn,
        server: &mut H2Server,
    ) -> Poll<Event> {
        let (conn, options) = (&downstream.conn, &handler.manager.plan.options);
        let worker = &handler.manager.worker;
        if self.drained.is_none() && downstream.is_ending(worker) {
            self.drained = Some(downstream.why_ending());
            server.drain();
            if !conn.is_finishing() {
                // The deadline that led here is over.
                self.expired_at = Some(worker.now());
                conn.deadline.set(Moment::NEVER);
            }
        }
        let accepted = server.poll_accept(cx);
        for _ in 0..server.take_starved() {
            handler.manager.count_starved();
        }
        match accepted {
            Poll::Ready(Some(Ok(H2Event::Request(accepted)))) => {
                return Poll::Ready(Event::Request(accepted));
            }
            Poll::Ready(Some(Ok(H2Event::Refused(error)))) => {
                handler.manager.count_protocol_error(&error);
                conn.info.note(&error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(Err(error))) => {
                let of_client = matches!(
                    error.kind(),
                    ErrorKind::Malformed(_) | ErrorKind::Flood | ErrorKind::Timeout
                );
                if of_client {
                    handler.manager.count_protocol_error(&error);
                }
                return Poll::Ready(Event::End(end_reason(conn, &error)));
            }
            Poll::Ready(None) => {
                return Poll::Ready(Event::End(self.drained.unwrap_or(end::DONE)));
            }
            Poll::Pending => {}
        }
        if self.asked.is_some() && server.take_pong() {
            self.asked = None;
        }
        let now = worker.now();
        let whole_by = server.partial_since().map(|begun| begun.after(options.head_timeout));
        if whole_by.is_some_and(|by| by <= now) {
            server.overdue();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let open = downstream.open.get() > 0;
        if std::mem::replace(&mut self.used, open) && !open {
            self.idle_since = now;
        }
        let due = if !open {
            let idle = self.idle_since.after_bound(options.idle_timeout);
            match self.expired_at {
                // The client has to close the connection.
                Some(at) => idle.min(self.idle_since.max(at).after(options.delayed_close)),
                None => idle.min(downstream.expires),
            }
        } else {
            match (self.asked, options.h2.ping_interval) {
                (Some(asked), _) => asked.after(options.h2.ping_timeout),
                (None, Some(interval)) => now.after(interval),
                (None, None) => Moment::NEVER,
            }
            .min(if self.drained.is_none() {
                downstream.expires
            } else {
                Moment::NEVER
            })
        };
        if downstream.conn.deadline.poll(cx).is_ready() {
            if downstream.open.get() == 0 {
                if self.drained.is_none() {
                    self.drained = Some(reasons::KEEPALIVE_IDLE);
                    server.drain();
                    conn.deadline.set(now.after(options.delayed_close));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                return Poll::Ready(Event::End(self.drained.unwrap_or(reasons::KEEPALIVE_IDLE)));
            }
            match (self.asked, options.h2.ping_interval) {
                (Some(_), _) => {
                    conn.info.note("no reply to a PING");
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
        if self.drained.is_none() || self.expired_at.is_some() {
            conn.deadline.set(whole_by.map_or(due, |by| by.min(due)));
        }
        let _ = conn.deadline.poll(cx);
        Poll::Pending
    }
}
