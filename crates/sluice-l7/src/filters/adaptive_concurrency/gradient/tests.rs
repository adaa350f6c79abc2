use super::*;

const PLAN: GradientPlan = GradientPlan {
    max: 1000,
    min: 3,
    percentile: 0.5,
    interval: Duration::from_millis(100),
    ideal: None,
    measure_requests: 50,
    tolerance: 0.25,
};

const fn pause() -> Duration {
    Duration::from_secs(30)
}

fn at(micros: u64) -> Moment {
    Moment::from_micros(micros)
}

#[test]
fn the_limit_follows_the_formula() {
    let ms = Duration::from_millis;
    for (limit, ideal, latency, next) in [
        (100, 10, 10, 136), // 125 + 11.2
        (100, 10, 12, 114), // 104.2 + 10.2
        (100, 10, 100, 57), // at least half, and 7.1
        (100, 10, 1, 214),  // at most twice, and 14.1
        (3, 10, 100, 3),    // never below
        (900, 10, 1, 1000), // never above
        (100, 10, 0, 214),
    ] {
        assert_eq!(next_limit(&PLAN, limit, ms(ideal), ms(latency)), next, "{limit} {latency}");
    }
}

#[test]
fn a_percentile_is_one_of_the_values() {
    let ms = |all: &[u64]| all.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
    for (all, part, expected) in [
        (&[5_u64][..], 0.5, 5),
        (&[3, 1, 2], 0.5, 2),
        (&[4, 3, 1, 2], 0.5, 2),
        (&[4, 3, 1, 2], 1.0, 4),
        (&[4, 3, 1, 2], 0.0, 1),
    ] {
        let expected = Some(Duration::from_millis(expected));
        assert_eq!(percentile(&mut ms(all), part), expected, "{all:?} {part}");
    }
    assert_eq!(percentile(&mut [], 0.5), None);
}

#[test]
fn the_ideal_latency_is_that_of_requests_with_few_others() {
    let mut gradient = Gradient::new(PLAN);
    assert_eq!((gradient.limit(), gradient.due()), (3, Moment::NEVER));
    for _ in 0..50 {
        gradient.sample(at(10), Duration::from_millis(7));
    }
    gradient.adapt(at(1_000_000), pause);
    assert_eq!(gradient.ideal, Duration::from_millis(7));
    assert!(matches!(gradient.phase, GradientPhase::Limit { .. }));
    // Measured again, requests that began before do not count.
    gradient.adapt(at(31_000_000), pause);
    assert_eq!(gradient.phase, GradientPhase::Ideal { since: at(31_000_000) });
    (0..100).for_each(|_| gradient.sample(at(30_999_999), Duration::from_millis(900)));
    gradient.adapt(at(32_000_000), pause);
    assert!(matches!(gradient.phase, GradientPhase::Ideal { .. }));
    // More latencies than are kept.
    (0..SAMPLES_MAX + 9).for_each(|_| gradient.sample(at(31_000_000), Duration::from_millis(8)));
    assert_eq!(gradient.latencies.len(), SAMPLES_MAX);
    gradient.adapt(at(33_000_000), pause);
    assert_eq!(gradient.ideal, Duration::from_millis(8));
}

#[test]
fn an_ideal_latency_that_is_known_is_never_measured() {
    let ms = Duration::from_millis;
    let mut gradient = Gradient::new(GradientPlan { ideal: Some(ms(10)), ..PLAN });
    let mut limits = Vec::new();
    for second in 1..100_u64 {
        let now = at(second * 1_000_000);
        gradient.sample(now, if second < 50 { ms(5) } else { ms(500) });
        gradient.adapt(now, || unreachable!("it is not measured"));
        limits.push(gradient.limit());
    }
    assert_eq!((limits[48], limits[98]), (1000, 3));
    // Without it, it is found out again.
    gradient.configure(PLAN);
    assert!(matches!(gradient.phase, GradientPhase::Ideal { .. }));
}

#[test]
fn other_settings_keep_what_was_found_out() {
    let mut gradient = Gradient::new(PLAN);
    (0..50).for_each(|_| gradient.sample(at(0), Duration::from_millis(7)));
    assert_eq!(gradient.adapt(at(10), pause), Some(GradientStep::Measured));
    assert_eq!(gradient.due(), at(100_010));
    gradient.sample(at(20), Duration::from_millis(7));
    assert_eq!(gradient.adapt(at(100_009), pause), None);
    assert_eq!(gradient.adapt(at(100_010), pause), Some(GradientStep::Raised));
    let before = gradient.limit();
    gradient.configure(GradientPlan { tolerance: 0.5, ..PLAN });
    assert_eq!((gradient.limit(), gradient.ideal), (before, Duration::from_millis(7)));
    gradient.configure(GradientPlan { max: 4, ..PLAN });
    assert_eq!(gradient.limit(), 4);
}

/// A server that handles so many requests at once in so much time each, and lets the others wait in line.
struct Line {
    servers: Vec<u64>,
    service: u64,
}

impl Line {
    /// When a request that arrives now is done.
    fn done(&mut self, now: u64, random: &mut fastrand::Rng) -> u64 {
        let free = self.servers.iter_mut().min().unwrap();
        *free = (*free).max(now) + self.service * random.u64(90..110) / 100;
        *free
    }
}

/// The plain version: reads the clock at every step, keeps every latency and sorts them.
struct Plain {
    limit: u32,
    ideal: Option<Duration>,
    since: u64,
    due: u64,
    measure_at: u64,
    lowest: u32,
    all: Vec<Duration>,
}

impl Plain {
    fn limit(&self) -> u32 {
        if self.ideal.is_some() { self.limit } else { PLAN.min }
    }

    fn sorted(&mut self) -> Option<Duration> {
        let mut all = std::mem::take(&mut self.all);
        all.sort();
        all.get(all.len().div_ceil(2).saturating_sub(1)).copied()
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds")]
    fn adapt(&mut self, now: u64) {
        let Some(ideal) = self.ideal else {
            if self.all.len() >= 50 {
                self.ideal = self.sorted();
                (self.due, self.measure_at, self.lowest) = (now + 100_000, now + 30_000_000, 0);
            }
            return;
        };
        let again = if now >= self.measure_at {
            true
        } else if now >= self.due {
            self.due = now + 100_000;
            if let Some(latency) = self.sorted() {
                let gradient = ideal.as_secs_f64() * 1.25 / latency.as_secs_f64();
                let scaled = f64::from(self.limit) * gradient.clamp(0.5, 2.0);
                self.limit = ((scaled + scaled.sqrt()) as u32).clamp(3, 1000);
                self.lowest = if self.limit == 3 { self.lowest + 1 } else { 0 };
            }
            self.lowest >= 5
        } else {
            false
        };
        if again {
            self.all.clear();
            (self.ideal, self.since) = (None, now);
        }
    }
}

#[test]
fn the_limit_finds_what_a_server_handles_and_follows_it() {
    for (seed, servers) in [(1, 10), (2, 40), (3, 100)] {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut line = Line { servers: vec![0; servers], service: 10_000 };
        let mut gradient = Gradient::new(PLAN);
        let mut plain = Plain {
            limit: 3,
            ideal: None,
            since: 0,
            due: 0,
            measure_at: 0,
            lowest: 0,
            all: Vec::new(),
        };
        // When requests in flight are done, and when they began.
        let mut flying = std::collections::BinaryHeap::new();
        let (mut now, mut limits) = (0, Vec::new());
        while now < 100_000_000 {
            // Twice as many as the server handles.
            now += random.u64(0..10_000 / servers as u64);
            while let Some(std::cmp::Reverse((done, began))) = flying.peek().copied()
                && done <= now
            {
                flying.pop();
                let took = Duration::from_micros(done - began);
                gradient.sample(at(began), took);
                if plain.ideal.is_some() || began >= plain.since {
                    plain.all.push(took);
                }
                gradient.adapt(at(done), pause);
                plain.adapt(done);
                assert_eq!(gradient.limit(), plain.limit(), "seed {seed} at {done}");
            }
            gradient.adapt(at(now), pause);
            plain.adapt(now);
            assert_eq!(gradient.limit(), plain.limit(), "seed {seed} at {now}");
            let enters = flying.len() < plain.limit() as usize;
            if enters {
                flying.push(std::cmp::Reverse((line.done(now, &mut random), now)));
            }
            if now > 20_000_000 && matches!(gradient.phase, GradientPhase::Limit { .. }) {
                limits.push(gradient.limit());
            }
        }
        limits.sort_unstable();
        let usual = limits[limits.len() / 2] as usize;
        assert!((servers..servers * 3).contains(&usual), "{servers} servers: {usual}");
    }
}
