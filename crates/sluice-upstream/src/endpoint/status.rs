//! What the list of endpoints says of the state of one.
//!
//! Owns: the words, and the bits that tell it from what checks find. Refuses to know: checks and operators. Keeps: the worst
//! of what is said counts.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use sluice_core::choice;

choice! {
    /// The state of an endpoint, as the list of endpoints says.
    pub enum EndpointStatus {
        /// It serves, if checks do not say otherwise.
        Healthy = "healthy",
        /// It serves as far as healthy endpoints do not suffice.
        Degraded = "degraded",
        /// It does not serve, whatever checks say; in panic mode it does.
        Unhealthy = "unhealthy",
        /// What it has continues, sticky sessions included; nothing new comes.
        Draining = "draining",
    }
}

/// The bit of a state that checks found.
pub(super) const CHECKED: u8 = 1;
/// The bit of a state that the list of endpoints says; beside what an operator withholds, it means draining.
pub(super) const STATED: u8 = 4;

/// Sets or clears a bit; returns whether that is a change.
pub(super) fn set_bit(field: &AtomicU8, bit: u8, set: bool) -> bool {
    let before = if set { field.fetch_or(bit, Relaxed) } else { field.fetch_and(!bit, Relaxed) };
    (before & bit != 0) != set
}
