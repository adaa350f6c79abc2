//! Traces of connections, for tools such as qvis.
//!
//! Owns: the file of a trace. Refuses to know: what stands in it (the library writes qlog, draft-ietf-quic-qlog,
//! as JSON text sequences, RFC 7464). Keeps: a trace never ends its connection, and is never larger than its bound.
//! It is written on the worker's thread: traces are for finding faults, not for every day.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use quinn::{QlogConfig, QlogStream};

/// Bytes of a trace; behind it nothing more of the connection is written.
const TRACE_MAX: u64 = 64 << 20;

/// Connections that are traced at once in the process; further ones leave no trace.
const OPEN_MAX: usize = 256;

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A trace in `folder` of the connection with a number. What goes wrong is said in the log: a trace that is missing
/// must be known, and is no reason to turn a client away.
pub(super) fn trace(folder: &Path, number: u64) -> Option<QlogStream> {
    let open = Open::take()?;
    let path = folder.join(format!("{number}.sqlog"));
    let file = match File::create(&path) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a QUIC connection leaves no trace");
            return None;
        }
    };
    let mut config = QlogConfig::default();
    let writer = Bounded { file: BufWriter::new(file), left: TRACE_MAX, _open: Some(open) };
    config.title(Some(format!("connection {number}"))).writer(Box::new(writer));
    config.into_stream()
}

/// A trace that is written.
struct Open;

impl Open {
    fn take() -> Option<Self> {
        let taken = OPEN.fetch_add(1, Relaxed);
        // On drop it is given back.
        let open = Self;
        (taken < OPEN_MAX).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Relaxed);
    }
}

/// Takes what fits, and lets the rest go.
struct Bounded<W> {
    file: W,
    left: u64,
    _open: Option<Open>,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if length > self.left {
            // Half a record is nobody's, and neither is what comes behind it.
            self.left = 0;
            return Ok(bytes.len());
        }
        self.left -= length;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_ends_at_its_bound_and_nobody_hears_of_it() {
        let mut bounded = Bounded { file: Vec::new(), left: 10, _open: None };
        for record in ["12345", "6789", "too long", "x"] {
            bounded.write_all(record.as_bytes()).unwrap();
        }
        assert_eq!(bounded.file, b"123456789");
    }
}
