//! An HTTP/1 connection, from request to request.
//!
//! Owns: detecting HTTP/2 by its first bytes, waiting for requests, closing. Refuses to know: what becomes of a
//! request. Keeps: one task drives the connection; between two requests it holds no buffer and no head, and it reserves
//! no memory for cases that few connections reach.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_codec::h1::H1Stream;
use sluice_codec::request_memory::{charge_head, charge_request};
use sluice_codec::{ErrorKind, Head, HttpError, HttpStream};
use sluice_core::reason::end;
use sluice_core::value::show_duration;
use sluice_core::{Moment, Reason};
use sluice_io::buffers::Charge;
use sluice_io::{Conn, WorkerCx};

use super::{HttpHandler, Turn, end_reason, serve_h2};
use crate::connection_manager::DownstreamConn;
use crate::errors::{self, At};
use crate::exchange::{self, Exchange};
use crate::reasons;

/// The client preface of HTTP/2, RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most that is read and discarded after a response that did not wait for the whole request.
const LINGER_BYTES: u64 = 1 << 20;

/// The protocol of a connection, judged by its first bytes.
enum Guess {
    IsH1,
    IsH2,
    Ended(Reason),
}

/// Waits for the first bytes and judges them.
async fn guess(handler: &HttpHandler, downstream: &DownstreamConn, h1: &mut H1Stream) -> Guess {
    let (conn, worker) = (&downstream.conn, &handler.manager.worker);
    let by = worker.now().after(handler.manager.plan.options.head_timeout);
    match conn.until(by, poll_fn(|cx| detect_http2(h1, cx, worker))).await {
        Ok(Ok(false)) => Guess::IsH1,
        Ok(Ok(true)) => Guess::IsH2,
        Ok(Err(error)) => Guess::Ended(end_reason(conn, &error)),
        Err(_) => Guess::Ended(reasons::HEAD_TIMEOUT),
    }
}

/// Continues with HTTP/2, after giving the first bytes back to the stream.
#[allow(clippy::boxed_local, reason = "a future that unboxes it keeps the empty box")]
fn carry_on_as_h2(
    handler: Rc<HttpHandler>,
    downstream: Rc<DownstreamConn>,
    h1: Box<H1Stream>,
) -> Result<Pin<Box<dyn Future<Output = Reason>>>, Reason> {
    let (mut stream, input) = h1.into_parts();
    let buffers = &handler.manager.worker.buffers;
    if input.map_or(Ok(()), |input| stream.give_back(buffers, &input)).is_err() {
        return Err(sluice_l4::reasons::BUFFERS);
    }
    Ok(Box::pin(serve_h2(handler, downstream, stream)))
}

/// Serves a connection to its end; `unsure` means that it may still turn out to be HTTP/2. Idle connections keep this
/// future, so cases that are rare or short are boxed.
#[allow(clippy::manual_async_fn, reason = "it would keep its arguments twice")]
pub(super) fn serve_h1(
    handler: Rc<HttpHandler>,
    downstream: Rc<DownstreamConn>,
    mut h1: Box<H1Stream>,
    unsure: bool,
) -> impl Future<Output = Reason> {
    async move {
        if unsure {
            match Box::pin(guess(&handler, &downstream, &mut h1)).await {
                Guess::IsH1 => {}
                Guess::IsH2 => {
                    return match carry_on_as_h2(handler, downstream, h1) {
                        Ok(serving) => serving.await,
                        Err(reason) => reason,
                    };
                }
                Guess::Ended(reason) => return reason,
            }
        }
        let mut served: u64 = 0;
        let mut turn = Turn::default();
        loop {
            if h1.unparsed().is_empty() {
                turn = Turn::default();
            } else {
                turn.took_another().await;
            }
            let mut begun = await_head(&handler, &downstream, &h1, served);
            let next =
                poll_fn(|cx| poll_head(&handler, &downstream, &mut h1, &mut begun, cx)).await;
            downstream.conn.deadline.set(Moment::NEVER);
            let head = match next {
                AfterExchange::Head(head) => head,
                AfterExchange::End(reason) => return reason,
                AfterExchange::ParseError(error) => {
                    return Box::pin(reject(&handler, &downstream, &mut h1, *error)).await;
                }
            };
            served += 1;
            if handler.manager.plan.options.requests_max.is_some_and(|max| served >= max) {
                h1.refuse_reuse();
            }
            let HttpStream::H1(after) = handler
                .slots
                .run(Exchange {
                    manager: Rc::clone(&handler.manager),
                    downstream: Rc::clone(&downstream),
                    stream: HttpStream::H1(h1),
                    timer: None,
                    charge: charge_whole(&handler.manager.worker, &head),
                    request: head,
                })
                .await
            else {
                unreachable!("an exchange gives back the stream that it was given")
            };
            h1 = after;
            count_bytes(&downstream.conn, &mut h1);
            if !h1.next_exchange() {
                Box::pin(lingering_close(&handler, &downstream.conn, &mut h1)).await;
                return end::DONE;
            }
        }
    }
}

/// Charges a request with its head; `None` if the worker has no memory for it.
pub(super) fn charge_whole(worker: &WorkerCx, head: &Head) -> Option<Charge> {
    let mut charge = charge_request(&worker.buffers, true).ok()?;
    charge_head(&mut charge, head).ok().map(|()| charge)
}

/// Responds to what could not be parsed as a request, and ends the connection.
async fn reject(
    handler: &HttpHandler,
    downstream: &DownstreamConn,
    h1: &mut H1Stream,
    error: HttpError,
) -> Reason {
    let (conn, manager) = (&downstream.conn, &handler.manager);
    let reason = errors::reason(error.kind(), At::Connection);
    manager.count_protocol_error(&error);
    conn.info.note(&error);
    exchange::refuse(manager, h1, &error).await;
    lingering_close(handler, conn, h1).await;
    count_bytes(conn, h1);
    reason
}

pub(super) fn count_bytes(conn: &Conn, h1: &mut H1Stream) {
    let (received, sent) = h1.take_moved();
    conn.info.received.set(conn.info.received.get() + received);
    conn.info.sent.set(conn.info.sent.get() + sent);
}

/// Whether the client speaks HTTP/2, judged by its first bytes.
fn detect_http2(
    h1: &mut H1Stream,
    cx: &mut Context<'_>,
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
        ready!(h1.poll_unparsed(cx, worker, had + 1))?;
        if h1.unparsed().len() == had {
            let closed = "the client closed the connection before it sent a request";
            return Poll::Ready(Err(HttpError::new(ErrorKind::Finished, closed)));
        }
    }
}

/// The outcome of waiting for a request.
enum AfterExchange {
    Head(Box<Head>),
    /// Boxed: the future of an idle connection has room for it.
    ParseError(Box<HttpError>),
    End(Reason),
}

/// Sets the deadline for the next request; returns how far that request has come.
fn await_head(
    handler: &HttpHandler,
    downstream: &DownstreamConn,
    h1: &H1Stream,
    served: u64,
) -> Begun {
    let (options, now) = (&handler.manager.plan.options, handler.manager.worker.now());
    // The first request is due at once, later ones whenever the client likes.
    let begun = served == 0 || !h1.unparsed().is_empty();
    downstream.conn.deadline.set(if begun {
        now.after(options.head_timeout)
    } else {
        now.after_bound(options.idle_timeout).min(downstream.expires)
    });
    Begun { first: served == 0, begun }
}

/// How far a request has come.
struct Begun {
    first: bool,
    begun: bool,
}

fn poll_head(
    handler: &HttpHandler,
    downstream: &DownstreamConn,
    h1: &mut H1Stream,
    state: &mut Begun,
    cx: &mut Context<'_>,
) -> Poll<AfterExchange> {
    let (conn, options, worker) =
        (&downstream.conn, &handler.manager.plan.options, &handler.manager.worker);
    let head_pool = &handler.manager.shared.head_pool;
    // First flushes what remains of the last response, which the client was too slow to take.
    if let Poll::Ready(Err(error)) = h1.poll_flushed(cx, worker) {
        return Poll::Ready(AfterExchange::End(end_reason(conn, &error)));
    }
    if h1.unparsed().is_empty() && !state.first && downstream.is_ending(worker) {
        return Poll::Ready(AfterExchange::End(downstream.why_ending()));
    }
    let mut head = head_pool.take();
    match h1.poll_recv_head(cx, worker, &mut head) {
        Poll::Ready(Ok(())) => return Poll::Ready(AfterExchange::Head(head)),
        Poll::Ready(Err(error)) => {
            head_pool.give(head);
            return Poll::Ready(match error.kind() {
                ErrorKind::Malformed(_) => AfterExchange::ParseError(Box::new(error)),
                _ => AfterExchange::End(end_reason(conn, &error)),
            });
        }
        Poll::Pending => head_pool.give(head),
    }
    if !state.begun && !h1.unparsed().is_empty() {
        state.begun = true;
        conn.deadline.set(worker.now().after(options.head_timeout));
    }
    ready!(conn.deadline.poll(cx));
    Poll::Ready(match state.begun {
        false if downstream.is_expired(worker) => AfterExchange::End(downstream.why_ending()),
        false => AfterExchange::End(reasons::KEEPALIVE_IDLE),
        true if h1.unparsed().is_empty() => AfterExchange::End(reasons::HEAD_TIMEOUT),
        true => {
            let (code, timeout) = ("http1.head_timeout", show_duration(options.head_timeout));
            let detail = format!("{code}: not complete within `head_timeout` ({timeout})");
            let error = HttpError::coded_with(ErrorKind::Timeout, code, detail);
            AfterExchange::ParseError(Box::new(error))
        }
    })
}

/// Closes a connection so that the client can read its last response: finishes the sending side, then reads and
/// discards what the client still sends for a while. Closing at once would reset the connection, and the reset can
/// overtake the response.
pub(super) async fn lingering_close(handler: &HttpHandler, conn: &Conn, h1: &mut H1Stream) {
    let worker = &*handler.manager.worker;
    let by = worker.now().after(handler.manager.plan.options.delayed_close);
    let mut left = LINGER_BYTES;
    let parting = poll_fn(|cx| {
        if ready!(h1.poll_finish(cx, worker)).is_err() {
            return Poll::Ready(());
        }
        loop {
            let read = worker.with_scratch(|scratch| h1.poll_discard(cx, worker, scratch));
            match ready!(read) {
                Ok(count) if count > 0 && left > count as u64 => left -= count as u64,
                _ => return Poll::Ready(()),
            }
        }
    });
    let _ = conn.until(by, parting).await;
}
