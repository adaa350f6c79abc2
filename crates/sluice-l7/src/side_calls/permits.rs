//! How many side calls of a worker are in flight.
//!
//! Owns: the numbers, one per depth. Refuses to know: what is called. Keeps: calls on behalf of side calls have a bound
//! of their own, so that calls which wait for others never take the room that those need; there is no third depth.

use std::cell::Cell;
use std::rc::Rc;

use sluice_core::limits::Limit;
use sluice_io::WorkerCx;

use super::SideCallError;
use crate::reasons;

/// The number of depths at which calls may be made.
const DEPTHS: usize = 2;

/// The side calls of a worker in flight, by depth.
#[derive(Debug, Default)]
pub(super) struct SideCallPermits([Cell<u64>; DEPTHS]);

/// A permit for one call; returned on drop.
#[derive(Debug)]
pub(super) struct SideCallPermit {
    permits: Rc<SideCallPermits>,
    depth: usize,
}

impl SideCallPermits {
    /// Counts a call in on behalf of a request that `depth` side calls led to.
    pub(super) fn enter(worker: &WorkerCx, depth: u32) -> Result<SideCallPermit, SideCallError> {
        let permits = worker.local(Self::default);
        let depth = usize::try_from(depth).unwrap_or(usize::MAX);
        let Some(in_flight) = permits.0.get(depth) else {
            let detail = format!("{depth} side calls led to the request that makes this one");
            return Err(SideCallError {
                why: reasons::SIDE_CALL_LOOP,
                detail: Some(detail.into()),
            });
        };
        let max = worker.limits.get(Limit::SideCalls);
        if in_flight.get() >= max {
            sluice_l4::metrics::count_limit(worker, Limit::SideCalls);
            let detail = format!("{max} side calls are in flight (`limits.side_calls`)");
            return Err(SideCallError {
                why: reasons::SIDE_CALL_LIMIT,
                detail: Some(detail.into()),
            });
        }
        in_flight.set(in_flight.get() + 1);
        Ok(SideCallPermit { permits, depth })
    }
}

impl Drop for SideCallPermit {
    fn drop(&mut self) {
        let in_flight = &self.permits.0[self.depth];
        in_flight.set(in_flight.get() - 1);
    }
}
