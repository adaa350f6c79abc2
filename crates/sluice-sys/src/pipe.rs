//! Pipes and `splice(2)`: bytes move between sockets without leaving the kernel.
//!
//! Owns: a pipe and the number of bytes in it. Refuses to know: streams and when splicing pays off.
//! Keeps: `held` is exact, so that a pipe with bytes in it is never used for another stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// A pipe for bytes in transit from one socket to another.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    /// Creates a pipe of `capacity` bytes.
    ///
    /// # Errors
    /// The error of `pipe2(2)` or `F_SETPIPE_SZ`: by default an unprivileged user has 64 MiB of pipe pages in total;
    /// beyond that it gets `EPERM`, and the caller should copy instead.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let capacity = fcntl_setpipe_size(&write, capacity)?;
        Ok(Self { read, write, capacity, held: 0 })
    }

    /// The number of bytes in the pipe.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Moves at most `max` bytes from `from` into the empty pipe; 0 means end of stream.
    ///
    /// # Errors
    /// `WouldBlock` if `from` has no data, or the error of `splice(2)`.
    pub fn fill(&mut self, from: impl AsFd, max: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a pipe is drained before it is filled again");
        let moved = splice(from, None, &self.write, None, self.capacity.min(max), FLAGS)?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe into `to`.
    ///
    /// # Errors
    /// `WouldBlock` if `to` accepts nothing now, or the error of `splice(2)`.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.read, None, to, None, self.held, FLAGS)?;
        self.held -= moved;
        Ok(moved)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_and_held_is_exact() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (c, mut d) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let mut pipe = Pipe::new(65_536).unwrap();
        assert_eq!(pipe.fill(&b, 4).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        a.write_all(b"hello").unwrap();
        assert_eq!((pipe.fill(&b, 2).unwrap(), pipe.held()), (2, 2));
        assert_eq!((pipe.drain(&c).unwrap(), pipe.held()), (2, 0));
        assert_eq!((pipe.fill(&b, 99).unwrap(), pipe.drain(&c).unwrap()), (3, 3));
        let mut got = [0; 5];
        d.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        drop(a);
        assert_eq!(pipe.fill(&b, 9).unwrap(), 0);
    }
}
