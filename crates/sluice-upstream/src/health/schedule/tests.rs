use sluice_core::clock::ClockOrigin;
use sluice_io::WorkerCx;

use super::*;
use CheckOutcome::{Failed, Passed, Unfit};

fn plan() -> HealthPlan {
    HealthPlan {
        kind: crate::plan::CheckKind::Tcp(Vec::new()),
        connect_to: ConnectTo::default(),
        interval: Duration::from_millis(1),
        unhealthy_interval: Duration::from_millis(2),
        no_traffic_interval: None,
        jitter_percent: 10,
        timeout: Duration::from_secs(10),
        unhealthy_after: 3,
        healthy_after: 2,
        waits: false,
        keeps_removed: false,
    }
}

/// The states after each result, from `healthy`.
fn states(mut healthy: bool, mut first: bool, results: &[CheckOutcome]) -> Vec<bool> {
    let (plan, mut streak) = (plan(), CheckStreak::default());
    let state = |result: &CheckOutcome| {
        let change = streak.take(healthy, std::mem::take(&mut first), *result, &plan);
        assert_ne!(change, Some(healthy), "a change to the same state");
        healthy = change.unwrap_or(healthy);
        healthy
    };
    results.iter().map(state).collect()
}

#[test]
fn thresholds_count_results_in_a_row() {
    let results = [Failed, Failed, Passed, Failed, Failed, Failed, Passed, Failed, Passed, Passed];
    let t = true;
    assert_eq!(states(true, false, &results), [t, t, t, t, t, false, false, false, false, t]);
}

#[test]
fn the_first_result_decides_and_so_does_an_endpoint_that_is_not_fit() {
    assert_eq!(states(false, true, &[Passed, Failed, Failed]), [true, true, true]);
    assert_eq!(states(true, true, &[Failed, Passed, Passed]), [false, false, true]);
    assert_eq!(states(false, true, &[Failed, Passed, Passed]), [false, false, true]);
    assert_eq!(states(true, false, &[Passed, Unfit, Passed, Unfit]), [true, false, false, false]);
}

#[test]
fn a_state_that_others_changed_is_judged_afresh() {
    let (plan, mut streak) = (plan(), CheckStreak::default());
    assert_eq!(streak.take(true, false, Failed, &plan), None);
    assert_eq!(streak.take(true, false, Failed, &plan), None);
    // A response asked for it.
    assert_eq!(streak.take(false, false, Passed, &plan), None);
    assert_eq!(streak.take(false, false, Passed, &plan), Some(true));
    assert_eq!(streak.take(true, false, Failed, &plan), None);
}

#[test]
fn checks_of_an_interval_begin_together() {
    let origin = Instant::now();
    let at = |micros: u64| origin + Duration::from_micros(micros);
    let next = |micros, interval| together(at(micros), origin, Duration::from_millis(interval));
    // A hundredth of the interval, and 50 ms at most.
    for (asked, interval, expected) in [
        (0, 1000, 0),
        (1, 1000, 10_000),
        (10_000, 1000, 10_000),
        (10_001, 1000, 20_000),
        (50_001, 5000, 100_000),
        (50_001, 3_600_000, 100_000),
        (1_234_567, 20, 1_234_600),
    ] {
        assert_eq!(next(asked, interval), at(expected), "{asked} {interval}");
    }
    assert_eq!(together(at(7), origin, Duration::from_nanos(1)), at(7), "too short to be put off");
    assert_eq!(together(origin, at(7), Duration::from_secs(1)), origin);
}

#[test]
fn the_pause_depends_on_health_and_traffic() {
    let mut plan = plan();
    let ms = Duration::from_millis;
    assert_eq!(pause(&plan, true, false), ms(1));
    assert_eq!(pause(&plan, false, true), ms(2));
    plan.no_traffic_interval = Some(ms(60));
    assert_eq!(pause(&plan, true, false), ms(60));
    assert_eq!(pause(&plan, false, false), ms(60));
    assert_eq!(pause(&plan, true, true), ms(1));
    for _ in 0..1000 {
        let jittered = jittered(ms(100), 10);
        assert!((ms(90)..=ms(110)).contains(&jittered), "{jittered:?}");
        assert_eq!(super::jittered(ms(100), 0), ms(100));
    }
}

/// Returns the same result each time, and counts.
struct Says(CheckResult, std::cell::Cell<u32>);

impl HealthProbe for Says {
    fn probe(&self) -> sluice_core::LocalFuture<CheckResult> {
        self.1.set(self.1.get() + 1);
        Box::pin(std::future::ready(self.0.clone()))
    }
}

#[test]
fn an_endpoint_that_left_and_came_back_is_checked_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let cluster = Arc::new(Cluster::new(Arc::new(crate::cluster::tests::plan(None))));
        let endpoint = || {
            let target = crate::endpoint::Target::Ip(([127, 0, 0, 1], 1).into());
            let endpoint = Arc::new(EndpointState::new(target, None));
            endpoint.await_check(true);
            endpoint
        };
        let watcher = Rc::new(HealthWatch {
            worker: WorkerCx::solitary(ClockOrigin::read().clock()),
            probes: Rc::new(|_, _| {
                Rc::new(Says(Ok(CheckPassed::default()), std::cell::Cell::new(0)))
            }),
            on_unhealthy: Rc::new(|_, _| {}),
            checked: tokio::sync::Notify::new(),
        });
        let mut checks = Checks::default();
        for endpoint in [endpoint(), endpoint()] {
            let own = std::slice::from_ref(&endpoint);
            checks.follow(&cluster, own, &plan(), &cluster.plan(), &watcher);
            while !endpoint.is_healthy() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
}

/// Whether an endpoint is considered healthy after ten checks with `result`; before the first, it waits or does not.
fn healthy_after(result: CheckResult, waits: bool) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let cluster = Arc::new(Cluster::new(Arc::new(crate::cluster::tests::plan(None))));
        let target = crate::endpoint::Target::Ip(([127, 0, 0, 1], 1).into());
        let endpoint = Arc::new(EndpointState::new(target, None));
        endpoint.await_check(waits);
        assert_eq!(endpoint.is_healthy(), !waits);
        let says = Rc::new(Says(result, std::cell::Cell::new(0)));
        let probe = Rc::clone(&says) as Rc<dyn HealthProbe>;
        let watcher = HealthWatch {
            worker: WorkerCx::solitary(ClockOrigin::read().clock()),
            probes: Rc::new(move |_, _| Rc::clone(&probe)),
            on_unhealthy: Rc::new(|_, _| {}),
            checked: tokio::sync::Notify::new(),
        };
        let mut checks = Checks::default();
        let own = std::slice::from_ref(&endpoint);
        checks.follow(&cluster, own, &plan(), &cluster.plan(), &Rc::new(watcher));
        while says.1.get() < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        endpoint.is_healthy()
    })
}

#[test]
fn what_sluice_lacks_makes_no_endpoint_unhealthy() {
    for waits in [false, true] {
        assert!(healthy_after(Ok(CheckPassed::default()), waits));
        assert!(!healthy_after(Err(CheckError::Endpoint("refused".into())), waits));
        let own = crate::connector::ConnectFailure::from(sluice_sys::socket::no_descriptor());
        assert_eq!(healthy_after(Err(own.into()), waits), !waits);
    }
}
