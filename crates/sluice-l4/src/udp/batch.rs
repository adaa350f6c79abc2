//! Batches of datagrams.
//!
//! Owns: receiving one, counting one, and what an error of a datagram socket means. Refuses to know: flows. Keeps: a
//! full batch does not keep other tasks from their turn.

use std::io;
use std::os::fd::AsFd as _;
use std::task::{Context, Poll};

use sluice_io::{Interest, Source};
use sluice_sys::datagram::{BATCH, Outgoing, Received};

/// The number of datagrams, counting each segment of those that are sent as one.
pub(super) fn count_of(datagrams: &[Outgoing<'_>]) -> u64 {
    datagrams.iter().map(|datagram| datagram.count() as u64).sum()
}

/// Whether the error is an ICMP error for an earlier datagram.
pub(super) fn is_of_icmp(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Whether a socket has more datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    No,
    Perhaps,
}

/// Receives a batch. If it is not full, no more datagrams are waiting, which saves the call that would find that out.
pub(super) fn receive(socket: &Source, batch: &mut Received) -> io::Result<More> {
    match batch.receive(socket.as_fd()) {
        Ok(BATCH) => Ok(More::Perhaps),
        Ok(_) => {
            socket.exhausted(Interest::Read);
            Ok(More::No)
        }
        Err(error) => {
            socket.would_block(Interest::Read);
            Err(error)
        }
    }
}

/// Continues after the other tasks.
pub(super) fn turn_over<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
