//! Scripts for connections: what they know, choose, count and change, and that a bad one costs its own connections only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_testkit::peers::{Server, connect, exchange, read, read_to_end};
use sluice_testkit::{Authority, Running, Sluice};

const FORMAT: &str = r#"{ json: { listener: "%LISTENER%", id: "%CONNECTION_ID%", reason: "%REASON%", detail: "%DETAIL%", who: "%VALUE(lua.connection.who)%", error: "%VALUE(lua.error)%", cluster: "%UPSTREAM_CLUSTER%" } }"#;

/// A listener `a` with a script, whose relay goes to the cluster that it chooses, or to `one`.
fn start(kit: Sluice, servers: [&Server; 2], script: &str, more: &str, chooses: bool) -> Running {
    let relay = if chooses { "{ cluster_from: filter, allow: [one, two] }" } else { "one" };
    let [one, two] = servers.map(Server::addr);
    let unused = if chooses { format!("two: {{ endpoints: [\"{two}\"] }}") } else { String::new() };
    let script = serde_json::to_string(script).unwrap();
    kit.workers(1).expect_warning("\"reason\":\"script.").start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: {relay}, filters: [{{ lua: {{ source: {script}{more} }} }}] }}]\n\
         clusters: {{ one: {{ endpoints: [\"{one}\"] }}, {unused} }}\naccess_log: [{{ sink: records.json, format: {FORMAT} }}]\n"
    ))
}

#[test]
fn a_script_knows_counts_and_chooses() {
    let (one, two) = (Server::greeter("one:"), Server::greeter("two:"));
    let script = r#"
local seen = 0
function on_connection(conn)
  seen = seen + 1
  assert(conn:listener() == "a" and conn:ssl() == nil and conn:serverName() == nil)
  assert(conn:source():find("^127%.0%.0%.1:%d+$") and conn:peer() == conn:source(), conn:source())
  assert(conn:destination():find("^127%.0%.0%.1:"))
  assert(conn:filterContext():get("tier") == "gold" and conn:id() > 0)
  assert(conn:timestamp() > 1e12 and conn:base64Escape("a") == "YQ==")
  conn:set("who", { number = seen })
  conn:set("who", "client " .. seen)
  conn:count("all")
  conn:count("all", 2)
  assert(not pcall(conn.count, conn, "others"))
  if seen < 3 then conn:setCluster(seen == 1 and "two" or "none") end
  if seen == 4 then conn:close("no more\n") end
end"#;
    let settings = ", context: { tier: gold }, counters: [all]";
    let sluice = start(Sluice::new(), [&one, &two], script, settings, true);
    assert_eq!(read(&mut connect(sluice.addr("a")), 4), b"two:");
    let record = sluice.record("the first", |record| record["who"] == "client 1");
    assert_eq!(record["cluster"], "two", "{record}");
    for (who, reason, detail) in [
        ("client 2", "cluster.unknown", "none: `allow` of the relay does not list it"),
        ("client 3", "cluster.unknown", "no filter chose the cluster of the connection"),
        ("client 4", "script.closed", "no more "),
    ] {
        assert!(read_to_end(&mut connect(sluice.addr("a"))).1.is_empty());
        let record = sluice.record(who, |record| record["who"] == who);
        assert_eq!((&record["reason"], &record["detail"]), (&reason.into(), &detail.into()));
    }
    assert_eq!(sluice.metric("sluice_lua_connection_counts_total", "counter=\"all\""), 12);
}

#[test]
fn a_script_sees_and_changes_bytes() {
    let server = Server::echo();
    let script = r#"
function on_data(conn, bytes)
  local state = conn:state()
  state.count = (state.count or 0) + #bytes
  if bytes == "sum" then return tostring(state.count) end
  if bytes == "nothing" then return "" end
  if bytes == "quit" then conn:close("after " .. state.count) end
  assert(not pcall(conn.set, conn, "who", "late"))
end"#;
    let sluice = start(Sluice::new(), [&server, &server], script, "", false);
    let (mut one, mut other) = (connect(sluice.addr("a")), connect(sluice.addr("a")));
    assert_eq!(exchange(&mut one, b"hello"), b"hello");
    assert_eq!(exchange(&mut other, b"hi"), b"hi");
    one.write_all(b"sum").unwrap();
    assert_eq!(read(&mut one, 1), b"8");
    other.write_all(b"nothing").unwrap();
    one.write_all(b"quit").unwrap();
    assert!(read_to_end(&mut one).1.is_empty());
    assert_eq!(sluice.record_of("script.closed")["detail"], "after 12");
    // The other one goes on.
    assert_eq!(exchange(&mut other, b"still"), b"still");
}

#[test]
fn a_script_knows_the_tls_of_a_connection() {
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    authority.issue("app", &["app.test"]);
    let server = Server::greeter("hello");
    let script = "function on_connection(conn) conn:set('who', conn:serverName() .. ' ' .. conn:ssl():tlsVersion() .. ' ' .. conn:chain()) end";
    let sluice = kit.workers(1).start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, chains: [{{ name: app, match: {{ sni: app.test }}, tls: {{ certificates: app.pem }}, relay: up, filters: [{{ lua: {{ source: {script:?} }} }}] }}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\naccess_log: [{{ sink: records.json, format: {FORMAT} }}]\n",
        server.addr()
    ));
    let ca = sluice.folder().join("ca.pem");
    let mut client = sluice_testkit::tls::Offer::of("app.test", &ca).connect(sluice.addr("a"));
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
    drop(client);
    sluice.record("the script", |record| record["who"] == "app.test TLSv1.3 app");
}

#[test]
fn a_bad_script_costs_its_own_connections_only() {
    let server = Server::echo();
    let script = r#"
local kept = {}
function on_connection(conn)
  if first then pcall(first.listener, first) end
  first = first or conn
end
function on_data(conn, bytes)
  if bytes == "loop" then while true do end
  elseif bytes == "deep" then local function f() return 1 + f() end f()
  elseif bytes == "bomb" then for i = 1, 1e9 do kept[i] = ("x"):rep(1000) .. i end
  elseif bytes == "error" then error("on purpose")
  elseif bytes == "stale" then first:listener()
  elseif bytes == "type" then return 5
  elseif bytes == "yield" then coroutine.yield()
  end
end"#;
    let sluice = start(Sluice::new(), [&server, &server], script, ", cpu: 60s", false);
    for (says, reason, detail) in [
        ("loop", "script.budget", "inline:8: it used 1000000 instructions without waiting"),
        ("deep", "script.error", "stack overflow"),
        ("error", "script.error", "inline:11: on purpose"),
        (
            "stale",
            "script.error",
            "inline:12: fact: the object belongs to a function that has ended",
        ),
        ("type", "script.error", "the function must return a string or nothing, not a number"),
        ("yield", "script.error", "yield"),
        ("bomb", "script.memory", "near inline:10: not enough memory"),
    ] {
        let mut bystander = connect(sluice.addr("a"));
        assert_eq!(exchange(&mut bystander, b"before"), b"before");
        let mut client = connect(sluice.addr("a"));
        client.write_all(says.as_bytes()).unwrap();
        assert!(read_to_end(&mut client).1.is_empty(), "{says}");
        let found = |record: &serde_json::Value| {
            record["detail"].as_str().is_some_and(|said| said.contains(detail))
        };
        assert_eq!(sluice.record(says, found)["reason"], reason, "{says}");
        if reason != "script.memory" {
            assert_eq!(exchange(&mut bystander, b"after"), b"after", "{says}");
        }
        assert_eq!(exchange(&mut connect(sluice.addr("a")), b"fine"), b"fine", "after {says}");
    }
    assert_eq!(sluice.metric("sluice_lua_states_replaced_total", "why=\"out_of_memory\""), 1);
}

#[test]
fn connections_may_go_on_without_their_script() {
    let server = Server::echo();
    let script =
        "function on_connection(conn) error('no') end function on_data(conn) error('never') end";
    let sluice = start(Sluice::new(), [&server, &server], script, ", on_error: continue", false);
    assert_eq!(exchange(&mut connect(sluice.addr("a")), b"hello"), b"hello");
    sluice.record("the error", |record| record["error"] == "inline:1: no");
}
