//! A store driven as by a control plane, and resources to drive it with.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Endpoint, ListenAddress};
use sluice_l4::{Criteria, RelayOptions};
use sluice_l7::routes::PathMatch;
use sluice_upstream::plan::{ClusterSettings, EndpointPlan};

use super::super::*;
use crate::compile::SharedParts;
use crate::model::listener::{
    ChainKind, Inspect, Listener, RelayTo, Service, SocketOptions, Streams, Traffic,
};
use crate::model::routes::{Action, RouteTable as RoutesModel, Rule, VirtualHost};
use crate::model::tls::{CertificateSource, ServerTls};
use crate::model::{Cluster, FilterChain, Secret};
use crate::trees;
use sluice_core::Diags;

pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A store with what surrounds it, driven as by a control plane.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) around: Surroundings,
    pub(crate) shared: SharedParts,
    pub(crate) now: Duration,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            store: Store::default(),
            around: Surroundings::default(),
            shared: SharedParts::default(),
            now: Duration::from_secs(1_000),
        }
    }

    pub(crate) fn stage(&mut self, source: &str, updates: Vec<Update>) -> Staged {
        let mode = BatchMode::Plane { patience: PATIENCE };
        let batch = Batch { source: source.into(), updates, mode };
        let (around, shared) = (&self.around, &mut self.shared);
        stage(&self.store, batch, around, shared, self.now, &mut Diags::new())
    }

    /// Puts updates in force; returns what became of each, and the changes of clusters.
    pub(crate) fn apply_from(
        &mut self,
        source: &str,
        updates: Vec<Update>,
    ) -> (Vec<String>, ClusterChanges) {
        let staged = self.stage(source, updates);
        let verdicts = staged.verdicts.iter().map(ToString::to_string).collect();
        (verdicts, self.store.commit(staged, &self.around))
    }

    pub(crate) fn apply(&mut self, updates: Vec<Update>) -> Vec<String> {
        self.apply_from("plane", updates).0
    }
}

pub(crate) fn set(name: &str, resource: Resource) -> Update {
    let from = Provenance::Plane { version: "1".into() };
    Update::set(&name.into(), resource, from)
}

pub(crate) fn remove(kind: Kind, name: &str) -> Update {
    Update::Remove { kind, name: name.into() }
}

pub(crate) fn cluster() -> Resource {
    Resource::Cluster(Arc::new(Cluster {
        settings: ClusterSettings::bare(),
        tls: None,
        endpoint_file: None,
    }))
}

pub(crate) fn endpoints(port: u16) -> Resource {
    let address = Endpoint::Ip(([127, 0, 0, 1], port).into());
    Resource::Endpoints(Arc::new([EndpointPlan { address, traits: Arc::default() }]))
}

pub(crate) fn routes_to(cluster: &str) -> Resource {
    let rule = Rule {
        name: "*/0".into(),
        path: PathMatch::Any,
        conditions: None,
        action: Action::Cluster(cluster.into()),
        options: Arc::default(),
        filters: Vec::new(),
    };
    let host = VirtualHost {
        hosts: vec![sluice_core::value::HostPattern::Any],
        require_tls: None,
        scope: None,
        filters: Vec::new(),
        rules: vec![rule],
    };
    Resource::Routes(Arc::new(RoutesModel { virtual_hosts: vec![host] }))
}

pub(crate) fn listener(port: u16, kind: ChainKind) -> Resource {
    let chain = FilterChain {
        name: "default".into(),
        criteria: Criteria::default(),
        filters: Vec::new(),
        kind,
    };
    Resource::Listener(Arc::new(Listener {
        addresses: vec![ListenAddress::Tcp(([127, 0, 0, 1], port).into())],
        socket: SocketOptions {
            backlog: 16,
            freebind: false,
            keepalive: true,
            fast_open: 0,
            udp_receive_buffer: 1 << 16,
        },
        filters: Vec::new(),
        traffic: Traffic::Streams(Streams {
            original_destination: false,
            proxy_protocol: None,
            inspect: Inspect {
                timeout: Duration::from_secs(1),
                bytes: 1024,
                on_timeout: sluice_l4::OnTimeout::Continue,
            },
            chains: vec![chain],
            quic: None,
        }),
    }))
}

pub(crate) fn relay(cluster: &str) -> ChainKind {
    let options = RelayOptions {
        by_name: false,
        hash: None,
        sticky: None,
        idle_timeout: None,
        half_close_timeout: None,
        max_duration: None,
        duration_jitter_percent: 0,
    };
    ChainKind::Plain(Service::Relay { to: RelayTo::cluster(cluster.into()), options })
}

/// HTTP with the options that files have by default.
pub(crate) fn http(routes: &str) -> Service {
    let section = trees::bind(&trees::map(&[("routes", trees::text(routes))]));
    let section = sluice_core::Spanned { value: section, span: Default::default() };
    let at = sluice_core::Path::ROOT;
    let http = crate::translate::http::http(&section, None, &at, &mut Diags::new());
    Service::Http(Box::new(http.expect("the defaults are right")))
}

pub(crate) fn tls_of(secret: &str) -> Box<ServerTls> {
    Box::new(ServerTls {
        certificates: vec![CertificateSource::Secret(secret.into())],
        alpn: Vec::new(),
        client_auth: None,
        min_version: sluice_tls::TlsVersion::V1_2,
        early: None,
        handshake_timeout: Duration::from_secs(1),
        plain_http: sluice_l4::plain_http::PlainHttp::Close,
    })
}

pub(crate) fn secret(name: &str) -> Resource {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Resource::Secret(Arc::new(Secret::Certificate {
        chain: made.cert.pem().into_bytes(),
        key: made.signing_key.serialize_pem().into_bytes(),
    }))
}

/// A listener that relays datagrams to a cluster.
pub(crate) fn flow_listener(port: u16, cluster: &str) -> Resource {
    let Resource::Listener(streams) = listener(port, relay(cluster)) else { unreachable!() };
    let chain = crate::model::listener::FlowChain {
        name: "default".into(),
        criteria: Criteria::default(),
        filters: Vec::new(),
        to: RelayTo::cluster(cluster.into()),
        hash: None,
        sticky: None,
        idle_timeout: None,
        responses: None,
        per_packet: false,
    };
    let traffic = Traffic::Datagrams(vec![chain]);
    let addresses = vec![ListenAddress::Udp(([127, 0, 0, 1], port).into())];
    Resource::Listener(Arc::new(Listener { addresses, traffic, ..(*streams).clone() }))
}
