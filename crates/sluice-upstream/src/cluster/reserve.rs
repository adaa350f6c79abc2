//! The part of a cluster's limits that is reserved for side calls.
//!
//! Owns: how large it is. Refuses to know: what a side call asks for. Keeps: a cluster that gets no side calls reserves
//! nothing; one that does always has room for some of them, even if every other request of the cluster waits for one.

use std::sync::atomic::Ordering::Relaxed;

use super::Cluster;

/// What a connection or a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficClass {
    /// The request of a client.
    Request,
    /// The request of a filter, for which a request of a client may wait.
    SideCall,
}

impl Cluster {
    /// Notes that filters call this cluster, which reserves a part of its limits for them.
    pub fn reserve_for_side_calls(&self) {
        if !self.reserves.load(Relaxed) {
            self.reserves.store(true, Relaxed);
        }
    }
}

/// The reserve within `max`: at least one if there are two, and never all.
pub(super) fn reserved(max: u64, percent: u64) -> u64 {
    match max {
        0 | 1 => 0,
        _ => (max.saturating_mul(percent) / 100).clamp(1, max - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_is_reserved_and_never_all() {
        for (max, percent, expected) in
            [(0, 10, 0), (1, 10, 0), (2, 10, 1), (10, 10, 1), (100, 10, 10), (3, 90, 2), (4, 50, 2)]
        {
            assert_eq!(reserved(max, percent), expected, "{percent} % of {max}");
        }
        assert_eq!(reserved(u64::MAX, 50), u64::MAX / 100);
    }
}
