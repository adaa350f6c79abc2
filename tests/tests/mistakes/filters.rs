//! Mistakes of filters.

use super::*;

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
            ("a tap that goes nowhere", http("tap: {}")),
            ("a tap into no folder", http("tap: { file: /no/such/folder/t }")),
            (
                "a tap of requests with a status",
                http("tap: { file: /tmp/t, match: { request_headers: { \":status\": \"200\" } } }"),
            ),
            (
                "a tap of bodies in which nothing is looked for",
                http("tap: { file: /tmp/t, match: { request_body: { within: 1KiB } } }"),
            ),
            (
                "a tap of half a byte",
                http("tap: { file: /tmp/t, match: { request_body: { contains_hex: [0a1] } } }"),
            ),
            (
                "a tap of connections that is before the server name",
                listener("filters: [{ tap: { file: /tmp/t, match: { sni: a.test } } }], relay: up"),
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
            ("two filters of one label", http("body_max/a: 1MiB }, { body_max/a: 2MiB")),
            ("a label that is none", http("body_max/a b: 1MiB")),
            ("a label of a filter that does not exist", http("body_mix/a: 1MiB")),
            (
                "a filter of connections that is listed twice",
                listener("filters: [{ deny: [192.0.2.1] }, { deny: [192.0.2.2] }], relay: up"),
            ),
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
            (
                "local replies with two bodies",
                serving("http: { routes: main, local_replies: { body: a, json: { a: b } } }"),
            ),
            (
                "local replies with the type of no body",
                serving(
                    "http: { routes: main, local_replies: { content_type: text/html, rules: [{ when: \"true\", content_type: text/html }] } }",
                ),
            ),
            (
                "local replies with a type of two lines",
                serving(
                    "http: { routes: main, local_replies: { body: a, content_type: \"a\\nb\" } }",
                ),
            ),
            (
                "local replies without a condition",
                serving("http: { routes: main, local_replies: { rules: [{ text: a }] } }"),
            ),
            (
                "local replies by a condition on nothing",
                serving(
                    "http: { routes: main, local_replies: { rules: [{ when: \"response.status == 500\", status: 99 }] } }",
                ),
            ),
            (
                "local replies with another status than there is",
                serving(
                    "http: { routes: main, local_replies: { rules: [{ when: \"response.code == 500\", status: 99 }] } }",
                ),
            ),
            (
                "local replies with an unknown operator within JSON",
                serving(
                    "http: { routes: main, local_replies: { json: { a: { b: \"%RESPONS_CODE%\" } } } }",
                ),
            ),
            (
                "local replies with a list",
                serving("http: { routes: main, local_replies: { json: { a: [b] } } }"),
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
                "a search of a table that is declared elsewhere",
                http("set_values: { name: a, from: host, map: hosts, lookup: suffix }")
                    + "maps: { hosts: { entries: { a: b } } }\n",
            ),
            (
                "a table that is not declared",
                http("set_values: { name: a, from: host, map: hots }")
                    + "maps: { hosts: { entries: { a: b } } }\n",
            ),
            (
                "a table that is nowhere, in two places, twice the same, or in a file that does not exist",
                listener("filters: [{ deny: { map: a } }, { deny/more: { map: d } }], relay: up")
                    + "maps:\n  a: {}\n  b: { entries: { x: y }, file: b.map }\n\
                       \x20 c: { entries: { 10.0.0.0/8: y, 10.1.0.0/8: z }, lookup: cidr }\n  d: { file: d.map }\n",
            ),
            (
                "an expression of attributes that do not exist yet",
                http("rate_limit: { requests: 5/s, per: \"cel:response.code\" }"),
            ),
            (
                "a descriptor of an expression without a key",
                http(
                    "global_rate_limit: { service: up, domain: a, descriptors: [[{ of: \"cel:request.host\" }]] }",
                ),
            ),
            (
                "a header with an expression that is none",
                http("set_headers: { request: { x-a: \"%CEL(request.host +)%\" } }"),
            ),
            (
                "an expression with a table that is not declared",
                http(
                    "rate_limit: [{ requests: 5/s, per: host }, { requests: 9/s, per: \"cel:lookup('hots', request.host)\" }]",
                ) + "maps: { hosts: { entries: { a: b } } }\n",
            ),
            (
                "a look-up without a key",
                http("set_headers: { request: { x-a: \"%CEL(lookup('hosts'))%\" } }"),
            ),
            (
                "a table that nothing uses",
                listener("relay: up") + "maps: { hosts: { entries: { a: b } } }\n",
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
            ("no script for connections", listener("filters: [{ lua: {} }], relay: up")),
            (
                "a script for connections with functions for requests",
                listener(
                    r#"filters: [{ lua: { source: "function envoy_on_request() end" } }], relay: up"#,
                ),
            ),
            (
                "a script for bytes where no relay moves them",
                http("buffer: {}").replace(
                    "http:",
                    r#"filters: [{ lua: { source: "function on_data() end" } }], http:"#,
                ),
            ),
            ("no script", http("lua: {}")),
            ("two scripts", http("lua: { source: a, file: b.lua }")),
            (
                "a script that cannot be parsed",
                http(r#"lua: { source: "\nfunction envoy_on_request(" }"#),
            ),
            ("a script without a function", http(r#"lua: { source: "x = 1" }"#)),
            (
                "a script that does not end",
                http(r#"lua: { source: "while true do end", cpu: 1h }"#),
            ),
            (
                "a script by an unknown name",
                http(
                    r#"lua: { run: tier, sources: { tear: { source: "function envoy_on_request() end" } } }"#,
                ),
            ),
            (
                "a script that calls an unknown cluster",
                http(r#"lua: { source: "function envoy_on_request() end", clusters: [auth] }"#),
            ),
            (
                "bounds on compiled code",
                http(r#"lua: { source: "function envoy_on_request() end", jit: true, cpu: 1s }"#),
            ),
            (
                "less memory than a script needs",
                http(r#"lua: { source: "function envoy_on_request() end", memory: 64KiB }"#),
            ),
            ("no module", http("wasm: {}")),
            ("a module that is not there", http("wasm: { file: none.wasm }")),
            ("two modules", http("wasm: { file: a.wasm, inline: AGFzbQEAAAA= }")),
            ("a module that is none", http("wasm: { inline: aGVsbG8= }")),
            ("a module that is not in base64", http("wasm: { inline: \"***\" }")),
            ("a module for something else", http("wasm: { inline: AGFzbQEAAAA= }")),
            ("another module than expected", http("wasm: { inline: AGFzbQEAAAA=, sha256: abc }")),
            ("less memory than a guest needs", http("wasm: { file: a.wasm, memory: 1KiB }")),
            ("no time for a guest", http("wasm: { file: a.wasm, cpu: 0s }")),
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
            ("processing by no service", http("ext_proc: { timeout: 1s }")),
            (
                "a processing that fails with the status of a success",
                http("ext_proc: { cluster: up, error_status: 200 }"),
            ),
            (
                "a service that observes whole bodies",
                http("ext_proc: { cluster: up, observe: true, send: { request_body: buffered } }"),
            ),
            (
                "a body mode that there is not",
                http("ext_proc: { cluster: up, send: { request_body: stream } }"),
            ),
            (
                "an attribute that there is not",
                http("ext_proc: { cluster: up, attributes: request.pth }"),
            ),
            (
                "metadata of a call that belongs to gRPC",
                http("ext_proc: { cluster: up, call_metadata: { grpc-timeout: 1S } }"),
            ),
            (
                "a service that may take more than an hour",
                http("ext_proc: { cluster: up, timeout: 2h }"),
            ),
            (
                "a burst of a window that is aligned",
                http("rate_limit: { requests: 5/s, burst: 9, window: aligned }"),
            ),
            (
                "a burst of a limit in Redis",
                http("rate_limit: { requests: 5/s, burst: 9, redis: up }"),
            ),
            ("a limit of no requests in flight", http("concurrency_limit: { max: 0 }")),
            (
                "two limits of requests in flight of the same name",
                http("concurrency_limit: [{ max: 5 }, { max: 9, queue: 3 }]"),
            ),
            ("a rate of bytes without a unit of time", http("bandwidth_limit: { response: 1MiB }")),
            ("a bandwidth of nothing", http("bandwidth_limit: { per: source_ip }")),
            (
                "portions of bytes for a minute",
                http("bandwidth_limit: { response: 1MiB/s, interval: 1m }"),
            ),
            (
                "a bandwidth of connections for HTTP",
                listener("filters: [{ bandwidth_limit: { upload: 1MiB/s } }], http: main"),
            ),
            (
                "a bandwidth of connections of nothing",
                listener("filters: [{ bandwidth_limit: {} }], relay: up"),
            ),
            ("a lowest limit above the highest", http("adaptive_concurrency: { min: 10, max: 5 }")),
            (
                "an ideal latency that is known and measured",
                http("adaptive_concurrency: { ideal: 10ms, measure: { every: 10s } }"),
            ),
            (
                "an overload with the status of a success",
                http("admission_control: { status: 200 }"),
            ),
            ("a threshold that no failure misses", http("admission_control: { threshold: 0% }")),
            ("a window of parts of a second", http("admission_control: { window: 1500ms }")),
            ("an aggression below one", http("admission_control: { aggression: 0.5 }")),
            ("failures that count anyway", http("admission_control: { failures: [400-503] }")),
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
fn of_filters_that_rules_do_not_complete() {
    let of_chain = |filters: &str, rest: &str| {
        format!(
            "listeners: [{{ name: a, address: 127.0.0.1:7001, http: {{ routes: main, filters: [{{ {filters} }}] }} }}]\n{rest}"
        )
    };
    let one_rule = "routes: { main: [{ cluster: up, filters: { ext_authz: { context: { a: b } } } }] }\n\
                    clusters: { up: { endpoints: [127.0.0.1:7002] } }\n";
    page(
        "mistakes-rule-filters",
        &[
            (
                "a rule that adds to a service that the chain does not ask",
                to_up("cluster: up, filters: { ext_authz: { context: { a: b } } }"),
            ),
            (
                "a rule that adds to processing that the chain does not have",
                to_up("cluster: up, filters: { ext_proc: { allow_on_error: true } }"),
            ),
            (
                "a rule that sends whole bodies to a service that observes",
                of_chain(
                    "ext_proc: { cluster: up, observe: true }",
                    "routes: { main: [{ cluster: up, filters: { ext_proc: { send: { request_body: buffered } } } }] }\n\
                     clusters: { up: { endpoints: [127.0.0.1:7002] } }\n",
                ),
            ),
            (
                "a rule with descriptors for no service",
                to_up("cluster: up, filters: { global_rate_limit: { descriptors: path } }"),
            ),
            (
                "a rule that requires tokens of nobody",
                to_up("cluster: up, filters: { jwt: { require: corp } }"),
            ),
            (
                "a rule that requires tokens of another provider",
                to_up("cluster: up, filters: { jwt: { require: { all: [corp, partner] } } }").replace(
                    "http: main",
                    "http: { routes: main, filters: [{ jwt: { providers: { corp: { issuer: id, audiences: shop, jwks_remote: { cluster: up } } } } }] }",
                ),
            ),
            (
                "a rule with a login at nobody",
                to_up("cluster: up, filters: { oidc: { provider: corp } }"),
            ),
            (
                "rules of a virtual host that only adds",
                to_up("cluster: up").replace(
                    "rules:",
                    "filters: { ext_authz: { context: { a: b } } }\n      rules:\n        - { match: { path: /a }, cluster: up }",
                ),
            ),
            (
                "a rule that adds to what its virtual host leaves out",
                to_up("cluster: up, filters: { ext_authz: { with_body: 1KiB } }")
                    .replace("rules:", "filters: { ext_authz: skip }\n      rules:")
                    .replace("http: main", "http: { routes: main, filters: [{ ext_authz: { cluster: up } }] }"),
            ),
            (
                "one chain of two that completes a rule",
                of_chain("ext_authz: { cluster: up }", one_rule).replace(
                    "}]\nroutes",
                    "}, { name: b, address: 127.0.0.1:7003, http: main }]\nroutes",
                ),
            ),
        ],
    );
}
