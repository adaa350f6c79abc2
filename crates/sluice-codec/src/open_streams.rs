//! The open streams of a connection to an endpoint.
//!
//! Owns: how many streams are open and how many of them are blocked. Refuses to know: the HTTP version. Keeps: each
//! stream is counted once, until it is dropped.

use std::cell::Cell;
use std::rc::Rc;

/// The open streams of a connection to an endpoint.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams {
    open: Cell<usize>,
    /// Streams whose clients do not read.
    blocked: Cell<usize>,
}

impl OpenStreams {
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Whether another stream may be opened if at most `room` are allowed.
    pub(crate) fn has_room(&self, room: usize) -> bool {
        self.open.get() < room
    }

    /// Whether at least a quarter of the streams are blocked.
    pub(crate) fn are_stalled(&self) -> bool {
        self.blocked.get() > 0 && self.blocked.get() * 4 >= self.open.get()
    }
}

/// The slot of one stream, released on drop.
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

    /// Sets whether the client of the stream is not reading.
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
