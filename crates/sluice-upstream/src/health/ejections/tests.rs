use sluice_core::clock::ClockOrigin;
use sluice_io::WorkerCx;

use super::*;
use crate::cluster::ClusterHandle;
use crate::outlier::tests::{Event, cluster, lenient};
use crate::plan::{FailurePercentagePlan, SuccessRatePlan};
use crate::reasons;

/// A cluster whose first endpoint has just been ejected, its ejections, and the time.
fn with_one_ejected(outlier: &OutlierPlan) -> (Arc<Cluster>, Ejections, Instant) {
    let cluster = cluster(2, outlier.clone());
    let mut ejections = Ejections::default();
    let now = Instant::now();
    look(&cluster, &mut ejections, Some(outlier), now);
    eject(&cluster);
    look(&cluster, &mut ejections, Some(outlier), now);
    (cluster, ejections, now)
}

fn eject(cluster: &Cluster) {
    assert!(cluster.members().endpoints[0].eject(EjectionKind::ConnectFailures, "it failed"));
}

/// Looks without jitter; returns whether the first endpoint is ejected then.
fn look(
    cluster: &Cluster,
    ejections: &mut Ejections,
    outlier: Option<&OutlierPlan>,
    now: Instant,
) -> bool {
    let members = cluster.members();
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    ejections.look(&worker, cluster, &members.endpoints, outlier, now, &mut || 1.0);
    members.endpoints[0].is_ejected()
}

#[test]
fn a_cluster_that_ejects_no_more_takes_its_endpoints_back() {
    let outlier = lenient();
    let (cluster, mut ejections, now) = with_one_ejected(&outlier);
    assert_eq!(ejections.next(Some(&outlier)), Some(now + outlier.ejection));
    assert!(!look(&cluster, &mut ejections, None, now));
    assert_eq!(ejections.next(None), None);
}

#[test]
fn ejections_grow_longer_and_shorter_again() {
    let seconds = Duration::from_secs;
    let outlier = OutlierPlan { interval: seconds(1000), ..lenient() };
    let (cluster, mut ejections, mut now) = with_one_ejected(&outlier);
    for length in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
        assert!(look(&cluster, &mut ejections, Some(&outlier), now + seconds(length - 1)));
        now += seconds(length);
        assert!(!look(&cluster, &mut ejections, Some(&outlier), now), "after {length} s");
        eject(&cluster);
        look(&cluster, &mut ejections, Some(&outlier), now);
    }
    // Nobody awaits a sweep while the endpoint is out; then each one shortens what comes next.
    now += seconds(300);
    let mut next = ejections.next(Some(&outlier)).expect("it is ejected");
    assert!(!look(&cluster, &mut ejections, Some(&outlier), now.max(next)));
    for _ in 0..12 {
        let Some(sweep) = ejections.next(Some(&outlier)) else { break };
        next = sweep;
        look(&cluster, &mut ejections, Some(&outlier), next);
    }
    assert_eq!(ejections.next(Some(&outlier)), None, "all is forgiven");
    eject(&cluster);
    look(&cluster, &mut ejections, Some(&outlier), next);
    assert!(!look(&cluster, &mut ejections, Some(&outlier), next + seconds(30)));
}

#[test]
fn jitter_prolongs_an_ejection() {
    let outlier = OutlierPlan { ejection_jitter: Duration::from_secs(5), ..lenient() };
    let (_, ejections, now) = with_one_ejected(&outlier);
    assert_eq!(ejections.next(Some(&outlier)), Some(now + Duration::from_secs(35)));
}

const ENDPOINTS: usize = 6;

/// Whether requests and connections succeeded, in order.
type Results = (Vec<bool>, Vec<bool>);

/// What ejection is, written plainly: everything that happened to an endpoint is kept and counted again each time.
struct PlainDetector {
    plan: OutlierPlan,
    /// By endpoint: results of requests and of connections since the last reset, true if good.
    streaks: Vec<(Vec<u16>, Vec<bool>)>,
    /// By endpoint: results since the last sweep.
    windows: Vec<Results>,
    times: Vec<u32>,
    until: Vec<Option<Duration>>,
    next_sweep: Duration,
}

impl PlainDetector {
    fn eject(&mut self, endpoint: usize, now: Duration) {
        let out = self.until.iter().flatten().count();
        let most = (ENDPOINTS * usize::from(self.plan.max_ejected_percent) / 100).max(1);
        if self.until[endpoint].is_none() && out < most.min(ENDPOINTS - 1) {
            self.streaks[endpoint] = Default::default();
            self.times[endpoint] += 1;
            let length = self.plan.ejection * self.times[endpoint];
            self.until[endpoint] = Some(now + length.min(self.plan.ejection_max));
        }
    }

    fn happen(&mut self, endpoint: usize, event: Event, now: Duration) {
        match event {
            Event::Connected => {
                self.streaks[endpoint].1.push(true);
                self.windows[endpoint].1.push(true);
            }
            Event::Failed(why) if why == reasons::FDS => {}
            Event::Failed(_) => {
                self.streaks[endpoint].1.push(false);
                self.windows[endpoint].1.push(false);
            }
            Event::Answered(status) => {
                self.streaks[endpoint].0.push(status.unwrap_or(599));
                self.windows[endpoint].0.push(status.is_some_and(|status| status < 500));
            }
        }
        let bad = |status: &&u16| **status >= 500;
        let gateway = |status: &&u16| [502, 503, 504, 599].contains(*status);
        let (answers, connects) = &self.streaks[endpoint];
        let errors = answers.iter().rev().take_while(bad).count();
        let gateways = answers.iter().rev().take_while(gateway).count();
        let failures = connects.iter().rev().take_while(|good| !**good).count();
        let plan = &self.plan;
        let reached = match event {
            Event::Connected => false,
            Event::Failed(why) if why == reasons::FDS => false,
            Event::Failed(_) => failures >= plan.connect_failures as usize,
            Event::Answered(_) => {
                errors >= plan.consecutive_5xx as usize
                    || gateways >= plan.consecutive_gateway_errors as usize
            }
        };
        if reached {
            self.eject(endpoint, now);
        }
    }

    fn look(&mut self, now: Duration) {
        if now >= self.next_sweep {
            self.next_sweep = now + self.plan.interval;
            for endpoint in 0..ENDPOINTS {
                if self.until[endpoint].is_none() {
                    self.times[endpoint] = self.times[endpoint].saturating_sub(1);
                }
            }
            let windows = std::mem::replace(&mut self.windows, vec![Default::default(); ENDPOINTS]);
            let in_use: Vec<bool> = self.until.iter().map(Option::is_none).collect();
            let of = |pick: fn(&Results) -> &Vec<bool>| {
                let windows = windows.iter().map(pick).zip(&in_use);
                windows.map(|(all, used)| if *used { all.clone() } else { Vec::new() }).collect()
            };
            let (answers, connects): (Vec<_>, Vec<_>) = (of(|both| &both.0), of(|both| &both.1));
            let mut outliers = self.slow(&answers);
            outliers.extend(self.slow(&connects));
            outliers.extend(self.failing(&answers));
            outliers.extend(self.failing(&connects));
            for endpoint in outliers {
                self.eject(endpoint, now);
            }
        }
        for endpoint in 0..ENDPOINTS {
            if self.until[endpoint].is_some_and(|until| until <= now) {
                self.until[endpoint] = None;
                self.streaks[endpoint] = Default::default();
            }
        }
    }

    /// The percentage of good results, of those with enough; nobody if they are too few.
    fn rates(all: &[Vec<bool>], endpoints: usize, requests: u64) -> Vec<(usize, f64)> {
        let mut rates = Vec::new();
        for (endpoint, results) in all.iter().enumerate() {
            if results.len() as u64 >= requests {
                let good = results.iter().filter(|good| **good).count();
                rates.push((endpoint, 100.0 * good as f64 / results.len() as f64));
            }
        }
        if rates.len() < endpoints { Vec::new() } else { rates }
    }

    fn slow(&self, all: &[Vec<bool>]) -> Vec<usize> {
        let plan = self.plan.success_rate.unwrap();
        let rates = Self::rates(all, plan.endpoints_min, plan.requests_min);
        let mut sum = 0.0;
        rates.iter().for_each(|(_, rate)| sum += rate);
        let mean = sum / rates.len() as f64;
        let mut squares = 0.0;
        rates.iter().for_each(|(_, rate)| squares += (rate - mean) * (rate - mean));
        let stdev = (squares / rates.len() as f64).sqrt();
        let below = mean - stdev * f64::from(plan.stdev_factor_thousandths) / 1000.0;
        rates.iter().filter(|(_, rate)| *rate < below).map(|(endpoint, _)| *endpoint).collect()
    }

    fn failing(&self, all: &[Vec<bool>]) -> Vec<usize> {
        let plan = self.plan.failure_percentage.unwrap();
        let rates = Self::rates(all, plan.endpoints_min, plan.requests_min);
        let most = 100.0 - f64::from(plan.percent);
        rates.iter().filter(|(_, rate)| *rate <= most).map(|(endpoint, _)| *endpoint).collect()
    }
}

/// Runs one history; returns how many ejections it had.
fn simulate(seed: u64) -> u32 {
    let mut random = fastrand::Rng::with_seed(seed);
    let plan = OutlierPlan {
        connect_failures: random.u32(3..8),
        consecutive_5xx: random.u32(4..10),
        consecutive_gateway_errors: random.u32(3..7),
        success_rate: Some(SuccessRatePlan {
            stdev_factor_thousandths: random.u32(1000..2000),
            endpoints_min: random.usize(3..6),
            requests_min: random.u64(5..15),
        }),
        failure_percentage: Some(FailurePercentagePlan {
            percent: random.u8(40..90),
            endpoints_min: random.usize(2..6),
            requests_min: random.u64(5..15),
        }),
        max_ejected_percent: random.u8(0..=100),
        ejection_max: Duration::from_secs(random.u64(60..200)),
        ..lenient()
    };
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let cluster = cluster(u16::try_from(ENDPOINTS).unwrap(), plan.clone());
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let members = cluster.members();
    let (begin, mut now) = (Instant::now(), Duration::ZERO);
    let mut ejections = Ejections::default();
    let mut look = |now: Duration| {
        let now = begin + now;
        ejections.look(&worker, &cluster, &members.endpoints, Some(&plan), now, &mut || 0.0);
    };
    look(now);
    let mut plain = PlainDetector {
        plan: plan.clone(),
        streaks: vec![Default::default(); ENDPOINTS],
        windows: vec![Default::default(); ENDPOINTS],
        times: vec![0; ENDPOINTS],
        until: vec![None; ENDPOINTS],
        next_sweep: plan.interval,
    };
    // Each endpoint is good with a probability of its own, which changes.
    let mut goodness = [0.9; ENDPOINTS];
    let mut count = 0;
    for step in 0..3000 {
        if random.u8(..) < 3 {
            goodness[random.usize(0..ENDPOINTS)] = random.f64();
        }
        let endpoint = random.usize(0..ENDPOINTS);
        let good = random.f64() < goodness[endpoint];
        let bad = [Some(500), Some(501), Some(502), Some(503), None];
        let event = match (random.u8(0..8), good) {
            (0, _) => Event::Failed(reasons::FDS),
            (1 | 2, true) => Event::Connected,
            (1 | 2, false) => Event::Failed(reasons::CONNECT_TIMEOUT),
            (_, true) => Event::Answered(Some(random.u16(200..500))),
            (_, false) => Event::Answered(bad[random.usize(0..bad.len())]),
        };
        event.happen(&handle, &worker, &members.endpoints[endpoint]);
        let before = plain.until.iter().flatten().count();
        plain.happen(endpoint, event, now);
        count += u32::from(plain.until.iter().flatten().count() > before);
        look(now);
        plain.look(now);
        now += Duration::from_millis(random.u64(0..600));
        look(now);
        plain.look(now);
        let found: Vec<bool> = members.endpoints.iter().map(|of| of.is_ejected()).collect();
        let expected: Vec<bool> = plain.until.iter().map(Option::is_some).collect();
        assert_eq!(found, expected, "seed {seed}, step {step}: {event:?} at {endpoint}");
    }
    count
}

#[test]
fn a_plain_detector_agrees_over_many_histories() {
    let seeds = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = seeds.map_or(0..60, |seed: u64| seed..seed + 1);
    let ejections: u32 = seeds.map(simulate).sum();
    assert!(ejections > 100, "{ejections} ejections: the histories show too little");
}
