//! A connection to an endpoint that carries many requests at once, whatever its version.
//!
//! Owns: the choice between versions, the count of streams. Refuses to know: who opens requests. Keeps: cloning gives another handle of
//! the same connection.

use std::cell::Cell;
use std::rc::Rc;

use crate::error::HttpError;
use crate::h2::H2Client;
use crate::h3::H3Client;
use crate::head::{Head, Version};
use crate::stream::HttpStream;

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

    /// Whether another stream may be opened where at most `room` may be: where a quarter of them is blocked, those
    /// that come go another way.
    pub(crate) fn has_room(&self, room: usize) -> bool {
        self.open.get() < room && self.blocked.get() <= room / 4
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

/// A connection of HTTP/2 or HTTP/3 that requests go out on.
#[derive(Clone, Debug)]
pub enum Multiplexed {
    /// HTTP/2.
    H2(H2Client),
    /// HTTP/3.
    H3(H3Client),
}

impl Multiplexed {
    /// What is spoken on it.
    pub const fn version(&self) -> Version {
        match self {
            Self::H2(_) => Version::Http2,
            Self::H3(_) => Version::Http3,
        }
    }

    /// Requests that are open.
    pub fn open_streams(&self) -> usize {
        match self {
            Self::H2(h2) => h2.open_streams(),
            Self::H3(h3) => h3.open_streams(),
        }
    }

    /// Whether another request may be opened now.
    pub fn has_room(&mut self, streams_max: usize) -> bool {
        match self {
            Self::H2(h2) => h2.has_room(streams_max),
            Self::H3(h3) => h3.has_room(streams_max),
        }
    }

    /// Whether requests may still be opened.
    pub fn is_alive(&mut self) -> bool {
        match self {
            Self::H2(h2) => h2.is_alive(),
            Self::H3(h3) => h3.is_alive(),
        }
    }

    /// Opens a stream with a request; `end` says that it has no body.
    ///
    /// # Errors
    /// The connection takes no more streams, which is as good as a refusal, or the head cannot be said.
    pub async fn open(&mut self, head: &Head, end: bool) -> Result<HttpStream, HttpError> {
        Ok(match self {
            Self::H2(h2) => HttpStream::H2(Box::new(h2.open(head, end).await?)),
            Self::H3(h3) => HttpStream::H3(Box::new(h3.open(head, end).await?)),
        })
    }
}
