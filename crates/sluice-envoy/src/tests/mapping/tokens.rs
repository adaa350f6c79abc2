//! Tokens.

use super::*;

const KIND: &str = "envoy.extensions.filters.http.jwt_authn.v3";

fn jwt(fields: &str, route: &str) -> String {
    let providers = "providers: { 'one.x': { issuer: i, audiences: [s], local_jwks: { inline_string: '{\"keys\":[]}' } }, two: { remote_jwks: { http_uri: { uri: 'https://id.test/keys?v=1', cluster: a, timeout: 1s } }, from_headers: [{ name: X-Token }], claim_to_headers: [{ header_name: X-Sub, claim_name: sub }], forward: true } }";
    hcm(
        &format!(
            "http_filters: [{{ name: jwt, typed_config: {{ '@type': t/{KIND}.JwtAuthentication, {providers}{fields} }} }}, ROUTER]"
        ),
        route,
    )
}

const ALL: &str = "{ match: { prefix: / }, route: { cluster: a } }";
const CHAIN: &str = "listeners/0/chains/0/http/filters/2/jwt";

#[test]
fn providers_of_tokens() {
    let any = "requires_any: { requirements: [{ provider_name: one.x }, { provider_name: two }] }";
    let text = jwt(&format!(", rules: [{{ match: {{ prefix: / }}, requires: {{ {any} }} }}]"), ALL);
    expect(
        &text,
        &[
            (&format!("{CHAIN}/require/any"), "one_x two"),
            (&format!("{CHAIN}/providers/one_x/issuer"), "i"),
            (&format!("{CHAIN}/providers/one_x/audiences"), "s"),
            (&format!("{CHAIN}/providers/one_x/require_expiration"), "false"),
            (&format!("{CHAIN}/providers/one_x/jwks"), "{\"keys\":[]}"),
            (&format!("{CHAIN}/providers/one_x/from/headers"), "authorization"),
            (&format!("{CHAIN}/providers/one_x/from/query"), "access_token"),
            (&format!("{CHAIN}/providers/two/issuer"), "*"),
            (&format!("{CHAIN}/providers/two/audiences"), "*"),
            (&format!("{CHAIN}/providers/two/jwks_remote/host"), "id.test"),
            (&format!("{CHAIN}/providers/two/jwks_remote/path"), "/keys?v=1"),
            (&format!("{CHAIN}/providers/two/jwks_remote/refresh"), "10m"),
            (&format!("{CHAIN}/providers/two/from/headers"), "x-token"),
            (&format!("{CHAIN}/providers/two/claims/x-sub"), "sub"),
            (&format!("{CHAIN}/providers/two/forward"), "true"),
        ],
    );
    // Without a rule, nothing is verified.
    let (root, _) = load(&jwt("", ALL));
    assert_eq!(at(&root.unwrap(), CHAIN), None);
}

#[test]
fn rules_of_tokens_split_those_of_routes() {
    let rules = ", rules: [{ match: { prefix: /open } }, { match: { path: /both }, requires: { requires_all: { requirements: [{ provider_name: one.x }, { provider_name: two }] } } }, { match: { prefix: /api }, requires: { provider_and_audiences: { provider_name: one.x, audiences: [other] } } }]";
    let route = "{ name: r, match: { prefix: /api }, route: { cluster: a } }, { match: { prefix: / }, route: { cluster: a } }";
    let table = "routes/t/0/rules";
    expect(
        &jwt(rules, route),
        &[
            (&format!("{table}/0/name"), "r"),
            (&format!("{table}/0/match/path/starts_with"), "/api"),
            (&format!("{table}/0/filters/jwt/require"), "one_x-2"),
            (&format!("{CHAIN}/providers/one_x-2/audiences"), "other"),
            (&format!("{table}/1/match/path/starts_with"), "/open"),
            (&format!("{table}/1/filters/jwt"), "skip"),
            (&format!("{table}/2/match/path"), "/both"),
            (&format!("{table}/2/filters/jwt/require/all"), "one_x two"),
            (&format!("{table}/3/filters/jwt/require"), "one_x-2"),
            (&format!("{table}/4/filters/jwt"), "skip"),
        ],
    );
    let regex = "{ match: { safe_regex: { regex: '/a.*' } }, route: { cluster: a } }";
    refused(&jwt(rules, regex), "conditions that cannot be joined with it");
    refused(
        &jwt(", rules: [{ match: { prefix: / }, requires: { provider_name: three } }]", ALL),
        "there is no provider `three`",
    );
    refused(&jwt(", filter_state_rules: { name: a }", ALL), "`filter_state_rules` of");
}

#[test]
fn routes_name_requirements() {
    let own = format!(
        "typed_per_filter_config: {{ jwt: {{ '@type': t/{KIND}.PerRouteConfig, requirement_name: lax }} }}"
    );
    let route = format!("{{ match: {{ prefix: /a }}, route: {{ cluster: a }}, {own} }}, {ALL}");
    let map = ", requirement_map: { lax: { requires_any: { requirements: [{ provider_name: two }, { allow_missing_or_failed: {} }] } } }";
    let table = "routes/t/0/rules";
    expect(
        &jwt(map, &route),
        &[
            (&format!("{table}/0/filters/jwt/require/any"), "two"),
            (&format!("{table}/0/filters/jwt/allow_missing"), "true"),
            (&format!("{table}/0/filters/jwt/allow_invalid"), "true"),
            (&format!("{table}/1/filters/jwt"), "skip"),
        ],
    );
    refused(&jwt(map, &route.replace("lax", "none")), "there is no requirement `none`");
}

#[test]
fn keys_that_are_not_json_are_those_of_nobody() {
    let rules = ", rules: [{ match: { prefix: / }, requires: { provider_name: one.x } }]";
    let text = jwt(rules, ALL).replace("{\"keys\":[]}", "{\"keys\": [");
    differs(&text, "these keys are not JSON: every token is refused, as in Envoy");
    let (root, _) = load(&text);
    let keys = at(&root.unwrap(), &format!("{CHAIN}/providers/one_x/jwks")).unwrap();
    assert!(keys.starts_with(r#"{"keys":[{"kty":"EC","crv":"P-256","x":""#), "{keys}");
    assert_eq!(keys.len(), 137, "two coordinates of 32 bytes: {keys}");
}
