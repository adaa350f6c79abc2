//! Control planes: a bootstrap names one, and what it sends is served.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sluice_testkit::origin::{self, Client};
use sluice_testkit::{Origin, tools, wait};
use sluice_tests::planes::{
    Envoy, FORMS, Plane, assignment, bootstrap, cluster, listener, listener_with, origin_of,
    over_ads, table, to, wrong_cluster,
};

#[test]
fn what_a_plane_sends_is_served_and_follows_it() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        plane.set_all("1", to("one"), &[("one", a.addr())]);
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        let served = origin_of(envoy.addr("web"), "/");
        assert!(served.starts_with("200 a"), "{served}\n{:#?}\n{}", envoy.xds(), envoy.log());
        // The node of the file, with the names of the command line, once.
        let first = plane.request("the first request", |of| of["type"] == "cds");
        assert_eq!(first["delta"], form == "DELTA_GRPC");
        assert_eq!(plane.nodes(), 1, "the node is in the first request only");
        // An endpoint moves; the listener is not touched.
        let listener = envoy.addr("web");
        plane.set("eds", "2", json!({ "one": assignment("one", &[b.addr()]) }));
        envoy.until_served("/", "200 b");
        assert_eq!(envoy.addr("web"), listener);
        // A new cluster, and a route to it.
        plane.set("cds", "3", json!({ "one": cluster("one"), "two|x": cluster("two|x") }));
        plane.set("eds", "3", json!({ "one": assignment("one", &[b.addr()]), "two|x": assignment("two|x", &[a.addr()]) }));
        plane.set("rds", "3", json!({ "main": table("main", to("two|x")) }));
        envoy.until_served("/", "200 a");
        // Routes may name a cluster that does not exist.
        plane.set("rds", "4", json!({ "main": table("main", to("nobody")) }));
        wait::until("no cluster", || {
            (origin::get(listener, "h", "/").status() == 503).then_some(())
        });
        plane.set("rds", "5", json!({ "main": table("main", to("one")) }));
        envoy.until_served("/", "200 b");
        // Everything leaves.
        plane.set("lds", "6", json!({}));
        wait::until("the port to close", || TcpStream::connect(listener).is_err().then_some(()));
        plane.set("cds", "6", json!({}));
        wait::until("nothing", || {
            let items = envoy.xds();
            items.iter().all(|of| of["kind"] == "ads").then_some(())
        });
        assert_eq!(
            envoy.metric("sluice_xds_responses_total", "result=\"rejected\""),
            0,
            "{}",
            envoy.log()
        );
        assert_eq!(envoy.metric("sluice_xds_connected", "source=\"plane\""), 1);
    }
}

#[test]
fn one_of_many_is_rejected_and_the_others_are_served() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let a = Origin::start("a");
        plane.set_all("1", to("c7"), &[("bad", a.addr())]);
        let names: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
        let mut clusters: serde_json::Map<String, Value> =
            names.iter().map(|name| (name.clone(), cluster(name))).collect();
        clusters.insert("bad".into(), wrong_cluster("bad"));
        plane.set("cds", "2", Value::Object(clusters.clone()));
        let endpoints = names.iter().map(|name| (name.clone(), assignment(name, &[a.addr()])));
        plane.set("eds", "2", endpoints.collect());
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        let error = plane.error("cds");
        assert!(
            error.starts_with(
                "cluster `bad`: lb_policy: `lb_policy` of envoy.config.cluster.v3.Cluster"
            ),
            "{error}"
        );
        envoy.until_served("/", "200 a");
        let rejected = envoy.until("cluster", "bad", "rejected");
        assert!(
            rejected["rejected"]["why"].as_str().unwrap().starts_with("lb_policy: "),
            "{rejected}"
        );
        assert_eq!(envoy.metric("sluice_xds_resources", "type=\"cds\",state=\"active\""), 100);
        // It becomes right, then wrong again: the good one stays.
        clusters.insert("bad".into(), cluster("bad"));
        plane.set("cds", "3", Value::Object(clusters.clone()));
        let all = names.iter().map(String::as_str).chain(["bad"]);
        let endpoints = all.map(|name| (name.to_owned(), assignment(name, &[a.addr()])));
        plane.set("eds", "3", endpoints.collect());
        plane.set("rds", "3", json!({ "main": table("main", to("bad")) }));
        envoy.until("cluster", "bad", "active");
        envoy.until_served("/", "200 a");
        clusters.insert("bad".into(), wrong_cluster("bad"));
        clusters.remove("c99");
        plane.set("cds", "4", Value::Object(clusters));
        wait::until("one to leave", || {
            (envoy.metric("sluice_xds_resources", "type=\"cds\",state=\"active\"") == 99)
                .then_some(())
        });
        envoy.until_served("/", "200 a");
        // Routes with a mistake leave the table in use.
        let wrong = json!([{ "match": { "prefix": "/" }, "route": { "cluster": "c1", "prefix_rewrite": "no\nline" } }]);
        plane.set("rds", "5", json!({ "main": table("main", wrong) }));
        let error = plane.error("rds");
        assert!(error.starts_with("routes `main`: virtual_hosts[0].routes[0].route"), "{error}");
        envoy.until_served("/", "200 a");
        envoy.until("routes", "main", "rejected");
    }
}

#[test]
fn listeners_that_cannot_be_together_are_refused_one_by_one() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    plane.set_all("1", to("one"), &[("one", a.addr())]);
    let folder = tempfile::tempdir().unwrap();
    // What needs nothing else is judged at once.
    let whole = |name: &str| {
        let mut listener = listener(name, "main");
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager.as_object_mut().unwrap().remove("rds");
        manager["route_config"] = table("main", to("one"));
        listener
    };
    let logging = |name: &str, file: &str| {
        let mut listener = whole(name);
        let path = folder.path().join(file);
        listener["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = json!([{
            "name": "file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path,
                "log_format": { "text_format_source": { "inline_string": "%RESPONSE_CODE% %REQ(:PATH)%\n" } },
            },
        }]);
        listener
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut busy = whole("busy");
    busy["address"]["socket_address"]["port_value"] = taken.local_addr().unwrap().port().into();
    let all = json!({ "busy": busy, "first": logging("first", "log"), "other": logging("other", "else"), "web": listener("web", "main") });
    plane.set("lds", "2", all);
    let mut envoy = Envoy::start(&over_ads(plane.addr, "GRPC"));
    envoy.until_ready();
    let error = plane.error("lds");
    assert!(
        error.contains("listener `busy`: ") && error.contains("already listens there"),
        "{error}"
    );
    assert!(
        error.contains("listener `other`: access_log: all listeners write the same logs"),
        "{error}"
    );
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
    assert_eq!(origin_of(envoy.addr("first"), "/logged"), "200 a");
    wait::until("a line in the log", || {
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        log.contains("200 /logged\n").then_some(())
    });
    assert!(!folder.path().join("else").exists());
}

/// Requests one after the other on a connection that is kept, and on new ones, until it is dropped.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    fn to(addr: SocketAddr) -> Self {
        let (stop, done, lost) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let threads = (0..2).map(|kept| {
            let (stop, done, lost) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&lost));
            std::thread::spawn(move || {
                let mut client = Client::connect(addr);
                while !stop.load(Ordering::Relaxed) {
                    let answer =
                        if kept == 0 { client.get("h", "/") } else { origin::get(addr, "h", "/") };
                    if answer.status() != 200 {
                        lost.lock().unwrap().push(format!("{} {}", answer.status(), answer.text()));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, done, lost, threads }
    }

    /// Waits for a few more requests.
    fn some(&self) {
        let before = self.done.load(Ordering::Relaxed);
        wait::until("traffic", || (self.done.load(Ordering::Relaxed) > before + 5).then_some(()));
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        assert_eq!(*self.lost.lock().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn changes_under_load_and_cut_streams_lose_no_request() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        plane.set_all("1", to("one"), &[("one", a.addr()), ("two", b.addr())]);
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        let traffic = Traffic::to(envoy.addr("web"));
        for round in 2..12 {
            let (cluster, one, two) = match round % 4 {
                0 => ("one", a.addr(), b.addr()),
                1 => ("two", a.addr(), b.addr()),
                2 => ("one", b.addr(), a.addr()),
                _ => ("two", b.addr(), a.addr()),
            };
            plane.set_all(&round.to_string(), to(cluster), &[("one", one), ("two", two)]);
            let body = if round % 4 == 0 || round % 4 == 3 { "200 a" } else { "200 b" };
            envoy.until_served("/", body);
            traffic.some();
            if round % 3 == 0 {
                let opened = plane.opened();
                plane.say(&json!({ "cut": true }));
                wait::until("a new stream", || (plane.opened() > opened).then_some(()));
            }
        }
        traffic.end();
        assert!(envoy.metric("sluice_xds_streams_total", "result=\"closed\"") >= 3);
        if form == "DELTA_GRPC" {
            let again = |of: &Value| of["initial"] == json!(["one", "two"]);
            plane.request("the versions that are there", again);
        }
    }
}

#[test]
fn a_plane_that_dies_leaves_what_it_said_and_returns() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        plane.set_all("1", to("one"), &[("one", a.addr())]);
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        let traffic = Traffic::to(envoy.addr("web"));
        let port = plane.kill();
        envoy.until("ads", "plane", "connecting");
        traffic.some();
        let mut plane = Plane::at(port);
        plane.set_all("1", to("one"), &[("one", b.addr())]);
        envoy.until_served("/", "200 b");
        traffic.end();
        let log = envoy.log();
        assert!(log.contains("the stream to the control plane `plane` has ended"), "{log}");
    }
}

#[test]
fn nonsense_changes_nothing() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    plane.set_all("1", to("one"), &[("one", a.addr())]);
    let mut envoy = Envoy::start(&over_ads(plane.addr, "GRPC"));
    envoy.until_ready();
    let ignored = || envoy.metric("sluice_xds_responses_total", "result=\"ignored\"");
    plane.say(&json!({ "say": "none", "type_url": "type.googleapis.com/x.Y", "nonce": "7" }));
    plane.say(&json!({ "say": "none", "type_url": "", "nonce": "8" }));
    wait::until("both to be ignored", || (ignored() == 2).then_some(()));
    // Resources of another type, without a name, twice, and garbage.
    plane.set("eds", "2", json!({ "one": { "hex": "ffffff" } }));
    assert!(plane.error("eds").contains("cannot be decoded"));
    plane.set("lds", "3", json!({ "web": listener("web", "main"), "x": { "hex": "" } }));
    assert!(plane.error("lds").contains("it has no name"), "{}", plane.error("lds"));
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
    plane.set("eds", "4", json!({ "one": assignment("one", &[a.addr()]) }));
    plane.request("an answer", |of| of["type"] == "eds" && of["version"] == "4");
}

#[test]
fn what_does_not_come_is_waited_for_as_long_as_the_source_says() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    let soon = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.2s" });
    let impatient =
        json!({ "name": "soon", "type": "EDS", "eds_cluster_config": { "eds_config": soon } });
    plane.set("cds", "1", json!({ "soon": impatient, "late": cluster("late") }));
    plane.set("lds", "1", json!({ "web": listener("web", "main") }));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
    // The one whose time is over has no endpoints; the other one holds up the listeners.
    envoy.until("cluster", "soon", "active");
    let waits = envoy.until("cluster", "late", "warming");
    assert_eq!(waits["waits_for"], json!(["endpoints `late`"]));
    assert!(!envoy.is_ready());
    plane.set("eds", "1", json!({ "late": assignment("late", &[a.addr()]) }));
    envoy.until("cluster", "late", "active");
    envoy.until("listener", "web", "warming");
    assert!(!envoy.is_ready());
    plane.set("rds", "1", json!({ "main": table("main", to("late")) }));
    envoy.until_ready();
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
}

#[test]
fn each_type_may_have_a_stream_of_its_own() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    let own = json!({ "api_config_source": { "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": "plane" } }] }, "resource_api_version": "V3" });
    plane.set("cds", "1", json!({ "one": { "name": "one", "type": "EDS", "eds_cluster_config": { "service_name": "endpoints/one", "eds_config": own } } }));
    plane.set("eds", "1", json!({ "endpoints/one": assignment("endpoints/one", &[a.addr()]) }));
    plane.set("lds", "1", json!({ "web": listener_with("web", json!({ "route_config_name": "main", "config_source": own })) }));
    plane.set("rds", "1", json!({ "main": table("main", to("one")) }));
    let mut envoy = Envoy::start(&bootstrap(
        plane.addr,
        &format!("  cds_config: {own}\n  lds_config: {own}\n"),
    ));
    envoy.until_ready();
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
    assert_eq!(plane.opened(), 4);
    let streams = envoy.xds().into_iter().filter(|of| of["kind"] == "stream").count();
    assert_eq!(streams, 4);
}

fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], tools::free_port()).into()
}

/// Moves a file with this content into place.
fn place(path: &Path, content: &Value) {
    let new = path.with_extension("new");
    std::fs::write(&new, content.to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn with_type(kind: &str, resource: &Value) -> Value {
    let mut resource = resource.clone();
    resource["@type"] = format!("type.googleapis.com/envoy.config.{kind}").into();
    resource
}

#[test]
fn files_that_change_stand_for_a_plane() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| -> PathBuf { folder.path().join(name) };
    let source = |name: &str| json!({ "path_config_source": { "path": file(name) }, "resource_api_version": "V3" });
    let endpoints = |to: SocketAddr| json!({ "version_info": "1", "resources": [with_type("endpoint.v3.ClusterLoadAssignment", &assignment("one", &[to]))] });
    let cluster = json!({ "name": "one", "type": "EDS", "eds_cluster_config": { "eds_config": source("eds.json") } });
    place(&file("cds.json"), &json!({ "resources": [with_type("cluster.v3.Cluster", &cluster)] }));
    place(&file("eds.json"), &endpoints(a.addr()));
    let web = listener_with(
        "web",
        json!({ "route_config_name": "main", "config_source": source("rds.json") }),
    );
    place(&file("lds.json"), &json!({ "resources": [with_type("listener.v3.Listener", &web)] }));
    place(
        &file("rds.json"),
        &json!({ "resources": [with_type("route.v3.RouteConfiguration", &table("main", to("one")))] }),
    );
    let dynamic =
        format!("  cds_config: {}\n  lds_config: {}\n", source("cds.json"), source("lds.json"));
    let mut envoy = Envoy::start(&bootstrap(nowhere(), &dynamic));
    envoy.until_ready();
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
    place(&file("eds.json"), &endpoints(b.addr()));
    envoy.until_served("/", "200 b");
    std::fs::write(file("eds.json"), "{ resources: [").unwrap();
    envoy.until("file", &file("eds.json").display().to_string(), "connecting");
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 b");
}

#[test]
fn clusters_and_listeners_of_the_bootstrap_wait_for_a_plane() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    plane.set("eds", "1", json!({ "one": assignment("one", &[a.addr()]) }));
    plane.set("rds", "1", json!({ "main": table("main", to("one")) }));
    let text_of = |of: Value| of.to_string();
    let ads_only = "  ads_config: { api_type: GRPC, transport_api_version: V3, grpc_services: [{ envoy_grpc: { cluster_name: plane } }] }";
    let file = bootstrap(plane.addr, ads_only);
    let file = format!(
        "{file}  - {}\n  listeners:\n  - {}\n",
        text_of(cluster("one")),
        text_of(listener("web", "main"))
    );
    let mut envoy = Envoy::start(&file);
    envoy.until_ready();
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
    let names = plane.request("routes to be asked for", |of| of["type"] == "rds");
    assert_eq!(names["names"], json!(["main"]));
    // A reload does not reach them, and says so.
    tools::must(tools::command("kill").args(["-HUP", &envoy.child.id().to_string()]));
    wait::until("a line of the log", || {
        envoy.log().contains("take effect after a restart").then_some(())
    });
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
}

#[test]
fn a_plane_may_be_asked_by_http_again_and_again() {
    let Some(mut plane) = Plane::start() else { return };
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let own = json!({ "api_config_source": { "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["plane"], "refresh_delay": "0.1s", "request_timeout": "5s" }, "resource_api_version": "V3" });
    plane.say(&json!({ "rest": true }));
    let port = wait::until("the port", || {
        plane.told.lock().unwrap().iter().find_map(|line| line["rest"].as_u64())
    });
    plane.set("cds", "1", json!({ "one": { "name": "one", "type": "EDS", "eds_cluster_config": { "eds_config": own } } }));
    plane.set(
        "eds",
        "1",
        json!({ "one": assignment("one", &[a.addr()]), "other": assignment("other", &[b.addr()]) }),
    );
    plane.set(
        "lds",
        "1",
        json!({ "web": listener_with("web", json!({ "route_config_name": "main", "config_source": own })) }),
    );
    // The last type is not there at first: it is asked for again.
    let at = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
    let file = bootstrap(at, &format!("  cds_config: {own}\n  lds_config: {own}\n"))
        .replace("http2_protocol_options", "http_protocol_options");
    let mut envoy = Envoy::start(&file);
    envoy.until("listener", "web", "warming");
    let failure = wait::until("a failure", || {
        envoy.xds().iter().find_map(|of| Some(of["failure"].as_str()?.to_owned()))
    });
    assert_eq!(failure, "it has responded with the status 404");
    plane.set("rds", "1", json!({ "main": table("main", to("one")) }));
    envoy.until_ready();
    envoy.until_served("/", "200 a");
    let asked = plane.request("the node and the names", |of| of["type"] == "eds");
    assert_eq!((&asked["node"], &asked["names"]), (&json!("here"), &json!(["one"])));
    assert_eq!(asked["host"], "plane");
    plane.request("the version that is there", |of| of["type"] == "cds" && of["version"] == "1");
    // An endpoint moves, and a resource that is wrong leaves the one in use.
    plane.set("eds", "2", json!({ "one": assignment("one", &[b.addr()]) }));
    envoy.until_served("/", "200 b");
    let wrong = json!([{ "match": { "prefix": "/" }, "route": { "cluster": "one", "prefix_rewrite": "no\nline" } }]);
    plane.set("rds", "2", json!({ "main": table("main", wrong) }));
    assert!(plane.error("rds").starts_with("routes `main`: "), "{}", plane.error("rds"));
    envoy.until("routes", "main", "rejected");
    let refused = || envoy.metric("sluice_xds_responses_total", "type=\"rds\",result=\"rejected\"");
    let asked = || {
        let told = plane.told.lock().unwrap();
        told.iter().filter(|line| line["request"]["error"].is_string()).count()
    };
    let before = asked();
    wait::until("more requests", || (asked() > before + 3).then_some(()));
    assert_eq!(refused(), 1, "the same response is taken once");
    envoy.until_served("/", "200 b");
    plane.set("rds", "3", json!({ "main": table("main", to("nobody")) }));
    envoy.until_served("/", "503 ");
    // What is there no longer leaves.
    plane.set("lds", "2", json!({}));
    let web = envoy.addr("web");
    wait::until("the port to close", || TcpStream::connect(web).is_err().then_some(()));
    let streams =
        envoy.xds().into_iter().filter(|of| of["kind"] == "rest" && of["state"] == "connected");
    assert!(streams.count() >= 2);
}

#[test]
fn what_a_source_cannot_be_is_said_at_the_start() {
    let refused = |dynamic: &str, expected: &str| {
        let mut envoy = Envoy::start(&bootstrap(nowhere(), dynamic));
        wait::until("the end", || envoy.child.try_wait().unwrap());
        assert!(envoy.log().contains(expected), "{dynamic}\n{}", envoy.log());
    };
    let service = "grpc_services: [{ envoy_grpc: { cluster_name: plane } }]";
    refused(
        &format!(
            "  cds_config: {{ api_config_source: {{ api_type: REST, transport_api_version: V3, refresh_delay: 1s, {service} }} }}"
        ),
        "expected one of `cluster_names`, not 0",
    );
    refused(
        "  cds_config: { api_config_source: { api_type: REST, transport_api_version: V3, cluster_names: [plane] } }",
        "REST needs a `refresh_delay`",
    );
    refused(
        "  ads_config: { api_type: REST, cluster_names: [plane], refresh_delay: 1s }\n  cds_config: { ads: {} }",
        "`ads_config` is a stream for all types, and REST is asked for each of them",
    );
    refused("  cds_config: { ads: {} }", "comes over `ads`, but there is no `ads_config`");
    refused(
        "  cds_config: { api_config_source: { api_type: GRPC, transport_api_version: V3, grpc_services: [{ google_grpc: { target_uri: a, stat_prefix: b } }] } }",
        "`google_grpc` of envoy.config.core.v3.GrpcService is not supported",
    );
}
