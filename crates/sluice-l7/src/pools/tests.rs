//! Connections to endpoints on this machine: reused, shared, waited for and swept. The clock moves only when the test
//! says so.

use std::future::Future;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::pin::{Pin, pin};
use std::task::Poll;

use sluice_codec::Head;
use sluice_codec::h1::stream::H1Options;
use sluice_telemetry::Registry;
use sluice_upstream::Target;
use sluice_upstream::cluster::Member;
use sluice_upstream::plan::{ClusterPlan, ClusterSettings, ReusePlan};
use sluice_upstream::reasons as upstream_reasons;

use super::scripted::ScriptedConnect;
use super::shared::Connecting;
use super::*;
use crate::exchange::tests::kit;
use crate::metrics;

mod preconnect;

const SECOND: Duration = Duration::from_secs(1);

/// A pool in front of one endpoint.
struct Bench {
    worker: Rc<WorkerCx>,
    registry: Registry,
    listener: TcpListener,
    pools: Rc<ClusterPools>,
    pool: Rc<ClusterPool>,
    endpoint: Arc<EndpointState>,
    options: Rc<H1Options>,
}

type Taken = Result<PooledConn, ConnectFailure>;

fn on_bench(change: impl FnOnce(&mut ClusterSettings), test: impl AsyncFnOnce(Bench)) {
    kit::on_worker(async |worker, registry| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut settings = ClusterSettings::clone(&ClusterSettings::bare());
        change(&mut settings);
        let cluster = cluster(settings);
        let target = Target::Ip(listener.local_addr().unwrap());
        cluster.publish(&[Member {
            target,
            host: None,
            name: None,
            alternates: Vec::new(),
            traits: Arc::default(),
        }]);
        let endpoint = Arc::clone(&cluster.members().endpoints[0]);
        let pools = Rc::new(ClusterPools::default());
        let pool = pools.to(&cluster, &worker);
        let options = Rc::default();
        test(Bench { worker, registry, listener, pools, pool, endpoint, options }).await;
    });
}

fn cluster(settings: ClusterSettings) -> Arc<Cluster> {
    let plan = ClusterPlan { name: "up".into(), settings: Arc::new(settings), tls: None };
    Arc::new(Cluster::new(Arc::new(plan)))
}

/// Lets everything react until there is a result.
async fn until<T>(what: &str, mut result: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1_000_000 {
        if let Some(result) = result() {
            return result;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what} did not come");
}

/// The result of `task`; `None` if it still waits after everything has reacted.
async fn settled<F: Future>(mut task: Pin<&mut F>) -> Option<F::Output> {
    for _ in 0..32 {
        let polled = std::future::poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx)));
        if let Poll::Ready(result) = polled.await {
            return Some(result);
        }
        tokio::task::yield_now().await;
    }
    None
}

impl Bench {
    const fn needs(&self, class: TrafficClass) -> ConnectionNeeds<'_> {
        let (version, early) = (Version::Http11, false);
        ConnectionNeeds { class, http3: true, version, options: &self.options, early }
    }

    /// Takes a connection as the pool does outside of tests.
    fn take(&self, class: TrafficClass) -> impl Future<Output = Taken> {
        self.pool.scripted.borrow_mut().push_back(ScriptedConnect::Real);
        async move { self.pool.take(&self.worker, &self.endpoint, &self.needs(class)).await }
    }

    async fn takes(&self) -> PooledConn {
        self.take(TrafficClass::Request).await.unwrap()
    }

    fn take_idle(&self) -> Option<PooledConn> {
        let class = TrafficClass::Request;
        self.pool.take_idle(&self.worker, &self.endpoint, &self.needs(class))
    }

    /// The endpoint's end of the next connection.
    async fn accepts(&self) -> TcpStream {
        let (stream, _) = until("a connection", || self.listener.accept().ok()).await;
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Whether no other connection has been made.
    fn has_no_other(&self) -> bool {
        let other = self.listener.accept();
        other.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends a request on a connection, receives its response, and gives the connection back.
    async fn exchanges(&self, pooled: PooledConn, endpoint: &mut TcpStream) {
        let PooledConn::H1(taken) = pooled else { panic!("it speaks HTTP/1") };
        let (mut stream, ticket) = taken.into_parts();
        let head = Head::request("GET", "http", "app.test", "/");
        let worker = &self.worker;
        stream.send_head(worker, &head, true, false).unwrap();
        std::future::poll_fn(|cx| Poll::Ready(stream.push(cx, worker))).await.unwrap();
        receives(endpoint).await.unwrap();
        endpoint.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        let mut head = Head::default();
        std::future::poll_fn(|cx| stream.poll_recv_head(cx, worker, &mut head)).await.unwrap();
        self.pool.give_back(worker, &self.endpoint, stream, ticket);
    }

    fn reused(&self) -> i64 {
        self.registry.value(metrics::POOLED.name, &["up"]).unwrap_or_default()
    }

    fn advance(&self, time: Duration) {
        self.worker.clock.advance(time);
        self.worker.timers.expire();
    }
}

/// What an endpoint receives next; `None` if the connection was closed.
async fn receives(endpoint: &mut TcpStream) -> Option<Vec<u8>> {
    let mut data = [0; 1024];
    let count = until("something", || match endpoint.read(&mut data) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        result => Some(result.unwrap_or_default()),
    });
    let count = count.await;
    (count > 0).then(|| data[..count].to_vec())
}

const fn is_reused(pooled: &PooledConn) -> bool {
    matches!(pooled, PooledConn::H1(taken) if taken.is_reused())
}

// --- HTTP/1 ---

#[test]
fn a_connection_is_given_back_and_reused() {
    on_bench(
        |_| {},
        async |bench| {
            let pooled = bench.takes().await;
            let mut endpoint = bench.accepts().await;
            assert!(!is_reused(&pooled) && bench.reused() == 0);
            assert!(bench.take_idle().is_none(), "it carries one request at a time");
            bench.exchanges(pooled, &mut endpoint).await;
            for reused in 1..3 {
                let pooled = bench.takes().await;
                assert!(is_reused(&pooled) && bench.reused() == reused);
                bench.exchanges(pooled, &mut endpoint).await;
            }
            assert!(bench.has_no_other());
            // One whose exchange is not complete is closed.
            let Some(PooledConn::H1(taken)) = bench.take_idle() else { panic!("it is idle") };
            let (stream, ticket) = taken.into_parts();
            assert_eq!(ticket.requests, 3);
            bench.pool.give_back(&bench.worker, &bench.endpoint, stream, ticket);
            assert!(bench.take_idle().is_none());
            assert_eq!(receives(&mut endpoint).await, None);
        },
    );
}

#[test]
fn a_connection_that_the_endpoint_closed_is_not_reused() {
    on_bench(
        |_| {},
        async |bench| {
            let pooled = bench.takes().await;
            let mut endpoint = bench.accepts().await;
            bench.exchanges(pooled, &mut endpoint).await;
            drop(endpoint);
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert!(bench.take_idle().is_none());
            assert!(!is_reused(&bench.takes().await));
        },
    );
}

#[test]
fn requests_wait_for_a_connection_up_to_a_bound() {
    let limits = |settings: &mut ClusterSettings| {
        settings.connections_max = Some(1);
        settings.pending_max = 1;
    };
    on_bench(limits, async |bench| {
        let pooled = bench.takes().await;
        let mut endpoint = bench.accepts().await;
        let mut second = pin!(bench.take(TrafficClass::Request));
        assert!(settled(second.as_mut()).await.is_none());
        let third = bench.take(TrafficClass::Request).await.unwrap_err();
        assert_eq!(third.why, upstream_reasons::LIMIT);
        let detail = third.detail.unwrap();
        assert!(detail.contains("at most 1 request may wait (`limits.pending`)"), "{detail}");
        bench.exchanges(pooled, &mut endpoint).await;
        let pooled = second.await.unwrap();
        assert!(is_reused(&pooled));
        // It waits no longer, so another may.
        let mut fourth = pin!(bench.take(TrafficClass::Request));
        assert!(settled(fourth.as_mut()).await.is_none());
        bench.exchanges(pooled, &mut endpoint).await;
        assert!(is_reused(&fourth.await.unwrap()));
        assert!(bench.has_no_other());
    });
}

#[test]
fn a_connection_that_was_closed_makes_room_for_another() {
    on_bench(
        |settings| settings.connections_max = Some(1),
        async |bench| {
            let PooledConn::H1(taken) = bench.takes().await else { panic!("it speaks HTTP/1") };
            let mut waiting = pin!(bench.take(TrafficClass::Request));
            assert!(settled(waiting.as_mut()).await.is_none());
            let (stream, ticket) = taken.into_parts();
            bench.pool.give_back(&bench.worker, &bench.endpoint, stream, ticket);
            assert!(!is_reused(&waiting.await.unwrap()));
        },
    );
}

#[test]
fn nobody_waits_for_a_connection_longer_than_for_a_new_one() {
    on_bench(
        |settings| {
            settings.connections_max = Some(1);
            settings.connect_timeout = SECOND;
        },
        async |bench| {
            let _pooled = bench.takes().await;
            let mut waiting = pin!(bench.take(TrafficClass::Request));
            assert!(settled(waiting.as_mut()).await.is_none());
            bench.advance(SECOND - Duration::from_millis(1));
            assert!(settled(waiting.as_mut()).await.is_none());
            bench.advance(Duration::from_millis(1));
            assert_eq!(waiting.await.unwrap_err().why, upstream_reasons::LIMIT);
        },
    );
}

#[test]
fn the_calls_of_filters_have_a_bound_of_their_own() {
    let limits = |settings: &mut ClusterSettings| {
        settings.connections_max = Some(1);
        settings.pending_max = 0;
    };
    on_bench(limits, async |bench| {
        let pooled = bench.takes().await;
        let mut endpoint = bench.accepts().await;
        let refused = bench.take(TrafficClass::Request).await.unwrap_err();
        assert_eq!(refused.why, upstream_reasons::LIMIT);
        let mut call = pin!(bench.take(TrafficClass::SideCall));
        assert!(settled(call.as_mut()).await.is_none());
        bench.exchanges(pooled, &mut endpoint).await;
        assert!(is_reused(&call.await.unwrap()));
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_fails_every_request_that_waits() {
    for protocol in [HttpVersion::Http1, HttpVersion::Http2] {
        on_bench(
            |settings| settings.protocol = protocol,
            async |mut bench| {
                // Nobody listens there any more.
                bench.listener = TcpListener::bind("127.0.0.1:0").unwrap();
                for _ in 0..2 {
                    let (one, other) = tokio::join!(
                        bench.take(TrafficClass::Request),
                        bench.take(TrafficClass::Request)
                    );
                    for failed in [one, other] {
                        assert_eq!(failed.unwrap_err().why, upstream_reasons::REFUSED);
                    }
                    assert!(bench.pool.connecting(&bench.endpoint, HttpVersion::Http2).is_none());
                }
            },
        );
    }
}

// --- HTTP/2 ---

fn http2(settings: &mut ClusterSettings) {
    settings.protocol = HttpVersion::Http2;
}

#[track_caller]
fn shared(pooled: PooledConn) -> Multiplexed {
    match pooled {
        PooledConn::Shared(shared) => shared,
        other => panic!("{other:?} is not shared"),
    }
}

#[test]
fn one_connection_is_made_for_requests_that_come_together() {
    on_bench(http2, async |bench| {
        let (one, other) =
            tokio::join!(bench.take(TrafficClass::Request), bench.take(TrafficClass::Request));
        let (_one, _other) = (shared(one.unwrap()), shared(other.unwrap()));
        let _endpoint = bench.accepts().await;
        assert!(bench.pool.connecting(&bench.endpoint, HttpVersion::Http2).is_none());
        shared(bench.takes().await);
        assert_eq!(bench.reused(), 2);
        assert_eq!(bench.pool.shared.borrow()[&bench.endpoint.name].open[0].requests, 3);
        assert!(bench.has_no_other());
    });
}

#[test]
fn a_connection_has_room_for_so_many_streams() {
    let settings = |settings: &mut ClusterSettings| {
        http2(settings);
        settings.reuse.streams_max = 2;
        settings.connections_max = Some(1);
        settings.pending_max = 0;
    };
    on_bench(settings, async |bench| {
        let head = Head::request("GET", "http", "app.test", "/");
        let mut first = shared(bench.takes().await);
        let one = first.open(&head, true).await.unwrap();
        let mut second = shared(bench.takes().await);
        let _other = second.open(&head, true).await.unwrap();
        assert_eq!(first.open_streams(), 2);
        assert!(bench.take_idle().is_none());
        let full = bench.take(TrafficClass::Request).await.unwrap_err();
        assert_eq!(full.why, upstream_reasons::LIMIT);
        drop(one);
        shared(bench.takes().await);
    });
}

#[test]
fn a_part_of_the_streams_is_reserved_for_the_calls_of_filters() {
    let settings = |settings: &mut ClusterSettings| {
        http2(settings);
        settings.reuse.streams_max = 2;
        settings.connections_max = Some(2);
    };
    on_bench(settings, async |bench| {
        bench.pool.handle.cluster.reserve_for_side_calls();
        let head = Head::request("GET", "http", "app.test", "/");
        let mut connection = shared(bench.takes().await);
        let _stream = connection.open(&head, true).await.unwrap();
        let take =
            |class| bench.pool.take_idle(&bench.worker, &bench.endpoint, &bench.needs(class));
        assert!(take(TrafficClass::Request).is_none());
        assert!(take(TrafficClass::SideCall).is_some());
    });
}

#[test]
fn a_connection_with_blocked_streams_is_taken_only_if_no_other_may_be_made() {
    for connections_max in [1, 2] {
        let settings = |settings: &mut ClusterSettings| {
            http2(settings);
            settings.connections_max = Some(connections_max);
        };
        on_bench(settings, async |bench| {
            let head = Head::request("GET", "http", "app.test", "/");
            let mut stalled = shared(bench.takes().await);
            let mut stream = stalled.open(&head, true).await.unwrap();
            assert!(bench.take_idle().is_some());
            stream.set_blocked(&bench.worker, true, false).unwrap();
            assert!(bench.take_idle().is_none());
            let mut other = shared(bench.takes().await);
            let _stream = other.open(&head, true).await.unwrap();
            assert_eq!(stalled.open_streams(), if connections_max == 1 { 2 } else { 1 });
            stream.set_blocked(&bench.worker, false, false).unwrap();
            assert!(bench.take_idle().is_some());
        });
    }
}

#[test]
fn a_connection_that_may_carry_no_more_requests_is_not_taken() {
    let reuse = |change: fn(&mut ReusePlan)| {
        move |settings: &mut ClusterSettings| {
            http2(settings);
            change(&mut settings.reuse);
        }
    };
    on_bench(reuse(|reuse| reuse.requests_max = Some(2)), async |bench| {
        shared(bench.takes().await);
        assert!(bench.take_idle().is_some());
        assert!(bench.take_idle().is_none(), "it has carried two");
    });
    on_bench(reuse(|reuse| reuse.age_max = Some(SECOND)), async |bench| {
        shared(bench.takes().await);
        assert!(bench.take_idle().is_some());
        bench.advance(SECOND);
        assert!(bench.take_idle().is_none(), "it is too old");
    });
    on_bench(http2, async |bench| {
        shared(bench.takes().await);
        bench.pool.handle.cluster.renew();
        assert!(bench.take_idle().is_none(), "it was made under other settings");
    });
    on_bench(http2, async |bench| {
        shared(bench.takes().await);
        drop(bench.accepts().await);
        until("news of the end", || bench.take_idle().is_none().then_some(())).await;
    });
}

// --- sweeping ---

#[test]
fn idle_connections_are_not_kept_from_other_workers_that_wait() {
    for shares in [false, true] {
        let settings = |settings: &mut ClusterSettings| {
            if shares {
                http2(settings);
            }
        };
        on_bench(settings, async |bench| {
            let other = bench.pool.handle.cluster.pending_share(bench.pool.handle.class);
            let idle = async || {
                let pooled = bench.takes().await;
                if !shares {
                    let mut endpoint = bench.accepts().await;
                    bench.exchanges(pooled, &mut endpoint).await;
                }
                bench.pool.sweep(&bench.worker, &mut 9)
            };
            assert!(idle().await, "it is kept");
            other.enter(1);
            assert!(!bench.pool.sweep(&bench.worker, &mut 9), "it is closed for others");
            assert!(!idle().await, "and so are those that come back");
            other.leave(1);
            assert!(idle().await);
        });
    }
}

#[test]
fn the_sweep_closes_what_was_idle_for_too_long() {
    on_bench(
        |settings| settings.reuse.idle_timeout = SECOND * 10,
        async |bench| {
            assert!(!bench.pool.sweep(&bench.worker, &mut 9), "there is nothing to sweep");
            let pooled = bench.takes().await;
            let mut endpoint = bench.accepts().await;
            bench.exchanges(pooled, &mut endpoint).await;
            bench.advance(SECOND * 9);
            assert!(bench.pool.sweep(&bench.worker, &mut 9));
            bench.advance(SECOND);
            assert!(!bench.pool.sweep(&bench.worker, &mut 9));
            assert_eq!(receives(&mut endpoint).await, None);
        },
    );
}

#[test]
fn the_sweep_spares_shared_connections_in_use() {
    let settings = |settings: &mut ClusterSettings| {
        http2(settings);
        settings.reuse.idle_timeout = SECOND * 10;
    };
    on_bench(settings, async |bench| {
        let head = Head::request("GET", "http", "app.test", "/");
        let mut connection = shared(bench.takes().await);
        let stream = connection.open(&head, true).await.unwrap();
        for _ in 0..3 {
            bench.advance(SECOND * 9);
            assert!(bench.pool.sweep(&bench.worker, &mut 9));
        }
        drop(stream);
        // It is idle since it was last seen in use, or taken.
        bench.advance(SECOND * 9);
        assert!(bench.pool.sweep(&bench.worker, &mut 9));
        assert!(bench.take_idle().is_some());
        bench.advance(SECOND * 9);
        assert!(bench.pool.sweep(&bench.worker, &mut 9));
        bench.advance(SECOND);
        assert!(!bench.pool.sweep(&bench.worker, &mut 9));
        assert!(bench.take_idle().is_none());
    });
}

#[test]
fn the_sweep_closes_shared_connections_that_nobody_may_use() {
    let check = |leaves: fn(&Bench)| {
        on_bench(http2, async |bench| {
            let head = Head::request("GET", "http", "app.test", "/");
            let mut connection = shared(bench.takes().await);
            let _stream = connection.open(&head, true).await.unwrap();
            assert!(bench.pool.sweep(&bench.worker, &mut 9));
            leaves(&bench);
            assert!(!bench.pool.sweep(&bench.worker, &mut 9), "its streams go on without the pool");
            assert!(connection.is_alive());
        });
    };
    check(|bench| drop(bench.pool.handle.cluster.publish(&[])));
    check(|bench| bench.pool.handle.cluster.renew());
    on_bench(http2, async |bench| {
        shared(bench.takes().await);
        drop(bench.accepts().await);
        until("news of the end", || (!bench.pool.sweep(&bench.worker, &mut 9)).then_some(())).await;
    });
}

#[test]
fn the_sweep_leaves_a_connection_alone_that_is_being_made() {
    on_bench(http2, async |bench| {
        let now = bench.worker.now();
        let connecting = Connecting::begin(&bench.pool, &bench.endpoint, HttpVersion::Http2, now);
        assert!(bench.pool.sweep(&bench.worker, &mut 9));
        assert!(bench.pool.connecting(&bench.endpoint, HttpVersion::Http2).is_some());
        drop(connecting);
        assert!(!bench.pool.sweep(&bench.worker, &mut 9));
    });
}

#[test]
fn who_needs_another_version_does_not_wait_for_a_connection_that_is_being_made() {
    let same = |settings: &mut ClusterSettings| settings.protocol = HttpVersion::Same;
    on_bench(same, async |bench| {
        let (pool, now) = (&bench.pool, bench.worker.now());
        let waits = |version| pool.connecting(&bench.endpoint, version).is_some();
        let http2 = Connecting::begin(pool, &bench.endpoint, HttpVersion::Http2, now);
        assert_eq!([waits(HttpVersion::Http1), waits(HttpVersion::Http3)], [false, false]);
        let http3 = Connecting::begin(pool, &bench.endpoint, HttpVersion::Http3, now);
        assert_eq!([waits(HttpVersion::Http2), waits(HttpVersion::Http3)], [true, true]);
        // One over HTTP/1, although others are in flight.
        let taken = bench.takes().await;
        assert!(matches!(taken, PooledConn::H1(_)));
        bench.accepts().await;
        drop(http2);
        assert_eq!([waits(HttpVersion::Http2), waits(HttpVersion::Http3)], [false, true]);
        drop(http3);
        assert_eq!([waits(HttpVersion::Http2), waits(HttpVersion::Http3)], [false, false]);
    });
}

// --- pools ---

#[test]
fn a_cluster_has_one_pool_until_another_replaces_it() {
    on_bench(
        |_| {},
        async |bench| {
            let same = bench.pools.to(&bench.pool.handle.cluster, &bench.worker);
            assert!(Rc::ptr_eq(&same, &bench.pool));
            let new = cluster(ClusterSettings::clone(&ClusterSettings::bare()));
            let other = bench.pools.to(&new, &bench.worker);
            assert!(!Rc::ptr_eq(&other, &bench.pool));
            assert!(Rc::ptr_eq(&other, &bench.pools.to(&new, &bench.worker)));
            bench.pools.keep_only(|name| &**name == "up");
            assert!(Rc::ptr_eq(&other, &bench.pools.to(&new, &bench.worker)));
            bench.pools.keep_only(|_| false);
            assert!(!Rc::ptr_eq(&other, &bench.pools.to(&new, &bench.worker)));
        },
    );
}
