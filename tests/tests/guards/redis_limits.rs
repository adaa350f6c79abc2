//! Limits that a Redis server counts for a fleet: the filter `rate_limit` with `redis`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice, tools, wait};
use sluice_tests::databases::Redis;

/// So long that no machine is too slow for it.
const PATIENT: &str = "timeout: 20s";

fn start_with(kit: Sluice, origin: &Origin, redis: SocketAddr, limits: &str) -> Running {
    kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ rate_limit: {limits} }}] }} }}]\n\
         routes: {{ main: {{ cluster: up }} }}\nclusters: {{ up: \"{}\", counter: \"{redis}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", \
           why: \"%RESPONSE_CODE_DETAILS%\", fallback: \"%VALUE(rate_limit.fallback)%\", calls: \"%SIDE_CALLS%\" }} }} }}]\n",
        origin.addr()
    ))
}

fn start(origin: &Origin, redis: SocketAddr, limits: &str) -> Running {
    start_with(Sluice::new().workers(2), origin, redis, limits)
}

fn get(sluice: &Running, path: &str, fields: &str) -> Message {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    Client::connect(sluice.addr("web")).ask(&request)
}

fn statuses<const N: usize>(sluice: &Running, fields: &str) -> [u16; N] {
    std::array::from_fn(|_| get(sluice, "/", fields).status())
}

#[test]
fn processes_share_a_count() {
    if !Redis::is_there() {
        return;
    }
    let (redis, origin) = (Redis::start(&[]), Origin::start("o"));
    let limits = format!(
        "[{{ name: users, requests: 3/d, per: \"header:x-user\", fields: true, redis: {{ cluster: counter, {PATIENT} }} }}, \
          {{ name: all, requests: 5/d, window: aligned, fields: true, redis: {{ cluster: counter, {PATIENT} }} }}, \
          {{ name: own, requests: 1000/s, fields: true }}]"
    );
    let (one, two) = (start(&origin, redis.addr(), &limits), start(&origin, redis.addr(), &limits));
    let first = get(&one, "/", "X-User: ann\r\n");
    assert_eq!(first.status(), 200);
    assert_eq!(
        first.value("ratelimit-policy"),
        "\"own\";q=1000;w=1, \"users\";q=3;w=86400, \"all\";q=5;w=86400"
    );
    let left = first.value("ratelimit").to_owned();
    assert!(left.contains("\"users\";r=2;t=") && left.contains("\"all\";r=4;t="), "{left}");
    assert_eq!(statuses(&two, "X-User: ann\r\n"), [200, 200, 429]);
    let refused = get(&one, "/refused", "X-User: ann\r\n");
    assert_eq!(refused.status(), 429);
    assert!(refused.value("ratelimit").contains("\"users\";r=0;t="), "{refused:?}");
    // The sliding window of two days, and the rest of a day.
    let wait: u64 = refused.value("retry-after").parse().unwrap();
    assert!((1..=2 * 86_400).contains(&wait), "{wait}");
    let record = one.record("/refused", |record| record["path"] == "/refused");
    assert_eq!(
        (&record["reason"], &record["why"]),
        (&"http.rate".into(), &"request_rate_limited".into())
    );
    assert_eq!(record["calls"].as_array().unwrap().len(), 2, "{record}");
    // The limit for all has counted the refused ones, too: all limits are asked at once.
    assert_eq!(statuses(&two, "X-User: bob\r\n"), [429]);
    // Each worker has one connection, and each script was sent as a whole only once or twice.
    let stats = redis.ask(&["INFO", "commandstats"]);
    let calls = |command: &str| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
        calls.map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    assert_eq!(calls("evalsha"), 12, "{stats}");
    assert!((1..=4).contains(&calls("eval")), "{stats}");
}

#[test]
fn keys_are_bounded_and_end() {
    if !Redis::is_there() {
        return;
    }
    let (redis, origin) = (Redis::start(&[]), Origin::start("o"));
    let limits = format!(
        "[{{ name: users, requests: 100/m, per: [\"header:x-user\", path], redis: {{ cluster: counter, prefix: \"shop\", {PATIENT} }} }}, \
          {{ requests: 100/m, redis: {{ cluster: counter, {PATIENT} }} }}]"
    );
    let sluice = start(&origin, redis.addr(), &limits);
    for user in ["a\\r\\nb", &"x".repeat(4000), "*", "{tag}"] {
        assert_eq!(get(&sluice, "/", &format!("X-User: {user}\r\n")).status(), 200);
    }
    let keys = redis.ask(&["KEYS", "*"]);
    let keys: Vec<&str> = keys.lines().collect();
    assert_eq!(keys.len(), 5, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("shop:users:") || key.starts_with("sluice:all:"), "{key}");
        assert!(key.len() <= 40, "{key}");
        let ttl: i64 = redis.ask(&["PTTL", key]).parse().unwrap();
        assert!((1..=120_000).contains(&ttl), "{key}: {ttl}");
    }
}

#[test]
fn users_log_in_and_a_forgotten_script_is_sent_again() {
    if !Redis::is_there() {
        return;
    }
    let (redis, origin) = (Redis::start(&["--requirepass", "secret"]), Origin::start("o"));
    let with = |login: &str| {
        format!(
            "{{ requests: 3/d, redis: {{ cluster: counter, {PATIENT}, on_error: deny{login} }} }}"
        )
    };
    let login = ["--no-auth-warning", "-a", "secret"];
    let sluice = start(&origin, redis.addr(), &with(", user: default, password: secret"));
    assert_eq!(statuses(&sluice, ""), [200, 200]);
    assert_eq!(redis.ask(&[&login[..], &["SCRIPT", "FLUSH"]].concat()), "OK");
    assert_eq!(statuses(&sluice, ""), [200, 429]);
    for login in [", password: wrong", ""] {
        let sluice = start(&origin, redis.addr(), &with(login));
        let refused = get(&sluice, "/", "");
        assert_eq!(
            (refused.status(), refused.text().as_str()),
            (503, "no decision about rate limits\n")
        );
        assert_eq!(sluice.record_of("sidecall.redis")["why"], "rate_limit_error");
    }
}

/// Servers that are none, by what they say.
const STRANGE: [&[u8]; 5] = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"+OK\r\n",
    b"*4\r\n:1\r\n:1\r\n:1\r\n$-1\r\n",
    b"-ERR no\r\n",
    b"*999999999\r\n",
];

#[test]
fn what_is_no_redis_server_decides_nothing() {
    let origin = Origin::start("o");
    for said in STRANGE {
        let server = sluice_testkit::peers::Server::start(move |mut stream| {
            let mut heard = [0; 4096];
            while std::io::Read::read(&mut stream, &mut heard)? > 0 {
                stream.write_all(said)?;
            }
            Ok(())
        });
        let limits = |on_error: &str| {
            format!(
                "{{ requests: 1/d, redis: {{ cluster: counter, {PATIENT}, on_error: {on_error} }} }}"
            )
        };
        let closed = start(&origin, server.addr(), &limits("deny"));
        assert_eq!(get(&closed, "/", "").status(), 503, "{said:?}");
        closed.record_of("sidecall.redis");
        let open = start(&origin, server.addr(), &limits("allow"));
        assert_eq!(statuses(&open, ""), [200, 200], "{said:?}");
        let local = start(&origin, server.addr(), &limits("local"));
        assert_eq!(statuses(&local, ""), [200, 429], "{said:?}");
    }
}

#[test]
fn a_server_that_is_away_is_stood_in_for() {
    let (origin, gone) = (Origin::start("o"), tools::free_port());
    let redis = SocketAddr::from(([127, 0, 0, 1], gone));
    let sluice = start(
        &origin,
        redis,
        "{ name: users, requests: 2/d, per: \"header:x-user\", redis: counter }",
    );
    assert_eq!(statuses(&sluice, "X-User: ann\r\n"), [200, 200, 429]);
    assert_eq!(statuses(&sluice, "X-User: bob\r\n"), [200]);
    assert_eq!(get(&sluice, "/last", "X-User: eve\r\n").status(), 200);
    let record = sluice.record("/last", |record| record["path"] == "/last");
    assert_eq!(record["fallback"], "users", "{record}");
}

#[test]
fn a_server_that_stalls_or_dies_under_load_holds_nobody_up() {
    if !Redis::is_there() {
        return;
    }
    let origin = Origin::start("o");
    let redis = Redis::start(&[]);
    let (stop, pid) = (AtomicBool::new(false), redis.pid().to_string());
    let sluice = start(
        &origin,
        redis.addr(),
        "{ requests: 1000000/s, redis: { cluster: counter, timeout: 500ms } }",
    );
    let signal = |name: &str| tools::must(tools::command("kill").args(["-s", name, &pid]));
    let count = |result: &str| {
        let labels = format!("cluster=\"counter\",result=\"{result}\"");
        sluice.metric("sluice_cluster_side_calls_total", &labels)
    };
    let more = |result: &str| {
        let before = count(result);
        wait::until(result, || (count(result) > before + 20).then_some(()));
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(get(&sluice, "/x", "").status(), 200);
                }
            });
        }
        more("answered");
        signal("STOP");
        more("sidecall.timeout");
        names_it(&sluice);
        signal("CONT");
        more("answered");
        drop(redis);
        more("upstream.refused");
        stop.store(true, Ordering::Relaxed);
    });
    wait::until("all requests to end", || {
        (sluice.metric("sluice_http_requests_active", "") == 0).then_some(())
    });
}

/// Waits for a record of a request that the server did not decide about.
fn names_it(sluice: &Running) {
    sluice.record("the server that did not decide", |record| {
        let call = record["calls"][0].as_str().unwrap_or_default();
        record["fallback"] == "all" && call.starts_with("counter failed in ")
    });
}

/// The plain version of the script: every request that passed, and when.
#[derive(Default)]
struct Plain(HashMap<String, Vec<u64>>);

impl Plain {
    fn passes(&mut self, key: &str, now: u64, limit: u64, window: u64, sliding: bool) -> bool {
        let passed = self.0.entry(key.to_owned()).or_default();
        let index = now / window;
        let in_window = |of: u64| passed.iter().filter(|at| **at / window == of).count() as f64;
        let covered = ((index + 1) * window - now) as f64 / window as f64;
        let old = if sliding { in_window(index - 1) * covered } else { 0.0 };
        let passes = old + in_window(index) + 1.0 <= limit as f64;
        if passes {
            passed.push(now);
        }
        passes
    }
}

#[test]
fn the_script_counts_as_a_plain_counter_does() {
    if !Redis::is_there() {
        return;
    }
    let redis = Redis::start(&[]);
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/sluice-l7/src/filters/rate_limit/count.lua");
    let source = std::fs::read_to_string(file).unwrap();
    // The time is given, so that it can be any.
    let timed = source.replace("redis.call('TIME')", "{ARGV[4], ARGV[5]}");
    assert_ne!(timed, source);
    let script = redis.ask(&["SCRIPT", "LOAD", &timed]);
    let mut random = fastrand::Rng::with_seed(11);
    let (mut plain, mut expected, mut commands) = (Plain::default(), Vec::new(), String::new());
    for (place, (limit, seconds)) in [(1, 1), (3, 60), (10, 1), (100, 3600)].into_iter().enumerate()
    {
        for sliding in [true, false] {
            let (window, mut now) = (seconds * 1_000_000, 1_700_000_000_000_000);
            for _ in 0..1000 {
                now += random.u64(0..window * 2 / limit / 3);
                let key = format!("k{place}{sliding}{}", random.bool());
                let (flag, time) = (u8::from(sliding), (now / 1_000_000, now % 1_000_000));
                commands += &format!(
                    "EVALSHA {script} 1 {key} {limit} {window} {flag} {} {}\n",
                    time.0, time.1
                );
                expected.push((key.clone(), plain.passes(&key, now, limit, window, sliding)));
            }
        }
    }
    let mut client = tools::command("redis-cli");
    client.args(["-p", &redis.addr().port().to_string()]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    std::thread::spawn(move || input.write_all(commands.as_bytes()).unwrap());
    let output = client.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<i64> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(lines.len(), expected.len() * 4);
    let both = expected
        .iter()
        .map(|(_, passes)| *passes)
        .fold((0, 0), |(yes, no), passes| if passes { (yes + 1, no) } else { (yes, no + 1) });
    assert!(both.0 > 1000 && both.1 > 1000, "{both:?}");
    for (step, (line, (key, passes))) in lines.chunks(4).zip(&expected).enumerate() {
        assert_eq!(line[0] == 1, *passes, "step {step} of {key}");
        assert_eq!(line[2] == 0, *passes, "step {step} of {key}: who is refused waits");
    }
}
