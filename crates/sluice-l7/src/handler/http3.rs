//! An HTTP/3 connection.
//!
//! Owns: accepting requests, GOAWAY, giving the client time to receive its last responses. Refuses to know: what
//! becomes of a request. Keeps: one task drives the connection, and one each stream.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use sluice_codec::h3::frame::code;
use sluice_codec::h3::{H3Server, H3Stream};
use sluice_codec::request_memory::{charge_head, charge_request};
use sluice_codec::{ErrorKind, HttpError, HttpStream};
use sluice_core::reason::end;
use sluice_core::{LocalFuture, Moment, Reason};
use sluice_io::buffers::Charge;
use sluice_io::timers::Timer;
use sluice_io::{Conn, WorkerCx};
use sluice_quic::{Connection, QuicHandler, QuicHandlerPlan};
use sluice_telemetry::metrics::SeriesLabels;

use super::{HttpHandler, end_reason};
use crate::connection_manager::DownstreamConn;
use crate::exchange::{self, Exchange};
use crate::plan::HttpPlan;
use crate::reasons;

/// How long a client has to receive its last responses and close the connection after GOAWAY.
pub(super) const DELIVERY_TIME: Duration = Duration::from_secs(5);

impl QuicHandlerPlan for HttpPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        self.counts_in(series)
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>) -> Rc<dyn QuicHandler> {
        HttpHandler::new(self, worker)
    }
}

impl QuicHandler for HttpHandler {
    fn alpn(&self) -> &'static [&'static [u8]] {
        &[b"h3"]
    }

    fn serve(self: Rc<Self>, quic: Connection, conn: Rc<Conn>) -> LocalFuture<Reason> {
        Box::pin(self.serve_quic(quic, conn))
    }
}

impl HttpHandler {
    /// Serves a QUIC connection that carries HTTP/3; returns why it ended.
    async fn serve_quic(self: Rc<Self>, quic: Connection, conn: Rc<Conn>) -> Reason {
        let (options, worker) = (&self.manager.plan.options, &self.manager.worker);
        let handshake = H3Server::handshake(quic, worker, options.h3);
        let mut server = match conn.until(worker.now().after(options.head_timeout), handshake).await
        {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => return end_reason(&conn, &error),
            Err(_) => return reasons::HEAD_TIMEOUT,
        };
        let downstream = self.manager.downstream(Rc::clone(&conn));
        let (mut served, mut over) = (0, None);
        let reason = loop {
            if options.requests_max.is_some_and(|max| served >= max) {
                over = over.or(Some(end::DRAIN));
            }
            let mut idle_since = None;
            let accepted = poll_fn(|cx| {
                loop {
                    // The task is woken when the connection is to finish.
                    if over.is_none() && downstream.is_ending(worker) {
                        over = Some(downstream.why_ending());
                    }
                    if over.is_some() {
                        server.drain(cx);
                    }
                    if let Poll::Ready(accepted) = server.poll_accept(cx) {
                        return Poll::Ready(Ok(accepted));
                    }
                    let is_idle = server.poll_idle(cx).is_ready();
                    let due = match over {
                        Some(over) if is_idle => return Poll::Ready(Err(over)),
                        Some(_) => return Poll::Pending,
                        None if is_idle => {
                            let since = *idle_since.get_or_insert_with(|| worker.now());
                            since.after_bound(options.idle_timeout)
                        }
                        None => Moment::NEVER,
                    };
                    conn.deadline.set(due.min(downstream.expires));
                    ready!(conn.deadline.poll(cx));
                    if !downstream.is_expired(worker) {
                        over = Some(reasons::KEEPALIVE_IDLE);
                    }
                }
            })
            .await;
            conn.deadline.set(Moment::NEVER);
            count_bytes(&conn, &server);
            match accepted {
                Ok(Ok(mut stream)) => {
                    served += 1;
                    let only = server.open_requests() == 1;
                    let Ok(charge) = charge_request(&worker.buffers, only) else {
                        self.manager.count_starved();
                        stream.reset(code::REQUEST_REJECTED);
                        continue;
                    };
                    let (handler, downstream) = (Rc::clone(&self), Rc::clone(&downstream));
                    worker.spawn(handler.serve_h3(downstream, stream, charge));
                }
                Ok(Err(error)) => {
                    if matches!(error.kind(), ErrorKind::Malformed(_) | ErrorKind::Flood) {
                        self.manager.count_protocol_error(&error);
                    }
                    break end_reason(&conn, &error);
                }
                Err(over) => break over,
            }
        };
        count_bytes(&conn, &server);
        if over.is_some() {
            // The last responses may still be in flight, and closing would cut them off: the client has received GOAWAY
            // and closes when it has everything.
            let _ = conn.until(worker.now().after(DELIVERY_TIME), server.closed()).await;
        }
        reason
    }

    /// Reads the request headers from a stream and serves the request.
    async fn serve_h3(
        self: Rc<Self>,
        downstream: Rc<DownstreamConn>,
        mut stream: H3Stream,
        mut charge: Charge,
    ) {
        let (options, worker) = (&self.manager.plan.options, &self.manager.worker);
        let timer = Timer::new(&worker.timers);
        let mut head = self.manager.shared.head_pool.take();
        let by = worker.now().after(options.head_timeout);
        let reading = poll_fn(|cx| stream.poll_recv_head(cx, worker, &mut head));
        let error = match timer.until(by, reading).await {
            Ok(Ok(())) => {
                let exchange = Exchange {
                    manager: Rc::clone(&self.manager),
                    downstream,
                    stream: HttpStream::H3(Box::new(stream)),
                    charge: charge_head(&mut charge, &head).is_ok().then_some(charge),
                    request: head,
                    timer: Some(timer),
                };
                self.slots.run(exchange).await;
                return;
            }
            Ok(Err(error)) => error,
            Err(_) => HttpError::coded(ErrorKind::Timeout, "http3.head_timeout"),
        };
        self.manager.shared.head_pool.give(head);
        if let Some(status) = error.status() {
            self.manager.count_protocol_error(&error);
            downstream.conn.info.note(&error);
            // Boxed: few streams get here.
            Box::pin(exchange::refuse_stream(&self.manager, &mut stream, status, &error)).await;
        }
    }
}

fn count_bytes(conn: &Conn, server: &H3Server) {
    let (received, sent) = server.moved();
    conn.info.received.set(received);
    conn.info.sent.set(sent);
}
