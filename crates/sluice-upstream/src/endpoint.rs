//! One endpoint as it lives.
//!
//! Owns: its counts and its health. Refuses to know: why somebody connects.
//! Keeps: `active` counts leases, each given back on drop; the ejected bit is set by whoever
//! crosses the threshold (compare-and-swap) and cleared by the control thread.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

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

/// An endpoint. Shared by all threads; lives on over reloads while its address stays.
#[derive(Debug)]
pub struct EndpointState {
    /// Where it is.
    pub target: Target,
    /// The address as text: its name in records, metrics and hashes.
    pub name: Arc<str>,
    /// The host name that it was resolved from.
    pub host: Option<Arc<str>>,
    weight: AtomicU32,
    active: AtomicU64,
    total: AtomicU64,
    failing: AtomicU32,
    unhealthy: AtomicBool,
    ejected: AtomicBool,
    ejections: AtomicU32,
}

impl EndpointState {
    /// An endpoint that is taken to be well.
    pub fn new(target: Target, host: Option<Arc<str>>, weight: u32) -> Self {
        let name = target.to_string().into();
        Self {
            target,
            name,
            host,
            weight: AtomicU32::new(weight),
            active: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failing: AtomicU32::new(0),
            unhealthy: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            ejections: AtomicU32::new(0),
        }
    }

    /// Its share.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Changes its share; takes effect with the next membership.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// Connections now.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// Connections ever made.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Whether it may be chosen.
    pub fn is_usable(&self) -> bool {
        !self.unhealthy.load(Relaxed) && !self.ejected.load(Relaxed)
    }

    /// Whether active checks say that it is well.
    pub fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Relaxed)
    }

    /// Whether it was put aside for failing connections.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Sets what active checks say; returns whether that is a change.
    pub fn set_healthy(&self, healthy: bool) -> bool {
        self.unhealthy.swap(!healthy, Relaxed) == healthy
    }

    /// Counts a connection; given back when the lease is dropped.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.active.fetch_add(1, Relaxed);
        Lease(Arc::clone(self))
    }

    /// A connection was made.
    pub fn succeeded(&self) {
        self.total.fetch_add(1, Relaxed);
        if self.failing.load(Relaxed) != 0 {
            self.failing.store(0, Relaxed);
        }
    }

    /// A connection failed; returns how many have in a row.
    pub fn failed(&self) -> u32 {
        self.failing.fetch_add(1, Relaxed) + 1
    }

    /// Puts it aside; false when it is already. Returns how often it has been, on success.
    pub fn eject(&self) -> Option<u32> {
        self.ejected.compare_exchange(false, true, Relaxed, Relaxed).ok()?;
        self.failing.store(0, Relaxed);
        Some(self.ejections.fetch_add(1, Relaxed) + 1)
    }

    /// Takes it back. For the control thread.
    pub fn readmit(&self) {
        self.ejected.store(false, Relaxed);
    }
}

/// A connection's claim on an endpoint.
#[derive(Debug)]
pub struct Lease(Arc<EndpointState>);

impl Lease {
    /// The endpoint.
    pub const fn endpoint(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
