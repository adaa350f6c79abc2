//! Waits that end, told by any thread to the worker that has them.
//!
//! Owns: a bounded queue for each worker. Refuses to know: what waits. Keeps: telling never blocks; a ticket that names no
//! worker is an error.

use std::sync::{PoisonError, RwLock};

use sluice_abi::{AbiTicket, result};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The most ended waits that a worker has not looked at.
pub const RESUMES_QUEUED: usize = 16 * 1024;

/// The bits of the id of a ticket that say where in its worker it is.
const PLACE_BITS: u32 = 32;

/// The queues of the process, by number. Workers live as long as the process, but for tests.
static QUEUES: RwLock<Vec<Sender<AbiTicket>>> = RwLock::new(Vec::new());

/// The queue of a worker.
#[derive(Debug)]
pub struct Mailbox(Receiver<AbiTicket>);

impl Mailbox {
    /// Opens a queue; returns it with its number, which begins the ids of its tickets and the numbers of requests.
    pub fn open() -> (Self, u32) {
        let (sender, receiver) = channel(RESUMES_QUEUED);
        let mut queues = QUEUES.write().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(queues.len()).unwrap_or(u32::MAX);
        queues.push(sender);
        (Self(receiver), number)
    }

    /// The next wait that has ended.
    pub async fn next(&mut self) -> Option<AbiTicket> {
        self.0.recv().await
    }
}

/// A ticket for a place in the worker with that queue.
pub const fn ticket(queue: u32, place: u32, generation: u64) -> AbiTicket {
    AbiTicket { id: ((queue as u64) << PLACE_BITS) | place as u64, generation }
}

/// The place that a ticket names.
#[allow(clippy::cast_possible_truncation, reason = "the upper bits are the queue")]
pub const fn place_of(ticket: AbiTicket) -> u32 {
    ticket.id as u32
}

/// Tells the worker of a ticket that its wait has ended.
pub(super) fn post(ticket: AbiTicket) -> i32 {
    let number = usize::try_from(ticket.id >> PLACE_BITS).unwrap_or(usize::MAX);
    let queues = QUEUES.read().unwrap_or_else(PoisonError::into_inner);
    match queues.get(number).map(|queue| queue.try_send(ticket)) {
        None => result::INVALID,
        Some(Ok(())) => result::OK,
        Some(Err(TrySendError::Full(_))) => result::BUSY,
        Some(Err(TrySendError::Closed(_))) => result::STALE,
    }
}
