//! Filters of the bytes of a connection, and everything that sees them as they pass.
//!
//! Owns: the trait, its decisions, the hooks of one connection. Refuses to know: the implementations, and how bytes are
//! moved. Keeps: a filter has the bytes of a direction one piece at a time, in order, and changes them only when it is
//! called, so that dropping a wait leaves nothing half done.

use std::fmt::{self, Debug};
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_core::{LocalFuture, Reason};

use crate::tap::ByteTap;

/// Changes the bytes of one connection as they pass: it may replace them, hold them back in itself until later ones
/// arrive, or add to them. `last` means that no more follow; the last piece may be empty.
pub trait ByteFilter: Debug {
    /// Receives bytes from the client, after they were read.
    fn received(&mut self, _bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        ByteStep::Continue
    }

    /// The most bytes from the client that [`ByteFilter::received`] is to be called with at once; at least one. Filters before
    /// this one may make them more.
    fn received_max(&self) -> usize {
        usize::MAX
    }

    /// As [`ByteFilter::received_max`], for [`ByteFilter::sent`].
    fn sent_max(&self) -> usize {
        usize::MAX
    }

    /// Receives bytes to the client, before they are written.
    fn sent(&mut self, _bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        ByteStep::Continue
    }

    /// Polled before more bytes from the client are read: what the filter does of its own accord. It wakes the task when there is
    /// something.
    fn poll_received(&mut self, _cx: &mut Context<'_>) -> Poll<ByteRelease> {
        Poll::Pending
    }

    /// As [`ByteFilter::poll_received`], for bytes to the client.
    fn poll_sent(&mut self, _cx: &mut Context<'_>) -> Poll<ByteRelease> {
        Poll::Pending
    }
}

/// What a filter does though no bytes have arrived.
#[derive(Debug)]
pub enum ByteRelease {
    /// Bytes that it held back go on, to the filters behind it.
    Bytes(Vec<u8>),
    /// As [`ByteStep::Cut`].
    Cut(Reason),
    /// As [`ByteStep::Close`].
    Close(Reason),
}

/// The decision on a piece of the bytes.
pub enum ByteStep {
    /// They continue.
    Continue,
    /// The connection ends, with a reset to both sides.
    Cut(Reason),
    /// The connection ends in order: the piece is dropped, and what passed before it still arrives.
    Close(Reason),
    /// Continue after something else has happened. The bytes behind wait as well, the other direction does not.
    Wait(LocalFuture<ByteResume>),
}

/// Called when what a filter waited for has happened: changes the bytes and decides again.
pub type ByteResume = Box<dyn FnOnce(&mut Vec<u8>) -> ByteStep>;

impl Debug for ByteStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Cut(why) => write!(f, "Cut({why})"),
            Self::Close(why) => write!(f, "Close({why})"),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

/// What sees the bytes of a connection.
#[derive(Debug, Default)]
pub struct ByteHooks {
    /// Observers.
    pub taps: Vec<Rc<dyn ByteTap>>,
    /// Filters, in the order in which bytes from the client pass them.
    pub filters: Vec<Box<dyn ByteFilter>>,
}
