//! From a cluster to a stream: picks an endpoint, connects, sends the preface, performs the TLS handshake; retries with
//! another endpoint if that fails.
//!
//! Owns: the attempts for one connection and what they reveal about endpoints. Refuses to know: the content of the
//! preface. Keeps: each endpoint is attempted once per connection; every attempt is in the connection's record; nothing
//! from the client is sent before an attempt has succeeded, so that a retry is always safe.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_core::connection::Attempt;
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Reason, Side};
use sluice_io::{Conn, Interest, RawStream, Reactor, Stream, WorkerCx};
use sluice_sys::socket::{
    begin_connect, connect_unix, local_address, no_descriptor, stream_to, take_error,
};
use sluice_telemetry::RecordKind;
use sluice_tls::ClientTls;
use smallvec::SmallVec;

mod happy_eyeballs;
mod securing;
mod socket_options;

pub use securing::{handshake_failure, reach_early, secure, verified_name};
pub use socket_options::prepare_datagrams;

use crate::cluster::{Affinity, Claim, ClusterHandle, FALLBACKS_MAX, Tried, WhenFull};
use crate::egress::EgressDenial;
use crate::endpoint::{EndpointState, Target};
use crate::events::EndpointEvent;
use crate::forward::{ForwardFailure, HostNaming};
use crate::hops::{self, Hop, HopTransport};
use crate::metrics;
use crate::plan::{CheckKind, ClusterPlan, SocketPlan};
use crate::reasons;

/// A stream to an endpoint, and its claim.
#[derive(Debug)]
pub struct Connected {
    /// The stream.
    pub stream: Stream,
    /// To be held as long as the stream.
    pub claim: Claim,
    /// Set if the stream leads to a listener of ours. To be held as long as the stream.
    pub hop: Option<Hop>,
}

/// What is sent to an endpoint in clear text before anything else.
#[derive(Clone, Debug, Default)]
pub struct Preface {
    /// A PROXY header.
    pub proxy_header: Vec<u8>,
    /// A request to start TLS, and the one byte that grants it.
    pub starttls: Option<(&'static [u8], u8)>,
}

/// Connects to an endpoint of the cluster, or of one that serves in its place, for `client`; `preface` is what that one is
/// sent first. `name` is the server name that the client sent, by which a cluster with `forward` finds the endpoint.
///
/// # Errors
/// The reason of the last attempt, or why none could be made.
pub async fn connect(
    handle: &Rc<ClusterHandle>,
    conn: &Conn,
    client: &Stream,
    affinity: Affinity<'_>,
    name: Option<&str>,
    preface: impl Fn(&ClusterHandle) -> Preface,
) -> Result<Connected, Reason> {
    let (handle, first) = if handle.forwards() {
        let _ = conn.info.reach().cluster.set(Arc::clone(&handle.cluster.name));
        (Rc::clone(handle), claim_host(handle, conn, client, name).await)
    } else {
        pick_first(handle, conn, client, affinity).await
    };
    let mut first = Some(first);
    let (plan, preface) = (handle.cluster.plan(), preface(&handle));
    let _ = conn.info.reach().cluster.set(Arc::clone(&handle.cluster.name));
    let mut tried: SmallVec<[Arc<str>; 2]> = SmallVec::new();
    let mut last = None;
    while (tried.len() as u64) < u64::from(plan.connect_attempts.max(1)) {
        // If every endpoint was tried there is nothing to wait for.
        if let Some(backoff) = plan.connect_backoff
            && (1..handle.cluster.members().endpoints.len()).contains(&tried.len())
        {
            back_off(conn, backoff.bound(tried.len())).await;
        }
        let picked = match first.take() {
            Some(first) => first,
            None => pick(&handle, conn, client, affinity, &tried).await,
        };
        let claim = match picked {
            Ok(claim) => claim,
            // The failure of an attempt is more informative than that no endpoint is left.
            Err(why) => {
                if last.is_none()
                    && let Some(shortage) = handle.shortage(why)
                {
                    conn.info.note(shortage);
                }
                return Err(last.unwrap_or(why));
            }
        };
        let endpoint = Arc::clone(claim.endpoint());
        let started = conn.worker.now();
        let by = started.after(plan.connect_timeout);
        let continued = endpoint.may_continue();
        let opened = |target: SocketAddr, socket: &OwnedFd| enter_hop(conn, target, socket);
        let reaching =
            reach_with((&plan, plan.tls.as_ref()), &endpoint, &conn.worker, &preface, opened);
        let outcome = match conn.until(by, reaching).await {
            // It is not among the connections that were closed when the endpoint became unhealthy.
            Ok(Ok(_)) if continued && plan.closes_on(&endpoint) => {
                Err(ConnectFailure::of(end::ENDPOINT_UNHEALTHY))
            }
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectFailure::connect_timeout(plan.connect_timeout)),
        };
        let name = Arc::clone(&endpoint.name);
        let attempt = match &outcome {
            Ok(_) => Attempt::reached(name),
            Err(failure) => failure.attempt(name),
        }
        .in_place(endpoint.place());
        if let Some(cause) = attempt.cause() {
            conn.info.note(cause);
        }
        conn.info.reach().attempts.borrow_mut().push(attempt);
        match outcome {
            Ok((stream, hop)) => {
                // Only a record needs it, and reading it is a system call.
                if conn.worker.log.wants(RecordKind::Connection) {
                    conn.info.reach().upstream_local.set(local_address(stream.raw().socket()));
                }
                let took = handle.note_connected(&conn.worker, &endpoint, started);
                handle.note_latency(&conn.worker, &endpoint, took);
                *conn.info.reach().endpoint.borrow_mut() = Some(Arc::clone(&endpoint.name));
                return Ok(Connected { stream, claim, hop });
            }
            Err(ConnectFailure { why, .. }) => {
                handle.note_failure(&conn.worker, &endpoint, why);
                tried.push(Arc::clone(&endpoint.name));
                last = Some(why);
            }
        }
    }
    Err(last.unwrap_or(reasons::NO_HEALTHY))
}

/// Picks the endpoint of the first attempt; of the clusters that serve in place of this one if it has none that is
/// usable. Returns the handle of the last cluster that was asked.
async fn pick_first(
    handle: &Rc<ClusterHandle>,
    conn: &Conn,
    client: &Stream,
    affinity: Affinity<'_>,
) -> (Rc<ClusterHandle>, Result<Claim, Reason>) {
    let mut handle = Rc::clone(handle);
    for _ in 0..FALLBACKS_MAX {
        match pick(&handle, conn, client, affinity, &[]).await {
            Err(why) if let Some(next) = handle.fall_back(&conn.worker, why) => handle = next,
            picked => return (handle, picked),
        }
    }
    let picked = pick(&handle, conn, client, affinity, &[]).await;
    (handle, picked)
}

/// Picks an endpoint that was not `tried`, and waits in the queue of the cluster if need be, as long as the client does.
async fn pick(
    handle: &Rc<ClusterHandle>,
    conn: &Conn,
    client: &Stream,
    affinity: Affinity<'_>,
    tried: &[Arc<str>],
) -> Result<Claim, Reason> {
    match handle.pick(&conn.worker, affinity, tried, WhenFull::Wait) {
        Err(why) if why == reasons::LIMIT && handle.has_queue() => {
            let tried = Tried::endpoints(tried);
            // Boxed, so that connections that do not wait have no room for it.
            let waiting = Box::pin(handle.wait_for_room(&conn.worker, affinity, tried));
            unless_gone(client, waiting).await
        }
        picked => picked,
    }
}

/// The outcome of a wait in a queue, unless the client leaves before.
async fn unless_gone(
    client: &Stream,
    mut waiting: Pin<Box<impl Future<Output = Result<Claim, Reason>>>>,
) -> Result<Claim, Reason> {
    poll_fn(|cx| match client.poll_gone(cx) {
        Poll::Ready(()) => Poll::Ready(Err(end::DOWNSTREAM_CLOSED)),
        Poll::Pending => waiting.as_mut().poll(cx),
    })
    .await
}

/// Claims the host that the client named by the server name of its TLS.
async fn claim_host(
    handle: &Rc<ClusterHandle>,
    conn: &Conn,
    client: &Stream,
    name: Option<&str>,
) -> Result<Claim, Reason> {
    let failed = |failure: ForwardFailure| {
        conn.info.note(failure.detail);
        failure.why
    };
    let missing = || {
        let detail = "the connection has no server name (SNI), which names the host";
        failed(ForwardFailure::new(reasons::NAME_MISSING, detail))
    };
    let plan = handle.cluster.plan();
    let forward = plan.forward.as_ref().ok_or(reasons::NO_ENDPOINT)?;
    let host = match forward.named_by {
        HostNaming::Client => forward.host(name.ok_or_else(missing)?, HTTPS),
        HostNaming::Destination { .. } => forward.destination(conn.info.restored_destination()),
    };
    let host = host.map_err(failed)?;
    let endpoint = handle.endpoint_of(&conn.worker, &host).await.map_err(failed)?;
    match handle.claim_named(&conn.worker, &endpoint) {
        Err(why) if why == reasons::LIMIT && handle.has_queue() => {
            let waiting = Box::pin(handle.wait_for_named_room(&conn.worker, &endpoint));
            unless_gone(client, waiting).await
        }
        claimed => claimed,
    }
}

/// The usual port of what is in TLS.
const HTTPS: u16 = 443;

/// Waits before another attempt: a random time up to `bound`.
async fn back_off(conn: &Conn, bound: Duration) {
    let bound = usize::try_from(bound.as_micros()).unwrap_or(usize::MAX);
    let wait = Duration::from_micros(conn.worker.random_below(bound.max(1)) as u64);
    let by = conn.worker.now().after(wait);
    let _ = conn.until(by, std::future::pending::<()>()).await;
}

/// Why an endpoint was not reached.
#[derive(Clone, Debug)]
pub struct ConnectFailure {
    /// The reason.
    pub why: Reason,
    /// The system's error number.
    pub errno: Option<i32>,
    /// The TLS error, or other details.
    pub detail: Option<String>,
}

impl ConnectFailure {
    /// A reason without details.
    pub const fn of(why: Reason) -> Self {
        Self { why, errno: None, detail: None }
    }

    /// No connection within `connect_timeout`.
    pub fn connect_timeout(bound: Duration) -> Self {
        let bound = sluice_core::value::show_duration(bound);
        let detail = format!("no connection within `connect_timeout` ({bound})");
        Self { why: reasons::CONNECT_TIMEOUT, errno: None, detail: Some(detail) }
    }

    fn of_io(error: &io::Error) -> Self {
        Self { why: reasons::of_connect_error(error), errno: error.raw_os_error(), detail: None }
    }

    /// A TLS or QUIC error of an endpoint.
    pub fn of_tls(error: &dyn std::fmt::Display) -> Self {
        let detail = sluice_tls::in_words(error, Side::Upstream);
        Self { why: reasons::TLS, errno: None, detail: Some(detail) }
    }

    /// The failed attempt on `endpoint`, for the record.
    pub fn attempt(&self, endpoint: Arc<str>) -> Attempt {
        let detail = self.detail.as_deref().map(Into::into);
        Attempt::failed(endpoint, self.why, self.errno, detail)
    }
}

impl From<EgressDenial> for ConnectFailure {
    fn from(denial: EgressDenial) -> Self {
        Self { detail: Some(denial.to_string()), ..Self::of(reasons::EGRESS) }
    }
}

impl From<io::Error> for ConnectFailure {
    fn from(error: io::Error) -> Self {
        Self::of_io(&error)
    }
}

/// Records a socket to `target`, opened for `conn`, if it leads to a listener of ours.
fn enter_hop(
    conn: &Conn,
    target: SocketAddr,
    socket: &OwnedFd,
) -> Result<Option<Hop>, ConnectFailure> {
    let hops_max = conn.worker.limits.get(Limit::OwnHops);
    let from = conn.info.peer.socket();
    hops::enter(HopTransport::Stream, from, target, hops_max, socket).map_err(|looped| {
        ConnectFailure { detail: Some(looped.to_string()), ..ConnectFailure::of(reasons::LOOP) }
    })
}

impl ClusterHandle {
    /// Whether an endpoint may take itself out by a header of its responses: checks by request bring it back.
    pub fn heeds_fail_header(&self) -> bool {
        let kind = |kind: &CheckKind| matches!(kind, CheckKind::Http(_) | CheckKind::Grpc { .. });
        self.plan().health.as_ref().is_some_and(|health| kind(&health.kind))
    }

    /// Notes that a response of `endpoint` asked for no more traffic: it is unhealthy until checks succeed.
    pub fn note_refusal(&self, worker: &WorkerCx, endpoint: &EndpointState) {
        const CAUSE: &str = "asked for no more traffic by a response header";
        if endpoint.set_health(Err(CAUSE)) {
            let labels = [&*self.cluster.name, "unhealthy"];
            worker.shard.counter(&metrics::HEALTH_CHANGES, &labels).increment();
            self.cluster.announce();
            EndpointEvent::Unhealthy(CAUSE).tell(worker, &self.cluster, endpoint);
        }
    }
}

/// Makes a stream to one endpoint: connects, sends the preface, performs the TLS handshake.
///
/// # Errors
/// Why the endpoint was not reached.
pub async fn reach(
    plan: &ClusterPlan,
    endpoint: &EndpointState,
    worker: &WorkerCx,
    preface: &Preface,
) -> Result<Stream, ConnectFailure> {
    reach_by(plan, plan.tls.as_ref(), endpoint, worker, preface).await
}

/// The same with this TLS in place of that of the plan.
///
/// # Errors
/// Why the endpoint was not reached.
pub async fn reach_by(
    plan: &ClusterPlan,
    tls: Option<&ClientTls>,
    endpoint: &EndpointState,
    worker: &WorkerCx,
    preface: &Preface,
) -> Result<Stream, ConnectFailure> {
    let (stream, ()) = reach_with((plan, tls), endpoint, worker, preface, |_, _| Ok(())).await?;
    Ok(stream)
}

async fn reach_with<N: Default>(
    (plan, tls): (&ClusterPlan, Option<&ClientTls>),
    endpoint: &EndpointState,
    worker: &WorkerCx,
    preface: &Preface,
    opened: impl Fn(SocketAddr, &OwnedFd) -> Result<N, ConnectFailure>,
) -> Result<(Stream, N), ConnectFailure> {
    let (mut raw, noted) = open_with(plan, endpoint, &worker.reactor, opened).await?;
    send_preface(&mut raw, worker, preface).await?;
    let stream = match tls {
        Some(tls) => secure(raw, tls, endpoint, worker).await?,
        None => Stream::Raw(raw),
    };
    Ok((stream, noted))
}

/// Opens a stream to an endpoint: to the first of its addresses that accepts one.
///
/// # Errors
/// The error of the system call, that no descriptor is left, or that the address is denied.
pub async fn open(
    plan: &ClusterPlan,
    endpoint: &EndpointState,
    reactor: &Rc<Reactor>,
) -> Result<RawStream, ConnectFailure> {
    let (stream, ()) = open_with(plan, endpoint, reactor, |_, _| Ok(())).await?;
    Ok(stream)
}

/// Like [`open`]; `opened` is called with a TCP socket before it is connected, and what it returns for the socket that
/// is used is returned.
async fn open_with<N: Default>(
    plan: &ClusterPlan,
    endpoint: &EndpointState,
    reactor: &Rc<Reactor>,
    opened: impl Fn(SocketAddr, &OwnedFd) -> Result<N, ConnectFailure>,
) -> Result<(RawStream, N), ConnectFailure> {
    let opened = &opened;
    let first = match &endpoint.target {
        Target::Ip(address) => *address,
        Target::Unix(path) => {
            has_descriptor(reactor)?;
            let stream = RawStream::new(reactor.register(connect_unix(path)?)?);
            return Ok((stream, N::default()));
        }
    };
    let attempt = |address| async move {
        // Judged at the last moment: the policy, and the listeners of this process, may be newer than the membership.
        plan.admit(endpoint, address)?;
        open_to(address, plan.socket.as_ref(), reactor, opened).await
    };
    let Some(others) = endpoint.alternates() else { return attempt(first).await };
    let all = std::iter::once(first).chain(others.iter().copied());
    let outcome = happy_eyeballs::first_of(all, happy_eyeballs::ATTEMPT_DELAY, attempt).await;
    outcome.map_err(|last| last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound).into()))
}

async fn open_to<N>(
    address: SocketAddr,
    options: Option<&SocketPlan>,
    reactor: &Rc<Reactor>,
    opened: &impl Fn(SocketAddr, &OwnedFd) -> Result<N, ConnectFailure>,
) -> Result<(RawStream, N), ConnectFailure> {
    has_descriptor(reactor)?;
    let socket = stream_to(address)?;
    let noted = opened(address, &socket)?;
    if let Some(options) = options {
        socket_options::prepare_stream(options, &socket, address)?;
    }
    begin_connect(&socket, address)?;
    let socket = reactor.register(socket)?;
    poll_fn(|cx| socket.poll_ready(cx, Interest::Write)).await;
    // Only a failed socket has an error to report, and reading it is a system call.
    if socket.has_failed() {
        take_error(&socket)?;
    }
    Ok((RawStream::connected(socket), noted))
}

fn has_descriptor(reactor: &Reactor) -> io::Result<()> {
    if reactor.descriptors().has(1) { Ok(()) } else { Err(no_descriptor()) }
}

async fn send_preface(
    raw: &mut RawStream,
    worker: &WorkerCx,
    preface: &Preface,
) -> Result<(), ConnectFailure> {
    let of_io = |error: io::Error| ConnectFailure::of_io(&error);
    let request = preface.starttls.map_or(&[][..], |(request, _)| request);
    for words in [&preface.proxy_header, request] {
        if !words.is_empty() {
            poll_fn(|cx| Poll::Ready(raw.send(cx, &worker.buffers, words))).await.map_err(of_io)?;
        }
    }
    let Some((_, granted)) = preface.starttls else { return Ok(()) };
    poll_fn(|cx| raw.poll_flushed(cx)).await.map_err(of_io)?;
    // One byte and no more: what follows belongs to the TLS handshake.
    let mut answer = [0; 1];
    match poll_fn(|cx| raw.poll_recv(cx, &mut answer)).await.map_err(of_io)? {
        0 => Err(ConnectFailure::of(reasons::CLOSED_EARLY)),
        _ if answer[0] == granted => Ok(()),
        _ => Err(ConnectFailure::of(reasons::STARTTLS_REFUSED)),
    }
}
