//! Trees of matchers.

use super::*;

/// A bootstrap with `rbac` by this matcher.
fn rbac_tree(matcher: &str) -> String {
    hcm(
        &format!(
            "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.rbac.v3.RBAC, matcher: {matcher} }} }}, ROUTER]"
        ),
        "{ match: { prefix: / }, route: { cluster: a } }",
    )
}

/// A test in a tree of matchers.
fn test_of(input: &str, value: &str) -> String {
    let kinds = "envoy.extensions.matching.common_inputs.ssl.v3";
    let kind = if input.contains('.') { input.to_owned() } else { format!("{kinds}.{input}") };
    format!(
        "single_predicate: {{ input: {{ name: i, typed_config: {{ '@type': t/{kind} }} }}, value_match: {{ {value} }} }}"
    )
}

/// What a match in a tree leads to.
fn act(name: &str, action: &str) -> String {
    format!(
        "action: {{ name: a, typed_config: {{ '@type': t/envoy.config.rbac.v3.Action, name: {name}, action: {action} }} }}"
    )
}

#[test]
fn policies_by_a_tree_of_matchers() {
    let rbac = "listeners/0/chains/0/http/filters/2/rbac";
    let entry = |test: &str, name: &str, action: &str| {
        format!("{{ predicate: {{ {test} }}, on_match: {{ {} }} }}", act(name, action))
    };
    let mesh = test_of("UriSanInput", "prefix: 'spiffe://m/'");
    let bad = test_of("UriSanInput", "exact: 'spiffe://m/bad'");
    let none = format!("on_no_match: {{ {} }}", act("none", "DENY"));
    // What is denied first stays denied; what is allowed first is not denied any more.
    let list = [entry(&bad, "bad", "DENY"), entry(&mesh, "mesh", "ALLOW")].join(", ");
    expect(
        &rbac_tree(&format!("{{ matcher_list: {{ matchers: [{list}] }}, {none} }}")),
        &[
            (&format!("{rbac}/deny/bad/principals/certificate"), "spiffe://m/bad"),
            (&format!("{rbac}/allow/mesh/principals/certificate"), "spiffe://m/*"),
        ],
    );
    let list = [entry(&bad, "bad", "ALLOW"), entry(&mesh, "mesh", "DENY")].join(", ");
    let text = rbac_tree(&format!("{{ matcher_list: {{ matchers: [{list}] }}, {none} }}"));
    expect(
        &text,
        &[
            (&format!("{rbac}/deny/mesh/principals/all/0/certificate"), "spiffe://m/*"),
            (&format!("{rbac}/deny/mesh/principals/all/1/not/certificate"), "spiffe://m/bad"),
            (&format!("{rbac}/allow/bad/principals/certificate"), "spiffe://m/bad"),
        ],
    );
    // Nothing matches: Envoy denies.
    let (root, found) = load(&rbac_tree(&format!("{{ {none} }}")));
    assert_eq!(
        at(&root.unwrap(), &format!("{rbac}/deny/none")).as_deref(),
        Some("a map"),
        "{found:?}"
    );
    let header = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: X-A";
    let not = format!(
        "not_matcher: {{ {} }}",
        test_of(header, "safe_regex: { google_re2: {}, regex: 'a+' }")
    );
    let tree = format!(
        "matcher_tree: {{ input: {{ name: i, typed_config: {{ '@type': t/envoy.extensions.matching.common_inputs.network.v3.ServerNameInput }} }}, exact_match_map: {{ map: {{ a.test: {{ matcher: {{ matcher_list: {{ matchers: [{}] }} }} }} }} }} }}",
        entry(&not, "named", "ALLOW")
    );
    expect(
        &rbac_tree(&format!("{{ {tree} }}")),
        &[
            (&format!("{rbac}/allow/named/principals/all/0/sni"), "a.test"),
            (&format!("{rbac}/allow/named/principals/all/1/not/headers/x-a/regex"), "a+"),
        ],
    );
    for (test, expected) in [
        (test_of("SubjectInput", "exact: a"), "SubjectInput is not supported"),
        (test_of("UriSanInput", "exact: a"), "UriSanInput is not supported"),
        (test_of("UriSanInput", "suffix: a"), "`suffix` of"),
        (test_of("UriSanInput", "exact: 'spiffe://m/*'"), "a text with a star"),
        (
            test_of(
                "envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ':path'",
                "exact: /a",
            ),
            "this test of a part of the request",
        ),
    ] {
        let list = entry(&test, "p", "ALLOW");
        refused(&rbac_tree(&format!("{{ matcher_list: {{ matchers: [{list}] }} }}")), expected);
    }
}

/// A bootstrap whose host has its routes in this tree.
fn route_tree(matcher: &str) -> String {
    let text = hcm("", "ROUTE");
    text.replace("routes: [ROUTE]", &format!("matcher: {matcher}")).replace(
        "clusters: [{ name: a,",
        "clusters: [{ name: b, load_assignment: { cluster_name: b } }, { name: a,",
    )
}

/// A route to a cluster, as an action.
fn to(cluster: &str, condition: &str) -> String {
    format!(
        "action: {{ name: r, typed_config: {{ '@type': t/envoy.config.route.v3.Route, match: {{ {condition} }}, route: {{ cluster: {cluster} }} }} }}"
    )
}

const PATH: &str = "{ name: i, typed_config: { '@type': t/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ':path' } }";

#[test]
fn routes_by_a_tree_of_matchers() {
    let rules = "routes/t/0/rules";
    let text = route_tree(&format!(
        "{{ matcher_tree: {{ input: {PATH}, prefix_match_map: {{ map: {{ /a: {{ {} }}, /a/b: {{ {} }} }} }} }}, on_no_match: {{ {} }} }}",
        to("a", "prefix: /a/x"),
        to("b", "prefix: ''"),
        to("a", "prefix: /z"),
    ));
    // The longest prefix first; a request that a route does not take gets 404, not another route.
    expect(
        &text,
        &[
            (&format!("{rules}/0/match/path/starts_with"), "/a/b"),
            (&format!("{rules}/0/cluster"), "b"),
            (&format!("{rules}/1/match/path/starts_with"), "/a/b"),
            (&format!("{rules}/1/respond/status"), "404"),
            (&format!("{rules}/2/match/path/starts_with"), "/a/x"),
            (&format!("{rules}/2/cluster"), "a"),
            (&format!("{rules}/3/match/path/starts_with"), "/a"),
            (&format!("{rules}/3/respond/status"), "404"),
            (&format!("{rules}/4/match/path/starts_with"), "/z"),
        ],
    );
    let header = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: X-A";
    let (one, two) = (test_of(header, "exact: '1'"), test_of(header, "prefix: '2'"));
    let list = format!(
        "{{ matcher_list: {{ matchers: [{{ predicate: {{ or_matcher: {{ predicate: [{{ {one} }}, {{ not_matcher: {{ {two} }} }}] }} }}, on_match: {{ {} }} }}] }} }}",
        to("a", "prefix: /a")
    );
    expect(
        &route_tree(&list),
        &[
            (&format!("{rules}/0/match/headers/x-a"), "1"),
            (&format!("{rules}/0/match/path/starts_with"), "/a"),
            (&format!("{rules}/1/match/headers/x-a/not/prefix"), "2"),
        ],
    );
    let exact = route_tree(&format!(
        "{{ matcher_tree: {{ input: {PATH}, exact_match_map: {{ map: {{ /a: {{ {} }} }} }} }} }}",
        to("a", "prefix: /")
    ));
    differs(&exact, "the path is compared without its query");
    for (matcher, expected) in [
        (
            format!("{{ matcher_tree: {{ input: {PATH}, exact_match_map: {{ map: {{ '/a?b': {{ {} }} }} }} }} }}", to("a", "prefix: /")),
            "routes cannot test it so",
        ),
        (
            format!("{{ matcher_tree: {{ input: {PATH}, exact_match_map: {{ map: {{ /a: {{ {} }} }} }} }} }}", to("a", "safe_regex: { google_re2: {}, regex: a }")),
            "it cannot be joined",
        ),
        (
            format!("{{ matcher_tree: {{ input: {PATH}, prefix_match_map: {{ map: {{ /a: {{ {} }}, /a/b: {{ matcher: {{ on_no_match: {{ {} }} }} }} }} }} }} }}", to("a", "prefix: /"), to("a", "prefix: /")),
            "a matcher below a prefix",
        ),
        (
            "{ on_no_match: { keep_matching: true, action: { name: a, typed_config: { '@type': t/envoy.config.route.v3.Route, match: { prefix: / }, route: { cluster: a } } } } }".into(),
            "`keep_matching` of",
        ),
    ] {
        refused(&route_tree(&matcher), expected);
    }
}
