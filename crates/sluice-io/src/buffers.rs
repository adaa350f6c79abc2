//! Buffers that a connection holds only while a peer is slow.
//!
//! Owns: free buffers by size class, the number of bytes handed out, the two scratch areas of a worker.
//! Refuses to know: the contents. Keeps: a buffer is returned on drop; the bytes handed out never exceed the limit by
//! more than one buffer; scratch is borrowed only within one poll.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};

use crate::descriptors::{Allowance, Budget};
use crate::holding::HoldingClass;

/// Buffer size classes, smallest first.
const CLASSES: [usize; 4] = [4 << 10, 16 << 10, 80 << 10, 160 << 10];

/// Free buffers kept per class.
const KEEP: usize = 64;

/// The size of the scratch area for reads, in bytes.
pub const SCRATCH: usize = 64 << 10;

/// The size of the scratch area for ciphertext, in bytes: what [`SCRATCH`] bytes of plaintext encrypt to, with a margin
/// (22 bytes per 16 KiB record).
pub const CIPHER_SCRATCH: usize = SCRATCH + (2 << 10);

/// The offset at which reads start in a buffer of [`BufPool::take_for_read`]: away from the start of a page, for the
/// reason given at the worker's scratch.
const READ_OFFSET: usize = 2048;

/// Room after a read for a few bytes that are sent along, such as the end of a chunk.
pub const TAIL: usize = 64;

/// The buffer pool of a worker.
#[derive(Clone, Debug)]
pub struct BufPool(Rc<BufPoolState>);

#[derive(Debug)]
struct BufPoolState {
    free: [RefCell<Vec<Rc<HeldBytes>>>; CLASSES.len()],
    /// Bytes of free buffers.
    spare: Cell<usize>,
    out: Cell<usize>,
    limit: usize,
    /// The worker's part of what all workers may hold.
    allowance: Rc<Allowance>,
}

impl BufPoolState {
    /// Counts `bytes` more, for a holder of this class.
    fn hold(&self, bytes: usize, class: HoldingClass) -> Result<(), Exhausted> {
        let held = self.out.get().saturating_add(bytes);
        if held > self.limit - class.leaves(self.limit) || !self.allowance.hold_bytes(bytes, class)
        {
            return Err(Exhausted);
        }
        self.out.set(held);
        if held + self.spare.get() > self.limit {
            // Free buffers make way.
            self.free.iter().for_each(|class| class.borrow_mut().clear());
            self.spare.set(0);
        }
        Ok(())
    }

    /// Keeps a buffer that is not in use any more, if there is room for it.
    fn keep(&self, held: &Rc<HeldBytes>) {
        let mut free = self.free[held.class].borrow_mut();
        let spare = self.spare.get() + held.data.len();
        if free.len() < KEEP && self.out.get() + spare <= self.limit {
            free.push(Rc::clone(held));
            self.spare.set(spare);
        }
    }

    /// Counts `bytes` less.
    fn release(&self, bytes: usize) {
        self.out.set(self.out.get() - bytes);
        self.allowance.release_bytes(bytes);
    }
}

/// The pool is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl BufPool {
    /// Creates an empty pool that hands out at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self::within(limit, Budget::unlimited().allowance())
    }

    /// Creates an empty pool that hands out at most `limit` bytes, and no more than the budget of the process allows.
    pub(crate) fn within(limit: usize, allowance: Rc<Allowance>) -> Self {
        let free = std::array::from_fn(|_| RefCell::default());
        let (spare, out) = (Cell::new(0), Cell::new(0));
        Self(Rc::new(BufPoolState { free, spare, out, limit, allowance }))
    }

    /// Returns a buffer with a copy of `bytes`.
    ///
    /// # Errors
    /// The pool is at its limit, or `bytes` is larger than the largest class.
    pub fn copy(&self, bytes: &[u8]) -> Result<Buf, Exhausted> {
        let mut buf = self.take(bytes.len())?;
        buf.append(bytes);
        Ok(buf)
    }

    /// Returns a buffer with `first` followed by the remaining bytes of `then`; `None` if both are empty.
    ///
    /// # Errors
    /// As for [`BufPool::copy`], for both together.
    pub(crate) fn before(&self, first: &[u8], then: Option<Buf>) -> Result<Option<Buf>, Exhausted> {
        if first.is_empty() {
            return Ok(then);
        }
        let rest = then.as_deref().unwrap_or_default();
        let mut buf = self.take_for_head(first.len() + rest.len())?;
        buf.append(first);
        buf.append(rest);
        Ok(Some(buf))
    }

    /// Returns an empty buffer with room for at least `room` bytes.
    ///
    /// # Errors
    /// The pool is at its limit, or `room` is larger than the largest class.
    pub fn take(&self, room: usize) -> Result<Buf, Exhausted> {
        let small = room <= CLASSES[0];
        self.take_as(room, if small { HoldingClass::SmallData } else { HoldingClass::Data })
    }

    /// As [`BufPool::take`], for what a connection must read or write so that anything can be decided about it; small
    /// buffers may use all of the limit.
    ///
    /// # Errors
    /// As for [`BufPool::take`].
    pub fn take_for_head(&self, room: usize) -> Result<Buf, Exhausted> {
        let small = room <= CLASSES[0];
        self.take_as(room, if small { HoldingClass::Headers } else { HoldingClass::Data })
    }

    fn take_as(&self, room: usize, holding: HoldingClass) -> Result<Buf, Exhausted> {
        let class = CLASSES.iter().position(|size| room <= *size).ok_or(Exhausted)?;
        let size = CLASSES[class];
        self.0.hold(size, holding)?;
        let free = self.0.free[class].borrow_mut().pop();
        if free.is_some() {
            self.0.spare.set(self.0.spare.get() - size);
        }
        let held = free.unwrap_or_else(|| {
            let data = vec![0; size].into_boxed_slice();
            Rc::new(HeldBytes { data, class, start: 0, end: 0, pool: Rc::downgrade(&self.0) })
        });
        let mut buf = Buf(held);
        let held = buf.held();
        (held.start, held.end) = (0, 0);
        Ok(buf)
    }

    /// Returns an empty buffer with room for a read of [`SCRATCH`] bytes and [`TAIL`] more.
    ///
    /// # Errors
    /// The pool is at its limit.
    pub fn take_for_read(&self) -> Result<Buf, Exhausted> {
        self.take_to_read(SCRATCH)
    }

    /// Returns an empty buffer with room for a read of up to `max` bytes, at most [`SCRATCH`]; a full-size one also has
    /// room for [`TAIL`] more bytes.
    fn take_to_read(&self, max: usize) -> Result<Buf, Exhausted> {
        if max < SCRATCH {
            return self.take(max);
        }
        let mut buf = self.take(SCRATCH + READ_OFFSET + TAIL)?;
        let held = buf.held();
        (held.start, held.end) = (READ_OFFSET, READ_OFFSET);
        Ok(buf)
    }

    /// Returns the unread bytes in `held`, in a buffer with room for more after them; there is no room if they fill the
    /// class for reads. If `held` is `None`, the buffer has room for `max` bytes, or fewer if there is no memory for so
    /// many; see [`BufPool::take_for_head`] for those of a head.
    ///
    /// # Errors
    /// The pool is at its limit.
    pub fn room_for_read(
        &self,
        held: Option<Buf>,
        max: usize,
        is_head: bool,
    ) -> Result<Buf, Exhausted> {
        let Some(mut held) = held else {
            return self.take_to_read(max).or_else(|_| {
                if is_head { self.take_for_head(CLASSES[0]) } else { self.take(CLASSES[0]) }
            });
        };
        if held.room() > 0 {
            return Ok(held);
        }
        if held.capacity() < SCRATCH {
            // The remaining bytes are in a buffer of their own size, and may fill it.
            let mut larger = self.take_for_read()?;
            larger.append(&held);
            return Ok(larger);
        }
        held.compact();
        Ok(held)
    }

    /// Returns what to keep of a buffer after a read: nothing if it is empty; a small copy if the owner `waits` and the
    /// bytes fit.
    pub fn settle(&self, buf: Buf, waits: bool) -> Option<Buf> {
        if buf.is_empty() {
            return None;
        }
        let small = waits && !buf.is_small() && buf.len() <= CLASSES[0];
        Some(if small { self.copy(&buf).unwrap_or(buf) } else { buf })
    }

    /// Creates a charge of zero bytes: for bytes held elsewhere, in a library, that count as if they were in a buffer.
    pub fn charge(&self) -> Charge {
        Charge { pool: Rc::clone(&self.0), bytes: 0 }
    }

    /// Charges the `bytes` that a request in flight takes. The `only` request of a connection gets what no other request
    /// may use, so that clients with many cannot shut out those with few.
    ///
    /// # Errors
    /// The pool is at its limit.
    pub fn charge_request(&self, bytes: usize, only: bool) -> Result<Charge, Exhausted> {
        let class = if only { HoldingClass::OnlyRequest } else { HoldingClass::FurtherRequest };
        self.0.hold(bytes, class)?;
        Ok(Charge { pool: Rc::clone(&self.0), bytes })
    }

    /// The number of bytes handed out or charged.
    pub fn bytes_out(&self) -> usize {
        self.0.out.get()
    }
}

/// Bytes that are held outside the pool and count towards its limit; released on drop.
#[derive(Debug)]
pub struct Charge {
    pool: Rc<BufPoolState>,
    bytes: usize,
}

impl Charge {
    /// Sets the charge to `bytes`. Lowering it always succeeds.
    ///
    /// # Errors
    /// The pool is at its limit; the charge is unchanged.
    pub fn set(&mut self, bytes: usize) -> Result<(), Exhausted> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.pool.hold(more, HoldingClass::Data)?,
            None => self.pool.release(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// As [`Charge::set`], but leaves half of the limit to others.
    ///
    /// # Errors
    /// More than half of the limit would be in use; the charge is unchanged.
    pub fn set_leaving_half(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let others = self.pool.out.get() - self.bytes;
        if others.saturating_add(bytes) > self.pool.limit / 2 {
            Err(Exhausted)
        } else {
            self.set(bytes)
        }
    }

    /// The charged bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.release(self.bytes);
    }
}

/// A buffer that is consumed from the front. One word in size, since connections have room for many.
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

    /// Removes bytes from the front.
    pub fn consume(&mut self, count: usize) {
        let held = self.held();
        held.start = (held.start + count).min(held.end);
    }

    /// Keeps the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let held = self.held();
        held.end = held.end.min(held.start + count);
    }

    /// The free space at the end.
    pub fn spare(&mut self) -> &mut [u8] {
        let held = self.held();
        &mut held.data[held.end..]
    }

    /// The number of free bytes at the end.
    pub fn room(&self) -> usize {
        self.0.data.len() - self.0.end
    }

    /// Adds `count` bytes that were written into [`Buf::spare`].
    pub fn fill(&mut self, count: usize) {
        let held = self.held();
        held.end = (held.end + count).min(held.data.len());
    }

    /// Moves the contents to the front, so that all free space is at the end.
    pub fn compact(&mut self) {
        let held = self.held();
        held.data.copy_within(held.start..held.end, 0);
        (held.start, held.end) = (0, held.end - held.start);
    }

    fn capacity(&self) -> usize {
        self.0.data.len()
    }

    /// Whether it belongs to the smallest class.
    fn is_small(&self) -> bool {
        self.0.class == 0
    }

    /// Appends as many bytes as there is room for; returns how many.
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
        pool.release(self.0.data.len());
        pool.keep(&self.0);
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
            let mut more = pool.room_for_read(Some(rest), SCRATCH, false).unwrap();
            assert!(more.len() == size && more.room() > 0, "{size}: {}", more.room());
            more.spare()[0] = 8;
            more.fill(1);
            assert_eq!((more.len(), more.last()), (size + 1, Some(&8)));
            // A waiting owner keeps a small buffer if the bytes are few.
            let kept = pool.settle(more, true).unwrap();
            assert_eq!((kept.len(), kept.is_small()), (size + 1, size == 1));
        }
        assert!(pool.settle(pool.take_for_read().unwrap(), true).is_none());
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn a_charge_counts_as_a_buffer_does() {
        let pool = BufPool::new(28 << 10);
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
        let pool = BufPool::new(28 << 10);
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

    #[test]
    fn free_buffers_make_way_for_what_is_in_use() {
        let pool = BufPool::new(1 << 20);
        let take = |size: usize, count: usize| -> Vec<Buf> {
            (0..count).map(|_| pool.take(size).unwrap()).collect()
        };
        drop((take(160 << 10, 2), take(16 << 10, 8)));
        assert_eq!(pool.0.spare.get(), 448 << 10);
        drop(take(16 << 10, 1));
        assert_eq!(pool.0.spare.get(), 448 << 10, "it is used again");
        let mut charge = pool.charge();
        charge.set(640 << 10).unwrap();
        assert_eq!(pool.0.spare.get(), 0);
        let small = take(16 << 10, 10);
        charge.set(700 << 10).unwrap();
        drop(small);
        assert_eq!(pool.0.spare.get(), 160 << 10);
        assert!(pool.0.free.iter().map(|class| class.borrow().len()).eq([0, 10, 0, 0]));
    }

    #[test]
    fn a_request_gets_what_data_and_other_requests_leave() {
        let pool = BufPool::new(64 << 10);
        let mut charge = pool.charge();
        let further: Vec<Charge> =
            std::iter::from_fn(|| pool.charge_request(1 << 10, false).ok()).collect();
        assert_eq!(further.len(), 48);
        assert_eq!((charge.set(8 << 10), charge.set(9 << 10)), (Ok(()), Err(Exhausted)));
        let only: Vec<Charge> =
            std::iter::from_fn(|| pool.charge_request(1 << 10, true).ok()).collect();
        assert_eq!((only.len(), pool.bytes_out()), (4, 60 << 10));
        // What is read is read in a smaller buffer then.
        assert_eq!(pool.room_for_read(None, SCRATCH, false).err(), Some(Exhausted));
        let read = pool.room_for_read(None, SCRATCH, true).unwrap();
        assert_eq!((read.room(), pool.bytes_out()), (4 << 10, 64 << 10));
        assert_eq!(pool.take_for_head(1).err(), Some(Exhausted));
        drop((further, only, charge, read));
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn the_pools_of_all_workers_keep_to_one_limit() {
        let mut limits = sluice_core::Limits::default();
        limits.set(sluice_core::limits::Limit::ProcessBuffers, 1 << 20).unwrap();
        let budget = Budget::new(1024, 2, &limits);
        let pools = [(); 2].map(|()| BufPool::within(4 << 20, budget.allowance()));
        let mut held = Vec::new();
        // In turn, until neither gets more.
        let mut refused = 0;
        while refused < 2 {
            refused = 0;
            for pool in &pools {
                match pool.take(64 << 10) {
                    Ok(buf) => held.push(buf),
                    Err(Exhausted) => refused += 1,
                }
            }
        }
        let out = || pools.iter().map(BufPool::bytes_out).sum::<usize>();
        // Data leaves an eighth.
        let most = (1 << 20) - (1 << 17);
        assert!(out() <= most && out() > most - 2 * (80 << 10), "{}", out());
        assert!(pools[1].charge_request(64 << 10, true).is_ok());
        let mut charge = pools[0].charge();
        assert_eq!(charge.set(80 << 10), Err(Exhausted));
        drop(charge);
        // What one worker gives back, the other gets, but for what the first keeps at hand.
        drop(held);
        assert_eq!(out(), 0);
        let most = pools[1].charge().set((7 << 17) - (512 << 10));
        assert_eq!(most, Ok(()));
        drop(pools);
        let pool = BufPool::within(4 << 20, budget.allowance());
        assert_eq!(pool.charge().set(7 << 17), Ok(()), "a worker that ends gives all of it back");
        assert_eq!(pool.charge().set((7 << 17) + 1), Err(Exhausted));
    }
}
