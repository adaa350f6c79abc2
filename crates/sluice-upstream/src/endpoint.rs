//! The state of one endpoint at run time.
//!
//! Owns: its identity and its health. Refuses to know: why a connection is made. Keeps: the ejected bit is set by the
//! thread that crosses the threshold (compare-and-swap) and cleared by the control thread.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::hops::{self, HopTransport};
use crate::overrides::OverrideAction;

pub(crate) mod counts;
mod ejection;
mod load;

use counts::OutlierCounts;
pub use ejection::EjectionKind;
use load::EndpointLoad;
pub(crate) use load::count_below;
pub use load::{EndpointLimits, LoadKind};

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

/// The lowest priority of an endpoint, as in Envoy.
pub const PRIORITY_MAX: u32 = 127;

/// What a cluster says of an endpoint, apart from its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointTraits {
    /// The load balancing weight, at least 1.
    pub weight: u32,
    /// The priority: 0 is the highest.
    pub priority: u32,
    /// Where it is.
    pub locality: Option<Arc<Locality>>,
    /// The weight of its locality, within the priority.
    pub locality_weight: u32,
    /// Its limits, in place of those that the cluster sets for each endpoint.
    pub limits: EndpointLimits,
}

impl EndpointTraits {
    /// Adds what a second entry for the same address says: weight and limits.
    pub(crate) fn add(&mut self, other: &Self) {
        self.weight = self.weight.saturating_add(other.weight);
        self.limits = self.limits.plus(other.limits);
    }
}

impl Default for EndpointTraits {
    fn default() -> Self {
        Self {
            weight: 1,
            priority: 0,
            locality: None,
            locality_weight: 0,
            limits: EndpointLimits::default(),
        }
    }
}

/// Where an endpoint is; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// The region.
    pub region: Box<str>,
    /// The zone in the region.
    pub zone: Box<str>,
    /// A part of the zone.
    pub sub_zone: Box<str>,
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, zone, sub_zone } = self;
        match (&**region, &**sub_zone) {
            ("", "") => f.write_str(zone),
            (_, "") => write!(f, "{region}/{zone}"),
            (_, _) => write!(f, "{region}/{zone}/{sub_zone}"),
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
    load: EndpointLoad,
    total: AtomicU64,
    /// What became of its traffic.
    pub(crate) counts: OutlierCounts,
    unhealthy: AtomicBool,
    degraded: AtomicBool,
    /// Whether its first check has no result yet.
    unchecked: AtomicBool,
    /// Whether what belongs to it might continue when the watch over its cluster last looked.
    seen_continuing: AtomicBool,
    ejected: AtomicBool,
    /// Why, for people; written only by the thread that changes the state.
    why_unhealthy: ArcSwapOption<Trouble>,
    why_ejected: ArcSwapOption<Trouble>,
    ejected_for: ArcSwapOption<EjectionKind>,
    /// Whether it turned out to be a listener of this process.
    ours: AtomicBool,
    /// Other addresses, in order of preference.
    alternates: ArcSwapOption<Vec<SocketAddr>>,
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
        let id = EndpointId::of(&name);
        Self {
            target,
            name,
            id,
            host,
            load: EndpointLoad::default(),
            total: AtomicU64::new(0),
            counts: OutlierCounts::default(),
            unhealthy: AtomicBool::new(false),
            degraded: AtomicBool::new(false),
            unchecked: AtomicBool::new(false),
            seen_continuing: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            why_unhealthy: ArcSwapOption::empty(),
            why_ejected: ArcSwapOption::empty(),
            ejected_for: ArcSwapOption::empty(),
            ours: AtomicBool::new(false),
            alternates: ArcSwapOption::empty(),
            takes: AtomicU8::new(TAKES_ALL),
            weight: AtomicU32::new(0),
        }
    }

    /// Sets the other addresses of the endpoint, in order of preference.
    pub(crate) fn set_alternates(&self, addresses: &[SocketAddr]) {
        self.alternates.store((!addresses.is_empty()).then(|| Arc::new(addresses.to_vec())));
    }

    /// The other addresses of the endpoint, in order of preference; `None` if there are none.
    pub(crate) fn alternates(&self) -> Option<Arc<Vec<SocketAddr>>> {
        self.alternates.load_full()
    }

    /// Notes a connection to the endpoint from the address that `local` returns: an address of this host with a port
    /// that this process listens on is a listener of ours.
    pub fn note_local(&self, transport: HopTransport, local: impl FnOnce() -> Option<IpAddr>) {
        let ours = match &self.target {
            Target::Ip(target) => {
                hops::may_be_ours(transport, *target) && {
                    let reached = hops::reached(target.ip());
                    reached.is_loopback() || local() == Some(reached)
                }
            }
            Target::Unix(_) => false,
        };
        if ours != self.ours.load(Relaxed) {
            self.ours.store(ours, Relaxed);
        }
    }

    /// Whether the last connection to the endpoint led to a listener of this process.
    pub fn is_ours(&self) -> bool {
        self.ours.load(Relaxed)
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
        !self.unhealthy.load(Relaxed) && !self.ejected.load(Relaxed)
    }

    /// Whether an operator withholds new traffic from the endpoint: it is drained or in maintenance.
    pub fn is_withdrawn(&self) -> bool {
        self.takes.load(Relaxed) != TAKES_ALL
    }

    /// Whether what belongs to the endpoint may continue there: connections, flows, and new requests of sticky sessions.
    pub fn may_continue(&self) -> bool {
        self.is_sound() && self.takes.load(Relaxed) != TAKES_NOTHING
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
        self.takes.store(takes, Relaxed);
        self.weight.store(weight, Relaxed);
    }

    /// Whether active checks consider the endpoint healthy.
    pub fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Relaxed)
    }

    /// Whether the endpoint is ejected.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Sets the result of active checks, with the cause of a failure; returns whether that is a change.
    pub fn set_health(&self, result: Result<(), &str>) -> bool {
        let healthy = result.is_ok();
        if self.unhealthy.swap(!healthy, Relaxed) != healthy {
            return false;
        }
        let trouble = result.err().and_then(|cause| Trouble::now(cause.to_owned()));
        self.why_unhealthy.store(trouble);
        true
    }

    /// Replaces the cause for which the endpoint is unhealthy; it has been since the same time.
    pub fn update_cause(&self, cause: &str) {
        let since = self.why_unhealthy().map_or_else(Instant::now, |trouble| trouble.since);
        self.why_unhealthy.store(Some(Arc::new(Trouble { cause: cause.to_owned(), since })));
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
        self.degraded.load(Relaxed) != degraded && self.degraded.swap(degraded, Relaxed) != degraded
    }

    /// Whether the endpoint asks to be used only if others do not suffice.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Relaxed)
    }

    /// Why active checks consider the endpoint unhealthy, if they do.
    pub fn why_unhealthy(&self) -> Option<Arc<Trouble>> {
        self.why_unhealthy.load_full().filter(|_| !self.is_healthy())
    }

    /// Why the endpoint is ejected, if it is.
    pub fn why_ejected(&self) -> Option<Arc<Trouble>> {
        self.why_ejected.load_full().filter(|_| self.is_ejected())
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
        self.ejected_for.store(Some(Arc::new(kind)));
        self.why_ejected.store(Trouble::now(cause.to_owned()));
        self.counts.end_streaks();
        true
    }

    /// The kind of fault for which the endpoint is ejected, if it is.
    pub fn ejected_for(&self) -> Option<EjectionKind> {
        self.ejected_for.load_full().map(|kind| *kind).filter(|_| self.is_ejected())
    }

    /// Readmits the endpoint. For the control thread.
    pub fn readmit(&self) {
        self.counts.end_streaks();
        self.ejected.store(false, Relaxed);
    }
}
