//! The pump between two streams.
//!
//! Owns: both directions of a relay, the choice between copying and splicing.
//! Refuses to know: the two peers, timeouts, records.
//! Keeps: bytes of a direction never overtake each other; a direction reads only when everything it read before has
//! been sent; no buffer is held while nothing moves.
//!
//! Copying goes through the worker's scratch: one read, one write, and only what the receiver did not accept is kept. A
//! direction whose reads keep filling the scratch switches to `splice(2)` if both sockets are bare and there are no
//! taps and filters; it switches back when its moves get small.

use std::io;
use std::task::{Context, Poll, ready};

use sluice_core::{Moment, Reason};

use crate::buffers::SCRATCH;
use crate::byte_filter::ByteHooks;
use crate::stream::Stream;
use crate::worker::WorkerCx;

mod filtered;
#[cfg(test)]
mod tests;

use filtered::FilteredPiece;

/// Consecutive reads that fill the scratch before a direction splices.
const FULL_READS: u8 = 4;

/// Consecutive moves under [`SMALL_MOVE`] before a direction copies again.
const SMALL_MOVES: u8 = 8;
const SMALL_MOVE: usize = 16 << 10;

/// Reads or moves of one direction per poll; then other tasks get their turn.
const BUDGET: u8 = 16;

/// Two streams and the data in transit between them.
#[derive(Debug)]
pub struct Pump {
    /// The client's side.
    pub downstream: Stream,
    /// The endpoint's side.
    pub upstream: Stream,
    to_upstream: Direction,
    to_downstream: Direction,
}

/// The bytes moved by a poll of the pump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes read from the client.
    pub received: u64,
    /// Bytes read from the endpoint.
    pub sent: u64,
}

/// How the pump stopped.
#[derive(Debug)]
pub enum Stopped {
    /// Both sides closed cleanly.
    Done,
    /// The client's side failed.
    Downstream(io::Error),
    /// The endpoint's side failed.
    Upstream(io::Error),
    /// A filter cut the connection off.
    Cut(Reason),
    /// A filter ended the connection in order.
    Closed(Reason),
}

/// The side of a direction that failed.
enum CopyError {
    From(io::Error),
    To(io::Error),
    Cut(Reason),
    Close(Reason),
}

impl Pump {
    /// Creates a pump that has not moved anything.
    pub fn new(downstream: Stream, upstream: Stream) -> Self {
        Self {
            downstream,
            upstream,
            to_upstream: Direction::default(),
            to_downstream: Direction::default(),
        }
    }

    /// Moves what can be moved. The bytes moved are added to `moved`, even if the pump stops.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        mut hooks: Option<&mut ByteHooks>,
        moved: &mut Moved,
    ) -> Poll<Stopped> {
        let other_done = self.to_downstream.is_done();
        let of_up = hooks.as_deref_mut();
        let mut context = CopyContext { worker, hooks: of_up, heading: Heading::Up, other_done };
        let up = self.to_upstream.poll(
            cx,
            &mut context,
            &mut self.downstream,
            &mut self.upstream,
            &mut moved.received,
        );
        match up {
            Poll::Ready(Err(CopyError::From(error))) => {
                return Poll::Ready(Stopped::Downstream(error));
            }
            Poll::Ready(Err(CopyError::To(error))) => return Poll::Ready(Stopped::Upstream(error)),
            Poll::Ready(Err(CopyError::Cut(why))) => return Poll::Ready(Stopped::Cut(why)),
            Poll::Ready(Err(CopyError::Close(why))) => return Poll::Ready(Stopped::Closed(why)),
            _ => {}
        }
        let other_done = self.to_upstream.is_done();
        let mut context = CopyContext { worker, hooks, heading: Heading::Down, other_done };
        let down = self.to_downstream.poll(
            cx,
            &mut context,
            &mut self.upstream,
            &mut self.downstream,
            &mut moved.sent,
        );
        match down {
            Poll::Ready(Err(CopyError::From(error))) => Poll::Ready(Stopped::Upstream(error)),
            Poll::Ready(Err(CopyError::To(error))) => Poll::Ready(Stopped::Downstream(error)),
            Poll::Ready(Err(CopyError::Cut(why))) => Poll::Ready(Stopped::Cut(why)),
            Poll::Ready(Err(CopyError::Close(why))) => Poll::Ready(Stopped::Closed(why)),
            Poll::Ready(Ok(())) if self.to_upstream.is_done() => Poll::Ready(Stopped::Done),
            _ => Poll::Pending,
        }
    }

    /// Whether the client has sent its last byte, read or not.
    pub fn client_has_finished(&self) -> bool {
        self.to_upstream.has_read_end() || self.downstream.raw().socket().has_ended()
    }

    /// Whether the endpoint has sent its last byte, read or not.
    pub fn endpoint_has_finished(&self) -> bool {
        self.to_downstream.has_read_end() || self.upstream.raw().socket().has_ended()
    }

    /// Whether the endpoint has closed or failed, and the last data from it was at most `bytes` bytes (and not empty).
    pub fn endpoint_left_with(&self, bytes: usize) -> bool {
        let socket = self.upstream.raw().socket();
        let gone = self.endpoint_has_finished() || socket.has_failed();
        gone && (1..=bytes).contains(&self.to_downstream.last)
    }

    /// When the wait of a filter is to be given up; never if none waits.
    pub fn filter_due(&self) -> Moment {
        let due =
            |direction: &Direction| direction.held.as_ref().map_or(Moment::NEVER, |held| held.due);
        due(&self.to_upstream).min(due(&self.to_downstream))
    }

    /// Whether one side has finished and the other has not.
    pub const fn is_half_closed(&self) -> bool {
        self.to_upstream.is_done() != self.to_downstream.is_done()
    }
}

/// The context of a direction.
struct CopyContext<'a> {
    worker: &'a WorkerCx,
    hooks: Option<&'a mut ByteHooks>,
    heading: Heading,
    /// The other direction is done: closing the sockets does the rest.
    other_done: bool,
}

impl CopyContext<'_> {
    fn has_filters(&self) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| !hooks.filters.is_empty())
    }

    /// Shows the taps what was read.
    fn show(&self, bytes: &[u8]) {
        for tap in self.hooks.iter().flat_map(|hooks| &hooks.taps) {
            match self.heading {
                Heading::Up => tap.received(bytes),
                Heading::Down => tap.sent(bytes),
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Heading {
    Up,
    Down,
}

#[derive(Debug, Default)]
struct Direction {
    state: CopyState,
    /// Full reads while copying; small moves while splicing.
    streak: u8,
    /// Bytes of the last move.
    last: usize,
    /// The piece that is in the filters.
    held: Option<Box<FilteredPiece>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CopyState {
    #[default]
    Copying,
    Splicing,
    /// The end was read; the remaining bytes are still being sent.
    Finishing,
    /// The close_notify of TLS is being sent.
    ClosingTls,
    Done,
}

impl Direction {
    const fn is_done(&self) -> bool {
        matches!(self.state, CopyState::Done)
    }

    const fn has_read_end(&self) -> bool {
        matches!(self.state, CopyState::Finishing | CopyState::ClosingTls | CopyState::Done)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        context: &mut CopyContext<'_>,
        from: &mut Stream,
        to: &mut Stream,
        moved: &mut u64,
    ) -> Poll<Result<(), CopyError>> {
        for _ in 0..BUDGET {
            match self.state {
                CopyState::Copying => ready!(self.copy(cx, context, from, to, moved))?,
                CopyState::Splicing => ready!(self.splice(cx, context.worker, from, to, moved))?,
                CopyState::Finishing => {
                    ready!(to.poll_flushed(cx)).map_err(CopyError::To)?;
                    to.close_notify(cx, context.worker).map_err(CopyError::To)?;
                    self.state = CopyState::ClosingTls;
                }
                CopyState::ClosingTls => {
                    ready!(to.poll_flushed(cx)).map_err(CopyError::To)?;
                    if !context.other_done {
                        to.raw().finish().map_err(CopyError::To)?;
                    }
                    self.state = CopyState::Done;
                }
                CopyState::Done => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        context: &mut CopyContext<'_>,
        from: &mut Stream,
        to: &mut Stream,
        moved: &mut u64,
    ) -> Poll<Result<(), CopyError>> {
        ready!(to.poll_flushed(cx)).map_err(CopyError::To)?;
        if context.has_filters() {
            return self.copy_filtered(cx, context, from, to, moved);
        }
        let worker = context.worker;
        let Read { count, after } = ready!(worker.with_scratch(|scratch| {
            let read = ready!(read(cx, worker, from, scratch)).map_err(CopyError::From)?;
            context.show(&scratch[..read.count]);
            if read.count > 0 {
                if matches!(read.after, ReadEnd::End) {
                    to.expect_end();
                }
                to.send(cx, worker, &scratch[..read.count]).map_err(CopyError::To)?;
            }
            Poll::Ready(Ok(read))
        }))?;
        *moved += count as u64;
        if count > 0 {
            self.last = count;
        }
        match after {
            ReadEnd::Unknown => {}
            ReadEnd::End => {
                self.state = CopyState::Finishing;
                return Poll::Ready(Ok(()));
            }
            ReadEnd::Error(error) => return Poll::Ready(Err(CopyError::From(error))),
        }
        self.streak = if count == SCRATCH { self.streak.saturating_add(1) } else { 0 };
        let may_splice = context.hooks.is_none() && from.is_bare() && to.is_bare();
        if self.streak >= FULL_READS && may_splice {
            (self.state, self.streak) = (CopyState::Splicing, 0);
        }
        Poll::Ready(Ok(()))
    }

    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        from: &Stream,
        to: &mut Stream,
        moved: &mut u64,
    ) -> Poll<Result<(), CopyError>> {
        ready!(to.poll_flushed(cx)).map_err(CopyError::To)?;
        // Only now that the pipe is empty may a copy follow without overtaking.
        if self.streak >= SMALL_MOVES {
            (self.state, self.streak) = (CopyState::Copying, 0);
            return Poll::Ready(Ok(()));
        }
        match ready!(to.poll_take_from(cx, worker, from, usize::MAX)).map_err(CopyError::From)? {
            None => (self.state, self.streak) = (CopyState::Copying, 0),
            Some(0) => self.state = CopyState::Finishing,
            Some(count) => {
                *moved += count as u64;
                self.last = count;
                self.streak = if count < SMALL_MOVE { self.streak + 1 } else { 0 };
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The result of a read, and what is known of the rest.
struct Read {
    count: usize,
    after: ReadEnd,
}

enum ReadEnd {
    Unknown,
    End,
    Error(io::Error),
}

/// Reads once, and again if the peer is known to have finished, so that its last bytes can be sent together with the
/// end.
fn read(
    cx: &mut Context<'_>,
    worker: &WorkerCx,
    from: &mut Stream,
    into: &mut [u8],
) -> Poll<io::Result<Read>> {
    let mut count = ready!(from.poll_recv(cx, worker, into))?;
    if count == 0 {
        return Poll::Ready(Ok(Read { count, after: ReadEnd::End }));
    }
    let mut after = ReadEnd::Unknown;
    if count < into.len() && from.is_last_read() {
        match from.poll_recv(cx, worker, &mut into[count..]) {
            Poll::Ready(Ok(0)) => after = ReadEnd::End,
            Poll::Ready(Ok(more)) => count += more,
            // What arrived before the error is passed on first.
            Poll::Ready(Err(error)) => after = ReadEnd::Error(error),
            Poll::Pending => {}
        }
    }
    Poll::Ready(Ok(Read { count, after }))
}
