//! Filters of the datagrams of a flow.
//!
//! Owns: the trait and its decisions. Refuses to know: the implementations, and how datagrams are moved. Keeps: a filter has the
//! datagrams of a direction one by one, in order, and decides on each at once: what waited would be overtaken.

use std::fmt::Debug;

use sluice_core::Reason;

/// The most bytes of a datagram: what UDP has room for over IPv4.
pub const DATAGRAM_MAX: usize = 65_507;

/// Changes or drops the datagrams of one flow as they pass. A datagram that it makes larger than [`DATAGRAM_MAX`] is dropped.
pub trait DatagramFilter: Debug {
    /// Receives a datagram from the client, before it is sent to the endpoint.
    fn received(&mut self, _datagram: &mut Vec<u8>) -> DatagramStep {
        DatagramStep::Forward
    }

    /// Receives a datagram to the client, before it is sent.
    fn sent(&mut self, _datagram: &mut Vec<u8>) -> DatagramStep {
        DatagramStep::Forward
    }
}

/// The decision on a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramStep {
    /// It is forwarded.
    Forward,
    /// It is not.
    Drop,
    /// Nor is it, and the flow ends.
    End(Reason),
}
