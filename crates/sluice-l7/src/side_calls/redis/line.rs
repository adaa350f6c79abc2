//! A worker's connection to a Redis server, which all its requests share.
//!
//! Owns: the queue of commands, the connection, the order of replies. Refuses to know: commands, and how long a caller waits.
//! Keeps: no command is sent twice; a server that is away is attempted at most ten times a second, and callers learn at once
//! that it is; a connection that has fallen silent is given up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::{Moment, SecretText};
use sluice_io::buffers::SCRATCH;
use sluice_io::timers::Timer;
use sluice_io::{Stream, WorkerCx};
use sluice_l4::filters::LiveSecret;
use sluice_upstream::cluster::{Affinity, Claim};
use sluice_upstream::connector::{self, ConnectFailure, Preface};
use sluice_upstream::{Cluster, ClusterHandle};
use tokio::sync::oneshot;

use super::resp::{self, RespValue};
use crate::reasons;
use crate::side_calls::SideCallError;
use crate::worker::HttpWorker;

/// How long a server is left alone after it could not be reached.
const REST: Duration = Duration::from_millis(100);

/// A server, and who asks it.
#[derive(Clone, Debug)]
pub(crate) struct RedisServer {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<LiveSecret<SecretText>>,
}

impl RedisServer {
    fn is(&self, other: &Self) -> bool {
        let bytes = |of: &Self| of.password.as_ref().map(|secret| secret.current());
        Arc::ptr_eq(&self.cluster, &other.cluster)
            && self.user == other.user
            && bytes(self).as_deref().map(SecretText::bytes)
                == bytes(other).as_deref().map(SecretText::bytes)
    }
}

/// The connection to a server; it is closed when the last user drops it.
pub(crate) struct RedisLine(Rc<LineState>);

impl fmt::Debug for RedisLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisLine({})", self.0.server.cluster.name)
    }
}

impl Drop for RedisLine {
    fn drop(&mut self) {
        self.0.closed.set(true);
        self.0.wake();
    }
}

/// The connections of a worker.
#[derive(Debug, Default)]
struct RedisLines(RefCell<Vec<Weak<RedisLine>>>);

/// A command that waits for being sent, or for its reply.
struct QueuedCommand {
    command: Vec<u8>,
    reply: oneshot::Sender<Result<RespValue, SideCallError>>,
}

struct LineState {
    server: RedisServer,
    handle: Rc<ClusterHandle>,
    waiting: RefCell<VecDeque<QueuedCommand>>,
    /// Commands that were sent and have no reply yet.
    in_flight: Cell<usize>,
    /// Whether a task serves the line.
    served: Cell<bool>,
    closed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Until when the server is left alone, and why.
    rest: RefCell<Option<(Moment, SideCallError)>>,
}

impl LineState {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ends everything that waits for being sent, and leaves the server alone for a while.
    fn fail(&self, now: Moment, error: &SideCallError) {
        *self.rest.borrow_mut() = Some((now.after(REST), error.clone()));
        for asked in self.waiting.take() {
            let _ = asked.reply.send(Err(error.clone()));
        }
    }
}

/// The reply to a command, or why there is none.
pub(crate) type Replied = oneshot::Receiver<Result<RespValue, SideCallError>>;

impl RedisLine {
    /// The connection of a worker to a server; the users of a server share it.
    pub(crate) fn of(worker: &Rc<WorkerCx>, server: &RedisServer) -> Rc<Self> {
        let lines = worker.local(RedisLines::default);
        let mut lines = lines.0.borrow_mut();
        lines.retain(|line| line.strong_count() > 0);
        let known = lines.iter().filter_map(Weak::upgrade).find(|line| line.0.server.is(server));
        known.unwrap_or_else(|| {
            let pool = HttpWorker::of(worker).pools.to(&server.cluster, worker);
            let line = Rc::new(Self(Rc::new(LineState {
                server: server.clone(),
                handle: Rc::clone(&pool.handle),
                waiting: RefCell::default(),
                in_flight: Cell::default(),
                served: Cell::default(),
                closed: Cell::default(),
                waker: RefCell::default(),
                rest: RefCell::default(),
            })));
            lines.push(Rc::downgrade(&line));
            line
        })
    }

    /// The cluster of the server.
    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.0.server.cluster
    }

    /// Sends a command with the others of this turn. Dropping the receiver does not take it back once it is sent.
    ///
    /// # Errors
    /// Why it is not sent: the server is away, or too many commands wait for their replies.
    pub(crate) fn ask(
        &self,
        worker: &Rc<WorkerCx>,
        command: Vec<u8>,
    ) -> Result<Replied, SideCallError> {
        let line = &self.0;
        if let Some((until, error)) = &*line.rest.borrow()
            && worker.now() < *until
        {
            return Err(error.clone());
        }
        let mut waiting = line.waiting.borrow_mut();
        let max = worker.limits.size(Limit::SideCalls);
        if waiting.len() + line.in_flight.get() >= max {
            waiting.retain(|asked| !asked.reply.is_closed());
        }
        if waiting.len() + line.in_flight.get() >= max {
            sluice_l4::metrics::count_limit(worker, Limit::SideCalls);
            let detail = format!("{max} commands wait for replies (`limits.side_calls`)");
            let why = reasons::SIDE_CALL_LIMIT;
            return Err(SideCallError { why, detail: Some(detail.into()) });
        }
        let (reply, replied) = oneshot::channel();
        waiting.push_back(QueuedCommand { command, reply });
        drop(waiting);
        if line.served.replace(true) {
            line.wake();
        } else {
            worker.spawn(serve(Rc::clone(line), Rc::clone(worker)));
        }
        Ok(replied)
    }
}

/// Connects for as long as there is something to send.
async fn serve(line: Rc<LineState>, worker: Rc<WorkerCx>) {
    while !line.closed.get() && !line.waiting.borrow().is_empty() {
        match connect(&line, &worker).await {
            Ok(reached) => {
                let mut conversation = Conversation::new(&line, &worker, reached);
                let ended = poll_fn(|cx| conversation.poll(cx)).await;
                let replies = conversation.replies;
                conversation.end(&ended);
                // One that ends without a single reply would be made again and again.
                if let (Err(error), 0) = (ended, replies) {
                    line.fail(worker.now(), &error);
                }
            }
            Err(error) => line.fail(worker.now(), &error),
        }
    }
    line.served.set(false);
}

/// A connection to a server.
struct ReachedServer {
    /// The cluster of the line, or one that serves in its place.
    handle: Rc<ClusterHandle>,
    stream: Stream,
    claim: Claim,
}

async fn connect(line: &LineState, worker: &Rc<WorkerCx>) -> Result<ReachedServer, SideCallError> {
    let started = worker.now();
    let (handle, picked) = line.handle.pick_or_fall_back(worker, Affinity::default());
    let claim = picked.map_err(|why| SideCallError { why, detail: handle.shortage(why) })?;
    let (plan, endpoint) = (handle.cluster.plan(), Arc::clone(claim.endpoint()));
    let preface = Preface::default();
    let reaching = connector::reach(&plan, &endpoint, worker, &preface);
    let by = started.after(plan.connect_timeout);
    let reached = Timer::new(&worker.timers).until(by, reaching).await;
    match reached.unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(plan.connect_timeout))) {
        Ok(stream) => {
            handle.note_connected(worker, &endpoint, started);
            Ok(ReachedServer { handle, stream, claim })
        }
        Err(failure) => {
            handle.note_failure(worker, &endpoint, failure.why);
            let detail = failure.attempt(Arc::clone(&endpoint.name)).to_string();
            Err(SideCallError { why: failure.why, detail: Some(detail.into()) })
        }
    }
}

/// What a command that was sent waits for.
enum Awaited {
    /// The reply to the login.
    Login,
    /// The reply to a command.
    Reply(oneshot::Sender<Result<RespValue, SideCallError>>),
}

/// A connection in use.
struct Conversation<'a> {
    line: &'a LineState,
    worker: &'a Rc<WorkerCx>,
    reached: ReachedServer,
    awaited: VecDeque<Awaited>,
    received: Vec<u8>,
    /// Given up if nothing arrives until then.
    silence: Timer,
    silence_max: Duration,
    /// Whether no further command is sent on it.
    leaving: bool,
    replies: u64,
    login: Option<Vec<u8>>,
}

impl<'a> Conversation<'a> {
    fn new(line: &'a LineState, worker: &'a Rc<WorkerCx>, reached: ReachedServer) -> Self {
        let silence_max = reached.handle.cluster.plan().connect_timeout;
        Self {
            line,
            worker,
            reached,
            awaited: VecDeque::new(),
            received: Vec::new(),
            silence: Timer::new(&worker.timers),
            silence_max,
            leaving: false,
            replies: 0,
            login: login(&line.server),
        }
    }

    /// Sends and receives until the connection is not needed any more, or it fails.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SideCallError>> {
        *self.line.waker.borrow_mut() = Some(cx.waker().clone());
        loop {
            match self.poll_turn(cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.awaited.is_empty() && (self.leaving || self.line.closed.get()) {
            return Poll::Ready(Ok(()));
        }
        if !self.awaited.is_empty() && self.silence.poll(cx).is_ready() {
            let detail = format!("no reply within {} ms", self.silence_max.as_millis());
            return Poll::Ready(Err(error(reasons::SIDE_CALL_TIMEOUT, detail)));
        }
        Poll::Pending
    }

    /// Sends what can be sent and receives what has arrived; returns whether there may be more of either.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Result<bool, SideCallError> {
        let lost = |failed: std::io::Error| error(reasons::UPSTREAM_CUT, failed.to_string());
        let mut more = false;
        if let Poll::Ready(flushed) = self.reached.stream.poll_flushed(cx) {
            flushed.map_err(lost)?;
            let batch = self.next_batch();
            if !batch.is_empty() {
                self.reached.stream.send(cx, self.worker, &batch).map_err(lost)?;
                more = true;
            }
        }
        let (stream, received) = (&mut self.reached.stream, &mut self.received);
        let read = self.worker.with_scratch(|scratch| {
            let read = stream.poll_recv(cx, self.worker, scratch);
            if let Poll::Ready(Ok(count)) = read {
                received.extend_from_slice(&scratch[..count]);
            }
            read
        });
        match read {
            Poll::Pending => Ok(more),
            Poll::Ready(Ok(0)) => {
                Err(error(reasons::UPSTREAM_CUT, "the server closed the connection".to_owned()))
            }
            Poll::Ready(Ok(_)) => self.take_replies().map(|()| true),
            Poll::Ready(Err(failed)) => Err(lost(failed)),
        }
    }

    /// The next commands, as many as fit into one write, and the login before the first.
    fn next_batch(&mut self) -> Vec<u8> {
        let mut batch = Vec::new();
        let ReachedServer { handle, claim, .. } = &self.reached;
        let endpoint = claim.endpoint();
        // All workers should ask the same server, so that none stays with one that serves in its place.
        let returns =
            !Rc::ptr_eq(handle, &self.line.handle) && self.line.handle.cluster.has_usable();
        self.leaving |= returns || !endpoint.may_continue() || !handle.has_member(&endpoint.name);
        if self.leaving {
            return batch;
        }
        let mut waiting = self.line.waiting.borrow_mut();
        if !waiting.is_empty()
            && let Some(login) = self.login.take()
        {
            batch = login;
            self.awaited.push_back(Awaited::Login);
        }
        while let Some(asked) = waiting.front() {
            if batch.len() + asked.command.len() > SCRATCH {
                break;
            }
            let Some(asked) = waiting.pop_front() else { break };
            // The caller has given up before it was sent.
            if asked.reply.is_closed() {
                continue;
            }
            if self.awaited.is_empty() {
                self.silence.set(self.worker.now().after(self.silence_max));
            }
            batch.extend_from_slice(&asked.command);
            self.awaited.push_back(Awaited::Reply(asked.reply));
        }
        self.line.in_flight.set(self.awaited.len());
        batch
    }

    /// Hands out the replies that are complete.
    fn take_replies(&mut self) -> Result<(), SideCallError> {
        let malformed = |what: String| error(reasons::SIDE_CALL_REDIS, what);
        let mut at = 0;
        while let Some((value, length)) =
            resp::read(&self.received[at..]).map_err(|fault| malformed(fault.to_string()))?
        {
            at += length;
            match self.awaited.pop_front() {
                Some(Awaited::Login) => {
                    if let RespValue::Error(what) = value {
                        return Err(malformed(format!("the login failed: {what}")));
                    }
                }
                Some(Awaited::Reply(reply)) => {
                    self.replies += 1;
                    self.leaving |= is_elsewhere(&value);
                    let _ = reply.send(Ok(value));
                }
                None => return Err(malformed("a reply to no command".to_owned())),
            }
            self.silence.set(self.worker.now().after(self.silence_max));
        }
        self.received.drain(..at);
        self.line.in_flight.set(self.awaited.len());
        Ok(())
    }

    /// Ends what waits for replies.
    fn end(mut self, ended: &Result<(), SideCallError>) {
        self.line.in_flight.set(0);
        let Err(error) = ended else { return };
        for awaited in std::mem::take(&mut self.awaited) {
            if let Awaited::Reply(reply) = awaited {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

fn error(why: sluice_core::Reason, detail: String) -> SideCallError {
    SideCallError { why, detail: Some(detail.into()) }
}

/// Whether the server does not take writes (any more): another one may.
fn is_elsewhere(value: &RespValue) -> bool {
    let codes = ["READONLY", "LOADING", "MASTERDOWN", "MISCONF"];
    matches!(value, RespValue::Error(what) if codes.iter().any(|code| what.starts_with(code)))
}

fn login(server: &RedisServer) -> Option<Vec<u8>> {
    let password = server.password.as_ref()?.current();
    let mut words = vec![&b"AUTH"[..]];
    words.extend(server.user.as_ref().map(String::as_bytes));
    words.push(password.bytes());
    let mut out = Vec::new();
    resp::write(&mut out, words.into_iter());
    Some(out)
}
