//! A worker with a clock that stands still, and connections over socket pairs.
//!
//! Owns: the runtime of a test and the client's end. Refuses to know: the phases. Keeps: time passes only when the test
//! says so; what was sent is there after a few turns of the event loop, since the two ends are on this machine.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::{Clock, Limits};
use sluice_io::{Budget, Conn, RawStream, Source, Stream, WorkerCx};
use sluice_telemetry::{LogQueue, Registry};

/// Runs `test` on a worker with these limits, which counts in the registry.
pub(super) fn on_worker(limits: Limits, test: impl AsyncFnOnce(Rc<WorkerCx>, Registry)) {
    let registry = Registry::new();
    on(&registry, limits, async |worker| test(worker, registry.clone()).await);
}

/// As [`on_worker`], with the registry given.
pub(super) fn on(registry: &Registry, limits: Limits, test: impl AsyncFnOnce(Rc<WorkerCx>)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        let shard = registry.shard(1);
        let log = LogQueue::nowhere(&shard);
        let worker = WorkerCx::new(0, Clock::held(), shard, log, limits, &Budget::unlimited());
        worker.spawn(Rc::clone(&worker.reactor).drive());
        test(worker).await;
    });
}

/// Lets every task react to what has happened.
pub(super) async fn turns() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass.
pub(super) fn pass(worker: &WorkerCx, time: Duration) {
    worker.clock.advance(time);
    worker.timers.expire();
}

/// The result of `task`; `None` if it still waits after everything has reacted.
pub(super) async fn settled<F: Future>(mut task: Pin<&mut F>) -> Option<F::Output> {
    for _ in 0..16 {
        let polled = poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx)));
        if let Poll::Ready(result) = polled.await {
            return Some(result);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// A connection from `peer` on the worker.
pub(super) fn conn(worker: &Rc<WorkerCx>, peer: Peer) -> Rc<Conn> {
    let info = ConnInfo::new(1, "l".into(), peer, Peer::Unix, worker.now());
    Conn::enter(worker, info)
}

/// The two ends of a connection.
pub(super) fn pair(worker: &WorkerCx) -> (Source, Client) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (worker.reactor.register(near).unwrap(), Client(far))
}

/// As [`pair`], as a stream.
pub(super) fn stream(worker: &WorkerCx) -> (Stream, Client) {
    let (source, client) = pair(worker);
    (Stream::Raw(RawStream::new(source)), client)
}

/// The client's end; dropping it closes the connection.
pub(super) struct Client(UnixStream);

impl Client {
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends nothing more, but stays.
    pub(super) fn ends(&self) {
        self.0.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// What has been received; `None` at the end.
    pub(super) fn received(&mut self) -> Option<Vec<u8>> {
        let mut into = [0; 1024];
        match self.0.read(&mut into) {
            Ok(0) => None,
            Ok(count) => Some(into[..count].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Everything that a stream still holds, to its end.
pub(super) async fn rest(stream: &mut Stream, worker: &WorkerCx) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut into = [0; 1024];
        match poll_fn(|cx| stream.poll_recv(cx, worker, &mut into)).await.unwrap() {
            0 => return all,
            count => all.extend_from_slice(&into[..count]),
        }
    }
}
