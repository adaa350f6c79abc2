//! Listeners and their chains.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::{Members, Short};
use sluice_core::{Diags, ListenAddress, Name, Path, Spanned};
use sluice_l4::{Hash, NamedBy, OnTimeout, PayloadSlice, ProxyAccept, ProxyPlan, RelayOptions};
use sluice_l7::routes::EndpointMatch;
use sluice_upstream::cluster::FALLBACKS_MAX;

use super::early_data::early_sessions;
use super::{Context, Translated, filters};
use crate::chains::{ChainPlace, chain_name, check_handler, check_possible, criteria};
use crate::check::{self, Handles};
use crate::compile::chain_table;
use crate::model::listener::{
    ChainKind, FlowChain, InnerChain, Inspect, RelayShare, RelayTo, Service, SocketOptions,
    Streams, Traffic,
};
use crate::model::{FilterChain, Kind, Resource, listener};
use crate::provenance::Provenance;
use crate::sections::routes::Share;
use crate::sections::{
    self, ClusterFrom, Config, HashBy, Http, Listener, ProxyAcceptance, Relay, RelayHash,
    StickySource,
};
use crate::store::Update;

impl Context<'_> {
    pub(super) fn listeners(self, all: &mut Translated, diags: &mut Diags) {
        let at = Path::ROOT.key("listeners");
        for (place, section) in self.config.listeners.places() {
            let at = at.index(place);
            let name = &section.name.value;
            all.declared.insert((Kind::Listener, Arc::clone(name)));
            if let Some(listener) = self.listener(section, &at, diags) {
                let from = Provenance::File { at: at.to_string().into(), moved: moved(section) };
                all.updates.push(Update::set(name, Resource::Listener(Arc::new(listener)), from));
            }
        }
    }

    fn listener(
        self,
        section: &Spanned<Listener>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<listener::Listener> {
        check::listener_shape(section, at, diags);
        let chains = chains_of(section);
        let addresses: Vec<ListenAddress> =
            section.all_addresses().map(|a| a.value.clone()).collect();
        let place = ChainPlace {
            addresses: &addresses,
            proxied: section.proxy_protocol.is_some() || section.original_destination,
            inside: false,
            quic: section.quic().is_some(),
        };
        let list = at.key("chains");
        for (index, chain) in chains.places() {
            let of = criteria(chain.matches.as_deref());
            if let Some(matches) = &chain.matches {
                let here = list.index(index);
                check_possible(matches, &of, place, &here.key("match"), diags);
                check_handler(chain, &of, &here, diags);
            }
        }
        let traffic = if section.is_udp() {
            if let Some(quic) = section.quic() {
                let message =
                    "QUIC needs a TCP listener with a chain that has both `tls` and `http`";
                diags.error("wrong-kind", quic.span, at.key("quic"), message).help(
                    "HTTP/3 is served by the same chains as HTTP/1 and HTTP/2, with their certificates",
                );
            }
            Traffic::Datagrams(self.datagrams(section, &chains, at, diags)?)
        } else {
            check::shared_routes(&chains, &list, diags);
            Traffic::Streams(self.streams(section, &chains, place, at, diags)?)
        };
        let sections::SocketOptions { backlog, keepalive, freebind, fast_open, udp_receive_buffer } =
            &section.socket;
        let socket = SocketOptions {
            backlog: backlog.get(),
            freebind: *freebind,
            keepalive: *keepalive,
            fast_open: *fast_open,
            udp_receive_buffer: usize::try_from(udp_receive_buffer.0).unwrap_or(usize::MAX),
        };
        Some(listener::Listener { addresses, socket, filters: filters(&section.filters), traffic })
    }

    fn streams(
        self,
        section: &Spanned<Listener>,
        chains: &Members<sections::Chain>,
        place: ChainPlace<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Streams> {
        let quic = section.quic().map(|quic| self.quic_options(quic, at, diags));
        let list = at.key("chains");
        let mut translated = Some(Vec::new());
        for (index, chain) in chains.places() {
            let here = list.index(index);
            let here = if section.chains.is_empty() { at } else { &here };
            match (self.chain(index, chain, section, place, here, diags), &mut translated) {
                (Some(chain), Some(all)) => all.push(chain),
                _ => translated = None,
            }
        }
        if translated.is_none() {
            self.equal_chains(chains, &list, diags);
        }
        Some(Streams {
            original_destination: section.original_destination,
            proxy_protocol: section.proxy_protocol.as_deref().map(proxy_plan),
            inspect: inspect(&section.inspect),
            chains: translated?,
            quic: match quic {
                Some(options) => Some(options?),
                None => None,
            },
        })
    }

    /// Reports chains that match the same connections. Otherwise that is found when the listener is compiled.
    fn equal_chains(self, chains: &Members<sections::Chain>, list: &Path<'_>, diags: &mut Diags) {
        let places: Vec<usize> = chains.places().map(|(place, _)| place).collect();
        let criteria: Vec<_> =
            chains.iter().map(|chain| criteria(chain.matches.as_deref())).collect();
        let mut found = Diags::new();
        // Only what it finds is wanted.
        let _ = chain_table(&criteria, &places, list, &mut found);
        Provenance::section("").adopt(found, self.root, diags);
    }

    fn chain(
        self,
        index: usize,
        chain: &Spanned<sections::Chain>,
        listener: &Spanned<Listener>,
        place: ChainPlace<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<FilterChain> {
        let http = chain.http.as_ref().map(|http| &http.0);
        let tls = chain.tls.as_ref().map(|tls| {
            let early = early_sessions(listener, chain, &at.key("tls"), diags);
            self.server_tls(tls, http, early, &at.key("tls"), diags)
        });
        let inside = !chain.chains.is_empty();
        let handles =
            Handles { relay: chain.relay.is_some(), http: chain.http.is_some(), inner: inside };
        let handled = check::chain_handles(handles, chain.tls.is_some(), chain.span, at, diags);
        let inner = inside.then(|| self.inner(&chain.chains, listener, place, at, diags));
        let service = self.service(chain.relay.as_ref(), chain.http.as_ref(), listener, at, diags);
        let tls = match tls {
            Some(tls) => Some(Box::new(tls?)),
            None => None,
        };
        let kind = match (tls, inner) {
            _ if !handled => return None,
            (Some(tls), Some(inner)) => ChainKind::Inspect(tls, inner?),
            (Some(tls), None) => ChainKind::Terminate(tls, service?),
            (None, _) => ChainKind::Plain(service?),
        };
        Some(FilterChain {
            name: chain_name(index, chain.name.as_ref(), chain.matches.is_some()),
            criteria: criteria(chain.matches.as_deref()),
            filters: filters(&chain.filters),
            kind,
        })
    }

    fn inner(
        self,
        chains: &Members<sections::InnerChain>,
        listener: &Spanned<Listener>,
        place: ChainPlace<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Vec<InnerChain>> {
        let place = ChainPlace { inside: true, ..place };
        let list = at.key("chains");
        let mut translated = Some(Vec::new());
        for (index, chain) in chains.places() {
            let here = list.index(index);
            let of = criteria(chain.matches.as_deref());
            if let Some(matches) = &chain.matches {
                check_possible(matches, &of, place, &here.key("match"), diags);
            }
            let (relay, http) = (chain.relay.as_ref(), chain.http.as_ref());
            let handles = Handles { relay: relay.is_some(), http: http.is_some(), inner: false };
            let handled = check::chain_handles(handles, false, chain.span, &here, diags);
            let service = self.service(relay, http, listener, &here, diags);
            match (service.filter(|_| handled), &mut translated) {
                (Some(service), Some(all)) => all.push(InnerChain {
                    name: chain_name(index, chain.name.as_ref(), chain.matches.is_some()),
                    criteria: of,
                    filters: filters(&chain.filters),
                    service,
                }),
                _ => translated = None,
            }
        }
        translated
    }

    /// What serves a stream; `None` if nothing was named, or with errors.
    fn service(
        self,
        relay: Option<&Spanned<Short<Relay>>>,
        http: Option<&Spanned<Short<Http>>>,
        listener: &Spanned<Listener>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Service> {
        match (relay, http) {
            (Some(relay), _) => self.relay(relay, &at.key("relay"), diags),
            (None, Some(http)) => {
                let quic = listener.quic().map(|quic| &quic.0);
                let section = Spanned { value: http.0.clone(), span: http.span };
                let http = super::http::http(&section, quic, &at.key("http"), diags)?;
                Some(Service::Http(Box::new(http)))
            }
            (None, None) => None,
        }
    }

    fn relay(
        self,
        relay: &Spanned<Short<Relay>>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Service> {
        let Relay {
            cluster: _,
            split: _,
            cluster_from,
            map: _,
            allow: _,
            endpoints: _,
            endpoint_metadata: _,
            hash,
            sticky,
            idle_timeout,
            half_close_timeout,
            max_duration,
            max_duration_jitter,
            responses,
            per_packet,
        } = &relay.0;
        let to = self.relay_to(relay, at, diags, check::clusters::stream_relay)?;
        for (key, given) in [("responses", responses.is_some()), ("per_packet", *per_packet)] {
            if given {
                let message = format!("`{key}` applies to UDP listeners only; remove it");
                diags.error("wrong-kind", relay.span, at.key(key), message);
            }
        }
        if let Some(hash) = hash
            && hash.payload.is_some()
        {
            let message = "a connection has no datagram to hash";
            diags
                .error("wrong-kind", hash.span, at.key("hash").key("payload"), message)
                .help("hash the client: `hash: source_ip`");
        }
        if max_duration.0.is_none() && max_duration_jitter.0 > 0 {
            let message = "`max_duration_jitter` has no effect without `max_duration`";
            diags
                .warning("useless-setting", relay.span, at.key("max_duration_jitter"), message)
                .help("set `max_duration`, the time after which a connection is closed");
        }
        let by_sni = matches!(cluster_from.as_deref(), Some(ClusterFrom::Sni));
        let by_name = by_sni || self.forwards(&to);
        Some(Service::Relay {
            to,
            options: RelayOptions {
                hash: relay_hash(hash.as_ref(), at, diags),
                by_name,
                sticky: sticky.as_ref().map(|section| sticky_ttl(section)),
                idle_timeout: idle_timeout.map_or(Some(sections::STREAM_IDLE), |timeout| timeout.0),
                half_close_timeout: half_close_timeout.0,
                max_duration: max_duration.0,
                duration_jitter_percent: max_duration_jitter.0,
            },
        })
    }

    /// Whether a server name is needed to find the endpoint.
    fn forwards(self, to: &RelayTo) -> bool {
        to.clusters().any(|name| check::forward::is_named_by_clients(self.config, name))
    }

    /// Where a relay goes; `fits` checks each of the clusters. `None` if nothing was named, or with errors.
    fn relay_to(
        self,
        relay: &Spanned<Short<Relay>>,
        at: &Path<'_>,
        diags: &mut Diags,
        fits: ClusterFits,
    ) -> Option<RelayTo> {
        let Relay { cluster, split, cluster_from, map, allow, hash, endpoint_metadata, .. } =
            &relay.0;
        if let Some(from) = cluster_from.as_deref() {
            if let Some(metadata) = endpoint_metadata {
                let message = "what clients name cannot be asked for metadata";
                diags
                    .error("wrong-kind", metadata.span, at.key("endpoint_metadata"), message)
                    .help("remove it, or write `cluster` in place of `cluster_from`");
            }
            return self.named(relay, *from, at, diags, fits);
        }
        if let Some(map) = map {
            diags
                .error("wrong-kind", map.span, at.key("map"), "`map` needs `cluster_from`")
                .help("remove it, or write `cluster_from: sni` in place of `cluster`");
        }
        if let Some(first) = allow.first() {
            diags
                .error("wrong-kind", first.span, at.key("allow"), "`allow` needs `cluster_from`")
                .help("remove it, or write `cluster_from: sni` in place of `cluster`");
        }
        let asked = endpoint_metadata.as_ref().map(|of| EndpointMatch::fixed(of.0.clone()));
        let span = endpoint_metadata.as_ref().map_or(relay.span, |of| of.span);
        if let Some(cluster) = cluster {
            check::subsets::asked(self.config, cluster, asked.as_ref(), span, at, diags);
            check::hash_fits(self.config, cluster, hash.is_some(), relay.span, at, diags);
            fits(self.config, cluster, &at.key("cluster"), diags);
            self.fallbacks_fit(cluster, diags, fits);
            return Some(RelayTo::Cluster {
                name: cluster.value.clone(),
                subset: asked.map(|asked| asked.fixed),
            });
        }
        let split = split.as_ref()?;
        let here = at.key("split");
        check::routes::split_shares(split, &here, diags);
        for (name, share) in &split.0 {
            let at_share = here.key(&name.value);
            // A hash is of use in any case: it decides between the clusters.
            if hash.is_none() {
                check::hash_fits(self.config, name, false, relay.span, at, diags);
            }
            fits(self.config, name, &at_share, diags);
            self.fallbacks_fit(name, diags, fits);
            let own_span = share.endpoint_metadata.as_ref().map_or(span, |of| of.span);
            let own = check::routes::of_share(asked.as_ref(), share);
            check::subsets::asked(self.config, name, own.as_ref(), own_span, &at_share, diags);
            if share.runtime.is_some() {
                let message = "the share of a relay cannot be overridden by a runtime value";
                diags
                    .error("wrong-kind", name.span, at_share.key("runtime"), message)
                    .help("remove it; runtime values apply to the `split` of HTTP rules");
            }
        }
        let share = |(name, share): &(Spanned<Name>, Share)| RelayShare {
            cluster: name.value.clone(),
            weight: share.weight.value(),
            subset: check::routes::of_share(asked.as_ref(), share).map(|asked| asked.fixed),
        };
        Some(RelayTo::Split(split.0.iter().map(share).collect()))
    }

    /// The clusters that connections may name by their server name, or that filters choose; `fits` checks each of them.
    fn named(
        self,
        relay: &Spanned<Short<Relay>>,
        from: ClusterFrom,
        at: &Path<'_>,
        diags: &mut Diags,
        fits: ClusterFits,
    ) -> Option<RelayTo> {
        let (list, config) = (at.key("allow"), self.config);
        let Relay { allow, map, hash, .. } = &relay.0;
        if allow.is_empty() {
            diags
                .error("missing-field", relay.span, list, "no cluster may be named")
                .help("list the clusters that clients may name: `allow: [app.example.com, \"*.db.example.com\"]`");
            return None;
        }
        for (index, pattern) in allow.iter().enumerate() {
            let here = list.index(index);
            let covered = config.clusters.names().filter(|name| pattern.fits(name));
            let covered: Vec<_> = covered
                .map(|name| Spanned { value: Name::clone(name), span: pattern.span })
                .collect();
            if covered.is_empty() {
                let message = format!("no cluster has a name that `{}` covers", pattern.value);
                diags
                    .error("unknown-cluster", pattern.span, here, message)
                    .help("add the cluster under `clusters`, under the server name in lower case");
                continue;
            }
            for name in covered {
                check::hash_fits(config, &name, hash.is_some(), relay.span, at, diags);
                fits(config, &name, &here, diags);
                self.fallbacks_fit(&name, diags, fits);
            }
        }
        Some(RelayTo::Named {
            by: match from {
                ClusterFrom::Sni => NamedBy::Sni,
                ClusterFrom::Filter => NamedBy::Filter,
            },
            allow: allow.iter().map(|pattern| pattern.value.clone()).collect(),
            map: map.as_ref().map(|map| Name::clone(&map.value)),
        })
    }

    /// Checks the clusters that serve in place of `cluster`.
    fn fallbacks_fit(self, cluster: &Spanned<Name>, diags: &mut Diags, fits: ClusterFits) {
        let list = Path::ROOT.key("clusters");
        for (before, next) in check::fallbacks_of(self.config, cluster, FALLBACKS_MAX) {
            let at = list.key(&before.value);
            fits(self.config, next, &at.key("fallback"), diags);
        }
    }

    fn datagrams(
        self,
        listener: &Spanned<Listener>,
        chains: &Members<sections::Chain>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Vec<FlowChain>> {
        let mut translated = Some(Vec::new());
        let list = at.key("chains");
        for (index, chain) in chains.places() {
            let here = list.index(index);
            let at = if listener.chains.is_empty() { at } else { &here };
            match (self.flow_chain(index, chain, at, diags), &mut translated) {
                (Some(chain), Some(all)) => all.push(chain),
                _ => translated = None,
            }
        }
        translated
    }

    fn flow_chain(
        self,
        index: usize,
        chain: &Spanned<sections::Chain>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<FlowChain> {
        if let Some(tls) = &chain.tls {
            let message = "a UDP listener cannot terminate TLS";
            diags.error("wrong-kind", tls.span, at.key("tls"), message);
        }
        if let Some(http) = &chain.http {
            let message = "a UDP listener cannot serve HTTP";
            diags.error("wrong-kind", http.span, at.key("http"), message);
            return None;
        }
        let Some(relay) = &chain.relay else {
            let none = Handles { relay: false, http: false, inner: false };
            check::chain_handles(none, false, chain.span, at, diags);
            return None;
        };
        let here = at.key("relay");
        let Relay { hash, sticky, idle_timeout, responses, per_packet, .. } = &relay.0;
        check::clusters::flow_settings(relay, &here, diags);
        if relay.cluster_from.is_some() {
            return None;
        }
        let to = self.relay_to(relay, &here, diags, check::clusters::flow_relay)?;
        Some(FlowChain {
            name: chain_name(index, chain.name.as_ref(), chain.matches.is_some()),
            criteria: criteria(chain.matches.as_deref()),
            filters: filters(&chain.filters),
            to,
            hash: relay_hash(hash.as_ref(), &here, diags),
            per_packet: *per_packet,
            sticky: sticky.as_ref().map(|section| sticky_ttl(section)),
            idle_timeout: idle_timeout.map_or(Some(sections::FLOW_IDLE), |timeout| timeout.0),
            responses: *responses,
        })
    }
}

/// Checks that a relay fits a cluster, which the path names.
type ClusterFits = fn(&Config, &Spanned<Name>, &Path<'_>, &mut Diags);

/// The most bytes of a datagram over IPv4.
const PAYLOAD_MAX: u32 = 65_507;

/// The input of a hash balancer.
fn relay_hash(
    section: Option<&Spanned<Short<RelayHash>>>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Hash> {
    let section = section?;
    let RelayHash { by, key, payload } = &section.value.0;
    let at = at.key("hash");
    match (by, key, payload) {
        (Some(HashBy::SourceIp), None, None) => return Some(Hash::SourceIp),
        (None, Some(key), None) => return Some(Hash::fixed(key)),
        (None, None, Some(slice)) => {
            let (offset, length) = (slice.offset, slice.length.get());
            if u32::from(offset) + u32::from(length) <= PAYLOAD_MAX {
                return Some(Hash::Payload(PayloadSlice { offset, length }));
            }
            let message = format!("a datagram has at most {PAYLOAD_MAX} bytes");
            diags
                .error("bad-value", section.span, at.key("payload"), message)
                .help("hash fewer bytes, or those further in front");
        }
        _ => {
            diags
                .error("short-and-long", section.span, at, "`hash` has one of `by`, `key` and `payload`")
                .help("write `hash: source_ip`, `hash: { key: TEXT }` or `hash: { payload: { length: 4 } }`");
        }
    }
    None
}

fn sticky_ttl(section: &StickySource) -> Duration {
    let StickySource { by: HashBy::SourceIp, ttl } = section;
    ttl.0
}

/// The chains of a listener, with the short form expanded.
fn chains_of(listener: &Spanned<Listener>) -> Members<sections::Chain> {
    if !listener.chains.is_empty() {
        return listener.chains.clone();
    }
    let chain = sections::Chain {
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

/// The paths of chains that are written on the listener itself, or come after an invalid one.
fn moved(listener: &Listener) -> Vec<(String, String)> {
    if listener.chains.is_empty() {
        return vec![("chains[0]".into(), String::new())];
    }
    let mut moved = Vec::new();
    for (index, (place, chain)) in listener.chains.places().enumerate() {
        let inner = chain.chains.places().enumerate();
        for (of, (written, _)) in inner.filter(|(i, (p, _))| i != p || index != place) {
            let paths = (
                format!("chains[{index}].chains[{of}]"),
                format!("chains[{place}].chains[{written}]"),
            );
            moved.push(paths);
        }
        if index != place {
            moved.push((format!("chains[{index}]"), format!("chains[{place}]")));
        }
    }
    moved
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

fn inspect(section: &sections::Inspect) -> Inspect {
    let sections::Inspect { timeout, bytes, on_timeout } = section;
    Inspect {
        timeout: *timeout,
        bytes: usize::try_from(bytes.0).unwrap_or(usize::MAX),
        on_timeout: match on_timeout {
            sections::OnTimeout::Continue => OnTimeout::Continue,
            sections::OnTimeout::Close => OnTimeout::Close,
        },
    }
}
