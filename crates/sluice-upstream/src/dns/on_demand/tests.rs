#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_core::Clock;
use sluice_io::WorkerCx;
use sluice_telemetry::Registry;
use tokio::task::LocalSet;
use tokio::time::advance;

use super::*;
use crate::cluster::ClusterHandle;
use crate::egress::EgressPolicy;
use crate::endpoint::EndpointState;
use crate::forward::{ForwardPlan, HostNaming};
use crate::plan::ClusterSettings;

const HOST_TTL: Duration = Duration::from_secs(300);

/// A forward proxy to IP addresses, which need no name server.
struct Bench {
    cluster: Arc<Cluster>,
    handle: Rc<ClusterHandle>,
    worker: Rc<WorkerCx>,
    registry: Registry,
}

impl Bench {
    /// Runs `test` with a cluster that knows at most `hosts_max` hosts and may reach 127.0.0.0/8.
    async fn run<F: Future<Output = ()>>(hosts_max: usize, test: impl FnOnce(Self) -> F) {
        let mut settings = ClusterSettings::clone(&ClusterSettings::bare());
        let allow = vec![sluice_core::Cidr::parse("127.0.0.0/8").unwrap()];
        settings.egress = Some(EgressPolicy::new(allow, Vec::new()));
        settings.dns.mode = crate::plan::ResolutionMode::Logical;
        settings.forward = Some(ForwardPlan {
            named_by: HostNaming::Client,
            hosts: Vec::new(),
            ports: vec![80],
            hosts_max,
            host_ttl: HOST_TTL,
        });
        let plan = ClusterPlan { name: "out".into(), settings: Arc::new(settings), tls: None };
        let cluster = Arc::new(Cluster::new(Arc::new(plan)));
        let worker = WorkerCx::solitary(Clock::held());
        let registry = Registry::new();
        let (asking, asked) = mpsc::channel(64);
        cluster.set_host_desk(Some(asking));
        let publishing = Arc::clone(&cluster);
        let publish = move |members: &[Member]| drop(publishing.publish(members));
        let serving = serve_hosts(Arc::clone(&cluster), asked, registry.shard(1), publish);
        let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
        let bench = Self { cluster, handle, worker, registry };
        let local = LocalSet::new();
        local.spawn_local(serving);
        local.run_until(test(bench)).await;
    }

    fn host(named: &str) -> ForwardHost {
        let forward = ForwardPlan {
            named_by: HostNaming::Client,
            hosts: vec![],
            ports: vec![80],
            hosts_max: 1,
            host_ttl: HOST_TTL,
        };
        forward.host(named, 80).unwrap()
    }

    async fn ask(&self, named: &str) -> Result<Arc<EndpointState>, Reason> {
        let found = self.handle.endpoint_of(&self.worker, &Self::host(named)).await;
        found.map_err(|failure| failure.why)
    }

    fn known(&self) -> Vec<String> {
        self.cluster.members().endpoints.iter().map(|one| one.name.to_string()).collect()
    }

    fn lookups(&self) -> i64 {
        self.registry.value("sluice_dns_lookups_total", &["out", "ok"]).unwrap_or(0)
    }
}

/// Lets time pass in steps, so that every tick is seen.
async fn pass(time: Duration) {
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(Duration::from_secs(1));
        advance(step).await;
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        left -= step;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_is_known_for_as_long_as_it_is_used() {
    Bench::run(8, |bench| async move {
        let first = bench.ask("127.0.0.1").await.unwrap();
        assert_eq!((&*first.name, first.host.as_deref()), ("127.0.0.1:80", Some("127.0.0.1")));
        assert!(bench.cluster.has_member(&first));
        for _ in 0..4 {
            pass(HOST_TTL - Duration::from_secs(2)).await;
            let again = bench.ask("127.0.0.1").await.unwrap();
            assert!(Arc::ptr_eq(&first, &again));
        }
        let lease = first.lease();
        pass(HOST_TTL * 2).await;
        assert_eq!(bench.known(), ["127.0.0.1:80"], "a connection keeps it");
        drop(lease);
        pass(HOST_TTL + Duration::from_secs(2)).await;
        assert!(bench.known().is_empty() && bench.cluster.names().is_empty());
        assert!(!bench.cluster.has_member(&first));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn hosts_are_bounded_and_one_that_was_unused_for_long_makes_room() {
    Bench::run(2, |bench| async move {
        let first = bench.ask("127.0.0.1").await.unwrap();
        bench.ask("127.0.0.2").await.unwrap();
        assert_eq!(bench.ask("127.0.0.3").await.map(drop), Err(reasons::LIMIT));
        pass(Duration::from_secs(5)).await;
        bench.ask("127.0.0.2").await.unwrap();
        let lease = first.lease();
        pass(Duration::from_secs(8)).await;
        assert_eq!(bench.ask("127.0.0.3").await.map(drop), Err(reasons::LIMIT), "both are in use");
        drop(lease);
        pass(MAKES_ROOM - Duration::from_secs(6)).await;
        bench.ask("127.0.0.3").await.unwrap();
        assert_eq!(bench.known(), ["127.0.0.1:80", "127.0.0.3:80"], "the one unused for longest");
        // One that is denied takes no room from others.
        assert_eq!(bench.ask("10.0.0.1").await.map(drop), Err(reasons::LIMIT));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_is_no_member_and_is_forgotten_soon() {
    Bench::run(1, |bench| async move {
        for denied in ["10.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254"] {
            assert_eq!(bench.ask(denied).await.map(drop), Err(reasons::EGRESS), "{denied}");
            assert!(bench.known().is_empty());
        }
        // The last of them has made room.
        bench.ask("127.0.0.1").await.unwrap();
        assert_eq!(bench.cluster.names().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_at_once_share_a_look_up() {
    Bench::run(8, |bench| async move {
        let asking = || async { bench.ask("127.0.0.1").await.unwrap() };
        let (one, two, three) = tokio::join!(asking(), asking(), asking());
        assert!(Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&two, &three));
        assert_eq!(bench.lookups(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_control_thread_nobody_waits_for_ever() {
    Bench::run(8, |bench| async move {
        bench.cluster.set_host_desk(None);
        assert_eq!(bench.ask("127.0.0.1").await.map(drop), Err(reasons::DNS));
        let (asking, _kept) = mpsc::channel(1);
        bench.cluster.set_host_desk(Some(asking));
        assert_eq!(bench.ask("127.0.0.1").await.map(drop), Err(reasons::DNS));
        assert_eq!(bench.ask("127.0.0.2").await.map(drop), Err(reasons::DNS), "the queue is full");
    })
    .await;
}

#[test]
fn the_address_in_use_stays_first() {
    let of = |ports: &[u16]| -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    };
    for (new, old, expected) in [
        (&[1, 2, 3][..], &[3, 9][..], &[3, 1, 2][..]),
        (&[1, 2], &[1], &[1, 2]),
        (&[1, 2], &[9], &[1, 2]),
        (&[1, 2], &[], &[1, 2]),
    ] {
        assert_eq!(keeping_first(of(new), &of(old)), of(expected), "{new:?}");
    }
}
