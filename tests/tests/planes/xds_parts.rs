//! Control planes: secrets, settings of filters and runtime values that come on their own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use sluice_testkit::certificates::Authority;
use sluice_testkit::origin::{self, Message};
use sluice_testkit::tls::{self, ClientStream, Offer};
use sluice_testkit::{Origin, http, tools, wait};
use sluice_tests::planes::{
    Envoy, FORMS, Plane, ads, assignment, bootstrap, cluster, listener, origin_of, over_ads, table,
    to,
};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// A secret with the certificate and the key of these files, without their extensions.
fn certificate(name: &str, cert: &Path, key: &Path) -> Value {
    let (cert, key) = (read(&cert.with_extension("pem")), read(&key.with_extension("key")));
    json!({ "name": name, "tls_certificate": {
        "certificate_chain": { "inline_string": cert }, "private_key": { "inline_string": key },
    } })
}

fn authority(name: &str, ca: &str) -> Value {
    json!({ "name": name, "validation_context": { "trusted_ca": { "inline_string": ca } } })
}

/// A socket that speaks TLS with the secrets of this context.
fn speaks(kind: &str, context: Value) -> Value {
    let mut config = context;
    config["@type"] = format!("{TLS}.{kind}").into();
    json!({ "name": "tls", "typed_config": config })
}

fn named(name: &str, source: &Value) -> Value {
    json!({ "name": name, "sds_config": source })
}

fn soon() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.2s" })
}

/// A listener with a chain for each name, whose certificate is the secret of that name.
fn tls_listener(names: &[&str], source: &Value) -> Value {
    let mut found = listener("web", "main");
    let chain = found["filter_chains"][0].clone();
    let chains = names.iter().map(|name| {
        let mut chain = chain.clone();
        chain["filter_chain_match"] = json!({ "server_names": [name] });
        let secrets = json!([named(name, source)]);
        chain["transport_socket"] = speaks(
            "DownstreamTlsContext",
            json!({ "common_tls_context": { "tls_certificate_sds_secret_configs": secrets } }),
        );
        chain
    });
    found["filter_chains"] = chains.collect();
    found
}

/// A connection over TLS to a name; `None` unless the handshake succeeds.
struct TlsClient {
    stream: BufReader<ClientStream>,
}

impl TlsClient {
    fn connect(addr: SocketAddr, name: &str, ca: &Path) -> Option<Self> {
        let mut stream = Offer::of(name, ca).connect(addr);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).ok()?;
        }
        Some(Self { stream: BufReader::new(stream) })
    }

    /// The certificate that was presented.
    fn presented(&self) -> Vec<u8> {
        self.stream.get_ref().conn.peer_certificates().unwrap()[0].to_vec()
    }

    fn get(&mut self, host: &str) -> std::io::Result<Message> {
        write!(self.stream.get_mut(), "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        origin::read_message(&mut self.stream, false)
    }
}

/// Asserts that neither the log, nor the pages, nor what the plane was told have a line of these secrets.
fn shown_nowhere(envoy: &Envoy, plane: &Plane, secrets: &[String]) {
    let mut shown = format!("{}{:?}", envoy.log(), plane.told.lock().unwrap());
    for page in [
        "/xds?format=json",
        "/config",
        "/config_dump?include_eds",
        "/certs",
        "/stats",
        "/server_info",
    ] {
        shown += &http::get(envoy.admin(), page).unwrap().1;
    }
    for line in secrets.iter().flat_map(|text| text.lines()).filter(|line| line.len() > 20) {
        assert!(line.starts_with("-----") || !shown.contains(line), "{line}\n{shown}");
    }
}

#[test]
fn certificates_are_rotated_under_load_and_a_wrong_one_is_refused() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let file = |name: &str| folder.path().join(name);
        let ca = file("ca.pem");
        for name in ["one", "two"] {
            authority.issue(name, &["site.test"]);
        }
        let a = Origin::start("a");
        plane.set_all("1", to("app"), &[("app", a.addr())]);
        plane.set("lds", "1", json!({ "web": tls_listener(&["site.test"], &ads()) }));
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        // Without its secret, the listener waits, and so does everything else.
        let waits = envoy.until("listener", "web", "warming");
        assert!(waits["waits_for"].to_string().contains("secret `site.test`"), "{waits}");
        assert!(!envoy.is_ready());
        let secret = |cert: &str, key: &str| json!({ "site.test": certificate("site.test", &file(cert), &file(key)) });
        plane.set("sds", "1", secret("one", "one"));
        envoy.until_ready();
        let addr = envoy.addr("web");
        let mut kept = TlsClient::connect(addr, "site.test", &ca).unwrap();
        let first = kept.presented();
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let traffic = {
            let (stop, done, ca) = (Arc::clone(&stop), Arc::clone(&done), ca.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(kept.get("site.test").unwrap().status(), 200);
                    let mut new = TlsClient::connect(addr, "site.test", &ca).unwrap();
                    assert_eq!(new.get("site.test").unwrap().status(), 200);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let presented = || TlsClient::connect(addr, "site.test", &ca).unwrap().presented();
        for round in 2..6 {
            let before = (presented(), done.load(Ordering::Relaxed));
            let name = if round % 2 == 0 { "two" } else { "one" };
            plane.set("sds", &round.to_string(), secret(name, name));
            wait::until("the other certificate", || (presented() != before.0).then_some(()));
            wait::until("traffic", || (done.load(Ordering::Relaxed) > before.1 + 2).then_some(()));
        }
        assert_eq!(presented(), first);
        // The key of another certificate, and no key at all.
        for (round, key) in [(7, read(&file("two.key"))), (8, "no key".to_owned())] {
            let mut wrong = secret("one", "one");
            wrong["site.test"]["tls_certificate"]["private_key"]["inline_string"] = key.into();
            let before =
                envoy.metric("sluice_xds_responses_total", "type=\"sds\",result=\"rejected\"");
            plane.set("sds", &round.to_string(), wrong);
            wait::until("a rejection", || {
                let now =
                    envoy.metric("sluice_xds_responses_total", "type=\"sds\",result=\"rejected\"");
                (now > before).then_some(())
            });
            let error = plane.error("sds");
            assert!(error.starts_with("secret `site.test`: tls_certificate"), "{error}");
            let refused = envoy.until("secret", "site.test", "rejected");
            assert!(refused["rejected"]["why"].as_str().unwrap().len() > 10, "{refused}");
            assert_eq!(presented(), first);
        }
        plane.set("sds", "9", secret("two", "two"));
        envoy.until("secret", "site.test", "active");
        assert_ne!(presented(), first);
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
        shown_nowhere(&envoy, &plane, &[read(&file("one.key")), read(&file("two.key"))]);
    }
}

#[test]
fn a_chain_whose_secret_does_not_come_serves_nobody_and_the_others_do() {
    let Some(mut plane) = Plane::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (ca, file) = (folder.path().join("ca.pem"), |name: &str| folder.path().join(name));
    for name in ["here", "late"] {
        authority.issue(name, &[&format!("{name}.test")]);
    }
    let a = Origin::start("a");
    let secret = |name: &str| {
        let files = file(name.strip_suffix(".test").unwrap());
        certificate(name, &files, &files)
    };
    plane.set_all("1", to("app"), &[("app", a.addr())]);
    plane.set("lds", "1", json!({ "web": tls_listener(&["here.test", "late.test"], &soon()) }));
    plane.set("sds", "1", json!({ "here.test": secret("here.test") }));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "GRPC"));
    envoy.until_ready();
    let addr = envoy.addr("web");
    // Its secret, too, may come after its time.
    let mut here = wait::until("the other chain", || TlsClient::connect(addr, "here.test", &ca));
    assert_eq!(here.get("here.test").unwrap().status(), 200);
    assert!(TlsClient::connect(addr, "late.test", &ca).is_none());
    assert!(TlsClient::connect(addr, "late.test", &ca).is_none());
    plane.set(
        "sds",
        "2",
        json!({ "here.test": secret("here.test"), "late.test": secret("late.test") }),
    );
    wait::until("the chain to serve", || {
        let mut late = TlsClient::connect(addr, "late.test", &ca)?;
        (late.get("late.test").unwrap().status() == 200).then_some(())
    });
    assert_eq!(here.get("here.test").unwrap().status(), 200, "its connection has stayed");
    // A secret of another kind is the mistake of the secret.
    let other =
        json!({ "name": "late.test", "generic_secret": { "secret": { "inline_string": "x" } } });
    plane.set("sds", "3", json!({ "here.test": secret("here.test"), "late.test": other }));
    let error = plane.error("sds");
    assert!(
        error.starts_with("secret `late.test`: the secret has no `tls_certificate`"),
        "{error}"
    );
    assert!(TlsClient::connect(addr, "late.test", &ca).is_some());
}

#[test]
fn clusters_get_secrets_over_a_unix_socket_of_an_agent() {
    for form in FORMS {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let Some(mut plane) = Plane::with_socket(&socket) else { return };
        let own = Authority::new(folder.path());
        let other = Authority::named(folder.path(), "other");
        own.issue("origin", &["origin.test"]);
        other.issue("else", &["else.test"]);
        let origin = tls::server(&folder.path().join("origin"), &[], |mut stream| {
            let mut reader = BufReader::new(&mut stream);
            origin::read_message(&mut reader, false)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-origin: tls\r\nconnection: close\r\n\r\n")
        });
        let agent = json!({ "api_config_source": { "api_type": form, "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": "agent" } }] }, "resource_api_version": "V3", "initial_fetch_timeout": "0.2s" });
        let mut app = cluster("app");
        app["transport_socket"] = speaks(
            "UpstreamTlsContext",
            json!({ "sni": "origin.test", "common_tls_context": {
                "tls_certificate_sds_secret_configs": [named("identity", &agent)],
                "combined_validation_context": {
                    "default_validation_context": { "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "origin.test" } }] },
                    "validation_context_sds_secret_config": named("roots", &agent),
                },
            } }),
        );
        plane.set("cds", "1", json!({ "app": app }));
        plane.set("eds", "1", json!({ "app": assignment("app", &[origin.addr()]) }));
        plane.set("lds", "1", json!({ "web": listener("web", "main") }));
        plane.set("rds", "1", json!({ "main": table("main", to("app")) }));
        let file = bootstrap(plane.addr, &over_ads_only(form));
        let file = format!(
            "{file}  - {}\n",
            json!({ "name": "agent", "type": "STATIC", "connect_timeout": "5s",
                "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} } } },
                "load_assignment": { "cluster_name": "agent", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": socket } } } }] }] } })
        );
        let mut envoy = Envoy::start(&file);
        // The listener does not wait for the cluster for ever, and the cluster is not used without its secrets.
        envoy.until_ready();
        let waits = envoy.until("cluster", "app", "warming");
        assert!(waits["waits_for"].to_string().contains("secret `roots`"), "{waits}");
        let web = envoy.addr("web");
        assert_eq!(origin_of(web, "/"), "503 ");
        let identity =
            certificate("identity", &folder.path().join("else"), &folder.path().join("else"));
        let roots = |ca: &str| json!({ "identity": identity, "roots": authority("roots", ca) });
        let (good, bad) =
            (read(&folder.path().join("ca.pem")), read(&folder.path().join("other.pem")));
        plane.set("sds", "1", roots(&good));
        envoy.until_served("/", "200 tls");
        plane.set("sds", "2", roots(&bad));
        envoy.until_served("/", "503 ");
        plane.set("sds", "3", roots(&good));
        envoy.until_served("/", "200 tls");
        plane.set("sds", "4", roots("-----BEGIN NOTHING-----"));
        let error = plane.error("sds");
        assert!(error.starts_with("secret `roots`: validation_context.trusted_ca"), "{error}");
        assert_eq!(origin_of(web, "/"), "200 tls");
        let streams = envoy.xds().into_iter().filter(|of| of["kind"] == "stream");
        assert_eq!(streams.map(|of| of["name"].clone()).collect::<Vec<_>>(), ["agent"]);
        shown_nowhere(&envoy, &plane, &[read(&folder.path().join("else.key"))]);
    }
}

/// What `over_ads` asks for, without the rest of the file.
fn over_ads_only(form: &str) -> String {
    format!(
        r"
  ads_config: {{ api_type: {form}, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: plane }} }}] }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}"
    )
}

/// Settings of a filter that adds a header to responses.
fn adds(name: &str, value: &str) -> Value {
    json!({ "name": name, "typed_config": mutation(value) })
}

fn mutation(value: &str) -> Value {
    json!({ "@type": format!("{HTTP}.header_mutation.v3.HeaderMutation"), "mutations": {
        "response_mutations": [{ "append": { "header": { "key": "x-set", "value": value } } }] } })
}

/// A listener with a filter whose settings come on their own.
fn with_discovered(name: &str, filter: &str, discovery: Value) -> Value {
    let mut config = discovery;
    config["type_urls"] = json!([format!("{HTTP}.header_mutation.v3.HeaderMutation")]);
    let mut found = listener(name, "main");
    let manager = &mut found["filter_chains"][0]["filters"][0]["typed_config"];
    let filters = manager["http_filters"].as_array_mut().unwrap();
    filters.insert(0, json!({ "name": filter, "config_discovery": config }));
    found
}

fn set_by(addr: SocketAddr) -> Option<String> {
    let mut client = origin::Client::connect(addr);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    Some(client.try_read().ok()?.value("x-set").to_owned())
}

#[test]
fn settings_of_filters_come_on_their_own() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let a = Origin::start("a");
        plane.set_all("1", to("app"), &[("app", a.addr())]);
        let defaults = json!({ "config_source": ads(), "default_config": mutation("default"), "apply_default_config_without_warming": true });
        plane.set(
            "lds",
            "2",
            json!({
                "web": with_discovered("web", "add", json!({ "config_source": soon() })),
                "other": with_discovered("other", "unsent", defaults),
            }),
        );
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        // Without settings, nobody is served, as in the default ones somebody is.
        let (web, other) = (envoy.addr("web"), envoy.addr("other"));
        assert_eq!(set_by(web), None);
        assert_eq!(set_by(other).as_deref(), Some("default"));
        let sees = |value: &str| {
            wait::until("other settings", || (set_by(web).as_deref() == Some(value)).then_some(()));
        };
        plane.set("ecds", "1", json!({ "add": adds("add", "one") }));
        sees("one");
        plane.set(
            "ecds",
            "2",
            json!({ "add": adds("add", "two"), "unsent": adds("unsent", "three") }),
        );
        sees("two");
        wait::until("no default", || (set_by(other).as_deref() == Some("three")).then_some(()));
        let router = json!({ "name": "add", "typed_config": { "@type": format!("{HTTP}.router.v3.Router") } });
        plane.set("ecds", "3", json!({ "add": router, "unsent": adds("unsent", "three") }));
        let error = plane.error("ecds");
        assert!(
            error.starts_with("extension `add`: typed_config: the settings are of the type envoy.extensions.filters.http.router.v3.Router"),
            "{error}"
        );
        assert_eq!(set_by(web).as_deref(), Some("two"));
        envoy.until("extension", "add", "rejected");
        let names = plane.request("settings to be asked for", |of| of["type"] == "ecds");
        let asked = names["names"].to_string() + &names["subscribe"].to_string();
        assert!(form == "DELTA_GRPC" || asked.contains("unsent"), "{names}");
    }
}

#[test]
fn runtime_values_come_before_anything_else_and_follow_the_plane() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let routes = json!([
            { "match": { "prefix": "/", "runtime_fraction": { "runtime_key": "to.one", "default_value": { "numerator": 0 } } }, "route": { "cluster": "one" } },
            { "match": { "prefix": "/" }, "route": { "cluster": "two" } },
        ]);
        plane.set_all("1", routes, &[("one", a.addr()), ("two", b.addr())]);
        plane.set(
            "rtds",
            "1",
            json!({ "switches": { "name": "switches", "layer": { "to": { "one": 100 } } } }),
        );
        let layers = json!([
            { "name": "file", "static_layer": { "to.one": 0 } },
            { "name": "plane", "rtds_layer": { "name": "switches", "rtds_config": ads() } },
            { "name": "admin", "admin_layer": {} },
        ]);
        let file = over_ads(plane.addr, form);
        let mut envoy =
            Envoy::start(&format!("{file}layered_runtime: {}\n", json!({ "layers": layers })));
        envoy.until_ready();
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        let kinds: Vec<Value> = {
            let told = plane.told.lock().unwrap();
            told.iter()
                .map(|line| line["request"]["type"].clone())
                .filter(|of| of.is_string())
                .collect()
        };
        assert_eq!(kinds[0], "rtds", "{kinds:?}");
        plane.set(
            "rtds",
            "2",
            json!({ "switches": { "name": "switches", "layer": { "to.one": 0 } } }),
        );
        envoy.until_served("/", "200 b");
        envoy.until("runtime", "switches", "active");
        let wrong = json!({ "to": { "one": { "numerator": 5, "denominator": "TEN_THOUSAND" } } });
        plane.set("rtds", "3", json!({ "switches": { "name": "switches", "layer": wrong } }));
        let error = plane.error("rtds");
        assert!(
            error.contains("runtime `switches`: ") && error.contains("must be a number"),
            "{error}"
        );
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 b");
        let (_, page) = http::get(envoy.admin(), "/sluice/runtime?format=json").unwrap();
        assert!(page.contains("control_plane"), "{page}");
    }
}

#[test]
fn layers_that_could_not_win_are_refused() {
    let nowhere: SocketAddr = ([127, 0, 0, 1], tools::free_port()).into();
    let layers = json!([
        { "name": "plane", "rtds_layer": { "rtds_config": ads() } },
        { "name": "file", "static_layer": { "a": 0 } },
    ]);
    let file = over_ads(nowhere, "GRPC");
    let mut envoy =
        Envoy::start(&format!("{file}layered_runtime: {}\n", json!({ "layers": layers })));
    wait::until("the end", || envoy.child.try_wait().unwrap());
    assert!(envoy.log().contains("write the static layers first"), "{}", envoy.log());
}
