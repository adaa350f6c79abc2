//! A script in one direction of a request, and the message that is at hand while it runs.
//!
//! Owns: what of a message a script may see and change at which time. Refuses to know: Lua, and what filters return. Keeps:
//! a script sees what the hook in which it runs was given, and nothing that has been sent.

use std::sync::Arc;

use bytes::Bytes;
use mlua::Thread;
use sluice_codec::Head;
use sluice_core::LocalFuture;
use sluice_l7::filters::{Cx, WholeMessage};
use sluice_l7::{Reply, SideCallError, SideResponse, reasons};

use crate::exposed::Exposed;

/// The script of a request, or of a response.
#[derive(Debug)]
pub(crate) struct ScriptSide {
    pub(crate) thread: Thread,
    pub(crate) id: u64,
    pub(crate) response: bool,
    /// What it waits for across hooks.
    pub(crate) parked: Parked,
    /// The number of the piece of the body that it has.
    pub(crate) chunk: u32,
    /// Its state went with it: it does not see the response to what it failed for.
    pub(crate) gone: bool,
}

/// What a script waits for across hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    No,
    Chunk,
    Trailers,
}

/// A message, as far as it is at hand.
#[derive(Debug)]
pub(crate) enum MessageAtHand<'a> {
    /// Its head, before anything of it was sent.
    Head(&'a mut Head),
    /// All of it, before anything of it was sent.
    Whole(&'a mut WholeMessage),
    /// A piece of its body, and whether nothing of the message follows; the head was sent.
    Chunk(Bytes, bool),
    /// Its trailers, perhaps none; the rest was sent.
    Trailers(&'a mut Head),
    /// It was sent.
    Sent,
}

/// How a side call ended.
pub(crate) type CallEnd = Result<SideResponse, SideCallError>;

/// What a coroutine is resumed with.
#[derive(Debug)]
pub(crate) enum Input {
    /// The beginning.
    Start { response: bool, id: u64 },
    /// What it waited for does not come.
    Nothing,
    /// What it waited for is at hand, and whether there is anything in it.
    Present(bool),
    /// A piece of the body, with its number.
    Chunk(u32),
    /// It cannot wait for this.
    Refused(&'static str),
    /// The response to its call; nothing for a body is nil.
    Called { headers: Vec<(String, Vec<u8>)>, body: Bytes },
}

impl Input {
    /// A call that has no response looks like one to Envoy's scripts: a 504 if the time was up, otherwise a 503.
    pub(crate) fn called(called: CallEnd) -> Self {
        let (status, body) = match &called {
            Ok(response) => (response.head.status(), response.body.clone()),
            Err(error) if error.why == reasons::SIDE_CALL_TIMEOUT => {
                (504, Bytes::from_static(b"upstream request timeout"))
            }
            Err(_) => (503, Bytes::from_static(b"upstream failure")),
        };
        let mut headers = vec![(":status".to_owned(), status.to_string().into_bytes())];
        for (name, value) in called.iter().flat_map(|response| response.head.fields()) {
            headers.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
        }
        Self::Called { headers, body }
    }
}

/// What operations see while a coroutine runs.
pub(crate) struct ScriptRun<'a, 'c, 'm> {
    pub(crate) cx: &'a mut Cx<'c>,
    pub(crate) message: &'a mut MessageAtHand<'m>,
    pub(crate) plan: &'a Arc<Exposed>,
    pub(crate) id: u64,
    pub(crate) response: bool,
    pub(crate) chunk: u32,
    /// Set by `respond`.
    pub(crate) reply: Option<Reply>,
    /// Set by `httpCall`.
    pub(crate) call: Option<LocalFuture<CallEnd>>,
    /// Lines that were written to the log.
    pub(crate) logged: u32,
}

impl ScriptRun<'_, '_, '_> {
    /// The body or the piece of it with that number.
    pub(crate) fn body(&mut self, number: u32) -> Option<&mut Bytes> {
        match self.message {
            MessageAtHand::Whole(whole) if number == 0 => Some(&mut whole.body),
            MessageAtHand::Chunk(body, _) if number == self.chunk => Some(body),
            _ => None,
        }
    }

    /// The trailers, if there are any at hand.
    pub(crate) fn trailers(&mut self) -> Option<&mut Head> {
        match self.message {
            MessageAtHand::Whole(whole) => whole.trailers.as_deref_mut(),
            MessageAtHand::Trailers(trailers) => Some(trailers),
            _ => None,
        }
    }

    /// The head, as long as it may be changed.
    pub(crate) fn head(&mut self) -> Option<&mut Head> {
        match self.message {
            MessageAtHand::Head(head) => Some(head),
            MessageAtHand::Whole(whole) => Some(&mut whole.head),
            _ => None,
        }
    }

    /// The head, to read. That of a response is not kept once it was sent.
    pub(crate) fn sent_head(&self) -> Option<&Head> {
        match &*self.message {
            MessageAtHand::Head(head) => Some(head),
            MessageAtHand::Whole(whole) => Some(&whole.head),
            _ if self.response => None,
            _ => self.cx.request,
        }
    }
}
