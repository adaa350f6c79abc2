//! The decisions of HTTP filters.
//!
//! Owns: one type per hook, so that a decision that a hook cannot take does not compile. Refuses to know: how a decision
//! is carried out. Keeps: a filter that waits owns what it waits for, and changes the message only when it is resumed,
//! so that dropping the wait leaves nothing half done.

use std::fmt;

use bytes::Bytes;
use sluice_codec::{Body, Head};
use sluice_core::{LocalFuture, Reason};

use super::Cx;
use crate::reply::Reply;

/// The decision on a request, with its head.
pub enum HeadStep {
    /// The request continues.
    Continue,
    /// Respond with this; the request goes no further.
    Reply(Box<Reply>),
    /// Receive the whole body first, and decide on the whole request then; respond with 413 if the body is larger than
    /// this many bytes. Nothing is forwarded before.
    Buffer(usize, WholeResume),
    /// Receive the body until there are this many bytes of it, or its end, and decide then. Nothing is forwarded before;
    /// the body itself stays as it is.
    Peek(usize, PeekResume),
    /// Continue after something else has happened. Only this request waits.
    Wait(LocalFuture<HeadResume>),
    /// As `Wait`, but the body is received meanwhile, and passes the hooks of the filters up to this one. What comes out of
    /// them is held; respond with 413 if it is more than this many bytes.
    WaitWithBody(usize, LocalFuture<HeadResume>),
}

/// The decision on a response, with its head.
pub enum ResponseStep {
    /// The response continues.
    Continue,
    /// Replace the response. The filters that have not seen it see the replacement.
    Reply(Box<Reply>),
    /// Receive the whole body first, and decide on the whole response then; respond with 500 if the body is larger than
    /// this many bytes. The client gets nothing before.
    Buffer(usize, WholeResume),
    /// Continue after something else has happened. Only this response waits.
    Wait(LocalFuture<ResponseResume>),
}

/// Called when what a filter waited for has happened: edits the head and decides again.
pub type HeadResume = Box<dyn FnOnce(&mut Cx<'_>, &mut Head) -> HeadStep>;

/// As [`HeadResume`], with the start of the body.
pub type PeekResume = Box<dyn FnOnce(&mut Cx<'_>, &mut Head, BodyStart) -> HeadStep>;

/// The first bytes of a body. The filters before have seen them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyStart {
    /// At most as many as were asked for.
    pub bytes: Bytes,
    /// Whether that is all of the body.
    pub whole: bool,
}

/// As [`HeadResume`], for a response.
pub type ResponseResume = Box<dyn FnOnce(&mut Cx<'_>, &mut Head) -> ResponseStep>;

/// A message that was received completely before any of it was passed on. `content-length` is set to what the body has
/// in the end, or removed if there are trailers.
///
/// A response to HEAD, and one with status 204 or 304, has neither body nor trailers, whatever is put here. The same is
/// true of both sides of an upgrade and of CONNECT, unless the endpoint refuses it.
#[derive(Debug)]
pub struct WholeMessage {
    /// The headers.
    pub head: Box<Head>,
    /// The body.
    pub body: Bytes,
    /// The trailers, if there are any; set them to add some.
    pub trailers: Option<Box<Head>>,
}

/// The decision on a whole message.
pub type WholeStep = PieceStep<WholeMessage, Box<Reply>>;

/// As [`HeadResume`], for a whole message.
pub type WholeResume = PieceResume<WholeMessage, Box<Reply>>;

/// The decision on a piece of a message: a part of its body, its trailers, or all of it. The next piece is not read
/// before this one has passed all filters.
pub enum PieceStep<T, E> {
    /// The piece continues.
    Continue,
    /// The message ends here.
    Stop(E),
    /// Continue after something else has happened. The pieces behind wait as well, the other direction does not.
    Wait(LocalFuture<PieceResume<T, E>>),
}

/// As [`HeadResume`], for a piece of a message.
pub type PieceResume<T, E> = Box<dyn FnOnce(&mut Cx<'_>, &mut T) -> PieceStep<T, E>>;

/// The decision on a piece of the body of a request. A reply is sent as long as no response has begun; after that, the
/// rest of the request is dropped.
pub type BodyStep = PieceStep<Body, Box<Reply>>;

/// The decision on the trailers of a request.
pub type TrailersStep = PieceStep<Head, Box<Reply>>;

/// The decision on a piece of the body of a response. Its headers have been sent, so that it can only be cut off; a
/// filter that may have to replace it returns [`ResponseStep::Buffer`] before.
pub type ResponseBodyStep = PieceStep<Body, Reason>;

/// The decision on the trailers of a response.
pub type ResponseTrailersStep = PieceStep<Head, Reason>;

impl HeadStep {
    /// Makes a step that receives the whole body, of at most `max` bytes; `then` decides on the whole request.
    pub fn buffer(
        max: usize,
        then: impl FnOnce(&mut Cx<'_>, &mut WholeMessage) -> WholeStep + 'static,
    ) -> Self {
        Self::Buffer(max, Box::new(then))
    }

    /// Makes a step that receives the first `max` bytes of the body; `then` decides on the request.
    pub fn peek(
        max: usize,
        then: impl FnOnce(&mut Cx<'_>, &mut Head, BodyStart) -> Self + 'static,
    ) -> Self {
        Self::Peek(max, Box::new(then))
    }

    /// Makes a step that waits; `later` returns what is done with the head then.
    pub fn wait<R>(later: impl Future<Output = R> + 'static) -> Self
    where
        R: FnOnce(&mut Cx<'_>, &mut Head) -> Self + 'static,
    {
        Self::Wait(Box::pin(async move { Box::new(later.await) as HeadResume }))
    }

    /// Makes a step that replies.
    pub fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl<T> PieceStep<T, Box<Reply>> {
    /// Makes a step that replies.
    pub fn reply(reply: Reply) -> Self {
        Self::Stop(Box::new(reply))
    }
}

impl<T> PieceStep<T, Reason> {
    /// Makes a step that cuts the response off.
    pub const fn cut(why: Reason) -> Self {
        Self::Stop(why)
    }
}

impl<T: 'static, E: 'static> PieceStep<T, E> {
    /// Makes a step that waits; `later` returns what is done with the piece then.
    pub fn wait<R>(later: impl Future<Output = R> + 'static) -> Self
    where
        R: FnOnce(&mut Cx<'_>, &mut T) -> Self + 'static,
    {
        Self::Wait(Box::pin(async move { Box::new(later.await) as PieceResume<T, E> }))
    }
}

impl ResponseStep {
    /// Makes a step that receives the whole body, of at most `max` bytes; `then` decides on the whole response.
    pub fn buffer(
        max: usize,
        then: impl FnOnce(&mut Cx<'_>, &mut WholeMessage) -> WholeStep + 'static,
    ) -> Self {
        Self::Buffer(max, Box::new(then))
    }

    /// Makes a step that waits; `later` returns what is done with the head then.
    pub fn wait<R>(later: impl Future<Output = R> + 'static) -> Self
    where
        R: FnOnce(&mut Cx<'_>, &mut Head) -> Self + 'static,
    {
        Self::Wait(Box::pin(async move { Box::new(later.await) as ResponseResume }))
    }

    /// Makes a step that replaces the response.
    pub fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// The decision of a hook for heads, of requests or responses: for filters that treat both alike.
pub trait HeadDecision: Sized + 'static {
    /// Whether it is about a response.
    const RESPONSE: bool;

    /// The message continues.
    fn go_on() -> Self;

    /// Respond with this.
    fn reply(reply: Box<Reply>) -> Self;

    /// Receive the whole body, of at most `max` bytes; `then` decides on the message.
    fn buffer(
        max: usize,
        then: impl FnOnce(&mut Cx<'_>, &mut WholeMessage) -> WholeStep + 'static,
    ) -> Self;

    /// Wait for something; `then` decides with what came of it.
    fn wait<T: 'static>(
        later: impl Future<Output = T> + 'static,
        then: impl FnOnce(T, &mut Cx<'_>, &mut Head) -> Self + 'static,
    ) -> Self;

    /// Wait, and receive the body meanwhile ([`HeadStep::WaitWithBody`]); that of a response is not received before.
    fn wait_with_body<T: 'static>(
        max: usize,
        later: impl Future<Output = T> + 'static,
        then: impl FnOnce(T, &mut Cx<'_>, &mut Head) -> Self + 'static,
    ) -> Self;
}

macro_rules! head_decision {
    ($step:ident, $response:literal, $with_body:expr) => {
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

            fn wait<T: 'static>(
                later: impl Future<Output = T> + 'static,
                then: impl FnOnce(T, &mut Cx<'_>, &mut Head) -> Self + 'static,
            ) -> Self {
                Self::wait(async move {
                    let done = later.await;
                    move |cx: &mut Cx<'_>, head: &mut Head| then(done, cx, head)
                })
            }

            fn wait_with_body<T: 'static>(
                max: usize,
                later: impl Future<Output = T> + 'static,
                then: impl FnOnce(T, &mut Cx<'_>, &mut Head) -> Self + 'static,
            ) -> Self {
                $with_body(max, HeadDecision::wait(later, then))
            }
        }
    };
}

head_decision!(HeadStep, false, |max, step| match step {
    HeadStep::Wait(later) => HeadStep::WaitWithBody(max, later),
    other => other,
});
head_decision!(ResponseStep, true, |_, step| step);

/// What a message ends with, for filters that treat requests and responses alike: the reply, or its reason if the
/// headers of the response have been sent.
pub trait MessageEnd: 'static {
    /// Whether it is about a response.
    const RESPONSE: bool;

    /// The end for this reply.
    fn of(reply: Box<Reply>) -> Self;
}

impl MessageEnd for Box<Reply> {
    const RESPONSE: bool = false;

    fn of(reply: Self) -> Self {
        reply
    }
}

impl MessageEnd for Reason {
    const RESPONSE: bool = true;

    fn of(reply: Box<Reply>) -> Self {
        reply.reason
    }
}

impl fmt::Debug for HeadStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reply(reply) => write!(f, "Reply({})", reply.status),
            Self::Buffer(max, _) => write!(f, "Buffer({max})"),
            Self::Peek(max, _) => write!(f, "Peek({max})"),
            Self::Wait(_) => f.write_str("Wait"),
            Self::WaitWithBody(max, _) => write!(f, "WaitWithBody({max})"),
        }
    }
}

impl fmt::Debug for ResponseStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reply(reply) => write!(f, "Reply({})", reply.status),
            Self::Buffer(max, _) => write!(f, "Buffer({max})"),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

impl<T, E: fmt::Debug> fmt::Debug for PieceStep<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Stop(end) => write!(f, "Stop({end:?})"),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}
