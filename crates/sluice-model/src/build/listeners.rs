//! Builds the plans of listeners and their chains from sections.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use sluice_core::settings::{Members, Short, suggest_word};
use sluice_core::{Diags, ListenAddress, Name, Path, Span, Spanned};
use sluice_io::ConnectionFilterPlan;
use sluice_l4::chain::InnerPlan;
use sluice_l4::filters::FilterOwner;
use sluice_l4::plain_http::PlainHttp;
use sluice_l4::udp::{FlowChainPlan, UdpPlan};
use sluice_l4::{
    ChainPlan, ChainTable, Criteria, HandlerPlan, Hash, InspectPlan, ListenerPlan, OnTimeout,
    ProxyAccept, ProxyPlan, RelayOptions, RelayPlan, Termination, Transport,
};
use sluice_l7::client_auth::OwnClientAuth;
use sluice_upstream::Cluster;

use super::clusters::ClusterMap;
use super::filter_names::only_for_relays;
use super::http::HttpContext;
use super::routes::{RouteMap, unknown_cluster};
use super::{Build, ListenerSnapshot, PlanKind, QuicListener, client_auth};
use crate::chains::{ChainPlace, check_handler, check_possible, criteria, needs, over_quic};
use crate::check::{self, Handles};
use crate::sections::{
    self, Chain, Config, FilterUse, HashBy, Http, InnerChain, Listener, ProxyAcceptance, Quic,
    Relay,
};

impl Build<'_> {
    pub(super) fn listeners(
        &mut self,
        config: &Config,
        clusters: &ClusterMap,
        routes: &RouteMap,
        diags: &mut Diags,
    ) -> BTreeMap<Name, ListenerSnapshot> {
        let at = Path::ROOT.key("listeners");
        let mut all = BTreeMap::new();
        for (index, section) in config.listeners.places() {
            let at = at.index(index);
            let udp = section.is_udp();
            let quic = section.quic().map(|quic| &quic.0);
            let mut scope =
                Scope { build: self, config, clusters, routes, udp, quic, client_auth: None };
            if let Some(snapshot) = scope.listener(section, &at, diags) {
                all.insert(section.name.value.clone(), snapshot);
            }
        }
        all
    }
}

/// A listener being built.
pub(super) struct Scope<'a, 'b> {
    pub(super) build: &'a mut Build<'b>,
    config: &'a Config,
    clusters: &'a ClusterMap,
    routes: &'a RouteMap,
    pub(super) udp: bool,
    quic: Option<&'a Quic>,
    /// Which hosts require other client authentication than the chain being built.
    client_auth: Option<OwnClientAuth>,
}

/// The fields common to both kinds of chain section.
struct ChainParts<'a> {
    name: Option<&'a Name>,
    matches: Option<&'a Spanned<sections::Match>>,
    filters: &'a [FilterUse],
    relay: Option<&'a Spanned<Short<Relay>>>,
    http: Option<&'a Spanned<Short<Http>>>,
}

impl Scope<'_, '_> {
    fn listener(
        &mut self,
        section: &Spanned<Listener>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ListenerSnapshot> {
        check::listener_shape(section, at, diags);
        let chains = chains_of(section);
        let addresses: Vec<ListenAddress> =
            section.all_addresses().map(|a| a.value.clone()).collect();
        let place = ChainPlace {
            addresses: &addresses,
            proxied: section.proxy_protocol.is_some(),
            inside: false,
            quic: self.quic.is_some(),
        };
        let list = at.key("chains");
        let short = section.chains.is_empty();
        let mut wanted: Vec<(Criteria, bool)> = Vec::new();
        for (index, chain) in chains.places() {
            let of = criteria(chain.matches.as_deref());
            if let Some(matches) = &chain.matches {
                let here = list.index(index);
                check_possible(matches, &of, place, &here.key("match"), diags);
                check_handler(chain, &of, &here, diags);
            }
            wanted.push((of, chain.tls.is_some()));
        }
        let all = only_criteria(&wanted);
        let table = self.table(&all, &places_of(&chains), &list, diags);
        let quic = section.quic().map(|quic| self.quic(quic, &chains, at, diags));
        let owner = FilterOwner::Listener(&section.name.value);
        let filters = self.filters(&section.filters, owner, &at.key("filters"), diags);
        if self.udp || check::https_of(section).next().is_some() {
            only_for_relays(&section.filters, filters.as_deref(), at, diags);
        }
        let plan = if self.udp {
            self.udp_plan(section, &chains, table, filters, at, diags)
        } else {
            check::shared_routes(&chains, &list, diags);
            let requirements = client_auth::requirements(&chains);
            let over_quic = section.quic().map(|_| over_quic(&chains));
            let client_auth = client_auth::of_listener(&all, &requirements, over_quic);
            let mut plans = Some(Vec::new());
            for ((index, chain), own) in chains.places().zip(requirements) {
                let here = list.index(index);
                self.client_auth =
                    client_auth.clone().map(|listener| OwnClientAuth { listener, own });
                let built =
                    self.chain(index, chain, section, if short { at } else { &here }, diags);
                match (built, &mut plans) {
                    (Some(plan), Some(all)) => all.push(plan),
                    _ => plans = None,
                }
            }
            PlanKind::Stream(Arc::new(ListenerPlan {
                name: section.name.value.clone(),
                filters: filters?,
                proxy_protocol: section.proxy_protocol.as_deref().map(proxy_plan),
                inspect: inspect_plan(&section.inspect, needs(&wanted, false)),
                table: table?,
                chains: Arc::new(plans?),
                quic: match quic {
                    Some(plan) => Some(plan?),
                    None => None,
                },
            }))
            .into()
        };
        let plan: PlanKind = plan?;
        let quic = match (&plan, section.quic()) {
            (PlanKind::Stream(listener), Some(quic)) => Some(QuicListener {
                listener: Arc::clone(listener),
                options: self.quic_options(quic, at, diags)?,
            }),
            _ => None,
        };
        Some(ListenerSnapshot { addresses, socket: section.socket.clone(), plan, quic })
    }

    pub(super) fn table(
        &self,
        criteria: &[Criteria],
        places: &[(usize, Span)],
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ChainTable> {
        match ChainTable::build(criteria) {
            Ok(table) => Some(table),
            Err(pairs) => {
                for (first, second) in pairs {
                    let (place, span) = places[second];
                    diags
                        .error(
                            "equal-chains",
                            span,
                            at.index(place),
                            "this chain matches the same connections as an earlier one",
                        )
                        .other(places[first].1, "the other one")
                        .help("make one of them more specific, or merge them");
                }
                None
            }
        }
    }

    fn chain(
        &mut self,
        index: usize,
        chain: &Spanned<Chain>,
        listener: &Spanned<Listener>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ChainPlan> {
        let parts = ChainParts {
            name: chain.name.as_ref(),
            matches: chain.matches.as_ref(),
            filters: &chain.filters,
            relay: chain.relay.as_ref(),
            http: chain.http.as_ref(),
        };
        let transport = match &chain.tls {
            None => Some(Transport::Untouched),
            Some(tls) => {
                let inner = if chain.chains.is_empty() {
                    Some(None)
                } else {
                    self.inner(&chain.chains, listener, at, diags).map(Some)
                };
                let http = chain.http.as_ref().map(|http| &http.0);
                let early = Self::early_sessions(listener, chain);
                let server = self.build.server_tls(tls, http, early, &at.key("tls"), diags);
                match (server, inner) {
                    (Some(tls_built), Some(inner)) => Some(Transport::Terminate(Termination {
                        tls: tls_built,
                        timeout: tls.handshake_timeout,
                        plain_http: match tls.plain_http {
                            sections::PlainHttp::Close => PlainHttp::Close,
                            sections::PlainHttp::Answer => PlainHttp::Answer,
                            sections::PlainHttp::Redirect => PlainHttp::Redirect,
                        },
                        inner,
                    })),
                    _ => None,
                }
            }
        };
        let inside = !chain.chains.is_empty();
        let handles =
            Handles { relay: parts.relay.is_some(), http: parts.http.is_some(), inner: inside };
        check::chain_handles(handles, chain.tls.is_some(), chain.span, at, diags);
        self.finish_chain(index, &parts, transport, &listener.name.value, at, diags)
    }

    fn inner(
        &mut self,
        chains: &Members<InnerChain>,
        listener: &Spanned<Listener>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<InnerPlan> {
        let addresses: Vec<ListenAddress> =
            listener.all_addresses().map(|a| a.value.clone()).collect();
        let place = ChainPlace {
            addresses: &addresses,
            proxied: listener.proxy_protocol.is_some(),
            inside: true,
            quic: self.quic.is_some(),
        };
        let list = at.key("chains");
        let mut wanted = Vec::new();
        let mut plans = Some(Vec::new());
        for (index, chain) in chains.places() {
            let here = list.index(index);
            let of = criteria(chain.matches.as_deref());
            if let Some(matches) = &chain.matches {
                check_possible(matches, &of, place, &here.key("match"), diags);
            }
            wanted.push((of, false));
            let parts = ChainParts {
                name: chain.name.as_ref(),
                matches: chain.matches.as_ref(),
                filters: &chain.filters,
                relay: chain.relay.as_ref(),
                http: chain.http.as_ref(),
            };
            let handles =
                Handles { relay: parts.relay.is_some(), http: parts.http.is_some(), inner: false };
            check::chain_handles(handles, false, chain.span, &here, diags);
            let name = &listener.name.value;
            let transport = Some(Transport::Untouched);
            let plan = self.finish_chain(index, &parts, transport, name, &here, diags);
            match (plan, &mut plans) {
                (Some(plan), Some(all)) => all.push(plan),
                _ => plans = None,
            }
        }
        let table = self.table(&only_criteria(&wanted), &places_of(chains), &list, diags);
        Some(InnerPlan { needs: needs(&wanted, true), table: table?, chains: plans? })
    }

    fn finish_chain(
        &mut self,
        index: usize,
        parts: &ChainParts<'_>,
        transport: Option<Transport>,
        listener: &Name,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ChainPlan> {
        let name = chain_name(index, parts);
        let owner = FilterOwner::Chain { listener, chain: &name };
        let filters = self.filters(parts.filters, owner, &at.key("filters"), diags);
        if parts.http.is_some() {
            only_for_relays(parts.filters, filters.as_deref(), at, diags);
        }
        let handler = match (parts.relay, parts.http) {
            (Some(relay), _) => {
                let plan = self.relay(relay, &at.key("relay"), diags)?;
                Some(Arc::new(plan) as Arc<dyn HandlerPlan>)
            }
            (None, Some(http)) => {
                let context = HttpContext {
                    config: self.config,
                    clusters: self.clusters,
                    routes: self.routes,
                    listener,
                    chain: &name,
                    quic: self.quic,
                    client_auth: self.client_auth.as_ref(),
                };
                let section = Spanned { value: http.0.clone(), span: http.span };
                let plan = self.build.http(&section, &context, &at.key("http"), diags)?;
                Some(Arc::new(plan) as Arc<dyn HandlerPlan>)
            }
            (None, None) => None,
        };
        Some(ChainPlan { name, transport: transport?, filters: filters?, handler })
    }

    fn filters(
        &self,
        uses: &[FilterUse],
        owner: FilterOwner<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Vec<Arc<dyn ConnectionFilterPlan>>> {
        let mut plans = Some(Vec::new());
        let registry = self.build.input.filters;
        for (index, filter) in uses.iter().enumerate() {
            let at = at.index(index);
            let here = at.key(&filter.name);
            let plan = match registry.get(&filter.name) {
                Some(factory) => {
                    let names = (self.config, self.clusters);
                    self.build.checked(&**factory, &filter.settings, owner, names, &here, diags)
                }
                None => {
                    let names: Vec<&str> = registry.iter().map(|factory| factory.name()).collect();
                    let help = suggest_word(&filter.name, &names)
                        .unwrap_or_else(|| format!("known filters: {}", names.join(", ")));
                    diags
                        .error(
                            "unknown-name",
                            filter.name.span,
                            here,
                            format!("there is no filter `{}`", filter.name.value),
                        )
                        .help(help);
                    None
                }
            };
            match (plan, &mut plans) {
                (Some(plan), Some(all)) => all.push(plan),
                _ => plans = None,
            }
        }
        plans
    }

    fn cluster(
        &self,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<Cluster>> {
        if let Some((_, cluster)) = self.clusters.get(&name.value) {
            return Some(Arc::clone(cluster));
        }
        unknown_cluster(self.config, name, at, diags);
        None
    }

    fn relay(
        &self,
        relay: &Spanned<Short<Relay>>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<RelayPlan> {
        let Relay { cluster, hash, idle_timeout, half_close_timeout, max_duration, responses } =
            &relay.0;
        if responses.is_some() {
            diags.error(
                "wrong-kind",
                relay.span,
                at.key("responses"),
                "`responses` applies to UDP listeners only; remove it",
            );
        }
        check::hash_fits(self.config, cluster, hash.is_some(), relay.span, at, diags);
        check::clusters::stream_relay(self.config, &relay.0, at, diags);
        Some(RelayPlan {
            cluster: self.cluster(cluster, &at.key("cluster"), diags)?,
            options: RelayOptions {
                hash: hash.map(|HashBy::SourceIp| Hash::SourceIp),
                idle_timeout: idle_timeout.map_or(Some(sections::STREAM_IDLE), |timeout| timeout.0),
                half_close_timeout: half_close_timeout.0,
                max_duration: max_duration.0,
            },
        })
    }

    fn udp_plan(
        &mut self,
        listener: &Spanned<Listener>,
        chains: &Members<Chain>,
        table: Option<ChainTable>,
        filters: Option<Vec<Arc<dyn ConnectionFilterPlan>>>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<PlanKind> {
        let mut plans = Some(Vec::new());
        let list = at.key("chains");
        for (index, chain) in chains.places() {
            let here = list.index(index);
            let at = if listener.chains.is_empty() { at } else { &here };
            if let Some(tls) = &chain.tls {
                diags.error(
                    "wrong-kind",
                    tls.span,
                    at.key("tls"),
                    "a UDP listener cannot terminate TLS",
                );
            }
            if let Some(http) = &chain.http {
                diags.error(
                    "wrong-kind",
                    http.span,
                    at.key("http"),
                    "a UDP listener cannot serve HTTP",
                );
                plans = None;
                continue;
            }
            let Some(relay) = &chain.relay else {
                let none = Handles { relay: false, http: false, inner: false };
                check::chain_handles(none, false, chain.span, at, diags);
                plans = None;
                continue;
            };
            let here = at.key("relay");
            let settings = &relay.0;
            check::hash_fits(
                self.config,
                &settings.cluster,
                settings.hash.is_some(),
                relay.span,
                &here,
                diags,
            );
            check::clusters::flow_relay(self.config, settings, &here, diags);
            let parts = ChainParts {
                name: chain.name.as_ref(),
                matches: chain.matches.as_ref(),
                filters: &chain.filters,
                relay: None,
                http: None,
            };
            let name = chain_name(index, &parts);
            let owner = FilterOwner::Chain { listener: &listener.name.value, chain: &name };
            let own = self.filters(&chain.filters, owner, &at.key("filters"), diags);
            only_for_relays(&chain.filters, own.as_deref(), at, diags);
            let cluster = self.cluster(&settings.cluster, &here.key("cluster"), diags);
            match (own, cluster, &mut plans) {
                (Some(filters), Some(cluster), Some(all)) => all.push(FlowChainPlan {
                    name,
                    filters,
                    cluster,
                    hash: settings.hash.map(|HashBy::SourceIp| Hash::SourceIp),
                    idle_timeout: settings
                        .idle_timeout
                        .map_or(Some(sections::FLOW_IDLE), |timeout| timeout.0),
                    responses: settings.responses.map(NonZeroU32::get),
                }),
                _ => plans = None,
            }
        }
        Some(PlanKind::Datagram(Arc::new(UdpPlan {
            name: listener.name.value.clone(),
            filters: filters?,
            table: table?,
            chains: plans?,
            named: chains.iter().any(|chain| asks_of_hello(chain.matches.as_deref())),
        })))
    }
}

/// Whether a chain of a UDP listener matches on the ClientHello of QUIC.
fn asks_of_hello(matches: Option<&sections::Match>) -> bool {
    let of = criteria(matches);
    !(of.names.is_empty() && of.alpn.is_empty() && of.transports.is_empty())
}

/// The chains of a listener, with the short form expanded.
fn chains_of(listener: &Spanned<Listener>) -> Members<Chain> {
    if !listener.chains.is_empty() {
        return listener.chains.clone();
    }
    let chain = Chain {
        name: None,
        matches: None,
        tls: listener.tls.clone(),
        filters: Vec::new(),
        relay: listener.relay.clone(),
        http: listener.http.clone(),
        chains: Members::default(),
    };
    Members::one(Spanned { value: chain, span: listener.span })
}

fn only_criteria(wanted: &[(Criteria, bool)]) -> Vec<Criteria> {
    wanted.iter().map(|(criteria, _)| criteria.clone()).collect()
}

fn places_of<T>(members: &Members<T>) -> Vec<(usize, Span)> {
    members.places().map(|(place, member)| (place, member.span)).collect()
}

fn chain_name(index: usize, parts: &ChainParts<'_>) -> Name {
    match parts.name {
        Some(name) => Arc::clone(name),
        None if parts.matches.is_none() => "default".into(),
        None => format!("chain{index}").into(),
    }
}

fn proxy_plan(section: &sections::ProxyProtocol) -> ProxyPlan {
    let sections::ProxyProtocol { accept, trust, timeout } = section;
    ProxyPlan {
        accept: match accept {
            ProxyAcceptance::Optional => ProxyAccept::Optional,
            ProxyAcceptance::Required => ProxyAccept::Required,
        },
        trust: trust.iter().map(|block| block.value).collect(),
        timeout: *timeout,
    }
}

fn inspect_plan(section: &sections::Inspect, needs: sluice_l4::inspect::Needs) -> InspectPlan {
    let sections::Inspect { timeout, bytes, on_timeout } = section;
    InspectPlan {
        needs,
        timeout: *timeout,
        bytes: usize::try_from(bytes.0).unwrap_or(usize::MAX),
        on_timeout: match on_timeout {
            sections::OnTimeout::Continue => OnTimeout::Continue,
            sections::OnTimeout::Close => OnTimeout::Close,
        },
    }
}
