//! A pool of unused heads, so that requests allocate none.
//!
//! Owns: unused heads. Refuses to know: messages. Keeps: a head in the pool is empty, there are at most `KEEP`, and none
//! holds more memory than ordinary messages need, however large those were that passed.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::head::Head;

/// Unused heads kept per worker.
const KEEP: usize = 256;

/// Bytes of memory of a head that is kept.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The unused heads of a worker.
#[derive(Debug, Default)]
pub struct HeadPool {
    #[allow(clippy::vec_box, reason = "heads move by their boxes, and are large")]
    free: RefCell<Vec<Box<Head>>>,
}

impl HeadPool {
    /// Returns an empty head.
    pub fn take(&self) -> Box<Head> {
        self.free.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a head back into the pool.
    pub fn give(&self, mut head: Box<Head>) {
        let mut free = self.free.borrow_mut();
        if free.len() < KEEP && head.memory() <= HEAD_BYTES_MAX {
            head.clear();
            free.push(head);
        }
    }
}

/// A head in use. It can be moved out without allocating a replacement; after that there is none.
#[derive(Debug)]
pub struct PooledHead(Option<Box<Head>>);

impl PooledHead {
    /// Moves the head out, for good.
    pub fn take(&mut self) -> Box<Head> {
        self.0.take().unwrap_or_default()
    }
}

impl From<Box<Head>> for PooledHead {
    fn from(head: Box<Head>) -> Self {
        Self(Some(head))
    }
}

impl Deref for PooledHead {
    type Target = Head;

    fn deref(&self) -> &Head {
        self.0.as_deref().expect("it was not taken out")
    }
}

impl DerefMut for PooledHead {
    fn deref_mut(&mut self) -> &mut Head {
        self.0.as_deref_mut().expect("it was not taken out")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_used_again_unless_they_have_become_large() {
        let pool = HeadPool::default();
        let mut head = pool.take();
        head.append(b"x", &[b'v'; 1000]);
        pool.give(head);
        let mut head = pool.take();
        assert!(head.is_empty() && (1000..HEAD_BYTES_MAX).contains(&head.memory()));
        head.append(b"x", &[b'v'; HEAD_BYTES_MAX]);
        pool.give(head);
        let mut head = pool.take();
        assert_eq!(head.memory(), 0, "it is another");
        (0..1000).for_each(|_| head.append(b"x", b""));
        pool.give(head);
        assert_eq!(pool.take().memory(), 0);
        (0..2 * KEEP).for_each(|_| pool.give(Box::default()));
        assert_eq!(pool.free.borrow().len(), KEEP);
    }
}
