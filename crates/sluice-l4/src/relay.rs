//! The relay: from a stream to an endpoint of a cluster.
//!
//! Owns: the choice of the hash, the preface, timeouts while bytes move, the meaning of an end. Refuses to know: how
//! bytes are moved, which is up to the pump. Keeps: a reset on one side becomes a reset on the other; an orderly end
//! never does.

use std::future::poll_fn;
use std::hash::Hasher as _;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{LocalFuture, Moment, Reason, TransportKind};
use sluice_io::pump::{Moved, Pump, Stopped};
use sluice_io::timers::Timer;
use sluice_io::{Conn, Stream, StreamHandler, WorkerCx};
use sluice_tls::reasons as tls_reasons;
use sluice_upstream::cluster::{Affinity, Claim, ClientSession};
use sluice_upstream::hops::Hop;
use sluice_upstream::{ClusterHandle, Connected, Preface, connect};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::chain::HandlerPlan;
use crate::inspect::{inspector_of, tls};
use crate::named_clusters::{NamedClusters, NamedHandles};
use crate::split::{SplitHandles, WeightedCluster};
use crate::{metrics, proxy_protocol, reasons};

/// A relay, shared by all workers.
#[derive(Debug)]
pub struct RelayPlan {
    /// Where to.
    pub to: RelayTarget,
    /// The options.
    pub options: RelayOptions,
}

/// Where a relay goes.
#[derive(Debug)]
pub enum RelayTarget {
    /// To one of these clusters: at least one.
    Split(Vec<WeightedCluster>),
    /// To the cluster that the client names.
    Named(Arc<NamedClusters>),
}

/// How a relay behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// The input of a hash balancer.
    pub hash: Option<Hash>,
    /// Whether the server name of TLS must be read, because it says where the connection goes.
    pub by_name: bool,
    /// How long a source may be away and still return to its endpoint; `None` does not remember sources.
    pub sticky: Option<Duration>,
    /// How long no byte may move; `None` is unlimited.
    pub idle_timeout: Option<Duration>,
    /// The same once one side has finished.
    pub half_close_timeout: Option<Duration>,
    /// How long a connection may last, connecting included; `None` is unlimited.
    pub max_duration: Option<Duration>,
    /// By how much that may be longer at random, in percent.
    pub duration_jitter_percent: u8,
}

/// The input of a hash balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// The address of the source, without its port.
    SourceIp,
    /// Always the same, so that everything goes to one endpoint.
    Fixed(u64),
    /// A part of a datagram.
    Payload(PayloadSlice),
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadSlice {
    /// Where it begins.
    pub offset: u16,
    /// How many bytes it has.
    pub length: u16,
}

impl PayloadSlice {
    /// The bytes of a datagram that belong to it; of a shorter one, those that it has.
    pub fn of(self, datagram: &[u8]) -> &[u8] {
        let start = usize::from(self.offset).min(datagram.len());
        let end = start.saturating_add(self.length.into()).min(datagram.len());
        datagram.get(start..end).unwrap_or_default()
    }
}

impl Hash {
    /// The hash of a fixed key.
    pub fn fixed(key: &str) -> Self {
        Self::Fixed(xxh3_64(key.as_bytes()))
    }

    /// The hash of a connection from `source`, or of a flow that begins with `datagram`; `None` if the source has no IP
    /// address, or the datagram ends before the part that is hashed.
    pub fn of(self, source: Peer, datagram: &[u8]) -> Option<u64> {
        match self {
            Self::SourceIp => Self::of_source(source),
            Self::Fixed(hash) => Some(hash),
            Self::Payload(slice) => {
                let bytes = slice.of(datagram);
                (!bytes.is_empty()).then(|| xxh3_64(bytes))
            }
        }
    }

    /// The hash of the address of a source, without its port; `None` if it has none.
    pub fn of_source(source: Peer) -> Option<u64> {
        let mut hasher = Xxh3::new();
        match source.ip()?.to_canonical() {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        Some(hasher.finish())
    }
}

/// What the pick of an endpoint goes by, for a client from `source`; `datagram` is empty for a connection.
pub(crate) fn affinity_of(
    hash: Option<Hash>,
    sticky: Option<Duration>,
    source: Peer,
    datagram: &[u8],
) -> Affinity<'static> {
    let session = || Some(ClientSession::Source { source: Hash::of_source(source)?, ttl: sticky? });
    Affinity {
        hash: hash.and_then(|hash| hash.of(source, datagram)),
        session: session(),
        subset: None,
    }
}

/// What the choice among the clusters of a relay goes by, for a client that stays with its endpoint.
pub(crate) fn split_key(affinity: Affinity<'_>) -> Option<u64> {
    affinity.hash.or(match affinity.session {
        Some(ClientSession::Source { source, .. }) => Some(source),
        _ => None,
    })
}

impl HandlerPlan for RelayPlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>) -> Rc<dyn StreamHandler> {
        let handles = match &self.to {
            RelayTarget::Split(clusters) => {
                TargetHandles::Split(SplitHandles::on_worker(clusters, worker))
            }
            RelayTarget::Named(clusters) => TargetHandles::Named(NamedHandles::new(clusters)),
        };
        Rc::new(Relay { handles, options: self.options.clone() })
    }
}

#[derive(Debug)]
enum TargetHandles {
    Split(SplitHandles),
    Named(NamedHandles),
}

#[derive(Debug)]
struct Relay {
    handles: TargetHandles,
    options: RelayOptions,
}

impl StreamHandler for Relay {
    fn handle(self: Rc<Self>, stream: Stream, conn: Rc<Conn>) -> LocalFuture<Reason> {
        let RelayOptions { max_duration, duration_jitter_percent, .. } = self.options;
        let most = max_duration.map(|most| conn.worker.jittered(most, duration_jitter_percent));
        let end_at = conn.info.started.after_bound(most);
        // A separate future: what connecting needs is freed before an idle stream waits.
        let connecting = Box::pin(Rc::clone(&self).connect(stream, Rc::clone(&conn), end_at));
        Box::pin(async move {
            match connecting.await {
                Ok((pump, _claim, _hop)) => relay(&conn, &self.options, end_at, pump).await,
                Err(reason) => reason,
            }
        })
    }
}

impl Relay {
    async fn connect(
        self: Rc<Self>,
        mut stream: Stream,
        conn: Rc<Conn>,
        end_at: Moment,
    ) -> Result<(Box<Pump>, Claim, Option<Hop>), Reason> {
        let RelayOptions { hash, sticky, .. } = &self.options;
        let affinity = affinity_of(*hash, *sticky, conn.info.source(), &[]);
        let named = |name| conn.info.facts.get().and_then(|facts| facts.get(name));
        let name = named(&tls::SNI);
        let to = match &self.handles {
            TargetHandles::Split(handles) => {
                let to = handles.choose(&conn.worker, split_key(affinity));
                Ok((Rc::clone(&to.handle), to.subset.as_deref()))
            }
            TargetHandles::Named(handles) => {
                let found = handles.find(&conn.worker, handles.name_of(&conn.info, name));
                found.map(|handle| (handle, None)).map_err(|(why, detail)| {
                    conn.info.note(detail);
                    why
                })
            }
        };
        let preface = |handle: &ClusterHandle| preface(handle, &conn.info);
        let connected = match &to {
            Ok((handle, subset)) => {
                let affinity = Affinity { subset: *subset, ..affinity };
                let connecting = pin!(connect(handle, &conn, &stream, affinity, name, preface));
                within(&conn, end_at, connecting).await
            }
            Err(why) => Err(*why),
        };
        match connected {
            Ok(Connected { stream: upstream, claim, hop }) => {
                Ok((Box::new(Pump::new(stream, upstream)), claim, hop))
            }
            Err(reason) => {
                close_notify(&mut stream, &conn.worker).await;
                Err(reason)
            }
        }
    }
}

/// Connects unless `end_at` passes first.
async fn within(
    conn: &Conn,
    end_at: Moment,
    connecting: Pin<&mut impl Future<Output = Result<Connected, Reason>>>,
) -> Result<Connected, Reason> {
    if end_at == Moment::NEVER {
        return connecting.await;
    }
    let connected = Timer::new(&conn.worker.timers).until(end_at, connecting).await;
    connected.unwrap_or_else(|_| {
        conn.info.note("no endpoint was reached within `max_duration`");
        Err(end::MAX_DURATION)
    })
}

/// What is sent to the endpoint before the stream: a PROXY header, and a request for TLS if the client's stream, or the
/// cluster, uses TLS with a protocol whose clients ask for it.
fn preface(handle: &ClusterHandle, info: &ConnInfo) -> Preface {
    let plan = handle.cluster.plan();
    let facts = info.facts.get();
    let asked = facts.is_some_and(|facts| facts.get(&tls::STARTTLS).is_some());
    let passed_on = info.tls.get().is_none() && asked;
    let protocol = info.nearest_facts().and_then(|facts| facts.protocol);
    let upgrade = protocol.and_then(inspector_of).and_then(|of| of.upgrade.as_ref());
    let upgrade = upgrade.filter(|_| passed_on || plan.tls.is_some());
    Preface {
        proxy_header: plan.send_proxy.map_or_else(Vec::new, |version| {
            proxy_protocol::write(version, info.source(), info.destination())
        }),
        starttls: upgrade.map(|upgrade| (upgrade.request, upgrade.granted)),
    }
}

/// Moves bytes until the connection ends.
async fn relay(conn: &Conn, options: &RelayOptions, end_at: Moment, mut pump: Box<Pump>) -> Reason {
    let (info, worker) = (&conn.info, &conn.worker);
    let mut hooks = conn.byte_hooks.take();
    let (mut first, mut half_closed) = (true, false);
    let mut filter_due = Moment::NEVER;
    let stopped = poll_fn(|cx| {
        let mut moved = Moved::default();
        let polled = pump.poll(cx, worker, hooks.as_deref_mut(), &mut moved);
        // An end without bytes is a move too: another deadline applies from here on.
        let ended = pump.is_half_closed() != half_closed;
        let waits = std::mem::replace(&mut filter_due, pump.filter_due()) != filter_due;
        if moved != Moved::default() || ended || first || waits {
            info.received.set(info.received.get() + moved.received);
            info.sent.set(info.sent.get() + moved.sent);
            (first, half_closed) = (false, pump.is_half_closed());
            let due = deadline(worker.now(), options, pump.is_half_closed());
            conn.deadline.set(due.min(end_at).min(filter_due));
        }
        match polled {
            Poll::Ready(stopped) => Poll::Ready(Ok(stopped)),
            Poll::Pending => conn.deadline.poll(cx).map(|()| Err(why_late(worker, end_at, &pump))),
        }
    })
    .await;
    match stopped {
        Ok(Stopped::Done) if pump.downstream.was_truncated() || pump.upstream.was_truncated() => {
            tls_reasons::TRUNCATED
        }
        Ok(Stopped::Done) => end::DONE,
        Ok(Stopped::Upstream(error)) if is_reset(&error) && is_over(conn, &pump) => end::DONE,
        Ok(Stopped::Downstream(error))
            if is_reset(&error) && (is_over(conn, &pump) || left_unread(conn, &pump)) =>
        {
            end::DONE
        }
        Ok(Stopped::Downstream(error)) => {
            pump.upstream.raw().reset_on_drop();
            info.note(&error);
            of_error(&error, end::DOWNSTREAM_RESET)
        }
        Ok(Stopped::Upstream(error)) => {
            pump.downstream.raw().reset_on_drop();
            info.note(&error);
            of_error(&error, sluice_upstream::reasons::RESET)
        }
        Ok(Stopped::Cut(why)) => {
            pump.downstream.raw().reset_on_drop();
            pump.upstream.raw().reset_on_drop();
            why
        }
        Ok(Stopped::Closed(why)) => {
            close_notify(&mut pump.downstream, worker).await;
            close_notify(&mut pump.upstream, worker).await;
            why
        }
        // What the filter has not let through is lost, which no orderly end may hide.
        Err(late) if late == reasons::FILTER_TIMEOUT => {
            pump.downstream.raw().reset_on_drop();
            pump.upstream.raw().reset_on_drop();
            late
        }
        Err(late) => {
            close_notify(&mut pump.downstream, worker).await;
            close_notify(&mut pump.upstream, worker).await;
            late
        }
    }
}

/// Whether a reset loses nothing for either side. In TLS it loses nothing once the client has finished: a client that
/// has sent close_notify expects no more. PostgreSQL, for one, exits at the client's Terminate while the client's
/// close_notify is in flight, which turns its close into a reset. In clear text a client that has finished may still
/// wait for a response, unless the endpoint has finished too.
fn is_over(conn: &Conn, pump: &Pump) -> bool {
    pump.client_has_finished() && (is_tls(conn) || pump.endpoint_has_finished())
}

/// Whether a client that reset left nothing unread but the endpoint's close_notify: both closed at the same time.
fn left_unread(conn: &Conn, pump: &Pump) -> bool {
    is_tls(conn) && pump.endpoint_left_with(CLOSE_NOTIFY_MAX)
}

fn is_tls(conn: &Conn) -> bool {
    let facts = conn.info.facts.get();
    conn.info.tls.get().is_some()
        || facts.is_some_and(|facts| facts.transport != TransportKind::Plain)
}

/// The most bytes of a close_notify: a TLS record with an alert, its padding and its authentication tag.
const CLOSE_NOTIFY_MAX: usize = 64;

fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

/// Sends close_notify, without which a TLS peer must suspect a truncation attack. If the peer does not accept it now,
/// it is not sent.
async fn close_notify(stream: &mut Stream, worker: &WorkerCx) {
    let _ = poll_fn(|cx| Poll::Ready(stream.close_notify(cx, worker))).await;
}

fn deadline(now: Moment, options: &RelayOptions, half_closed: bool) -> Moment {
    let idle = now.after_bound(options.idle_timeout);
    if half_closed { idle.min(now.after_bound(options.half_close_timeout)) } else { idle }
}

fn why_late(worker: &WorkerCx, end_at: Moment, pump: &Pump) -> Reason {
    if worker.now() >= end_at {
        end::MAX_DURATION
    } else if worker.now() >= pump.filter_due() {
        metrics::count_limit(worker, Limit::FilterWait);
        reasons::FILTER_TIMEOUT
    } else if pump.is_half_closed() {
        end::HALF_CLOSE
    } else {
        end::IDLE
    }
}

fn of_error(error: &io::Error, reset: Reason) -> Reason {
    match error.kind() {
        io::ErrorKind::InvalidData => tls_reasons::PROTOCOL,
        io::ErrorKind::OutOfMemory => reasons::BUFFERS,
        _ => reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_what_the_datagram_has_of_it() {
        for (offset, length, expected) in [
            (0, 4, &b"abcd"[..]),
            (2, 2, b"cd"),
            (4, 100, b"ef"),
            (6, 1, b""),
            (u16::MAX, u16::MAX, b""),
        ] {
            assert_eq!(
                PayloadSlice { offset, length }.of(b"abcdef"),
                expected,
                "{offset} {length}"
            );
        }
    }

    #[test]
    fn a_hash_is_of_the_source_a_key_or_a_payload() {
        let peer = |text: &str| Peer::Ip(text.parse().unwrap());
        let (one, other) = (peer("192.0.2.1:1"), peer("192.0.2.2:1"));
        let source = Hash::SourceIp;
        assert_eq!(source.of(one, b"a"), source.of(peer("192.0.2.1:2"), b"b"));
        assert_ne!(source.of(one, b"a"), source.of(other, b"a"));
        assert_eq!(source.of(Peer::Unix, b"a"), None);
        let fixed = Hash::fixed("key");
        assert_eq!(fixed.of(one, b"a"), fixed.of(Peer::Unix, b""));
        assert_ne!(fixed.of(one, b"a"), Hash::fixed("other").of(one, b"a"));
        let payload = Hash::Payload(PayloadSlice { offset: 1, length: 2 });
        assert_eq!(payload.of(one, b"abcd"), payload.of(other, b"xbcy"));
        assert_ne!(payload.of(one, b"abcd"), payload.of(one, b"abdd"));
        assert_eq!(payload.of(one, b"a"), None);
    }
}
