//! Connections to one endpoint that carry many requests: HTTP/2 and HTTP/3.
//!
//! Owns: the open connections, and those being made. Refuses to know: how they are made. Keeps: only one connection of a
//! version is being made at a time; waiting requests are notified when that succeeds or fails.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Multiplexed, Version};
use sluice_core::Moment;
use sluice_upstream::EndpointState;
use sluice_upstream::cluster::TrafficClass;
use sluice_upstream::plan::HttpVersion;
use sluice_upstream::pool::Idle;
use tokio::sync::Notify;

use super::attempt::Http3Attempt;
use super::{ClusterPool, ConnectionNeeds};

/// Connections to one endpoint that many requests share.
#[derive(Debug)]
pub(super) struct EndpointPool {
    pub(super) endpoint: Arc<EndpointState>,
    pub(super) open: Vec<Idle<Multiplexed>>,
    /// Set while a connection over HTTP/2 or HTTP/3 is being made; notified when that ends.
    connecting: [Option<Rc<Notify>>; 2],
    /// Set while HTTP/3 is attempted beside TCP.
    pub(super) attempt: Option<Rc<Http3Attempt>>,
    pub(super) idle_since: Moment,
}

impl EndpointPool {
    pub(super) fn new(endpoint: &Arc<EndpointState>, now: Moment) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            open: Vec::new(),
            connecting: [None, None],
            attempt: None,
            idle_since: now,
        }
    }
}

impl EndpointPool {
    fn set_connecting(&mut self, protocol: HttpVersion, done: Option<Rc<Notify>>) {
        if let Some(place) = place_of(protocol) {
            self.connecting[place] = done;
        }
    }
}

impl ClusterPool {
    /// Takes a shared connection that has room for another request and is not `avoided`.
    pub(super) fn take_shared(
        &self,
        now: Moment,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
        avoided: impl Fn(&Multiplexed) -> bool,
    ) -> Option<Multiplexed> {
        let plan = self.handle.plan();
        let reuse = &plan.reuse;
        let only = (plan.protocol == HttpVersion::Same).then(|| self.protocol(needs));
        let streams_max = self.streams_open_to(needs.class, reuse.streams_max);
        let generation = self.handle.cluster.generation();
        let mut endpoint_pools = self.shared.borrow_mut();
        let endpoint_pool = endpoint_pools.get_mut(&endpoint.name)?;
        endpoint_pool.idle_since = now;
        let idle = endpoint_pool.open.iter_mut().find_map(|idle| {
            let fits = idle.may_go_on(reuse, generation, now)
                && (needs.http3 || idle.connection.version() != Version::Http3)
                && only.is_none_or(|only| speaks(&idle.connection, only))
                && idle.connection.has_room(streams_max)
                && !avoided(&idle.connection);
            fits.then_some(idle)
        })?;
        idle.requests += 1;
        Some(idle.connection.clone())
    }

    fn streams_open_to(&self, class: TrafficClass, max: usize) -> usize {
        usize::try_from(self.handle.open_to(class, max as u64)).unwrap_or(max)
    }

    /// Notified when the connection that is being made over this version has been made or has failed.
    pub(super) fn connecting(
        &self,
        endpoint: &Arc<EndpointState>,
        protocol: HttpVersion,
    ) -> Option<Rc<Notify>> {
        let pools = self.shared.borrow();
        pools.get(&endpoint.name)?.connecting[place_of(protocol)?].clone()
    }
}

/// The place of what is being made over a version that requests share.
const fn place_of(protocol: HttpVersion) -> Option<usize> {
    match protocol {
        HttpVersion::Http2 => Some(0),
        HttpVersion::Http3 => Some(1),
        HttpVersion::Http1 | HttpVersion::Auto | HttpVersion::Same => None,
    }
}

/// Whether a connection speaks exactly this version.
const fn speaks(connection: &Multiplexed, protocol: HttpVersion) -> bool {
    match connection {
        Multiplexed::H2(_) => matches!(protocol, HttpVersion::Http2),
        Multiplexed::H3(_) => matches!(protocol, HttpVersion::Http3),
    }
}

impl EndpointPool {
    /// Whether a connection is being made.
    pub(super) fn is_connecting(&self) -> bool {
        self.connecting.iter().any(Option::is_some) || self.attempt.is_some()
    }
}

/// A shared connection that is being made; waiting requests are notified when that succeeds or fails.
pub(super) struct Connecting {
    pool: Rc<ClusterPool>,
    endpoint: Arc<str>,
    protocol: HttpVersion,
    done: Rc<Notify>,
}

impl Connecting {
    pub(super) fn begin(
        pool: &Rc<ClusterPool>,
        endpoint: &Arc<EndpointState>,
        protocol: HttpVersion,
        now: Moment,
    ) -> Self {
        let done = Rc::new(Notify::new());
        let mut endpoint_pools = pool.shared.borrow_mut();
        let endpoint_pool = endpoint_pools
            .entry(Arc::clone(&endpoint.name))
            .or_insert_with(|| EndpointPool::new(endpoint, now));
        endpoint_pool.set_connecting(protocol, Some(Rc::clone(&done)));
        Self { pool: Rc::clone(pool), endpoint: Arc::clone(&endpoint.name), protocol, done }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(endpoint_pool) = self.pool.shared.borrow_mut().get_mut(&self.endpoint) {
            endpoint_pool.set_connecting(self.protocol, None);
        }
        self.done.notify_waiters();
    }
}
