//! Guards against load: limits on requests in flight, fixed and adaptive, on how fast bytes pass, and while many fail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect};
use sluice_testkit::{Origin, Running, Sluice, wait};

/// A listener with one filter; `rules` is what the routes have before the rule for all requests.
fn start(origin: &str, filter: &str, rules: &str) -> Running {
    Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, trusted_hops: 1, filters: [{filter}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{rules}{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: \"{origin}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", why: \"%RESPONSE_CODE_DETAILS%\", \
           waited: \"%VALUE(concurrency_limit.waited)%\", held: \"%VALUE(bandwidth_limit.response)%\", limit: \"%VALUE(adaptive_concurrency.limit)%\", took: \"%DURATION%\" }} }} }}]\n"
    ))
}

/// A client that has sent a request that the origin holds.
fn held(sluice: &Running, origin: &Origin, fields: &str) -> Client {
    let before = origin.requests().len();
    let client = asked(sluice, "/wait", fields);
    wait::until("the origin to have the request", || {
        (origin.requests().len() > before).then_some(())
    });
    client
}

fn asked(sluice: &Running, path: &str, fields: &str) -> Client {
    let mut client = Client::connect(sluice.addr("web"));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    client
}

fn status(sluice: &Running, path: &str, fields: &str) -> u16 {
    asked(sluice, path, fields).read().status()
}

fn count(sluice: &Running, limit: &str, result: &str) -> i64 {
    let labels = format!("listener=\"web\",limit=\"{limit}\",result=\"{result}\"");
    sluice.metric("sluice_http_concurrency_limit_total", &labels)
}

#[test]
fn no_more_requests_are_in_flight_than_the_limit_allows_on_all_workers() {
    let origin = Origin::start("o");
    let sluice = start(&origin.addr().to_string(), "{ concurrency_limit: { max: 3 } }", "");
    let mut clients: Vec<_> = (0..3).map(|_| held(&sluice, &origin, "")).collect();
    for _ in 0..20 {
        assert_eq!(status(&sluice, "/more", ""), 429);
    }
    assert_eq!(origin.requests().len(), 3);
    assert_eq!(count(&sluice, "all", "refused"), 20);
    let record = sluice.record_of("http.concurrency");
    assert_eq!(record["why"], "concurrency_limited[all, full]");
    origin.release();
    assert!(clients.iter_mut().all(|client| client.read().status() == 200));
    drop(clients);
    let passed = || (status(&sluice, "/again", "") == 200).then_some(());
    wait::until("a slot to be free", passed);
}

#[test]
fn requests_are_counted_by_their_parts_and_a_rule_has_limits_of_its_own() {
    let origin = Origin::start("o");
    let filter = "{ concurrency_limit: [{ max: 1, per: \"header:x-user\" }, { name: total, max: 3, status: 503 }] }";
    let rules = "{ match: { path: /free/* }, cluster: up, filters: { concurrency_limit: skip } }, \
                 { name: own, match: { path: /own/* }, cluster: up, filters: { concurrency_limit: { max: 1 } } }, ";
    let sluice = start(&origin.addr().to_string(), filter, rules);
    let _ann = held(&sluice, &origin, "X-User: ann\r\n");
    assert_eq!(status(&sluice, "/a", "X-User: ann\r\n"), 429);
    let _others: Vec<_> = ["bob", "eve"]
        .map(|user| held(&sluice, &origin, &format!("X-User: {user}\r\n")))
        .into_iter()
        .collect();
    assert_eq!(status(&sluice, "/a", "X-User: joe\r\n"), 503);
    let why = |text: &str| sluice.record(text, |record| record["why"] == text);
    why("concurrency_limited[header:x-user, full]");
    why("concurrency_limited[total, full]");
    assert_eq!(status(&sluice, "/free/a", "X-User: ann\r\n"), 200);
    assert_eq!(status(&sluice, "/own/a", "X-User: ann\r\n"), 200);
    origin.release();
}

#[test]
fn requests_wait_in_the_queue_and_no_longer_than_they_may() {
    let origin = Origin::start("o");
    let filter = "{ concurrency_limit: { max: 1, queue: { max: 1, timeout: 1h } } }";
    let sluice = start(&origin.addr().to_string(), filter, "");
    let mut first = held(&sluice, &origin, "");
    let mut second = asked(&sluice, "/second", "");
    wait::until("the second to wait", || (count(&sluice, "all", "queued") == 1).then_some(()));
    assert_eq!(status(&sluice, "/third", ""), 429, "one may wait");
    assert_eq!(origin.requests().len(), 1);
    origin.release();
    assert_eq!([first.read().status(), second.read().status()], [200; 2]);
    let record = sluice.record("/second", |record| record["path"] == "/second");
    assert!(record["waited"].as_str().unwrap().parse::<u64>().is_ok(), "{record}");
    assert_eq!(count(&sluice, "all", "refused"), 1);
}

#[test]
fn a_request_whose_time_in_the_queue_is_over_is_refused() {
    let origin = Origin::start("o");
    let filter = "{ concurrency_limit: { max: 1, queue: { max: 9, timeout: 20ms }, status: 503 } }";
    let sluice = start(&origin.addr().to_string(), filter, "");
    let _first = held(&sluice, &origin, "");
    assert_eq!(status(&sluice, "/late", ""), 503);
    let record = sluice.record_of("http.concurrency");
    assert_eq!(record["why"], "concurrency_limited[all, timeout]");
    assert!(record["waited"].as_str().unwrap().parse::<u64>().unwrap() >= 20, "{record}");
    assert_eq!([count(&sluice, "all", "queued"), count(&sluice, "all", "timeout")], [1, 1]);
    origin.release();
}

/// What waits in the queue for an hour gets its slot as soon as the request before it has ended.
#[test]
fn a_slot_is_given_back_whatever_ends_the_request() {
    // Switches protocols, and closes when the client does.
    let chat = Server::start(|mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
        stream.read_to_end(&mut head).map(drop)
    });
    let origin = Origin::start("o");
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ concurrency_limit: {{ max: 1, queue: {{ max: 9, timeout: 1h }} }} }}, {{ rbac: {{ deny: {{ no: {{ permissions: {{ path: /refused }} }} }} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ path: /chat }}, cluster: chat }}, {{ match: {{ path: /wait/late }}, cluster: up, timeout: {{ total: 50ms }} }}, {{ cluster: up }}] }}] }}\n\
         clusters: {{ up: \"{}\", chat: \"{}\" }}\n",
        origin.addr(),
        chat.addr()
    ));
    let free = |after: &str| assert_eq!(status(&sluice, "/free", ""), 200, "after {after}");
    free("the start");
    drop(held(&sluice, &origin, ""));
    free("a client that left");
    assert_eq!(status(&sluice, "/reset", ""), 503);
    free("a reset of the endpoint");
    assert_eq!(status(&sluice, "/wait/late", ""), 504);
    free("a time-out");
    assert_eq!(status(&sluice, "/refused", ""), 403);
    free("a refusal by another filter");
    let mut upgraded = asked(
        &sluice,
        "/chat",
        "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n",
    );
    assert_eq!(upgraded.read_head().status(), 101);
    let mut waiting = asked(&sluice, "/free", "");
    wait::until("it to wait for the end of the upgraded connection", || {
        (count(&sluice, "all", "queued") > 0).then_some(())
    });
    drop(upgraded);
    assert_eq!(waiting.read().status(), 200);
    // One that leaves while it waits is not waited for.
    let holder = held(&sluice, &origin, "");
    let queued = count(&sluice, "all", "queued");
    drop(asked(&sluice, "/gone", ""));
    wait::until("it to wait", || (count(&sluice, "all", "queued") > queued).then_some(()));
    drop(holder);
    free("a client that left while it waited");
    origin.release();
}

/// What Sluice says of the time that a request or connection took. Only lower bounds are checked: a slow machine is late, and
/// never early.
fn check_time(record: &serde_json::Value, bytes: u64, rate: u64) {
    let took = record["took"].as_u64().unwrap_or_else(|| panic!("{record}"));
    // Times are in whole milliseconds.
    let least = bytes * 1000 / (rate << 10);
    assert!(took + 1 >= least, "{record} is less than {least}");
}

#[test]
fn bodies_pass_no_faster_than_the_limit_and_arrive_whole() {
    let origin = Origin::start("o");
    let filter = "{ bandwidth_limit: [{ request: 200KiB/s, response: 400KiB/s, per: request, after: 10KiB }, { name: total, response: 800KiB/s }] }";
    let rules = "{ match: { path: /free/* }, cluster: up, filters: { bandwidth_limit: skip } }, ";
    let sluice = start(&origin.addr().to_string(), filter, rules);
    let record = |path: &str| sluice.record(path, |record| record["path"] == path);
    let message = asked(&sluice, "/bytes/130000", "").read();
    assert_eq!(message.body, vec![b'x'; 130_000]);
    // Without what passes at once, and the portion of 50 ms.
    let free = 10 << 10;
    check_time(&record("/bytes/130000"), 130_000 - free - (400 << 10) / 20, 400);
    assert!(record("/bytes/130000")["held"].is_string(), "the filter says how long it held bytes");
    let body = "y".repeat(120_000);
    let request =
        format!("POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 120000\r\n\r\n{body}");
    let message = Client::connect(sluice.addr("web")).ask(&request);
    assert!(message.text().ends_with(&body), "it arrives whole");
    check_time(&record("/echo"), 120_000 - free - (200 << 10) / 20, 200);
    let mut two = [asked(&sluice, "/bytes/200000", ""), asked(&sluice, "/bytes/200000", "")];
    assert!(two.iter_mut().all(|client| client.read().body.len() == 200_000));
    assert_eq!(asked(&sluice, "/free/a", "").read().status(), 200);
    // Each is so long that no pause of this machine lets all of it pass without being held up.
    let held = |of: &str| {
        let labels = format!("listener=\"web\",direction=\"{of}\"");
        sluice.metric("sluice_bandwidth_limited_total", &labels)
    };
    assert_eq!([held("request"), held("response")], [1, 4]);
}

#[test]
fn relayed_bytes_pass_no_faster_than_the_limit_and_arrive_whole() {
    // Sends back what it receives, when it has received all of it.
    let echo = Server::start(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    let sluice = Sluice::new().start(&format!(
        "listeners:\n\
         - {{ name: own, address: 127.0.0.1:0, filters: [{{ bandwidth_limit: {{ upload: 400KiB/s, after: 8KiB }} }}], relay: echo }}\n\
         - {{ name: all, address: 127.0.0.1:0, chains: [{{ filters: [{{ bandwidth_limit: {{ download: 400KiB/s, per: listener, interval: 10ms }} }}], relay: echo }}] }}\n\
         clusters: {{ echo: \"{}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", took: \"%DURATION%\" }} }} }}]\n",
        echo.addr()
    ));
    let data: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0] ^ 7).collect();
    let send = |listener: &str| {
        let mut stream = connect(sluice.addr(listener));
        stream.write_all(&data).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream
    };
    let receive = |mut stream: std::net::TcpStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all == data, "{} bytes of {}", all.len(), data.len());
    };
    receive(send("own"));
    let record = |listener: &str| sluice.record(listener, |record| record["listener"] == listener);
    check_time(&record("own"), 200_000 - (8 << 10) - (400 << 10) / 20, 400);
    for stream in [send("all"), send("all")] {
        receive(stream);
    }
    check_time(&record("all"), 200_000 - (400 << 10) / 100, 400);
    let held = |labels: &str| sluice.metric("sluice_bandwidth_limited_total", labels);
    assert_eq!(held("listener=\"own\",direction=\"upload\""), 1);
    assert_eq!(held("listener=\"all\",direction=\"download\""), 2);
}

#[test]
fn the_limit_of_requests_in_flight_follows_their_latency() {
    let origin = Origin::start("o");
    let filter = "{ adaptive_concurrency: { min: 2, max: 50, ideal: 1h, interval: 1ms } }";
    let sluice = start(&origin.addr().to_string(), filter, "");
    let limit = |path: &str| {
        let record = sluice.record(path, |record| record["path"] == path);
        record["limit"].as_str().unwrap().parse::<u32>().unwrap()
    };
    let _first = held(&sluice, &origin, "");
    let second = held(&sluice, &origin, "");
    assert_eq!(status(&sluice, "/refused", ""), 503);
    assert_eq!(sluice.record_of("http.overload")["why"], "reached_concurrency_limit");
    assert_eq!(limit("/refused"), 2);
    // The slot of a request that ends is free again. No response takes an hour, so that the limit rises.
    drop(second);
    let raised = || {
        // Whatever the status is, the request is a sample of the latency.
        let _ = status(&sluice, "/more", "");
        let labels = "listener=\"web\",step=\"raised\"";
        (sluice.metric("sluice_adaptive_concurrency_steps_total", labels) >= 3).then_some(())
    };
    wait::until("the limit to be raised", raised);
    assert_eq!(status(&sluice, "/last", ""), 200);
    assert!(limit("/last") > 4, "{}", limit("/last"));
    origin.release();
}

#[test]
fn while_requests_fail_some_are_refused_and_only_failures_of_the_service_count() {
    let origin = Origin::start("o");
    let filter = "{ admission_control: { window: 5m, failures: [404] } }, { rbac: { deny: { no: { permissions: { path: /denied } } } } }";
    let rules = "{ match: { path: /away }, respond: { status: 503 } }, \
                 { name: own, match: { path: /status/404 }, cluster: up, filters: { admission_control: { failures: 404 } } }, \
                 { name: busy, match: { path: /status/500 }, cluster: up, filters: { admission_control: { min_rate: 1000 } } }, ";
    let sluice = start(&origin.addr().to_string(), filter, rules);
    let count = |result: &str| {
        let labels = format!("listener=\"web\",result=\"{result}\"");
        sluice.metric("sluice_admission_control_requests_total", &labels)
    };
    let ask = |path: &str, count: usize| {
        let answers = (0..count).map(|_| asked(&sluice, path, "").read());
        answers.filter(|message| message.value("x-origin").is_empty()).count()
    };
    assert_eq!((ask("/ok", 50), ask("/away", 50), ask("/denied", 50)), (0, 50, 50));
    let counted = |all: i64| {
        wait::until("the requests to be counted", || {
            (count("success") + count("failure") + count("refused") == all).then_some(())
        });
    };
    counted(50);
    assert_eq!(count("success"), 50);
    // Too few for the rate below which none is refused.
    assert_eq!(ask("/status/500", 30), 0);
    // Of k failures one more request is refused in k of k + 1 cases, at most 80%: that none of a hundred is, is not to be seen.
    let refused = ask("/status/404", 100);
    assert!((1..=99).contains(&refused), "{refused}");
    counted(180);
    assert_eq!(count("refused"), i64::try_from(refused).unwrap());
    assert_eq!(ask("/ok", 50), 0, "a rule with settings of its own has results of its own");
    let record = sluice.record_of("http.overload");
    assert!(
        record["why"].as_str().unwrap().starts_with("denied_by_admission_control["),
        "{record}"
    );
}
