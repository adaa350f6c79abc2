//! Whole messages, for filters that decide on them before any of it is passed on.
//!
//! Owns: what was received of a message so far, its limit, and the decision of the filter. Refuses to know: why a filter
//! needs the message. Keeps: what is held is bounded by the filter's limit and counted in the worker's buffers; a length
//! that is announced afterwards is that of the body as the filter left it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use sluice_codec::{Body, Head, HttpStream, Known};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;

use super::pieces::PieceHooks;
use super::{RequestTask, Stop};
use crate::filters::{WholeResume, WholeStep};
use crate::reply::Reply;

/// A filter that asks for a whole message.
pub(super) struct Buffering {
    pub(super) place: usize,
    pub(super) name: Rc<str>,
    /// The most bytes of a body.
    pub(super) max: usize,
    pub(super) then: WholeResume,
}

/// A message without its head, received so far.
pub(super) struct HeldMessage {
    /// All of the body, if it came in one piece.
    only: Bytes,
    /// Otherwise the pieces, one behind the other.
    all: BytesMut,
    pub(super) trailers: Option<Box<Head>>,
    charge: Charge,
}

/// Why a piece cannot be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The body is larger than the filter allows.
    TooLarge,
    /// The worker is at the limit of its buffers.
    Buffers,
}

impl HeldMessage {
    pub(super) fn new(worker: &WorkerCx) -> Self {
        let charge = worker.buffers.charge();
        Self { only: Bytes::new(), all: BytesMut::new(), trailers: None, charge }
    }

    /// Adds a piece of the body, which has at most `max` bytes.
    pub(super) fn add(&mut self, body: Body, max: usize) -> Result<(), NoRoom> {
        let len = self.len() + body.len();
        if len > max {
            return Err(NoRoom::TooLarge);
        }
        self.charge.set(len).map_err(|_| NoRoom::Buffers)?;
        if len == body.len() {
            self.only = body.into_bytes();
        } else {
            self.all.extend_from_slice(&std::mem::take(&mut self.only));
            self.all.extend_from_slice(&body);
        }
        Ok(())
    }

    /// The bytes of the body.
    pub(super) fn len(&self) -> usize {
        self.only.len() + self.all.len()
    }

    /// The body, the trailers, and what counts the body towards the buffers of the worker.
    pub(super) fn into_parts(self) -> (Bytes, Option<Box<Head>>, Charge) {
        let body = if self.all.is_empty() { self.only } else { self.all.freeze() };
        (body, self.trailers, self.charge)
    }
}

impl RequestTask {
    /// Has the filter decide on a message, of which it may change everything.
    pub(super) async fn decide_on_whole<D: PieceHooks>(
        &mut self,
        down: &mut HttpStream,
        asked: Buffering,
        body: &mut Bytes,
        trailers: &mut Option<Box<Head>>,
    ) -> Result<(), Stop> {
        let Buffering { place, name, then, .. } = asked;
        let mut step = self.with_whole::<D>(place, body, trailers, then);
        loop {
            step = match step {
                WholeStep::Continue => return Ok(()),
                WholeStep::Stop(reply) => {
                    self.note_filter_reply(&name);
                    return Err(Stop::Reply(reply));
                }
                WholeStep::Wait(later) => {
                    let resume = self.await_filter(down, &name, later).await?;
                    self.with_whole::<D>(place, body, trailers, resume)
                }
            };
        }
    }
}

/// Announces the length that the body has, unless there are trailers, which HTTP/1 sends with a body of unknown length
/// only.
pub(super) fn announce(head: &mut Head, body: &[u8], has_trailers: bool) {
    let name = Known::ContentLength.text().as_bytes();
    if has_trailers {
        head.remove(name);
    } else if !body.is_empty() || head.get(Known::ContentLength).is_some() {
        head.set(name, body.len().to_string().as_bytes());
    }
}

/// The reply if the worker has no room for what a filter asks for.
pub(super) fn no_buffers() -> Stop {
    let why = sluice_l4::reasons::BUFFERS;
    Stop::reply(Reply::new(503, why, "overload", "the message cannot be buffered\n"))
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;

    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_counted() {
        let worker = WorkerCx::solitary(Clock::held());
        let piece = |text: &'static str| Body::Shared(Bytes::from_static(text.as_bytes()));
        for pieces in
            [&["", "abcdef", ""][..], &["abcdef"], &["a", "bcd", "ef"], &["ab", "", "cdef"]]
        {
            let mut held = HeldMessage::new(&worker);
            for text in pieces {
                assert_eq!(held.add(piece(text), 6), Ok(()));
            }
            assert_eq!(held.add(piece("g"), 6), Err(NoRoom::TooLarge), "{pieces:?}");
            assert_eq!(worker.buffers.bytes_out(), 6);
            let (body, trailers, charge) = held.into_parts();
            assert_eq!((&body[..], trailers.is_none()), (&b"abcdef"[..], true));
            drop(charge);
            assert_eq!(worker.buffers.bytes_out(), 0);
        }
    }

    #[test]
    fn the_length_that_is_announced_is_that_of_the_body() {
        for (stated, body, trailers, expected) in [
            (None, "", false, None),
            (None, "abc", false, Some(3)),
            (Some("9"), "abc", false, Some(3)),
            (Some("9"), "", false, Some(0)),
            (Some("3"), "abc", true, None),
            (Some("not a number"), "", false, Some(0)),
        ] {
            let mut head = Head::default();
            stated.iter().for_each(|text: &&str| head.append(b"content-length", text.as_bytes()));
            announce(&mut head, body.as_bytes(), trailers);
            assert_eq!(head.content_length(), expected, "{stated:?} {body} {trailers}");
        }
    }
}
