//! Phase 4: TLS termination.
//!
//! Owns: the time for a handshake, its counters, and what a client is told that does not get one. Refuses to know: TLS
//! itself. Keeps: each handshake is counted once: full, resumed or failed.

use std::future::poll_fn;
use std::task::Poll;

use sluice_core::reason::end;
use sluice_core::{Reason, Side};
use sluice_io::tls::HandshakeError;
use sluice_io::{Conn, RawStream, Stream, TlsStream};
use sluice_tls::reasons as tls_reasons;

use crate::chain::Termination;
use crate::listener::Listener;
use crate::plain_http;

/// Sends an alert to a TLS client that no chain serves: the name it asked for is not known here (RFC 6066 §3).
pub(super) async fn refuse_hello(stream: &mut Stream, conn: &Conn) {
    // A record of TLS 1.2, which every version reads: a fatal alert.
    const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
    let sent = poll_fn(|cx| Poll::Ready(stream.send(cx, &conn.worker, &UNRECOGNIZED_NAME)));
    // A client that has gone needs no alert.
    let _ = sent.await;
}

/// Performs the TLS handshake.
pub(super) async fn terminate(
    listener: &Listener,
    termination: &Termination,
    conn: &Conn,
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
            if facts.resumed { &handshakes.resumed } else { &handshakes.full }.increment();
            listener.counters.handshake_time.record(conn.worker.now().since(started));
            let _ = conn.info.tls.set(Box::new(facts));
            Ok(Stream::Tls(Box::new(tls)))
        }
    }
}
