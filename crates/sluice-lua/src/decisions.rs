//! What hooks return for what scripts wait for.
//!
//! Owns: the decisions of the hooks in one form, and what a script that waits gets at which time. Refuses to know: how a
//! script runs. Keeps: a script waits across hooks only for what a later hook of its message will have.

use sluice_codec::Head;
use sluice_core::{LocalFuture, Reason};
use sluice_l7::Reply;
use sluice_l7::filters::{Cx, HeadStep, ResponseStep, WholeMessage, WholeStep};

use crate::side::{CallEnd, Input, MessageAtHand, Parked};
use crate::state::WaitedFor;

/// What a hook returns.
pub(crate) enum RunVerdict {
    Continue,
    Reply(Box<Reply>),
    Buffer,
    Call(LocalFuture<CallEnd>),
}

/// The decision of a hook for heads.
pub(crate) trait HeadDecision: Sized + 'static {
    const RESPONSE: bool;
    fn go_on() -> Self;
    fn reply(reply: Box<Reply>) -> Self;
    fn buffer(
        max: usize,
        then: impl FnOnce(&mut Cx<'_>, &mut WholeMessage) -> WholeStep + 'static,
    ) -> Self;
    fn wait(
        calling: LocalFuture<CallEnd>,
        then: impl FnOnce(CallEnd, &mut Cx<'_>, &mut Head) -> Self + 'static,
    ) -> Self;
}

macro_rules! head_decision {
    ($step:ident, $response:literal) => {
        impl HeadDecision for $step {
            const RESPONSE: bool = $response;

            fn go_on() -> Self {
                Self::Continue
            }

            fn reply(reply: Box<Reply>) -> Self {
                Self::Reply(reply)
            }

            fn buffer(
                max: usize,
                then: impl FnOnce(&mut Cx<'_>, &mut WholeMessage) -> WholeStep + 'static,
            ) -> Self {
                Self::Buffer(max, Box::new(then))
            }

            fn wait(
                calling: LocalFuture<CallEnd>,
                then: impl FnOnce(CallEnd, &mut Cx<'_>, &mut Head) -> Self + 'static,
            ) -> Self {
                Self::wait(async move {
                    let called = calling.await;
                    move |cx: &mut Cx<'_>, head: &mut Head| then(called, cx, head)
                })
            }
        }
    };
}

head_decision!(HeadStep, false);
head_decision!(ResponseStep, true);

/// What a message ends with, for a script that fails when its head has been sent.
pub(crate) trait MessageEnd: 'static {
    fn of(reply: Box<Reply>) -> Self;
}

impl MessageEnd for Box<Reply> {
    fn of(reply: Box<Reply>) -> Self {
        reply
    }
}

impl MessageEnd for Reason {
    fn of(reply: Box<Reply>) -> Self {
        reply.reason
    }
}

/// What a script that waits gets.
pub(crate) enum WaitAnswer {
    Buffer,
    Park(Parked),
    Now(Input),
}

pub(crate) fn answer(wanted: WaitedFor, message: &MessageAtHand<'_>) -> WaitAnswer {
    use MessageAtHand::{Chunk, Head, Sent, Trailers, Whole};
    match (wanted, message) {
        (WaitedFor::Body, Head(_)) => WaitAnswer::Buffer,
        (WaitedFor::Body, Whole(whole)) => WaitAnswer::Now(Input::Present(!whole.body.is_empty())),
        (WaitedFor::Body, _) => WaitAnswer::Now(Input::Refused(
            "body() is too late: the headers were sent when the script waited for bodyChunks() or trailers()",
        )),
        (WaitedFor::Chunk, Head(_) | Chunk(_)) => WaitAnswer::Park(Parked::Chunk),
        (WaitedFor::Chunk, Whole(_)) => WaitAnswer::Now(Input::Refused(
            "bodyChunks() cannot follow body(), which has all of it",
        )),
        (WaitedFor::Chunk, Trailers(_) | Sent) => WaitAnswer::Now(Input::Nothing),
        (WaitedFor::Trailers, Head(_) | Chunk(_)) => WaitAnswer::Park(Parked::Trailers),
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
