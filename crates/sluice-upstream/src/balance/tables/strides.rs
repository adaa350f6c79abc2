//! Endpoints in turn, each exactly as often as its weight requires.
//!
//! Owns: which endpoint has the turn at a position. Refuses to know: who counts the positions, and which endpoints can be
//! used. Keeps: in as many consecutive turns as the weights make together, each endpoint has exactly as many as its own; its
//! turns are spread evenly over them; what a turn costs does not depend on the number of endpoints or the weights.
//!
//! Each endpoint owns an interval of the numbers below the total weight, as long as its weight. Position n has the number
//! n × step, modulo the total: `step` and the total have no common divisor, so that every number comes once per round, and
//! their quotient is close to the golden ratio, so that the numbers that follow each other are far apart. A guide leads from
//! a number to the few intervals that may contain it.

use super::Weighted;

/// How many steps are compared; the first that spreads turns well enough is taken.
const STEPS: u64 = 64;

/// Turns are spread well enough if no partial quotient of step and total is larger.
const QUOTIENT_MAX: u64 = 3;

/// Endpoints in turn.
#[derive(Debug, Default)]
pub struct StrideTable {
    /// The indexes in the membership.
    indexes: Box<[u32]>,
    /// Where the interval of each endpoint ends.
    ends: Box<[u32]>,
    /// For each 2^`shift` numbers, the place of the endpoint that owns the first. Empty if all weights are equal.
    guide: Box<[u32]>,
    shift: u32,
    step: u64,
}

impl StrideTable {
    /// Builds the table. Weights that exceed 2^32 together are scaled down to that.
    pub fn build(chosen: &[Weighted]) -> Self {
        let divisor = chosen.iter().fold(0, |divisor, one| gcd(divisor, one.weight)).max(1);
        let total: u64 = chosen.iter().map(|one| one.weight / divisor).sum();
        let most = u64::from(u32::MAX) - chosen.len() as u64;
        let scale = total.div_ceil(most).max(1);
        let mut total = 0_u32;
        let ends: Box<[u32]> = chosen
            .iter()
            .map(|one| {
                let weight = (one.weight / divisor / scale).max(1);
                total += u32::try_from(weight).expect("the sum is within 32 bits");
                total
            })
            .collect();
        let indexes: Box<[u32]> = chosen.iter().map(|one| one.index).collect();
        // Endpoints of equal weight follow each other in the order in which they are written.
        if total as usize == chosen.len() {
            return Self { indexes, ends, step: 1, ..Self::default() };
        }
        // Between one and two entries for each endpoint.
        let shift = (u64::from(total) / chosen.len() as u64).ilog2();
        let mut place = 0_u32;
        let guide = (0..=(total - 1) >> shift).map(|entry| {
            while ends[place as usize] <= entry << shift {
                place += 1;
            }
            place
        });
        Self { guide: guide.collect(), indexes, ends, shift, step: step(u64::from(total)) }
    }

    /// The number of turns of a round.
    pub fn round(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    /// The index of the endpoint that has the turn at a position; the table must have endpoints.
    pub fn at(&self, position: usize) -> u32 {
        if self.guide.is_empty() {
            return self.indexes[position % self.indexes.len()];
        }
        let total = self.round() as u64;
        let number = position as u64 % total * self.step % total;
        let number = u32::try_from(number).expect("below the total");
        let entry = (number >> self.shift) as usize;
        let first = self.guide[entry] as usize;
        let last = self.guide.get(entry + 1).map_or(self.ends.len() - 1, |last| *last as usize);
        let place = first + self.ends[first..last].partition_point(|end| *end <= number);
        self.indexes[place]
    }

    /// The indexes of all endpoints.
    pub fn indexes(&self) -> &[u32] {
        &self.indexes
    }
}

/// The step for a total of at least 2: close to total / golden ratio, without a common divisor, and, of the nearest, one whose
/// turns are spread well.
fn step(total: u64) -> u64 {
    // 2^32 / golden ratio.
    let golden = (total * 0x9e37_79b9) >> 32;
    let near = (0..STEPS).flat_map(|off| [golden.saturating_sub(off), golden + off]);
    let mut best = (u64::MAX, 1);
    for step in near.filter(|step| (1..total).contains(step) && gcd(*step, total) == 1) {
        let largest = largest_quotient(step, total);
        if largest <= QUOTIENT_MAX {
            return step;
        }
        best = best.min((largest, step));
    }
    best.1
}

/// The largest partial quotient of the continued fraction of `step` / `total`: the smaller it is, the more evenly multiples
/// of `step` are spread (Kuipers and Niederreiter, "Uniform Distribution of Sequences", 1974, §2.3).
fn largest_quotient(step: u64, total: u64) -> u64 {
    let (mut large, mut small, mut largest) = (total, step, 0);
    while small > 0 {
        largest = largest.max(large / small);
        (large, small) = (small, large % small);
    }
    largest
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(weights: &[u32]) -> StrideTable {
        let all = (0_u32..).zip(weights);
        let weighted: Vec<_> =
            all.map(|(index, weight)| Weighted { index, weight: u64::from(*weight) }).collect();
        StrideTable::build(&weighted)
    }

    /// The turns from a position on.
    fn turns(table: &StrideTable, from: usize, count: usize) -> Vec<u32> {
        (0..count).map(|turn| table.at(from.wrapping_add(turn))).collect()
    }

    /// The furthest that any endpoint is ahead of or behind its share in a round, in turns.
    fn deviation(table: &StrideTable, weights: &[u32], from: usize) -> f64 {
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0_u32; weights.len()];
        let mut worst = 0.0_f64;
        for (turn, picked) in (1_u32..).zip(turns(table, from, table.round())) {
            counts[picked as usize] += 1;
            // Only that one is ahead of what it was; the others are looked at when their turn comes, before it.
            let place = picked as usize;
            let fair = f64::from(turn) * f64::from(weights[place]) / f64::from(total);
            let has = f64::from(counts[place]);
            worst = worst.max((has - fair).abs()).max((has - 1.0 - fair).abs());
        }
        worst
    }

    #[test]
    fn equal_weights_take_turns_in_order() {
        assert_eq!(turns(&table(&[1, 1, 1, 1]), 0, 6), [0, 1, 2, 3, 0, 1]);
        assert_eq!(turns(&table(&[3, 3]), 1, 3), [1, 0, 1]);
        assert_eq!(turns(&table(&[7]), 5, 2), [0, 0]);
        assert_eq!(table(&[]).round(), 0);
        assert_eq!(turns(&table(&[5, 1, 1]), 0, 7), [0, 0, 0, 1, 0, 2, 0]);
    }

    #[test]
    fn ten_thousand_weights_are_exact() {
        let weights: Vec<u32> = (1..=10_000).map(|weight| weight % 97 + 1).collect();
        let table = table(&weights);
        let mut counts = vec![0; weights.len()];
        for picked in turns(&table, 12_345, table.round()) {
            counts[picked as usize] += 1;
        }
        assert_eq!(counts, weights);
    }

    #[test]
    fn what_exceeds_32_bits_is_scaled_down() {
        let one = |index, weight| Weighted { index, weight };
        let table = StrideTable::build(&[one(0, 1), one(1, u64::from(u32::MAX)), one(2, 1 << 33)]);
        assert!(table.round() as u64 > 1 << 31, "{}", table.round());
        let counts = turns(&table, usize::MAX - 10, 3000);
        let count = |index| counts.iter().filter(|one| **one == index).count();
        assert!(count(0) <= 1 && count(1).abs_diff(1000) < 5, "{}", count(1));
    }

    #[test]
    fn one_heavy_endpoint_leaves_the_turns_of_the_others_apart() {
        let mut weights = vec![1; 999];
        weights.push(1_000_000);
        let table = table(&weights);
        let light: Vec<usize> = (0..table.round()).filter(|turn| table.at(*turn) < 999).collect();
        assert_eq!(light.len(), 999);
        let nearest = light.windows(2).map(|pair| pair[1] - pair[0]).min();
        assert!(nearest > Some(200), "{nearest:?}");
    }

    proptest! {
        #[test]
        fn a_round_is_exact_and_no_endpoint_is_far_from_its_share(
            weights in prop::collection::vec(1_u32..400, 1..60),
            from: usize,
        ) {
            let from = from >> 1;
            let table = table(&weights);
            let divisor = weights.iter().fold(0, |divisor, one| gcd(divisor, u64::from(*one)));
            let mut counts = vec![0_u64; weights.len()];
            for picked in turns(&table, from, table.round()) {
                counts[picked as usize] += 1;
            }
            let expected: Vec<u64> = weights.iter().map(|one| u64::from(*one) / divisor).collect();
            prop_assert_eq!(counts, expected);
            let deviation = deviation(&table, &weights, from);
            // Rarely more than 4; what can be proved is a multiple of the logarithm of the total, which is far more.
            prop_assert!(deviation < 8.0, "{}", deviation);
        }
    }
}
