//! Mistakes of routes and conditions.

use super::*;

#[test]
fn of_scopes() {
    let scope = |scope: &str| {
        to_up("cluster: up").replace("    - hosts:", &format!("    - scope: {scope}\n      hosts:"))
    };
    page(
        "mistakes-scopes",
        &[
            ("a scope without values", scope("{ key: x-tenant }")),
            ("a value with too few parts", scope("{ key: [x-a, x-b], values: [one] }")),
            ("an item of one", scope("{ key: { header: x-a, item: 2 }, values: one }")),
            (
                "an element in two ways",
                scope("{ key: { header: x-a, separator: ';', item: 2, element: b }, values: one }"),
            ),
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
            ("a cluster out of a table that is not declared", rule("cluster_from: \"lookup('tenant', request.hostname)\"") + "maps: { tenants: { entries: { a: up } } }\n"),
            ("a cluster of an expression about a response", rule("cluster_from: \"response.headers['x-to']\"")),
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
