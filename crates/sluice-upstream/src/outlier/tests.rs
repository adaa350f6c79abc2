use std::time::Duration;

use sluice_core::Clock;
use sluice_core::clock::ClockOrigin;
use sluice_telemetry::Registry;

use super::*;
use crate::balance::{BalancingPlan, PeakEwmaPlan};
use crate::cluster::Member;
use crate::endpoint::Target;
use crate::plan::{ClusterPlan, ClusterSettings, DnsCheck, EnforcePlan};
use crate::reasons;

/// Never ejects, but for what a test adds.
pub(crate) fn lenient() -> OutlierPlan {
    OutlierPlan {
        connect_failures: 0,
        consecutive_5xx: 0,
        consecutive_gateway_errors: 0,
        connect_failures_as_503: false,
        success_rate: None,
        failure_percentage: None,
        silence: None,
        latency: None,
        enforce: EnforcePlan::ALWAYS,
        interval: Duration::from_secs(10),
        ejection: Duration::from_secs(30),
        ejection_max: Duration::from_secs(300),
        ejection_jitter: Duration::ZERO,
        max_ejected_percent: 100,
        readmit_after_check: true,
    }
}

/// A cluster of `count` endpoints with that plan.
pub(crate) fn cluster(count: u16, outlier: OutlierPlan) -> Arc<Cluster> {
    let bare = ClusterSettings::bare();
    let settings = ClusterSettings { outlier: Some(outlier), ..(*bare).clone() };
    let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
    let cluster = Arc::new(Cluster::new(Arc::new(plan)));
    let target = |port| Target::Ip(([127, 0, 0, 1], port).into());
    let members: Vec<Member> = (1..=count)
        .map(|port| Member {
            target: target(port),
            host: None,
            name: None,
            alternates: Vec::new(),
            traits: Arc::default(),
        })
        .collect();
    cluster.publish(&members);
    cluster
}

/// What becomes of a connection or a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Connected,
    Failed(Reason),
    Answered(Option<u16>),
}

impl Event {
    pub(crate) fn happen(
        self,
        handle: &ClusterHandle,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) {
        match self {
            Self::Connected => _ = handle.note_connected(worker, endpoint, worker.now()),
            Self::Failed(why) => handle.note_failure(worker, endpoint, why),
            Self::Answered(status) => handle.note_answer(worker, endpoint, status),
        }
    }
}

/// The kind for which the first of three endpoints is ejected, and after how many of these events.
fn ejected_by(outlier: OutlierPlan, events: &[Event]) -> Option<(EjectionKind, usize)> {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let cluster = cluster(3, outlier);
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let endpoint = Arc::clone(&cluster.members().endpoints[0]);
    for (index, event) in events.iter().enumerate() {
        event.happen(&handle, &worker, &endpoint);
        if let Some(kind) = endpoint.ejected_for() {
            return Some((kind, index + 1));
        }
    }
    None
}

#[test]
fn failures_in_a_row() {
    use EjectionKind::{ConnectFailures, Consecutive5xx, ConsecutiveGatewayErrors};
    use Event::{Answered, Connected, Failed};
    let refused = Failed(reasons::REFUSED);
    let ours = Failed(reasons::FDS);
    let (good, error, gateway, none) =
        (Answered(Some(404)), Answered(Some(500)), Answered(Some(503)), Answered(None));
    let connects = || OutlierPlan { connect_failures: 3, ..lenient() };
    let by_connects = |events: &[Event]| ejected_by(connects(), events);
    assert_eq!(by_connects(&[refused; 3]), Some((ConnectFailures, 3)));
    assert_eq!(by_connects(&[refused, refused, Connected, refused, refused]), None);
    assert_eq!(by_connects(&[ours; 9]), None);
    assert_eq!(by_connects(&[error; 9]), None);
    let errors = || OutlierPlan { consecutive_5xx: 3, ..lenient() };
    let by_errors = |events: &[Event]| ejected_by(errors(), events);
    assert_eq!(by_errors(&[error, gateway, none]), Some((Consecutive5xx, 3)));
    assert_eq!(by_errors(&[error, error, good, error, error]), None);
    assert_eq!(by_errors(&[refused; 9]), None);
    let gateways = || OutlierPlan { consecutive_gateway_errors: 2, ..lenient() };
    let by_gateways = |events: &[Event]| ejected_by(gateways(), events);
    assert_eq!(by_gateways(&[gateway, none]), Some((ConsecutiveGatewayErrors, 2)));
    assert_eq!(by_gateways(&[gateway, error, gateway, good, gateway]), None);
    assert_eq!(by_gateways(&[error; 9]), None);
    let joined = OutlierPlan { connect_failures_as_503: true, ..gateways() };
    assert_eq!(ejected_by(joined, &[refused, gateway]), Some((ConsecutiveGatewayErrors, 2)));
    assert_eq!(ejected_by(lenient(), &[refused, error, gateway, none]), None);
}

#[test]
fn the_last_endpoint_stays_and_each_kind_is_counted() {
    let registry = Registry::new();
    let worker = WorkerCx::new(
        0,
        ClockOrigin::read().clock(),
        registry.shard(0),
        sluice_telemetry::LogQueue::nowhere(&registry.shard(0)),
        sluice_core::Limits::default(),
        &sluice_io::Budget::unlimited(),
    );
    for (percent, most) in [(100, 3), (50, 2), (10, 1), (0, 1)] {
        let plan = OutlierPlan { max_ejected_percent: percent, consecutive_5xx: 1, ..lenient() };
        let cluster = cluster(4, plan);
        let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
        let endpoints = cluster.members();
        for endpoint in endpoints.endpoints.iter() {
            handle.note_answer(&worker, endpoint, None);
            handle.note_answer(&worker, endpoint, None);
        }
        let ejected = endpoints.endpoints.iter().filter(|endpoint| endpoint.is_ejected()).count();
        assert_eq!(ejected, most, "{percent} %");
    }
    let metrics = registry.render();
    let line = "sluice_cluster_ejections_total{cluster=\"c\",kind=\"consecutive_5xx\"} 7";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn a_check_refutes_what_it_can_see() {
    let tcp = CheckKind::Tcp(Vec::new());
    let grpc = CheckKind::Grpc { service: String::new(), authority: None };
    assert!(is_refuted(EjectionKind::ConnectFailures, &tcp));
    assert!(is_refuted(EjectionKind::ConnectSuccessRate, &tcp));
    assert!(!is_refuted(EjectionKind::Consecutive5xx, &tcp));
    assert!(is_refuted(EjectionKind::SuccessRate, &grpc));
}

#[test]
fn silence_is_many_datagrams_over_a_time_without_a_reply() {
    let clock = Clock::held();
    let worker = WorkerCx::solitary(clock.clone());
    let silence = SilencePlan { datagrams: 3, time: Duration::from_secs(5) };
    let cluster = cluster(2, OutlierPlan { silence: Some(silence), ..lenient() });
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let members = cluster.members();
    let [one, other] = [0, 1].map(|index| &members.endpoints[index]);
    let send = |endpoint: &EndpointState, count| {
        handle.note_datagrams(&worker, endpoint, count);
        endpoint.ejected_for()
    };
    let pass = |seconds| clock.advance(Duration::from_secs(seconds));
    assert_eq!(send(one, 100), None, "nothing is counted until the control thread has looked");
    for endpoint in [one, other] {
        endpoint.counts.await_replies(true);
    }
    assert_eq!(send(one, 100), None, "no time has passed");
    pass(5);
    one.responded();
    assert_eq!(send(one, 1), None, "it has replied meanwhile");
    pass(4);
    assert_eq!(send(one, 1), None, "two datagrams in 4 s");
    pass(1);
    assert_eq!(send(one, 1), Some(EjectionKind::Silence));
    assert_eq!(one.why_ejected().unwrap().cause, "no reply to 3 datagrams in 5s");
    send(other, 3);
    pass(9);
    assert_eq!(send(other, 1), None, "it is the last one");
    one.readmit();
    assert_eq!(send(other, 2), None, "counted from zero again");
    let dns = CheckKind::Dns(DnsCheck { name: "a".into(), record: 1, rcode: 0 });
    assert!(is_refuted(EjectionKind::Silence, &dns));
    assert!(!is_refuted(EjectionKind::Silence, &CheckKind::Tls));
}

#[test]
fn what_is_not_enforced_is_counted_and_forgotten() {
    let registry = Registry::new();
    let worker = WorkerCx::new(
        0,
        Clock::held(),
        registry.shard(1),
        sluice_telemetry::LogQueue::nowhere(&registry.shard(1)),
        sluice_core::Limits::default(),
        &sluice_io::Budget::unlimited(),
    );
    let fails = |enforce: u8| {
        let enforce = EnforcePlan { connect_failures: enforce, ..EnforcePlan::ALWAYS };
        let cluster = cluster(3, OutlierPlan { connect_failures: 3, enforce, ..lenient() });
        let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
        let endpoint = Arc::clone(&cluster.members().endpoints[0]);
        let fail = || handle.note_failure(&worker, &endpoint, reasons::REFUSED);
        (0..300).map(|_| fail()).take_while(|()| !endpoint.is_ejected()).count()
    };
    let value = |name| registry.value(name, &["c", "connect_failures"]);
    assert_eq!(fails(100), 2);
    assert_eq!(fails(0), 300);
    assert_eq!(value("sluice_cluster_ejections_total"), Some(1));
    assert_eq!(value("sluice_cluster_ejections_not_enforced_total"), Some(100));
    // It is decided again after as many failures.
    let half: usize = (0..50).map(|_| fails(50)).sum();
    assert!((100..450).contains(&half), "{half}");
}

#[test]
fn the_time_of_a_response_counts_for_the_balancer_too() {
    let bare = ClusterSettings::clone(&ClusterSettings::bare());
    let balance = BalancePlan::PeakEwma(PeakEwmaPlan::default());
    let balancing = BalancingPlan { balance, ..BalancingPlan::default() };
    let settings = Arc::new(ClusterSettings { balancing, ..bare });
    let cluster =
        Arc::new(Cluster::new(Arc::new(ClusterPlan { name: "c".into(), settings, tls: None })));
    cluster.publish(&[crate::cluster::tests::member(1)]);
    let worker = WorkerCx::solitary(Clock::held());
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let endpoint = &cluster.members().endpoints[0];
    assert_eq!(endpoint.latency.peak(), None);
    let took = Duration::from_millis(7);
    handle.note_response_time(&worker, endpoint, took);
    assert_eq!(endpoint.latency.peak(), Some(took));
}
