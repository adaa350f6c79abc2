use std::sync::Arc;

use sluice_l7::runtime::RuntimeKind;
use sluice_upstream::plan::ClusterSettings;

use super::*;
use crate::model::listener::{ChainKind, Service};
use crate::model::{Cluster, Secret};
use crate::trees;

pub(crate) mod kit;

use kit::*;

#[test]
fn a_cluster_waits_for_its_endpoints_whichever_comes_first() {
    let mut bench = Bench::new();
    assert_eq!(bench.apply(vec![set("a", cluster())]), ["cluster a: waits for endpoints a"]);
    assert!(!bench.store.contains(Kind::Cluster, "a"));
    let (verdicts, live) = bench.apply_from("plane", vec![set("a", endpoints(1))]);
    assert_eq!(verdicts, ["endpoints a: added", "cluster a: added"]);
    assert_eq!((live.plans.len(), live.endpoints["a"].len()), (1, 1));
    assert_eq!(bench.store.absent().count(), 0);

    bench.apply(vec![set("b", endpoints(2))]);
    let (verdicts, live) = bench.apply_from("plane", vec![set("b", cluster())]);
    assert_eq!(verdicts, ["cluster b: added"]);
    assert_eq!(live.endpoints["b"].len(), 1, "those that came before it");
}

#[test]
fn a_change_is_of_what_it_names_and_of_nothing_else() {
    let mut bench = Bench::new();
    let all = ["a", "b", "c"].map(|name| [set(name, cluster()), set(name, endpoints(1))]);
    bench.apply(all.into_iter().flatten().collect());
    let (verdicts, live) = bench.apply_from("plane", vec![set("b", endpoints(2))]);
    assert_eq!(verdicts, ["endpoints b: changed"]);
    assert!(live.plans.is_empty() && live.removed.is_empty());
    assert_eq!(live.endpoints.keys().map(|name| &**name).collect::<Vec<_>>(), ["b"]);

    let (verdicts, live) =
        bench.apply_from("plane", vec![set("a", cluster()), set("b", endpoints(2))]);
    assert_eq!(verdicts, ["endpoints b: unchanged", "cluster a: unchanged"]);
    assert!(live.plans.is_empty() && live.endpoints.is_empty());
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
    assert_eq!(live.plans[0].name, referred.name);
    let gone = vec![remove(Kind::Cluster, "app"), remove(Kind::Endpoints, "app")];
    let (verdicts, live) = bench.apply_from("plane", gone);
    assert_eq!(verdicts, ["cluster app: removed", "endpoints app: removed"]);
    assert_eq!(live.removed.len(), 1);
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
    bench.apply(vec![set("edge", listener(1, plain.clone()))]);
    bench.now += PATIENCE / 2;
    // What is sent again does not wait any longer for that.
    bench.apply(vec![set("edge", listener(1, plain))]);
    bench.now += PATIENCE / 2;
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
    let wrong = Secret::Certificate { chain: b"no certificate".to_vec(), key: Vec::new() };
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
        assert!(live.endpoints.is_empty());
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
                for (_, _, service) in of.services() {
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
        assert_eq!(counts, [0, 0, 2, 2, 1, 1, 0], "seed {seed}");
        assert_eq!(bench.store.absent().count(), 0, "seed {seed}");
    }
}

#[test]
fn files_and_a_control_plane_do_not_share_names() {
    let mut bench = Bench::new();
    bench.apply(vec![set("a", endpoints(1)), set("a", cluster()), set("b", cluster())]);
    let root = trees::map(&[("clusters", trees::map(&[("a", trees::text("127.0.0.1:2"))]))]);
    let config: crate::Config = trees::bind(&root);
    let input = crate::files::FilesInput {
        config,
        root,
        folder: std::path::Path::new("."),
        endpoint_files: &Default::default(),
        tables: Vec::new(),
        discovered: false,
    };
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

#[test]
fn datagrams_never_go_to_a_cluster_with_tls() {
    let tls = crate::model::tls::ClientTls {
        verify: sluice_tls::Verify::Unverified,
        sni: None,
        send_sni: true,
        names: Vec::new(),
        certificate: None,
        alpn: Vec::new(),
        min_version: sluice_tls::TlsVersion::V1_2,
        http2: false,
        http3: false,
        early_data: false,
    };
    let settings = ClusterSettings::bare();
    let encrypted = || {
        Resource::Cluster(Arc::new(Cluster {
            settings: settings.clone(),
            tls: Some(Arc::new(tls.clone())),
            endpoint_file: None,
        }))
    };
    let udp = || flow_listener(1, "x");
    let says = "the cluster `x` has TLS, but datagrams would be sent unencrypted";
    let mut bench = Bench::new();
    let both = vec![set("x", encrypted()), set("x", endpoints(1)), set("u", udp())];
    let verdicts = bench.apply(both);
    assert_eq!(verdicts[2], format!("listener u: rejected: chains[0].relay.cluster: {says}"));
    // The other way round: the listener serves, and the cluster keeps what it had.
    bench.apply(vec![set("x", cluster()), set("u", udp())]);
    assert_eq!(
        bench.apply(vec![set("x", encrypted())]),
        [format!("cluster x: rejected: tls: {says}")]
    );
    let gone = vec![remove(Kind::Listener, "u"), set("x", encrypted())];
    assert_eq!(bench.apply(gone), ["listener u: removed", "cluster x: changed"]);
}

#[test]
fn clusters_in_place_of_others_form_no_circle_and_get_no_unencrypted_datagrams() {
    let fallback_to = |name: &str| {
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let settings = ClusterSettings { fallback: vec![name.into()], ..bare };
        let cluster = Cluster { settings: Arc::new(settings), tls: None, endpoint_file: None };
        Resource::Cluster(Arc::new(cluster))
    };
    let encrypted = || {
        let tls = crate::model::tls::ClientTls {
            verify: sluice_tls::Verify::Unverified,
            sni: None,
            send_sni: true,
            names: Vec::new(),
            certificate: None,
            alpn: Vec::new(),
            min_version: sluice_tls::TlsVersion::V1_2,
            http2: false,
            http3: false,
            early_data: false,
        };
        let settings = ClusterSettings::bare();
        Resource::Cluster(Arc::new(Cluster {
            settings,
            tls: Some(Arc::new(tls)),
            endpoint_file: None,
        }))
    };
    let mut bench = Bench::new();
    bench.apply(vec![
        set("x", fallback_to("y")),
        set("x", endpoints(1)),
        set("y", cluster()),
        set("y", endpoints(2)),
        set("z", encrypted()),
        set("z", endpoints(3)),
        set("u", flow_listener(1, "x")),
    ]);
    let says = |name: &str| {
        format!("the cluster `{name}` has TLS, but datagrams would be sent unencrypted")
    };
    for (name, resource, expected) in [
        ("y", fallback_to("y"), "fallback: the cluster `y` would serve in place of itself".into()),
        ("y", fallback_to("x"), "fallback: the cluster `y` would serve in place of itself".into()),
        ("y", encrypted(), format!("tls: {}", says("y"))),
        ("y", fallback_to("z"), format!("fallback: {}", says("z"))),
        ("x", fallback_to("z"), format!("fallback: {}", says("z"))),
    ] {
        let expected = [format!("cluster {name}: rejected: {expected}")];
        assert_eq!(bench.apply(vec![set(name, resource)]), expected);
    }
    bench.apply(vec![remove(Kind::Listener, "u"), set("y", fallback_to("z"))]);
    assert_eq!(
        bench.apply(vec![set("u", flow_listener(1, "x"))]),
        [format!("listener u: rejected: chains[0].relay.cluster: {}", says("z"))]
    );
}

#[test]
fn what_is_in_force_can_be_read_by_kind() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let file = folder.path().join("a.pem");
    std::fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    let mut tls = tls_of("none");
    let source =
        crate::model::tls::CertificateSource::Pem { cert: file.as_path().into(), key: None };
    tls.certificates = vec![source];
    let Resource::Routes(table) = routes_to("app") else { unreachable!() };
    let mut table = (*table).clone();
    let share = crate::model::routes::Share {
        cluster: "app".into(),
        weight: 1,
        runtime: Some("app.share".into()),
        endpoint: None,
    };
    table.virtual_hosts[0].rules[0].action = crate::model::routes::Action::Split(vec![share]);

    let mut bench = Bench::new();
    bench.apply(vec![
        set("web", Resource::Routes(Arc::new(table))),
        set("edge", listener(1, ChainKind::Terminate(tls.clone(), http("web")))),
        set("raw", listener(2, relay("app"))),
    ]);
    let store = &bench.store;
    let names = |all: Vec<&Name>| all.into_iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(store.listeners().map(|(name, _)| name).collect()), ["edge", "raw"]);
    assert_eq!(names(store.listener_snapshots().map(|(name, _)| name).collect()), ["edge", "raw"]);
    let tables: Vec<_> = store.routes().collect();
    assert_eq!((&**tables[0].0, tables.len()), ("web", 1));
    assert!(Arc::ptr_eq(tables[0].2, store.routes_named("web").unwrap().1));
    let in_use = bench.around.routes.reference(&"web".into()).get();
    assert!(Arc::ptr_eq(&in_use, tables[0].2), "requests use it");
    assert_eq!(store.files().collect::<Vec<_>>(), [file.as_path()]);
    assert_eq!(store.runtime_keys().collect::<Vec<_>>(), [("app.share", RuntimeKind::Number)]);

    // New content of a file concerns the resources that name it, and no others.
    let both = || {
        let terminate = ChainKind::Terminate(tls.clone(), http("web"));
        vec![set("edge", listener(1, terminate)), set("raw", listener(2, relay("app")))]
    };
    assert_eq!(bench.apply(both()), ["listener edge: unchanged", "listener raw: unchanged"]);
    let made = rcgen::generate_simple_self_signed(["b.test".to_owned()]).unwrap();
    std::fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    assert_eq!(bench.apply(both()), ["listener edge: refreshed", "listener raw: unchanged"]);
    assert_eq!(bench.around.certs.list()[0].material().info.names, ["b.test"]);

    // Routes that are removed match nothing any more.
    let cell = bench.around.routes.reference(&"web".into());
    bench.apply(vec![remove(Kind::Routes, "web")]);
    assert!(cell.get().virtual_hosts.is_empty());
}

#[test]
fn changes_of_listeners_are_of_listeners() {
    let mut bench = Bench::new();
    let both = |port| vec![set("x", endpoints(port)), set("x", listener(port, relay("x")))];
    bench.apply(both(1));
    let gone = [Kind::Endpoints, Kind::Listener].map(|kind| remove(kind, "x"));
    let staged = bench.stage("plane", gone.into());
    let changes = staged.listeners();
    assert!(changes.len() == 1 && changes["x"].is_none());
    let gone = bench.stage("plane", vec![remove(Kind::Endpoints, "x")]);
    assert!(gone.listeners().is_empty());

    let mut staged = bench.stage("plane", both(2));
    staged.reject_listener(&"x".into(), "in use".into(), bench.now);
    assert_eq!(
        staged.verdicts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["endpoints x: changed", "listener x: rejected: addresses: in use"]
    );
    bench.store.commit(staged, &bench.around);
    let absent: Vec<_> = bench.store.absent().map(|(kind, name, _)| (kind, &**name)).collect();
    assert_eq!(absent, [(Kind::Listener, "x")]);
    assert_eq!(bench.store.origin(Kind::Listener, "x"), Some(("plane", Some("1"))));
}

#[test]
fn new_authorities_refresh_a_cluster_and_new_settings_change_it() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let write = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(&ca, made.cert.pem()).unwrap();
    };
    write("a.test");
    let encrypted = |attempts| {
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let settings = ClusterSettings { connect_attempts: attempts, ..bare };
        let tls = crate::model::tls::ClientTls {
            verify: sluice_tls::Verify::Ca(ca.as_path().into()),
            sni: None,
            send_sni: true,
            names: Vec::new(),
            certificate: None,
            alpn: Vec::new(),
            min_version: sluice_tls::TlsVersion::V1_2,
            http2: false,
            http3: false,
            early_data: false,
        };
        let cluster =
            Cluster { settings: Arc::new(settings), tls: Some(Arc::new(tls)), endpoint_file: None };
        Resource::Cluster(Arc::new(cluster))
    };
    let mut bench = Bench::new();
    bench.apply(vec![set("a", endpoints(1)), set("a", encrypted(1))]);
    let built = |plan: &ClusterPlan| Arc::clone(&plan.tls.as_ref().unwrap().config);
    let (_, live) = bench.apply_from("plane", vec![set("b", endpoints(1)), set("b", encrypted(1))]);
    let before = built(&live.plans[0]);
    let (_, live) = bench.apply_from("plane", vec![set("c", endpoints(1)), set("c", encrypted(1))]);
    assert!(Arc::ptr_eq(&before, &built(&live.plans[0])), "equal ones are one");

    write("b.test");
    let (verdicts, live) = bench.apply_from("plane", vec![set("a", encrypted(1))]);
    assert_eq!(verdicts, ["cluster a: refreshed"]);
    assert_eq!((live.plans.len(), live.refreshed.len()), (0, 1));
    assert!(!Arc::ptr_eq(&before, &built(&live.refreshed[0])));
    let (verdicts, live) = bench.apply_from("plane", vec![set("a", encrypted(2))]);
    assert_eq!(verdicts, ["cluster a: changed"]);
    assert_eq!((live.plans.len(), live.refreshed.len()), (1, 0));
    // With the cluster gone, its name no longer stands in the way of a listener for datagrams.
    let moved = vec![remove(Kind::Cluster, "a"), set("u", flow_listener(1, "a"))];
    assert_eq!(bench.apply(moved), ["cluster a: removed", "listener u: added"]);
}

#[test]
fn files_remove_what_they_declared_and_nothing_else() {
    let mut bench = Bench::new();
    let mut take = |clusters: &[&str]| {
        let clusters: Vec<_> =
            clusters.iter().map(|name| (*name, trees::text("127.0.0.1:1"))).collect();
        let root = trees::map(&[("clusters", trees::map(&clusters))]);
        let config: crate::Config = trees::bind(&root);
        let folder = std::path::Path::new(".");
        let input = crate::files::FilesInput {
            config,
            root,
            folder,
            endpoint_files: &Default::default(),
            tables: Vec::new(),
            discovered: false,
        };
        let (store, around, shared) = (&bench.store, &bench.around, &mut bench.shared);
        let mut diags = Diags::new();
        let staged = crate::files::stage_files(input, store, around, shared, bench.now, &mut diags);
        let (_, staged) = staged.unwrap_or_else(|| panic!("{diags:?}"));
        bench.store.commit(staged, &bench.around);
        bench.apply(vec![set("plane", cluster()), set("plane", endpoints(1))]);
        bench.store.names(Kind::Cluster).map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(take(&["a", "b"]), ["a", "b", "plane"]);
    assert_eq!(take(&["b"]), ["b", "plane"]);
}

#[test]
fn a_newer_version_waits_for_its_own_time() {
    let mut bench = Bench::new();
    let edge = |port| set("edge", listener(port, ChainKind::Plain(http("web"))));
    bench.apply(vec![edge(1)]);
    bench.now += PATIENCE / 2;
    bench.apply(vec![edge(2)]);
    assert_eq!(bench.store.next_deadline(), Some(bench.now + PATIENCE));
    let absent = bench.store.why_absent(Kind::Listener, &"edge".into()).unwrap();
    assert_eq!(absent.since, bench.now);
}

#[test]
fn a_listener_takes_a_secret_that_came_long_before_it() {
    let mut bench = Bench::new();
    bench.apply(vec![set("site", secret("site.test")), set("web", routes_to("app"))]);
    let terminate = || ChainKind::Terminate(tls_of("site"), http("web"));
    assert_eq!(bench.apply(vec![set("a", listener(1, terminate()))]), ["listener a: added"]);
    assert_eq!(bench.apply(vec![set("b", listener(2, terminate()))]), ["listener b: added"]);
    let stored = bench.around.certs.list();
    assert_eq!(stored.len(), 1, "both have the same certificate");
    assert_eq!(stored[0].material().info.names, ["site.test"]);
}

#[test]
fn a_name_that_no_file_declares_is_an_error() {
    let mut bench = Bench::new();
    let listener = trees::map(&[
        ("name", trees::text("l")),
        ("address", trees::text("127.0.0.1:1")),
        ("relay", trees::text("ap")),
    ]);
    let clusters = trees::map(&[("app", trees::text("127.0.0.1:2"))]);
    let root = trees::map(&[("listeners", trees::list(vec![listener])), ("clusters", clusters)]);
    let config: crate::Config = trees::bind(&root);
    let input = crate::files::FilesInput {
        config,
        root,
        folder: std::path::Path::new("."),
        endpoint_files: &Default::default(),
        tables: Vec::new(),
        discovered: false,
    };
    let mut diags = Diags::new();
    let (store, around, shared) = (&bench.store, &bench.around, &mut bench.shared);
    let staged = crate::files::stage_files(input, store, around, shared, bench.now, &mut diags);
    assert!(staged.is_none());
    let found: Vec<_> = diags.iter().map(|of| (of.path.as_str(), of.help.as_deref())).collect();
    assert_eq!(found, [("listeners[0].relay.cluster", Some("did you mean `app`?"))]);
}
