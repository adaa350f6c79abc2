//! Control planes that change everything under load, cut their streams and lie: nobody's request is lost.
//!
//! `SLUICE_PLANE_SECONDS` is how long each load lasts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::origin::{self, Client};
use sluice_testkit::{Authority, Origin, tools, wait};
use sluice_tests::databases::Postgres;
use sluice_tests::planes::{
    Envoy, FORMS, Plane, ads, assignment, cluster, listener, origin_of, over_ads, table, to,
};

const TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// The time between two changes.
const PACE: Duration = Duration::from_millis(200);

fn seconds() -> u64 {
    std::env::var("SLUICE_PLANE_SECONDS").map_or(3, |text| text.parse().unwrap())
}

/// What a plane moves: everything it has.
struct World {
    plane: Plane,
    round: u64,
    /// Each cluster is at one of them, in turns.
    at: [SocketAddr; 2],
    secrets: [Value; 2],
    tcp: Option<[SocketAddr; 2]>,
}

impl World {
    /// `None` if Python lacks Envoy's messages.
    fn start(at: [SocketAddr; 2], tcp: Option<[SocketAddr; 2]>) -> Option<Self> {
        let plane = Plane::start()?;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let secrets = ["one", "two"].map(|name| {
            authority.issue(name, &["site.test"]);
            let read = |of: &str| std::fs::read_to_string(folder.path().join(of)).unwrap();
            json!({ "name": "site", "tls_certificate": {
                "certificate_chain": { "inline_string": read(&format!("{name}.pem")) },
                "private_key": { "inline_string": read(&format!("{name}.key")) },
            } })
        });
        let mut world = Self { plane, round: 0, at, secrets, tcp };
        for kind in ["cds", "eds", "lds", "rds", "sds"] {
            world.set(kind);
        }
        Some(world)
    }

    /// One of two, by the round and the type.
    fn turn(&self, count: u64) -> usize {
        usize::from(self.round / count % 2 == 1)
    }

    fn set(&mut self, kind: &str) {
        let turn = self.turn(5);
        let resources = match kind {
            "cds" => {
                let mut all =
                    json!({ "one": cluster("one"), "two": cluster("two"), "db": cluster("db") });
                all["one"]["connect_timeout"] = ["5s", "6s"][turn].into();
                all["db"]["connect_timeout"] = ["5s", "6s"][turn].into();
                if turn == 1 {
                    all["more"] = cluster("more");
                }
                all
            }
            "eds" => {
                let of = |name: &str, turn: usize| assignment(name, &[self.at[turn]]);
                let mut all = json!({ "one": of("one", turn), "two": of("two", 1 - turn) });
                // A plane says nothing while it has endpoints that nobody asks for.
                if turn == 1 {
                    all["more"] = of("more", 0);
                }
                all["db"] = assignment("db", &[self.tcp.unwrap_or(self.at)[turn]]);
                all
            }
            "rds" => json!({ "main": table("main", to(["one", "two"][turn])) }),
            "sds" => json!({ "site": self.secrets[turn] }),
            _ => {
                let web = |name: &str| {
                    let mut of = listener(name, "main");
                    let manager = &mut of["filter_chains"][0]["filters"][0]["typed_config"];
                    manager["server_name"] = ["a", "b"][turn].into();
                    of
                };
                let mut secure = web("secure");
                let secret = json!([{ "name": "site", "sds_config": ads() }]);
                secure["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": {
                    "@type": TLS,
                    "common_tls_context": { "tls_certificate_sds_secret_configs": secret, "alpn_protocols": ["h2", "http/1.1"] },
                } });
                let mut tcp = json!({ "name": "tcp", "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } });
                let idle = ["900s", "901s"][turn];
                tcp["filter_chains"] = json!([{ "filters": [{ "name": "tcp", "typed_config": { "@type": TCP, "stat_prefix": "tcp", "cluster": "db", "idle_timeout": idle } }] }]);
                let mut all = json!({ "web": web("web"), "secure": secure, "tcp": tcp });
                if turn == 1 {
                    all["more"] = web("more");
                }
                all
            }
        };
        let version = format!("{kind}-{}", self.round);
        self.plane.set(kind, &version, resources);
    }

    /// Changes one type after the other until the load is over; returns how many changes there were.
    fn change_while(&mut self, load: &mut Child) -> u64 {
        let before = self.round;
        while load.try_wait().unwrap().is_none() {
            std::thread::sleep(PACE);
            self.round += 1;
            let kinds = ["cds", "eds", "lds", "rds", "sds"];
            let kind = kinds[usize::try_from(self.round % 5).unwrap()];
            self.set(kind);
        }
        self.round - before
    }
}

#[test]
fn h2load_loses_no_request_while_everything_changes() {
    if !tools::have(&["h2load"]) {
        return;
    }
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    for form in FORMS {
        let Some(mut world) = World::start([a.addr(), b.addr()], None) else { return };
        let mut envoy = Envoy::start(&over_ads(world.plane.addr, form));
        envoy.until_ready();
        for (listener, scheme, flag) in [
            ("web", "http", "--h1"),
            ("web", "http", "--no-tls-proto=h2c"),
            // Over TLS it is HTTP/2 of itself.
            ("secure", "https", "--no-tls-proto=h2c"),
        ] {
            let mut load = tools::command("h2load");
            load.args(["-c", "8", "-m", "4", "-D", &seconds().to_string(), flag]);
            load.arg(format!("{scheme}://{}/", envoy.addr(listener)));
            let mut load = load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let changes = world.change_while(&mut load);
            let mut text = String::new();
            load.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            // What is under way when the time is over is not waited for.
            let failed = text.contains("0 failed, 0 errored, 0 timeout");
            let log = envoy.log();
            assert!(
                failed && text.contains(" 0 3xx, 0 4xx, 0 5xx"),
                "{form} {flag}: {text}\n{log}"
            );
            assert!(!text.contains(" 0 2xx"), "{form} {flag}: {text}");
            assert!(changes > 3, "{changes} changes");
        }
        // Every change has arrived, and none was refused.
        let kinds = ["cds", "eds", "lds", "rds", "sds"];
        for kind in kinds {
            let accepted = format!("type=\"{kind}\",result=\"accepted\"");
            let seen = || envoy.metric("sluice_xds_responses_total", &accepted);
            wait::until("responses", || (seen() >= 3).then_some(()));
        }
        let rejected = envoy.metric("sluice_xds_responses_total", "result=\"rejected\"");
        assert_eq!(rejected, 0, "{}", envoy.log());
    }
}

#[test]
fn pgbench_loses_no_transaction_while_everything_changes() {
    if !Postgres::is_there() || !tools::have(&["pgbench"]) {
        return;
    }
    let servers = [Postgres::primary(), Postgres::primary()];
    for server in &servers {
        let port = server.addr().port().to_string();
        let mut fill = tools::command("pgbench");
        fill.args(["-i", "-q", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "postgres"]);
        tools::must(&mut fill);
    }
    let a = Origin::start("a");
    let tcp = servers.each_ref().map(Postgres::addr);
    let Some(mut world) = World::start([a.addr(); 2], Some(tcp)) else { return };
    let mut envoy = Envoy::start(&over_ads(world.plane.addr, "DELTA_GRPC"));
    envoy.until_ready();
    let port = envoy.addr("tcp").port().to_string();
    // The clients of one run keep their connections; those of the other make one for each transaction.
    for connections in [&[][..], &["-C"]] {
        let mut load = tools::command("pgbench");
        load.args(["-n", "-c", "4", "-T", &seconds().to_string(), "-h", "127.0.0.1", "-p"]);
        load.args([&port, "-U", "postgres"]).args(connections).arg("postgres");
        let mut load = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let changes = world.change_while(&mut load);
        let output = load.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let none = "number of failed transactions: 0 (0.000%)";
        assert!(output.status.success() && text.contains(none), "{text}\n{}", envoy.log());
        assert!(changes > 3, "{changes} changes");
    }
}

/// Requests one after the other until `stop`; returns what was not 200.
fn requests(addr: SocketAddr, stop: &AtomicBool) -> Vec<String> {
    let (mut kept, mut lost) = (Client::connect(addr), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        for answer in [kept.get("h", "/"), origin::get(addr, "h", "/")] {
            if answer.status() != 200 {
                lost.push(format!("{} {}", answer.status(), answer.text()));
            }
        }
    }
    lost
}

#[test]
fn a_stream_that_is_cut_again_and_again_still_brings_what_is_new() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        plane.set_all("0", to("one"), &[("one", a.addr())]);
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        let (addr, stop) = (envoy.addr("web"), AtomicBool::new(false));
        let lost = std::thread::scope(|scope| {
            let load = scope.spawn(|| requests(addr, &stop));
            // Once a second, or more often in a short run.
            let cuts = if seconds() < 10 { 3 * seconds() } else { seconds() };
            for cut in 1..=cuts {
                let (name, at) = if cut % 2 == 0 { ("a", a.addr()) } else { ("b", b.addr()) };
                let opened = plane.opened();
                plane.say(&json!({ "cut": true }));
                // While there is no stream, or just as it opens.
                plane.set("eds", &cut.to_string(), json!({ "one": assignment("one", &[at]) }));
                envoy.until_served("/", &format!("200 {name}"));
                wait::until("a new stream", || (plane.opened() > opened).then_some(()));
                let beat = Duration::from_secs(1).min(Duration::from_millis(100 * seconds()));
                std::thread::sleep(beat);
            }
            stop.store(true, Ordering::Relaxed);
            load.join().unwrap()
        });
        assert_eq!(lost, Vec::<String>::new());
        assert_eq!(envoy.metric("sluice_xds_connected", "source=\"plane\""), 1);
        assert!(envoy.metric("sluice_xds_streams_total", "result=\"closed\"") >= 3);
    }
}

#[test]
fn a_plane_that_lies_is_told_so_and_changes_nothing() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        plane.set_all("1", to("one"), &[("one", a.addr()), ("two", b.addr())]);
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        let url = |kind: &str| format!("type.googleapis.com/envoy.config.{kind}");
        let (clusters, endpoints) =
            (url("cluster.v3.Cluster"), url("endpoint.v3.ClusterLoadAssignment"));
        let of = |name: &str, kind: &str, resource: Value| json!({ "name": name, "type_url": kind, "resource": resource });
        let elsewhere = || of("one", &endpoints, assignment("one", &[b.addr()]));
        let lies = [
            // Of another type than the response says, and than was asked for.
            ("eds", json!([of("one", &clusters, cluster("one"))]), "it is of the type"),
            (
                "cds",
                json!([
                    of("one", &clusters, cluster("one")),
                    of("two", &endpoints, assignment("two", &[a.addr()]))
                ]),
                "it is of the type",
            ),
            // Twice in one response: neither is used.
            ("eds", json!([elsewhere(), elsewhere()]), "two resources of this name"),
            // No message at all.
            (
                "eds",
                json!([of("one", &endpoints, json!({ "hex": "ffffffff" }))]),
                "cannot be decoded",
            ),
        ];
        for (number, (kind, resources, why)) in lies.into_iter().enumerate() {
            let nonce = format!("lie-{number}");
            plane.say(&json!({ "say": kind, "nonce": nonce, "resources": resources }));
            let told = plane.request("a rejection of this response", |of| of["nonce"] == *nonce);
            assert!(told["error"].as_str().unwrap_or_default().contains(why), "{form} {told}");
        }
        if form == "DELTA_GRPC" {
            // Under the name of another one; removals of what nobody has; a nonce that was used before, and none.
            let other = json!([of("one", &endpoints, assignment("two", &[b.addr()]))]);
            plane.say(&json!({ "say": "eds", "nonce": "other", "resources": other }));
            let told = plane.request("a rejection", |of| of["nonce"] == "other");
            assert!(told["error"].as_str().unwrap().contains("its own name is `two`"), "{told}");
            for nonce in ["other", "", "other"] {
                plane.say(
                    &json!({ "say": "cds", "nonce": nonce, "removed": ["nobody", "x\u{0}y"] }),
                );
            }
            plane.request("an answer to an old nonce", |of| {
                of["type"] == "cds" && of["nonce"] == "other" && of["error"].is_null()
            });
        }
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        for name in ["one", "two"] {
            let items = envoy.xds();
            let is_there = |of: &Value| {
                of["kind"] == "cluster" && of["name"] == name && of["version"].is_string()
            };
            assert!(items.iter().any(is_there), "{form} {name} {items:#?}");
        }
        // The truth is taken again on the same stream.
        plane.set(
            "eds",
            "9",
            json!({ "one": assignment("one", &[b.addr()]), "two": assignment("two", &[a.addr()]) }),
        );
        envoy.until_served("/", "200 b");
        assert_eq!(plane.opened(), 1);
    }
}

#[test]
fn a_slow_plane_holds_up_what_is_new_and_loses_no_request() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        plane.say(&json!({ "slow": 0.3 }));
        plane.set_all("1", to("one"), &[("one", a.addr())]);
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        envoy.until_served("/", "200 a");
        let (addr, stop) = (envoy.addr("web"), AtomicBool::new(false));
        let lost = std::thread::scope(|scope| {
            let load = scope.spawn(|| requests(addr, &stop));
            // The routes come before the endpoints of what they name, and a new version before the last one is there.
            for round in 0..3 {
                let (name, at) = [("two", b.addr()), ("one", a.addr())][round % 2];
                let version = format!("{}", round + 2);
                let both = [("one", a.addr()), ("two", b.addr())];
                let clusters = both.map(|(name, _)| (name.to_owned(), cluster(name)));
                let assignments = both.map(|(name, at)| (name.to_owned(), assignment(name, &[at])));
                plane.set("cds", &version, clusters.into_iter().collect());
                plane.set("eds", &version, assignments.into_iter().collect());
                plane.set("rds", &version, json!({ "main": table("main", to("one")) }));
                envoy.until("cluster", name, "active");
                plane.set(
                    "rds",
                    &format!("{version}.1"),
                    json!({ "main": table("main", to(name)) }),
                );
                let whose = if at == a.addr() { "a" } else { "b" };
                envoy.until_served("/", &format!("200 {whose}"));
            }
            stop.store(true, Ordering::Relaxed);
            load.join().unwrap()
        });
        assert_eq!(lost, Vec::<String>::new());
        assert_eq!(plane.opened(), 1);
    }
}
