use super::*;

fn report(requests: f64, cpu: f64) -> LoadReport {
    LoadReport { requests, cpu, ..LoadReport::default() }
}

fn plan(blackout: u64, expiry: u64) -> LoadReportsPlan {
    LoadReportsPlan {
        blackout: Duration::from_secs(blackout),
        expiry: Duration::from_secs(expiry),
        ..LoadReportsPlan::default()
    }
}

#[test]
fn a_weight_is_what_is_served_for_its_utilization() {
    let metrics = vec!["named_metrics.queue".into(), "utilization.disk".into()];
    let plan = LoadReportsPlan { error_penalty: 2000, metrics, ..LoadReportsPlan::default() };
    let named = |name: &str, value| vec![(name.into(), value)];
    let base = report(100.0, 0.5);
    for (report, expected) in [
        (base.clone(), Some(200.0)),
        (LoadReport { errors: 10.0, ..base.clone() }, Some(100.0 / 0.7)),
        (LoadReport { application: 0.25, ..base.clone() }, Some(400.0)),
        (LoadReport { metrics: named("utilization.disk", 0.8), ..base.clone() }, Some(125.0)),
        // Nobody asked for this one.
        (LoadReport { metrics: named("utilization.nic", 0.8), ..base.clone() }, Some(200.0)),
        (LoadReport { requests: 0.0, ..base.clone() }, None),
        (LoadReport { cpu: 0.0, ..base.clone() }, None),
        (LoadReport { requests: f64::MAX, cpu: f64::MIN_POSITIVE, ..base }, None),
    ] {
        assert_eq!(plan.weight(&report), expected, "{report:?}");
    }
}

/// Endpoints with names and reports, and what is made of them.
struct Bench {
    endpoints: Vec<(Arc<str>, ReportedWeight)>,
    reports: ReportedLoads,
    plan: LoadReportsPlan,
    start: Instant,
}

impl Bench {
    fn new(count: usize, plan: LoadReportsPlan) -> Self {
        let one = |nth: usize| {
            let reported = ReportedWeight::default();
            reported.track(true);
            (format!("e:{nth}").into(), reported)
        };
        let endpoints = (0..count).map(one).collect();
        Self { endpoints, reports: ReportedLoads::default(), plan, start: Instant::now() }
    }

    /// The weights at that second, each in percent of the highest.
    fn at(&mut self, second: u64) -> Vec<u32> {
        let now = self.start + Duration::from_secs(second);
        let all = self.endpoints.iter().map(|(name, reported)| (name, Some(reported)));
        let next = self.reports.update(&self.plan, all, now);
        assert!(next > now && next <= now + self.plan.update);
        let names = self.endpoints.iter().map(|(name, _)| name);
        let weights = self.reports.weigh(names, vec![1; self.endpoints.len()]);
        let highest = weights.iter().max().copied().unwrap();
        weights.iter().map(|weight| weight * 100 / highest).collect()
    }

    fn report(&self, nth: usize, weight: f64) {
        self.endpoints[nth].1.note(weight);
    }
}

#[test]
fn weights_count_after_the_blackout_and_until_they_expire() {
    let mut bench = Bench::new(3, plan(10, 60));
    bench.report(0, 200.0);
    assert_eq!(bench.at(0), [100, 100, 100]);
    bench.report(1, 50.0);
    bench.report(0, 200.0);
    assert_eq!(bench.at(5), [100, 100, 100], "the blackout");
    assert_eq!(bench.at(12), [100, 100, 100], "one alone says nothing");
    bench.report(1, 50.0);
    // The median of two is the higher one.
    assert_eq!(bench.at(15), [100, 25, 100], "one that does not report is an average one");
    // Between updates nothing moves.
    bench.plan.update = Duration::from_secs(5);
    assert_eq!(bench.at(20), [100, 25, 100]);
    bench.report(1, 100.0);
    assert_eq!(bench.at(22), [100, 25, 100]);
    assert_eq!(bench.at(25), [100, 50, 100]);
    // The first has been silent for too long.
    assert_eq!(bench.at(70), [100, 100, 100]);
    bench.report(0, 200.0);
    assert_eq!(bench.at(75), [100, 100, 100], "another blackout");
    bench.report(1, 100.0);
    assert_eq!(bench.at(85), [100, 50, 100]);
}

#[test]
fn one_that_leaves_or_joins_changes_no_weight_of_the_others() {
    let mut bench = Bench::new(5, plan(0, 60));
    for (nth, weight) in [(0, 100.0), (1, 50.0), (2, 25.0), (3, 75.0)] {
        bench.report(nth, weight);
    }
    let before = bench.at(0);
    assert_eq!(before[..4], [100, 50, 25, 75]);
    bench.endpoints.pop();
    assert_eq!(bench.at(1), before[..4]);
    bench.endpoints.pop();
    assert_eq!(bench.at(2), before[..3]);
    bench.endpoints.push(("new".into(), ReportedWeight::default()));
    assert_eq!(bench.at(3)[..3], before[..3]);
}

#[test]
fn weights_are_those_that_a_plain_reading_of_the_reports_gives() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (blackout, expiry) = (random.u64(0..6), random.u64(3..12));
        let count = random.usize(1..7);
        let mut bench = Bench::new(count, plan(blackout, expiry));
        // The seconds at which each has reported, and what.
        let mut said: Vec<Vec<(u64, f64)>> = vec![Vec::new(); count];
        for second in 0..40 {
            for (nth, said) in said.iter_mut().enumerate() {
                if random.u8(..4) == 0 {
                    let weight = f64::from(random.u32(1..1000));
                    bench.report(nth, weight);
                    said.push((second, weight));
                }
            }
            let valid = |said: &Vec<(u64, f64)>| {
                let (last, weight) = *said.last()?;
                // The first report after the last gap.
                let gap = said.windows(2).rposition(|two| two[1].0 - two[0].0 > expiry);
                let since = said[gap.map_or(0, |place| place + 1)].0;
                (second - last < expiry && second - since >= blackout).then_some(weight)
            };
            let valid: Vec<Option<f64>> = said.iter().map(valid).collect();
            let mut known: Vec<f64> = valid.iter().flatten().copied().collect();
            known.sort_unstable_by(f64::total_cmp);
            let expected: Vec<f64> = if known.len() < 2 {
                vec![1.0; count]
            } else {
                let median = known[known.len() / 2];
                valid.iter().map(|weight| weight.unwrap_or(median)).collect()
            };
            let highest = expected.iter().copied().fold(0.0, f64::max);
            for (weight, expected) in bench.at(second).iter().zip(&expected) {
                let expected = expected * 100.0 / highest;
                assert!((f64::from(*weight) - expected).abs() <= 1.1, "seed {seed} at {second}");
            }
        }
    }
}
