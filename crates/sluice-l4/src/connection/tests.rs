//! The phases of a connection over a socket pair, on a clock that only the test advances.

use std::cell::RefCell;
use std::sync::Arc;

use sluice_core::Limits;
use sluice_io::Admit::{Now, Wait};

use self::kit::{Client, conn, on_worker, pass, rest, settled, turns};
use super::*;
use crate::chain::{ChainPlan, HandlerPlan};
use crate::inspect::Needs;
use crate::inspect::redis::REDIS;
use crate::inspect::tests::{hello, records};
use crate::listener::{ListenerPlan, OnTimeout};
use crate::select::Criteria;

mod first_bytes;
mod kit;
mod proxy_header;

const SECOND: Duration = Duration::from_secs(1);

// --- filters ---

/// A filter with a name, which notes what happens to it.
#[derive(Debug)]
struct Noting {
    name: &'static str,
    verdict: Option<Verdict>,
    notes: Rc<RefCell<Vec<String>>>,
}

impl ConnectionFilter for Noting {
    fn admit(&self, _: &ConnInfo) -> Admit {
        self.notes.borrow_mut().push(format!("{} asked", self.name));
        self.verdict.map_or_else(|| Wait(Box::pin(std::future::pending())), Now)
    }

    fn ended(&self, _: &ConnInfo) {
        self.notes.borrow_mut().push(format!("{} ended", self.name));
    }
}

/// Asks filters with these verdicts, ends the connection, and returns the result with what the filters noted.
async fn judged(
    worker: &Rc<WorkerCx>,
    verdicts: &[Option<Verdict>],
) -> (Result<(), Reason>, Vec<String>) {
    let notes = Rc::default();
    let filter = |(index, verdict): (usize, &Option<Verdict>)| -> Rc<dyn ConnectionFilter> {
        let name = ["first", "second", "third"][index];
        Rc::new(Noting { name, verdict: *verdict, notes: Rc::clone(&notes) })
    };
    let filters: Vec<_> = verdicts.iter().enumerate().map(filter).collect();
    let mut admitted = Admitted { conn: conn(worker, Peer::Unix), filters: Box::default() };
    let result = admitted.judge(&filters).await;
    drop(admitted);
    drop(filters);
    (result, notes.take())
}

#[test]
fn filters_are_asked_in_order_and_those_that_admitted_hear_of_the_end() {
    on_worker(Limits::default(), async |worker, _| {
        let (no, yes) = (Some(Verdict::Reject(reasons::DENIED)), Some(Verdict::Continue));
        let (result, notes) = judged(&worker, &[yes, yes]).await;
        assert_eq!(result, Ok(()));
        assert_eq!(notes, ["first asked", "second asked", "first ended", "second ended"]);
        let (result, notes) = judged(&worker, &[yes, no, yes]).await;
        assert_eq!(result, Err(reasons::DENIED));
        assert_eq!(notes, ["first asked", "second asked", "first ended"]);
    });
}

#[test]
fn a_filter_that_does_not_decide_ends_the_connection_after_a_while() {
    let mut limits = Limits::default();
    limits.set(Limit::FilterWait, 7).unwrap();
    on_worker(limits, async |worker, _| {
        let mut judging = std::pin::pin!(judged(&worker, &[None]));
        assert_eq!(settled(judging.as_mut()).await, None);
        pass(&worker, SECOND * 6);
        assert_eq!(settled(judging.as_mut()).await, None);
        pass(&worker, SECOND * 2);
        let (result, notes) = judging.await;
        assert_eq!(result, Err(reasons::FILTER_TIMEOUT));
        assert_eq!(notes, ["first asked"], "it admitted nobody, so it hears of no end");
    });
}

// --- a whole life ---

/// How the handler of a test ends.
#[derive(Clone, Copy, Debug)]
enum Handling {
    /// It reads to the end and is done.
    Reads,
    Panics,
    Never,
}

#[derive(Debug)]
struct Handler {
    handling: Handling,
    got: Rc<RefCell<Vec<u8>>>,
}

impl HandlerPlan for Handling {
    fn on_worker(&self, worker: &Rc<WorkerCx>) -> Rc<dyn sluice_io::StreamHandler> {
        Rc::new(Handler { handling: *self, got: worker.local(RefCell::default) })
    }
}

impl sluice_io::StreamHandler for Handler {
    fn handle(self: Rc<Self>, mut stream: Stream, conn: Rc<Conn>) -> LocalFuture<Reason> {
        Box::pin(async move {
            match self.handling {
                Handling::Reads => *self.got.borrow_mut() = rest(&mut stream, &conn.worker).await,
                Handling::Panics => panic!("a handler of a test panics"),
                Handling::Never => std::future::pending().await,
            }
            end::DONE
        })
    }
}

/// A listener with one chain, for Redis, whose handler does this.
fn listener(worker: &Rc<WorkerCx>, handling: Handling) -> Rc<Listener> {
    let criteria = Criteria { protocols: vec![REDIS], ..Criteria::default() };
    let mut needs = Needs::of(REDIS);
    needs.add(tls::TLS);
    let chain = ChainPlan {
        name: "cache".into(),
        transport: Transport::Untouched,
        filters: Vec::new(),
        handler: Some(Arc::new(handling)),
    };
    let plan = ListenerPlan {
        name: "l".into(),
        filters: Vec::new(),
        original_destination: false,
        proxy_protocol: None,
        inspect: InspectPlan {
            needs,
            timeout: SECOND,
            bytes: 4096,
            on_timeout: OnTimeout::Continue,
        },
        table: ChainTable::build(&[criteria]).unwrap(),
        chains: Arc::new(vec![chain]),
    };
    Listener::on_worker(Arc::new(plan), worker)
}

fn connect(listener: &Rc<Listener>, worker: &Rc<WorkerCx>) -> Client {
    let (source, client) = kit::pair(worker);
    start(listener, worker, source, Peer::Unix, Peer::Unix);
    client
}

const COMMAND: &[u8] = b"*1\r\n$4\r\nPING\r\n";

#[test]
fn the_handler_gets_every_byte_and_the_end_is_counted_once() {
    on_worker(Limits::default(), async |worker, registry| {
        let listener = listener(&worker, Handling::Reads);
        let mut client = connect(&listener, &worker);
        client.send(COMMAND);
        turns().await;
        let active = || registry.value(metrics::ACTIVE.name, &["l"]);
        assert_eq!((worker.connections.len(), active()), (1, Some(1)));
        client.send(b"more");
        drop(client);
        turns().await;
        let got = worker.local(RefCell::<Vec<u8>>::default).take();
        assert_eq!(got, [COMMAND, b"more"].concat());
        assert_eq!((worker.connections.len(), active()), (0, Some(0)));
        let value = |name, labels: &[&str]| registry.value(name, labels);
        assert_eq!(value(metrics::ACCEPTED.name, &["l"]), Some(1));
        assert_eq!(value(metrics::CHAIN.name, &["l", "cache"]), Some(1));
        assert_eq!(value(metrics::ENDED.name, &["l", end::DONE.code()]), Some(1));
    });
}

/// Checks the reason of a connection that sent `bytes`.
#[track_caller]
fn check_end(handling: Handling, bytes: &[u8], kill: Option<Reason>, expected: Reason) {
    on_worker(Limits::default(), async |worker, registry| {
        let listener = listener(&worker, handling);
        let mut client = connect(&listener, &worker);
        client.send(bytes);
        turns().await;
        if let Some(why) = kill {
            worker.connections.list().iter().for_each(|conn| conn.kill(why));
            turns().await;
        }
        let ended = registry.value(metrics::ENDED.name, &["l", expected.code()]);
        assert_eq!((ended, worker.connections.len()), (Some(1), 0), "{expected}");
        assert_eq!(registry.value(metrics::ACTIVE.name, &["l"]), Some(0));
    });
}

#[test]
fn every_connection_ends_with_one_reason() {
    check_end(Handling::Never, COMMAND, Some(end::FORCED), end::FORCED);
    check_end(Handling::Never, COMMAND, Some(end::DRAIN), end::DRAIN);
    // Killed while it is inspected.
    check_end(Handling::Never, b"*1\r\n", Some(end::FORCED), end::FORCED);
    check_end(Handling::Panics, COMMAND, None, end::WORKER_PANIC);
    check_end(Handling::Reads, b"SSH-2.0-x\r\n", None, reasons::UNMATCHED);
}

#[test]
fn a_worker_that_ends_leaves_no_connection_without_a_reason() {
    let registry = sluice_telemetry::Registry::new();
    kit::on(&registry, Limits::default(), async |worker| {
        let listener = listener(&worker, Handling::Never);
        connect(&listener, &worker).send(COMMAND);
        turns().await;
        assert_eq!(worker.connections.len(), 1);
    });
    // The runtime has dropped the task.
    assert_eq!(registry.value(metrics::ENDED.name, &["l", end::FORCED.code()]), Some(1));
}

#[test]
fn a_connection_beyond_the_limit_of_the_worker_is_refused() {
    let mut limits = Limits::default();
    limits.set(Limit::WorkerConnections, 16).unwrap();
    on_worker(limits, async |worker, registry| {
        let listener = listener(&worker, Handling::Never);
        let _served: Vec<Client> = (0..16).map(|_| connect(&listener, &worker)).collect();
        let mut refused = connect(&listener, &worker);
        turns().await;
        assert_eq!(refused.received(), None, "it is closed");
        assert_eq!(worker.connections.len(), 16);
        let value = |name, labels: &[&str]| registry.value(name, labels);
        assert_eq!(value(metrics::ENDED.name, &["l", reasons::LIMIT.code()]), Some(1));
        let limit = Limit::WorkerConnections.def().name;
        assert_eq!(value(metrics::LIMIT_REACHED.name, &[limit]), Some(1));
        assert_eq!(value(metrics::ACCEPTED.name, &["l"]), Some(17));
    });
}

#[test]
fn a_tls_client_that_no_chain_serves_gets_an_alert() {
    on_worker(Limits::default(), async |worker, _| {
        let listener = listener(&worker, Handling::Never);
        let mut client = connect(&listener, &worker);
        client.send(&records(&hello(&[]), 16_384));
        turns().await;
        let unrecognized_name = [21, 3, 3, 0, 2, 2, 112];
        assert_eq!(client.received(), Some(unrecognized_name.to_vec()));
        let mut client = connect(&listener, &worker);
        client.send(b"SSH-2.0-x\r\n");
        turns().await;
        assert_eq!(client.received(), None, "any other client gets nothing");
    });
}
