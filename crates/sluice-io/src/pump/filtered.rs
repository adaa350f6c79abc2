//! Copying through filters.
//!
//! Owns: the piece of each direction that is in the filters. Refuses to know: what filters do. Keeps: the next piece is
//! read when this one has passed all filters and was sent; what is held counts towards the buffers of the worker.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::{LocalFuture, Moment};

use super::{CopyContext, CopyError, CopyState, Direction, Heading, ReadEnd, read};
use crate::buffers::Charge;
use crate::byte_filter::{ByteFilter, ByteRelease, ByteResume, ByteStep};
use crate::stream::Stream;
use crate::worker::WorkerCx;

/// A piece that is in the filters.
pub(super) struct FilteredPiece {
    bytes: Vec<u8>,
    after: ReadEnd,
    charge: Charge,
    /// The number of filters that it has passed.
    passed: usize,
    /// What the next filter waits for.
    later: Option<LocalFuture<ByteResume>>,
    /// When that wait is given up.
    pub(super) due: Moment,
}

impl std::fmt::Debug for FilteredPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FilteredPiece({})", self.bytes.len())
    }
}

impl Direction {
    /// Copies one piece, through the filters of the connection.
    pub(super) fn copy_filtered(
        &mut self,
        cx: &mut Context<'_>,
        context: &mut CopyContext<'_>,
        from: &mut Stream,
        to: &mut Stream,
        moved: &mut u64,
    ) -> Poll<Result<(), CopyError>> {
        let worker = context.worker;
        let held = match &mut self.held {
            Some(held) => held,
            None => match FilteredPiece::released(cx, context)? {
                Some(held) => self.held.insert(Box::new(held)),
                None => {
                    let held = ready!(FilteredPiece::read(cx, context, from))?;
                    *moved += held.bytes.len() as u64;
                    if !held.bytes.is_empty() {
                        self.last = held.bytes.len();
                    }
                    self.held.insert(Box::new(held))
                }
            },
        };
        let heading = context.heading;
        if let Some(hooks) = context.hooks.as_deref_mut() {
            ready!(held.poll(cx, worker, &mut hooks.filters, heading))?;
        }
        let Some(held) = self.held.take() else { return Poll::Ready(Ok(())) };
        if !held.bytes.is_empty() {
            if matches!(held.after, ReadEnd::End) {
                to.expect_end();
            }
            to.send(cx, worker, &held.bytes).map_err(CopyError::To)?;
        }
        match held.after {
            ReadEnd::Unknown => {}
            ReadEnd::End => self.state = CopyState::Finishing,
            ReadEnd::Error(error) => return Poll::Ready(Err(CopyError::From(error))),
        }
        Poll::Ready(Ok(()))
    }
}

impl FilteredPiece {
    /// What a filter lets go of its own accord, if one does.
    fn released(
        cx: &mut Context<'_>,
        context: &mut CopyContext<'_>,
    ) -> Result<Option<Self>, CopyError> {
        let (worker, heading) = (context.worker, context.heading);
        let Some(hooks) = context.hooks.as_deref_mut() else { return Ok(None) };
        let count = hooks.filters.len();
        for passed in 0..count {
            let released = match heading {
                Heading::Up => hooks.filters[passed].poll_received(cx),
                Heading::Down => hooks.filters[count - 1 - passed].poll_sent(cx),
            };
            let bytes = match released {
                Poll::Pending => continue,
                Poll::Ready(ByteRelease::Bytes(bytes)) => bytes,
                Poll::Ready(ByteRelease::Cut(why)) => return Err(CopyError::Cut(why)),
                Poll::Ready(ByteRelease::Close(why)) => return Err(CopyError::Close(why)),
            };
            let (charge, due) = (worker.buffers.charge(), Moment::NEVER);
            let (after, passed) = (ReadEnd::Unknown, passed + 1);
            let mut held = Self { bytes, after, charge, passed, later: None, due };
            held.account()?;
            return Ok(Some(held));
        }
        Ok(None)
    }

    /// Reads the next piece.
    fn read(
        cx: &mut Context<'_>,
        context: &CopyContext<'_>,
        from: &mut Stream,
    ) -> Poll<Result<Self, CopyError>> {
        let worker = context.worker;
        let filters = context.hooks.iter().flat_map(|hooks| &hooks.filters);
        let max = filters.map(|filter| match context.heading {
            Heading::Up => filter.received_max(),
            Heading::Down => filter.sent_max(),
        });
        let max = max.min().unwrap_or(usize::MAX).max(1);
        worker.with_scratch(|scratch| {
            let room = max.min(scratch.len());
            let scratch = &mut scratch[..room];
            let read = ready!(read(cx, worker, from, scratch)).map_err(CopyError::From)?;
            let bytes = &scratch[..read.count];
            context.show(bytes);
            let (charge, due) = (worker.buffers.charge(), Moment::NEVER);
            let (bytes, after) = (bytes.to_vec(), read.after);
            let mut held = Self { bytes, after, charge, passed: 0, later: None, due };
            held.account()?;
            Poll::Ready(Ok(held))
        })
    }

    /// Counts what is held towards the buffers of the worker.
    fn account(&mut self) -> Result<(), CopyError> {
        let full = |_| CopyError::From(std::io::ErrorKind::OutOfMemory.into());
        self.charge.set(self.bytes.len()).map_err(full)
    }

    /// Passes the remaining filters.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        filters: &mut [Box<dyn ByteFilter>],
        heading: Heading,
    ) -> Poll<Result<(), CopyError>> {
        let last = matches!(self.after, ReadEnd::End);
        let count = filters.len();
        while self.passed < count {
            let step = match &mut self.later {
                None => match heading {
                    Heading::Up => filters[self.passed].received(&mut self.bytes, last),
                    Heading::Down => filters[count - 1 - self.passed].sent(&mut self.bytes, last),
                },
                Some(later) => {
                    let resume = ready!(later.as_mut().poll(cx));
                    (self.later, self.due) = (None, Moment::NEVER);
                    resume(&mut self.bytes)
                }
            };
            self.account()?;
            match step {
                ByteStep::Continue => self.passed += 1,
                ByteStep::Cut(why) => return Poll::Ready(Err(CopyError::Cut(why))),
                ByteStep::Close(why) => return Poll::Ready(Err(CopyError::Close(why))),
                ByteStep::Wait(later) => {
                    let wait = Duration::from_secs(worker.limits.get(Limit::FilterWait));
                    (self.later, self.due) = (Some(later), worker.now().after(wait));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
