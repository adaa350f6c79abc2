//! The endpoints of a cluster at one moment.
//!
//! Owns: the list, what the cluster says of each, and finding one. Refuses to know: how it came about, and how it is followed
//! by the next. Keeps: it never changes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crate::balance::LoadBalancer;
use crate::balance::subsets::SubsetTable;
use crate::endpoint::{EndpointId, EndpointState, EndpointTraits, Target};

/// A membership.
#[derive(Debug)]
pub struct Membership {
    /// Grows with every change.
    pub version: u64,
    /// The endpoints.
    pub endpoints: Arc<[Arc<EndpointState>]>,
    /// What the cluster says of each.
    pub traits: Arc<[EndpointTraits]>,
    by_id: OnceLock<HashMap<EndpointId, u32>>,
    /// The hosts that clients name, by name, if the endpoints are such.
    pub(super) hosts: Option<HashMap<Arc<str>, u32>>,
    /// Those that may be picked, as of the last change of their states.
    pub balancer: LoadBalancer,
    /// The subsets, if the cluster has any.
    pub subsets: Option<SubsetTable>,
}

/// Memberships up to this size are searched for an ID one by one.
const SEARCHED_MAX: usize = 16;

impl Membership {
    pub(super) fn new(
        version: u64,
        endpoints: Arc<[Arc<EndpointState>]>,
        traits: Arc<[EndpointTraits]>,
        hosts: Option<HashMap<Arc<str>, u32>>,
        balancer: LoadBalancer,
        subsets: Option<SubsetTable>,
    ) -> Arc<Self> {
        Arc::new(Self {
            version,
            endpoints,
            traits,
            by_id: OnceLock::new(),
            hosts,
            balancer,
            subsets,
        })
    }

    /// The host that clients name so, if it is a member.
    pub(crate) fn host(&self, name: &str) -> Option<&Arc<EndpointState>> {
        let index = self.hosts.as_ref()?.get(name)?;
        Some(&self.endpoints[*index as usize])
    }

    /// The indexes of the endpoints that this process uses, of all or in a subset.
    pub(super) fn offered(&self) -> HashSet<u32> {
        let of_subsets = self.subsets.iter().flat_map(|of| of.iter()).map(|of| &*of.balancer);
        std::iter::once(&self.balancer).chain(of_subsets).flat_map(LoadBalancer::offered).collect()
    }

    /// The endpoint of that name.
    pub(super) fn named(&self, name: &str) -> Option<&Arc<EndpointState>> {
        self.endpoints.iter().find(|endpoint| *endpoint.name == *name)
    }

    /// The index of this endpoint, if it is a member.
    pub(super) fn index_of(&self, endpoint: &Arc<EndpointState>) -> Option<u32> {
        let index = self.with_id(endpoint.id)?;
        Arc::ptr_eq(&self.endpoints[index as usize], endpoint).then_some(index)
    }

    /// The index of the endpoint with this ID.
    pub(super) fn with_id(&self, id: EndpointId) -> Option<u32> {
        let mut ids = self.endpoints.iter().map(|endpoint| endpoint.id).zip(0..);
        if self.endpoints.len() <= SEARCHED_MAX {
            return ids.find(|(known, _)| *known == id).map(|(_, index)| index);
        }
        self.by_id.get_or_init(|| ids.collect()).get(&id).copied()
    }
}

/// A resolved endpoint, from which membership is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The address.
    pub target: Target,
    /// The host name it was resolved from.
    pub host: Option<Arc<str>>,
    /// The name of the endpoint, if it is a host that clients name; otherwise that is its address.
    pub name: Option<Arc<str>>,
    /// What the cluster says of it.
    pub traits: EndpointTraits,
    /// Other addresses of the same endpoint, in order of preference: of a host that is one endpoint.
    pub alternates: Vec<SocketAddr>,
}
