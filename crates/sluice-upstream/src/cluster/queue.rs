//! The queue of a cluster: connections and requests that wait until an endpoint has room for them.
//!
//! Owns: who comes first, over all workers, and handing over what becomes free. Refuses to know: who waits, and how an
//! endpoint is picked while there is room. Keeps: first come, first served among those that may use the same endpoint;
//! nothing waits for an endpoint that has room; one that waits is woken for each room that becomes free, and it is counted
//! already; no thread waits for another.
//!
//! The lines are plain data behind a lock that is only ever tried. A thread that finds it taken leaves a message, and
//! who has it looks for messages again after giving it up. So the lines are changed by one thread at a time, and a worker
//! never waits.
//!
//! Two threads could miss each other: one that finds no room and begins to wait, and one that makes room and finds nobody
//! waiting. Therefore each first does its own part, then looks at that of the other, with a fence in between: one of them
//! sees the other ([`Cluster::note_room`] and `QueuePlace::join`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError, TryLockError};

use super::Cluster;
use crate::endpoint::{EndpointState, LoadKind};
use crate::plan::BreakerClass;

mod lines;
mod place;

pub use lines::QueuedRoom;
use lines::{QueueMessage, WaitLines};

/// Messages that are kept for the thread that has the lines. If there are more, it looks at all endpoints.
const MESSAGES_MAX: usize = 1024;

/// The queue of a cluster.
#[derive(Debug)]
pub(super) struct WaitQueue {
    /// All that wait.
    waiting: AtomicU64,
    /// Those that wait for any endpoint, of a subset or of all, by kind of load.
    anywhere: [AtomicU64; 2],
    next_ticket: AtomicU64,
    /// The reserve for side calls, of which the queue gets nothing.
    reserve_percent: AtomicU64,
    messages: SyncSender<QueueMessage>,
    /// Whether there is something to do for the thread that has the lines.
    unseen: AtomicBool,
    /// Whether all endpoints have to be looked at.
    unsure: AtomicBool,
    lines: Mutex<WaitLines>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        let (messages, inbox) = sync_channel(MESSAGES_MAX);
        Self {
            waiting: AtomicU64::new(0),
            anywhere: Default::default(),
            next_ticket: AtomicU64::new(0),
            reserve_percent: AtomicU64::new(0),
            messages,
            unseen: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            lines: Mutex::new(WaitLines::new(inbox)),
        }
    }
}

impl WaitQueue {
    fn anywhere(&self, load: LoadKind) -> &AtomicU64 {
        &self.anywhere[usize::from(load == LoadKind::Request)]
    }

    /// Leaves a message for the thread that has the lines; returns whether there was room for it.
    fn tell(&self, message: QueueMessage) -> bool {
        self.messages.try_send(message).is_ok()
    }

    /// Does what there is to do, unless another thread is at it: then that one does.
    fn serve(&self, cluster: &Cluster) {
        self.unseen.store(true, Relaxed);
        loop {
            fence(SeqCst);
            let mut lines = match self.lines.try_lock() {
                Ok(lines) => lines,
                Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
                Err(TryLockError::WouldBlock) => return,
            };
            while self.unseen.swap(false, SeqCst) {
                lines.update(self, cluster);
            }
            drop(lines);
            fence(SeqCst);
            if !self.unseen.load(Relaxed) {
                return;
            }
        }
    }
}

impl Cluster {
    /// Connections and requests that wait for room.
    pub fn waiting(&self) -> u64 {
        self.queue.get().map_or(0, |queue| queue.waiting.load(Relaxed))
    }

    /// Hands `load` that became free at `endpoint`, and for `class` in the cluster, to what waits for it.
    pub(super) fn note_room(
        &self,
        load: LoadKind,
        class: Option<BreakerClass>,
        endpoint: &Arc<EndpointState>,
    ) {
        let Some(queue) = self.queue.get() else { return };
        fence(SeqCst);
        if queue.waiting.load(Relaxed) > 0 {
            if !queue.tell(QueueMessage::Room(load, class, Arc::clone(endpoint))) {
                queue.unsure.store(true, Relaxed);
            }
            queue.serve(self);
        }
    }

    /// Hands over whatever has room after the plan, the membership or the state of an endpoint has changed; those that no
    /// endpoint is left for look elsewhere.
    pub(super) fn review_queue(&self) {
        let Some(queue) = self.queue.get() else { return };
        fence(SeqCst);
        if queue.waiting.load(Relaxed) > 0 {
            queue.unsure.store(true, Relaxed);
            queue.serve(self);
        }
    }
}

#[cfg(test)]
mod tests;
