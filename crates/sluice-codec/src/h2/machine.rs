//! The state of an HTTP/2 connection, without its socket: both roles.
//!
//! Owns: streams, windows, header tables, what was received and not taken, what is to be sent. Refuses to know: sockets,
//! clocks and tasks beyond the wakers it is given. Keeps: it takes bytes cut anywhere ([`H2Machine::feed`]) and yields
//! events ([`H2Machine::poll_event`]) and bytes ([`H2Machine::fill`]); a violation has the code that RFC 9113 names; a
//! stream that is not read holds up no other; everything a peer can make it hold is bounded and in the account of the
//! worker.
//!
//! | file | what |
//! |---|---|
//! | `parse.rs` | bytes become frames |
//! | `control.rs` | frames about the connection, windows and resets |
//! | `message.rs` | HEADERS, CONTINUATION, DATA |
//! | `receiving.rs` | what the user of a stream receives |
//! | `sending.rs` | what the user of a stream sends |
//! | `schedule.rs` | which stream sends next |
//! | `lingering.rs` | streams whose responses were complete before their requests |
//! | `ending.rs` | resets, GOAWAY, the end, and the errors that streams are told |

use std::collections::VecDeque;
use std::task::Waker;

use sluice_core::Moment;
use sluice_io::buffers::Charge;

use crate::field_section::Bounds;
use crate::h1::Role;
use crate::h2::H2Options;
use crate::h2::budget::{FrameBudget, cost};
use crate::h2::code::{H2Code, H2Violation};
use crate::h2::entry::StreamTable;
use crate::h2::frame::{self, PREFACE};
use crate::h2::pieces::PieceTable;
use crate::h2::settings::{self, PeerSettings};
use crate::h2::supply::H2Supply;
use crate::h2::window::{RecvWindow, SendWindow};
use crate::hpack::{HpackDecoder, HpackEncoder, TABLE_BYTES};

mod control;
mod ending;
mod lingering;
mod message;
mod parse;
mod receiving;
mod schedule;
mod sending;
#[cfg(test)]
mod tests;

pub use crate::h2::event::MachineEvent;
pub use ending::ConnectionEnd;
pub use schedule::DirectPieces;

use lingering::LingeringStreams;
use message::PartialBlock;
use parse::Reading;

/// The state of a connection.
#[derive(Debug)]
pub struct H2Machine {
    role: Role,
    options: H2Options,
    supply: H2Supply,
    now: Moment,
    budget: FrameBudget,
    // --- receiving ---
    reading: Reading,
    /// Boxed, as all that few connections have.
    block: Option<Box<PartialBlock>>,
    /// Since when a frame other than DATA, or a header block, has arrived in part.
    partial_since: Option<Moment>,
    decoder: HpackDecoder,
    pieces: PieceTable,
    recv: RecvWindow,
    /// Bytes of the connection's window that are granted again once streams have taken theirs.
    withheld: u32,
    events: VecDeque<MachineEvent>,
    // --- sending ---
    encoder: HpackEncoder,
    send: SendWindow,
    /// Bytes to be sent before anything else: whole frames.
    out: Vec<u8>,
    out_charge: Charge,
    /// Bytes of `out` that reply to what was received.
    replied: usize,
    /// Streams that may have something to send, in order.
    ready: VecDeque<u32>,
    /// Whether a stream has another urgency than the default.
    prioritized: bool,
    /// Woken when `out` is empty.
    out_waiters: Vec<Waker>,
    // --- the connection ---
    streams: StreamTable,
    lingering: LingeringStreams,
    peer: PeerSettings,
    /// Whether the peer's SETTINGS have arrived.
    greeted: bool,
    /// Whether the peer has not acknowledged our SETTINGS.
    unacknowledged: bool,
    /// The largest stream that the peer has opened.
    last_peer: u32,
    /// The next stream that we open.
    next_id: u32,
    /// Woken when a stream can be opened, or never again.
    openers: Vec<Waker>,
    drain: DrainPhase,
    /// The last stream that the peer's GOAWAY names.
    peer_last: Option<u32>,
    peer_goaway: Option<Box<(H2Code, String)>>,
    ping: PingPhase,
    /// Whether no more streams will be opened.
    unwanted: bool,
    /// Requests that were refused for want of memory since that was last asked.
    starved: u32,
    end: Option<Box<ConnectionEnd>>,
}

/// How far our own GOAWAY has come, RFC 9113 §6.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainPhase {
    No,
    /// A GOAWAY without a last stream was sent, and a PING after it.
    Announced,
    /// The last stream that is served was named.
    Final(u32),
}

/// How far a PING that checks the peer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PingPhase {
    Idle,
    Sent,
    Acknowledged,
}

/// The payload of the PING after a GOAWAY.
const DRAIN_PING: [u8; 8] = *b"drained?";
/// The payload of a PING that checks the peer.
const CHECK_PING: [u8; 8] = *b"present?";

/// The window of a connection and of its streams before any SETTINGS, RFC 9113 §6.9.2.
const INITIAL_WINDOW: u32 = 65_535;

/// Bytes of replies to be sent beyond which nothing more is read, so that a peer that does not read cannot make us
/// respond; and bytes of anything beyond which the users of streams wait.
const OUT_HIGH: usize = 64 << 10;

/// Bytes to be sent beyond which they are charged to the worker: every connection may have so many.
const OUT_FREE: usize = 4 << 10;

impl H2Machine {
    /// Creates a connection; its preface and SETTINGS are to be sent.
    pub fn new(role: Role, options: &H2Options, supply: H2Supply, now: Moment) -> Self {
        let mut out = Vec::new();
        if role == Role::Client {
            out.extend_from_slice(PREFACE);
        }
        settings::write_ours(&mut out, role, options);
        let mut recv = RecvWindow::new(options.connection_window, INITIAL_WINDOW);
        if let Some(more) = recv.take_grant() {
            frame::write_update(&mut out, 0, more);
        }
        Self {
            role,
            options: *options,
            now,
            budget: FrameBudget::new(now),
            reading: Reading::start(role),
            block: None,
            partial_since: None,
            decoder: HpackDecoder::new(TABLE_BYTES),
            pieces: PieceTable::new(supply.buffers.clone()),
            recv,
            withheld: 0,
            events: VecDeque::new(),
            encoder: HpackEncoder::new(),
            send: SendWindow::new(INITIAL_WINDOW),
            out,
            out_charge: supply.buffers.charge(),
            replied: 0,
            supply,
            ready: VecDeque::new(),
            prioritized: false,
            out_waiters: Vec::new(),
            streams: StreamTable::default(),
            lingering: LingeringStreams::default(),
            peer: PeerSettings::default(),
            greeted: false,
            unacknowledged: true,
            last_peer: 0,
            next_id: 1,
            openers: Vec::new(),
            drain: DrainPhase::No,
            peer_last: None,
            peer_goaway: None,
            ping: PingPhase::Idle,
            unwanted: false,
            starved: 0,
            end: None,
        }
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<MachineEvent> {
        let event = self.events.pop_front()?;
        if let MachineEvent::Request(key, _) = event {
            self.streams.get_mut(key).pending = false;
        }
        Some(event)
    }

    /// Takes the charge for the memory of a request; there is one for each request of a client.
    pub fn take_charge(&mut self, key: usize) -> Option<Charge> {
        self.streams.get_mut(key).charge.take()
    }

    /// How many requests were refused since the last call because the worker had no memory for them.
    pub const fn take_starved(&mut self) -> u32 {
        std::mem::replace(&mut self.starved, 0)
    }

    /// Whether the peer's preface has arrived: what a client sends before its first frame, or a server's SETTINGS.
    pub fn is_greeted(&self) -> bool {
        match self.role {
            Role::Server => !matches!(self.reading, Reading::Preface(_)),
            Role::Client => self.greeted,
        }
    }

    /// Since when the peer has been sending a frame other than DATA, or a header block, that has not arrived whole.
    pub const fn partial_since(&self) -> Option<Moment> {
        self.partial_since
    }

    /// Why the connection has ended, if it has.
    pub fn end(&self) -> Option<&ConnectionEnd> {
        self.end.as_deref()
    }

    /// Whether more may be read now: not while many replies to what was read wait to be sent. Heads do not count: two
    /// peers that wait for each other to read would wait forever.
    pub const fn may_read(&self) -> bool {
        self.replied < OUT_HIGH
    }

    /// Streams that are not closed.
    pub const fn open_streams(&self) -> usize {
        self.streams.active()
    }

    /// Bytes of bodies that wait for the users of streams.
    pub const fn bytes_waiting(&self) -> usize {
        self.pieces.held()
    }

    const fn bounds(&self) -> Bounds {
        Bounds { bytes: self.options.head_bytes as usize, fields: self.options.head_fields }
    }

    /// Draws on the budget of frames without progress.
    fn spend(&mut self, cost: u32) -> Result<(), H2Violation> {
        if self.budget.spend(cost, self.now) {
            return Ok(());
        }
        let detail = "http2.frames_without_progress";
        Err(H2Violation::Connection(H2Code::ENHANCE_YOUR_CALM, detail))
    }

    /// Handles what a frame violated.
    fn violated(&mut self, violation: H2Violation) {
        match violation {
            H2Violation::Connection(code, detail) => self.fail(ConnectionEnd::ByUs(code, detail)),
            H2Violation::Buffers => self.fail(ConnectionEnd::Buffers),
            H2Violation::Stream(id, code, detail) => {
                self.reset_for(id, code, detail);
                // A peer that makes us reset streams is as costly as one that resets them.
                if let Err(flood) = self.spend(cost::RESET) {
                    self.violated(flood);
                }
            }
        }
    }
}
