//! Taps: traces of requests and of connections, written to files.
//!
//! Owns: what a trace is, its forms, the files and what they may take. Refuses to know: what is traced, and when. Keeps:
//! nothing that is traced waits for its trace; what cannot be recorded is counted, and never held.

mod files;
mod forms;
mod proto;
mod trace;

pub use files::{OpenTap, TapFiles, TapFilesPlan, finish};
pub use forms::TapFormat;
pub use trace::{TraceField, TraceValue, address_pair, body_of, message};

#[cfg(test)]
mod tests;
