//! Traces of connections, for tools such as qvis.
//!
//! Owns: the file of a trace. Refuses to know: its content (the library writes qlog, draft-ietf-quic-qlog, as JSON text
//! sequences, RFC 7464). Keeps: a trace never ends its connection; each trace, all that are written at once and all of
//! a process are bounded. It is written on the worker's thread: traces are for troubleshooting, not for everyday use.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use quinn::{QlogConfig, QlogStream};

/// Bytes of a trace; after these, nothing more of the connection is written.
const TRACE_MAX: u64 = 64 << 20;

/// Bytes of all traces of a process.
const ALL_MAX: u64 = 1 << 30;

/// The least that a trace counts: a disk block.
const TRACE_MIN: u64 = 4096;

/// Connections that are traced at once in the process.
const OPEN_MAX: usize = 256;

static OPEN: AtomicUsize = AtomicUsize::new(0);
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Opens a trace in `folder` of the connection with this number; the file is named after the time the connection began,
/// in seconds, and the number. A missing trace must be noticed, but is no reason to refuse a client: it is logged,
/// once.
pub(crate) fn trace(folder: &Path, number: u64, began: Duration) -> Option<QlogStream> {
    let open = Open::take();
    if open.is_none() || WRITTEN.fetch_add(TRACE_MIN, Relaxed) >= ALL_MAX {
        say_missing(folder, &"as many are written as may be");
        return None;
    }
    let path = folder.join(format!("{}-{number}.sqlog", began.as_secs()));
    let file = match File::create_new(&path) {
        Ok(file) => file,
        Err(error) => {
            say_missing(&path, &error);
            return None;
        }
    };
    let mut config = QlogConfig::default();
    let writer = BoundedWriter {
        file: BufWriter::new(file),
        record: Vec::new(),
        left: TRACE_MAX,
        all: &WRITTEN,
        _open: open,
    };
    config.title(Some(format!("connection {number}"))).writer(Box::new(writer));
    config.into_stream()
}

fn say_missing(place: &Path, why: &dyn std::fmt::Display) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Relaxed) {
        tracing::warn!(place = %place.display(), %why, "traces of QUIC connections are missing");
    }
}

/// A trace that is being written.
struct Open;

impl Open {
    fn take() -> Option<Self> {
        let taken = OPEN.fetch_add(1, Relaxed);
        // Released on drop.
        let open = Self;
        (taken < OPEN_MAX).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Relaxed);
    }
}

/// Writes whole records while they fit, and discards the rest.
struct BoundedWriter<W> {
    file: W,
    /// The record that is being written; it ends at a newline.
    record: Vec<u8>,
    left: u64,
    all: &'static AtomicU64,
    _open: Option<Open>,
}

impl<W: Write> BoundedWriter<W> {
    fn end_record(&mut self) {
        let length = self.record.len() as u64;
        let room = self.left.min(ALL_MAX.saturating_sub(self.all.load(Relaxed)));
        let written = if length > room {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            self.all.fetch_add(length, Relaxed);
            self.file.write_all(&self.record)
        };
        // What follows a gap is of no use.
        self.left = if written.is_ok() { self.left - length } else { 0 };
        self.record.clear();
    }
}

impl<W: Write> Write for BoundedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.left == 0 {
                break;
            }
            self.record.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.record.len() as u64 > self.left {
                self.end_record();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(left: u64, pieces: &[&str]) -> String {
        static NONE: AtomicU64 = AtomicU64::new(0);
        let mut bounded =
            BoundedWriter { file: Vec::new(), record: Vec::new(), left, all: &NONE, _open: None };
        for piece in pieces {
            bounded.write_all(piece.as_bytes()).unwrap();
        }
        String::from_utf8(bounded.file).unwrap()
    }

    #[test]
    fn a_trace_ends_with_the_last_record_that_fits_whole() {
        assert_eq!(written(100, &["{a", "}\n{", "b}\n", "{c"]), "{a}\n{b}\n");
        assert_eq!(written(9, &["{a}\n{b}\n", "{c}\n", "d\n"]), "{a}\n{b}\n");
        assert_eq!(written(9, &["{a}\n", "{", "bcdefghi", "}\n", "d\n"]), "{a}\n");
    }
}
