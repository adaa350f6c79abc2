use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Endpoint, ListenAddress};
use sluice_l4::{Criteria, RelayOptions};
use sluice_l7::routes::PathMatch;
use sluice_upstream::plan::{ClusterSettings, EndpointPlan};

use super::*;
use crate::compile::SharedParts;
use crate::model::listener::{
    ChainKind, Http, Inspect, Listener, Service, SocketOptions, Streams, Traffic,
};
use crate::model::routes::{Action, RouteTable as RoutesModel, Rule, VirtualHost};
use crate::model::tls::{CertificateSource, ServerTls};
use crate::model::{Cluster, FilterChain, Secret};
use crate::trees;

const PATIENCE: Duration = Duration::from_secs(15);

/// A store with what surrounds it, driven as by a control plane.
struct Bench {
    store: Store,
    around: Surroundings,
    shared: SharedParts,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: Store::default(),
            around: Surroundings::default(),
            shared: SharedParts::default(),
            now: Duration::from_secs(1_000),
        }
    }

    fn stage(&mut self, source: &str, updates: Vec<Update>) -> Staged {
        let mode = BatchMode::Plane { patience: PATIENCE };
        let batch = Batch { source: source.into(), updates, mode };
        let (around, shared) = (&self.around, &mut self.shared);
        stage(&self.store, batch, around, shared, self.now, &mut Diags::new())
    }

    /// Puts updates in force; returns what became of each, and what the live state has to follow.
    fn apply_from(&mut self, source: &str, updates: Vec<Update>) -> (Vec<String>, LiveChanges) {
        let staged = self.stage(source, updates);
        let verdicts = staged.verdicts.iter().map(ToString::to_string).collect();
        (verdicts, self.store.commit(staged, &self.around))
    }

    fn apply(&mut self, updates: Vec<Update>) -> Vec<String> {
        self.apply_from("plane", updates).0
    }
}

fn set(name: &str, resource: Resource) -> Update {
    let from = Provenance::Plane { version: "1".into() };
    Update::set(&name.into(), resource, from)
}

fn remove(kind: Kind, name: &str) -> Update {
    Update::Remove { kind, name: name.into() }
}

fn cluster() -> Resource {
    Resource::Cluster(Arc::new(Cluster { settings: ClusterSettings::bare(), tls: None }))
}

fn endpoints(port: u16) -> Resource {
    let address = Endpoint::Ip(([127, 0, 0, 1], port).into());
    Resource::Endpoints(Arc::new([EndpointPlan { address, weight: 1 }]))
}

fn routes_to(cluster: &str) -> Resource {
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
        filters: Vec::new(),
        rules: vec![rule],
    };
    Resource::Routes(Arc::new(RoutesModel { virtual_hosts: vec![host] }))
}

fn listener(port: u16, kind: ChainKind) -> Resource {
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
            keepalive: true,
            fast_open: 0,
            udp_receive_buffer: 1 << 16,
        },
        filters: Vec::new(),
        traffic: Traffic::Streams(Streams {
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

fn relay(cluster: &str) -> ChainKind {
    let options = RelayOptions {
        hash: None,
        idle_timeout: None,
        half_close_timeout: None,
        max_duration: None,
    };
    ChainKind::Plain(Service::Relay { cluster: cluster.into(), options })
}

/// HTTP with the options that files have by default.
fn http(routes: &str) -> Service {
    let section = trees::bind(&trees::map(&[("routes", trees::text(routes))]));
    let section = sluice_core::Spanned { value: section, span: Default::default() };
    let at = sluice_core::Path::ROOT;
    let http = crate::translate::http::http(&section, None, &at, &mut Diags::new());
    let Http { routes, filters, options } = http.expect("the defaults are right");
    Service::Http(Box::new(Http { routes, filters, options }))
}

fn tls_of(secret: &str) -> Box<ServerTls> {
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

fn secret(name: &str) -> Resource {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Resource::Secret(Arc::new(Secret {
        chain: made.cert.pem().into_bytes(),
        key: made.signing_key.serialize_pem().into_bytes(),
    }))
}

#[test]
fn a_cluster_waits_for_its_endpoints_whichever_comes_first() {
    let mut bench = Bench::new();
    assert_eq!(bench.apply(vec![set("a", cluster())]), ["cluster a: waits for endpoints a"]);
    assert!(!bench.store.contains(Kind::Cluster, "a"));
    let (verdicts, live) = bench.apply_from("plane", vec![set("a", endpoints(1))]);
    assert_eq!(verdicts, ["endpoints a: added", "cluster a: added"]);
    assert_eq!((live.clusters.plans.len(), live.clusters.endpoints["a"].len()), (1, 1));
    assert_eq!(bench.store.absent().count(), 0);

    bench.apply(vec![set("b", endpoints(2))]);
    let (verdicts, live) = bench.apply_from("plane", vec![set("b", cluster())]);
    assert_eq!(verdicts, ["cluster b: added"]);
    assert_eq!(live.clusters.endpoints["b"].len(), 1, "those that came before it");
}

#[test]
fn a_change_is_of_what_it_names_and_of_nothing_else() {
    let mut bench = Bench::new();
    let all = ["a", "b", "c"].map(|name| [set(name, cluster()), set(name, endpoints(1))]);
    bench.apply(all.into_iter().flatten().collect());
    let (verdicts, live) = bench.apply_from("plane", vec![set("b", endpoints(2))]);
    assert_eq!(verdicts, ["endpoints b: changed"]);
    assert!(live.clusters.plans.is_empty() && live.clusters.removed.is_empty());
    assert_eq!(live.clusters.endpoints.keys().map(|name| &**name).collect::<Vec<_>>(), ["b"]);

    let (verdicts, live) =
        bench.apply_from("plane", vec![set("a", cluster()), set("b", endpoints(2))]);
    assert_eq!(verdicts, ["endpoints b: unchanged", "cluster a: unchanged"]);
    assert!(live.clusters.plans.is_empty() && live.clusters.endpoints.is_empty());
}

#[test]
fn a_reference_to_a_cluster_is_filled_and_emptied_later() {
    let mut bench = Bench::new();
    let verdicts =
        bench.apply(vec![set("web", routes_to("app")), set("raw", listener(1, relay("app")))]);
    assert_eq!(verdicts, ["routes web: added", "listener raw: added"]);
    let referred = bench.around.clusters.reference(&"app".into());
    assert!(!referred.is_configured());
    let (_, table) = bench.store.routes_named("web").unwrap();
    assert!(Arc::ptr_eq(&table.clusters[0], &referred));

    let (_, live) =
        bench.apply_from("plane", vec![set("app", cluster()), set("app", endpoints(1))]);
    assert_eq!(live.clusters.plans[0].name, referred.name);
    let gone = vec![remove(Kind::Cluster, "app"), remove(Kind::Endpoints, "app")];
    let (verdicts, live) = bench.apply_from("plane", gone);
    assert_eq!(verdicts, ["cluster app: removed", "endpoints app: removed"]);
    assert_eq!(live.clusters_removed.len(), 1);
    assert!(bench.store.routes_named("web").is_some(), "routes stay");
}

#[test]
fn a_listener_waits_for_routes_and_secrets_and_its_predecessor_serves() {
    let mut bench = Bench::new();
    bench.apply(vec![set("edge", listener(1, relay("app")))]);
    let before = bench.store.listener("edge").unwrap().clone();

    let next = listener(1, ChainKind::Terminate(tls_of("site"), http("web")));
    let verdicts = bench.apply(vec![set("edge", next.clone())]);
    assert_eq!(verdicts, ["listener edge: waits for secret site, routes web"]);
    assert_eq!(bench.store.listener("edge"), Some(&before));
    let since = bench.now;
    bench.now += Duration::from_secs(5);
    let verdicts = bench.apply(vec![set("web", routes_to("app"))]);
    assert_eq!(verdicts, ["routes web: added", "listener edge: waits for secret site"]);
    let absent = bench.store.why_absent(Kind::Listener, &"edge".into()).unwrap();
    assert_eq!(absent.since, since, "it has waited since it came");
    assert_eq!(bench.store.next_deadline(), Some(since + PATIENCE));

    let staged = bench.stage("plane", vec![set("site", secret("site.test"))]);
    assert_eq!(staged.listeners().len(), 1);
    bench.store.commit(staged, &bench.around);
    assert_ne!(bench.store.listener("edge"), Some(&before));
    assert_eq!(bench.store.next_deadline(), None);

    // A renewed secret reaches the next handshake, and no listener has to change for it.
    let stored = bench.around.certs.list();
    assert_eq!(stored[0].material().info.names, ["site.test"]);
    let staged = bench.stage("plane", vec![set("site", secret("renewed.test"))]);
    assert!(staged.listeners().is_empty());
    bench.store.commit(staged, &bench.around);
    assert_eq!(stored[0].material().info.names, ["renewed.test"]);
}

#[test]
fn what_waits_for_too_long_is_rejected() {
    let mut bench = Bench::new();
    let plain = ChainKind::Plain(http("web"));
    bench.apply(vec![set("edge", listener(1, plain))]);
    bench.now += PATIENCE;
    assert_eq!(
        bench.apply(Vec::new()),
        [
            "listener edge: rejected: chains[0].http.routes: it waited for the routes web, which did not come"
        ]
    );
    assert_eq!(bench.store.next_deadline(), None);
    assert_eq!(bench.store.absent().count(), 1, "the admin pages say why");
    assert!(bench.apply(Vec::new()).is_empty());
    // It is not forgotten that it was wanted: the plane sends it again with its routes.
    let plain = ChainKind::Plain(http("web"));
    let verdicts = bench.apply(vec![set("edge", listener(1, plain)), set("web", routes_to("app"))]);
    assert_eq!(verdicts, ["routes web: added", "listener edge: added"]);
    assert_eq!(bench.store.absent().count(), 0);
}

#[test]
fn a_rejected_resource_leaves_the_last_good_one_in_force() {
    let mut bench = Bench::new();
    bench.apply(vec![set("site", secret("good.test")), set("a", endpoints(1))]);
    let wrong = Secret { chain: b"no certificate".to_vec(), key: Vec::new() };
    let wrong = set("site", Resource::Secret(Arc::new(wrong)));
    let verdicts = bench.apply(vec![wrong, set("a", endpoints(2))]);
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts[0].starts_with("secret site: rejected: secret site: "), "{verdicts:?}");
    assert_eq!(verdicts[1], "endpoints a: changed", "the others of the batch are accepted");
    let site: Name = "site".into();
    assert!(bench.store.contains(Kind::Secret, &site));
    assert!(bench.store.why_absent(Kind::Secret, &site).is_some());

    bench.apply(vec![set("site", secret("better.test"))]);
    assert!(bench.store.why_absent(Kind::Secret, &site).is_none());
}

#[test]
fn a_name_belongs_to_who_set_it_first() {
    let mut bench = Bench::new();
    bench.apply_from("the files", vec![set("a", endpoints(1))]);
    for update in [set("a", endpoints(2)), remove(Kind::Endpoints, "a")] {
        let (verdicts, live) = bench.apply_from("plane", vec![update]);
        assert_eq!(verdicts, ["endpoints a: rejected: endpoints `a`: configured by the files"]);
        assert!(live.clusters.endpoints.is_empty());
    }
    assert_eq!(bench.store.origin(Kind::Endpoints, "a"), Some(("the files", Some("1"))));
}

#[test]
fn two_listeners_do_not_share_an_address() {
    let mut bench = Bench::new();
    let two = vec![set("a", listener(7, relay("x"))), set("b", listener(7, relay("x")))];
    let taken = "listener b: rejected: addresses: the listener `a` has the address 127.0.0.1:7";
    assert_eq!(bench.apply(two), ["listener a: added", taken]);
    assert_eq!(bench.apply(vec![set("b", listener(7, relay("x")))]), [taken]);
    // An address that is given up in the same batch is free, and port 0 is never taken.
    let moved = vec![remove(Kind::Listener, "a"), set("b", listener(7, relay("x")))];
    assert_eq!(bench.apply(moved), ["listener a: removed", "listener b: added"]);
    let any = ["c", "d"].map(|name| set(name, listener(0, relay("x")))).into();
    assert_eq!(bench.apply(any), ["listener c: added", "listener d: added"]);
}

#[test]
fn a_listener_that_cannot_be_served_is_rejected_alone() {
    let mut bench = Bench::new();
    let two = vec![set("a", listener(1, relay("x"))), set("b", listener(2, relay("x")))];
    let mut staged = bench.stage("plane", two);
    staged.reject_listener(&"a".into(), "the address is in use".into(), bench.now);
    assert_eq!(
        staged.verdicts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["listener a: rejected: addresses: the address is in use", "listener b: added"]
    );
    bench.store.commit(staged, &bench.around);
    assert!(
        !bench.store.contains(Kind::Listener, "a") && bench.store.contains(Kind::Listener, "b")
    );
    assert!(bench.store.why_absent(Kind::Listener, &"a".into()).is_some());
}

/// Whatever a control plane sends, in whatever order: what is in force has what it needs, and once everything has come,
/// all of it is in force.
#[test]
fn any_order_of_updates_leads_to_the_same_resources() {
    for seed in 0..200_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new();
        let edge = || listener(1, ChainKind::Plain(http("web")));
        let mut updates = vec![
            set("a", cluster()),
            set("a", endpoints(1)),
            set("b", cluster()),
            set("b", endpoints(2)),
            set("web", routes_to("a")),
            set("edge", edge()),
            set("b", endpoints(3)),
            remove(Kind::Listener, "edge"),
            remove(Kind::Cluster, "b"),
        ];
        random.shuffle(&mut updates);
        while !updates.is_empty() {
            let some = random.usize(1..=updates.len());
            bench.apply(updates.drain(..some).collect());
            for (_, of) in bench.store.listeners() {
                for (_, service) in of.services() {
                    let Service::Http(http) = service else { continue };
                    assert!(bench.store.contains(Kind::Routes, &http.routes), "seed {seed}");
                }
            }
            for name in bench.store.names(Kind::Cluster) {
                assert!(bench.store.contains(Kind::Endpoints, name), "seed {seed}");
            }
        }
        bench.apply(vec![set("edge", edge()), set("b", cluster()), set("b", endpoints(9))]);
        let counts = Kind::ALL.map(|kind| bench.store.names(kind).len());
        assert_eq!(counts, [0, 2, 2, 1, 1, 0], "seed {seed}");
        assert_eq!(bench.store.absent().count(), 0, "seed {seed}");
    }
}

#[test]
fn files_and_a_control_plane_do_not_share_names() {
    let mut bench = Bench::new();
    bench.apply(vec![set("a", endpoints(1)), set("a", cluster()), set("b", cluster())]);
    let root = trees::map(&[("clusters", trees::map(&[("a", trees::text("127.0.0.1:2"))]))]);
    let config: crate::Config = trees::bind(&root);
    let input = crate::files::FilesInput { config, root, folder: std::path::Path::new(".") };
    let mut diags = Diags::new();
    let (store, around, shared) = (&bench.store, &bench.around, &mut bench.shared);
    let staged = crate::files::stage_files(input, store, around, shared, bench.now, &mut diags);
    assert!(staged.is_none(), "files are applied whole or not at all");
    let errors: Vec<_> = diags.iter().map(|found| (found.code, found.path.as_str())).collect();
    assert!(errors.contains(&("foreign-name", "clusters.a")), "{errors:?}");
    // What waits has an owner too.
    let (verdicts, _) = bench.apply_from("another", vec![remove(Kind::Cluster, "b")]);
    assert_eq!(verdicts[0], "cluster b: rejected: cluster `b`: configured by plane");
}

#[test]
fn layers_of_runtime_values_add_up_in_the_order_of_their_names() {
    let mut bench = Bench::new();
    let layer = |values: &[(&str, &str)]| {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Resource::Runtime(Arc::new(values.collect()))
    };
    let both = vec![set("b", layer(&[("x", "2")])), set("a", layer(&[("x", "1"), ("y", "1")]))];
    assert_eq!(bench.apply(both), ["runtime b: added", "runtime a: added"]);
    let value = |bench: &Bench, key: &str| bench.around.runtime.number(key);
    assert_eq!((value(&bench, "x"), value(&bench, "y")), (Some(2), Some(1)));
    bench.apply(vec![remove(Kind::Runtime, "b")]);
    assert_eq!((value(&bench, "x"), value(&bench, "y")), (Some(1), Some(1)));
}
