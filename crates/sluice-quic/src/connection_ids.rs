//! The connection IDs that we issue.
//!
//! Owns: creating IDs that steer packets to one socket of those that share a port. Refuses to know: connections, and
//! how the kernel steers. Keeps: an ID cannot be guessed, and leads to the socket that issued it.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use sluice_sys::steer;

pub(crate) mod retry;

/// The place of a socket among those that share its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReuseportMember {
    /// The index of the socket, in the order in which they were bound.
    pub number: u32,
    /// The number of sockets.
    pub count: u32,
}

impl ConnectionIdGenerator for ReuseportMember {
    /// Returns a random ID that steers packets to this socket; for a client that is sent a Retry, the ID made for it.
    fn generate_cid(&mut self) -> ConnectionId {
        if let Some(id) = retry::asked(*self) {
            return id;
        }
        loop {
            let id: [u8; steer::ID_LENGTH] = random();
            let [a, b, c, d, ..] = id;
            if steer::place([a, b, c, d], self.count) == self.number {
                return ConnectionId::new(&id);
            }
        }
    }

    fn cid_len(&self) -> usize {
        steer::ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Returns unpredictable random bytes.
pub(crate) fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}
