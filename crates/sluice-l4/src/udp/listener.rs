//! A UDP listener on one worker, and the destination of its new flows.
//!
//! Owns: the listener's filters, chains and metrics; choosing chain and endpoint for a flow, and opening its socket.
//! Refuses to know: the flow table, and when filters are asked. Keeps: a datagram of a connection that has an endpoint
//! goes there.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::connection::{Attempt, ConnInfo};
use sluice_core::limits::Limit;
use sluice_core::{Facts, Name, Reason};
use sluice_io::{ConnectionFilter, DatagramFilter, Source, WorkerCx};
use sluice_sys::datagram::coalesce;
use sluice_sys::socket::{begin_connect, datagrams_to, local_address};
use sluice_telemetry::{Counter, CounterSet, Gauge};
use sluice_upstream::cluster::{Affinity, Claim};
use sluice_upstream::connector::prepare_datagrams;
use sluice_upstream::hops::{self, Hop, HopTransport};
use sluice_upstream::{ClusterHandle, ClusterPlan, EndpointState, SubsetKey, Target};

use super::{FlowChainPlan, UdpPlan};
use crate::metrics;
use crate::quic::ids::Owner;
use crate::reasons;
use crate::relay::{affinity_of, split_key};
use crate::select::ChainInput;
use crate::split::{SplitHandle, SplitHandles};

/// A UDP listener on one worker.
#[derive(Debug)]
pub struct UdpListener {
    pub(super) plan: Arc<UdpPlan>,
    pub(super) filters: Vec<Rc<dyn ConnectionFilter>>,
    pub(super) chains: Vec<FlowChain>,
    /// Whether some chain has each datagram go to an endpoint of its own.
    pub(super) per_packet: bool,
    pub(super) counters: UdpCounters,
}

/// A chain of the listener.
#[derive(Debug)]
pub(super) struct FlowChain {
    pub(super) filters: Vec<Rc<dyn ConnectionFilter>>,
    pub(super) handles: SplitHandles,
    pub(super) selected: Counter,
}

/// A flow's socket to its endpoint.
#[derive(Debug)]
pub(super) struct UpstreamSocket {
    pub(super) socket: Source,
    /// Set if it leads to a listener of ours.
    _hop: Option<Hop>,
}

/// The listener's metrics.
#[derive(Debug)]
pub(super) struct UdpCounters {
    pub(super) flows: Counter,
    pub(super) active: Gauge,
    pub(super) received: Counter,
    pub(super) sent: Counter,
    /// Not sent because the socket could not accept it.
    pub(super) dropped: Counter,
    /// Not sent because a filter dropped it.
    pub(super) filtered: Counter,
    /// Not sent because no flow could be made for it.
    pub(super) refused: Counter,
    pub(super) icmp: Counter,
    pub(super) table_full: Counter,
    pub(super) descriptors: Counter,
    pub(super) bytes_received: Counter,
    pub(super) bytes_sent: Counter,
    pub(super) ended: CounterSet<Reason>,
}

impl UdpListener {
    /// Creates the listener on `worker`.
    pub fn on_worker(plan: Arc<UdpPlan>, worker: &Rc<WorkerCx>) -> Rc<Self> {
        let (name, shard) = (&*plan.name, &worker.shard);
        let datagrams = |code| shard.counter(&metrics::DATAGRAMS, &[name, code]);
        let chain = |chain: &FlowChainPlan| {
            let owner = format!("{name}/{}", chain.name);
            FlowChain {
                filters: chain
                    .filters
                    .iter()
                    .map(|filter| filter.on_worker(worker, &owner))
                    .collect(),
                handles: SplitHandles::on_worker(&chain.clusters, worker),
                selected: shard.counter(&metrics::CHAIN, &[name, &chain.name]),
            }
        };
        Rc::new(Self {
            filters: plan.filters.iter().map(|filter| filter.on_worker(worker, name)).collect(),
            chains: plan.chains.iter().map(chain).collect(),
            per_packet: plan.chains.iter().any(|chain| chain.per_packet),
            counters: UdpCounters {
                flows: shard.counter(&metrics::FLOWS, &[name]),
                active: shard.gauge(&metrics::FLOWS_ACTIVE, &[name]),
                received: datagrams("received"),
                sent: datagrams("sent"),
                dropped: datagrams("dropped"),
                filtered: datagrams("filtered"),
                refused: datagrams("refused"),
                icmp: shard.counter(&metrics::ICMP, &[name]),
                table_full: shard.counter(&metrics::LIMIT_REACHED, &[Limit::FlowTable.def().name]),
                descriptors: shard
                    .counter(&metrics::LIMIT_REACHED, &[Limit::FlowDescriptors.def().name]),
                bytes_received: shard.counter(&metrics::RECEIVED, &[name]),
                bytes_sent: shard.counter(&metrics::SENT, &[name]),
                ended: CounterSet::default(),
            },
            plan,
        })
    }

    /// Lets the kernel coalesce datagrams on a socket that carries QUIC, whose datagrams are many and alike.
    pub(super) fn take_together(&self, socket: &Source) {
        if self.plan.named {
            // A kernel without support delivers them one by one.
            let _ = coalesce(socket);
        }
    }

    /// Selects the chain of a new flow.
    pub(super) fn select(&self, info: &ConnInfo, origin: &FlowOrigin) -> Result<usize, Reason> {
        let none = Facts::default();
        let subject = ChainInput::of(info, info.facts.get().map_or(&none, |facts| &**facts));
        let of_owner =
            |owner: &Owner| self.plan.chains.iter().position(|chain| chain.name == owner.chain);
        let known = match origin {
            FlowOrigin::Picked(picked) => Some(picked.chain),
            FlowOrigin::Moved(owner) => of_owner(owner),
            FlowOrigin::New | FlowOrigin::Replaced(_) => None,
        };
        let index = known.or_else(|| self.plan.table.find(&subject));
        let index = index.ok_or(reasons::UNMATCHED)?;
        let _ = info.chain.set(Arc::clone(&self.plan.chains[index].name));
        Ok(index)
    }

    /// Picks the endpoint of a flow of `chain`, which begins with `datagram`.
    pub(super) fn pick(
        &self,
        worker: &WorkerCx,
        info: &ConnInfo,
        chain: usize,
        origin: &FlowOrigin,
        datagram: &[u8],
    ) -> Result<Claim, Reason> {
        let (plan, chain) = (&self.plan.chains[chain], &self.chains[chain]);
        let affinity = affinity_of(plan.hash, plan.sticky, info.source(), datagram);
        let (handle, subset) = cluster_of(worker, chain, affinity, origin);
        let affinity = Affinity { subset: subset.as_deref(), ..affinity };
        // Healthy or not: no other endpoint has the keys of the connection.
        let member = match origin {
            FlowOrigin::Moved(owner) => handle.claim_member(&owner.endpoint),
            _ => None,
        };
        let (handle, picked) = match (member, origin) {
            (Some(claim), _) => (handle, Ok(claim)),
            (None, FlowOrigin::Picked(of)) => (handle, of.claim(worker)),
            (None, _) => handle.pick_or_fall_back(worker, affinity),
        };
        let _ = info.reach().cluster.set(Arc::clone(&handle.cluster.name));
        picked
    }

    /// Notifies every filter that admitted a flow into `chain` that it has ended.
    pub(super) fn tell_filters(&self, chain: usize, info: &ConnInfo) {
        self.filters_of(chain).for_each(|filter| filter.ended(info));
    }

    /// Notifies them that the flow continues as another.
    pub(super) fn tell_moved(&self, chain: usize, from: &ConnInfo, to: &ConnInfo) {
        self.filters_of(chain).for_each(|filter| filter.moved(from, to));
    }

    /// What changes the datagrams of a flow that they have admitted.
    pub(super) fn datagram_filters(
        &self,
        chain: usize,
        info: &ConnInfo,
    ) -> Vec<Box<dyn DatagramFilter>> {
        self.filters_of(chain).filter_map(|filter| filter.datagram_filter(info)).collect()
    }

    fn filters_of(&self, chain: usize) -> impl Iterator<Item = &Rc<dyn ConnectionFilter>> {
        self.filters.iter().chain(&self.chains[chain].filters)
    }

    /// Opens a socket to the endpoint of `claim`.
    pub(super) fn open(
        &self,
        worker: &WorkerCx,
        claim: &Claim,
        info: &ConnInfo,
    ) -> Result<UpstreamSocket, Reason> {
        let endpoint = claim.endpoint();
        let plan = claim.handle().plan();
        let opened = connected(worker, info, &plan, endpoint);
        let name = Arc::clone(&endpoint.name);
        let attempt = match &opened {
            Ok(_) => Attempt::reached(name),
            Err((why, errno)) => Attempt::failed(name, *why, *errno, None),
        };
        info.reach().attempts.borrow_mut().push(attempt.in_place(endpoint.place()));
        let upstream = opened.map_err(|(why, _)| {
            claim.handle().note_failure(worker, endpoint, why);
            why
        })?;
        info.reach().upstream_local.set(local_address(&upstream.socket));
        // Only a reply shows whether the endpoint is there.
        endpoint.count_connection();
        self.take_together(&upstream.socket);
        Ok(upstream)
    }
}

/// Where the datagrams of a new flow went before.
#[derive(Debug)]
pub(super) enum FlowOrigin {
    /// Nowhere.
    New,
    /// To the endpoint of a QUIC connection that has changed its address.
    Moved(Owner),
    /// To this cluster, by a flow that is replaced.
    Replaced(Name),
    /// Anywhere: each datagram is balanced by itself, and this one goes here.
    Picked(PickedEndpoint),
}

/// The endpoint that was picked for a datagram.
#[derive(Debug)]
pub(super) struct PickedEndpoint {
    /// The chain that the datagram belongs to.
    pub(super) chain: usize,
    /// The cluster that was asked last.
    pub(super) handle: Rc<ClusterHandle>,
    /// The endpoint, or why there is none.
    pub(super) picked: Result<Arc<EndpointState>, Reason>,
}

impl PickedEndpoint {
    fn claim(&self, worker: &WorkerCx) -> Result<Claim, Reason> {
        self.handle.claim_picked(worker, self.picked.as_ref().map_err(|why| *why)?)
    }
}

/// The cluster of a flow, and the metadata that the flow asks for there.
fn cluster_of(
    worker: &WorkerCx,
    chain: &FlowChain,
    affinity: Affinity<'_>,
    origin: &FlowOrigin,
) -> (Rc<ClusterHandle>, Option<Arc<SubsetKey>>) {
    let mut handles = chain.handles.iter();
    let own = |of: &SplitHandle| (Rc::clone(&of.handle), of.subset.clone());
    let before = match origin {
        FlowOrigin::New => None,
        FlowOrigin::Picked(picked) => Some((Rc::clone(&picked.handle), None)),
        FlowOrigin::Moved(owner) => handles.find_map(|of| {
            let handle = of.handle.with_member(worker, &owner.endpoint)?;
            Some((handle, of.subset.clone()))
        }),
        FlowOrigin::Replaced(cluster) => {
            handles.find(|of| of.handle.cluster.name == *cluster).map(own)
        }
    };
    let chosen = || own(chain.handles.choose(worker, split_key(affinity)));
    before.unwrap_or_else(chosen)
}

/// Opens a socket to `endpoint`, and records the hop if it leads to a listener of ours.
fn connected(
    worker: &WorkerCx,
    info: &ConnInfo,
    plan: &ClusterPlan,
    endpoint: &EndpointState,
) -> Result<UpstreamSocket, (Reason, Option<i32>)> {
    let failed = |error: io::Error| {
        (sluice_upstream::reasons::of_connect_error(&error), error.raw_os_error())
    };
    let Target::Ip(to) = &endpoint.target else {
        return Err(failed(io::ErrorKind::Unsupported.into()));
    };
    plan.admit(endpoint, *to).map_err(|denial| {
        info.note(denial);
        (sluice_upstream::reasons::EGRESS, None)
    })?;
    let socket = datagrams_to(*to).map_err(failed)?;
    let (from, hops_max) = (info.peer.socket(), worker.limits.get(Limit::OwnHops));
    let hop =
        hops::enter(HopTransport::Datagram, from, *to, hops_max, &socket).map_err(|looped| {
            info.note(looped);
            (sluice_upstream::reasons::LOOP, None)
        })?;
    if let Some(options) = &plan.socket {
        prepare_datagrams(options, &socket, *to).map_err(failed)?;
    }
    begin_connect(&socket, *to).map_err(failed)?;
    let socket = worker.reactor.register_flow(socket).map_err(failed)?;
    Ok(UpstreamSocket { socket, _hop: hop })
}
