//! Scopes of route tables (SRDS).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, http, wait};
use sluice_tests::planes::{
    Envoy, FORMS, Plane, ads, assignment, bootstrap, cluster, listener, over_ads, own_stream,
    table, to, with_on_demand,
};

/// A listener whose scopes come from `scopes`, and their routes from `routes`. The key is the header `x-tenant`.
fn scoped(scopes: Value, routes: Value) -> Value {
    let mut listener = listener("web", "main");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().unwrap().remove("rds");
    manager["scoped_routes"] = json!({
        "name": "tenants",
        "scope_key_builder": { "fragments": [{ "header_value_extractor": { "name": "x-tenant", "index": 0 } }] },
        "rds_config_source": routes,
        "scoped_rds": { "scoped_rds_config_source": scopes },
    });
    listener
}

fn scope(name: &str, key: &str, routes: &str) -> Value {
    json!({ "name": name, "key": { "fragments": [{ "string_key": key }] }, "route_configuration_name": routes })
}

/// These scopes by name: name, key, routes.
fn scopes(all: &[(&str, &str, &str)]) -> Value {
    all.iter().map(|(name, key, routes)| ((*name).to_owned(), scope(name, key, routes))).collect()
}

/// Tables that each route to the cluster of their name.
fn tables(names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), table(name, to(name)))).collect()
}

/// A plane with clusters.
fn plane_with(listener: Value, clusters: &[(&str, SocketAddr)]) -> Option<Plane> {
    let mut plane = Plane::start()?;
    let all = clusters.iter().map(|(name, _)| ((*name).to_owned(), cluster(name)));
    plane.set("cds", "1", all.collect());
    let all = clusters.iter().map(|(name, at)| ((*name).to_owned(), assignment(name, &[*at])));
    plane.set("eds", "1", all.collect());
    plane.set("lds", "1", json!({ "web": listener }));
    Some(plane)
}

/// The status of a response for a tenant, and whose it is.
fn ask(client: &mut Client, tenant: &str) -> String {
    client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX-Tenant: {tenant}\r\n\r\n"));
    let answer = client.read();
    format!("{} {}", answer.status(), answer.value("x-origin"))
}

fn ask_once(addr: SocketAddr, tenant: &str) -> String {
    ask(&mut Client::connect(addr), tenant)
}

fn until(envoy: &Envoy, tenant: &str, wanted: &str) {
    let addr = envoy.addr("web");
    let seen = wait::within(wait::PATIENCE, || (ask_once(addr, tenant) == wanted).then_some(()));
    assert!(
        seen.is_some(),
        "{tenant}: {} is not {wanted}\n{:#?}\n{}",
        ask_once(addr, tenant),
        envoy.xds(),
        envoy.log()
    );
}

/// The scoped routes on the page of Envoy.
fn dumped(envoy: &Envoy) -> Value {
    let path = "/config_dump?resource=dynamic_scoped_route_configs";
    let (_, page) = http::get(envoy.admin(), path).unwrap();
    serde_json::from_str::<Value>(&page).unwrap()["configs"][0].clone()
}

#[test]
fn scopes_come_move_and_go_without_a_lost_request() {
    for form in FORMS {
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let clusters = [("one", a.addr()), ("two", b.addr())];
        let Some(mut plane) = plane_with(scoped(ads(), ads()), &clusters) else { return };
        plane.set("srds", "1", scopes(&[("s-blue", "blue", "one"), ("s-stay", "stay", "one")]));
        plane.set("rds", "1", tables(&["one"]));
        let mut envoy = Envoy::start(&over_ads(plane.addr, form));
        envoy.until_ready();
        until(&envoy, "blue", "200 a");
        let addr = envoy.addr("web");
        let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            // Connections of before see what has changed.
            let clients: Vec<_> = (0..2)
                .map(|_| {
                    threads.spawn(|| {
                        let mut client = Client::connect(addr);
                        while !over.load(Relaxed) {
                            assert_eq!(ask(&mut client, "stay"), "200 a");
                            let blue = ask(&mut client, "blue");
                            assert!(["200 a", "200 b"].contains(&&*blue), "{blue}");
                            asked.fetch_add(1, Relaxed);
                        }
                    })
                })
                .collect();
            // One comes with a table of its own, which comes later; one moves to it.
            let some =
                [("s-blue", "blue", "two"), ("s-green", "green", "two"), ("s-stay", "stay", "one")];
            plane.set("srds", "2", scopes(&some));
            plane.set("rds", "2", tables(&["one", "two"]));
            until(&envoy, "green", "200 b");
            until(&envoy, "blue", "200 b");
            // One leaves; another takes its key.
            let some =
                [("s-blue", "blue", "two"), ("s-other", "green", "one"), ("s-stay", "stay", "one")];
            plane.set("srds", "3", scopes(&some));
            until(&envoy, "green", "200 a");
            let some = [("s-blue", "blue", "two"), ("s-stay", "stay", "one")];
            plane.set("srds", "4", scopes(&some));
            until(&envoy, "green", "404 ");
            // The table of a scope changes.
            let changed = json!({ "one": table("one", to("one")), "two": table("two", to("one")) });
            plane.set("rds", "3", changed);
            until(&envoy, "blue", "200 a");
            let before = asked.load(Relaxed);
            wait::until("more requests", || (asked.load(Relaxed) > before + 10).then_some(()));
            over.store(true, Relaxed);
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        let dump = dumped(&envoy);
        assert_eq!(dump["name"], "tenants", "{dump}");
        let names = dump["scoped_route_configs"].as_array().unwrap().iter();
        let names: Vec<&str> = names.map(|of| of["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["s-blue", "s-stay"], "{form}: {dump}");
    }
}

#[test]
fn scopes_come_over_streams_of_their_own_and_from_files() {
    let a = Origin::start("a");
    let clusters = [("one", a.addr())];
    let listener = scoped(own_stream(), own_stream());
    let Some(mut plane) = plane_with(listener, &clusters) else { return };
    plane.set("srds", "1", scopes(&[("s", "blue", "one")]));
    plane.set("rds", "1", tables(&["one"]));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "GRPC"));
    envoy.until_ready();
    until(&envoy, "blue", "200 a");
    until(&envoy, "green", "404 ");
    // The same of files.
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |name: &str, kind: &str, resources: &[Value]| {
        let url = format!("type.googleapis.com/envoy.config.{kind}");
        let typed = resources.iter().map(|of| {
            let mut of = of.clone();
            of["@type"] = url.clone().into();
            of
        });
        let response = json!({ "version_info": "1", "resources": typed.collect::<Vec<_>>() });
        let new = file("new");
        std::fs::write(&new, response.to_string()).unwrap();
        std::fs::rename(&new, file(name)).unwrap();
    };
    write("srds.json", "route.v3.ScopedRouteConfiguration", &[scope("s", "blue", "one")]);
    write("rds.json", "route.v3.RouteConfiguration", &[table("one", to("one"))]);
    let at = |name: &str| json!({ "path": file(name) });
    let of_files = scoped(at("srds.json"), at("rds.json"));
    plane.set("lds", "1", json!({ "web": of_files }));
    plane.settle();
    let mut second = Envoy::start(&over_ads(plane.addr, "GRPC"));
    second.until_ready();
    until(&second, "blue", "200 a");
    let both = [scope("s", "red", "one"), scope("t", "green", "one")];
    write("srds.json", "route.v3.ScopedRouteConfiguration", &both);
    until(&second, "green", "200 a");
    until(&second, "blue", "404 ");
    until(&second, "red", "200 a");
}

#[test]
fn a_scope_that_is_wrong_leaves_the_others() {
    let a = Origin::start("a");
    let clusters = [("one", a.addr())];
    let Some(mut plane) = plane_with(scoped(ads(), ads()), &clusters) else { return };
    plane.set("srds", "1", scopes(&[("s-a", "blue", "one"), ("s-b", "blue", "one")]));
    plane.set("rds", "1", tables(&["one"]));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
    envoy.until_ready();
    until(&envoy, "blue", "200 a");
    let error = plane.error("srds");
    assert!(error.contains("s-b") && error.contains("`s-a` has the same key"), "{error}");
    envoy.until("scope", "s-b", "rejected");
    // It is put right; others are garbage, or have no key.
    let mut all = scopes(&[("s-a", "blue", "one"), ("s-b", "green", "one")]);
    all["s-c"] = json!({ "hex": "ffffff" });
    all["s-d"] = json!({ "name": "s-d", "route_configuration_name": "one" });
    plane.set("srds", "2", all);
    until(&envoy, "green", "200 a");
    until(&envoy, "blue", "200 a");
    let error = plane.request("a rejection", |of| {
        of["type"] == "srds" && of["error"].as_str().is_some_and(|error| error.contains("s-d"))
    });
    assert!(error["error"].as_str().unwrap().contains("s-c"), "{error}");
    // Another listener wants them from elsewhere.
    let mut other = scoped(own_stream(), ads());
    other["name"] = "other".into();
    plane.set("lds", "2", json!({ "web": scoped(ads(), ads()), "other": other }));
    let error = plane.error("lds");
    assert!(error.contains("scopes come from elsewhere already"), "{error}");
    until(&envoy, "green", "200 a");
}

#[test]
fn routes_of_scopes_come_on_demand() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let clusters = [("one", a.addr()), ("two", b.addr())];
    let listener = with_on_demand(scoped(ads(), ads()), json!({}));
    let Some(mut plane) = plane_with(listener, &clusters) else { return };
    let on_demand = |name: &str, key: &str, routes: &str| {
        let mut scope = scope(name, key, routes);
        scope["on_demand"] = true.into();
        scope
    };
    let all = json!({ "s": scope("s", "blue", "one"), "t": on_demand("t", "green", "two"), "u": on_demand("u", "red", "three") });
    plane.set("srds", "1", all);
    plane.set("rds", "1", tables(&["one"]));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
    envoy.until_ready();
    until(&envoy, "blue", "200 a");
    let asks = |plane: &Plane, name: &str| {
        let told = plane.told.lock().unwrap();
        told.iter().any(|line| {
            let names = line["request"]["subscribe"].as_array();
            line["request"]["type"] == "rds"
                && names.is_some_and(|names| names.iter().any(|of| of == name))
        })
    };
    assert!(!asks(&plane, "two"), "its routes are asked for without a request");
    // There is no such scope.
    assert_eq!(ask_once(envoy.addr("web"), "nobody"), "404 ");
    std::thread::scope(|threads| {
        let addr = envoy.addr("web");
        let clients: Vec<_> =
            (0..3).map(|_| threads.spawn(move || ask_once(addr, "green"))).collect();
        plane.request("the routes of a scope", |of| {
            of["type"] == "rds" && of["subscribe"] == json!(["two"])
        });
        plane.set("rds", "2", tables(&["one", "two"]));
        for client in clients {
            assert_eq!(client.join().unwrap(), "200 b", "{}", envoy.log());
        }
    });
    // A new version of the scope keeps its routes.
    let all = json!({ "s": scope("s", "blue", "one"), "t": on_demand("t", "green", "two"), "u": on_demand("u", "red", "three"), "v": on_demand("v", "late", "two") });
    plane.set("srds", "2", all);
    assert_eq!(ask_once(envoy.addr("web"), "green"), "200 b");
    // Those of another scope are there already.
    until(&envoy, "late", "200 b");
    // The plane does not have them; who gives up is not waited for.
    let mut client = Client::connect(envoy.addr("web"));
    client.send("GET / HTTP/1.1\r\nHost: h\r\nX-Tenant: red\r\n\r\n");
    plane.request("the routes of a scope", |of| {
        of["type"] == "rds" && of["subscribe"] == json!(["three"])
    });
    drop(client);
    wait::until("the question to be forgotten", || {
        ask_once(envoy.addr("web"), "nobody");
        let told = plane.told.lock().unwrap();
        let given_up = |of: &Value| of["type"] == "rds" && of["unsubscribe"] == json!(["three"]);
        told.iter().any(|line| given_up(&line["request"])).then_some(())
    });
    assert!(envoy.metric("sluice_xds_scope_demands_total", "result=\"there\"") >= 3);
    assert!(envoy.metric("sluice_xds_scope_demands_total", "result=\"missing\"") >= 1);
}

#[test]
fn a_listener_of_the_file_has_scopes_of_a_plane() {
    let a = Origin::start("a");
    let Some(mut plane) = plane_with(json!({}), &[("one", a.addr())]) else { return };
    plane.set("lds", "1", json!({}));
    // The routes of one are in it.
    let own = json!({ "name": "s", "key": { "fragments": [{ "string_key": "blue" }] }, "route_configuration": table("own", to("one")) });
    plane.set("srds", "1", json!({ "s": own }));
    let dynamic = r"
  ads_config: { api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{ envoy_grpc: { cluster_name: plane } }] }
  cds_config: { ads: {}, resource_api_version: V3 }";
    let text = bootstrap(plane.addr, dynamic);
    let listeners = format!("static_resources:\n  listeners: [{}]\n", scoped(ads(), ads()));
    let mut envoy = Envoy::start(&text.replace("static_resources:\n", &listeners));
    envoy.until_ready();
    until(&envoy, "blue", "200 a");
    until(&envoy, "green", "404 ");
}
