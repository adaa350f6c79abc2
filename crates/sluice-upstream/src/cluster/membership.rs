//! The endpoints of a cluster at one moment.
//!
//! Owns: the list, what the cluster says of each, and finding one. Refuses to know: how it came about, and how it is followed
//! by the next. Keeps: it never changes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

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
    pub traits: Arc<[Arc<EndpointTraits>]>,
    /// Whether they are hosts that clients name.
    pub named_by_clients: bool,
    /// Where each is; `None` if there are so few that a search is as fast.
    pub(super) index: Option<Arc<MemberIndex>>,
    /// Those that may be picked, as of the last change of their states.
    pub balancer: LoadBalancer,
    /// The subsets, if the cluster has any.
    pub subsets: Option<SubsetTable>,
}

/// Where each endpoint of a membership is. Made together with it, so that no worker has to.
#[derive(Debug)]
pub(super) struct MemberIndex {
    by_id: HashMap<EndpointId, u32, RandomState>,
    by_name: HashMap<Arc<str>, u32, RandomState>,
}

impl MemberIndex {
    /// The index of these endpoints; `None` if they are few.
    pub(super) fn of(endpoints: &[Arc<EndpointState>]) -> Option<Arc<Self>> {
        let all = || endpoints.iter().zip(0..);
        (endpoints.len() > SEARCHED_MAX).then(|| {
            Arc::new(Self {
                by_id: all().map(|(endpoint, index)| (endpoint.id, index)).collect(),
                by_name: all().map(|(it, index)| (Arc::clone(&it.name), index)).collect(),
            })
        })
    }
}

/// Memberships up to this size are searched one by one.
const SEARCHED_MAX: usize = 16;

impl Membership {
    pub(super) fn new(
        version: u64,
        endpoints: Arc<[Arc<EndpointState>]>,
        traits: Arc<[Arc<EndpointTraits>]>,
        index: Option<Arc<MemberIndex>>,
        balancer: LoadBalancer,
        subsets: Option<SubsetTable>,
    ) -> Self {
        Self { version, endpoints, traits, named_by_clients: false, index, balancer, subsets }
    }

    /// With hosts that clients name, among which nothing is picked.
    pub(super) fn of_hosts(
        version: u64,
        endpoints: Arc<[Arc<EndpointState>]>,
        traits: Arc<[Arc<EndpointTraits>]>,
    ) -> Self {
        let (index, balancer) = (MemberIndex::of(&endpoints), LoadBalancer::default());
        let members = Self::new(version, endpoints, traits, index, balancer, None);
        Self { named_by_clients: true, ..members }
    }

    /// The indexes of the endpoints that this process uses, of all or in a subset.
    pub(super) fn offered(&self) -> HashSet<u32> {
        let of_subsets = self.subsets.iter().flat_map(|of| of.iter()).map(|of| &*of.balancer);
        std::iter::once(&self.balancer).chain(of_subsets).flat_map(LoadBalancer::offered).collect()
    }

    /// The endpoint of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<EndpointState>> {
        match &self.index {
            None => self.endpoints.iter().find(|endpoint| *endpoint.name == *name),
            Some(index) => Some(&self.endpoints[*index.by_name.get(name)? as usize]),
        }
    }

    /// Whether this endpoint is a member.
    pub(super) fn has(&self, endpoint: &Arc<EndpointState>) -> bool {
        self.index_of(endpoint).is_some()
    }

    /// The index of this endpoint, if it is a member.
    pub(super) fn index_of(&self, endpoint: &Arc<EndpointState>) -> Option<u32> {
        let index = self.with_id(endpoint.id)?;
        Arc::ptr_eq(&self.endpoints[index as usize], endpoint).then_some(index)
    }

    /// The index of the endpoint with this ID.
    pub(super) fn with_id(&self, id: EndpointId) -> Option<u32> {
        match &self.index {
            None => {
                let mut ids = self.endpoints.iter().map(|endpoint| endpoint.id).zip(0..);
                ids.find(|(known, _)| *known == id).map(|(_, index)| index)
            }
            Some(index) => index.by_id.get(&id).copied(),
        }
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
    pub traits: Arc<EndpointTraits>,
    /// Other addresses of the same endpoint, in order of preference: of a host that is one endpoint.
    pub alternates: Vec<SocketAddr>,
}
