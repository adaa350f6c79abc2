//! The first bytes of a connection: read, inspected, given back.
//!
//! Owns: the bytes that were read, and their bound. Refuses to know: what they mean. Keeps: no byte is lost; what no
//! phase consumed goes back to the stream.

use std::future::poll_fn;
use std::task::Poll;

use sluice_core::Reason;
use sluice_core::reason::end;
use sluice_io::{Conn, Stream};
use sluice_tls::reasons as tls_reasons;

use crate::reasons;

/// The beginning of a stream: read, inspected, given back.
pub(super) struct Prefix {
    pub(super) bytes: Vec<u8>,
    max: usize,
}

/// The result of a read into the prefix.
pub(super) enum Grown {
    Bytes,
    End,
    Full,
}

impl Prefix {
    pub(super) const fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max }
    }

    /// Reads once.
    pub(super) async fn grow(&mut self, stream: &mut Stream, conn: &Conn) -> Result<Grown, Reason> {
        let room = self.max.saturating_sub(self.bytes.len());
        if room == 0 {
            return Ok(Grown::Full);
        }
        let count = poll_fn(|cx| {
            conn.worker.with_scratch(|scratch| {
                // The whole scratch if it fits, so that a TLS stream has no surplus.
                let room = room.min(scratch.len());
                let got = stream.poll_recv(cx, &conn.worker, &mut scratch[..room]);
                if let Poll::Ready(Ok(count)) = &got {
                    self.bytes.extend_from_slice(&scratch[..*count]);
                }
                got
            })
        })
        .await
        .map_err(|error| early_error(conn, &error))?;
        Ok(if count == 0 { Grown::End } else { Grown::Bytes })
    }

    /// Gives everything from `start` on back to the stream.
    pub(super) fn give_back(
        &self,
        stream: &mut Stream,
        conn: &Conn,
        start: usize,
    ) -> Result<(), Reason> {
        stream.give_back(&conn.worker.buffers, &self.bytes[start..]).map_err(|_| reasons::BUFFERS)
    }
}

/// The reason for an error of the client's socket before it was served.
pub(super) fn early_error(conn: &Conn, error: &std::io::Error) -> Reason {
    conn.info.note(error);
    match error.kind() {
        std::io::ErrorKind::InvalidData => tls_reasons::PROTOCOL,
        _ => end::DOWNSTREAM_RESET,
    }
}
