//! Taps: observers of the bytes of a connection.
//!
//! Owns: the trait. Refuses to know: the implementations. Keeps: a tap sees each byte once, in order, and cannot change
//! it.

use std::fmt::Debug;

/// Observes the bytes of a connection as they pass.
pub trait ByteTap: Debug {
    /// Receives bytes from the client, after they were read.
    fn received(&self, bytes: &[u8]);

    /// Receives bytes to the client, before they are written.
    fn sent(&self, bytes: &[u8]);
}
