//! Phase 4: TLS termination.
//!
//! Owns: the time for a handshake, also for what follows early data, its counters, and what a client is told that does
//! not get one. Refuses to know: TLS itself. Keeps: each handshake is counted once: full, resumed, early or failed.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sluice_core::reason::end;
use sluice_core::{Reason, Side, TransportKind};
use sluice_io::tls::HandshakeError;
use sluice_io::{Conn, RawStream, Stream, TlsStream};
use sluice_tls::reasons as tls_reasons;

use crate::chain::Termination;
use crate::listener::Listener;
use crate::plain_http;

/// A fatal alert that answers a hello.
#[derive(Clone, Copy, Debug)]
pub(super) enum HelloAlert {
    /// A filter refuses the client (RFC 8446 §6.2).
    AccessDenied = 49,
    /// No chain serves the name that the client asks for (RFC 6066 §3).
    UnrecognizedName = 112,
}

/// Sends an alert to a TLS client whose hello is not answered otherwise.
pub(super) async fn refuse_hello(stream: &mut Stream, conn: &Conn, alert: HelloAlert) {
    // A record of TLS 1.2, which every version reads.
    let record = [21, 3, 3, 0, 2, 2, alert as u8];
    let sent = poll_fn(|cx| Poll::Ready(stream.send(cx, &conn.worker, &record)));
    // A client that has gone needs no alert.
    let _ = sent.await;
}

/// Ends the TLS of a client that a filter of its chain refuses, before the connection is closed.
pub(super) async fn turn_away(stream: &mut Stream, conn: &Conn, transport: TransportKind) {
    match stream {
        Stream::Raw(_) if transport == TransportKind::Tls => {
            refuse_hello(stream, conn, HelloAlert::AccessDenied).await;
        }
        Stream::Raw(_) => {}
        Stream::Tls(_) => {
            let ended = poll_fn(|cx| Poll::Ready(stream.close_notify(cx, &conn.worker)));
            // As above.
            let _ = ended.await;
        }
    }
}

/// Performs the TLS handshake.
pub(super) async fn terminate(
    listener: &Listener,
    termination: &Termination,
    conn: &Rc<Conn>,
    raw: RawStream,
) -> Result<Stream, Reason> {
    let started = conn.worker.now();
    let handshakes = &listener.counters.handshakes;
    let failed = |reason: Reason, detail: &dyn std::fmt::Display| {
        handshakes.failed.increment();
        conn.info.note(detail);
        reason
    };
    let in_words = |error: &dyn std::fmt::Display| sluice_tls::in_words(error, Side::Downstream);
    let mut tls = TlsStream::server(raw, &termination.tls)
        .map_err(|error| failed(tls_reasons::PROTOCOL, &in_words(&error)))?;
    let accepting = poll_fn(|cx| tls.poll_handshake(cx, &conn.worker));
    match conn.until(started.after(termination.timeout), accepting).await {
        Err(_) => Err(failed(tls_reasons::TIMEOUT, &"the handshake was not complete in time")),
        Ok(Err(HandshakeError::Tls(error))) => {
            Err(failed(tls_reasons::of_server_error(&error), &in_words(&error)))
        }
        Ok(Err(HandshakeError::Io(error))) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(failed(
                end::DOWNSTREAM_CLOSED,
                &"the client closed the connection during the TLS handshake",
            ))
        }
        Ok(Err(HandshakeError::Io(error))) => Err(failed(end::DOWNSTREAM_RESET, &error)),
        Ok(Err(HandshakeError::NotTls(began))) => {
            if !plain_http::is_http(&began) {
                let detail = "the client sent something other than TLS";
                return Err(failed(tls_reasons::PROTOCOL, &detail));
            }
            if let Some(response) = plain_http::response(termination.plain_http, &began) {
                let sent =
                    poll_fn(|cx| Poll::Ready(tls.send_in_clear(cx, &conn.worker, &response)));
                // A client that has gone needs no response.
                let _ = sent.await;
            }
            let detail = "the client sent a plain HTTP request to a TLS listener";
            Err(failed(tls_reasons::PROTOCOL, &detail))
        }
        Ok(Err(error @ HandshakeError::TooLarge)) => Err(failed(tls_reasons::PROTOCOL, &error)),
        Ok(Ok(())) => {
            let facts = tls.facts();
            let result = match (facts.early, facts.resumed) {
                (true, _) => &handshakes.early,
                (false, true) => &handshakes.resumed,
                (false, false) => &handshakes.full,
            };
            result.increment();
            listener.counters.handshake_time.record(conn.worker.now().since(started));
            let _ = conn.info.tls.set(Box::new(facts));
            tls.complete_by(started.after(termination.timeout), conn, tls_reasons::TIMEOUT);
            Ok(Stream::Tls(Box::new(tls)))
        }
    }
}
