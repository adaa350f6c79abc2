//! An aperture: each process uses some of the endpoints only, so that large fleets need fewer connections.
//!
//! Owns: which endpoints a process prefers. Refuses to know: other processes. Keeps: the order of preference depends on the
//! process and the endpoint alone, so that an endpoint that comes or goes changes at most one of those in use; over many
//! processes, endpoints are used alike. Source: gRFC A68, "Random subsetting" (rendezvous hashing).

use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::endpoint::EndpointState;

/// How many endpoints a process uses, and which process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AperturePlan {
    /// The number of endpoints of each priority.
    pub size: u32,
    /// The hash of the name of the process.
    pub seed: u64,
}

impl AperturePlan {
    /// The aperture of the process with this name.
    pub fn new(size: u32, process: &str) -> Self {
        Self { size, seed: xxh3_64(process.as_bytes()) }
    }

    /// Those of `members` that are used, in the same order.
    pub fn choose(&self, endpoints: &[Arc<EndpointState>], members: Vec<u32>) -> Vec<u32> {
        let size = self.size.max(1) as usize;
        if members.len() <= size {
            return members;
        }
        let rank =
            |index: u32| xxh3_64_with_seed(endpoints[index as usize].name.as_bytes(), self.seed);
        let mut ranked: Vec<(u64, u32)> =
            members.into_iter().map(|index| (rank(index), index)).collect();
        ranked.select_nth_unstable(size - 1);
        ranked.truncate(size);
        let mut chosen: Vec<u32> = ranked.into_iter().map(|(_, index)| index).collect();
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::endpoint::Target;

    fn endpoints(count: u16) -> Vec<Arc<EndpointState>> {
        let target = |port| Target::Ip(([127, 0, 0, 1], port).into());
        (1..=count).map(|port| Arc::new(EndpointState::new(target(port), None))).collect()
    }

    fn of(process: u32, size: u32) -> AperturePlan {
        AperturePlan::new(size, &format!("process-{process}"))
    }

    #[test]
    fn the_preferred_ones_are_chosen() {
        let endpoints = endpoints(50);
        for process in 0..100 {
            let mut rng = fastrand::Rng::with_seed(process.into());
            let size = rng.u32(1..60);
            let members: Vec<u32> = (0..50).filter(|_| rng.bool()).collect();
            let plan = of(process, size);
            // Slow and obvious: all in order of preference, the first of them.
            let mut plain = members.clone();
            let name = |index: u32| endpoints[index as usize].name.as_bytes();
            plain.sort_by_key(|index| xxh3_64_with_seed(name(*index), plan.seed));
            plain.truncate(size as usize);
            plain.sort_unstable();
            assert_eq!(plan.choose(&endpoints, members), plain, "process {process}");
        }
    }

    #[test]
    fn over_many_processes_endpoints_are_used_alike() {
        let endpoints = endpoints(100);
        let mut counts = [0_u32; 100];
        for process in 0..1000 {
            for index in of(process, 20).choose(&endpoints, (0..100).collect()) {
                counts[index as usize] += 1;
            }
        }
        // 200 each, with a deviation of 12.6.
        assert!(counts.iter().all(|count| count.abs_diff(200) < 64), "{counts:?}");
    }

    #[test]
    fn an_endpoint_that_comes_or_goes_changes_one_of_those_in_use_at_most() {
        let endpoints = endpoints(100);
        let mut changed = 0;
        for process in 0..200 {
            let plan = of(process, 20);
            let mut rng = fastrand::Rng::with_seed(process.into());
            let all: Vec<u32> = (0..100).collect();
            let before: BTreeSet<u32> = plan.choose(&endpoints, all.clone()).into_iter().collect();
            let gone = rng.u32(..100);
            let rest: Vec<u32> = all.into_iter().filter(|index| *index != gone).collect();
            let after: BTreeSet<u32> = plan.choose(&endpoints, rest).into_iter().collect();
            let lost: Vec<&u32> = before.difference(&after).collect();
            assert!(lost.is_empty() || lost == [&gone], "process {process}: {lost:?}");
            assert_eq!(after.len(), 20);
            changed += lost.len();
        }
        // A fifth of the processes used it.
        assert!((20..80).contains(&changed), "{changed}");
    }
}
