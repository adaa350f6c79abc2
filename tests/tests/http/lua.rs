//! Scripts in Lua: what they see and change, what they wait for, and that a bad one costs its own requests only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;

use serde_json::Value;
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice, wait};
use sluice_tests::messages::{out, sluice};
use sluice_tests::place_text;

/// A listener `web` with the filter `lua`, whose settings these are, before the cluster `up`; `side` is the same origin.
fn start(origin: &Origin, settings: &str, rules: &str) -> Running {
    kit().start(&config(origin, settings, rules))
}

/// A failure of a script is a warning in the log.
fn kit() -> Sluice {
    let kit = Sluice::new().workers(1).expect_warning("\"reason\":\"script.");
    kit.expect_warning("the cluster `side` is not used")
}

fn config(origin: &Origin, settings: &str, rules: &str) -> String {
    let addr = origin.addr();
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ lua: {settings} }}] }} }}]\n\
         routes:\n  main:\n    - rules:\n{rules}        - {{ name: other, match: {{ path: /other }}, cluster: up }}\n        - {{ name: rest, cluster: up }}\n\
         clusters:\n  up: {{ endpoints: [\"{addr}\"] }}\n  side: {{ endpoints: [\"{addr}\"] }}\n\
         limits: {{ filter_wait_seconds: 600 }}\naccess_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", route: \"%ROUTE_NAME%\", status: \"%RESPONSE_CODE%\", \
           why: \"%RESPONSE_CODE_DETAILS%\", error: \"%VALUE(lua.error)%\", who: \"%VALUE(lua.metadata.app.who)%\", calls: \"%SIDE_CALLS%\", filter: \"%RESPONSE_FILTER%\" }} }} }}]\n"
    )
}

/// The settings with a script of these lines.
fn script(lines: &str, more: &str) -> String {
    format!("{{ source: {}{more} }}", serde_json::to_string(lines).unwrap())
}

fn ask(sluice: &Running, request: &str) -> Message {
    Client::connect(sluice.addr("web")).ask(request)
}

fn get(sluice: &Running, path: &str) -> Message {
    ask(sluice, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-One: 1\r\nX-One: 2\r\n\r\n"))
}

fn post(sluice: &Running, path: &str, body: &str) -> Message {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
    ask(sluice, &(head + body))
}

fn record_of(sluice: &Running, path: &str) -> Value {
    sluice.record(path, |record| record["path"] == path)
}

#[test]
fn headers_are_read_and_changed() {
    let origin = Origin::start("o");
    let lines = r#"
function envoy_on_request(handle)
  local h = handle:headers()
  h:add("x-seen", h:get(":method") .. " " .. h:get(":path") .. " " .. h:get(":authority") .. " " .. h:get("x-one"))
  h:add("x-at", h:getAtIndex("X-One", 1) .. "/" .. tostring(h:getAtIndex("x-one", 2)) .. "/" .. h:getNumValues("x-one"))
  h:replace("x-one", "three")
  h:remove("user-agent")
  h:replace(":path", "/changed")
  local names = {}
  for name, value in pairs(h) do names[#names + 1] = name end
  table.sort(names)
  h:add("x-names", table.concat(names, " "))
  h:add("x-missing", tostring(h:get("nothing")))
  for _, bad in pairs({ "transfer-encoding", "trailer", "host:", ":scheme", "connection" }) do
    local ok, why = pcall(h.replace, h, bad, "1")
    assert(not ok and why:find("inline:%d+: ") and why:find("`" .. bad, 1, true), why)
  end
  local ok, why = pcall(h.add, h, "x-a", "a\r\nb: c")
  assert(not ok and why:find("control characters"), why)
end
function envoy_on_response(handle)
  handle:headers():add("x-was", handle:headers():get(":status"))
  handle:headers():replace(":status", "202")
  handle:headers():remove("x-origin")
end"#;
    let sluice = start(&origin, &script(lines, ""), "");
    let answer = get(&sluice, "/a?b=1");
    assert_eq!(
        (answer.status(), answer.value("x-was"), answer.value("x-origin")),
        (202, "200", ""),
        "{answer:?}"
    );
    let seen = &origin.requests()[0];
    assert_eq!((seen.path(), seen.values("x-one")), ("/changed", vec!["three"]));
    assert_eq!(seen.value("x-seen"), "GET /a?b=1 a.test 1,2");
    assert_eq!((seen.value("x-at"), seen.value("x-missing")), ("2/nil/2", "nil"));
    assert!(seen.value("x-names").starts_with(":authority :method :path :scheme"), "{seen:?}");
}

#[test]
fn bodies_are_read_whole_and_replaced() {
    let origin = Origin::start("o");
    let lines = r#"
function envoy_on_request(handle)
  local body = handle:body()
  if not body then handle:headers():add("x-body", "none") return end
  handle:headers():add("x-body", body:length() .. " " .. body:getBytes(0, body:length()))
  local ok, why = pcall(body.getBytes, body, 1, body:length())
  assert(not ok and why:find("buffer size"), why)
  assert(body:setBytes("changed!") == 8)
  assert(handle:trailers() == nil)
end
function envoy_on_response(handle)
  local body = handle:body(true)
  body:setBytes(body:getBytes(0, body:length()):upper())
end"#;
    let sluice = start(&origin, &script(lines, ", body_max: 100"), "");
    let answer = post(&sluice, "/bytes/3", "hello");
    assert_eq!((answer.status(), answer.value("content-length")), (200, "3"), "{answer:?}");
    let seen = &origin.requests()[0];
    assert_eq!((seen.value("x-body"), seen.text().as_str()), ("5 hello", "changed!"));
    assert_eq!(seen.value("content-length"), "8");
    assert_eq!(get(&sluice, "/bytes/4").text().len(), 4);
    assert_eq!(origin.requests()[1].value("x-body"), "none");
    assert_eq!(post(&sluice, "/large", &"x".repeat(101)).status(), 413);
    assert_eq!(get(&sluice, "/bytes/101").status(), 500);
}

#[test]
fn pieces_and_trailers_pass_through_a_script() {
    let origin = Origin::start("o");
    let lines = r#"
function envoy_on_request(handle)
  local headers = handle:headers()
  local total, old = 0, nil
  for chunk in handle:bodyChunks() do
    total = total + chunk:length()
    chunk:setBytes(chunk:getBytes(0, chunk:length()):upper())
    if old then assert(not pcall(old.length, old)) end
    old = chunk
  end
  -- Without a body there are no pieces, and the headers are still here.
  assert(pcall(headers.add, headers, "x-late", "1") == (total == 0))
  assert(headers:get(":path") ~= nil)
  local ok, why = pcall(handle.body, handle)
  assert(total == 0 and why == nil or not ok and why:find("too late"), why)
  local trailers = handle:trailers()
  handle:logInfo("pieces had " .. total .. " bytes, trailer " .. tostring(trailers and trailers:get("x-sum")))
  if trailers then trailers:add("x-more", "yes") end
end"#;
    let sluice = start(&origin, &script(lines, ""), "");
    let mut client = Client::connect(sluice.addr("web"));
    let answer = client.ask(
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    assert_eq!(answer.status(), 200, "{answer:?}");
    let seen = &origin.requests()[0];
    assert_eq!(seen.text(), "ABCDEFG");
    assert!(seen.trailers.to_lowercase().contains("x-more: yes"), "{seen:?}");
    wait::until("the line of the script", || {
        sluice.log().contains("pieces had 7 bytes, trailer 7").then_some(())
    });
    assert_eq!(get(&sluice, "/b").status(), 200);
    assert_eq!(origin.requests()[1].value("x-late"), "1");
    wait::until("the line without pieces", || {
        sluice.log().contains("pieces had 0 bytes, trailer nil").then_some(())
    });
}

#[test]
fn a_script_responds_itself() {
    let origin = Origin::start("o");
    let lines = r#"
function envoy_on_request(handle)
  if handle:headers():get(":path") == "/late" then
    pcall(function() handle:respond({ [":status"] = "418", ["x-set"] = { "a", "b" }, ["content-type"] = "text/teapot" }, "short") end)
    error("never reached")
  end
  local ok, why = pcall(handle.respond, handle, {}, "x")
  assert(not ok and why:find(":status from 200 to 599"), why)
  handle:respond({ [":status"] = "403" }, "nope")
end
function envoy_on_response(handle) handle:headers():add("x-response", "yes") end"#;
    let sluice = start(&origin, &script(lines, ""), "");
    let answer = get(&sluice, "/late");
    assert_eq!((answer.status(), answer.text().as_str()), (418, "short"), "{answer:?}");
    assert_eq!(
        (answer.values("x-set"), answer.value("content-type")),
        (vec!["a", "b"], "text/teapot")
    );
    assert_eq!(answer.value("x-response"), "yes");
    assert_eq!((get(&sluice, "/x").status(), origin.requests().len()), (403, 0));
    assert_eq!(record_of(&sluice, "/late")["why"], "lua_response");
}

#[test]
fn clusters_are_called() {
    let origin = Origin::start("o");
    let lines = r#"
function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  local call = { [":method"] = "POST", [":path"] = "/status/404", [":authority"] = "side.test", ["x-to"] = "side" }
  if path == "/async" then
    call[":path"] = "/from/async"
    handle:httpCall("side", call, "", 1000, true)
  elseif path == "/unlisted" then
    handle:httpCall("other", call, "", 1000)
  elseif path == "/wrong" then
    handle:httpCall("side", { [":method"] = "GET" }, "", 1000)
  elseif path == "/nested" then
    coroutine.wrap(function() handle:httpCall("side", call, "", 1000) end)()
  else
    if path == "/body" then handle:body() end
    local headers, body = handle:httpCall("side", call, "asked", { timeout_ms = 5000, return_duplicate_headers = true })
    handle:headers():add("x-called", headers[":status"] .. " " .. headers["x-origin"] .. " " .. #body)
  end
end
function envoy_on_response(handle)
  local headers = handle:httpCall("side", { [":method"] = "GET", [":path"] = "/bytes/1", [":authority"] = "s" }, nil, 5000)
  handle:headers():add("x-after", headers[":status"])
end"#;
    let sluice = start(&origin, &script(lines, ", clusters: [side]"), "");
    for path in ["/plain", "/body"] {
        let answer = post(&sluice, path, "hello");
        assert_eq!((answer.status(), answer.value("x-after")), (200, "200"), "{answer:?}");
        let requests = origin.requests();
        let seen = requests.iter().rev().find(|seen| seen.path() == path).unwrap();
        assert!(seen.value("x-called").starts_with("404 o "), "{seen:?}");
        let called = requests.iter().rev().find(|seen| seen.path() == "/status/404").unwrap();
        assert_eq!(
            (called.value("x-to"), called.value("host"), called.text().as_str()),
            ("side", "side.test", "asked")
        );
        assert!(record_of(&sluice, path)["calls"].to_string().contains("side 404"));
    }
    assert_eq!(get(&sluice, "/async").status(), 200);
    wait::until("the asynchronous call", || {
        origin.requests().iter().any(|seen| seen.path() == "/from/async").then_some(())
    });
    for (path, why) in [
        ("/unlisted", "`other` is not in `clusters` of the settings"),
        ("/wrong", "http call headers must include"),
        ("/nested", "httpCall() cannot wait inside coroutine.create"),
    ] {
        assert_eq!(get(&sluice, path).status(), 500, "{path}");
        let record = record_of(&sluice, path);
        assert_eq!(record["reason"], "script.error", "{record}");
        assert!(record["why"].as_str().unwrap().contains(why), "{record}");
    }
}

#[test]
fn what_a_script_knows_and_shares() {
    let origin = Origin::start("o");
    let lines = r#"
function envoy_on_request(handle)
  local info, h = handle:streamInfo(), handle:headers()
  local set = info:dynamicMetadata()
  assert(set:get("app") == nil)
  set:set("app", "who", "ann")
  set:set("app", "list", { 1, { a = true } })
  assert(set:get("app").list[2].a == true)
  local seen = {}
  for filter, values in pairs(set) do seen[#seen + 1] = filter .. values.who end
  local cycle = {} cycle.of = cycle
  assert(not pcall(set.set, set, "app", "x", cycle))
  assert(not pcall(set.set, set, "app", "x", ("x"):rep(70000)))
  h:add("x-info", info:protocol() .. " " .. info:routeName() .. " " .. seen[1])
  h:add("x-from", info:downstreamDirectRemoteAddress():match("^127.0.0.1:%d+$") and "loopback" or "?")
  h:add("x-to", info:downstreamLocalAddress():match("^127.0.0.1:%d+$") and "loopback" or "?")
  h:add("x-tls", tostring(handle:connection():ssl()) .. info:requestedServerName())
  h:add("x-context", handle:filterContext():get("tier") .. handle:metadata():get("limits").max + 1)
  h:add("x-misc", handle:base64Escape("a?b") .. " " .. #handle:timestampString())
  assert(handle:timestamp(EnvoyTimestampResolution.MICROSECOND) > handle:timestamp() * 100)
  h:replace("x-go", "other")
end
function envoy_on_response(handle)
  handle:headers():add("x-who", handle:streamInfo():dynamicMetadata():get("app").who)
  assert(handle:streamInfo():value("lua.metadata.app.who") == "ann")
end"#;
    let more = ", context: { tier: gold }, metadata: { limits: { max: 41 } }";
    let rule = "        - { name: header, match: { headers: { x-go: other } }, cluster: up }\n";
    let sluice = start(&origin, &script(lines, more), rule);
    let answer = get(&sluice, "/facts");
    assert_eq!(
        (answer.status(), answer.value("x-who")),
        (200, "ann"),
        "{:?}",
        record_of(&sluice, "/facts")
    );
    let seen = &origin.requests()[0];
    assert_eq!(seen.value("x-info"), "HTTP/1.1 rest appann");
    assert_eq!((seen.value("x-from"), seen.value("x-to")), ("loopback", "loopback"));
    assert_eq!((seen.value("x-tls"), seen.value("x-context")), ("nil", "gold42"));
    assert_eq!(seen.value("x-misc"), "YT9i 13");
    let record = record_of(&sluice, "/facts");
    assert_eq!((&record["who"], &record["route"]), (&"ann".into(), &"header".into()), "{record}");
}

#[test]
fn rules_run_other_scripts_or_none() {
    let origin = Origin::start("o");
    let chain = r#"{ source: "function envoy_on_request(h) h:headers():add('x-by', 'chain') end", context: { of: chain },
      sources: { named: { source: "function envoy_on_request(h) h:headers():add('x-by', h:filterContext():get('of')) end" } } }"#;
    let rules = "        - { match: { path: /named }, cluster: up, filters: { lua: { run: named, context: { of: rule } } } }\n\
         \x20       - { match: { path: /own }, cluster: up, filters: { lua: { source: \"function envoy_on_request(h) h:headers():add('x-by', 'own') end\" } } }\n\
         \x20       - { match: { path: /none }, cluster: up, filters: { lua: skip } }\n\
         \x20       - { match: { path: /missing }, cluster: up, filters: { lua: { run: nobody } } }\n";
    let sluice = start(&origin, chain, rules);
    for (path, by) in [("/rest", "chain"), ("/named", "rule"), ("/own", "own"), ("/none", "")] {
        assert_eq!(get(&sluice, path).status(), 200, "{path}");
        assert_eq!(origin.requests().last().unwrap().value("x-by"), by, "{path}");
    }
    assert_eq!(get(&sluice, "/missing").status(), 500);
    let why = record_of(&sluice, "/missing")["why"].to_string();
    assert!(why.contains("the settings around the rule have no script `nobody`"), "{why}");
}

#[test]
fn a_script_chooses_the_cluster() {
    let origin = Origin::start("o");
    let lines = r#"
function envoy_on_request(handle)
  local who = handle:headers():get("x-one")
  handle:streamInfo():dynamicMetadata():set("app", "who", who == "1,2" and "side" or "none")
  handle:clearRouteCache()
end"#;
    let rule = "        - { name: chosen, match: { path: /chosen }, cluster_from: \"metadata['lua.metadata.app.who']\" }\n";
    let sluice = start(&origin, &script(lines, ""), rule);
    assert_eq!(get(&sluice, "/chosen").status(), 200);
    assert_eq!(ask(&sluice, "GET /chosen HTTP/1.1\r\nHost: a.test\r\n\r\n").status(), 503);
}

#[test]
fn a_file_is_read_again_when_it_changes() {
    let origin = Origin::start("o");
    let kit = kit().watching().expect_warning("tag.lua");
    let path = kit.folder().join("tag.lua");
    let tag = |value: &str| {
        format!(
            "count = (count or 0) + 1\nfunction envoy_on_request(h) h:headers():add('x-tag', '{value}') end"
        )
    };
    place_text(&path, &tag("one"));
    let sluice = kit.start(&config(&origin, "{ file: tag.lua }", ""));
    let seen = || {
        get(&sluice, "/");
        origin.requests().last().unwrap().value("x-tag").to_owned()
    };
    assert_eq!(seen(), "one");
    place_text(&path, &tag("two"));
    wait::until("the new script", || (seen() == "two").then_some(()));
    // One that cannot be loaded leaves the last one in use, and the page says why.
    place_text(&path, "function envoy_on_request(");
    wait::until("the error", || sluice.log().contains("line:1:").then_some(()));
    assert_eq!(seen(), "two");
}

#[test]
fn a_bad_script_costs_its_own_requests_only() {
    let origin = Origin::start("o");
    let lines = r#"
local kept = {}
function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  if path == "/loop" then while true do end
  elseif path == "/caught" then while true do pcall(function() while true do end end) end
  elseif path == "/bomb" then for i = 1, 1e9 do kept[i] = ("x"):rep(1000) .. i end
  elseif path == "/error" then error("on purpose")
  elseif path == "/table" then error({ code = 1 })
  elseif path == "/yield" then coroutine.yield("what")
  elseif path == "/keep" then saved = handle:headers()
  elseif path == "/stale" then saved:get(":path")
  elseif path == "/dot" then handle.headers()
  elseif path == "/unknown" then handle:virtualHost()
  elseif path == "/wait" then handle:httpCall("side", { [":method"] = "GET", [":path"] = "/wait", [":authority"] = "a" }, nil, 60000)
  end
end
function envoy_on_response(handle)
  if handle:headers():get(":status") == "418" then error("in the response") end
end"#;
    let sluice = start(&origin, &script(lines, ", clusters: [side], cpu: 60s"), "");
    // A request that waits in the same state fails with the one that uses up its memory, and only that.
    let mut waiting = std::net::TcpStream::connect(sluice.addr("web")).unwrap();
    waiting.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait::until("the call", || {
        origin.requests().iter().any(|seen| seen.path() == "/wait").then_some(())
    });
    for (path, reason, why) in [
        ("/loop", "script.budget", "inline:5: it used 1000000 instructions without waiting"),
        ("/caught", "script.budget", "inline:6: it used"),
        ("/error", "script.error", "lua_error[inline:8: on purpose]"),
        ("/table", "script.error", "an error that is no text"),
        ("/yield", "script.error", "it called coroutine.yield() outside of a coroutine of its own"),
        ("/dot", "script.error", "inline:13: call headers with a colon"),
        ("/unknown", "script.error", "inline:14: the handle has no virtualHost() in Sluice"),
        ("/status/418", "script.error", "inline:19: in the response"),
        ("/bomb", "script.memory", "not enough memory"),
    ] {
        let answer = get(&sluice, path);
        assert_eq!(answer.status(), 500, "{path}: {answer:?}");
        assert!(!answer.text().contains("lua"), "{answer:?}");
        let record = record_of(&sluice, path);
        let said = record["why"].as_str().unwrap();
        assert_eq!(
            (&record["reason"], &record["filter"]),
            (&reason.into(), &"lua".into()),
            "{record}"
        );
        assert!(said.contains(why) || path == "/table", "{record}");
        assert_eq!(get(&sluice, "/fine").status(), 200, "after {path}");
    }
    assert_eq!(get(&sluice, "/keep").status(), 200);
    assert_eq!(get(&sluice, "/stale").status(), 500);
    let why = record_of(&sluice, "/stale")["why"].to_string();
    assert!(why.contains("the object belongs to another request"), "{why}");
    origin.release();
    let mut reader = std::io::BufReader::new(waiting);
    let answer = sluice_testkit::origin::read_message(&mut reader, false).unwrap();
    assert_eq!(answer.status(), 500, "{answer:?}");
    let record = record_of(&sluice, "/wait");
    assert_eq!(record["reason"], "script.memory", "{record}");
    // A script ends with its request, which is a moment after the client has the response.
    let item = wait::until("every script to end", || {
        let items = sluice.items("/filters");
        let [item] = items.as_slice() else { panic!("{items:?}") };
        (item["instances"] == 0).then(|| item.clone())
    });
    let of = |name: &str| item[name].as_u64();
    assert_eq!(
        (&item["filter"], &item["listener"], &item["name"]),
        (&"lua".into(), &"web".into(), &"inline".into())
    );
    assert_eq!((of("errors"), of("errors_script_budget")), (Some(11), Some(2)), "{item}");
    assert!(
        of("runs") > Some(20)
            && of("memory_bytes") > Some(1000)
            && item["seconds"].as_f64() > Some(0.0),
        "{item}"
    );
    assert_eq!(sluice.metric("sluice_lua_states_replaced_total", "why=\"out_of_memory\""), 1);
    assert_eq!(sluice.metric("sluice_lua_failures_total", "reason=\"script.memory\""), 2);
}

#[test]
fn requests_may_pass_without_their_script() {
    let origin = Origin::start("o");
    let lines =
        "function envoy_on_request(handle) handle:headers():add('x-before', '1') error('no') end";
    let sluice = start(&origin, &script(lines, ", on_error: continue"), "");
    assert_eq!(get(&sluice, "/passes").status(), 200);
    assert_eq!(origin.requests()[0].value("x-before"), "1");
    let record = record_of(&sluice, "/passes");
    assert_eq!(record["error"], "inline:1: no", "{record}");
}

#[test]
fn signatures_are_verified() {
    let origin = Origin::start("o");
    let lines = r#"
local function bytes(hex) return (hex:gsub("..", function(b) return string.char(tonumber(b, 16)) end)) end
function envoy_on_request(handle)
  local ok, why = pcall(handle.importPublicKey, handle, "no key", 6)
  assert(not ok and why:find("SubjectPublicKeyInfo"), why)
  local der = bytes(handle:headers():get("x-key"))
  local key = handle:importPublicKey(der, #der)
  local signature = bytes(handle:headers():get("x-signature"))
  local valid = handle:verifySignature("sha256", key, signature, #signature, "data", 4)
  local other, wrong = handle:verifySignature("sha256", key, signature, #signature, "Data", 4)
  handle:respond({ [":status"] = "200" }, tostring(valid) .. tostring(other) .. #wrong)
end"#;
    let sluice = start(&origin, &script(lines, ""), "");
    let signing = sluice_testkit::tokens::SigningKey::new("RS256", "a");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (key, signature) = (hex(&signing.public_der()), hex(&signing.sign(b"data")));
    let answer = ask(
        &sluice,
        &format!("GET / HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\nX-Signature: {signature}\r\n\r\n"),
    );
    assert_eq!(answer.text(), "truefalse38", "{:?}", record_of(&sluice, "/"));
}

#[test]
fn a_script_is_tried_in_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tag.lua");
    let code = r#"
function envoy_on_request(handle)
  handle:headers():replace("x-tag", handle:body():getBytes(0, 2))
  local headers = handle:httpCall("tags", { [":method"] = "GET", [":path"] = "/tag", [":authority"] = "t" }, nil, 5000)
  handle:headers():add("x-tags", headers[":status"])
end
function envoy_on_response(handle) handle:headers():replace(":status", "202") end"#;
    std::fs::write(&path, code).unwrap();
    let path = path.display().to_string();
    let args = ["lua", &path, "--request", "POST /a?b=1", "-H", "x-tag: old", "--body", "hello"];
    let tried = sluice(&[&args[..], &["--cluster", "tags"]].concat());
    let said = out(&tried).to_lowercase();
    assert!(tried.status.success(), "{tried:?}");
    for part in [
        "an endpoint gets:\n  get /tag http/1.1",
        "  post /a?b=1 http/1.1",
        "  x-tag: he\n",
        "  x-tags: 200\n",
        "the client gets:\n  http/1.1 202 ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    std::fs::write(folder.path().join("tag.lua"), "function envoy_on_request(").unwrap();
    let tried = sluice(&["lua", &path]);
    assert!(!tried.status.success());
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(said.contains("line:1: <name> or '...' expected"), "{said}");
}
