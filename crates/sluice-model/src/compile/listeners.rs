//! The plans of listeners and their chains.

use std::num::NonZeroU32;
use std::sync::Arc;

use sluice_core::{Diags, ListenAddress, Name, Path};
use sluice_io::ConnectionFilterPlan;
use sluice_l4::chain::InnerPlan;
use sluice_l4::filters::{FilterOwner, check_key, plan_of_use};
use sluice_l4::udp::{FlowChainPlan, UdpPlan};
use sluice_l4::{
    ChainPlan, ChainTable, Criteria, HandlerPlan, InspectPlan, ListenerPlan, NamedClusters,
    RelayPlan, RelayTarget, Termination, Transport, WeightedCluster,
};
use sluice_l7::HttpPlan;
use sluice_l7::client_auth::OwnClientAuth;
use sluice_quic::QuicListenerPlan;
use sluice_telemetry::metrics::SeriesLabels;

use super::filter_names::{Passing, check_passing};
use super::http::HttpContext;
use super::{Compiler, client_auth, quic, unknown_filter};
use crate::chains::{ChainNeeds, needs};
use crate::model::listener::{
    ChainKind, FlowChain, InnerChain, RelayShare, RelayTo, Service, SocketOptions, Streams, Traffic,
};
use crate::model::tls::ServerTls;
use crate::model::{FilterChain, FilterConfig, Listener};

/// A listener ready to run.
#[derive(Clone, Debug)]
pub struct ListenerSnapshot {
    /// The addresses it listens on.
    pub addresses: Vec<ListenAddress>,
    /// Socket options.
    pub socket: SocketOptions,
    /// What it does.
    pub plan: PlanKind,
    /// QUIC on the UDP ports of the same numbers.
    pub quic: Option<Arc<QuicListenerPlan>>,
}

/// What a listener accepts: connections or datagrams.
#[derive(Clone, Debug)]
pub enum PlanKind {
    /// Connections.
    Stream(Arc<ListenerPlan>),
    /// Datagrams.
    Datagram(Arc<UdpPlan>),
    /// QUIC connections.
    Quic(Arc<QuicListenerPlan>),
}

impl ListenerSnapshot {
    /// Whether a chain, filter or handler of the listener may count in the series with these labels.
    pub fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        let own = match &self.plan {
            PlanKind::Stream(plan) => plan.counts_in(series),
            PlanKind::Datagram(plan) => plan.counts_in(series),
            PlanKind::Quic(plan) => plan.counts_in(series),
        };
        own || self.quic.as_ref().is_some_and(|quic| quic.counts_in(series))
    }
}

impl Compiler<'_> {
    pub(crate) fn listener(
        &self,
        name: &Name,
        listener: &Listener,
        diags: &mut Diags,
    ) -> Option<ListenerSnapshot> {
        let owner = FilterOwner::Listener(name);
        let list = Path::ROOT.key("filters");
        let filters = self.filters(&listener.filters, owner, &list, diags);
        let serves_http = |(_, _, service): &(_, _, &Service)| matches!(service, Service::Http(_));
        let datagrams = matches!(listener.traffic, Traffic::Datagrams(_));
        let passing = match listener.services().iter().any(serves_http) {
            true => Passing::Nothing,
            false if datagrams => Passing::Datagrams,
            false => Passing::Bytes,
        };
        check_passing(passing, &listener.filters, filters.as_deref(), &list, diags);
        let (plan, quic) = match &listener.traffic {
            Traffic::Streams(streams) => {
                let (plan, quic) = self.streams(name, streams, filters, diags)?;
                (PlanKind::Stream(plan), quic)
            }
            Traffic::Datagrams(chains) => {
                let plan = self.datagrams(name, chains, filters, diags)?;
                (PlanKind::Datagram(Arc::new(plan)), None)
            }
        };
        Some(ListenerSnapshot {
            addresses: listener.addresses.clone(),
            socket: listener.socket.clone(),
            plan,
            quic,
        })
    }

    fn streams(
        &self,
        name: &Name,
        streams: &Streams,
        filters: Option<Vec<Arc<dyn ConnectionFilterPlan>>>,
        diags: &mut Diags,
    ) -> Option<(Arc<ListenerPlan>, Option<Arc<QuicListenerPlan>>)> {
        let Streams { original_destination, proxy_protocol, inspect, chains, quic: options } =
            streams;
        let list = Path::ROOT.key("chains");
        let criteria: Vec<_> = chains.iter().map(|chain| chain.criteria.clone()).collect();
        let places: Vec<usize> = (0..chains.len()).collect();
        let table = chain_table(&criteria, &places, &list, diags);
        let over_quic = options.as_ref().map(|_| quic::over_quic(chains));
        let quic = over_quic.as_ref().map(|over_quic| quic::chains(over_quic, diags));
        let requirements = client_auth::requirements(chains);
        let hosts = client_auth::of_listener(&criteria, &requirements, over_quic);
        let (mut plans, mut handlers) = (Some(Vec::new()), Vec::new());
        for ((place, chain), own) in chains.iter().enumerate().zip(requirements) {
            let client_auth = hosts.clone().map(|listener| OwnClientAuth { listener, own });
            let scope = Scope { listener: name, client_auth: client_auth.as_ref() };
            match (self.chain(chain, scope, &list.index(place), diags), &mut plans) {
                (Some((plan, http)), Some(all)) => {
                    all.push(plan);
                    handlers.push(http);
                }
                _ => plans = None,
            }
        }
        let asked = |(criteria, chain): (Criteria, &FilterChain)| ChainNeeds {
            criteria,
            terminates: chain.tls().is_some(),
            reads_name: chain.reads_server_name(),
        };
        let wanted: Vec<_> = criteria.into_iter().zip(chains).map(asked).collect();
        let needs = needs(&wanted, false);
        let plan = Arc::new(ListenerPlan {
            name: Arc::clone(name),
            filters: filters?,
            original_destination: *original_destination,
            proxy_protocol: proxy_protocol.clone(),
            inspect: InspectPlan {
                needs,
                timeout: inspect.timeout,
                bytes: inspect.bytes,
                on_timeout: inspect.on_timeout,
            },
            table: table?,
            chains: Arc::new(plans?),
        });
        let quic = match quic.zip(options.as_ref()) {
            Some((chains, options)) => Some(quic::listener(chains?, &plan, &handlers, options)),
            None => None,
        };
        Some((plan, quic))
    }

    fn chain(
        &self,
        chain: &FilterChain,
        scope: Scope<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<BuiltChain> {
        let owner = FilterOwner::Chain { listener: scope.listener, chain: &chain.name };
        let list = at.key("filters");
        let filters = self.filters(&chain.filters, owner, &list, diags);
        let passing = match &chain.kind {
            ChainKind::Plain(Service::Http(_)) | ChainKind::Terminate(_, Service::Http(_)) => {
                Passing::Nothing
            }
            _ => Passing::Bytes,
        };
        check_passing(passing, &chain.filters, filters.as_deref(), &list, diags);
        let terminate = |tls: &ServerTls, inner: Option<InnerPlan>, diags: &mut Diags| {
            Some(Transport::Terminate(Termination {
                tls: self.server_tls(tls, &at.key("tls"), diags)?,
                timeout: tls.handshake_timeout,
                plain_http: tls.plain_http,
                inner,
            }))
        };
        let (transport, handler, http) = match &chain.kind {
            ChainKind::Plain(service) => {
                let (handler, http) = self.service(service, &chain.name, scope, at, diags)?;
                (Transport::Untouched, Some(handler), http)
            }
            ChainKind::Terminate(tls, service) => {
                let service = self.service(service, &chain.name, scope, at, diags);
                // The files of `tls` are read whether its handler is right or not.
                let transport = terminate(tls, None, diags);
                let (handler, http) = service?;
                (transport?, Some(handler), http)
            }
            ChainKind::Inspect(tls, inner) => {
                let inner = self.inner(inner, scope, &at.key("chains"), diags);
                let readable = inner.is_some();
                let transport = terminate(tls, inner, diags).filter(|_| readable);
                (transport?, None, None)
            }
        };
        let (name, filters) = (Arc::clone(&chain.name), filters?);
        Some((ChainPlan { name, transport, filters, handler }, http))
    }

    fn inner(
        &self,
        chains: &[InnerChain],
        scope: Scope<'_>,
        list: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<InnerPlan> {
        let mut plans = Some(Vec::new());
        for (place, chain) in chains.iter().enumerate() {
            let at = list.index(place);
            let owner = FilterOwner::Chain { listener: scope.listener, chain: &chain.name };
            let own = at.key("filters");
            let filters = self.filters(&chain.filters, owner, &own, diags);
            let passing = match chain.service {
                Service::Http(_) => Passing::Nothing,
                Service::Relay { .. } => Passing::Bytes,
            };
            check_passing(passing, &chain.filters, filters.as_deref(), &own, diags);
            let handler = self.service(&chain.service, &chain.name, scope, &at, diags);
            match (filters, handler, &mut plans) {
                (Some(filters), Some((handler, _)), Some(all)) => all.push(ChainPlan {
                    name: Arc::clone(&chain.name),
                    transport: Transport::Untouched,
                    filters,
                    handler: Some(handler),
                }),
                _ => plans = None,
            }
        }
        let criteria: Vec<_> = chains.iter().map(|chain| chain.criteria.clone()).collect();
        let places: Vec<usize> = (0..chains.len()).collect();
        let table = chain_table(&criteria, &places, list, diags);
        // Inside a terminated stream, the server name is known from the handshake.
        let asked = |criteria| ChainNeeds { criteria, terminates: false, reads_name: false };
        let wanted: Vec<_> = criteria.into_iter().map(asked).collect();
        Some(InnerPlan { needs: needs(&wanted, true), table: table?, chains: plans? })
    }

    fn service(
        &self,
        service: &Service,
        chain: &Name,
        scope: Scope<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<BuiltService> {
        Some(match service {
            Service::Relay { to, options } => {
                let to = match to {
                    RelayTo::Named { by, allow, map } => {
                        let directory = Arc::clone(&self.around.clusters);
                        RelayTarget::Named(Arc::new(NamedClusters {
                            by: *by,
                            allow: allow.clone(),
                            map: map.as_ref().map(|map| self.around.maps.reference(map)),
                            directory,
                        }))
                    }
                    RelayTo::Cluster { .. } | RelayTo::Split(_) => {
                        RelayTarget::Split(self.relay_to(to))
                    }
                };
                (Arc::new(RelayPlan { to, options: options.clone() }), None)
            }
            Service::Http(http) => {
                let Scope { listener, client_auth } = scope;
                let context = HttpContext { listener, chain, client_auth };
                let plan = Arc::new(self.http(http, &context, &at.key("http"), diags)?);
                (Arc::clone(&plan) as Arc<dyn HandlerPlan>, Some(plan))
            }
        })
    }

    fn relay_to(&self, to: &RelayTo) -> Vec<WeightedCluster> {
        let cluster = |share: RelayShare| WeightedCluster {
            cluster: self.around.clusters.reference(&share.cluster),
            weight: share.weight,
            subset: share.subset,
        };
        to.shares().map(cluster).collect()
    }

    fn datagrams(
        &self,
        name: &Name,
        chains: &[FlowChain],
        filters: Option<Vec<Arc<dyn ConnectionFilterPlan>>>,
        diags: &mut Diags,
    ) -> Option<UdpPlan> {
        let list = Path::ROOT.key("chains");
        let criteria: Vec<_> = chains.iter().map(|chain| chain.criteria.clone()).collect();
        let places: Vec<usize> = (0..chains.len()).collect();
        let table = chain_table(&criteria, &places, &list, diags);
        let mut plans = Some(Vec::new());
        for (place, chain) in chains.iter().enumerate() {
            let at = list.index(place);
            let owner = FilterOwner::Chain { listener: name, chain: &chain.name };
            let own = at.key("filters");
            let filters = self.filters(&chain.filters, owner, &own, diags);
            check_passing(Passing::Datagrams, &chain.filters, filters.as_deref(), &own, diags);
            if let RelayTo::Named { .. } = chain.to {
                let message = "the cluster of a UDP flow cannot be named by its client";
                diags.error("wrong-kind", None, at.key("relay"), message);
                plans = None;
            }
            match (filters, &mut plans) {
                (Some(filters), Some(all)) => all.push(FlowChainPlan {
                    name: Arc::clone(&chain.name),
                    filters,
                    clusters: self.relay_to(&chain.to),
                    hash: chain.hash,
                    sticky: chain.sticky,
                    idle_timeout: chain.idle_timeout,
                    responses: chain.responses.map(NonZeroU32::get),
                    per_packet: chain.per_packet,
                }),
                _ => plans = None,
            }
        }
        let named = criteria.iter().any(asks_of_hello);
        let spread = chains.iter().position(|chain| chain.per_packet);
        if let Some(place) = spread.filter(|_| named) {
            let message =
                "QUIC connections that are selected by their hello stay with their endpoint";
            diags
                .error("wrong-kind", None, list.index(place).key("relay.per_packet"), message)
                .help("remove `per_packet`, or give these datagrams a listener of their own");
            return None;
        }
        Some(UdpPlan {
            name: Arc::clone(name),
            filters: filters?,
            table: table?,
            chains: plans?,
            named,
        })
    }

    fn filters(
        &self,
        uses: &[FilterConfig],
        owner: FilterOwner<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Vec<Arc<dyn ConnectionFilterPlan>>> {
        let filters = &self.around.filters;
        let mut plans = Some(Vec::new());
        for (index, FilterConfig { name, settings }) in uses.iter().enumerate() {
            let at = at.index(index);
            let here = at.key(name);
            let before = uses.iter().take(index).map(|of| &*of.name);
            if check_key(name, before, &here, diags).is_none() {
                plans = None;
                continue;
            }
            let plan = match filters.get(name) {
                Some(factory) => self.checked(&**factory, settings, owner, &here, diags),
                None => {
                    let known: Vec<&str> = filters.iter().map(|factory| factory.name()).collect();
                    unknown_filter("filter", name, &known, &here, diags);
                    None
                }
            };
            match (plan, &mut plans) {
                (Some(plan), Some(all)) => all.push(plan_of_use(name, plan)),
                _ => plans = None,
            }
        }
        plans
    }
}

/// What serves a stream, and the plan of HTTP if it is that, which may also serve QUIC.
type BuiltService = (Arc<dyn HandlerPlan>, Option<Arc<HttpPlan>>);

/// A chain, and the plan of HTTP on it.
type BuiltChain = (ChainPlan, Option<Arc<HttpPlan>>);

/// What a chain knows of its listener.
#[derive(Clone, Copy)]
struct Scope<'a> {
    listener: &'a Name,
    /// Which hosts require other client authentication than the chain.
    client_auth: Option<&'a OwnClientAuth>,
}

/// Whether a chain for datagrams matches on the ClientHello of QUIC.
fn asks_of_hello(of: &Criteria) -> bool {
    !(of.names.is_empty() && of.alpn.is_empty() && of.transports.is_empty())
}

/// The index over chains with these criteria; `places` are their indexes in the list at `list`.
pub(crate) fn chain_table(
    criteria: &[Criteria],
    places: &[usize],
    list: &Path<'_>,
    diags: &mut Diags,
) -> Option<ChainTable> {
    match ChainTable::build(criteria) {
        Ok(table) => Some(table),
        Err(pairs) => {
            for (first, second) in pairs {
                let message = "this chain matches the same connections as an earlier one";
                diags
                    .error("equal-chains", None, list.index(places[second]), message)
                    .other_at(list.index(places[first]), "the other one")
                    .help("make one of them more specific, or merge them");
            }
            None
        }
    }
}
