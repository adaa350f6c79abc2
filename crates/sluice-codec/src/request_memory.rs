//! The memory of a request in flight, in the account of its worker.
//!
//! Owns: how much a request takes. Refuses to know: what serves it. Keeps: a request is charged for as long as it lasts,
//! whatever its version; the constant is at least what requests take (`crates/sluice/tests/allocations.rs` measures it).

use sluice_io::buffers::{BufPool, Charge, Exhausted};

use crate::head::Head;

/// Bytes that a request in flight takes on both sides, besides data that waits and heads of more than 1 KiB.
pub const REQUEST_BYTES: usize = 7 << 10;

/// Bytes of each head that [`REQUEST_BYTES`] includes.
const HEAD_BYTES: usize = 1 << 10;

/// Charges a request whose head has not been read, the `only` one of its connection or one beside others.
///
/// # Errors
/// The worker has no room for it, so it is to be refused.
pub fn charge_request(buffers: &BufPool, only: bool) -> Result<Charge, Exhausted> {
    buffers.charge_request(REQUEST_BYTES, only)
}

/// Charges what a head of a request or its response takes besides.
///
/// # Errors
/// The worker has no room for it.
pub fn charge_head(charge: &mut Charge, head: &Head) -> Result<(), Exhausted> {
    match head.memory().saturating_sub(HEAD_BYTES) {
        0 => Ok(()),
        more => charge.set(charge.bytes() + more),
    }
}
