//! The state of one endpoint at run time.
//!
//! Owns: its counts and its health. Refuses to know: why a connection is made. Keeps: `active` counts leases, each
//! given back on drop; the ejected bit is set by the thread that crosses the threshold (compare-and-swap) and cleared
//! by the control thread.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::hops::{self, HopTransport};

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
}

impl Default for EndpointTraits {
    fn default() -> Self {
        Self { weight: 1, priority: 0, locality: None, locality_weight: 0 }
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
    /// The host name that it was resolved from.
    pub host: Option<Arc<str>>,
    active: AtomicU64,
    /// The part of `active` that is pooled; the requests that those connections carry count instead.
    shared: AtomicU64,
    requests: AtomicU64,
    total: AtomicU64,
    failing: AtomicU32,
    erring: AtomicU32,
    unhealthy: AtomicBool,
    ejected: AtomicBool,
    degraded: AtomicBool,
    /// Why, for people; written only by the thread that changes the state.
    why_unhealthy: ArcSwapOption<Trouble>,
    why_ejected: ArcSwapOption<Trouble>,
    ejections: AtomicU32,
    /// Whether it turned out to be a listener of this process.
    ours: AtomicBool,
    /// Other addresses, in order of preference.
    alternates: ArcSwapOption<Vec<SocketAddr>>,
}

impl EndpointState {
    /// An endpoint that is assumed to be healthy.
    pub fn new(target: Target, host: Option<Arc<str>>) -> Self {
        let name = target.to_string().into();
        Self {
            target,
            name,
            host,
            active: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failing: AtomicU32::new(0),
            erring: AtomicU32::new(0),
            unhealthy: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            degraded: AtomicBool::new(false),
            why_unhealthy: ArcSwapOption::empty(),
            why_ejected: ArcSwapOption::empty(),
            ejections: AtomicU32::new(0),
            ours: AtomicBool::new(false),
            alternates: ArcSwapOption::empty(),
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

    /// Current connections.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// The current load, as balancers weigh it: relayed connections plus requests.
    pub fn load(&self) -> u64 {
        let relayed = self.active.load(Relaxed).saturating_sub(self.shared.load(Relaxed));
        relayed + self.requests.load(Relaxed)
    }

    /// Requests in flight.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Connections made in total.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Whether the endpoint may be chosen.
    pub fn is_usable(&self) -> bool {
        !self.unhealthy.load(Relaxed) && !self.ejected.load(Relaxed)
    }

    /// Whether the endpoint asks for as little traffic as possible.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Relaxed)
    }

    /// Sets whether the endpoint asks for as little traffic as possible; returns whether that is a change.
    pub fn set_degraded(&self, degraded: bool) -> bool {
        self.degraded.swap(degraded, Relaxed) != degraded
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

    /// Why active checks consider the endpoint unhealthy, if they do.
    pub fn why_unhealthy(&self) -> Option<Arc<Trouble>> {
        self.why_unhealthy.load_full().filter(|_| !self.is_healthy())
    }

    /// Why the endpoint is ejected, if it is.
    pub fn why_ejected(&self) -> Option<Arc<Trouble>> {
        self.why_ejected.load_full().filter(|_| self.is_ejected())
    }

    /// Counts a connection; the count is given back when the lease is dropped.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.active.fetch_add(1, Relaxed);
        Lease { endpoint: Arc::clone(self), shared: false }
    }

    /// Counts a pooled connection, which carries the requests of many clients; given back when the lease is dropped.
    pub fn lease_shared(self: &Arc<Self>) -> Lease {
        self.shared.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        Lease { endpoint: Arc::clone(self), shared: true }
    }

    /// Counts a request; the count is given back when the value is dropped.
    pub fn lease_request(self: &Arc<Self>) -> RequestLease {
        self.requests.fetch_add(1, Relaxed);
        RequestLease(Arc::clone(self))
    }

    /// Notes that a request succeeded.
    pub fn answered_well(&self) {
        if self.erring.load(Relaxed) != 0 {
            self.erring.store(0, Relaxed);
        }
    }

    /// Counts a request that failed with a server error or without a response; returns the number of such in a row.
    pub fn answered_badly(&self) -> u32 {
        self.erring.fetch_add(1, Relaxed) + 1
    }

    /// Notes that a connection was made.
    pub fn succeeded(&self) {
        self.count_connection();
        self.responded();
    }

    /// Counts a connection of which it is not known yet whether it reached the endpoint.
    pub fn count_connection(&self) {
        self.total.fetch_add(1, Relaxed);
    }

    /// Notes that the endpoint has responded: failures are counted from zero again.
    pub fn responded(&self) {
        if self.failing.load(Relaxed) != 0 {
            self.failing.store(0, Relaxed);
        }
    }

    /// Counts a failed connection; returns the number of failures in a row.
    pub fn failed(&self) -> u32 {
        self.failing.fetch_add(1, Relaxed) + 1
    }

    /// Ejects the endpoint; returns how often it has been ejected, or `None` if it is ejected already.
    pub fn eject(&self, cause: &str) -> Option<u32> {
        self.ejected.compare_exchange(false, true, Relaxed, Relaxed).ok()?;
        self.why_ejected.store(Trouble::now(cause.to_owned()));
        self.failing.store(0, Relaxed);
        self.erring.store(0, Relaxed);
        Some(self.ejections.fetch_add(1, Relaxed) + 1)
    }

    /// Readmits the endpoint. For the control thread.
    pub fn readmit(&self) {
        self.ejected.store(false, Relaxed);
    }
}

/// A connection's claim on an endpoint.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<EndpointState>,
    shared: bool,
}

impl Lease {
    /// The endpoint.
    pub const fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// Whether it is that of a pooled connection.
    pub(crate) const fn is_shared(&self) -> bool {
        self.shared
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.shared {
            self.endpoint.shared.fetch_sub(1, Relaxed);
        }
        self.endpoint.active.fetch_sub(1, Relaxed);
    }
}

/// A request's claim on an endpoint.
#[derive(Debug)]
pub struct RequestLease(Arc<EndpointState>);

impl Drop for RequestLease {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}
