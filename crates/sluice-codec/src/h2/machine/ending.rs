//! How streams and connections end.
//!
//! Owns: resets in both directions, GOAWAY and the drain, the end of a connection, and the errors that users are told.
//! Refuses to know: why a user resets a stream. Keeps: every stream ends once; a stream that has ended takes no more
//! memory than its user asks for; after the end of a connection nothing but its GOAWAY is sent.

use super::{CHECK_PING, DRAIN_PING, DrainPhase, H2Machine, PingPhase};
use crate::error::{ErrorKind, HttpError};
use crate::h1::Role;
use crate::h2::code::H2Code;
use crate::h2::entry::{AfterData, StreamEntry};
use crate::h2::frame::{self, kind};
use crate::h2::state::{StreamEnd, StreamState};
use crate::h2::supply::StreamMemory;

/// Why a connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The peer violated the protocol; it was sent a GOAWAY with this code.
    ByUs(H2Code, &'static str),
    /// The client does not speak HTTP/2.
    NotHttp2,
    /// The server responded in HTTP/1.
    SpeaksHttp1,
    /// The worker's buffers are exhausted, and much of them is held here for readers that do not read.
    Buffers,
    /// The peer has closed the connection.
    Closed,
    /// The socket failed, or the peer does not respond.
    Broken(ErrorKind, String),
    /// A client took too long to send request headers, or another frame.
    Overdue,
    /// It was drained, or is not needed any more.
    Done,
}

impl ConnectionEnd {
    /// Returns the error of the connection.
    pub fn error(&self) -> HttpError {
        match self {
            Self::ByUs(code, detail) => ours("GOAWAY", *code, detail),
            Self::NotHttp2 => {
                HttpError::coded(ErrorKind::Malformed(400), "http2.preface_malformed")
            }
            Self::SpeaksHttp1 => HttpError::coded_with(
                ErrorKind::Malformed(400),
                "http2.endpoint_speaks_http1",
                "the endpoint responded in HTTP/1.x: it does not speak HTTP/2".to_owned(),
            ),
            Self::Buffers => HttpError::buffers(),
            Self::Closed => {
                HttpError::new(ErrorKind::Reset, "http2: the peer closed the connection")
            }
            Self::Broken(kind, error) => HttpError::new(*kind, format!("http2: {error}")),
            Self::Overdue => HttpError::coded(ErrorKind::Timeout, "http2.head_timeout"),
            Self::Done => HttpError::new(ErrorKind::Cancelled, "http2: the connection was closed"),
        }
    }
}

/// The error of what we ended because of the peer.
fn ours(frame: &str, code: H2Code, detail: &'static str) -> HttpError {
    let kind = match code {
        H2Code::ENHANCE_YOUR_CALM => ErrorKind::Flood,
        _ => ErrorKind::Malformed(400),
    };
    let shown = format!("http2: {frame} sent: {code}: {}", detail.trim_start_matches("http2."));
    HttpError::coded_with(kind, detail, shown)
}

impl H2Machine {
    /// Changes the state of a stream, and tells those who wait for its end.
    pub(super) fn change(&mut self, key: usize, change: impl FnOnce(&mut StreamState)) {
        let before = self.streams.active();
        self.streams.change(key, change);
        if self.streams.active() < before {
            self.wake_openers();
        }
    }

    /// Ends a stream early. What it has received stays for its user.
    pub(super) fn end_stream(&mut self, key: usize, end: StreamEnd) {
        let entry = self.streams.get_mut(key);
        if entry.state == StreamState::Closed {
            return;
        }
        entry.end = Some(end);
        (entry.unsent, entry.unsent_from) = (None, 0);
        if entry.has_unsent()
            && let AfterData::Trailers(trailers) =
                std::mem::replace(&mut entry.after, AfterData::More)
        {
            self.supply.heads.give(trailers);
        }
        entry.wake();
        let (pending, lingers) = (entry.pending, entry.lingers);
        self.change(key, StreamState::abort);
        if pending {
            self.take_back(key);
        } else if lingers {
            self.dispose(key);
        }
    }

    /// Resets a stream.
    pub(super) fn reset_with(&mut self, key: usize, code: H2Code, end: StreamEnd) {
        let entry = self.streams.get(key);
        if entry.state == StreamState::Closed {
            return;
        }
        let (id, receives) = (entry.id, entry.state.receives());
        frame::write_reset(&mut self.out, id, code);
        if receives {
            self.streams.remember_reset(id);
        }
        self.end_stream(key, end);
    }

    /// Resets a stream for what the peer did on it.
    pub(super) fn reset_for(&mut self, id: u32, code: H2Code, detail: &'static str) {
        match self.streams.find(id) {
            Some(key) if self.streams.get(key).state != StreamState::Closed => {
                self.reset_with(key, code, StreamEnd::ByUs(code, detail));
            }
            _ => {
                frame::write_reset(&mut self.out, id, code);
                self.streams.remember_reset(id);
            }
        }
    }

    /// Resets a stream for its user.
    pub fn reset(&mut self, key: usize, code: H2Code) {
        self.reset_with(key, code, StreamEnd::Abandoned);
    }

    /// Releases a stream: its user has no more interest in it. One that is not closed is reset, or lingers if it was
    /// responded to.
    pub fn release(&mut self, key: usize) {
        self.streams.get_mut(key).charge = None;
        if self.role == Role::Server && self.streams.get(key).state == StreamState::HalfClosedLocal
        {
            return self.linger(key);
        }
        self.reset(key, H2Code::CANCEL);
        self.dispose(key);
    }

    /// Removes a stream that is closed and has no user.
    pub(super) fn dispose(&mut self, key: usize) {
        let entry = self.streams.get_mut(key);
        if entry.lingers {
            self.forget_lingering(key);
        }
        let entry = self.streams.get_mut(key);
        if std::mem::take(&mut entry.queued) {
            let queued = u32::try_from(key).unwrap_or(u32::MAX);
            self.ready.retain(|other| *other != queued);
        }
        let mut entry = self.streams.remove(key);
        self.pieces.clear(&mut entry.pieces);
        let heads = entry.informational.into_iter().chain(entry.head).chain(entry.trailers);
        heads.for_each(|head| self.supply.heads.give(head));
        self.give_back(0);
        if self.streams.is_empty() {
            self.rest();
        }
    }

    /// Gives the memory away that a connection without streams does not need.
    fn rest(&mut self) {
        if self.out.is_empty() {
            self.supply.give_bytes(std::mem::take(&mut self.out));
        }
        if self.events.is_empty() {
            let (slots, events) = (self.streams.give_up(), std::mem::take(&mut self.events));
            self.supply.give_streams(StreamMemory { slots, events });
        }
    }

    /// Adds a stream that is not closed and whose number is larger than all others.
    pub(super) fn insert(&mut self, entry: StreamEntry) -> usize {
        if self.streams.is_bare() {
            let StreamMemory { slots, events } = self.supply.take_streams();
            self.streams.adopt(slots);
            if self.events.capacity() == 0 {
                self.events = events;
            }
        }
        self.streams.insert(entry)
    }

    /// The error of a stream that has ended early; `None` if it has not.
    pub(super) fn error_of(&self, end: Option<StreamEnd>) -> Option<HttpError> {
        Some(match end? {
            StreamEnd::ByPeer(code) => {
                let kind = match code {
                    H2Code::NO_ERROR | H2Code::CANCEL => ErrorKind::Cancelled,
                    H2Code::REFUSED_STREAM => ErrorKind::Refused,
                    _ => ErrorKind::Reset,
                };
                HttpError::new(kind, format!("http2: RST_STREAM received: {code}"))
            }
            StreamEnd::ByUs(code, detail) => ours("RST_STREAM", code, detail),
            StreamEnd::Abandoned => {
                HttpError::new(ErrorKind::Cancelled, "http2: the stream was abandoned")
            }
            StreamEnd::Refused => self.refusal(),
            StreamEnd::Buffers => HttpError::buffers(),
            StreamEnd::Connection => match self.end.as_deref().unwrap_or(&ConnectionEnd::Closed) {
                // What took too long was not this request.
                ConnectionEnd::Overdue => {
                    HttpError::new(ErrorKind::Reset, "http2: GOAWAY sent: head_timeout")
                }
                end => end.error(),
            },
        })
    }

    /// The error of a stream that the peer will not process.
    pub(super) fn refusal(&self) -> HttpError {
        let text = match self.peer_goaway.as_deref() {
            Some((code, said)) => format!("http2: GOAWAY received: {code}{said}"),
            None => "http2: no stream can be opened".to_owned(),
        };
        HttpError::new(ErrorKind::Refused, text)
    }

    // --- the connection ---

    /// Ends the connection, and all streams with it.
    pub(super) fn fail(&mut self, end: ConnectionEnd) {
        if self.end.is_some() {
            return;
        }
        let code = match &end {
            ConnectionEnd::ByUs(code, _) => Some(*code),
            ConnectionEnd::Buffers => Some(H2Code::ENHANCE_YOUR_CALM),
            // The last GOAWAY of a drain has said so.
            ConnectionEnd::Done if matches!(self.drain, DrainPhase::Final(_)) => None,
            ConnectionEnd::Done | ConnectionEnd::Overdue => Some(H2Code::NO_ERROR),
            ConnectionEnd::NotHttp2
            | ConnectionEnd::SpeaksHttp1
            | ConnectionEnd::Closed
            | ConnectionEnd::Broken(..) => None,
        };
        self.end = Some(Box::new(end));
        self.block = None;
        for key in self.streams.keys() {
            self.end_stream(key, StreamEnd::Connection);
        }
        self.ready.clear();
        if let Some(code) = code {
            frame::write_goaway(&mut self.out, self.last_peer, code);
        }
        self.wake_openers();
        self.out_waiters.drain(..).for_each(std::task::Waker::wake);
    }

    /// The peer has closed the connection.
    pub fn closed(&mut self) {
        self.fail(ConnectionEnd::Closed);
    }

    /// The socket failed.
    pub fn broken(&mut self, error: std::io::Error) {
        let error = HttpError::from(error);
        self.fail(match error.kind() {
            ErrorKind::Buffers => ConnectionEnd::Buffers,
            kind => ConnectionEnd::Broken(kind, error.detail().to_owned()),
        });
    }

    /// Its driver does not go on with the connection.
    pub fn give_up(&mut self) {
        let text = "the connection was closed".to_owned();
        self.fail(ConnectionEnd::Broken(ErrorKind::Reset, text));
    }

    /// The peer has not acknowledged a [`H2Machine::check`] in time.
    pub fn unanswered(&mut self) {
        let text = "a PING was not acknowledged".to_owned();
        self.fail(ConnectionEnd::Broken(ErrorKind::Reset, text));
    }

    /// The client has taken too long to send what [`H2Machine::partial_since`] tells of.
    pub fn overdue(&mut self) {
        self.fail(ConnectionEnd::Overdue);
    }

    /// Tells a client to open no more streams. Open ones continue; those that it opens before it knows are served.
    pub fn drain(&mut self) {
        if self.drain != DrainPhase::No || self.end.is_some() {
            return;
        }
        self.drain = DrainPhase::Announced;
        frame::write_goaway(&mut self.out, u32::MAX >> 1, H2Code::NO_ERROR);
        frame::write(&mut self.out, kind::PING, 0, 0, &DRAIN_PING);
    }

    /// Whether a stream was opened after the last that is served.
    pub(super) const fn is_beyond_drain(&self, id: u32) -> bool {
        matches!(self.drain, DrainPhase::Final(last) if id > last)
    }

    /// Opens no more streams: the connection ends with the last one.
    pub fn wind_down(&mut self) {
        self.unwanted = true;
    }

    /// Whether no stream is open and none will be.
    pub fn is_winding_down(&self) -> bool {
        let over = matches!(self.drain, DrainPhase::Final(_))
            || self.peer_goaway.is_some()
            || self.unwanted;
        over && self.streams.active() == 0 && self.events.is_empty()
    }

    /// Ends the connection if no stream is open and none will be.
    pub fn end_if_drained(&mut self) {
        if self.is_winding_down() {
            self.fail(ConnectionEnd::Done);
        }
    }

    /// Sends a PING to check that the peer is still there.
    pub fn check(&mut self) {
        frame::write(&mut self.out, kind::PING, 0, 0, &CHECK_PING);
        self.ping = PingPhase::Sent;
    }

    /// Whether the peer has acknowledged the last [`H2Machine::check`]; true once for each.
    pub fn take_acknowledged(&mut self) -> bool {
        let acknowledged = self.ping == PingPhase::Acknowledged;
        if acknowledged {
            self.ping = PingPhase::Idle;
        }
        acknowledged
    }

    pub(super) fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(std::task::Waker::wake);
    }
}
