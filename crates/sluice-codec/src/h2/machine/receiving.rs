//! What the user of a stream receives.
//!
//! Owns: handing out heads, data and trailers, and granting the peer more. Refuses to know: frames. Keeps: the stream's
//! window is granted again by what its user took; the connection's by what arrived, unless too much waits here; what had
//! arrived before a stream ended early is handed out before the error.

use std::task::{Context, Poll};

use super::H2Machine;
use crate::body::{Body, Frame};
use crate::error::{ErrorKind, HttpError};
use crate::h2::entry::StreamEntry;
use crate::h2::frame;
use crate::h2::state::RecvPhase;
use crate::head::Head;

/// Notes that the user of a stream waits.
pub(super) fn wait(entry: &mut StreamEntry, cx: &Context<'_>) {
    if !entry.waiter.as_ref().is_some_and(|waiter| waiter.will_wake(cx.waker())) {
        entry.waiter = Some(cx.waker().clone());
    }
}

impl H2Machine {
    /// Receives the next response head, with a status of at least 100.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_recv_head(
        &mut self,
        key: usize,
        cx: &Context<'_>,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        let entry = self.streams.get_mut(key);
        let next = if entry.informational.is_empty() {
            entry.head.take()
        } else {
            Some(entry.informational.remove(0))
        };
        if let Some(mut next) = next {
            std::mem::swap(head, &mut next);
            // A stream that ends with its head has no frame after it.
            entry.delivered = entry.phase == RecvPhase::Done
                && entry.head.is_none()
                && entry.pieces.is_empty()
                && entry.trailers.is_none();
            entry.charge_heads(&self.supply.buffers, 0);
            self.supply.heads.give(next);
            return Poll::Ready(Ok(()));
        }
        if entry.phase != RecvPhase::Head {
            let error = HttpError::new(ErrorKind::Finished, "the stream has no further head");
            return Poll::Ready(Err(error));
        }
        let end = entry.end;
        if let Some(error) = self.error_of(end) {
            return Poll::Ready(Err(error));
        }
        wait(self.streams.get_mut(key), cx);
        Poll::Pending
    }

    /// Receives the next piece of a body.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_recv(&mut self, key: usize, cx: &Context<'_>) -> Poll<Result<Frame, HttpError>> {
        let entry = self.streams.get_mut(key);
        if entry.delivered {
            return Poll::Ready(Ok(Frame::End));
        }
        if let Some(buf) = self.pieces.pop(&mut entry.pieces) {
            let last = entry.phase == RecvPhase::Done
                && entry.pieces.is_empty()
                && entry.trailers.is_none();
            entry.delivered |= last;
            self.taken(key, u32::try_from(buf.len()).unwrap_or(u32::MAX));
            self.give_back(0);
            return Poll::Ready(Ok(Frame::Data { body: Body::Pooled(buf), last }));
        }
        if let Some(trailers) = entry.trailers.take() {
            entry.charge_heads(&self.supply.buffers, 0);
            entry.delivered = true;
            return Poll::Ready(Ok(Frame::Trailers(trailers)));
        }
        if entry.phase == RecvPhase::Done {
            entry.delivered = true;
            return Poll::Ready(Ok(Frame::End));
        }
        let end = entry.end;
        if let Some(error) = self.error_of(end) {
            return Poll::Ready(Err(error));
        }
        wait(self.streams.get_mut(key), cx);
        Poll::Pending
    }

    /// Whether the incoming message has been received to its end.
    pub fn is_received(&self, key: usize) -> bool {
        self.streams.get(key).delivered
    }

    /// Ready when the stream has ended early.
    pub fn poll_gone(&mut self, key: usize, cx: &Context<'_>) -> Poll<HttpError> {
        let end = self.streams.get(key).end;
        match self.error_of(end) {
            Some(error) => Poll::Ready(error),
            None => {
                wait(self.streams.get_mut(key), cx);
                Poll::Pending
            }
        }
    }

    /// Grants the peer again what a stream's user took.
    pub(super) fn taken(&mut self, key: usize, bytes: u32) {
        let entry = self.streams.get_mut(key);
        entry.recv.release(bytes);
        if entry.state.receives()
            && !entry.lingers
            && let Some(more) = entry.recv.take_grant()
        {
            frame::write_update(&mut self.out, entry.id, more);
        }
    }

    /// Grants the peer bytes of the connection's window: at once, so that a stream that is not read holds up no other,
    /// unless a whole window waits here already.
    pub(super) fn give_back(&mut self, bytes: u32) {
        self.withheld = self.withheld.saturating_add(bytes);
        if self.withheld == 0 || self.pieces.held() > self.options.connection_window as usize {
            return;
        }
        self.recv.release(std::mem::take(&mut self.withheld));
        if let Some(more) = self.recv.take_grant()
            && self.end.is_none()
        {
            frame::write_update(&mut self.out, 0, more);
        }
    }
}
