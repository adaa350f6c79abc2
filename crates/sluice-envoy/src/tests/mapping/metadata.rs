//! Metadata that filters set and others read.

use super::*;

const FILTERS: &str = "listeners/0/chains/0/http/filters/2/set_values";

/// A connection manager with these filters, and what else it says; its route has these fields.
fn with(filters: &[&str], fields: &str, route: &str) -> String {
    let filter = |of: &&str| {
        format!(
            "{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.{of} }} }}, "
        )
    };
    let filters: String = filters.iter().map(filter).collect();
    hcm(
        &format!("http_filters: [{filters}ROUTER]{fields}"),
        &format!("{{ match: {{ prefix: /{route} }}, route: {{ cluster: a }} }}"),
    )
}

#[track_caller]
fn has(text: &str, values: &[(&str, &str)]) {
    let paths: Vec<String> = values.iter().map(|(path, _)| format!("{FILTERS}/{path}")).collect();
    let values = paths.iter().zip(values).map(|(path, (_, value))| (&**path, *value));
    expect(text, &values.collect::<Vec<_>>());
}

#[test]
fn fixed_metadata_is_set_once_unless_it_says_otherwise() {
    let text = with(
        &["set_metadata.v3.Config, metadata: [\
            { metadata_namespace: n, value: { a: '100%', b: { c: 2 }, l: [x] } }, \
            { metadata_namespace: n, value: { a: other } }, \
            { metadata_namespace: n, allow_overwrite: true, value: { b: { c: 3 } } }]"],
        "",
        "",
    );
    has(&text, &[("0/name", "n.a"), ("0/text", "100%%"), ("1/name", "n.b.c"), ("1/text", "3")]);
    differs(&text, "the list `l` is not set");
    let (root, _) = load(&text);
    assert_eq!(at(&root.unwrap(), &format!("{FILTERS}/2/name")), None);
}

#[test]
fn headers_and_cookies_become_values() {
    let pair = "{ metadata_namespace: n, key: version }";
    let rule = |rest: &str| format!("header_to_metadata.v3.Config, request_rules: [{{ {rest} }}]");
    let plain = with(&[&rule(&format!("header: X-Version, on_header_present: {pair}"))], "", "");
    has(&plain, &[("0/name", "n.version"), ("0/from", "header:x-version")]);
    let both = rule(&format!(
        "cookie: Tier, on_header_present: {pair}, on_header_missing: {{ metadata_namespace: n, key: version, value: none }}"
    ));
    has(&with(&[&both], "", ""), &[("0/from", "cookie:Tier"), ("0/missing", "none")]);
    // Another key is set only if there is nothing.
    let apart = rule(&format!(
        "header: x-version, on_header_present: {pair}, on_header_missing: {{ metadata_namespace: n, key: default, value: 'true' }}, remove: true"
    ));
    let text = with(&[&apart], "", "");
    has(
        &text,
        &[
            ("0/name", "header.x-version"),
            ("0/from", "header:x-version"),
            ("1/name", "n.version"),
            ("1/from", "value:set.header.x-version"),
            ("2/name", "n.default"),
            ("2/text", "%VALUE(set.header.x-version)%"),
            ("2/map/-", "true"),
        ],
    );
    expect(
        &text,
        &[("listeners/0/chains/0/http/filters/3/set_headers/remove_request", "x-version")],
    );
    let fixed = rule("header: a, on_header_present: { metadata_namespace: n, key: b, value: yes }");
    has(&with(&[&fixed], "", ""), &[("0/map/(?s).*", "yes"), ("0/lookup", "regex")]);
    let rewritten = |regex: &str| {
        rule(&format!(
            "header: ':path', on_header_present: {{ key: c, regex_value_rewrite: {{ pattern: {{ regex: '{regex}' }}, substitution: '\\1' }} }}"
        ))
    };
    let text = with(&[&rewritten("^/(c[0-9]+)/.*$")], "", "");
    has(
        &text,
        &[
            ("0/name", "envoy.filters.http.header_to_metadata.c"),
            ("0/from", "path"),
            ("0/extract", "^/(c[0-9]+)/.*$"),
        ],
    );
    differs(&text, "a value that does not match the regex is not set");
    for (filter, expected) in [
        (rewritten("/(c)"), "only a regex from `^` to `$`"),
        (rule("header: ':scheme', on_header_present: { key: c }"), "only `:path`"),
        (rule("header: a, on_header_present: { key: c, encode: BASE64 }"), "`encode` of"),
        (rule("header: a, on_header_missing: { key: c }"), "a text is needed"),
        (
            rule(
                "header: a, on_header_present: { key: c } }, { header: b, on_header_present: { key: c }",
            ),
            "is set already",
        ),
    ] {
        refused(&with(&[&filter], "", ""), expected);
    }
    let lb = with(
        &[&rule("header: a, on_header_present: { metadata_namespace: envoy.lb, key: c }")],
        "",
        "",
    );
    has(&lb, &[("0/name", "envoy.lb.c")]);
    let subsets = lb.replace(
        "name: a, load",
        "name: a, lb_subset_config: { subset_selectors: [{ keys: [c] }] }, load",
    );
    expect(&subsets, &[("routes/t/0/rules/0/endpoint_metadata/c/value", "set.envoy.lb.c")]);
}

#[test]
fn members_of_bodies_become_values() {
    let rule = |rest: &str| {
        format!(
            "json_to_metadata.v3.JsonToMetadata, request_rules: {{ rules: [{{ selectors: [{{ key: a }}, {{ key: b }}], {rest} }}] }}"
        )
    };
    let missing = "{ metadata_namespace: n, key: k, value: none }";
    let text = with(
        &[&rule(&format!(
            "on_present: {{ metadata_namespace: n, key: k }}, on_missing: {missing}, on_error: {missing}"
        ))],
        "",
        "",
    );
    has(&text, &[("0/name", "n.k"), ("0/from", "json:a.b"), ("0/missing", "none")]);
    differs(&text, "a body of more than 64KiB gets 413");
    let error = rule("on_present: { key: k }, on_error: { key: e, value: x }");
    refused(&with(&[&error], "", ""), "a body that is not JSON has nothing");
}

#[test]
fn what_reads_metadata_reads_the_values() {
    let header = "header_to_metadata.v3.Config, request_rules: [{ header: x-tier, on_header_present: { metadata_namespace: n, key: tier } }]";
    let fixed = "set_metadata.v3.Config, metadata: [{ metadata_namespace: n, value: { zone: a } }]";
    let matcher = |key: &str| {
        format!(
            "{{ filter: n, path: [{{ key: {key} }}], value: {{ string_match: {{ exact: gold }} }} }}"
        )
    };
    let rbac = format!(
        "rbac.v3.RBAC, rules: {{ policies: {{ p: {{ permissions: [{{ any: true }}], principals: [{{ metadata: {} }}] }} }} }}",
        matcher("tier")
    );
    let log = ", access_log: [{ name: a, typed_config: { '@type': t/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: { text_format: '%DYNAMIC_METADATA(n:zone)% %DYNAMIC_METADATA(n:tier):3%' } } }]";
    let route = format!(", dynamic_metadata: [{}]", matcher("tier"));
    let text = with(&[header, fixed, &rbac], log, &route);
    expect(
        &text,
        &[
            (&format!("{FILTERS}/1/name"), "n.zone"),
            (
                "listeners/0/chains/0/http/filters/3/rbac/allow/p/principals/0/values/set.n.tier",
                "gold",
            ),
            ("routes/t/0/rules/0/match/values/set.n.tier", "gold"),
            ("access_log/0/format", "%VALUE(set.n.zone)% %VALUE(set.n.tier):3%"),
        ],
    );
    let unknown = format!(", dynamic_metadata: [{}]", matcher("other"));
    refused(&with(&[header], "", &unknown), "no filter before is known to set it");
    // The policy stands before what sets it.
    refused(&with(&[&rbac, header], "", ""), "no filter before is known to set it");
    let apart = with(&[header, &rbac, fixed], "", "");
    refused(&apart, "filters that set metadata stand side by side");
    let claims = "jwt_authn.v3.JwtAuthentication, providers: { 'my.idp': { issuer: i, payload_in_metadata: token, local_jwks: { inline_string: '{}' } } }, rules: [{ match: { prefix: / }, requires: { provider_name: 'my.idp' } }]";
    let reads = ", dynamic_metadata: [{ filter: envoy.filters.http.jwt_authn, path: [{ key: token }, { key: sub }], value: { present_match: true }, invert: true }]";
    expect(
        &with(&[claims], "", reads),
        &[("routes/t/0/rules/0/match/values/jwt.my_idp.sub/not/present", "true")],
    );
}

#[test]
fn a_route_has_rules_of_its_own() {
    let filter = "header_to_metadata.v3.Config, request_rules: [{ header: a, on_header_present: { metadata_namespace: n, key: k } }]";
    let with_route = |own: &str| {
        with(&[filter], "", "").replace(
            "route: { cluster: a }",
            &format!("route: {{ cluster: a }}, typed_per_filter_config: {{ f: {{ '@type': t/envoy.extensions.filters.http.header_to_metadata.v3.Config, {own} }} }}"),
        )
    };
    expect(
        &with_route(
            "request_rules: [{ header: b, on_header_present: { metadata_namespace: n, key: k } }]",
        ),
        &[
            ("routes/t/0/rules/0/filters/set_values/0/name", "n.k"),
            ("routes/t/0/rules/0/filters/set_values/0/from", "header:b"),
        ],
    );
    refused(
        &with_route(
            "request_rules: [{ header: b, on_header_present: { metadata_namespace: n, key: other } }]",
        ),
        "does not set all of this metadata",
    );
}

#[test]
fn edits_of_headers_are_one_filter() {
    let removing = "header_to_metadata.v3.Config, request_rules: [{ header: x-a, on_header_present: { key: k }, remove: true }]";
    let mutating = |name: &str| {
        format!(
            "header_mutation.v3.HeaderMutation, mutations: {{ request_mutations: [{{ append: {{ header: {{ key: {name}, value: v }} }} }}] }}"
        )
    };
    let text = with(&[&mutating("x-b"), removing], "", "").replace(
        "route_config: { name: t",
        "route_config: { request_headers_to_add: [{ header: { key: x-c, value: w } }], name: t",
    );
    let filter = "listeners/0/chains/0/http/filters/3/set_headers";
    expect(
        &text,
        &[
            (&format!("{filter}/add_request/x-b"), "v"),
            (&format!("{filter}/add_request/x-c"), "w"),
            (&format!("{filter}/remove_request"), "x-a"),
        ],
    );
    differs(&text, "headers are edited behind all other filters");
    refused(&with(&[&mutating("x-a"), removing], "", ""), "edit `x-a`");
}

#[test]
fn metadata_of_endpoints_picks_subsets() {
    let rule = "header_to_metadata.v3.Config, request_rules: [{ header: x-version, on_header_present: { metadata_namespace: envoy.lb, key: version } }]";
    let plain = with(&[rule], "", "");
    let subsets = "lb_subset_config: { fallback_policy: ANY_ENDPOINT, subset_selectors: [{ keys: [version] }] }, load_assignment";
    let by_subset = plain.replace("load_assignment", subsets);
    let path = "routes/t/0/rules/0/endpoint_metadata/version/value";
    expect(&by_subset, &[(path, "set.envoy.lb.version")]);
    let (root, _) = load(&plain);
    assert_eq!(at(&root.unwrap(), path), None);
}
