//! Filters that ask services, and those that keep clients with endpoints.

use super::*;

const CHAIN: &str = "listeners/0/chains/0/http/filters/2";
const ALL: &str = "{ match: { prefix: / }, route: { cluster: a } }";

fn rated(fields: &str, route: &str) -> String {
    let kind = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";
    hcm(
        &format!(
            "http_filters: [{{ name: r, typed_config: {{ '@type': t/{kind}, domain: d, rate_limit_service: {{ transport_api_version: V3, grpc_service: {{ envoy_grpc: {{ cluster_name: a }} }} }}{fields} }} }}, ROUTER]"
        ),
        route,
    )
}

#[test]
fn rate_limits_of_a_service() {
    let limits = "rate_limits: [{ actions: [{ remote_address: {} }, { request_headers: { header_name: X-A, descriptor_key: k, skip_if_absent: true } }, { generic_key: { descriptor_value: v } }, { header_value_match: { descriptor_value: m, expect_match: false, headers: [{ name: X-B, string_match: { exact: b } }] } }, { masked_remote_address: { v4_prefix_mask_len: 24 } }], hits_addend: { number: 2 } }, { stage: 1, actions: [{ remote_address: {} }] }]";
    let route = format!(
        "{{ match: {{ prefix: / }}, route: {{ cluster: a, include_vh_rate_limits: true, {limits} }} }}"
    );
    let rule = "routes/t/0/rules/0/filters/global_rate_limit";
    let entries = format!("{rule}/descriptors/0/entries");
    expect(
        &rated(", failure_mode_deny: true, timeout: 1s", &route),
        &[
            (&format!("{CHAIN}/global_rate_limit/service"), "a"),
            (&format!("{CHAIN}/global_rate_limit/domain"), "d"),
            (&format!("{CHAIN}/global_rate_limit/on_error"), "deny"),
            (&format!("{CHAIN}/global_rate_limit/timeout"), "1s"),
            (&format!("{CHAIN}/global_rate_limit/envoy_header"), "true"),
            (&format!("{rule}/add"), "true"),
            (&format!("{rule}/descriptors/0/hits"), "2"),
            (&format!("{entries}/0/of"), "source_ip"),
            (&format!("{entries}/1/of"), "header:x-a"),
            (&format!("{entries}/1/key"), "k"),
            (&format!("{entries}/1/optional"), "true"),
            (&format!("{entries}/2/value"), "v"),
            (&format!("{entries}/3/headers/x-b"), "b"),
            (&format!("{entries}/3/expect"), "false"),
            (&format!("{entries}/4/of"), "source_ip/24/128"),
        ],
    );
    let (root, _) = load(&rated("", &route));
    assert_eq!(at(&root.unwrap(), &format!("{rule}/descriptors/1")), None, "of another stage");
    let with = |action: &str| {
        rated(
            "",
            &format!(
                "{{ match: {{ prefix: / }}, route: {{ cluster: a, rate_limits: [{{ actions: [{{ {action} }}] }}] }} }}"
            ),
        )
    };
    for (action, expected) in [
        ("source_cluster: {}", "name it: `node.cluster`"),
        ("request_headers: { header_name: ':path', descriptor_key: k }", "`header_name` of"),
        (
            "metadata: { descriptor_key: k, metadata_key: { key: k, path: [{ key: a }] } }",
            "`metadata` of",
        ),
    ] {
        refused(&with(action), expected);
    }
    // Without a filter, nothing is asked.
    let unused = hcm("", &route);
    assert_eq!(at(&load(&unused).0.unwrap(), rule), None);
}

#[test]
fn sessions_and_credentials() {
    let with = |filter: &str| {
        hcm(&format!("http_filters: [{{ name: f, typed_config: {{ {filter} }} }}, ROUTER]"), ALL)
    };
    let state = "envoy.extensions.http.stateful_session";
    let session = with(&format!(
        "'@type': t/envoy.extensions.filters.http.stateful_session.v3.StatefulSession, strict: true, session_state: {{ name: c, typed_config: {{ '@type': t/{state}.cookie.v3.CookieBasedSessionState, cookie: {{ name: s, path: /a, ttl: 60s }} }} }}"
    ));
    expect(
        &session,
        &[
            (&format!("{CHAIN}/sticky/cookie/name"), "s"),
            (&format!("{CHAIN}/sticky/cookie/path"), "/a"),
            (&format!("{CHAIN}/sticky/cookie/ttl"), "60s"),
            (&format!("{CHAIN}/sticky/strict"), "true"),
        ],
    );
    differs(&session, "tokens are sealed with a key of this process");
    let injector =
        "'@type': t/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector";
    let kinds = "envoy.extensions.http.injected_credentials";
    let generic = with(&format!(
        "{injector}, overwrite: true, credential: {{ name: g, typed_config: {{ '@type': t/{kinds}.generic.v3.Generic, credential: {{ name: s }} }} }}"
    ));
    let known = |text: &str| {
        text.replace(
            "{ listeners",
            "{ secrets: [{ name: s, generic_secret: { secret: { inline_string: 'Basic eA==' } } }], listeners",
        )
    };
    expect(
        &known(&generic),
        &[
            (&format!("{CHAIN}/inject_credentials/secret"), "Basic eA=="),
            (&format!("{CHAIN}/inject_credentials/prefix"), ""),
        ],
    );
    refused(&generic, "there is no secret `s`");
    let oauth = with(&format!(
        "{injector}, credential: {{ name: o, typed_config: {{ '@type': t/{kinds}.oauth2.v3.OAuth2, token_endpoint: {{ cluster: a, uri: 'https://id.test/token', timeout: 3s }}, scopes: [x], client_credentials: {{ client_id: me, client_secret: {{ name: s }}, auth_type: URL_ENCODED_BODY }} }} }}"
    ));
    expect(
        &known(&oauth),
        &[
            (&format!("{CHAIN}/inject_credentials/keep"), "true"),
            (&format!("{CHAIN}/inject_credentials/oauth2/path"), "/token"),
            (&format!("{CHAIN}/inject_credentials/oauth2/host"), "id.test"),
            (&format!("{CHAIN}/inject_credentials/oauth2/authentication"), "body"),
        ],
    );
}
