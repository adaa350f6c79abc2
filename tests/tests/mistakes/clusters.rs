//! Mistakes of clusters, endpoints, discovery and balancing.

use super::*;

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
            ("shares of traffic to drop that there are not", relay("drop: { overload: 101%, \"\": 5% }")),
            ("traffic of hosts that clients name, dropped", rule("cluster: up").replace("up: { endpoints: [127.0.0.1:7002] }", "up: { forward: true, drop: { overload: 1% } }")),
            ("metrics that no endpoint reports", relay("report_metrics: [cpu, named_metrics.queue, queue.named]")),
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
            ("clusters that filters choose and nobody lists", relay("cluster_from: filter")),
            ("a table that is not declared", relay("cluster_from: sni, map: hosts, allow: [up]")),
            ("a table without a name", relay("cluster: up, map: hosts")),
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
            (
                "a header without a destination",
                rule("cluster: up", "{ header: x-to, to_port: 80 }"),
            ),
            (
                "a port for destinations that is none",
                rule("cluster: up", "{ by: destination, to_port: 0 }"),
            ),
            ("a way to name hosts that does not exist", rule("cluster: up", "{ by: header }")),
            (
                "addresses that are allowed twice",
                forward("egress: { any: true, allow: [10.0.0.0/8] }"),
            ),
            ("too many hosts", rule("cluster: up", "{ max_hosts: 1000000 }")),
            ("a pattern for every host", rule("cluster: up", "{ hosts: [\"*\"] }")),
            ("flows to hosts", forward("").replace("address: 127", "address: udp://127")),
            ("copies of requests to hosts", rule("cluster: up, mirror: [up]", "true")),
            ("a fallback to hosts", relay("fallback: out\n  out: { forward: true }")),
            (
                "a cluster twice among those that serve instead",
                relay("fallback: [out, out]\n  out: \"127.0.0.1:1\""),
            ),
            (
                "a circle behind the second that serves instead",
                relay(
                    "fallback: [out, far]\n  out: \"127.0.0.1:1\"\n  far: { endpoints: \"127.0.0.1:2\", fallback: up }",
                ),
            ),
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
                "early data where the version is negotiated",
                relay("protocol: auto\n    tls: { early_data: true }"),
            ),
            ("more connections ahead than may be", relay("preconnect: 400%")),
            ("no connections ahead", relay("preconnect: {}")),
            (
                "a prediction that only requests make",
                relay("preconnect: { predicted: 200% }\n    balance: maglev")
                    .replace("relay: up", "relay: { cluster: up, hash: source_ip }"),
            ),
            ("HTTPS records without TLS", relay("dns: { https_records: true }")),
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
fn of_control_planes() {
    let plane = |xds: &str| format!("{}xds: {xds}\n", relay(""));
    page(
        "mistakes-control-planes",
        &[
            ("a control plane without a cluster", plane("{ cluster: plane }")),
            ("a cluster that does not speak its protocol", plane("{ cluster: up }")),
            ("what no control plane sends", plane("{ cluster: up, resources: [routes] }")),
            ("a control plane that has no name", plane("{ resources: [clusters] }")),
            (
                "clusters on demand of nobody",
                to_up("cluster: up").replace("http: main", "http: { routes: main, on_demand: 5s }"),
            ),
            (
                "virtual hosts on demand for routes of a file",
                to_up("cluster: up").replace(
                    "http: main",
                    "http: { routes: main, hosts_on_demand: { table: main } }",
                ),
            ),
            (
                "clusters on demand of a plane that sends them all",
                format!(
                    "{}xds: {{ cluster: up }}\n",
                    to_up("cluster: up")
                        .replace("http: main", "http: { routes: main, on_demand: 5s }")
                        .replace("[127.0.0.1:7002]", "[127.0.0.1:7002], protocol: http2")
                ),
            ),
        ],
    );
}
