//! Quantiles of times that were counted in buckets.
//!
//! Owns: how they are estimated, and Envoy's buckets. Refuses to know: what took the time. Keeps: a quantile lies within the
//! bucket that contains it.

use sluice_telemetry::metrics::BUCKETS;

/// Those that Envoy shows.
pub(super) const SHOWN: [(f64, &str); 10] = [
    (0.0, "P0"),
    (0.25, "P25"),
    (0.5, "P50"),
    (0.75, "P75"),
    (0.9, "P90"),
    (0.95, "P95"),
    (0.99, "P99"),
    (0.995, "P99.5"),
    (0.999, "P99.9"),
    (1.0, "P100"),
];

/// The upper bounds of Envoy's buckets in milliseconds. Its three above are left out, in which nothing is told apart here.
pub(super) const BOUNDS_MS: [f64; 16] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
    30_000.0, 60_000.0, 300_000.0,
];

/// The upper bound of a bucket in milliseconds. The last one has none, and is taken for as wide as those before it.
fn bound_ms(bucket: usize) -> f64 {
    let last = BUCKETS.last().map_or(0.0, |last| last.as_secs_f64() * 2.0);
    BUCKETS.get(bucket).map_or(last, std::time::Duration::as_secs_f64) * 1000.0
}

/// How many times there are.
pub(super) fn count(cells: &[u64]) -> u64 {
    cells.iter().take(BUCKETS.len() + 1).fold(0, |sum, cell| sum.wrapping_add(*cell))
}

/// Their sum in milliseconds.
#[allow(clippy::cast_precision_loss, reason = "as exact as a number of JSON")]
pub(super) fn sum_ms(cells: &[u64]) -> f64 {
    cells.get(BUCKETS.len() + 1).map_or(0.0, |micros| *micros as f64 / 1000.0)
}

/// How many of them are at most so long.
pub(super) fn below(cells: &[u64], bound: f64) -> u64 {
    let all = cells.iter().take(BUCKETS.len()).enumerate();
    all.filter(|(bucket, _)| bound_ms(*bucket) <= bound).fold(0, |sum, (_, cell)| sum + cell)
}

/// The quantile `share` in milliseconds; `None` without times.
#[allow(clippy::cast_precision_loss, reason = "it is an estimate")]
pub(super) fn quantile(cells: &[u64], share: f64) -> Option<f64> {
    let total = count(cells) as f64;
    let wanted = total * share;
    let mut before = 0.0;
    for (bucket, cell) in cells.iter().take(BUCKETS.len() + 1).enumerate() {
        let here = *cell as f64;
        if here > 0.0 && before + here >= wanted {
            let low = if bucket == 0 { 0.0 } else { bound_ms(bucket - 1) };
            let part = ((wanted - before) / here).clamp(0.0, 1.0);
            return Some(low + (bound_ms(bucket) - low) * part);
        }
        before += here;
    }
    None
}
