//! The streams that are open on a connection to an endpoint.
//!
//! Owns: how many there are, and how many of them are blocked. Refuses to know: which version is spoken. Keeps: each
//! stream is counted once, until it is dropped.

use std::cell::Cell;
use std::rc::Rc;

/// The streams of a connection to an endpoint.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams {
    open: Cell<usize>,
    /// Those whose clients do not take what comes.
    blocked: Cell<usize>,
}

impl OpenStreams {
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Whether another stream may be opened where at most `room` may be.
    pub(crate) fn has_room(&self, room: usize) -> bool {
        self.open.get() < room
    }

    /// Whether a quarter of them and more is blocked.
    pub(crate) fn are_stalled(&self) -> bool {
        self.blocked.get() > 0 && self.blocked.get() * 4 >= self.open.get()
    }
}

/// The place of one stream; given back on drop.
#[derive(Debug)]
pub(crate) struct OpenStream {
    places: Rc<OpenStreams>,
    blocked: bool,
}

impl OpenStream {
    pub(crate) fn take(places: &Rc<OpenStreams>) -> Self {
        places.open.set(places.open.get() + 1);
        Self { places: Rc::clone(places), blocked: false }
    }

    /// Says whether the client of the stream does not take what comes.
    pub(crate) fn set_blocked(&mut self, blocked: bool) {
        if std::mem::replace(&mut self.blocked, blocked) != blocked {
            let count = self.places.blocked.get();
            self.places.blocked.set(if blocked { count + 1 } else { count - 1 });
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.set_blocked(false);
        self.places.open.set(self.places.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_and_so_are_those_that_are_blocked() {
        let streams = Rc::<OpenStreams>::default();
        let mut open: Vec<_> = (0..8).map(|_| OpenStream::take(&streams)).collect();
        assert!(streams.open() == 8 && streams.has_room(9) && !streams.has_room(8));
        for (n, stream) in open.iter_mut().enumerate() {
            stream.set_blocked(true);
            stream.set_blocked(true);
            // Two of eight are a quarter.
            assert_eq!(streams.are_stalled(), n >= 1, "{n}");
        }
        open.iter_mut().skip(1).for_each(|stream| stream.set_blocked(false));
        assert!(!streams.are_stalled());
        drop(open);
        assert!(!streams.are_stalled());
        assert_eq!((streams.open(), streams.has_room(1)), (0, true));
    }
}
