//! The time, and ticks.
//!
//! Owns: when a root context is called without a request. Refuses to know: what it does then. Keeps: a period is at least
//! `TICK_MIN`, whatever a guest asks for.

use std::time::Duration;

use sluice_core::clock::ClockOrigin;

use crate::abi::Status;
use crate::guest::{Guest, HostResult};
use crate::limits::TICK_MIN;
use crate::state::HostState;

/// The time since 1970.
pub(super) fn wall(state: &HostState) -> Duration {
    match &state.worker {
        Some(worker) => worker.clock.wall(worker.clock.now()),
        None => {
            let clock = ClockOrigin::read().clock();
            clock.wall(clock.now())
        }
    }
}

/// `proxy_get_current_time_nanoseconds`.
pub(super) fn now(guest: &mut Guest<'_, '_>, time_at: u32) -> HostResult {
    let nanos = wall(guest.state()).as_nanos();
    guest.write_u64(time_at, u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// `proxy_set_tick_period_milliseconds`; 0 ends the ticks.
pub(super) fn set_tick(guest: &mut Guest<'_, '_>, millis: u32) -> HostResult {
    let state = guest.state_mut();
    let root = state.context()?.root;
    if millis == 0 {
        if let Some(period) = state.ticks.get_mut(&root) {
            *period = None;
        }
        return Ok(());
    }
    let period = Duration::from_millis(millis.into()).max(TICK_MIN);
    // A task that waits already takes it up.
    let first = state.ticks.insert(root, Some(period)).is_none();
    if let Some(worker) = state.worker.as_ref().filter(|_| first) {
        crate::events::tick(worker, &state.events, root, period);
    }
    Ok(())
}

/// Whether a clock of WASI is one that there is: that of the day, or a steady one.
pub(super) const fn is_clock(id: u32) -> Result<(), Status> {
    if id > 1 { Err(Status::BadArgument) } else { Ok(()) }
}
