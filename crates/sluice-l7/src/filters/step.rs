//! The decisions of HTTP filters.
//!
//! Owns: one type per hook, so that a decision that a hook cannot take does not compile. Refuses to know: how a decision
//! is carried out. Keeps: a filter that waits owns what it waits for, and changes the message only when it is resumed,
//! so that dropping the wait leaves nothing half done.

use std::fmt;

use sluice_codec::Head;
use sluice_core::LocalFuture;

use super::Cx;
use crate::reply::Reply;

/// The decision on a request, with its head.
pub enum HeadStep {
    /// The request continues.
    Continue,
    /// Respond with this; the request goes no further.
    Reply(Box<Reply>),
    /// Continue when the whole body has arrived, or respond with 413 if it is larger than this many bytes.
    Buffer(usize),
    /// Continue after something else has happened. Only this request waits.
    Wait(LocalFuture<HeadResume>),
}

/// The decision on a request, with a piece of its body.
#[derive(Debug)]
pub enum BodyStep {
    /// The body continues.
    Continue,
    /// Respond with this, as long as no response has begun.
    Reply(Box<Reply>),
}

/// The decision on a response, with its head.
pub enum ResponseStep {
    /// The response continues.
    Continue,
    /// Replace the response. The filters that have not seen it see the replacement.
    Reply(Box<Reply>),
    /// Continue after something else has happened. Only this response waits.
    Wait(LocalFuture<ResponseResume>),
}

/// Called when what a filter waited for has happened: edits the head and decides again.
pub type HeadResume = Box<dyn FnOnce(&mut Cx<'_>, &mut Head) -> HeadStep>;

/// As [`HeadResume`], for a response.
pub type ResponseResume = Box<dyn FnOnce(&mut Cx<'_>, &mut Head) -> ResponseStep>;

impl HeadStep {
    /// Makes a step that replies.
    pub fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl BodyStep {
    /// Makes a step that replies.
    pub fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl ResponseStep {
    /// Makes a step that replaces the response.
    pub fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl fmt::Debug for HeadStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reply(reply) => write!(f, "Reply({})", reply.status),
            Self::Buffer(max) => write!(f, "Buffer({max})"),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

impl fmt::Debug for ResponseStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reply(reply) => write!(f, "Reply({})", reply.status),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}
