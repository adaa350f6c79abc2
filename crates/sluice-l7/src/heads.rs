//! Heads that wait for their next use, so that requests allocate none.

use std::cell::RefCell;

use sluice_codec::Head;

/// Heads kept per worker.
const KEEP: usize = 256;

/// Free heads of a worker.
#[derive(Debug, Default)]
pub struct Heads {
    #[allow(clippy::vec_box, reason = "heads move by their boxes, and are large")]
    free: RefCell<Vec<Box<Head>>>,
}

impl Heads {
    /// An empty head.
    pub fn take(&self) -> Box<Head> {
        self.free.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a head back.
    pub fn give(&self, mut head: Box<Head>) {
        let mut free = self.free.borrow_mut();
        if free.len() < KEEP {
            head.clear();
            free.push(head);
        }
    }
}
