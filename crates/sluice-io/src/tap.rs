//! Taps: whoever wants to see the bytes of a connection as they pass.
//!
//! Owns: the trait. Refuses to know: who taps and why. Keeps: a tap sees each byte once, in order,
//! and cannot change it.

use std::fmt::Debug;

/// Sees the bytes of a connection as they pass.
pub trait ByteTap: Debug {
    /// Bytes from the client, after they were read.
    fn received(&self, bytes: &[u8]);

    /// Bytes to the client, before they are written.
    fn sent(&self, bytes: &[u8]);
}
