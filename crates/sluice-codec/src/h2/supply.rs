//! What connections take from their worker.
//!
//! Owns: unused memory for what is to be sent. Refuses to know: frames. Keeps: an idle connection has given everything
//! back; no more than `KEEP` pieces of memory are kept, none much larger than a write.

use std::cell::RefCell;
use std::rc::Rc;

use sluice_io::WorkerCx;
use sluice_io::buffers::{BufPool, SCRATCH};

use crate::head_pool::HeadPool;

/// Pieces of memory kept per worker.
const KEEP: usize = 16;

/// What a connection takes from its worker.
#[derive(Clone, Debug)]
pub struct H2Supply {
    /// The account of memory.
    pub buffers: BufPool,
    /// Unused heads.
    pub heads: Rc<HeadPool>,
    /// Unused memory for what is to be sent.
    unused: Rc<UnusedBytes>,
}

#[derive(Debug, Default)]
struct UnusedBytes(RefCell<Vec<Vec<u8>>>);

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
            unused: worker.local(UnusedBytes::default),
        }
    }

    /// Returns empty memory.
    pub(crate) fn take_bytes(&self) -> Vec<u8> {
        self.unused.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes memory back.
    pub(crate) fn give_bytes(&self, mut bytes: Vec<u8>) {
        let mut unused = self.unused.0.borrow_mut();
        if unused.len() < KEEP && (1..=2 * SCRATCH).contains(&bytes.capacity()) {
            bytes.clear();
            unused.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_within_bounds() {
        let supply = H2Supply::new(BufPool::new(1));
        for _ in 0..2 * KEEP {
            supply.give_bytes(b"abc".to_vec());
        }
        supply.give_bytes(Vec::with_capacity(4 * SCRATCH));
        supply.give_bytes(Vec::new());
        let taken: Vec<Vec<u8>> = (0..=KEEP).map(|_| supply.take_bytes()).collect();
        assert!(taken.iter().all(Vec::is_empty));
        assert_eq!(taken.iter().filter(|bytes| bytes.capacity() > 0).count(), KEEP);
    }
}
