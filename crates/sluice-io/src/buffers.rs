//! Buffers that a connection holds only while a peer is slow.
//!
//! Owns: free buffers by class, the bytes that are out, the two scratch areas of a worker.
//! Refuses to know: what is in them. Keeps: a buffer returns on drop; the bytes that are out never
//! exceed the limit by more than one buffer; scratch is borrowed only within one poll.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};

/// Sizes of buffers, smallest first.
const CLASSES: [usize; 4] = [4 << 10, 16 << 10, 80 << 10, 160 << 10];

/// Free buffers kept per class.
const KEEP: usize = 64;

/// Bytes of the area that data is read into.
pub const SCRATCH: usize = 64 << 10;

/// Bytes of the area for ciphertext: what [`SCRATCH`] bytes of clear text encrypt to, with room to
/// spare (22 bytes a record of 16 KiB).
pub const CIPHER_SCRATCH: usize = SCRATCH + (2 << 10);

/// Where reads begin in a buffer of [`BufPool::take_for_read`]: away from the beginning of a page, for
/// the reason given at the worker's scratch.
const READ_OFFSET: usize = 2048;

/// Room behind a read for a few bytes that are sent along: the end of a chunk, say.
pub const TAIL: usize = 64;

/// The buffers of a worker.
#[derive(Clone, Debug)]
pub struct BufPool(Rc<BufPoolState>);

#[derive(Debug)]
struct BufPoolState {
    free: [RefCell<Vec<Rc<HeldBytes>>>; CLASSES.len()],
    out: Cell<usize>,
    limit: usize,
}

/// The pool is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl BufPool {
    /// An empty pool that hands out at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let free = std::array::from_fn(|_| RefCell::default());
        Self(Rc::new(BufPoolState { free, out: Cell::new(0), limit }))
    }

    /// A buffer that holds `bytes`, copied; none larger than the largest class.
    ///
    /// # Errors
    /// The pool is at its limit, or `bytes` is larger than the largest class.
    pub fn copy(&self, bytes: &[u8]) -> Result<Buf, Exhausted> {
        let mut buf = self.take(bytes.len())?;
        buf.append(bytes);
        Ok(buf)
    }

    /// A buffer that holds `first` and, behind it, what is left of `then`; none when both are empty.
    ///
    /// # Errors
    /// As for [`BufPool::copy`]; both together.
    pub(crate) fn before(&self, first: &[u8], then: Option<Buf>) -> Result<Option<Buf>, Exhausted> {
        if first.is_empty() {
            return Ok(then);
        }
        let rest = then.as_deref().unwrap_or_default();
        let mut buf = self.take(first.len() + rest.len())?;
        buf.append(first);
        buf.append(rest);
        Ok(Some(buf))
    }

    /// An empty buffer with room for at least `room` bytes.
    ///
    /// # Errors
    /// The pool is at its limit, or `room` is larger than the largest class.
    pub fn take(&self, room: usize) -> Result<Buf, Exhausted> {
        let class = CLASSES.iter().position(|size| room <= *size).ok_or(Exhausted)?;
        let size = CLASSES[class];
        if self.0.out.get() + size > self.0.limit {
            return Err(Exhausted);
        }
        self.0.out.set(self.0.out.get() + size);
        let free = self.0.free[class].borrow_mut().pop();
        let held = free.unwrap_or_else(|| {
            let data = vec![0; size].into_boxed_slice();
            Rc::new(HeldBytes { data, class, start: 0, end: 0, pool: Rc::downgrade(&self.0) })
        });
        let mut buf = Buf(held);
        let held = buf.held();
        (held.start, held.end) = (0, 0);
        Ok(buf)
    }

    /// An empty buffer to read a [`SCRATCH`] full into, with room for [`TAIL`] bytes more.
    ///
    /// # Errors
    /// The pool is at its limit.
    pub fn take_for_read(&self) -> Result<Buf, Exhausted> {
        self.take_to_read(SCRATCH)
    }

    /// An empty buffer to read up to `max` bytes into, at most a [`SCRATCH`] full, with room for [`TAIL`] bytes more.
    fn take_to_read(&self, max: usize) -> Result<Buf, Exhausted> {
        if max < SCRATCH {
            return self.take(max);
        }
        let mut buf = self.take(SCRATCH + READ_OFFSET + TAIL)?;
        let held = buf.held();
        (held.start, held.end) = (READ_OFFSET, READ_OFFSET);
        Ok(buf)
    }

    /// What was read and not used yet, in a buffer with room to read behind it; none where it fills the class
    /// of reads. Where nothing is held, there is room for `max` bytes.
    ///
    /// # Errors
    /// The pool is at its limit.
    pub fn room_for_read(&self, held: Option<Buf>, max: usize) -> Result<Buf, Exhausted> {
        let Some(mut held) = held else { return self.take_to_read(max) };
        if held.room() > 0 {
            return Ok(held);
        }
        if held.capacity() < SCRATCH {
            // A rest lies in a buffer of its own size, and may fill it.
            let mut larger = self.take_for_read()?;
            larger.append(&held);
            return Ok(larger);
        }
        held.compact();
        Ok(held)
    }

    /// What is kept of a buffer after a read: nothing where it is empty; a small one for whoever `waits`,
    /// where it fits.
    pub fn settle(&self, buf: Buf, waits: bool) -> Option<Buf> {
        if buf.is_empty() {
            return None;
        }
        let small = waits && !buf.is_small() && buf.len() <= CLASSES[0];
        Some(if small { self.copy(&buf).unwrap_or(buf) } else { buf })
    }

    /// A charge of nothing yet: bytes that lie elsewhere, in a library, and count as if they lay in a buffer.
    pub fn charge(&self) -> Charge {
        Charge { pool: Rc::clone(&self.0), bytes: 0 }
    }

    /// Bytes that are out, and that are charged.
    pub fn bytes_out(&self) -> usize {
        self.0.out.get()
    }
}

/// Bytes that are held outside of the pool and count towards its limit; they are given back on drop.
#[derive(Debug)]
pub struct Charge {
    pool: Rc<BufPoolState>,
    bytes: usize,
}

impl Charge {
    /// Makes it so many bytes. Less is always possible.
    ///
    /// # Errors
    /// The pool is at its limit; the charge stays as it was.
    pub fn set(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let others = self.pool.out.get() - self.bytes;
        if bytes > self.bytes && others.saturating_add(bytes) > self.pool.limit {
            return Err(Exhausted);
        }
        self.pool.out.set(others + bytes);
        self.bytes = bytes;
        Ok(())
    }

    /// The same, where half of the limit stays for others.
    ///
    /// # Errors
    /// More than half of the limit would be out; the charge stays as it was.
    pub fn set_leaving_half(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let others = self.pool.out.get() - self.bytes;
        if others.saturating_add(bytes) > self.pool.limit / 2 {
            Err(Exhausted)
        } else {
            self.set(bytes)
        }
    }

    /// How many bytes it is.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.out.set(self.pool.out.get() - self.bytes);
    }
}

/// A buffer with bytes in it; consumed from the front. One word, for connections have room for many.
#[derive(Debug)]
pub struct Buf(Rc<HeldBytes>);

#[derive(Debug)]
struct HeldBytes {
    data: Box<[u8]>,
    class: usize,
    start: usize,
    end: usize,
    pool: Weak<BufPoolState>,
}

impl Buf {
    fn held(&mut self) -> &mut HeldBytes {
        Rc::get_mut(&mut self.0).expect("a buffer has one owner")
    }

    /// Takes bytes off the front.
    pub fn consume(&mut self, count: usize) {
        let held = self.held();
        held.start = (held.start + count).min(held.end);
    }

    /// Keeps the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let held = self.held();
        held.end = held.end.min(held.start + count);
    }

    /// Room at the end.
    pub fn spare(&mut self) -> &mut [u8] {
        let held = self.held();
        &mut held.data[held.end..]
    }

    /// Bytes of room at the end.
    pub fn room(&self) -> usize {
        self.0.data.len() - self.0.end
    }

    /// Takes `count` bytes that were written into [`Buf::spare`] in.
    pub fn fill(&mut self, count: usize) {
        let held = self.held();
        held.end = (held.end + count).min(held.data.len());
    }

    /// Moves everything to the front, so that all room is at the end.
    pub fn compact(&mut self) {
        let held = self.held();
        held.data.copy_within(held.start..held.end, 0);
        (held.start, held.end) = (0, held.end - held.start);
    }

    fn capacity(&self) -> usize {
        self.0.data.len()
    }

    /// Whether it is of the smallest class.
    fn is_small(&self) -> bool {
        self.0.class == 0
    }

    /// Adds bytes at the end, as many as there is room for; returns how many.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        if self.0.start > 0 && bytes.len() > self.room() {
            self.compact();
        }
        let held = self.held();
        let count = bytes.len().min(held.data.len() - held.end);
        held.data[held.end..held.end + count].copy_from_slice(&bytes[..count]);
        held.end += count;
        count
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.data[self.0.start..self.0.end]
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let held = self.held();
        &mut held.data[held.start..held.end]
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let Some(pool) = self.0.pool.upgrade() else { return };
        pool.out.set(pool.out.get() - self.0.data.len());
        let mut free = pool.free[self.0.class].borrow_mut();
        if free.len() < KEEP {
            free.push(Rc::clone(&self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_to_read_behind_a_rest_of_any_size() {
        let pool = BufPool::new(1 << 20);
        for size in [1, 4 << 10, 16 << 10, SCRATCH] {
            let rest = pool.copy(&vec![7; size]).unwrap();
            let mut more = pool.room_for_read(Some(rest), SCRATCH).unwrap();
            assert!(more.len() == size && more.room() > 0, "{size}: {}", more.room());
            more.spare()[0] = 8;
            more.fill(1);
            assert_eq!((more.len(), more.last()), (size + 1, Some(&8)));
            // Who waits holds little, if it is little.
            let kept = pool.settle(more, true).unwrap();
            assert_eq!((kept.len(), kept.is_small()), (size + 1, size == 1));
        }
        assert!(pool.settle(pool.take_for_read().unwrap(), true).is_none());
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn a_charge_counts_as_a_buffer_does() {
        let pool = BufPool::new(24 << 10);
        let mut charge = pool.charge();
        charge.set(20 << 10).unwrap();
        assert_eq!((charge.set(30 << 10), charge.bytes()), (Err(Exhausted), 20 << 10));
        let buf = pool.take(1).unwrap();
        assert_eq!((pool.bytes_out(), pool.take(1).err()), (24 << 10, Some(Exhausted)));
        charge.set(1).unwrap();
        drop((charge, buf));
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn buffers_come_back_and_the_limit_holds() {
        let pool = BufPool::new(24 << 10);
        let mut small = pool.copy(b"hello").unwrap();
        small.consume(2);
        assert_eq!(&*small, b"llo");
        assert_eq!(small.append(b" you"), 4);
        assert_eq!(&*small, b"llo you");
        let large = pool.copy(&[1; 5000]).unwrap();
        assert_eq!((pool.bytes_out(), pool.copy(&[1; 5000]).is_err()), (20 << 10, true));
        drop((small, large));
        assert_eq!(pool.bytes_out(), 0);
        assert_eq!(pool.copy(&[1; 5000]).unwrap().len(), 5000);
        assert!(pool.copy(&[0; 100_000]).is_err());
    }
}
