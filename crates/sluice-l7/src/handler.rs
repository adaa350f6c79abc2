//! HTTP on one worker: from a byte stream to exchanges, in sequence or concurrently.
//!
//! Owns: the choice of the HTTP version, and the part of a plan that belongs to one worker. Refuses to know: what
//! becomes of a request, and how a connection of each version is served. Keeps: one task drives each connection, and
//! one each stream of HTTP/2 and HTTP/3.

use std::rc::Rc;

use sluice_codec::h1::{H1Stream, Role};
use sluice_codec::{ErrorKind, HttpError, HttpStream};
use sluice_core::{LocalFuture, Reason};
use sluice_io::{Conn, Stream, StreamHandler, WorkerCx};
use sluice_l4::HandlerPlan;
use sluice_l4::inspect::http::{HTTP1, HTTP2};
use sluice_telemetry::metrics::SeriesLabels;

use crate::connection_manager::{ConnectionManager, DownstreamConn};
use crate::errors::{self, At};
use crate::exchange::{self, Exchange};
use crate::future_pool::FuturePool;
use crate::plan::{HttpPlan, Versions};

mod http1;
mod http2;
mod http3;
#[cfg(test)]
mod tests;
mod tunnel;

use http1::serve_h1;
use http2::{StreamTasks, serve_h2};
use tunnel::serve_tunnel;

type ExchangeSlots = FuturePool<Exchange, HttpStream>;

/// The HTTP handler of a filter chain on one worker.
#[derive(Debug)]
pub struct HttpHandler {
    manager: Rc<ConnectionManager>,
    slots: Rc<ExchangeSlots>,
    tasks: Rc<StreamTasks>,
}

impl HttpHandler {
    fn new(plan: &HttpPlan, worker: &Rc<WorkerCx>) -> Rc<Self> {
        let slots = worker.local(|| FuturePool::new(exchange::run));
        let tasks = worker.local(|| StreamTasks::new(&slots));
        Rc::new(Self {
            manager: ConnectionManager::new(plan.clone(), worker),
            slots: Rc::clone(&slots),
            tasks,
        })
    }
}

impl HandlerPlan for HttpPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        self.counts_in(series)
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>) -> Rc<dyn StreamHandler> {
        HttpHandler::new(self, worker)
    }
}

impl StreamHandler for HttpHandler {
    fn handle(self: Rc<Self>, stream: Stream, conn: Rc<Conn>) -> LocalFuture<Reason> {
        if self.manager.plan.options.tunnel.is_some() {
            let downstream = DownstreamConn::new(conn, self.manager.expiry());
            return Box::pin(serve_tunnel(self, downstream, stream));
        }
        let alpn = conn.info.tls.get().and_then(|tls| tls.alpn.as_deref());
        let protocol = conn.info.nearest_facts().and_then(|facts| facts.protocol);
        let h2 = match self.manager.plan.options.versions {
            Versions::Http1 => Some(false),
            Versions::Http2 => Some(true),
            Versions::Any => match (alpn, protocol) {
                (Some(b"h2"), _) | (None, Some(HTTP2)) => Some(true),
                (Some(b"http/1.1" | b"http/1.0"), _) | (None, Some(HTTP1)) => Some(false),
                _ => None,
            },
        };
        let downstream = self.manager.downstream(conn);
        if h2 == Some(true) {
            return Box::pin(serve_h2(self, downstream, stream));
        }
        let h1 = H1Stream::new(stream, Role::Server, Rc::clone(&self.manager.h1));
        Box::pin(serve_h1(self, downstream, h1, h2.is_none()))
    }
}

/// The number of requests taken from one connection in a row while other connections wait for their turn.
#[derive(Debug, Default)]
struct Turn(u8);

impl Turn {
    const REQUESTS: u8 = 16;

    /// Counts a request that was available without waiting; after too many in a row, yields so that others get their
    /// turn.
    async fn took_another(&mut self) {
        self.0 += 1;
        if self.0 >= Self::REQUESTS {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The reason for the end of a connection outside of an exchange.
fn end_reason(conn: &Conn, error: &HttpError) -> Reason {
    if !matches!(error.kind(), ErrorKind::Finished | ErrorKind::ClosedEarly) {
        conn.info.note(error);
    }
    errors::reason(error.kind(), At::Connection)
}
