//! A connection that a request has taken.
//!
//! Owns: what a request needs of its connection, and what must go back with it. Refuses to know: where connections come
//! from. Keeps: an HTTP/1 connection leaves its pool whole, with the claim on its endpoint.

use std::rc::Rc;

use sluice_codec::h1::H1Stream;
use sluice_codec::h1::stream::H1Options;
use sluice_codec::{Multiplexed, Version};
use sluice_core::Moment;
use sluice_upstream::cluster::{Claim, TrafficClass};

use super::preconnect::DemandGuard;

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionNeeds<'a> {
    /// The limits that apply.
    pub class: TrafficClass,
    /// Whether HTTP/3 will do where the cluster may use TCP as well.
    pub http3: bool,
    /// The version of the request, where that decides.
    pub version: Version,
    /// The options of HTTP/1.
    pub options: &'a Rc<H1Options>,
    /// Whether the request may be sent before a handshake is complete (0-RTT), as the cluster allows.
    pub early: bool,
}

/// A connection taken for a request.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "the larger is by far the more frequent, and is not kept"
)]
pub enum PooledConn {
    /// A whole HTTP/1 connection.
    H1(TakenH1),
    /// A shared connection with room for another request.
    Shared(Multiplexed),
    /// A stream without a connection; `true` if the connection carried requests before.
    #[cfg(test)]
    Scripted(sluice_codec::scripted::ScriptedStream, bool),
}

/// An HTTP/1 connection, with what must go back with it.
#[derive(Debug)]
pub struct TakenH1 {
    /// The connection.
    pub stream: Box<H1Stream>,
    pub(super) ticket: PoolTicket,
}

/// What belongs to an HTTP/1 connection while it is in use.
#[derive(Debug)]
pub struct PoolTicket {
    pub(super) claim: Claim,
    pub(super) made: Moment,
    pub(super) requests: u64,
    pub(super) generation: u64,
    /// Counts it where connections are made ahead.
    pub(super) _demand: Option<DemandGuard>,
}

impl TakenH1 {
    /// Splits into the connection and what must go back with it.
    pub fn into_parts(self) -> (Box<H1Stream>, PoolTicket) {
        (self.stream, self.ticket)
    }

    /// Whether the connection carried requests before.
    pub const fn is_reused(&self) -> bool {
        self.ticket.requests > 0
    }
}
