//! Connections that are made ahead: how many, where, and within which limits.

use sluice_upstream::cluster::{Affinity, Tried, WhenFull};
use sluice_upstream::plan::PreconnectPlan;

use super::*;

fn ratios(per_endpoint: u32, predicted: u32) -> impl FnOnce(&mut ClusterSettings) {
    move |settings| settings.preconnect = Some(PreconnectPlan { per_endpoint, predicted })
}

fn made_ahead(registry: &Registry, result: &str) -> i64 {
    registry.value(metrics::PRECONNECTS.name, &["up", result]).unwrap_or_default()
}

async fn until_made(registry: &Registry, count: i64) {
    until("a connection made ahead", || (made_ahead(registry, "made") == count).then_some(()))
        .await;
}

#[test]
fn for_each_connection_in_use_another_is_kept_ready() {
    on_bench(ratios(200, 100), async |bench| {
        let mut held = vec![bench.takes().await];
        let mut accepted = Vec::new();
        for in_use in 1..4 {
            // Twice as many as are in use; the first was not made ahead.
            until_made(&bench.registry, 2 * in_use - 1).await;
            accepted.push(bench.accepts().await);
            accepted.push(bench.accepts().await);
            assert!(bench.has_no_other(), "with {in_use} in use");
            assert_eq!(bench.pool.h1.len(), held.len());
            held.push(bench.take_idle().expect("one is ready"));
        }
        until_made(&bench.registry, 7).await;
        // Enough are left when the requests are over.
        drop(held);
        let _again = bench.take_idle().expect("one is ready");
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
        assert_eq!(made_ahead(&bench.registry, "made"), 7);
        assert_eq!(made_ahead(&bench.registry, "failed") + made_ahead(&bench.registry, "limit"), 0);
    });
}

#[test]
fn limits_hold_for_what_is_made_ahead() {
    let limit = |settings: &mut ClusterSettings| {
        ratios(300, 100)(settings);
        settings.connections_max = Some(2);
    };
    on_bench(limit, async |bench| {
        let first = bench.takes().await;
        until_made(&bench.registry, 1).await;
        assert_eq!(made_ahead(&bench.registry, "limit"), 1);
        let second = bench.take_idle().expect("one is ready");
        drop((first, second));
        let few = bench.pool.handle.cluster.plan().settings.reuse.idle_max;
        assert!(bench.pool.h1.len() <= few);
    });
}

#[test]
fn nothing_is_made_ahead_where_nothing_is_configured_or_expected() {
    for change in [None, Some((150, 100))] {
        let change = |settings: &mut ClusterSettings| {
            if let Some((per_endpoint, predicted)) = change {
                ratios(per_endpoint, predicted)(settings);
                http2(settings);
            }
        };
        on_bench(change, async |bench| {
            let mut pooled = bench.takes().await;
            let _endpoint = bench.accepts().await;
            for _ in 0..32 {
                tokio::task::yield_now().await;
            }
            // A connection over HTTP/2 has room for more requests.
            assert!(bench.has_no_other());
            assert_eq!(made_ahead(&bench.registry, "made"), 0);
            if let PooledConn::Shared(connection) = &mut pooled {
                assert!(connection.is_alive());
            }
        });
    }
}

#[test]
fn a_failure_counts_against_the_endpoint() {
    on_bench(ratios(200, 100), async |bench| {
        let first = bench.takes().await;
        until_made(&bench.registry, 1).await;
        let address = bench.listener.local_addr().unwrap();
        drop(bench.listener);
        let class = TrafficClass::Request;
        let needs = ConnectionNeeds {
            class,
            http3: true,
            version: Version::Http11,
            options: &bench.options,
            early: false,
        };
        let second = bench.pool.take_idle(&bench.worker, &bench.endpoint, &needs);
        until("a failure", || (made_ahead(&bench.registry, "failed") == 2).then_some(())).await;
        drop((first, second));
        let failures = sluice_upstream::metrics::FAILURES.name;
        let refused = ["up", upstream_reasons::REFUSED.code()];
        assert_eq!(bench.registry.value(failures, &refused), Some(2), "{address}");
    });
}

#[test]
fn the_endpoints_that_will_be_picked_next_get_connections() {
    kit::on_worker(async |worker, registry| {
        let listeners: Vec<TcpListener> =
            (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut settings = ClusterSettings::clone(&ClusterSettings::bare());
        ratios(100, 300)(&mut settings);
        let cluster = cluster(settings);
        let member = |listener: &TcpListener| Member {
            target: Target::Ip(listener.local_addr().unwrap()),
            host: None,
            name: None,
            alternates: Vec::new(),
            traits: Arc::default(),
        };
        let members: Vec<Member> = listeners.iter().map(member).collect();
        cluster.publish(&members);
        let pools = Rc::new(ClusterPools::default());
        let (pool, options) = (pools.to(&cluster, &worker), Rc::default());
        let class = TrafficClass::Request;
        let pick = || {
            let (affinity, full) = (Affinity::default(), WhenFull::Refuse);
            pool.handle.pick_for_request(&worker, class, affinity, Tried::NOTHING, full).unwrap()
        };
        let (version, early) = (Version::Http11, false);
        let needs = ConnectionNeeds { class, http3: true, version, options: &options, early };
        let _request = pool.enter_request();
        let (first, _claim) = pick();
        pool.scripted.borrow_mut().push_back(ScriptedConnect::Real);
        let _taken = pool.take(&worker, &first, &needs).await.unwrap();
        // One request in flight, so that two more are expected.
        until_made(&registry, 2).await;
        for _ in 0..2 {
            let (next, _claim) = pick();
            assert_ne!(next.name, first.name);
            assert_eq!(pool.h1.idle_at(&next.name), 1, "{} was picked", next.name);
        }
        let (last, _claim) = pick();
        assert_eq!(pool.h1.idle_at(&last.name), 0);
    });
}
