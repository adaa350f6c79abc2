//! Received data that streams have not taken yet.
//!
//! Owns: the pieces of all streams of a connection, in one table, in buffers of the worker. Refuses to know: frames and
//! windows. Keeps: data of a stream leaves in the order of its arrival; small pieces share a buffer, so that a body that
//! arrives byte by byte takes no more memory than one that arrives at once; every byte is in the account of the worker.

use slab::Slab;
use sluice_io::buffers::{Buf, BufPool, Exhausted};

/// Bytes of a piece that a stream takes at once: a full frame fits.
const PIECE: usize = 16 << 10;

/// No piece.
const NONE: u32 = u32::MAX;

/// The received data of one stream: a list in the table of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PieceList {
    first: u32,
    last: u32,
}

impl Default for PieceList {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl PieceList {
    /// Whether nothing is waiting.
    pub(crate) const fn is_empty(self) -> bool {
        self.first == NONE
    }
}

#[derive(Debug)]
struct ReceivedPiece {
    buf: Buf,
    next: u32,
}

/// The received data of all streams of a connection.
#[derive(Debug)]
pub(crate) struct PieceTable {
    pieces: Slab<ReceivedPiece>,
    buffers: BufPool,
    /// Bytes of data in the table.
    held: usize,
}

impl PieceTable {
    pub(crate) const fn new(buffers: BufPool) -> Self {
        Self { pieces: Slab::new(), buffers, held: 0 }
    }

    /// Bytes of data that wait.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// Adds data to a stream.
    ///
    /// # Errors
    /// The worker is at the limit of its buffers; a part may have been added.
    pub(crate) fn push(&mut self, list: &mut PieceList, mut data: &[u8]) -> Result<(), Exhausted> {
        if let Some(last) = self.pieces.get_mut(list.last as usize) {
            let room = last.buf.room().min(data.len());
            let (fits, rest) = data.split_at(room);
            last.buf.append(fits);
            self.held += room;
            data = rest;
        }
        while !data.is_empty() {
            let (piece, rest) = data.split_at(data.len().min(PIECE));
            let buf = self.buffers.copy(piece)?;
            let key = self.pieces.insert(ReceivedPiece { buf, next: NONE });
            let key = u32::try_from(key).unwrap_or(NONE);
            match self.pieces.get_mut(list.last as usize) {
                Some(last) => last.next = key,
                None => list.first = key,
            }
            list.last = key;
            self.held += piece.len();
            data = rest;
        }
        Ok(())
    }

    /// Takes the next piece of a stream.
    pub(crate) fn pop(&mut self, list: &mut PieceList) -> Option<Buf> {
        let piece = self.pieces.try_remove(list.first as usize)?;
        list.first = piece.next;
        if list.first == NONE {
            list.last = NONE;
        }
        self.held -= piece.buf.len();
        if self.pieces.is_empty() && self.pieces.capacity() > SPARE {
            self.pieces = Slab::new();
        }
        Some(piece.buf)
    }

    /// Drops what a stream has not taken.
    pub(crate) fn clear(&mut self, list: &mut PieceList) {
        while self.pop(list).is_some() {}
    }
}

/// Entries for which an empty table keeps its memory.
const SPARE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(table: &mut PieceTable, list: &mut PieceList) -> Vec<u8> {
        std::iter::from_fn(|| table.pop(list)).flat_map(|buf| buf.to_vec()).collect()
    }

    #[test]
    fn single_bytes_share_a_buffer() {
        let pool = BufPool::new(1 << 20);
        let mut table = PieceTable::new(pool.clone());
        let mut list = PieceList::default();
        (0..1000).for_each(|_| table.push(&mut list, b"x").unwrap());
        assert_eq!((table.held(), pool.bytes_out()), (1000, 4 << 10));
        assert_eq!(drain(&mut table, &mut list), [b'x'; 1000]);
        assert_eq!((table.held(), pool.bytes_out(), list.is_empty()), (0, 0, true));
    }

    #[test]
    fn a_limit_holds() {
        let pool = BufPool::new(24 << 10);
        let mut table = PieceTable::new(pool.clone());
        let (mut one, mut other) = (PieceList::default(), PieceList::default());
        table.push(&mut one, &[1; 16 << 10]).unwrap();
        assert_eq!(table.push(&mut other, &[1; 8 << 10]), Err(Exhausted));
        table.clear(&mut one);
        table.clear(&mut other);
        assert_eq!((table.held(), pool.bytes_out()), (0, 0));
    }

    proptest! {
        #[test]
        fn streams_get_their_own_in_order(
            steps in prop::collection::vec((0_usize..3, 0_usize..40_000, any::<bool>()), 0..40),
        ) {
            let mut table = PieceTable::new(BufPool::new(64 << 20));
            let mut lists = [PieceList::default(); 3];
            let mut expected: [Vec<u8>; 3] = Default::default();
            let mut got: [Vec<u8>; 3] = Default::default();
            for (n, (stream, len, takes)) in steps.into_iter().enumerate() {
                let data: Vec<u8> = (0..len).map(|at| (at + n).to_le_bytes()[0]).collect();
                table.push(&mut lists[stream], &data).unwrap();
                expected[stream].extend(data);
                if takes && let Some(buf) = table.pop(&mut lists[stream]) {
                    got[stream].extend_from_slice(&buf);
                }
            }
            for stream in 0..3 {
                got[stream].extend(drain(&mut table, &mut lists[stream]));
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(table.held(), 0);
        }
    }
}
