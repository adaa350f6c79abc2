//! The state of one endpoint at run time.
//!
//! Owns: its identity and its health. Refuses to know: why a connection is made. Keeps: the ejected bit is set by the
//! thread that crosses the threshold (compare-and-swap) and cleared by the control thread.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

use sluice_core::connection::EndpointPlace;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::hops::{self, HopTransport};
use crate::overrides::OverrideAction;

mod checked;
pub(crate) mod counts;
mod ejection;
mod extras;
mod http3;
mod latency;
mod load;
mod reported_weight;
mod request_counts;
mod status;
mod traits;

pub use checked::{ConnectTo, EndpointCheck};
use counts::OutlierCounts;
pub use ejection::EjectionKind;
use extras::EndpointExtras;
pub use http3::{
    AdvertChange, Http3Advert, Http3Facts, Http3Failure, Http3Memory, Http3When, RacePlan,
};
pub use latency::PeakLatency;
#[cfg(test)]
pub(crate) use load::CountedLoad;
use load::EndpointLoad;
pub(crate) use load::count_below;
pub use load::{EndpointLimits, LoadKind};
pub use reported_weight::ReportedWeight;
pub use request_counts::{METRICS_MAX, MetricSum, RequestCounts, RequestTotals};
pub use status::EndpointStatus;
use status::{CHECKED, STATED, set_bit};
pub use traits::{EndpointTraits, Locality, PRIORITY_MAX};

/// The names of endpoints that left a cluster. A set, since there may be thousands, and workers look each of theirs up.
pub type LeftEndpoints = HashSet<Arc<str>>;

/// Where to connect: resolved, unlike [`sluice_core::Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A socket address.
    Ip(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Names an endpoint in few bytes, in every Sluice alike: a hash of its address. Two endpoints of a cluster may have the
/// same, one pair in 2^32; then sessions of one lead to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

impl EndpointId {
    /// The ID of the endpoint with this name, which is its address as text.
    #[expect(clippy::cast_possible_truncation, reason = "a part of the hash is enough")]
    pub fn of(name: &str) -> Self {
        Self(xxh3_64(name.as_bytes()) as u32)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Why an endpoint takes no traffic.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What happened.
    pub cause: String,
    /// When it happened.
    pub since: Instant,
}

impl Trouble {
    fn now(cause: String) -> Option<Arc<Self>> {
        Some(Arc::new(Self { cause, since: Instant::now() }))
    }
}

/// An endpoint. Shared by all threads; survives reloads as long as its address stays.
#[derive(Debug)]
pub struct EndpointState {
    /// The address.
    pub target: Target,
    /// The address as text: its name in records, metrics and hashes.
    pub name: Arc<str>,
    /// The same for sessions.
    pub id: EndpointId,
    /// The host name that it was resolved from.
    pub host: Option<Arc<str>>,
    /// Whether it is a host that clients name: then that is its name, and not its address.
    is_forwarded: bool,
    /// Whether the configuration lists its address, although it has a host name.
    is_listed: bool,
    /// Whether a client has named it since the control thread last looked.
    used: AtomicBool,
    load: EndpointLoad,
    total: AtomicU64,
    /// What became of its traffic.
    pub(crate) counts: OutlierCounts,
    /// How fast it responds, if its balancer asks for it.
    pub latency: PeakLatency,
    unhealthy: AtomicU8,
    degraded: AtomicU8,
    /// Whether its first check has no result yet.
    unchecked: AtomicBool,
    /// Whether it has been removed, and stays only as long as its checks succeed.
    leaving: AtomicBool,
    /// Whether what belongs to it might continue when the watch over its cluster last looked.
    seen_continuing: AtomicBool,
    ejected: AtomicBool,
    /// Whether it turned out to be a listener of this process: over TCP, over UDP.
    ours: [AtomicBool; 2],
    /// What is known of HTTP/3 there.
    pub http3: Http3Memory,
    extras: EndpointExtras,
    /// What an operator lets it take: one of [`TAKES_ALL`], [`TAKES_SESSIONS`], [`TAKES_NOTHING`].
    takes: AtomicU8,
    /// The load balancing weight that an operator has set; 0 if none.
    weight: AtomicU32,
}

/// No operator withholds traffic from the endpoint.
const TAKES_ALL: u8 = 0;
/// It is drained: new connections and requests only of sticky sessions.
const TAKES_SESSIONS: u8 = 1;
/// It is in maintenance: nothing new.
const TAKES_NOTHING: u8 = 2;

impl EndpointState {
    /// An endpoint that is assumed to be healthy.
    pub fn new(target: Target, host: Option<Arc<str>>) -> Self {
        let name: Arc<str> = target.to_string().into();
        Self::of(name, target, host, false)
    }

    /// As [`EndpointState::new`], for an address that the configuration lists although `host` is not its address: the
    /// name is for TLS.
    pub(crate) fn listed(target: Target, host: Option<Arc<str>>) -> Self {
        Self { is_listed: true, ..Self::new(target, host) }
    }

    /// Whether its address is that of a name, and not one that the configuration lists.
    pub(crate) const fn is_resolved(&self) -> bool {
        self.host.is_some() && !self.is_listed
    }

    /// A host that clients name, as `host:port`.
    pub(crate) fn forwarded(name: Arc<str>, target: Target, host: Option<Arc<str>>) -> Self {
        Self::of(name, target, host, true)
    }

    fn of(name: Arc<str>, target: Target, host: Option<Arc<str>>, is_forwarded: bool) -> Self {
        let id = EndpointId::of(&name);
        Self {
            target,
            name,
            id,
            host,
            is_forwarded,
            is_listed: false,
            used: AtomicBool::new(false),
            load: EndpointLoad::default(),
            total: AtomicU64::new(0),
            counts: OutlierCounts::default(),
            latency: PeakLatency::default(),
            unhealthy: AtomicU8::new(0),
            degraded: AtomicU8::new(0),
            unchecked: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            seen_continuing: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            ours: Default::default(),
            http3: Http3Memory::default(),
            extras: EndpointExtras::default(),
            takes: AtomicU8::new(TAKES_ALL),
            weight: AtomicU32::new(0),
        }
    }

    /// Its name, if that is not its address.
    pub(crate) fn own_name(&self) -> Option<&Arc<str>> {
        self.is_forwarded.then_some(&self.name)
    }

    /// Notes that a client has named the endpoint.
    pub(crate) fn note_use(&self) {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// Whether a client has named the endpoint since the last [`EndpointState::take_use`].
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// Whether a client has named the endpoint since the last call. For the control thread.
    pub(crate) fn take_use(&self) -> bool {
        self.used.load(Relaxed) && self.used.swap(false, Relaxed)
    }

    /// Every address of the endpoint, in order of preference; none of a unix socket.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let Target::Ip(first) = self.target else { return Vec::new() };
        let others = self.alternates();
        let others = others.iter().flat_map(|others| others.iter().copied());
        std::iter::once(first).chain(others).collect()
    }

    /// Sets what the endpoint itself needs of what its cluster says of it.
    pub(crate) fn set_traits(&self, traits: &EndpointTraits) {
        let place = EndpointPlace {
            priority: traits.priority,
            locality: traits.locality.as_ref().map(|locality| locality.to_string().into()),
        };
        let has_place = place != EndpointPlace::default();
        self.extras.store(|extras| &extras.place, has_place.then(|| Arc::new(place)));
        self.set_check(traits.check.clone());
        self.set_status(traits.status);
        self.http3.set_named(traits.http3_port);
    }

    /// Its place in the cluster; `None` if it has the highest priority and no locality.
    pub fn place(&self) -> Option<Arc<EndpointPlace>> {
        self.extras.load(|extras| &extras.place)
    }

    /// Sets what differs in the checks of the endpoint from those of its cluster.
    pub(crate) fn set_check(&self, check: Option<Arc<EndpointCheck>>) {
        self.extras.store(|extras| &extras.check, check);
    }

    /// What differs in the checks of the endpoint from those of its cluster.
    pub fn check(&self) -> Option<Arc<EndpointCheck>> {
        self.extras.load(|extras| &extras.check)
    }

    /// Begins or ends to heed what the endpoint reports of its load.
    pub(crate) fn track_reports(&self, on: bool) {
        if on != self.reported().is_some() {
            self.extras.made().reported.track(on);
        }
    }

    /// What the endpoint reports of its load; `None` if no balancer asks.
    pub fn reported(&self) -> Option<&ReportedWeight> {
        self.extras.get().map(|extras| &extras.reported).filter(|reported| reported.is_tracked())
    }

    /// What became of its requests, to count more of them. For reports of load.
    pub(crate) fn request_counts(&self) -> &RequestCounts {
        &self.extras.made().requests
    }

    /// What became of its requests, as far as reports of load have asked.
    pub fn request_totals(&self) -> RequestTotals {
        self.extras.get().map(|extras| extras.requests.totals()).unwrap_or_default()
    }

    /// What it reported of metrics since the last call.
    pub fn take_metrics(&self) -> BTreeMap<Box<str>, MetricSum> {
        self.extras.get().map(|extras| extras.requests.take_metrics()).unwrap_or_default()
    }

    /// Sets the other addresses of the endpoint, in order of preference.
    pub(crate) fn set_alternates(&self, addresses: &[SocketAddr]) {
        let addresses = (!addresses.is_empty()).then(|| Arc::new(addresses.to_vec()));
        self.extras.store(|extras| &extras.alternates, addresses);
    }

    /// The other addresses of the endpoint, in order of preference; `None` if there are none.
    pub(crate) fn alternates(&self) -> Option<Arc<Vec<SocketAddr>>> {
        self.extras.load(|extras| &extras.alternates)
    }

    /// Notes a connection to the endpoint from the address that `local` returns: an address of this host with a port
    /// that this process listens on is a listener of ours.
    pub fn note_local(&self, transport: HopTransport, local: impl FnOnce() -> Option<IpAddr>) {
        if let Target::Ip(target) = &self.target {
            self.note_local_to(transport, *target, local);
        }
    }

    /// The same for a connection to another port of the endpoint.
    pub fn note_local_to(
        &self,
        transport: HopTransport,
        to: SocketAddr,
        local: impl FnOnce() -> Option<IpAddr>,
    ) {
        let ours = hops::may_be_ours(transport, to) && {
            let reached = hops::reached(to.ip());
            reached.is_loopback() || local() == Some(reached)
        };
        let place = &self.ours[usize::from(transport == HopTransport::Datagram)];
        if ours != place.load(Relaxed) {
            place.store(ours, Relaxed);
        }
    }

    /// Whether the last connection to the endpoint led to a listener of this process, over either transport.
    pub fn is_ours(&self) -> bool {
        self.ours.iter().any(|ours| ours.load(Relaxed))
    }

    /// Whether the endpoint is at this address and port.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        match &self.target {
            Target::Ip(first) if *first == address => true,
            Target::Ip(_) => self.alternates().is_some_and(|others| others.contains(&address)),
            Target::Unix(_) => false,
        }
    }

    /// Connections made in total.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Whether the endpoint may be chosen: it is sound, and no operator withholds traffic from it.
    pub fn is_usable(&self) -> bool {
        self.is_sound() && !self.is_withdrawn()
    }

    /// Whether the endpoint is neither unhealthy nor ejected.
    pub fn is_sound(&self) -> bool {
        self.unhealthy.load(Relaxed) == 0 && !self.ejected.load(Relaxed)
    }

    /// Whether new traffic is withheld from the endpoint: it is drained or in maintenance.
    pub fn is_withdrawn(&self) -> bool {
        self.takes.load(Relaxed) != TAKES_ALL
    }

    /// Whether what belongs to the endpoint may continue there: connections, flows, and new requests of sticky sessions.
    pub fn may_continue(&self) -> bool {
        self.is_sound() && self.takes.load(Relaxed) & !STATED != TAKES_NOTHING
    }

    /// The load balancing weight that an operator has set.
    pub fn weight_override(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.weight.load(Relaxed))
    }

    /// Sets what an operator wants of the endpoint. For the control thread.
    pub(crate) fn set_override(&self, action: Option<OverrideAction>) {
        let (takes, weight) = match action {
            None => (TAKES_ALL, 0),
            Some(OverrideAction::Drain) => (TAKES_SESSIONS, 0),
            Some(OverrideAction::Maintenance) => (TAKES_NOTHING, 0),
            Some(OverrideAction::Weight(weight)) => (TAKES_ALL, weight.get()),
        };
        let stated = self.takes.load(Relaxed) & STATED;
        self.takes.store(takes | stated, Relaxed);
        self.weight.store(weight, Relaxed);
    }

    /// Sets what the list of endpoints says of its state. For the control thread.
    fn set_status(&self, status: EndpointStatus) {
        for (field, says) in [
            (&self.unhealthy, status == EndpointStatus::Unhealthy),
            (&self.degraded, status == EndpointStatus::Degraded),
            (&self.takes, status == EndpointStatus::Draining),
        ] {
            set_bit(field, STATED, says);
        }
    }

    /// Whether active checks consider the endpoint healthy.
    pub fn is_healthy(&self) -> bool {
        self.unhealthy.load(Relaxed) & CHECKED == 0
    }

    /// Whether active checks consider the endpoint unhealthy, or the list of endpoints says so.
    pub fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Relaxed) != 0
    }

    /// Whether the endpoint is ejected.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Sets the result of active checks, with the cause of a failure; returns whether that is a change.
    pub fn set_health(&self, result: Result<(), &str>) -> bool {
        let healthy = result.is_ok();
        if !set_bit(&self.unhealthy, CHECKED, !healthy) {
            return false;
        }
        let trouble = result.err().and_then(|cause| Trouble::now(cause.to_owned()));
        self.extras.store(|extras| &extras.why_unhealthy, trouble);
        true
    }

    /// Replaces the cause for which the endpoint is unhealthy; it has been since the same time.
    pub fn update_cause(&self, cause: &str) {
        let since = self.why_unhealthy().map_or_else(Instant::now, |trouble| trouble.since);
        let trouble = Arc::new(Trouble { cause: cause.to_owned(), since });
        self.extras.store(|extras| &extras.why_unhealthy, Some(trouble));
    }

    /// Has the first check of a new endpoint decide alone. Until then it is not healthy if it `waits`.
    pub fn await_check(&self, waits: bool) {
        self.unchecked.store(true, Relaxed);
        if waits {
            self.set_health(Err("it has not been checked yet"));
        }
    }

    /// Whether the first check has no result yet.
    pub fn awaits_check(&self) -> bool {
        self.unchecked.load(Relaxed)
    }

    /// Whether it has been removed from its cluster, and stays only as long as its checks succeed.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// Notes that a check has a result; returns whether it is the first.
    pub fn note_checked(&self) -> bool {
        self.unchecked.load(Relaxed) && self.unchecked.swap(false, Relaxed)
    }

    /// Notes whether what belongs to the endpoint may continue there; returns whether it might at the last call and may
    /// not now. For the control thread.
    pub(crate) fn note_fall(&self) -> bool {
        let continues = self.may_continue();
        self.seen_continuing.swap(continues, Relaxed) && !continues
    }

    /// Sets whether the endpoint asks to be used only if others do not suffice; returns whether that is a change.
    pub fn set_degraded(&self, degraded: bool) -> bool {
        let was = self.degraded.load(Relaxed) & CHECKED != 0;
        was != degraded && set_bit(&self.degraded, CHECKED, degraded)
    }

    /// Whether the endpoint is to be used only if others do not suffice: it asks for that, or the list of endpoints does.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Relaxed) != 0
    }

    /// Why active checks consider the endpoint unhealthy, if they do.
    pub fn why_unhealthy(&self) -> Option<Arc<Trouble>> {
        self.extras.load(|extras| &extras.why_unhealthy).filter(|_| !self.is_healthy())
    }

    /// Why the endpoint is ejected, if it is.
    pub fn why_ejected(&self) -> Option<Arc<Trouble>> {
        self.extras.load(|extras| &extras.why_ejected).filter(|_| self.is_ejected())
    }

    /// Notes that a connection was made.
    pub fn succeeded(&self) {
        self.count_connection();
        self.counts.connected();
    }

    /// Counts a connection of which it is not known yet whether it reached the endpoint.
    pub fn count_connection(&self) {
        self.total.fetch_add(1, Relaxed);
    }

    /// Notes that the endpoint has responded: failures are counted from zero again.
    pub fn responded(&self) {
        self.counts.responded();
    }

    /// Counts a failed connection; returns the number of failures in a row.
    pub fn failed(&self) -> u32 {
        self.counts.failed()
    }

    /// Ejects the endpoint; returns whether it was not ejected already.
    pub fn eject(&self, kind: EjectionKind, cause: &str) -> bool {
        if self.ejected.compare_exchange(false, true, Relaxed, Relaxed).is_err() {
            return false;
        }
        self.extras.store(|extras| &extras.ejected_for, Some(Arc::new(kind)));
        self.extras.store(|extras| &extras.why_ejected, Trouble::now(cause.to_owned()));
        self.counts.end_streaks();
        true
    }

    /// The kind of fault for which the endpoint is ejected, if it is.
    pub fn ejected_for(&self) -> Option<EjectionKind> {
        let kind = self.extras.load(|extras| &extras.ejected_for);
        kind.map(|kind| *kind).filter(|_| self.is_ejected())
    }

    /// When the endpoint will be readmitted, if it is ejected and that is decided.
    pub fn ejected_until(&self) -> Option<Instant> {
        let until = self.extras.load(|extras| &extras.ejected_until);
        until.map(|until| *until).filter(|_| self.is_ejected())
    }

    /// Notes when the endpoint will be readmitted. For the control thread.
    pub(crate) fn note_ejected_until(&self, until: Instant) {
        self.extras.store(|extras| &extras.ejected_until, Some(Arc::new(until)));
    }

    /// Readmits the endpoint. For the control thread.
    pub fn readmit(&self) {
        self.counts.end_streaks();
        self.extras.store(|extras| &extras.ejected_until, None);
        self.ejected.store(false, Relaxed);
    }
}
