//! The admin pages of Envoy, asked by somebody who means harm: each page is answered, within bounds, and nothing changes that was
//! not asked for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use sluice_testkit::http;

use crate::envoy_pages::{Bench, asked};

/// Every page that a GET shows.
const PAGES: [&str; 13] = [
    "certs",
    "clusters",
    "config_dump",
    "help",
    "hot_restart_version",
    "init_dump",
    "listeners",
    "memory",
    "ready",
    "runtime",
    "server_info",
    "stats",
    "stats/prometheus",
];

/// Every page that is a change, but for those that end something.
const CHANGES: [&str; 5] =
    ["logging", "reopen_logs", "reset_counters", "runtime_modify", "healthcheck/ok"];

/// Parameters of all pages, and words that some take.
const WORDS: [&str; 34] = [
    "filter",
    "format",
    "usedonly",
    "type",
    "invert_filter",
    "resource",
    "mask",
    "name_regex",
    "include_eds",
    "level",
    "paths",
    "group",
    "key",
    "action",
    "histogram_buckets",
    "json",
    "prometheus",
    "text",
    "Gauges",
    "Counters",
    "dynamic_listeners",
    "static_clusters",
    "cluster.name",
    "bootstrap",
    "info",
    "off",
    ".*",
    "^(a|b)*$",
    "(a{1,99}){1,99}",
    "%00",
    "%ff%fe",
    "%25",
    "listeners",
    "nosuch",
];

/// How much longer than the whole page an answer may be that says what is wrong with a query.
const SAYING: usize = 64 * 1024;

/// A query of words and letters.
fn random_query(random: &mut fastrand::Rng) -> String {
    let letters: Vec<char> = r"%&=+()[]{}*?.^$\|aZ0/:,;@!~`'-_".chars().collect();
    let mut query = String::new();
    for _ in 0..random.usize(..8) {
        match random.u8(..4) {
            0 => (0..random.usize(..12))
                .for_each(|_| query.push(letters[random.usize(..letters.len())])),
            1 => query.push_str(WORDS[random.usize(..WORDS.len())]),
            _ => {
                let [name, value] = [(); 2].map(|()| WORDS[random.usize(..WORDS.len())]);
                query.push_str(&format!("{name}={value}"));
            }
        }
        query.push('&');
    }
    query
}

/// Sends bytes, whatever they are; returns the first line of what comes back, and how much that is.
fn raw(to: SocketAddr, bytes: &[u8]) -> (String, usize) {
    let mut stream = TcpStream::connect(to).unwrap();
    // What is refused early may be closed before all of it was sent, and what is cut off may get no answer.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\n').next().unwrap()).into();
    (line, answer.len())
}

#[test]
fn queries_that_are_cut_or_too_large_are_refused() {
    let bench = Bench::with("");
    let addr = bench.envoy.admin();
    let whole = r"/stats?filter=^%5E(a|b)*\.c$&format=json&usedonly&type=Gauges";
    for end in 1..=whole.len() {
        let (status, _) = http::get(addr, &whole[..end]).unwrap();
        assert!([200, 400, 404].contains(&status), "{}: {status}", &whole[..end]);
    }
    let long = "a".repeat(20_000);
    let bomb = "(a%7B1,1000%7D)%7B1,1000%7D%7B1000%7D";
    for query in [
        format!("/stats?filter={long}"),
        format!("/stats?filter={bomb}"),
        format!("/clusters?filter={bomb}"),
        format!("/config_dump?name_regex={bomb}"),
        format!("/config_dump?mask={long}"),
    ] {
        assert_eq!(http::get(addr, &query).unwrap().0, 400, "{}", &query[..30]);
    }
    assert_eq!(bench.get("/ready"), "LIVE\n");
}

#[test]
fn every_page_answers_any_query_within_bounds() {
    let bench = Bench::with("");
    let addr = bench.envoy.admin();
    let whole = |page: &str| http::get(addr, &format!("/{page}")).unwrap().1.len();
    let largest = PAGES.iter().map(|page| whole(page)).max().unwrap();
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    let (first, count) = seed.map_or((0, 60), |seed| (seed, 1));
    for seed in first..first + count {
        eprintln!("SLUICE_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for page in PAGES {
            let query = random_query(&mut random);
            let (status, text) = http::get(addr, &format!("/{page}?{query}")).unwrap();
            assert!([200, 400, 404].contains(&status), "{page}?{query}: {status} {text}");
            // JSON and Prometheus have several lines for one of text.
            let most = 16 * largest + SAYING;
            assert!(text.len() <= most, "{page}?{query}: {} bytes", text.len());
        }
        for page in CHANGES {
            let query = random_query(&mut random);
            let (status, text) = asked(
                addr,
                "POST",
                &format!("/{page}?{query}"),
                "host: 127.0.0.1\r\ncontent-length: 0\r\n",
            );
            assert!([200, 400, 503].contains(&status), "{page}?{query}: {status} {text}");
        }
    }
    assert_eq!(bench.get("/ready"), "LIVE\n");
}

#[test]
fn bytes_and_methods_of_any_kind_do_no_harm() {
    let bench = Bench::with("");
    let addr = bench.envoy.admin();
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "PRI", "X-ANY"] {
        for page in PAGES.iter().chain(&CHANGES).chain(&["quitquitquit", "drain_listeners"]) {
            let (status, _) = asked(addr, method, &format!("/{page}"), "host: localhost\r\n");
            assert!([400, 404, 405].contains(&status), "{method} {page}: {status}");
        }
    }
    // Targets that are no text, too long, or of other forms.
    let long = "a=b&".repeat(1 << 18);
    let hostile: Vec<Vec<u8>> = vec![
        b"GET /stats?filter=\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"GET /stats?filter=a b HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"GET /stats?filter=\0 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"GET /stats?\"<>` HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"GET http://evil.example/stats HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"GET * HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        format!("GET /stats?{long} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes(),
        format!("POST /logging?{long} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").into_bytes(),
        format!("GET /ready HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").into_bytes(),
        b"POST /runtime_modify?a=b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0; 4096],
    ];
    let page = bench.get("/stats").len();
    for bytes in hostile {
        let (line, size) = raw(addr, &bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(line.is_empty() || line.starts_with("HTTP/1."), "{shown}: {line}");
        assert!(size <= 2 * page + SAYING, "{shown}: {size} bytes");
    }
    // A page of another site neither changes nor ends anything, however it says where it is from.
    for from in [
        "origin: http://evil.example",
        "origin: null",
        "origin: http://127.0.0.1.evil.example",
        "origin: https://localhost:1",
        "origin: \u{e9}",
        "origin:",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
    ] {
        for page in [
            "quitquitquit",
            "drain_listeners",
            "healthcheck/fail",
            "runtime_modify?web.share=9",
            "logging?level=off",
        ] {
            let (status, text) = asked(
                addr,
                "POST",
                &format!("/{page}"),
                &format!("host: localhost\r\n{from}\r\ncontent-length: 0\r\n"),
            );
            assert!([400, 403].contains(&status), "{page}, {from}: {status} {text}");
        }
    }
    assert_eq!(bench.get("/ready"), "LIVE\n");
    assert!(!bench.get("/runtime").contains("\"9\""));
    assert!(!bench.post("/logging").1.contains("off"));
}
