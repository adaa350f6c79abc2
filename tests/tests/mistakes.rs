//! Common mistakes in configurations: each is detected, and the output of `check` explains how to fix it.
//!
//! The pages in `tests/messages/` are the complete output; a page is a list of mistakes with a title each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sluice_testkit::{Authority, Sluice};
use sluice_tests::messages::{check, out, sluice, snapshot};

/// A configuration with one relay; `more` goes into the cluster.
fn relay(more: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:7001, relay: up }}]\n\
         clusters:\n  up:\n    endpoints: [127.0.0.1:7002]\n    {more}\n"
    )
}

/// A configuration with one rule.
fn rule(rule: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:7001, http: main }}]\n\
         routes:\n  main:\n    - hosts: \"*\"\n      rules:\n        - {{ {rule} }}\n\
         clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }}, ring: {{ endpoints: [127.0.0.1:7003], balance: maglev }} }}\n"
    )
}

/// A configuration with one rule, in which every cluster is used.
fn to_up(of: &str) -> String {
    rule(of).replace(", ring: { endpoints: [127.0.0.1:7003], balance: maglev }", "")
}

/// A configuration with one listener and a cluster.
fn listener(says: &str) -> String {
    relay("").replace("relay: up", says)
}

/// A configuration with one listener for datagrams.
fn flows(says: &str) -> String {
    listener(says).replace("address: 127", "address: udp://127")
}

/// A configuration with one listener and the routes `main`.
fn serving(says: &str) -> String {
    listener(says).replace("clusters:", "routes: { main: [{ cluster: up }] }\nclusters:")
}

/// A configuration with one listener that has QUIC.
fn quic(settings: &str) -> String {
    serving(&format!("{CERTIFICATE}, http: main, quic: {settings}"))
}

const CERTIFICATE: &str = "tls: { certificates: [{ cert: a.pem, key: a.key }] }";

/// A configuration with one chain.
fn chain(chain: &str) -> String {
    format!(
        "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - {chain}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ respond: {{}} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }} }}\n"
    )
}

/// A configuration with one filter for HTTP.
fn http(filter: &str) -> String {
    let main = format!("http: {{ routes: main, filters: [{{ {filter} }}] }}");
    to_up("cluster: up").replace("http: main", &main)
}

/// A configuration with an access log.
fn log(settings: &str) -> String {
    beside(&format!("access_log: [{{ {settings} }}]"))
}

/// A configuration with one relay and another section.
fn beside(section: &str) -> String {
    format!("{section}\n{}", relay(""))
}

/// Checks that every mistake causes an error or a warning with a remedy in its message or help.
#[track_caller]
fn page(name: &str, mistakes: &[(&str, String)]) {
    let mut text = String::new();
    for (title, yaml) in mistakes {
        let (_, said) = check(yaml);
        assert!(
            !said.contains("usable; 0 errors, 0 warnings"),
            "{title}: nothing was found\n{yaml}\n{said}"
        );
        let _ = writeln!(text, "=== {title}\n\n{said}");
    }
    snapshot(name, &text);
}

#[test]
fn of_values() {
    page(
        "mistakes-values",
        &[
            (
                "an endpoint is a URL",
                relay("").replace("[127.0.0.1:7002]", "[http://127.0.0.1:7002/x]"),
            ),
            (
                "an endpoint is a URL with TLS",
                relay("").replace("[127.0.0.1:7002]", "[https://a.test]"),
            ),
            ("an endpoint is a bare port", relay("").replace("[127.0.0.1:7002]", "[7002]")),
            ("an address is a bare port", relay("").replace("127.0.0.1:7001", "7001")),
            ("a port is too large", relay("").replace("127.0.0.1:7001", "127.0.0.1:99999")),
            ("an address is a name", relay("").replace("127.0.0.1:7001", "localhost:7001")),
            ("a space in a duration", relay("connect_timeout: 5 min")),
            ("a long word for a unit", relay("connect_timeout: 5min")),
            ("a time-out of zero", relay("connect_timeout: 0s")),
            ("an interval of zero", relay("health: { tcp: {}, interval: 0s }")),
            ("zero where none is meant", rule("cluster: up, timeout: { total: 0s }")),
            ("a limit of zero", relay("limits: { connections: 0 }")),
            (
                "a weight of zero",
                relay("").replace("[127.0.0.1:7002]", "[{ address: 127.0.0.1:7002, weight: 0 }]"),
            ),
            ("shares of less than everything", rule("split: { up: 90%, ring: 5% }")),
            ("shares of more than everything", rule("split: { up: 95%, ring: { weight: 10% } }")),
            ("a share and a weight", rule("split: { up: 95%, ring: 5 }")),
            ("a share that is no percentage", rule("split: { up: 99.5%, ring: 0.5% }")),
            ("`true` for a section that has no defaults", beside("admin: true")),
            ("`true` for certificates", relay("").replace("relay: up", "tls: true, relay: up")),
            (
                "a variable that is not set",
                relay("").replace("127.0.0.1:7002", "\"${UPSTREAM}:7002\""),
            ),
            (
                "a variable of a secret that is not set",
                rule("match: { headers: { x-key: { env: API_KEY } } }, cluster: up"),
            ),
            ("a variable without its closing brace", relay("connect_timeout: ${TIMEOUT")),
            ("a variable with a name that is none", relay("connect_timeout: ${time-out}")),
            ("a variable whose value is not valid", relay("connect_timeout: ${PATH}")),
            ("a variable whose value is not among the choices", relay("balance: { env: PATH }")),
            (
                "a variable that names no cluster",
                listener("relay: '${SLUICE_TEST_CLUSTER:-ghost}'"),
            ),
            ("a file of a secret that is missing", relay("connect_timeout: { file: timeout }")),
            ("a folder for a secret", relay("connect_timeout: { file: . }")),
            ("a method in lower case", rule("match: { method: get }, cluster: up")),
            ("an unknown scheme", rule("redirect: { scheme: htps }")),
            (
                "a window that stalls",
                relay("").replace("relay: up", "http: { routes: up, http2: { stream_window: 0 } }"),
            ),
            ("a status that is none", rule("cluster: up, retry: { statuses: [600] }")),
            (
                "a range of statuses from the end",
                rule("cluster: up, retry: { statuses: [504-500] }"),
            ),
            (
                "a suffix that is none of a host",
                rule("cluster: up, mirror: { cluster: up, host_suffix: /x }"),
            ),
            ("a mirror of a cluster that is unknown", rule("cluster: up, mirror: upp")),
            (
                "a relay with a jitter without a duration",
                relay("").replace("relay: up", "relay: { cluster: up, max_duration_jitter: 5% }"),
            ),
            ("a mirror of nothing", rule("cluster: up, mirror: { share: 5% }")),
            (
                "a mirror of a cluster and a header",
                rule("cluster: up, mirror: { cluster: up, cluster_header: x-to }"),
            ),
            ("a redirect that is none", rule("cluster: up, follow_redirects: { statuses: [304] }")),
            (
                "a copy of a header of the message",
                rule("cluster: up, follow_redirects: { copy_headers: host }"),
            ),
            (
                "a redirect to a rule that there is not",
                rule("name: a, cluster: up, follow_redirects: { routes: [a, b] }"),
            ),
            (
                "a longest wait without a header",
                rule("cluster: up, retry: { when: reset, reset_max: 1m }"),
            ),
            (
                "a jitter without an age",
                relay("").replace("relay: up", "http: { routes: up, max_age_jitter: 5% }"),
            ),
            ("hedging without a time for an attempt", rule("cluster: up, retry: { hedge: true }")),
            (
                "hedging with one attempt",
                rule("cluster: up, timeout: { per_try: 1s }, retry: { hedge: true, attempts: 1 }"),
            ),
            ("a retry without a condition", rule("cluster: up, retry: { attempts: 3 }")),
            (
                "an unknown format",
                rule("cluster: up, retry: { when: reset, reset_headers: { name: a, format: ms } }"),
            ),
            ("a host with a path", rule("cluster: up, rewrite: { host: \"a.test/x\" }")),
            (
                "a host of a part that is none",
                rule("cluster: up, rewrite: { host_regex: { from: query, find: a, replace: b } }"),
            ),
            (
                "a host of a bad regex",
                rule("cluster: up, rewrite: { host_regex: { find: \"a(b\", replace: b } }"),
            ),
            (
                "two ways to a host",
                rule("cluster: up, rewrite: { host: a.test, host_regex: { find: a, replace: b } }"),
            ),
            (
                "an original that is not rewritten",
                rule("cluster: up, rewrite: { path: /a, originals: [path, host] }"),
            ),
            ("a bad regex", rule("match: { path: { regex: \"/a/(b\" } }, cluster: up")),
            (
                "a regex that anchors its beginning",
                rule("match: { path: { regex: \"^/a/\" } }, cluster: up"),
            ),
            (
                "a regex in any case",
                rule("match: { path: { regex: /a }, case_sensitive: false }, cluster: up"),
            ),
            ("any case of no path", rule("match: { case_sensitive: false }, cluster: up")),
        ],
    );
}

#[test]
fn of_yaml_and_places() {
    page(
        "mistakes-places",
        &[
            ("a wrong indentation", "clusters:\n  up:\n    endpoints: [127.0.0.1:1]\n   balance: random\n".into()),
            ("a tab", "clusters:\n\tup: { endpoints: [127.0.0.1:1] }\n".into()),
            ("a variable without quotes", "clusters: { up: { endpoints: [${UP}] } }\n".into()),
            ("a star without quotes", "routes: { main: [{ hosts: * }] }\n".into()),
            (
                "a child that is not indented",
                "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - match:\n        sni: a.test\n        relay: up\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
            (
                "HTTP in the match of a chain",
                "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - { match: { path: /a }, relay: up }\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
            ("a field of another section", relay("trusted_hops: 1")),
            ("a misspelt field that must be there", relay("").replace("address: 127", "adress: 127")),
            ("a file of Envoy", "static_resources: { listeners: [] }\nadmin: { address: 127.0.0.1:9901 }\n".into()),
        ],
    );
}

#[test]
fn of_chains_and_listeners() {
    page(
        "mistakes-chains",
        &[
            ("a server name and HTTP without TLS", chain("{ match: { sni: a.test }, http: main }")),
            ("HTTP on what is not HTTP", chain("{ match: { protocol: ssh }, http: main }")),
            (
                "TLS on what is in clear",
                chain("{ match: { protocol: http1 }, tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main }"),
            ),
            ("two settings for one address", format!("admin: {{ address: 127.0.0.1:7001 }}\n{}", relay(""))),
            (
                "QUIC and UDP on one port",
                "listeners:\n  - { name: a, address: 127.0.0.1:7001, quic: true, tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main }\n  - { name: b, address: \"udp://127.0.0.1:7001\", relay: up }\nroutes: { main: [{ hosts: \"*\", rules: [{ respond: {} }] }] }\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
            ("an address of another machine", relay("").replace("127.0.0.1:7001", "192.0.2.1:7001")),
            ("a unix socket in no folder", relay("").replace("127.0.0.1:7001", "unix:///nowhere/at/all.sock")),
        ],
    );
}

#[test]
fn of_clusters() {
    let udp = |relay: &str, cluster: &str| {
        format!(
            "listeners: [{{ name: a, address: \"udp://127.0.0.1:7001\", relay: {relay} }}]\n\
             clusters: {{ up: {{ endpoints: [127.0.0.1:7002], {cluster} }} }}\n"
        )
    };
    page(
        "mistakes-clusters",
        &[
            (
                "settings of HTTP where connections are relayed",
                relay("reuse: { idle: 1 }\n    limits: { requests: 5 }"),
            ),
            (
                "an endpoint that is listed twice",
                relay("").replace("[127.0.0.1:7002]", "[127.0.0.1:7002, 127.0.0.1:7002]"),
            ),
            (
                "a check that is slower than its interval",
                relay("health: { tcp: {}, interval: 1s, timeout: 3s }"),
            ),
            ("UDP to a cluster with TLS", udp("up", "tls: { ca: ca.pem }")),
            ("UDP to a cluster with a PROXY header", udp("up", "send_proxy_protocol: v2")),
            ("UDP with what only connections have", udp("{ cluster: up, max_duration: 1h }", "")),
            ("connections with what only UDP has", relay("").replace("relay: up", "relay: { cluster: up, per_packet: true, hash: { payload: { length: 4 } } }")),
            ("datagrams that are spread and kept together", udp("{ cluster: up, per_packet: true, sticky: source_ip }", "")),
            ("a hash of two things", udp("{ cluster: up, hash: { key: a, payload: { length: 4 } } }", "balance: maglev")),
            ("a hash of what no datagram has", udp("{ cluster: up, hash: { payload: { offset: 65000, length: 1000 } } }", "balance: maglev")),
            ("QUIC by name, with its datagrams spread", udp("up", "").replace("relay: up", "chains: [{ match: { sni: a.test }, relay: { cluster: up, per_packet: true } }]")),
            ("settings of checks where there are none", relay("").replace("[127.0.0.1:7002]", "[{ address: 127.0.0.1:7002, check: { port: 7003 } }, { address: 127.0.0.1:7004, check: {} }]")),
            ("a host for checks that name none", relay("health: { tcp: true }").replace("[127.0.0.1:7002]", "[{ address: 127.0.0.1:7002, check: { host: a.test } }, { address: \"unix:///run/x.sock\", check: { port: 7003 } }]")),
            ("an ejection to enforce that there is not", relay("outlier: { enforce: { success_rate: 50% } }")),
            ("latency by a factor of nothing", relay("outlier: { latency: { factor: 1 } }")),
            ("silence where no datagrams go", relay("outlier: { silence: {} }")),
            (
                "UDP to a unix socket",
                udp("up", "").replace("[127.0.0.1:7002]", "[\"unix:///run/x.sock\"]"),
            ),
            (
                "a relay to a cluster of HTTP/3",
                relay("{ protocol: http3, tls: { ca: ca.pem } }")
                    .replace("{ protocol", "protocol")
                    .replace("ca.pem } }", "ca.pem }")
                    .replace("http3, tls", "http3\n    tls"),
            ),
            (
                "a PROXY header where a request names the cluster",
                rule("cluster_header: x-cluster")
                    .replace("[127.0.0.1:7002]", "[127.0.0.1:7002], send_proxy_protocol: v1"),
            ),
        ],
    );
}

#[test]
fn of_names_that_clients_choose() {
    let relay = |says: &str| listener(&format!("relay: {{ {says} }}"));
    page(
        "mistakes-by-name",
        &[
            ("clusters that nobody lists", relay("cluster_from: sni")),
            ("a list without a name", relay("cluster: up, allow: [up]")),
            ("a cluster in two ways", relay("cluster_from: sni, cluster: up, allow: [up]")),
            ("a name that no cluster has", relay("cluster_from: sni, allow: [up, \"*.test\"]")),
            ("a pattern that is none", relay("cluster_from: sni, allow: [\"*\"]")),
            (
                "flows that name a cluster",
                relay("cluster_from: sni, allow: [up]")
                    .replace("address: 127", "address: udp://127"),
            ),
        ],
    );
}

#[test]
fn of_forward_proxies() {
    let forward = |says: &str| relay(says).replace("endpoints: [127.0.0.1:7002]", "forward: true");
    let rule = |says: &str, forward: &str| {
        to_up(says).replace("endpoints: [127.0.0.1:7002]", &format!("forward: {forward}"))
    };
    page(
        "mistakes-forward",
        &[
            (
                "hosts with a wait for sessions",
                forward("limits: { connections: 5, queue: { sticky_timeout: 1s } }"),
            ),
            ("hosts in two ways", relay("forward: true")),
            ("a name for every host", forward("tls: { sni: a.test }")),
            ("checks of hosts that are not known", forward("health: { tcp: true }")),
            ("a balancer with nothing to choose from", forward("balance: maglev")),
            ("addresses of a host as endpoints", forward("dns: { mode: logical }")),
            ("a port that is none", rule("cluster: up", "{ ports: [0, 443] }")),
            ("too many hosts", rule("cluster: up", "{ max_hosts: 1000000 }")),
            ("a pattern for every host", rule("cluster: up", "{ hosts: [\"*\"] }")),
            ("flows to hosts", forward("").replace("address: 127", "address: udp://127")),
            ("copies of requests to hosts", rule("cluster: up, mirror: [up]", "true")),
            ("a fallback to hosts", relay("fallback: out\n  out: { forward: true }")),
        ],
    );
}

#[test]
fn of_discovery() {
    let instead = |of: &str| relay("").replace("endpoints: [127.0.0.1:7002]", of);
    page(
        "mistakes-discovery",
        &[
            ("an endpoint file that is missing", instead("endpoints_file: gone.json")),
            ("an endpoint file without entries", instead("endpoints_file: /dev/null")),
            ("endpoints in two places", relay("endpoints_file: up.json")),
            ("a service with a port", instead("endpoints: srv://_pg._tcp.a.test:5432")),
            ("a host as a service", instead("endpoints: srv://a.test")),
            (
                "a service without a name to verify",
                instead("endpoints: srv://_pg._tcp.a.test\n    tls: true"),
            ),
            ("bounds in the wrong order", relay("dns: { min_ttl: 10m, retry: 1m }")),
            ("bounds without a TTL", relay("dns: { refresh: 10s, max_ttl: 1m }")),
            (
                "a logical host whose connections end",
                relay("dns: { mode: logical }\n    on_endpoint_removed: close"),
            ),
            ("a policy for names where there are none", relay("egress: true")),
            ("a family that is none", relay("dns: { family: ipv4 }")),
            ("a mapped block", relay("egress: { allow: [\"::ffff:10.0.0.0/104\"] }")),
        ],
    );
}

#[test]
fn of_balancing() {
    let endpoints = |list: &str, more: &str| relay(more).replace("[127.0.0.1:7002]", list);
    let one = "[{ address: 127.0.0.1:7002, locality: a }]";
    page(
        "mistakes-balancing",
        &[
            ("a balancer that does not exist", relay("balance: leastconn")),
            ("two balancers", relay("balance: { maglev: {}, ring_hash: {} }")),
            ("no balancer", relay("balance: {}")),
            ("a setting of another balancer", relay("balance: { maglev: { choices: 2 } }")),
            ("a single choice", relay("balance: { least_request: { choices: 1 } }")),
            ("a bias that is no number", relay("balance: { least_request: { bias: high } }")),
            ("a table whose size is no prime", relay("balance: { maglev: { table_size: 65536 } }")),
            (
                "a ring that ends before it begins",
                relay("balance: { ring_hash: { min_size: 10, max_size: 5 } }"),
            ),
            (
                "weights that expire before they are updated",
                rule("cluster: up").replace(
                    "[127.0.0.1:7002]",
                    "[127.0.0.1:7002], balance: { load_reports: { update: 5m } }",
                ),
            ),
            ("reports of load by a relay", relay("balance: load_reports")),
            ("a load below the fair share", relay("balance: { ring_hash: { max_load: 90% } }")),
            ("slow start by hash", relay("balance: maglev\n    slow_start: 30s")),
            ("slow start without a window", relay("slow_start: { min_weight: 20% }")),
            ("overprovisioning below the whole", relay("failover: { overprovisioning: 50% }")),
            ("a delay with nothing to fail back from", relay("failover: { failback_delay: 5s }")),
            (
                "a backup with a priority",
                endpoints("[{ address: 127.0.0.1:7002, backup: true, priority: 2 }]", ""),
            ),
            (
                "a priority that is too low",
                endpoints("[{ address: 127.0.0.1:7002, priority: 128 }]", ""),
            ),
            ("a locality without weights", endpoints(one, "")),
            ("a locality that has no weight", endpoints(one, "localities: { b: 1 }")),
            ("an endpoint without a locality", relay("localities: { a: 1 }")),
            ("a locality of four parts", endpoints(one, "localities: { a/b/c/d: 1 }")),
            ("a locality without any weight", endpoints(one, "localities: { a: 0 }")),
        ],
    );
}

#[test]
fn of_subsets() {
    let with = |subsets: &str| {
        let list = "[{ address: 127.0.0.1:7002, metadata: { version: v1, stage: [prod, test] } }]";
        relay(subsets).replace("[127.0.0.1:7002]", list)
    };
    let asking = |subsets: &str, metadata: &str| {
        with(subsets).replace(
            "relay: up",
            &format!("relay: {{ cluster: up, endpoint_metadata: {metadata} }}"),
        )
    };
    let by_rule = |metadata: &str| {
        let to = format!("cluster: up, endpoint_metadata: {metadata}");
        to_up(&to).replace(
            "[127.0.0.1:7002]",
            "[{ address: 127.0.0.1:7002, metadata: { version: v1 } }], subsets: { selectors: version, fallback: any_endpoint }",
        )
    };
    page(
        "mistakes-subsets",
        &[
            ("metadata that nothing looks at", with("")),
            ("subsets by nothing", with("subsets: { fallback: any_endpoint }")),
            ("a selector without keys", with("subsets: { selectors: [[]], fallback: any_endpoint }")),
            ("a key twice", with("subsets: { selectors: [[version, version]], fallback: any_endpoint }")),
            (
                "the same keys twice",
                with("subsets: { selectors: [[stage, version], [version, stage]], fallback: any_endpoint }"),
            ),
            ("a key that no endpoint has", with("subsets: { selectors: tenant, fallback: any_endpoint }")),
            ("a fallback that does not exist", with("subsets: { selectors: version, fallback: all }")),
            ("no default subset to fall back to", with("subsets: { selectors: version, fallback: default_subset }")),
            (
                "a default subset that no fallback leads to",
                with("subsets: { selectors: version, fallback: any_endpoint, default_subset: { version: v1 } }"),
            ),
            (
                "a default subset without endpoints",
                with("subsets: { selectors: version, fallback: default_subset, default_subset: { version: v2 } }"),
            ),
            (
                "fewer keys that are not fewer",
                with("subsets: { selectors: [{ keys: version, fallback: { keys_subset: version } }], fallback: any_endpoint }"),
            ),
            (
                "fewer keys that no selector has",
                with("subsets: { selectors: [{ keys: [stage, version], fallback: { keys_subset: version } }], fallback: any_endpoint }"),
            ),
            (
                "bounded load",
                with("subsets: { selectors: version, fallback: any_endpoint }\n    balance: { maglev: { max_load: 125% } }")
                    .replace("relay: up", "relay: { cluster: up, hash: source_ip }"),
            ),
            ("a relay that asks for nothing", with("subsets: version")),
            ("a relay to a cluster without subsets", asking("", "{ version: v1 }")),
            ("a relay that asks for other keys", asking("subsets: version", "{ stage: prod, version: v1 }")),
            ("a relay that asks for what no endpoint has", asking("subsets: version", "{ version: v2 }")),
            ("a relay that asks for no key", asking("subsets: version", "{}")),
            ("a value from a header, for a relay", asking("subsets: version", "{ version: { header: x-version } }")),
            (
                "metadata of what clients name",
                asking("subsets: version", "{ version: v1 }")
                    .replace("cluster: up,", "cluster_from: sni, allow: [up],"),
            ),
            ("a value from something else", by_rule("{ version: { cookie: version } }")),
            ("several values at once", by_rule("{ version: [v1, v2] }")),
            ("a rule that asks for other keys", by_rule("{ tenant: { header: x-tenant } }")),
            (
                "a redirect that asks for an endpoint",
                to_up("redirect: { scheme: https }, endpoint_metadata: { version: v1 }"),
            ),
            (
                "a share that asks for other keys",
                by_rule("{ version: v1 }").replace("cluster: up,", "split: { up: { weight: 1, endpoint_metadata: { stage: prod } } },"),
            ),
            (
                "a copy for a cluster that refuses it",
                by_rule("{ version: v1 }")
                    .replace("cluster: up,", "cluster: up, mirror: other,")
                    .replace("clusters: {", "clusters: { other: { endpoints: [{ address: 127.0.0.1:7004, metadata: { version: v1 } }], subsets: version },"),
            ),
        ],
    );
}

#[test]
fn of_zones() {
    let node = "node: { locality: a, cluster: up }\n";
    let aware = |more: &str| {
        let endpoints: Vec<String> = (1..=6)
            .map(|port| format!("{{ address: 127.0.0.1:{}, locality: a }}", 7100 + port))
            .collect();
        let list = format!("[{}]", endpoints.join(", "));
        relay(&format!("zone_aware: true\n    {more}")).replace("[127.0.0.1:7002]", &list)
    };
    page(
        "mistakes-zones",
        &[
            ("a process that says nothing of itself", aware("")),
            ("half of what must be known", format!("node: {{ locality: a }}\n{}", aware(""))),
            ("a place that no cluster looks at", format!("{node}{}", relay(""))),
            (
                "a fleet that does not exist",
                format!("node: {{ locality: a, cluster: proxies }}\n{}", aware("")),
            ),
            ("weights as well", format!("{node}{}", aware("localities: { a: 1 }"))),
            (
                "a hash",
                format!("{node}{}", aware("balance: maglev"))
                    .replace("relay: up", "relay: { cluster: up, hash: source_ip }"),
            ),
            ("too few endpoints", format!("{node}{}", relay("zone_aware: true"))),
            ("an aperture of one", relay("aperture: 1")),
            ("an aperture for all endpoints", relay("aperture: 2")),
            (
                "an aperture by hash",
                relay("aperture: 2\n    balance: maglev")
                    .replace("relay: up", "relay: { cluster: up, hash: source_ip }"),
            ),
            ("an aperture and zones", format!("{node}{}", aware("aperture: 2"))),
            ("a name that nothing goes by", format!("node: {{ id: a }}\n{}", relay(""))),
            ("latencies that are never forgotten", relay("balance: { peak_ewma: { decay: 0s } }")),
        ],
    );
}

#[test]
fn of_rules() {
    page(
        "mistakes-rules",
        &[
            ("a hash that nothing goes by", rule("cluster: up, hash: source_ip")),
            (
                "a time to live of what is no cookie",
                rule("cluster: ring, hash: { by: source_ip, ttl: 1h }"),
            ),
            ("a balancer without its hash", rule("cluster: ring")),
            ("a split of nothing", rule("split: { up: 0, ring: 0 }, hash: source_ip")),
            ("a share of nothing", rule("match: { runtime: { percent: 0% } }, cluster: up")),
            (
                "conditions that exclude each other",
                rule("match: { tls: false, sni: a.test }, cluster: up"),
            ),
            (
                "a filter that no chain has is left out",
                rule("cluster: up, filters: { buffer: skip }"),
            ),
            (
                "settings that do nothing",
                rule("respond: { status: 200 }, retry: { when: reset }, hash: source_ip"),
            ),
            (
                "two rules of one name",
                rule(
                    "name: x, match: { path: /a }, cluster: up }\n        - { name: x, cluster: up",
                ),
            ),
            (
                "a chain that replaces nothing",
                rule("cluster: up").replace(
                    "http: main",
                    "http: { routes: main, filters: [{ set_headers: { replace: true } }] }",
                ),
            ),
        ],
    );
}

#[test]
fn of_addresses_that_lead_back() {
    page(
        "mistakes-loops",
        &[
            ("a relay to itself", relay("").replace("7002", "7001")),
            ("a relay to itself on every address", relay("").replace("7002", "7001").replace("address: 127.0.0.1", "address: 0.0.0.0")),
            ("a relay to itself by name", relay("").replace("127.0.0.1:7002", "localhost:7001")),
            ("a relay of UDP to itself", relay("").replace("7002", "7001").replace("address: 127", "address: udp://127")),
            ("a rule to its own listener", rule("cluster: up").replace("7002", "7001")),
            ("a rule to its own listener with another path", rule("cluster: up, rewrite: { path: /b }").replace("7002", "7001")),
            (
                "two listeners that lead to each other",
                "listeners:\n  - { name: a, address: 127.0.0.1:7001, relay: b }\n  - { name: b, address: 127.0.0.1:7002, relay: a }\nclusters: { a: { endpoints: [127.0.0.1:7001] }, b: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
        ],
    );
    // Not a loop: another transport, the address of another machine, a port of its own.
    let udp =
        relay("").replace("address: 127.0.0.1", "address: udp://127.0.0.1").replace("7002", "7001");
    let udp = format!("{udp}  tcp: {{ endpoints: [127.0.0.1:7001] }}\n").replace(
        "relay: up }]",
        "relay: other }, { name: t, address: 127.0.0.1:7003, relay: tcp }]",
    );
    let udp = udp.replace("  up:", "  other: { endpoints: [127.0.0.1:7009] }\n  up:");
    for yaml in [
        udp,
        relay("")
            .replace("7002", "7001")
            .replace("address: 127.0.0.1", "address: 0.0.0.0")
            .replace("[127.0.0.1", "[192.0.2.1"),
    ] {
        let (_, said) = check(&yaml);
        assert!(!said.contains("proxy-loop"), "{said}");
    }
    // A second pass may take another path.
    let own = relay("").replace("7002", "7001");
    for way in [
        "filters: [{ deny: [127.0.0.1] }], relay: up",
        "chains: [{ match: { source: 192.0.2.0/24 }, relay: up }]",
        "chains: [{ match: { transport: plain }, relay: up }, { relay: up }]",
    ] {
        let (code, said) = check(&own.replace("relay: up", way));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("warning[proxy-loop]"), "{said}");
    }
}

#[test]
fn correct_configurations_cause_no_warning() {
    for (rule_of, warned) in [
        ("match: { path: { regex: '^/v1' } }, cluster: up", true),
        ("match: { path: { regex: '^/a\\.b' } }, cluster: up", true),
        ("match: { path: { regex: '^/v1\\.' } }, cluster: up", true),
        ("match: { path: { regex: '^/v[0-9]+/.+' } }, cluster: up", false),
        ("match: { path: { regex: '^/(a|b)' } }, cluster: up", false),
        ("match: { path: { regex: '^/v\\d' } }, cluster: up", false),
        ("match: { path: { regex: '(?i)/V\\w+\\b.*' } }, cluster: up", false),
        ("match: { path: { regex: '/v1' } }, cluster: up", false),
    ] {
        let (_, said) = check(&rule(rule_of));
        assert!(said.contains("0 errors"), "{rule_of}: {said}");
        assert_eq!(said.contains("half-anchored"), warned, "{rule_of}: {said}");
    }
    for (rule_of, expanded) in [
        ("respond: { status: 200, body: 'let a = `${NAME}`' }", false),
        ("filters: { error_pages: { pages: { 5xx: '<p>${NAME}</p>' } } }, cluster: up", false),
        ("match: { path: { regex: '/a${NAME}' } }, cluster: up", false),
        ("match: { headers: { x-a: { regex: '${NAME}' } } }, cluster: up", false),
        ("cluster: up, rewrite: { regex: { find: '/(?<NAME>.*)', replace: '/a${NAME}' } }", false),
        ("match: { path: '/${NAME}' }, cluster: up", true),
        ("match: { path: { regex: { env: NAME } } }, cluster: up", true),
        ("match: { path: '/$${NAME}' }, cluster: up", false),
    ] {
        let (_, said) = check(&rule(rule_of));
        assert_eq!(said.contains("error[unset-variable]"), expanded, "{rule_of}: {said}");
    }
}

#[test]
fn of_certificate_files() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("a", &["a.test"]);
    let at = |name: &str| folder.path().join(name);
    let pem = std::fs::read_to_string(at("a.pem")).unwrap();
    let lines: Vec<&str> = pem.lines().collect();
    std::fs::write(at("cut.pem"), lines[..lines.len() - 1].join("\n")).unwrap();
    std::fs::write(at("base.pem"), pem.replace(lines[2], "%%%%")).unwrap();
    std::fs::write(
        at("locked.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let mut text = String::new();
    for (title, cert, key) in [
        ("cert and key are swapped", "a.key", "a.pem"),
        ("a certificate where a key belongs", "a.pem", "a.pem"),
        ("a certificate that was cut short", "cut.pem", "a.key"),
        ("a certificate that is not Base64", "base.pem", "a.key"),
        ("an encrypted key", "a.pem", "locked.key"),
        ("a certificate that is missing", "none.pem", "a.key"),
    ] {
        let yaml = format!(
            "listeners: [{{ name: a, address: 127.0.0.1:7001, tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }} }}\n"
        );
        std::fs::write(at("sluice.yaml"), yaml).unwrap();
        let output = sluice(&["check", at("sluice.yaml").to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{title}");
        let shown = format!("{}/", folder.path().display());
        let _ = writeln!(text, "=== {title}\n\n{}", out(&output).replace(&shown, ""));
    }
    snapshot("mistakes-certificates", &text);
}

#[test]
fn of_addresses() {
    page(
        "mistakes-addresses",
        &[
            (
                "a listener with a URL",
                relay("").replace("127.0.0.1:7001", "\"http://127.0.0.1:7001/x\""),
            ),
            (
                "a listener with a port and a colon only",
                relay("").replace("127.0.0.1:7001", "\":7001\""),
            ),
            (
                "a listener with an IPv6 address without brackets",
                relay("").replace("127.0.0.1:7001", "\"::1:7001\""),
            ),
            (
                "a listener with a name for an address",
                relay("").replace("127.0.0.1:7001", "\"a.test:7001\""),
            ),
            (
                "a unix socket with a relative path",
                relay("").replace("127.0.0.1:7001", "\"unix://a.sock\""),
            ),
            (
                "a unix socket whose path is too long",
                relay("")
                    .replace("127.0.0.1:7001", "\"unix:///LONG.sock\"")
                    .replace("LONG", &"x".repeat(110)),
            ),
            ("an endpoint with port 0", relay("").replace("127.0.0.1:7002", "127.0.0.1:0")),
            (
                "an endpoint with a word for a port",
                relay("").replace("127.0.0.1:7002", "a.test:https"),
            ),
            (
                "an endpoint that is a URL of a database",
                relay("").replace("[127.0.0.1:7002]", "[\"postgres://a.test/orders\"]"),
            ),
            ("an endpoint with a space", relay("").replace("127.0.0.1:7002", "\"a test:80\"")),
            ("an address block that is a name", chain("{ match: { source: a.test }, relay: up }")),
            (
                "an address block with a prefix that is too long",
                chain("{ match: { source: 10.0.0.0/33 }, relay: up }"),
            ),
            (
                "an address block with an address in it",
                chain("{ match: { source: 10.0.0.1/8 }, relay: up }"),
            ),
            ("a DNS server without a port", relay("dns: { servers: [192.0.2.53] }")),
            (
                "a server name with a star inside",
                chain("{ match: { sni: \"a.*.test\" }, relay: up }"),
            ),
            (
                "a host with a port",
                rule("cluster: up").replace("hosts: \"*\"", "hosts: \"a.test:443\""),
            ),
            (
                "a host with a star at both ends",
                rule("cluster: up").replace("hosts: \"*\"", "hosts: \"*.shop.*\""),
            ),
            (
                "a database with a star inside",
                chain("{ match: { protocol: postgres, database: \"a*b\" }, relay: up }"),
            ),
            ("a server name of an endpoint that is none", relay("tls: { sni: \"a test\" }")),
            (
                "a name of a cluster with a slash",
                relay("").replace("  up:", "  a/b: { endpoints: [127.0.0.1:7003] }\n  up:"),
            ),
        ],
    );
}

#[test]
fn of_quantities() {
    page(
        "mistakes-quantities",
        &[
            ("a duration that is empty", relay("connect_timeout: \"\"")),
            ("a unit of time that is not known", relay("connect_timeout: 500us")),
            ("a duration with its units the wrong way round", relay("connect_timeout: 30s1m")),
            ("a duration of more than a year", relay("connect_timeout: 400d")),
            ("a size that is a word", rule("cluster: up, retry: { when: reset, body: all }")),
            (
                "a size that no machine has",
                rule("cluster: up, retry: { when: reset, body: 99999999999GiB }"),
            ),
            (
                "a unit of size that is not known",
                rule("cluster: up, retry: { when: reset, body: 5x }"),
            ),
            (
                "a rate without a unit",
                listener("filters: [{ rate_limit: { connections: 500 } }], relay: up"),
            ),
            (
                "a rate per week",
                listener("filters: [{ rate_limit: { connections: 500/w } }], relay: up"),
            ),
            (
                "a rate of zero",
                listener("filters: [{ rate_limit: { connections: 0/s } }], relay: up"),
            ),
            ("a share without a percent sign", relay("outlier: { max_ejected: 10 }")),
            ("a number that is too large", chain("{ match: { port: 70000 }, relay: up }")),
            ("a number with a fraction", relay("connect_attempts: 2.5")),
            (
                "a word for true",
                relay("").replace("relay: up", "relay: up, socket: { keepalive: on }"),
            ),
            ("a word that is not among the choices", relay("balance: fastest")),
            ("look-ups in an interval of zero", relay("dns: { refresh: 0s }")),
            ("look-ups in an interval that is a word", relay("dns: { refresh: often }")),
            ("a limit that is a word", beside("limits: { worker_pipes: many }")),
            ("a limit that does not exist", beside("limits: { bananas: 5 }")),
            (
                "more bytes inspected than the limit allows",
                listener("inspect: { bytes: 32KiB }, relay: up"),
            ),
        ],
    );
}

#[test]
fn of_other_proxies_words() {
    let matched = |of: &str| to_up(&format!("match: {{ {of} }}, cluster: up"));
    page(
        "mistakes-other-words",
        &[
            (
                "a host and a port for an endpoint",
                relay("").replace("[127.0.0.1:7002]", "[{ host: 127.0.0.1, port: 7002 }]"),
            ),
            ("servers of a cluster", relay("").replace("endpoints:", "servers:")),
            ("HAProxy's leastconn", relay("balance: leastconn")),
            ("nginx's ip_hash", relay("balance: ip_hash")),
            ("a prefix of a path", matched("path_prefix: /api")),
            ("the host of a request", matched("host: a.test")),
            ("a URI", matched("uri: /a")),
            (
                "a list of routes",
                to_up("cluster: up")
                    .replace("  main:\n    - hosts: \"*\"\n      rules:\n        - {", "  - {"),
            ),
            (
                "a number of listeners",
                relay("").replace("[{ name: a, address: 127.0.0.1:7001, relay: up }]", "80"),
            ),
            ("a word for a map of TLS", relay("tls: [strict]")),
            (
                "a certificate among other fields",
                listener("tls: { cert: a.pem, min_version: 1.3 }, relay: up"),
            ),
            (
                "something like an IP address for a forward proxy",
                relay("").replace("endpoints: [127.0.0.1:7002]", "forward: { hosts: [10.0.0] }"),
            ),
            (
                "a runtime value that is no number",
                rule("split: { up: { weight: 1, runtime: a }, ring: 1 }")
                    + "runtime: { values: { a: lots } }\n",
            ),
            (
                "a runtime value that is no percentage",
                to_up("match: { runtime: { key: a, percent: 5% } }, cluster: up")
                    + "runtime: { values: { a: 150% } }\n",
            ),
        ],
    );
}

#[test]
fn of_kinds() {
    page(
        "mistakes-kinds",
        &[
            ("a map where a single value belongs", relay("connect_timeout: { seconds: 5 }")),
            ("a list where a single value belongs", relay("balance: [random]")),
            ("`false` for a section", relay("health: false")),
            ("a redirect to plain HTTP", listener("redirect: http")),
            ("a redirect with a path", listener("redirect: 'https://a.test/x'")),
            ("a redirect beside a relay", listener("redirect: https, relay: up")),
            ("a redirect to itself", listener("redirect: https, tls: a.pem")),
            ("a redirect of datagrams", flows("redirect: https")),
            (
                "a redirect whose routes have the name of others",
                listener("redirect: https") + "routes: { a.redirect: { cluster: up } }\n",
            ),
            ("a relay to nothing", listener("relay: {}")),
            ("a relay to no endpoints", listener("relay: []")),
            (
                "a relay to a cluster and endpoints",
                listener("relay: { cluster: up, endpoints: 127.0.0.1:7003 }"),
            ),
            (
                "a relay whose cluster has the name of another",
                listener("relay: 127.0.0.1:7003").replace("  up:", "  a.default:"),
            ),
            ("a relay to an address without a port", listener("relay: 10.0.0.1")),
            ("a relay to a list of clusters", listener("relay: [up]")),
            ("a relay to its own listener", listener("relay: 127.0.0.1:7001")),
            ("a relay to an endpoint twice", listener("relay: [127.0.0.1:7003, 127.0.0.1:7003]")),
            ("`false` for a section that `none` turns off", relay("outlier: false")),
            ("`false` for a check without settings", relay("health: { tcp: false }")),
            ("a single value for a section", relay("dns: ttl")),
            ("a list of clusters", "listeners: [{ name: a, address: 127.0.0.1:7001, relay: up }]\nclusters: [{ endpoints: [127.0.0.1:7002] }]\n".into()),
            ("settings of a check that has none", relay("health: { tls: { port: 80 } }")),
            ("a port in the wrong place", relay("health: { tcp: { port: 80 } }")),
            ("digits that are no bytes", relay("health: { tcp: { send: { hex: 0d0 } } }")),
            (
                "a factor with too many decimals",
                relay("outlier: { success_rate: { stdev_factor: 1.9001 } }"),
            ),
            ("nothing to expect", relay("health: { tcp: { expect: \"\" } }")),
            ("a range of statuses the wrong way round", relay("health: { http: { expect: 299-200 } }")),
            ("a name that is none", relay("health: { dns: a..b }")),
            ("a role that another server has", relay("health: { postgres: { user: a, role: replica } }")),
            ("a secret with fields", beside("secrets: { key: { text: s3cret } }")),
            ("an empty secret", beside("secrets: { key: \"\" }")),
            ("a list of limits", beside("limits: [worker_pipes]")),
            ("an empty path of a file", relay("tls: { ca: \"\" }")),
            ("runtime values in a list", beside("runtime: { values: [a] }")),
            ("a whole configuration that is a list", "- listeners: []\n".into()),
            ("a word where a choice belongs", relay("on_endpoint_removed: stop")),
            ("a cluster without endpoints", relay("").replace("    endpoints: [127.0.0.1:7002]\n", "")),
        ],
    );
}

#[test]
fn of_yaml() {
    page(
        "mistakes-yaml",
        &[
            ("two documents in one file", "admin: { address: 127.0.0.1:9901 }\n---\nlisteners: []\n".into()),
            ("brackets that are nested too deeply", "listeners: [{ name: a }]\n".replace("[{", &"[".repeat(70)).replace("}]", &"]".repeat(70))),
            ("an alias inside its own value", "clusters: &all { up: { endpoints: *all } }\n".into()),
            ("aliases that multiply", "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n".into()),
            ("a list as a key", "clusters: { [a, b]: { endpoints: [127.0.0.1:7002] } }\n".into()),
            ("a merge with what is no map", "clusters: { up: { <<: slow, endpoints: [127.0.0.1:7002] } }\n".into()),
            ("two values without a comma", "clusters: { up: { endpoints: [{ address: a.test:80 } { address: b.test:80 }] } }\n".into()),
            ("a bracket of the wrong kind", "clusters: { up: { endpoints: [127.0.0.1:7002} } }\n".into()),
            ("a value with a colon and without quotes", "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    relay: up: down\n".into()),
        ],
    );
}

#[test]
fn of_listeners() {
    page(
        "mistakes-listeners",
        &[
            ("no listeners", "clusters: {}\n".into()),
            ("a listener without an address", "listeners: [{ name: a, relay: up }]\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into()),
            ("a listener with a relay and chains", listener("relay: up, chains: [{ relay: up }]")),
            ("UDP and TCP in one listener", listener("addresses: [\"udp://127.0.0.1:7003\"], relay: up")),
            ("UDP with a PROXY header", flows("relay: up, proxy_protocol: { trust: 192.0.2.10 }")),
            ("UDP with TLS", flows("tls: { certificates: [{ cert: a.pem, key: a.key }] }, relay: up")),
            ("UDP with HTTP", serving("http: main").replace("address: 127", "address: udp://127")),
            ("UDP with what only PostgreSQL has", flows("chains: [{ match: { database: orders }, relay: up }]")),
            ("UDP with a time-out for half-closed connections", flows("relay: { cluster: up, half_close_timeout: 1m }")),
            ("a count of responses on TCP", listener("relay: { cluster: up, responses: 1 }")),
            ("a PROXY header of nobody", listener("proxy_protocol: {}, relay: up")),
            ("a PROXY header of everybody", listener("proxy_protocol: { trust: 0.0.0.0/0 }, relay: up")),
            ("a PROXY header that may be missing", listener("proxy_protocol: { trust: 192.0.2.10, accept: optional }, relay: up")),
            ("HTTP and a relay at once", serving("http: main, relay: up")),
            ("a relay next to inner chains", chain("{ tls: { certificates: [{ cert: a.pem, key: a.key }] }, relay: up, chains: [{ relay: up }] }")),
            ("HTTP next to inner chains", chain("{ tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main, chains: [{ relay: up }] }")),
            ("inner chains without TLS", chain("{ chains: [{ relay: up }] }")),
            ("TLS without a certificate", listener("tls: {}, relay: up")),
            ("QUIC without HTTP", listener("quic: true, tls: { certificates: [{ cert: a.pem, key: a.key }] }, relay: up")),
            ("too many sessions with early data", quic("{ early_data_sessions: 100000 }")),
            ("traces of QUIC in no folder", quic("{ qlog: traces }")),
            ("routes that do not exist", serving("http: shop")),
            ("misspelt routes", serving("http: mian")),
            ("a head that is too small", serving("http: { routes: main, head_bytes: 100 }")),
            ("a head with too few headers", serving("http: { routes: main, head_fields: 2 }")),
            ("a secret that nothing uses", beside("secrets: { key: s3cret }")),
            ("routes that nothing uses", beside("routes: { main: [{ cluster: up }] }")),
        ],
    );
}

#[test]
fn of_the_admin_address() {
    page(
        "mistakes-admin",
        &[
            ("admin pages over UDP", beside("admin: { address: \"udp://127.0.0.1:9901\" }")),
            (
                "host names for a unix socket",
                beside("admin: { address: \"unix:///tmp/a.sock\", hosts: [a.test] }"),
            ),
            (
                "any host name for the admin pages",
                beside("admin: { address: 127.0.0.1:9901, hosts: [\"*\"] }"),
            ),
            (
                "an admin socket in no folder",
                beside("admin: { address: \"unix:///nowhere/at/all.sock\" }"),
            ),
        ],
    );
}

#[test]
fn of_matches() {
    page(
        "mistakes-matches",
        &[
            ("QUIC on TCP", chain("{ match: { transport: quic }, relay: up }")),
            ("a server name without TLS", chain("{ match: { transport: plain, sni: a.test }, relay: up }")),
            ("TLS on a plain transport", chain("{ match: { transport: plain }, tls: { certificates: [{ cert: a.pem, key: a.key }] }, relay: up }")),
            ("a database of what is not PostgreSQL", chain("{ match: { protocol: redis, database: orders }, relay: up }")),
            ("a database inside TLS", chain("{ match: { sni: a.test, database: orders }, relay: up }")),
            ("a destination of another machine", chain("{ match: { destination: 192.0.2.0/24 }, relay: up }")),
            ("two chains that differ over TCP but not over QUIC", serving("quic: true, chains: [{ match: { sni: a.test }, TLS, http: main }, { match: { sni: a.test, protocol: tls }, TLS, http: main }]").replace("TLS", CERTIFICATE)),
        ],
    );
}

#[test]
fn of_upstreams() {
    page(
        "mistakes-upstreams",
        &[
            (
                "keepalive in fractions of a second",
                relay("socket: { keepalive: { idle: 1500ms } }"),
            ),
            ("too many probes", relay("socket: { keepalive: { probes: 128 } }")),
            ("a time-out that is too long", relay("socket: { user_timeout: 30d }")),
            ("a TOS byte for a DSCP", relay("socket: { dscp: 184 }")),
            (
                "two sources of a family",
                relay("socket: { source: [127.0.0.1, \"::1\", 127.0.0.2] }"),
            ),
            (
                "options of a socket for HTTP/3",
                relay("protocol: http3\n    tls: true\n    socket: { dscp: 46 }"),
            ),
            ("HTTP/2 of a cluster without it", relay("http2: { stream_window: 1MiB }")),
            ("HTTP/3 of a cluster without it", relay("http3: { ping_interval: 70s }")),
            (
                "a race of HTTP/3 with itself",
                relay("protocol: http3\n    tls: true\n    http3: { enabled: false, race: {} }"),
            ),
            (
                "times of a race that do not fit",
                relay("protocol: auto\n    tls: true\n    http3: { race: { tcp_delay: 5s, retry: 2d } }"),
            ),
            (
                "HTTP/3 where an endpoint that is not verified says",
                relay("protocol: auto\n    tls: { verify: none }\n    http3: true"),
            ),
            (
                "options of a socket for HTTP/3 beside TCP",
                relay("protocol: auto\n    tls: true\n    http3: true\n    socket: { dscp: 46 }"),
            ),
            ("a PROXY header for HTTP", rule("cluster: up").replace("[127.0.0.1:7002]", "[127.0.0.1:7002], send_proxy_protocol: v2")),
            ("a protocol that TLS negotiates without TLS", relay("protocol: auto")),
            ("ALPN of connections that follow requests", relay("protocol: same\n    tls: { alpn: h2 }")),
            ("HTTP/3 that follows requests without TLS", relay("protocol: same\n    http3: { race: { when: always } }")),
            ("HTTP/3 without TLS", rule("cluster: up").replace("[127.0.0.1:7002]", "[127.0.0.1:7002], protocol: http3")),
            ("HTTP/3 over a unix socket", rule("cluster: up").replace("[127.0.0.1:7002]", "[\"unix:///tmp/a.sock\"], protocol: http3, tls: { ca: ca.pem }")),
            ("two kinds of health check", relay("health: { tcp: {}, http: {} }")),
            ("a TLS check without TLS", relay("health: { tls: {} }")),
            (
                "an ejection of everybody",
                relay("outlier: { failure_percentage: { threshold: 0% } }"),
            ),
            (
                "a datagram that is too long",
                relay(&format!("health: {{ udp: {{ send: {{ hex: \"{}\" }} }} }}", "00".repeat(1201))),
            ),
            ("a role without a login", relay("health: { postgres: { role: primary } }")),
            ("a user without a password", relay("health: { redis: { user: a } }")),
            (
                "a step that does nothing, beside the short form",
                relay("health: { tcp: { send: a, steps: [{}] } }"),
            ),
            (
                "a check that is no request",
                relay("health: { http: { method: HEAD, path: here, body: x } }"),
            ),
            (
                "another port of a unix socket",
                relay("health: { port: 80 }").replace("127.0.0.1:7002", "unix:///run/app.sock"),
            ),
            ("failed requests counted where connections are relayed", relay("outlier: { consecutive_5xx: 5, consecutive_gateway_errors: 5, connect_failures_as_503: true }\n    limits: { requests_per_endpoint: 5 }")),
            ("a cluster in place of itself", relay("fallback: b\n  b: { endpoints: [127.0.0.1:7003], fallback: up }")),
            ("a fallback that does not exist", relay("fallback: upp")),
            ("too many clusters in a line", relay("fallback: b\n  b: { endpoints: [127.0.0.1:7003], fallback: c }\n  c: { endpoints: [127.0.0.1:7003], fallback: d }\n  d: { endpoints: [127.0.0.1:7003], fallback: e }\n  e: { endpoints: [127.0.0.1:7003], fallback: f }\n  f: { endpoints: [127.0.0.1:7003] }")),
            ("flows that would be sent unencrypted in the end", flows("relay: up").replace("[127.0.0.1:7002]", "[127.0.0.1:7002]\n    fallback: b\n  b: { endpoints: [127.0.0.1:7003], tls: true }")),
            ("a split and a cluster", listener("relay: { cluster: up, split: { up: 1 } }")),
            ("a split of 80%", listener("relay: { split: { up: 80% } }")),
            ("a split with a cluster that does not exist", listener("relay: { split: { up: 80%, upp: 20% } }")),
            ("a split with a runtime value", listener("relay: { split: { up: { weight: 1, runtime: part } } }")),
            ("a split of flows that would be sent unencrypted", flows("relay: { split: { up: 1 } }").replace("[127.0.0.1:7002]", "[127.0.0.1:7002]\n    tls: true")),
            ("waits without attempts", relay("connect_attempts: 1\n    connect_backoff: {}")),
            ("waits before requests", rule("cluster: up").replace("[127.0.0.1:7002]", "[127.0.0.1:7002], connect_backoff: {}")),
            ("a queue that nothing waits in", relay("limits: { queue: {} }")),
            ("a queue for requests where connections are relayed", relay("limits: { requests_per_endpoint: 5, queue: true }")),
            ("a queue for connections where requests are forwarded", rule("cluster: up").replace("[127.0.0.1:7002]", "[127.0.0.1:7002], limits: { connections: 5, queue: true }")),
            ("a queue for flows", flows("relay: up").replace("[127.0.0.1:7002]", "[127.0.0.1:7002]\n    limits: { connections: 5, queue: true }")),
            ("a wait for its own endpoint that outlasts the queue", relay("limits: { connections: 5, queue: { timeout: 1s, sticky_timeout: 2s } }")),
            ("a queue without a place", relay("limits: { connections: 5, queue: { size: 0 } }")),
            ("an endpoint with a limit on requests where connections are relayed", relay("outlier: none").replace("[127.0.0.1:7002]", "[{ address: 127.0.0.1:7002, limits: { requests: 3 } }]")),
            ("limits for requests with high priority, which none has", rule("cluster: up").replace("[127.0.0.1:7002]", "[127.0.0.1:7002], limits: { high: { requests: 5 } }")),
            ("limits for requests with high priority where connections are relayed", relay("limits: { high: { requests: 5 } }")),
            ("a redirect with high priority", rule("redirect: { path: /x }, priority: high")),
            ("waits that are too long", relay("connect_backoff: { base: 1s }")),
            ("listeners that may lead to each other", "listeners:\n  - { name: a, address: 127.0.0.1:7001, filters: [{ deny: 192.0.2.0/24 }], relay: b }\n  - { name: b, address: 127.0.0.1:7002, relay: a }\nclusters: { a: { endpoints: [127.0.0.1:7001] }, b: { endpoints: [127.0.0.1:7002] } }\n".into()),
        ],
    );
}

#[test]
fn of_routes() {
    page(
        "mistakes-routes",
        &[
            ("a host that is declared twice", rule("cluster: up").replace("main:\n", "main:\n    - { hosts: \"*\", rules: [{ cluster: up }] }\n")),
            ("a rule behind one that matches everything", to_up("cluster: up }\n        - { match: { path: /a }, cluster: up")),
            ("a rule that does nothing", rule("match: { path: /a }")),
            ("a rule that does two things", rule("cluster: up, redirect: { scheme: https }")),
            ("a split between no clusters", rule("split: {}")),
            ("a split that is a list", rule("split: [up, ring]")),
            ("a response that is not final", rule("respond: { status: 101 }")),
            ("a redirect with the status of a success", rule("redirect: { scheme: https, status: 200 }")),
            ("a redirect to the same place", rule("redirect: { status: 302 }")),
            ("a response that may take for ever", to_up("cluster: up, timeout: { response: none }")),
            ("a stream that may be silent for ever", to_up("cluster: up, timeout: { idle: none }")),
            ("a host that is rewritten twice", rule("cluster: up, rewrite: { host: a.test, host_of_endpoint: true }")),
            ("a path that is rewritten twice", rule("cluster: up, rewrite: { path: /a, replace_prefix: /b }")),
            ("a path that is rewritten to one without a slash", rule("cluster: up, rewrite: { path: a }")),
            ("a path that is rewritten with a bad regex", rule("cluster: up, rewrite: { regex: { find: \"/a/(b\", replace: /a } }")),
            ("settings that a redirect does not use", to_up("redirect: { scheme: https }, rewrite: { path: /a }, timeout: { total: 5s }, connect: true").replace("clusters: { up: { endpoints: [127.0.0.1:7002] } }", "")),
            ("an upgrade to HTTP/2", rule("cluster: up, upgrades: h2c")),
            ("an upgrade that is not a protocol", rule("cluster: up, upgrades: \"web socket\"")),
            ("a header for the cluster that is no header", rule("cluster_header: \"x cluster\"")),
            ("a hash by what is not known", rule("cluster: ring, hash: user")),
            ("a text with an operator that does not exist", rule("respond: { body: \"%FOO%\" }")),
        ],
    );
}

#[test]
fn of_conditions() {
    page(
        "mistakes-conditions",
        &[
            ("a path without a slash", rule("match: { path: a }, cluster: up")),
            ("a path with a query", rule("match: { path: \"/a?b=1\" }, cluster: up")),
            ("a star inside a path", rule("match: { path: \"/a/*/b\" }, cluster: up")),
            (
                "a path of two kinds",
                rule("match: { path: { regex: /a, starts_with: /a } }, cluster: up"),
            ),
            (
                "a path of a kind that does not exist",
                rule("match: { path: { prefix: /a } }, cluster: up"),
            ),
            (
                "a beginning of a path without a slash",
                rule("match: { path: { starts_with: a } }, cluster: up"),
            ),
            (
                "a template without a slash",
                rule("match: { path: { template: \"users/{id}\" } }, cluster: up"),
            ),
            (
                "a template that goes on after its rest",
                rule("match: { path: { template: \"/users/**/x\" } }, cluster: up"),
            ),
            (
                "a template with half a variable",
                rule("match: { path: { template: \"/users/a{id}\" } }, cluster: up"),
            ),
            (
                "a regex that is far too large",
                rule("match: { path: { regex: \"/(\\\\w{500}){50}\" } }, cluster: up"),
            ),
            (
                "a regex for a header that does not end",
                rule("match: { headers: { x-tier: { regex: \"(gold\" } } }, cluster: up"),
            ),
            ("a method that is none", rule("match: { method: \"GET POST\" }, cluster: up")),
            (
                "a header that is none",
                rule("match: { headers: { \"x tier\": gold } }, cluster: up"),
            ),
            ("headers in a list", rule("match: { headers: [x-tier] }, cluster: up")),
            (
                "a header with two values",
                rule("match: { headers: { x-tier: [gold, silver] } }, cluster: up"),
            ),
            (
                "a header with two conditions",
                rule("match: { headers: { x-tier: { prefix: g, suffix: d } } }, cluster: up"),
            ),
            (
                "a header with a condition that does not exist",
                rule("match: { headers: { x-tier: { exact: gold } } }, cluster: up"),
            ),
            (
                "a word for whether a header is there",
                rule("match: { headers: { x-tier: { present: maybe } } }, cluster: up"),
            ),
            (
                "a gRPC service with a slash before it",
                rule("match: { grpc: /orders.v1.Orders/Get }, cluster: up"),
            ),
        ],
    );
}

#[test]
fn of_filters() {
    page(
        "mistakes-filters",
        &[
            (
                "two filters in one list item",
                listener(
                    "filters: [{ deny: 192.0.2.0/24, connection_limit: { max: 5 } }], relay: up",
                ),
            ),
            ("a filter that is only a name", listener("filters: [deny], relay: up")),
            ("a filter that does not exist", listener("filters: [{ firewall: {} }], relay: up")),
            ("a filter of blocks without one", listener("filters: [{ deny: [] }], relay: up")),
            (
                "a filter that limits nothing",
                listener("filters: [{ connection_limit: {} }], relay: up"),
            ),
            ("a filter for HTTP that does not exist", http("bot_wall: {}")),
            ("a misspelt filter for HTTP", http("rate_limt: { requests: 5/s }")),
            ("a path of probes that is none", http("health_check: { path: healthz }")),
            ("a cache of no probes", http("health_check: { cache: 5s }")),
            (
                "probes with two answers",
                http("health_check: { pass_through: true, min_healthy: { up: 50% } }"),
            ),
            ("probes of an unknown cluster", http("health_check: { min_healthy: { upp: 50% } }")),
            ("a filter for HTTP that is listed twice", http("body_max: 1MiB }, { body_max: 2MiB")),
            ("filters of a rule in a list", rule("cluster: up, filters: [{ buffer: skip }]")),
            ("a rate per part of the body", http("rate_limit: { requests: 5/s, per: \"body:a\" }")),
            (
                "a rate per block of no address",
                http("rate_limit: { requests: 5/s, per: source_ip/33 }"),
            ),
            (
                "a rate per value that no filter shares",
                http("rate_limit: { requests: 5/s, per: \"value:a.b\" }"),
            ),
            ("a rate of requests per week", http("rate_limit: { requests: 5/w }")),
            ("limits without one", http("rate_limit: []")),
            (
                "two limits of one name",
                http("rate_limit: [{ requests: 5/s }, { requests: 100/m }]"),
            ),
            (
                "a rate limit with the status of a success",
                http("rate_limit: { requests: 5/s, status: 200 }"),
            ),
            (
                "an error page from two places",
                http("error_pages: { pages: { 503: { body: a, body_file: b } } }"),
            ),
            ("an error page without anything", http("error_pages: { pages: { 503: {} } }")),
            (
                "an error page from a file that does not exist",
                http("error_pages: { pages: { 503: { body_file: sorry.html } } }"),
            ),
            (
                "an error page that redirects with another status",
                http("error_pages: { pages: { 503: { redirect: /sorry, status: 200 } } }"),
            ),
            (
                "an error page with the status of a redirect",
                http("error_pages: { pages: { 503: { body: a, status: 302 } } }"),
            ),
            (
                "operators of no file",
                http("error_pages: { pages: { 503: { body: a, operators: true } } }"),
            ),
            (
                "an error page with an unknown operator",
                http("error_pages: { pages: { 503: { body: \"%RESPONS_CODE%\" } } }"),
            ),
            ("an error page for a success", http("error_pages: { pages: { 200: ok } }")),
            ("error pages in a list", http("error_pages: { pages: [a] }")),
            ("a header to set that is none", http("set_headers: { request: { \"x edge\": a } }")),
            (
                "a header to set that frames the message",
                http("set_headers: { request: { content-length: 5 } }"),
            ),
            ("the host as a header to set", http("set_headers: { request: { host: a.test } }")),
            (
                "a header to remove that frames the message",
                http("set_headers: { remove_response: transfer-encoding }"),
            ),
            ("a header with a line break", http("set_headers: { request: { x-edge: \"a\\nb\" } }")),
            ("headers to set in a list", http("set_headers: { request: [x-edge] }")),
            (
                "a proxy without a name",
                serving("http: { routes: main, proxy_status: { forwarded: true } }"),
            ),
            (
                "a proxy with the name of nothing",
                serving("http: { routes: main, proxy_status: \"\" }"),
            ),
            ("countries from nowhere", http("geo: { databases: [] }")),
            (
                "countries from a file that does not exist",
                http("geo: { databases: GeoLite2-Country.mmdb }"),
            ),
            ("no values", http("set_values: []")),
            ("a value from nowhere", http("set_values: { name: a }")),
            (
                "a value from what no request has",
                http("set_values: { name: a, from: \"claim:a\" }"),
            ),
            (
                "a value from a value that no filter shares",
                http("set_values: { name: a, from: \"value:set_a\" }"),
            ),
            (
                "two values of one name",
                http("set_values: [{ name: a, from: host }, { name: a, from: path }]"),
            ),
            (
                "a table of no blocks",
                http("set_values: { name: a, from: source_ip, map: { office: a }, lookup: cidr }"),
            ),
            (
                "a search without a table",
                http("set_values: { name: a, from: host, lookup: suffix }"),
            ),
            (
                "a table from two places",
                http("set_values: { name: a, from: host, map: { b: c }, map_file: d }"),
            ),
            (
                "a table in a file that does not exist",
                http("set_values: { name: a, from: host, map_file: hosts.map }"),
            ),
            (
                "an extraction that is no regex",
                http("set_values: { name: a, from: host, extract: \"(a\" }"),
            ),
            ("no faults", http("fault: {}")),
            (
                "a fault without a percentage sign",
                http("fault: { abort: { status: 503, percent: 5 } }"),
            ),
            ("an abort without a status", http("fault: { abort: { percent: 5% } }")),
            (
                "an abort with two statuses",
                http("fault: { abort: { status: 503, grpc_status: 14 } }"),
            ),
            ("an abort with the status of no response", http("fault: { abort: { status: 103 } }")),
            ("a gRPC status that does not exist", http("fault: { abort: { grpc_status: 17 } }")),
            ("a delay without a time", http("fault: { delay: { by_header: true } }")),
            (
                "a response that never ends",
                http("fault: { response_rate: { bytes_per_second: 0 } }"),
            ),
            ("a rate from nowhere", http("fault: { response_rate: {} }")),
            ("faults of no request", http("fault: { delay: { time: 1s }, max_active: 0 }")),
            ("other sites without origins", http("cors: { methods: PUT }")),
            ("every site with credentials", http("cors: { origins: \"*\", credentials: true }")),
            (
                "every header with credentials",
                http("cors: { origins: \"https://a.test\", headers: \"*\", credentials: true }"),
            ),
            ("every page may change state", http("csrf: { origins: \"*\" }")),
            ("an origin with a path", http("cors: { origins: \"https://app.test/\" }")),
            ("an origin without a scheme", http("csrf: { origins: app.test }")),
            ("a method in lower case", http("cors: { origins: \"*\", methods: put }")),
            ("a service without a cluster", http("ext_authz: { timeout: 1s }")),
            ("a service of an unknown cluster", http("ext_authz: { cluster: auth }")),
            (
                "a service that fails with the status of a success",
                http("ext_authz: { cluster: up, error_status: 200 }"),
            ),
            (
                "headers of HTTP for a service of gRPC",
                http("ext_authz: { cluster: up, upstream_headers: x-user }"),
            ),
            (
                "a service that sets the host",
                http("ext_authz: { cluster: up, protocol: http, upstream_headers: host }"),
            ),
            (
                "a prefix that is no path",
                http("ext_authz: { cluster: up, protocol: http, path_prefix: check }"),
            ),
            (
                "a rule that only changes a time-out of a service",
                rule("cluster: up, filters: { ext_authz: { timeout: 1s } }"),
            ),
            (
                "a burst of a window that is aligned",
                http("rate_limit: { requests: 5/s, burst: 9, window: aligned }"),
            ),
            (
                "a burst of a limit in Redis",
                http("rate_limit: { requests: 5/s, burst: 9, redis: up }"),
            ),
            ("a limit in an unknown Redis", http("rate_limit: { requests: 5/s, redis: no }")),
            (
                "a user of Redis without a password",
                http("rate_limit: { requests: 5/s, redis: { cluster: up, user: a } }"),
            ),
            ("limits of no service", http("global_rate_limit: { domain: edge }")),
            ("limits of an unknown service", http("global_rate_limit: { service: no, domain: a }")),
            ("limits without a domain", http("global_rate_limit: { service: up }")),
            (
                "a descriptor of everything",
                http("global_rate_limit: { service: up, domain: a, descriptors: all }"),
            ),
            (
                "an entry that is a part and a text",
                http(
                    "global_rate_limit: { service: up, domain: a, descriptors: [[{ of: path, value: a }]] }",
                ),
            ),
            (
                "a condition for a part",
                http(
                    "global_rate_limit: { service: up, domain: a, descriptors: [[{ of: path, headers: { a: b } }]] }",
                ),
            ),
            (
                "a limit in place of a service without a rate",
                http("global_rate_limit: { service: up, domain: a, on_error: local }"),
            ),
            (
                "a rate that never counts",
                http("global_rate_limit: { service: up, domain: a, local: 5/s }"),
            ),
            (
                "a status of an error that never is",
                http("global_rate_limit: { service: up, domain: a, error_status: 503 }"),
            ),
            (
                "descriptors that add to nothing",
                http("global_rate_limit: { service: up, domain: a, add: true }"),
            ),
            (
                "a rule that only changes a time-out of limits",
                rule("cluster: up, filters: { global_rate_limit: { timeout: 1s } }"),
            ),
            ("policies without any", http("rbac: {}")),
            ("policies that allow nothing", http("rbac: { allow: {} }")),
            ("a policy that matches everything", http("rbac: { deny: { all: {} } }")),
            (
                "a condition that matches everything",
                http("rbac: { allow: { all: { principals: [{ source: 10.0.0.0/8 }, {}] } } }"),
            ),
            (
                "a condition without a field in another",
                http("rbac: { allow: { all: { principals: { not: {} } } } }"),
            ),
            (
                "an expression that is none",
                http("rbac: { deny: { a: { permissions: { when: \"request.path ==\" } } } }"),
            ),
            (
                "an expression about what no request has",
                http("rbac: { deny: { a: { permissions: { when: \"request.pth == ''\" } } } }"),
            ),
            (
                "an expression about a response",
                http("rbac: { deny: { a: { permissions: { when: \"response.code == 200\" } } } }"),
            ),
            (
                "an expression about a value that no filter shares",
                http(
                    "rbac: { deny: { a: { permissions: { when: \"metadata['tenant'] == 'a'\" } } } }",
                ),
            ),
            (
                "a regex that clients choose",
                http(
                    "rbac: { deny: { a: { permissions: { when: \"request.path.matches(request.query)\" } } } }",
                ),
            ),
            (
                "an expression about the server name on a listener",
                listener(
                    "filters: [{ rbac: { deny: { a: { permissions: { when: \"connection.mtls\" } } } } }], relay: up",
                ),
            ),
            (
                "policies in a list",
                http("rbac: { deny: [{ principals: { source: 10.0.0.0/8 } }] }"),
            ),
            (
                "a principal that is misspelt",
                http("rbac: { allow: { lan: { principals: { sources: 10.0.0.0/8 } } } }"),
            ),
            (
                "the host as a header of a policy",
                http("rbac: { allow: { a: { permissions: { headers: { host: a.test } } } } }"),
            ),
            (
                "a policy in any case without a path",
                http(
                    "rbac: { allow: { a: { permissions: { method: GET, case_sensitive: false } } } }",
                ),
            ),
            (
                "a policy about a value that no filter shares",
                http("rbac: { allow: { a: { principals: { values: { rbac.polcy: a } } } } }"),
            ),
            (
                "a shadow that logs",
                http("rbac: { shadow: { log: { a: { permissions: { method: GET } } } } }"),
            ),
            (
                "a certificate with a star inside",
                http(
                    "rbac: { allow: { a: { principals: { certificate: \"spiffe://*/shop\" } } } }",
                ),
            ),
            (
                "policies about the server name on a listener",
                listener(
                    "filters: [{ rbac: { allow: { a: { permissions: { sni: a.test } } } } }], relay: up",
                ),
            ),
            (
                "policies about paths for connections",
                listener(
                    "filters: [{ rbac: { allow: { a: { permissions: { path: /a } } } } }], relay: up",
                ),
            ),
            ("a credential from nowhere", http("inject_credentials: {}")),
            (
                "a token from a path that is none",
                http(
                    "inject_credentials: { oauth2: { cluster: up, path: token, client_id: a, client_secret: b } }",
                ),
            ),
            ("certificates of no proxy", http("client_cert: { header: append }")),
            ("passwords of nobody", http("basic_auth: {}")),
            ("a password as it is", http("basic_auth: { users: \"ann:secret\" }")),
            (
                "a password with an old hash",
                http("basic_auth: { users: \"ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\" }"),
            ),
            ("users in a file that does not exist", http("basic_auth: { users_file: htpasswd }")),
            ("keys of nobody", http("api_key: {}")),
            ("a key as it is", http("api_key: { keys: { acme: secret } }")),
            ("tokens of nobody", http("jwt: {}")),
            (
                "tokens for any service",
                http("jwt: { providers: { a: { issuer: i, jwks_file: k.json } } }"),
            ),
            ("tokens without keys", http("jwt: { providers: { a: { issuer: i, audiences: b } } }")),
            (
                "tokens with two sets of keys",
                http(
                    "jwt: { providers: { a: { issuer: i, audiences: b, jwks_file: k.json, jwks: \"{}\" } } }",
                ),
            ),
            (
                "keys in a file that does not exist",
                http(
                    "jwt: { providers: { a: { issuer: i, audiences: b, jwks_file: none.json } } }",
                ),
            ),
            (
                "a symmetric key among public ones",
                http(
                    "jwt: { providers: { a: { issuer: i, audiences: b, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}' } } }",
                ),
            ),
            (
                "a shared secret that can be guessed",
                http("jwt: { providers: { a: { issuer: i, audiences: b, secret: secret } } }"),
            ),
            (
                "a symmetric algorithm for public keys",
                http(
                    "jwt: { providers: { a: { issuer: i, audiences: b, jwks_remote: { cluster: up }, algorithms: HS256 } } }",
                ),
            ),
            (
                "an algorithm that is none",
                http(
                    "jwt: { providers: { a: { issuer: i, audiences: b, jwks_remote: { cluster: up }, algorithms: none } } }",
                ),
            ),
            (
                "a token of a provider that there is none of",
                http(
                    "jwt: { providers: { acme: { issuer: i, audiences: b, jwks_remote: { cluster: up } } }, require: acne }",
                ),
            ),
            (
                "a claim in a header that frames the message",
                http(
                    "jwt: { providers: { a: { issuer: i, audiences: b, jwks_remote: { cluster: up }, claims: { host: sub } } } }",
                ),
            ),
            (
                "a provider with a dot in its name",
                http(
                    "jwt: { providers: { a.b: { issuer: i, audiences: b, jwks_remote: { cluster: up } } } }",
                ),
            ),
            ("a login at no provider", http("oidc: {}")),
            (
                "logins without a key of sessions",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop } } }",
                ),
            ),
            (
                "a login over plain HTTP",
                http(
                    "oidc: { providers: { a: { issuer: \"http://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef } } } }",
                ),
            ),
            (
                "a login that comes back over plain HTTP",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, origin: \"http://shop.test\" } } }",
                ),
            ),
            (
                "a login at a cluster that does not exist",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: id, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef } } } }",
                ),
            ),
            (
                "sessions with a key that can be guessed",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: secret } } } }",
                ),
            ),
            (
                "sessions in a cookie with a prefix",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef, cookie: __Host-a } } } }",
                ),
            ),
            (
                "a login on a path of patterns",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, path: /oauth2/* } } }",
                ),
            ),
            (
                "a logout that leads elsewhere",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, after_logout: \"//evil.test\" } } }",
                ),
            ),
            (
                "a parameter that a login sets itself",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, parameters: { state: a } } } }",
                ),
            ),
            (
                "an ID token with a symmetric algorithm",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, algorithms: HS256 } } }",
                ),
            ),
            (
                "several scopes in one word",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, scopes: profile email } } }",
                ),
            ),
            (
                "opaque tokens for any service",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, introspection: {} } } }",
                ),
            ),
            (
                "a login at one of two providers",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef } }, b: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef } } } }",
                ),
            ),
            (
                "a login at a provider that there is none of",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef } }, b: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef } } }, provider: c }",
                ),
            ),
            (
                "two providers on one path",
                http(
                    "oidc: { providers: { a: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef } }, b: { issuer: \"https://id.test\", cluster: up, client_id: shop, session: { key: 0123456789abcdef0123456789abcdef }, path: /oauth2/a } }, provider: a }",
                ),
            ),
            ("a session by nothing", http("sticky: {}")),
            ("a session by two things", http("sticky: { cookie: a, header: x-a }")),
            ("a session without a key", http("sticky: { cookie: SRV }")),
            ("a session with a short key", http("sticky: { cookie: SRV, key: secret }")),
            (
                "a cookie whose name is none",
                http("sticky: { cookie: \"a b\", key: 0123456789abcdef }"),
            ),
            (
                "a cookie whose path is none",
                http("sticky: { cookie: { name: a, path: \"/;x\" }, key: 0123456789abcdef }"),
            ),
            (
                "a cookie for all sites that is not secure",
                http(
                    "sticky: { cookie: { name: a, same_site: none, secure: false }, key: 0123456789abcdef }",
                ),
            ),
            (
                "a source that is remembered for too long",
                listener("relay: { cluster: up, sticky: { by: source_ip, ttl: 2d } }"),
            ),
            (
                "a relay that is sticky by cookie",
                listener("relay: { cluster: up, sticky: cookie }"),
            ),
        ],
    );
}

#[test]
fn of_formats() {
    page(
        "mistakes-formats",
        &[
            ("a format that does not exist", log("format: combined")),
            ("an operator that does not exist", log("format: \"%FOO%\"")),
            ("an operator that is not closed", log("format: \"%DURATION\"")),
            ("an operator without its argument", log("format: \"%REQ%\"")),
            (
                "an operator with an argument that it does not take",
                log("format: \"%DURATION(x)%\""),
            ),
            ("an operator with a length that is a word", log("format: \"%REQ(x-a):long%\"")),
            ("an operator whose parenthesis is not closed", log("format: \"%REQ(x-a%\"")),
            (
                "a field with the name of a built-in one",
                log("format: { json: { kind: \"%DURATION%\" } }"),
            ),
            ("fields in a list", log("format: { json: [a] }")),
            ("a format that is a list", log("format: [json]")),
            ("a log into a folder", log("sink: /tmp")),
        ],
    );
}

/// The exit code and output of `check` for a path in a folder, with the folder name removed.
fn check_in(folder: &Path, path: &str) -> (Option<i32>, String) {
    let output = sluice(&["check", folder.join(path).to_str().unwrap()]);
    let shown = format!("{}/", folder.display());
    (output.status.code(), out(&output).replace(&shown, ""))
}

#[test]
fn of_keys_and_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("a", &["a.test"]);
    authority.issue("b", &["b.test"]);
    authority.issue_expired("old", &["a.test"]);
    let at = |name: &str| folder.path().join(name);
    let soon = at("soon");
    let made = sluice(&["cert", "a.test", "--days", "3", "--out", soon.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    for (name, text) in [
        ("text.pem", "a certificate\n"),
        ("begin.pem", "-----BEGIN CERTIFICATE\nAAAA\n-----END CERTIFICATE-----\n"),
        ("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("junk.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("dsa.key", "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n"),
        ("junk.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
    ] {
        std::fs::write(at(name), text).unwrap();
    }
    let pair = |cert: &str, key: &str| {
        listener(&format!("tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}, relay: up"))
    };
    let clients = |auth: &str| {
        let own = "certificates: [{ cert: a.pem, key: a.key }]";
        listener(&format!("tls: {{ {own}, client_auth: {{ {auth} }} }}, relay: up"))
    };
    let mut text = String::new();
    for (title, yaml) in [
        ("a key of another certificate", pair("a.pem", "b.key")),
        ("a certificate that is a text", pair("text.pem", "a.key")),
        ("a key that is a text", pair("a.pem", "text.pem")),
        ("a certificate whose first line is damaged", pair("begin.pem", "a.key")),
        ("a certificate that holds something else", pair("junk.pem", "a.key")),
        ("a key that holds something else", pair("a.pem", "junk.key")),
        ("a key of an old kind", pair("a.pem", "dsa.key")),
        ("a folder where a certificate belongs", pair(".", "a.key")),
        ("a certificate that has expired", pair("old.pem", "old.key")),
        ("a certificate that expires soon", pair("soon.pem", "soon.key")),
        ("an authority for clients that is missing", clients("ca: none.pem")),
        ("an authority for clients that holds something else", clients("ca: junk.pem")),
        ("a revocation list that is missing", clients("ca: ca.pem, crl: none.crl")),
        ("a certificate where a revocation list belongs", clients("ca: ca.pem, crl: a.pem")),
        ("a revocation list that holds something else", clients("ca: ca.pem, crl: junk.crl")),
        ("an authority of endpoints that holds something else", relay("tls: { ca: junk.pem }")),
        ("a key where an authority of endpoints belongs", relay("tls: { ca: a.key }")),
        (
            "a certificate for endpoints with the key of another",
            relay("tls: { ca: ca.pem, certificate: { cert: a.pem, key: b.key } }"),
        ),
    ] {
        std::fs::write(at("sluice.yaml"), yaml).unwrap();
        let (_, said) = check_in(folder.path(), "sluice.yaml");
        assert!(!said.contains("usable; 0 errors, 0 warnings"), "{title}: nothing was found");
        let _ = writeln!(text, "=== {title}\n\n{said}");
    }
    // A machine without authorities of its own.
    std::fs::write(at("sluice.yaml"), relay("tls: {}")).unwrap();
    let mut command = Command::new(Sluice::binary());
    command.args(["check", "--offline"]).arg(at("sluice.yaml"));
    command.env("SSL_CERT_FILE", at("none.pem")).env("SSL_CERT_DIR", at("none"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let shown = format!("{}/", folder.path().display());
    let _ = writeln!(text, "=== no authorities\n\n{}", out(&output).replace(&shown, ""));
    snapshot("mistakes-keys", &text);
}

/// Names of files and what is in them.
type Files<'a> = &'a [(&'a str, &'a [u8])];

#[test]
fn of_files_and_folders() {
    let (used, up) = (relay(""), "clusters: { up: { endpoints: [127.0.0.1:7002] } }\n");
    let with_file = beside("runtime: { file: runtime }");
    let one = "listeners: { name: b, address: 127.0.0.1:7003, relay: up }\n";
    let (drain, again) = (beside("drain: { timeout: 5s }"), "drain: { timeout: 6s }\n");
    let mistakes: [(&str, &str, Files<'_>); 10] = [
        ("a file that is missing", "sluice.yaml", &[]),
        ("a folder without a configuration", "conf", &[("conf/README.md", b"")]),
        ("a file that is not text", "sluice.yaml", &[("sluice.yaml", b"admin: \xff\n")]),
        (
            "a file of a folder that is not text",
            "conf",
            &[("conf/a.yaml", used.as_bytes()), ("conf/b.yaml", b"admin: \xff\n")],
        ),
        (
            "a cluster in two files",
            "conf",
            &[("conf/a.yaml", used.as_bytes()), ("conf/b.yaml", up.as_bytes())],
        ),
        (
            "a section in two files",
            "conf",
            &[("conf/a.yaml", drain.as_bytes()), ("conf/b.yaml", again.as_bytes())],
        ),
        (
            "a list of listeners in one file and a single one in another",
            "conf",
            &[("conf/a.yaml", used.as_bytes()), ("conf/b.yaml", one.as_bytes())],
        ),
        ("runtime values in no file", "sluice.yaml", &[("sluice.yaml", with_file.as_bytes())]),
        (
            "a line that is no runtime value",
            "sluice.yaml",
            &[("sluice.yaml", with_file.as_bytes()), ("runtime", b"# shares\nbeta 5\n")],
        ),
        (
            "a runtime value that is set twice",
            "sluice.yaml",
            &[("sluice.yaml", with_file.as_bytes()), ("runtime", b"beta: 5\nbeta: 6\n")],
        ),
    ];
    let mut text = String::new();
    for (title, path, files) in mistakes {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        let (code, said) = check_in(folder.path(), path);
        assert_eq!(code, Some(3), "{title}: {said}");
        let _ = writeln!(text, "=== {title}\n\n{said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    let (_, said) = check_in(folder.path(), "sluice.yaml");
    let _ = writeln!(text, "=== a file that is far too large\n\n{said}");
    for (title, input) in [
        ("standard input that is far too large", File::open(&path).unwrap()),
        ("standard input that is a folder", File::open(folder.path()).unwrap()),
    ] {
        let mut command = Command::new(Sluice::binary());
        let output = command.args(["check", "-"]).stdin(input).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{title}");
        let _ = writeln!(text, "=== {title}\n\n{}", out(&output));
    }
    let (_, said) = from_stdin(b"admin: \xff\n", &[]);
    let _ = writeln!(text, "=== standard input that is not text\n\n{said}");
    snapshot("mistakes-files", &text);
}

#[test]
fn many_errors_are_counted_and_cause_no_further_findings() {
    let listener =
        |n: usize| format!("  - {{ name: l{n}, address: 127.0.0.1:{}, relay: upp }}\n", 7000 + n);
    let listeners: String = (0..30).map(listener).collect();
    let yaml =
        format!("listeners:\n{listeners}clusters: {{ up: {{ endpoints: [127.0.0.1:1] }} }}\n");
    let (code, said) = check(&yaml);
    assert_eq!(code, Some(3));
    assert_eq!(said.matches("error[unknown-name]").count(), 20);
    assert!(
        said.contains("10 errors, 0 warnings not shown; `sluice check --all` shows them"),
        "{said}"
    );
    assert!(said.ends_with("not usable; 30 errors, 0 warnings\n"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    std::fs::write(&path, yaml).unwrap();
    let said = out(&sluice(&["check", "--all", path.to_str().unwrap()]));
    assert_eq!(said.matches("error[unknown-name]").count(), 30);
    assert!(!said.contains("unused-cluster"), "{said}");
}

/// The exit code and output of `check -` for a text.
fn from_stdin(yaml: &[u8], more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(Sluice::binary());
    command
        .args(["check", "--offline"])
        .args(more)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(yaml).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), out(&output))
}

#[test]
fn check_reads_standard_input_and_can_fail_on_warnings() {
    let (code, said) = from_stdin(relay("").as_bytes(), &[]);
    assert!(code == Some(0) && said.ends_with("-: usable; 0 errors, 0 warnings\n"), "{said}");
    let (code, said) = from_stdin(relay("balance: maglef").as_bytes(), &[]);
    assert!(code == Some(3) && said.contains("<stdin>:5:14"), "{said}");
    let warned = relay("tls: { verify: none }");
    let (code, said) = from_stdin(warned.as_bytes(), &[]);
    assert!(code == Some(0) && said.contains("0 errors, 1 warning\n"), "{said}");
    let (code, said) = from_stdin(warned.as_bytes(), &["--strict"]);
    assert!(code == Some(3) && said.contains("not usable; 0 errors, 1 warning\n"), "{said}");
}

#[test]
fn a_hash_has_short_forms_as_documented() {
    for hash in [
        "source_ip",
        "\"header:x-user\"",
        "[\"cookie:s\", source_ip]",
        "\"query:user\"",
        "{ by: \"cookie:s\", ttl: 0s }",
        "[{ by: \"cookie:s\" }, \"header:x-user\"]",
    ] {
        let (code, said) = check(
            &rule(&format!("cluster: ring, hash: {hash}"))
                .replace("up: { endpoints: [127.0.0.1:7002] }, ", ""),
        );
        assert!(code == Some(0) && said.contains("0 errors, 0 warnings"), "{hash}: {said}");
    }
}
