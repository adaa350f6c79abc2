//! What connections take from their worker.
//!
//! Owns: unused memory for what is to be sent, and for streams. Refuses to know: frames. Keeps: an idle connection has
//! given everything back; no more than `KEEP` pieces of memory of each kind are kept, and of those that are as large as a
//! write no more than `KEEP_LARGE`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use sluice_io::WorkerCx;
use sluice_io::buffers::{BufPool, SCRATCH};

use crate::h2::entry::StreamSlots;
use crate::h2::event::MachineEvent;
use crate::head_pool::HeadPool;

/// Pieces of memory of a kind kept per worker.
const KEEP: usize = 128;

/// Pieces kept if this one is larger than [`SMALL`].
const KEEP_LARGE: usize = 16;

/// Bytes of a small piece.
const SMALL: usize = 4 << 10;

/// Streams for which memory is kept.
const KEEP_STREAMS: usize = 64;

/// What a connection takes from its worker.
#[derive(Clone, Debug)]
pub struct H2Supply {
    /// The account of memory.
    pub buffers: BufPool,
    /// Unused heads.
    pub heads: Rc<HeadPool>,
    unused: Rc<UnusedMemory>,
}

/// Unused memory: for what is to be sent, and for streams.
#[derive(Debug, Default)]
struct UnusedMemory {
    bytes: RefCell<Vec<Vec<u8>>>,
    streams: RefCell<Vec<StreamMemory>>,
}

/// Memory for the streams of a connection and for its events; it holds neither.
#[derive(Debug, Default)]
pub(crate) struct StreamMemory {
    pub(crate) slots: StreamSlots,
    pub(crate) events: VecDeque<MachineEvent>,
}

impl H2Supply {
    /// Creates a supply that belongs to no worker.
    pub fn new(buffers: BufPool) -> Self {
        Self { buffers, heads: Rc::default(), unused: Rc::default() }
    }

    /// Returns the supply of a worker.
    pub(crate) fn of(worker: &WorkerCx) -> Self {
        Self {
            buffers: worker.buffers.clone(),
            heads: worker.local(HeadPool::default),
            unused: worker.local(UnusedMemory::default),
        }
    }

    /// Returns empty memory.
    pub(crate) fn take_bytes(&self) -> Vec<u8> {
        self.unused.bytes.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes memory back.
    pub(crate) fn give_bytes(&self, mut bytes: Vec<u8>) {
        let mut unused = self.unused.bytes.borrow_mut();
        let keep = if bytes.capacity() <= SMALL { KEEP } else { KEEP_LARGE };
        if unused.len() < keep && (1..=2 * SCRATCH).contains(&bytes.capacity()) {
            bytes.clear();
            unused.push(bytes);
        }
    }

    /// Returns memory for streams.
    pub(crate) fn take_streams(&self) -> StreamMemory {
        self.unused.streams.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes memory for streams back.
    pub(crate) fn give_streams(&self, memory: StreamMemory) {
        debug_assert!(memory.slots.is_empty() && memory.events.is_empty(), "it is not in use");
        let mut unused = self.unused.streams.borrow_mut();
        let capacity = memory.slots.capacity().max(memory.events.capacity());
        if unused.len() < KEEP && capacity <= KEEP_STREAMS {
            unused.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_within_bounds() {
        let supply = H2Supply::new(BufPool::new(1));
        (0..2 * KEEP_LARGE).for_each(|_| supply.give_bytes(Vec::with_capacity(2 * SMALL)));
        let taken = (0..2 * KEEP_LARGE).filter(|_| supply.take_bytes().capacity() > 0);
        assert_eq!(taken.count(), KEEP_LARGE);
        for _ in 0..2 * KEEP {
            supply.give_bytes(b"abc".to_vec());
        }
        supply.give_bytes(Vec::with_capacity(4 * SCRATCH));
        supply.give_bytes(Vec::new());
        let taken: Vec<Vec<u8>> = (0..=KEEP).map(|_| supply.take_bytes()).collect();
        assert!(taken.iter().all(Vec::is_empty));
        assert_eq!(taken.iter().filter(|bytes| bytes.capacity() > 0).count(), KEEP);
        let memory = |capacity| StreamMemory {
            events: VecDeque::with_capacity(capacity),
            ..StreamMemory::default()
        };
        supply.give_streams(memory(2 * KEEP_STREAMS));
        (0..2 * KEEP).for_each(|_| supply.give_streams(memory(2)));
        let taken = (0..2 * KEEP).map(|_| supply.take_streams().events.capacity());
        assert_eq!(taken.filter(|capacity| *capacity > 0).count(), KEEP);
    }
}
