//! Checks that speak a protocol with an endpoint, and the connection they speak over.
//!
//! Owns: the bytes between a dialogue and its connection, and their bound. Refuses to know: protocols, and when checks
//! run. Keeps: a dialogue is told bytes and returns bytes; how they were cut makes no difference to it.

use std::future::poll_fn;
use std::sync::Arc;

use sluice_io::{RawStream, Stream, WorkerCx};

use super::CheckError;
use crate::connector::{self, ConnectFailure, Preface};
use crate::endpoint::{EndpointState, Target};
use crate::plan::ClusterPlan;

/// Bytes received and not consumed by a dialogue above which the check fails.
pub(super) const RECEIVED_MAX: usize = 64 * 1024;

/// One side of a conversation with an endpoint that decides whether it is healthy.
pub trait Dialogue {
    /// Takes what has been received: removes what it has consumed, adds to `send`, a few kilobytes at most, which is
    /// sent even with an error. Called once before anything was received.
    ///
    /// # Errors
    /// What is wrong with the endpoint.
    fn advance(
        &mut self,
        received: &mut Vec<u8>,
        send: &mut Vec<u8>,
    ) -> Result<DialogueTurn, CheckError>;
}

/// How a conversation continues, after everything in `send` was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialogueTurn {
    /// More must be received.
    Receive,
    /// The TLS handshake, if the connection is not encrypted yet; nothing is received before it.
    StartTls,
    /// The endpoint is healthy.
    Done,
}

/// The connection of a conversation.
pub(super) struct CheckConnection<'a> {
    pub plan: &'a ClusterPlan,
    pub endpoint: &'a Arc<EndpointState>,
    pub worker: &'a WorkerCx,
}

/// When a conversation is encrypted.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// From the beginning, or after a preface that asks for it, if the cluster has TLS.
    First(Preface),
    /// When the dialogue says so.
    Later,
}

impl CheckConnection<'_> {
    /// Opens a connection without TLS.
    pub(super) async fn open(&self) -> Result<RawStream, CheckError> {
        Ok(connector::open(self.plan, self.endpoint, &self.worker.reactor).await?)
    }

    /// Where datagrams are sent.
    pub(super) fn datagram_target(&self) -> Result<&Target, CheckError> {
        if let Target::Ip(address) = &self.endpoint.target {
            self.plan.admit(self.endpoint, *address).map_err(ConnectFailure::from)?;
        }
        Ok(&self.endpoint.target)
    }

    /// Holds the conversation.
    pub(super) async fn converse(
        &self,
        encryption: &Encryption,
        dialogue: &mut dyn Dialogue,
    ) -> Result<(), CheckError> {
        let mut stream = match encryption {
            Encryption::First(preface) => {
                connector::reach(self.plan, self.endpoint, self.worker, preface).await?
            }
            Encryption::Later => Stream::Raw(self.open().await?),
        };
        let (mut received, mut send) = (Vec::new(), Vec::new());
        loop {
            let turn = dialogue.advance(&mut received, &mut send);
            let said = !send.is_empty();
            let sent = if said { self.send(&mut stream, &mut send).await } else { Ok(()) };
            // What the dialogue found counts, even if its last message was lost.
            let turn = turn?;
            sent?;
            match turn {
                DialogueTurn::Receive => self.receive(&mut stream, &mut received).await?,
                DialogueTurn::StartTls => stream = self.encrypt(stream).await?,
                DialogueTurn::Done => {
                    // A reset leaves no TIME_WAIT behind; after a last message, the endpoint would log it as an error.
                    if let (Stream::Raw(raw), false) = (&stream, said) {
                        raw.reset_on_drop();
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn send(&self, stream: &mut Stream, send: &mut Vec<u8>) -> Result<(), CheckError> {
        poll_fn(|cx| stream.send(cx, self.worker, &std::mem::take(send)).into())
            .await
            .map_err(lost)?;
        poll_fn(|cx| stream.poll_flushed(cx)).await.map_err(lost)
    }

    async fn receive(&self, stream: &mut Stream, received: &mut Vec<u8>) -> Result<(), CheckError> {
        if received.len() >= RECEIVED_MAX {
            let message = format!("sent more than {} KiB", RECEIVED_MAX >> 10);
            return Err(CheckError::Endpoint(message));
        }
        let mut piece = [0; 2048];
        let read = poll_fn(|cx| stream.poll_recv(cx, self.worker, &mut piece)).await;
        match read.map_err(lost)? {
            0 => Err(CheckError::Endpoint("closed the connection during the check".into())),
            count => {
                received.extend_from_slice(piece.get(..count).unwrap_or_default());
                Ok(())
            }
        }
    }

    async fn encrypt(&self, stream: Stream) -> Result<Stream, CheckError> {
        match (stream, &self.plan.tls) {
            (Stream::Raw(raw), Some(tls)) => {
                Ok(connector::secure(raw, tls, self.endpoint, self.worker).await?)
            }
            (stream, _) => Ok(stream),
        }
    }
}

/// The connection failed.
fn lost(error: std::io::Error) -> CheckError {
    CheckError::Endpoint(format!("the connection was lost during the check: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a dialogue came to: the bytes of each of its turns, and the result.
    type Held = (Vec<Vec<u8>>, Result<DialogueTurn, CheckError>);

    /// Holds a conversation with a peer that sends `replies`, one for each turn in which it was told something; each
    /// arrives in pieces of `size` bytes. Returns what was sent, and the last turn.
    pub(in crate::health) fn hold(
        mut dialogue: impl Dialogue,
        replies: &[&[u8]],
        size: usize,
    ) -> Held {
        let (mut received, mut sent) = (Vec::new(), Vec::new());
        let mut replies = replies.iter();
        let mut pieces: std::collections::VecDeque<u8> = std::collections::VecDeque::new();
        loop {
            let mut send = Vec::new();
            let turn = dialogue.advance(&mut received, &mut send);
            if !send.is_empty() {
                sent.push(send);
            }
            match turn {
                Ok(DialogueTurn::Receive) => {}
                Ok(DialogueTurn::StartTls) => {
                    sent.push(b"<tls>".to_vec());
                    assert!(received.is_empty() && pieces.is_empty(), "bytes before the handshake");
                    continue;
                }
                end => return (sent, end),
            }
            if pieces.is_empty() {
                match replies.next() {
                    Some(reply) => pieces.extend(*reply),
                    None => return (sent, Ok(DialogueTurn::Receive)),
                }
            }
            received.extend(pieces.drain(..size.min(pieces.len())));
        }
    }

    /// Holds the conversation with its replies whole, and cut at every byte; returns what both came to.
    #[track_caller]
    pub(in crate::health) fn converse<D: Dialogue>(
        dialogue: impl Fn() -> D,
        replies: &[&[u8]],
    ) -> Held {
        let whole = hold(dialogue(), replies, usize::MAX);
        for size in [1, 2, 3, 7] {
            assert_eq!(hold(dialogue(), replies, size), whole, "in pieces of {size}");
        }
        whole
    }

    /// Holds the conversation as [`converse`] does, and compares what was said and what it came to.
    #[track_caller]
    pub(in crate::health) fn check<D: Dialogue>(
        dialogue: impl Fn() -> D,
        replies: &[&[u8]],
        sent: &[&[u8]],
        end: Result<DialogueTurn, CheckError>,
    ) {
        let (said, came_to) = converse(dialogue, replies);
        assert_eq!(came_to, end);
        assert_eq!(said, sent);
    }

    pub(in crate::health) fn failed(message: &str) -> Result<DialogueTurn, CheckError> {
        Err(CheckError::Endpoint(message.into()))
    }

    /// Tells the dialogue random bytes, and good replies with a few bytes changed or cut off: it must come to an end or
    /// wait, and keep no more than it was told.
    pub(in crate::health) fn told_anything<D: Dialogue>(dialogue: impl Fn() -> D, good: &[&[u8]]) {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..4000 {
            let replies: Vec<Vec<u8>> = if round % 4 == 0 {
                (0..3).map(|_| (0..random.usize(0..200)).map(|_| random.u8(..)).collect()).collect()
            } else {
                let mut replies: Vec<Vec<u8>> = good.iter().map(|reply| reply.to_vec()).collect();
                for _ in 0..random.usize(1..4) {
                    let which = random.usize(0..replies.len());
                    let reply = &mut replies[which];
                    if !reply.is_empty() {
                        let at = random.usize(0..reply.len());
                        match random.u8(0..3) {
                            0 => reply[at] = random.u8(..),
                            1 => reply.truncate(at),
                            _ => reply[at] ^= 1 << random.u8(0..8),
                        }
                    }
                }
                replies
            };
            let replies: Vec<&[u8]> = replies.iter().map(Vec::as_slice).collect();
            let size = if random.bool() { usize::MAX } else { random.usize(1..9) };
            // What a changed reply means is not asserted, only that it means something.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                hold_loosely(dialogue(), &replies, size)
            }));
            assert!(result.is_ok(), "round {round}: {replies:02x?}");
        }
    }

    /// Like [`hold`], without a claim about TLS.
    fn hold_loosely(mut dialogue: impl Dialogue, replies: &[&[u8]], size: usize) {
        let (mut received, mut send) = (Vec::new(), Vec::new());
        let all: Vec<u8> = replies.concat();
        let mut rest = &all[..];
        for _ in 0..=all.len() + 4 {
            match dialogue.advance(&mut received, &mut send) {
                Ok(DialogueTurn::Done) | Err(_) => return,
                Ok(DialogueTurn::StartTls) => continue,
                Ok(DialogueTurn::Receive) if rest.is_empty() => return,
                Ok(DialogueTurn::Receive) => {
                    let (piece, later) = rest.split_at(size.min(rest.len()));
                    received.extend_from_slice(piece);
                    rest = later;
                }
            }
        }
        panic!("it neither ends nor receives");
    }
}
