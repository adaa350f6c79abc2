//! What hooks return for what scripts wait for.
//!
//! Owns: what a script's run comes to, and what a script that waits gets at which time. Refuses to know: how a
//! script runs. Keeps: a script waits across hooks only for what a later hook of its message will have.

use sluice_core::LocalFuture;
use sluice_l7::Reply;

use crate::side::{CallEnd, Input, MessageAtHand, Parked};
use crate::state::WaitedFor;

/// What a hook returns.
pub(crate) enum RunVerdict {
    Continue,
    Reply(Box<Reply>),
    Buffer,
    Call(LocalFuture<CallEnd>),
}

/// What a script that waits gets.
pub(crate) enum WaitAnswer {
    Buffer,
    Park(Parked),
    Now(Input),
}

/// `ends` is whether the message ends with its head.
pub(crate) fn answer(wanted: WaitedFor, message: &MessageAtHand<'_>, ends: bool) -> WaitAnswer {
    use MessageAtHand::{Chunk, Head, Sent, Trailers, Whole};
    match (wanted, message) {
        (WaitedFor::Chunk | WaitedFor::Trailers, Head(_)) if ends => {
            WaitAnswer::Now(Input::Nothing)
        }
        (WaitedFor::Body, Head(_)) => WaitAnswer::Buffer,
        (WaitedFor::Body, Whole(whole)) => WaitAnswer::Now(Input::Present(!whole.body.is_empty())),
        (WaitedFor::Body, _) => WaitAnswer::Now(Input::Refused(
            "body() is too late: the headers were sent when the script waited for bodyChunks() or trailers()",
        )),
        (WaitedFor::Chunk | WaitedFor::Trailers, Chunk(_, true)) => WaitAnswer::Now(Input::Nothing),
        (WaitedFor::Chunk, Head(_) | Chunk(..)) => WaitAnswer::Park(Parked::Chunk),
        (WaitedFor::Chunk, Whole(whole)) if whole.body.is_empty() => {
            WaitAnswer::Now(Input::Nothing)
        }
        (WaitedFor::Chunk, Whole(_)) => WaitAnswer::Now(Input::Refused(
            "bodyChunks() cannot follow body(), which has all of it",
        )),
        (WaitedFor::Chunk, Trailers(_) | Sent) => WaitAnswer::Now(Input::Nothing),
        (WaitedFor::Trailers, Head(_) | Chunk(..)) => WaitAnswer::Park(Parked::Trailers),
        (WaitedFor::Trailers, Whole(whole)) => WaitAnswer::Now(match &whole.trailers {
            Some(_) => Input::Present(true),
            None => Input::Nothing,
        }),
        (WaitedFor::Trailers, Trailers(trailers)) if trailers.is_empty() => {
            WaitAnswer::Now(Input::Nothing)
        }
        (WaitedFor::Trailers, Trailers(_)) => WaitAnswer::Now(Input::Present(true)),
        (WaitedFor::Trailers, Sent) => WaitAnswer::Now(Input::Nothing),
        (WaitedFor::Call, _) => {
            WaitAnswer::Now(Input::Refused("httpCall() was not made by the handle"))
        }
    }
}
