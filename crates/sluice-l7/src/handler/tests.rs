//! Connections of clients over socket pairs, in front of scripted endpoints, on a clock that only the test advances.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{ErrorKind as IoErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use sluice_codec::request_memory::REQUEST_BYTES;
use sluice_codec::scripted::ScriptedPeer;
use sluice_core::Facts;
use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_io::RawStream;
use sluice_io::buffers::Charge;
use sluice_telemetry::Registry;

use super::*;
use crate::exchange::tests::kit;
use crate::metrics;
use crate::pools::ClusterPool;
use crate::reasons;
use crate::routes::{RuleOptions, Timeouts};

mod http1;
mod http2;
mod http3;

const SECOND: Duration = Duration::from_secs(1);

/// The time for request headers, and between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A chain that serves HTTP from one cluster.
struct Bench {
    worker: Rc<WorkerCx>,
    registry: Registry,
    handler: Rc<HttpHandler>,
    pool: Rc<ClusterPool>,
}

/// Runs a test on a chain whose plan is changed first.
fn on_bench(change: impl FnOnce(&mut HttpPlan), test: impl AsyncFnOnce(Bench)) {
    kit::on_worker(async |worker, registry| {
        // Only the connection has time-outs here.
        let timeouts = Timeouts { response: None, idle: None, ..Timeouts::default() };
        let options = RuleOptions { timeouts, ..RuleOptions::default() };
        let (mut plan, cluster) = kit::plan(options, &[], &[]);
        plan.options.head_timeout = HEAD_TIMEOUT;
        plan.options.idle_timeout = Some(IDLE_TIMEOUT);
        change(&mut plan);
        let handler = HttpHandler::new(&plan, &worker);
        let pool = handler.manager.shared.pools.to(&cluster, &worker);
        test(Bench { worker, registry, handler, pool }).await;
    });
}

/// Lets everything react to what has happened; the two ends of a connection are on this machine.
async fn turns() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

impl Bench {
    /// A client's connection, which the handler serves.
    async fn connect(&self) -> Client {
        self.connect_after(|_| {}).await
    }

    /// As [`Bench::connect`], for a connection of which something is known.
    async fn connect_after(&self, prepare: impl FnOnce(&Conn)) -> Client {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let source = self.worker.reactor.register(near).unwrap();
        let stream = Stream::Raw(RawStream::new(source));
        let info = ConnInfo::new(1, "web".into(), Peer::Unix, Peer::Unix, self.worker.now());
        let conn = Conn::enter(&self.worker, info);
        prepare(&conn);
        let ended = Rc::new(Cell::new(None));
        let serving = Rc::clone(&self.handler).handle(stream, Rc::clone(&conn));
        let (of_task, on_end) = (Rc::clone(&conn), Rc::clone(&ended));
        self.worker.spawn(async move {
            let (Ok(why) | Err(why)) = of_task.live(serving).await;
            on_end.set(Some(why));
        });
        turns().await;
        Client { socket: far, conn, ended }
    }

    /// Gives the next request an endpoint.
    fn endpoint(&self) -> ScriptedPeer {
        kit::connects(&self.pool, false)
    }

    /// Gives the next request an endpoint that responds at once.
    fn responds(&self, status: u16) {
        self.endpoint().does(kit::response(status, true));
    }

    /// Lets time pass.
    async fn pass(&self, time: Duration) {
        self.worker.clock.advance(time);
        self.worker.timers.expire();
        turns().await;
    }

    /// Sends requests that are responded to with 200; returns the most that were served while another task of the worker
    /// waited for its turn.
    async fn most_in_a_row(&self, client: &mut Client, requests: &[u8], count: i64) -> i64 {
        let served = {
            let registry = self.registry.clone();
            move || registry.value(metrics::CLUSTER_REQUESTS.name, &["app", "2xx"]).unwrap_or(0)
        };
        client.socket.write_all(requests).unwrap();
        let (mut before, mut most) = (0, 0);
        // It is always ready, behind the tasks that were ready before it.
        let other = poll_fn(move |cx| {
            let now = served();
            most = most.max(now - before);
            before = now;
            if now == count {
                return Poll::Ready(most);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        tokio::task::spawn_local(other).await.unwrap()
    }

    /// Takes the memory that requests may have, but for so many bytes.
    fn fill_memory(&self, left: usize) -> Charge {
        let (buffers, all) = (&self.worker.buffers, self.worker.limits.size(Limit::WorkerBuffers));
        buffers.charge_request(all - all / 16 - buffers.bytes_out() - left, true).unwrap()
    }

    /// The number of requests for which there was no memory.
    fn ended_for_memory(&self) -> i64 {
        let name = sluice_l4::metrics::LIMIT_REACHED.name;
        self.registry.value(name, &["worker_buffer_bytes"]).unwrap_or_default()
    }

    /// The number of messages that were refused with this code.
    fn faults(&self, code: &str) -> i64 {
        self.registry.value(metrics::FAULTS.name, &["web", code]).unwrap_or_default()
    }
}

/// The client's end of a connection; dropping it closes the connection.
struct Client {
    socket: UnixStream,
    conn: Rc<Conn>,
    ended: Rc<Cell<Option<Reason>>>,
}

impl Client {
    /// Sends something, and lets everything react.
    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
        turns().await;
    }

    /// Sends nothing more, but stays.
    async fn ends(&self) {
        self.socket.shutdown(std::net::Shutdown::Write).unwrap();
        turns().await;
    }

    /// What has been received since the last call, and whether the connection has been closed behind it.
    fn receive(&mut self) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        loop {
            let mut into = [0; 4096];
            match self.socket.read(&mut into) {
                Ok(0) => return (all, true),
                Ok(count) => all.extend_from_slice(&into[..count]),
                Err(error) if error.kind() == IoErrorKind::WouldBlock => return (all, false),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[track_caller]
    fn check_end(&self, expected: Option<Reason>) {
        let code = |reason: Option<Reason>| reason.map(Reason::code);
        assert_eq!(code(self.ended.get()), code(expected));
    }
}

// --- the choice of the version ---

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n";

/// The preface of a client that speaks HTTP/2, with its SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What is known about a connection before its first byte is read.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    Alpn(&'static [u8]),
    Protocol(sluice_core::Protocol),
}

/// Whether a client that sends these pieces is served over HTTP/2.
fn is_served_over_http2(versions: Versions, known: Known, pieces: &[&[u8]]) -> bool {
    let mut http2 = None;
    on_bench(
        |plan| plan.options.versions = versions,
        async |bench| {
            bench.responds(200);
            let mut client = bench
                .connect_after(|conn| match known {
                    Known::Nothing => {}
                    Known::Alpn(alpn) => {
                        conn.info.tls.set(kit::tls_facts(Some(alpn))).unwrap();
                    }
                    Known::Protocol(protocol) => {
                        conn.info.facts.set(Box::new(Facts::of(protocol))).unwrap();
                    }
                })
                .await;
            for piece in pieces {
                client.send(piece).await;
            }
            let (received, _) = client.receive();
            http2 = match received.get(3) {
                // The server's SETTINGS come first.
                Some(4) => Some(true),
                Some(b'P') => Some(false),
                _ => panic!("nothing was served: {received:?}"),
            };
        },
    );
    http2.unwrap()
}

#[test]
fn the_version_is_the_configured_one_or_else_what_is_known_or_else_what_the_first_bytes_say() {
    use Known::{Alpn, Nothing, Protocol};
    use Versions::{Any, Http1, Http2};
    for (versions, known, http2) in [
        (Http2, Nothing, true),
        (Http2, Alpn(b"http/1.1"), true),
        (Any, Alpn(b"h2"), true),
        (Any, Alpn(b"h2"), true),
        (Any, Protocol(HTTP2), true),
        (Http1, Alpn(b"h2"), false),
        (Any, Alpn(b"http/1.1"), false),
        (Any, Alpn(b"http/1.0"), false),
        (Any, Protocol(HTTP1), false),
    ] {
        let sent = if http2 { PREFACE } else { REQUEST };
        assert_eq!(is_served_over_http2(versions, known, &[sent]), http2, "{versions:?}");
    }
    for known in [Nothing, Alpn(b"other"), Protocol(sluice_core::Protocol::UNKNOWN)] {
        assert!(is_served_over_http2(Any, known, &[PREFACE]));
        assert!(!is_served_over_http2(Any, known, &[REQUEST]));
    }
}

#[test]
fn the_first_bytes_may_arrive_in_pieces() {
    // It begins like the preface.
    let request: &[u8] = b"PROPFIND / HTTP/1.1\r\nhost: app.test\r\n\r\n";
    for (sent, http2) in [(PREFACE, true), (REQUEST, false), (request, false)] {
        for cut in 1..sent.len() {
            let (first, second) = sent.split_at(cut);
            let served = is_served_over_http2(Versions::Any, Known::Nothing, &[first, second]);
            assert_eq!(served, http2, "cut at {cut}");
        }
    }
}

#[test]
fn a_client_that_does_not_show_its_version_is_not_waited_for_forever() {
    on_bench(
        |_| {},
        async |bench| {
            for sent in [&b""[..], b"PRI * HTTP"] {
                let mut client = bench.connect().await;
                client.send(sent).await;
                bench.pass(HEAD_TIMEOUT - SECOND).await;
                client.check_end(None);
                bench.pass(SECOND * 2).await;
                client.check_end(Some(reasons::HEAD_TIMEOUT));
                assert_eq!(client.receive(), (Vec::new(), true));
            }
            let client = bench.connect().await;
            client.ends().await;
            client.check_end(Some(end::DONE));
        },
    );
}
