//! How much traffic each priority of a cluster gets.
//!
//! Owns: the shares of the priorities by the number of their usable endpoints, and panic mode. Refuses to know: which
//! endpoints these are. Keeps: the shares of all priorities are 100 % together, unless nothing is usable and no priority
//! panics; a priority gets traffic only as far as those above it lack endpoints. Source: Envoy, "Priority levels",
//! "Degraded endpoints" and "Panic threshold".

use std::time::Duration;

use super::OVERPROVISIONING;

/// How traffic moves between the priorities of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FailoverPlan {
    /// A priority keeps all its traffic as long as the share of its usable endpoints, times this many percent, is at
    /// least 100 %. `None`: as long as it has one usable endpoint.
    pub overprovisioning: Option<u32>,
    /// The share of usable endpoints in percent below which all are used, whatever their state; 0 never.
    pub panic: u8,
    /// How long a priority must have had a usable endpoint again before traffic returns to it.
    pub failback_delay: Duration,
}

/// The endpoints of one priority, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All of them.
    pub all: usize,
    /// Those that are usable and not degraded.
    pub healthy: usize,
    /// Those that are usable and degraded.
    pub degraded: usize,
}

/// The share of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Percent of all traffic that goes to the healthy endpoints; in panic, to all.
    pub healthy: u32,
    /// Percent of all traffic that goes to the degraded endpoints.
    pub degraded: u32,
    /// Whether the states of endpoints are ignored.
    pub panics: bool,
}

impl Census {
    /// How much of all traffic this priority could serve, in percent, with `count` of its endpoints.
    fn availability(&self, count: usize, overprovisioning: Option<u32>) -> u32 {
        match (count, overprovisioning) {
            (0, _) => 0,
            (_, None) => 100,
            (count, Some(percent)) => percent_of(count.saturating_mul(percent as usize), self.all),
        }
    }

    /// Whether fewer than `threshold` percent are usable.
    fn lacks(&self, threshold: u8) -> bool {
        let percent = |count: usize| percent_of(count.saturating_mul(100), self.all);
        percent(self.healthy) + percent(self.degraded) < u32::from(threshold)
    }
}

/// `part` of `all`, at most 100.
fn percent_of(part: usize, all: usize) -> u32 {
    u32::try_from(part.checked_div(all).unwrap_or(0)).map_or(100, |percent| percent.min(100))
}

/// The share of each priority, from the highest on.
pub fn shares(levels: &[Census], plan: &FailoverPlan) -> Vec<Share> {
    let mut shares = vec![Share::default(); levels.len()];
    let available = |count: fn(&Census) -> usize, factor| -> Vec<u32> {
        levels.iter().map(|level| level.availability(count(level), factor)).collect()
    };
    let total =
        |healthy: &[u32], degraded: &[u32]| healthy.iter().chain(degraded).sum::<u32>().min(100);
    let healthy = available(|level| level.healthy, plan.overprovisioning);
    let degraded = available(|level| level.degraded, plan.overprovisioning);
    let normal = total(&healthy, &degraded);
    if normal > 0 {
        let mut left = 100;
        let mut take = |available: u32| {
            let taken = (available * 100).checked_div(normal).unwrap_or(0).min(left);
            left -= taken;
            taken
        };
        for (share, available) in shares.iter_mut().zip(&healthy) {
            share.healthy = take(*available);
        }
        for (share, available) in shares.iter_mut().zip(&degraded) {
            share.degraded = take(*available);
        }
        // What is left is lost to rounding, and goes to the first that serves.
        let first = (0..levels.len()).find(|level| healthy[*level] + degraded[*level] > 0);
        if let Some(first) = first {
            let share = &mut shares[first];
            *(if healthy[first] > 0 { &mut share.healthy } else { &mut share.degraded }) += left;
        }
    }
    // Without a factor, one endpoint serves everything; whether there are enough is still asked as with the usual one.
    let factor = plan.overprovisioning.or(Some(OVERPROVISIONING));
    let enough = total(
        &available(|level| level.healthy, factor),
        &available(|level| level.degraded, factor),
    );
    if plan.panic > 0 && enough < 100 {
        for (share, level) in shares.iter_mut().zip(levels) {
            share.panics = level.all > 0 && level.lacks(plan.panic);
        }
        let calm = |(share, level): (&Share, &Census)| !share.panics && level.all > 0;
        if !shares.iter().zip(levels).any(calm) {
            by_size(levels, &mut shares);
        }
    }
    for share in shares.iter_mut().filter(|share| share.panics) {
        share.healthy += std::mem::take(&mut share.degraded);
    }
    shares
}

/// When every priority panics, each gets traffic by the number of its endpoints.
fn by_size(levels: &[Census], shares: &mut [Share]) {
    let all: usize = levels.iter().map(|level| level.all).sum();
    let mut left = 100;
    for (share, level) in shares.iter_mut().zip(levels) {
        share.healthy = percent_of(level.all.saturating_mul(100), all).min(left);
        share.degraded = 0;
        left -= share.healthy;
    }
    if let Some(first) = levels.iter().position(|level| level.all > 0) {
        shares[first].healthy += left;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn envoy() -> FailoverPlan {
        FailoverPlan { overprovisioning: Some(140), panic: 50, failback_delay: Duration::ZERO }
    }

    /// `all/healthy/degraded` for each priority.
    fn levels(text: &str) -> Vec<Census> {
        let level = |text: &str| {
            let numbers: Vec<usize> = text.split('/').map(|n| n.parse().unwrap()).collect();
            Census { all: numbers[0], healthy: numbers[1], degraded: numbers[2] }
        };
        text.split_whitespace().map(level).collect()
    }

    /// `healthy+degraded` for each priority, with `!` for panic.
    fn shown(shares: &[Share]) -> String {
        let one = |share: &Share| {
            let panics = if share.panics { "!" } else { "" };
            format!("{}+{}{panics}", share.healthy, share.degraded)
        };
        shares.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn shares_are_those_of_envoy() {
        for (given, expected) in [
            ("10/10/0 10/10/0", "100+0 0+0"),
            // The table in the page on priority levels.
            ("100/72/0 100/100/0", "100+0 0+0"),
            ("100/71/0 100/100/0", "99+0 1+0"),
            ("100/50/0 100/60/0", "70+0 30+0"),
            ("100/0/0 100/100/0", "0+0 100+0"),
            ("100/25/0 100/25/0", "50+0! 50+0!"),
            ("10/5/0 10/0/0", "100+0 0+0!"),
            ("10/2/0 10/2/0", "50+0! 50+0!"),
            ("10/2/0 30/2/0", "25+0! 75+0!"),
            ("10/0/0 30/0/0", "25+0! 75+0!"),
            ("3/0/0", "100+0!"),
            ("0/0/0 3/3/0", "0+0 100+0"),
            // Without endpoints there is nothing to panic about: they have left, or an operator withholds them.
            ("0/0/0", "0+0"),
            ("0/0/0 10/2/0", "0+0 100+0!"),
            ("", ""),
            // Degraded endpoints take what the healthy ones of all priorities leave.
            ("100/50/20 100/0/100", "70+28 0+2"),
            ("100/0/100", "0+100"),
            ("100/5/65 100/5/0", "7+86 7+0"),
        ] {
            assert_eq!(shown(&shares(&levels(given), &envoy())), expected, "{given}");
        }
    }

    #[test]
    fn without_a_factor_a_backup_waits_for_the_last_endpoint() {
        let plan = FailoverPlan::default();
        for (given, expected) in [
            ("10/1/0 10/10/0", "100+0 0+0"),
            ("10/0/0 10/1/0", "0+0 100+0"),
            ("10/0/1 10/1/0", "0+0 100+0"),
            ("10/0/1 10/0/0", "0+100 0+0"),
            ("10/0/0 10/0/0", "0+0 0+0"),
        ] {
            assert_eq!(shown(&shares(&levels(given), &plan)), expected, "{given}");
        }
        let plan = FailoverPlan { panic: 50, ..plan };
        for (given, expected) in
            [("10/1/0", "100+0!"), ("10/6/0", "100+0"), ("10/1/0 10/10/0", "100+0 0+0")]
        {
            assert_eq!(shown(&shares(&levels(given), &plan)), expected, "{given}");
        }
    }

    fn census() -> impl Strategy<Value = Census> {
        (0_usize..40, 0_usize..=100, 0_usize..=100).prop_map(|(all, healthy, degraded)| {
            let healthy = all * healthy / 100;
            Census { all, healthy, degraded: (all - healthy) * degraded / 100 }
        })
    }

    proptest! {
        #[test]
        fn shares_add_up_and_go_only_where_endpoints_are(
            levels in prop::collection::vec(census(), 0..6),
            factor in prop::option::of(100_u32..300),
            panic in 0_u8..=100,
        ) {
            let plan =
                FailoverPlan { overprovisioning: factor, panic, failback_delay: Duration::ZERO };
            let shares = shares(&levels, &plan);
            let total: u32 = shares.iter().map(|share| share.healthy + share.degraded).sum();
            let usable = levels.iter().any(|level| level.healthy + level.degraded > 0);
            let any = levels.iter().any(|level| level.all > 0);
            prop_assert_eq!(total, if usable || panic > 0 && any { 100 } else { 0 });
            for (share, level) in shares.iter().zip(&levels) {
                if share.panics {
                    prop_assert!(share.degraded == 0 && level.lacks(panic));
                } else {
                    prop_assert!(share.healthy == 0 || level.healthy > 0);
                    prop_assert!(share.degraded == 0 || level.degraded > 0);
                }
            }
        }

        #[test]
        fn a_lower_priority_never_takes_what_a_higher_one_can_serve(
            levels in prop::collection::vec(census(), 1..6),
        ) {
            let plan = FailoverPlan { panic: 0, ..envoy() };
            let shares = shares(&levels, &plan);
            let full = |level: &Census| level.all > 0 && level.healthy * 140 >= level.all * 100;
            if let Some(first) = levels.iter().position(full) {
                prop_assert!(shares[first + 1..].iter().all(|share| share.healthy == 0));
                prop_assert!(shares.iter().all(|share| share.degraded == 0));
            }
        }
    }
}
