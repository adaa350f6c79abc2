//! Filters about clients: passwords, keys, countries; and scripts.

use sluice_core::Node;

use super::*;

const FIRST: &str = "listeners/0/chains/0/http/filters/2";
const RULE: &str = "routes/t/0/rules/0/filters";

/// A connection manager with this filter, whose route has these fields.
fn with(filter: &str, route: &str) -> String {
    hcm(
        &format!(
            "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.{filter} }} }}, ROUTER]"
        ),
        &format!("{{ match: {{ prefix: / }}, route: {{ cluster: a }}{route} }}"),
    )
}

fn below(settings: &str) -> String {
    format!(
        ", typed_per_filter_config: {{ f: {{ '@type': t/envoy.extensions.filters.http.{settings} }} }}"
    )
}

#[track_caller]
fn has(text: &str, place: &str, values: &[(&str, &str)]) {
    let paths: Vec<String> = values.iter().map(|(path, _)| format!("{place}/{path}")).collect();
    let values = paths.iter().zip(values).map(|(path, (_, value))| (&**path, *value));
    expect(text, &values.collect::<Vec<_>>());
}

#[test]
fn passwords_are_those_of_a_file_or_the_text() {
    let filter = |more: &str| {
        format!("basic_auth.v3.BasicAuth, users: {{ inline_string: 'ann:$2y$05$x' }}{more}")
    };
    let route = below("basic_auth.v3.BasicAuthPerRoute, users: { filename: /users }");
    let text = with(&filter(", forward_username_header: X-User, allow_missing: true"), &route);
    has(
        &text,
        &format!("{FIRST}/basic_auth"),
        &[
            ("users", "ann:$2y$05$x"),
            ("user_header", "x-user"),
            ("allow_missing", "true"),
            ("forward", "true"),
        ],
    );
    has(
        &text,
        &format!("{RULE}/basic_auth"),
        &[("users_file", "/users"), ("user_header", "x-user"), ("forward", "true")],
    );
    for more in [", emit_dynamic_metadata: true", ", authentication_header: x-password"] {
        refused(&with(&filter(more), ""), "is not supported");
    }
    let unknown = filter(", strict: true");
    refused(&with(&unknown, ""), "has no field `strict`");
}

#[test]
fn keys_become_hashes() {
    let filter = |more: &str| {
        format!(
            "api_key_auth.v3.ApiKeyAuth, credentials: [{{ key: secret, client: one }}], key_sources: [{{ header: X-Key }}, {{ query: key }}]{more}"
        )
    };
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let route = below(
        "api_key_auth.v3.ApiKeyAuthPerRoute, key_sources: [{ cookie: k }], allowed_clients: [one]",
    );
    let forwarding = ", forwarding: { header: X-Client, hide_credentials: true }";
    let text = with(&filter(forwarding), &route);
    has(
        &text,
        &format!("{FIRST}/api_key"),
        &[
            ("keys/one", hash),
            ("from/headers", "x-key"),
            ("from/query", "key"),
            ("user_header", "x-client"),
            ("forward", "false"),
        ],
    );
    has(
        &text,
        &format!("{RULE}/api_key"),
        &[
            ("keys/one", hash),
            ("from/cookies", "k"),
            ("allow", "one"),
            ("user_header", "x-client"),
            ("forward", "false"),
        ],
    );
    let (root, _) = load(&text);
    assert_eq!(at(&root.unwrap(), &format!("{RULE}/api_key/from/headers")), None);
    has(&with(&filter(""), ""), &format!("{FIRST}/api_key"), &[("forward", "true")]);
    differs(&with(&filter(""), ""), "a request with several keys gets 401");
    let twice = filter("").replace("client: one }", "client: one }, { key: b, client: one }");
    refused(&with(&twice, ""), "`one` has a key already");
    refused(&with("api_key_auth.v3.ApiKeyAuth", ""), "the filter of the chain needs some");
    let alone = with("buffer.v3.Buffer, max_request_bytes: 5", &route);
    differs(&alone, "no filter of the chain has a envoy.extensions.filters.http.api_key_auth");
}

#[test]
fn countries_become_headers() {
    let filter = |more: &str| {
        format!(
            "geoip.v3.Geoip, provider: {{ name: p, typed_config: {{ '@type': t/envoy.extensions.geoip_providers.maxmind.v3.MaxMindConfig, city_db_path: /c.mmdb, asn_db_path: /a.mmdb, \
             common_provider_config: {{ geo_field_keys: {{ country: X-Country, asn: x-asn{more} }} }} }} }}"
        )
    };
    expect(
        &with(&filter(""), ""),
        &[
            (&format!("{FIRST}/geo/databases"), "/c.mmdb /a.mmdb"),
            (
                "listeners/0/chains/0/http/filters/3/set_headers/request/x-country",
                "%VALUE(geo.country)%",
            ),
            ("listeners/0/chains/0/http/filters/3/set_headers/request/x-asn", "%VALUE(geo.asn)%"),
        ],
    );
    refused(&with(&filter(", anon_vpn: x-vpn"), ""), "`anon_vpn` of");
    let hops = filter("")
        .replace("geoip.v3.Geoip, ", "geoip.v3.Geoip, xff_config: { xff_num_trusted_hops: 1 }, ");
    refused(&with(&hops, ""), "`xff_config` of");
}

#[test]
fn scripts_have_the_clusters_of_the_file() {
    let filter = "lua.v3.Lua, default_source_code: { inline_string: 'function envoy_on_request() end' }, source_codes: { b: { filename: /b.lua } }, filter_context: { x: 1 }";
    let text = with(filter, &below("lua.v3.LuaPerRoute, name: b, filter_context: { y: 2 }"));
    has(
        &text,
        &format!("{FIRST}/lua"),
        &[
            ("source", "function envoy_on_request() end"),
            ("sources/b/file", "/b.lua"),
            ("context/x", "1"),
            ("clusters", "a"),
            ("on_error", "continue"),
            ("reroute", "true"),
        ],
    );
    has(&text, &format!("{RULE}/lua"), &[("run", "b"), ("context/y", "2")]);
    differs(&text, "a script may use 1000000 instructions");
    let metadata = ", metadata: { filter_metadata: { envoy.filters.http.lua: { z: 3 } } }";
    let own = below("lua.v3.LuaPerRoute, source_code: { inline_string: s }");
    let text = with("lua.v3.Lua, clear_route_cache: false", &format!("{metadata}{own}"));
    has(&text, RULE, &[("lua/source", "s"), ("lua/metadata/z", "3")]);
    has(
        &text,
        &format!("{FIRST}/lua"),
        &[("sources/none/source", "function envoy_on_request() end"), ("reroute", "false")],
    );
    let off = below("lua.v3.LuaPerRoute, disabled: true");
    has(&with(filter, &format!("{metadata}{off}")), RULE, &[("lua", "skip")]);
    refused(&with("lua.v3.Lua, package_paths: [/x]", ""), "scripts load no other files");
    let log = with(filter, "").replace("http_filters", "access_log: [{ name: a, typed_config: { '@type': t/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: { text_format: '%DYNAMIC_METADATA(n:k)%' } } }], http_filters");
    expect(&log, &[("access_log/0/format", "%VALUE(lua.metadata.n.k)%")]);
}

#[test]
fn each_of_two_filters_of_a_kind_has_its_settings_by_its_name() {
    let script = |name: &str| {
        format!(
            "{{ name: {name}, typed_config: {{ '@type': t/envoy.extensions.filters.http.lua.v3.Lua, inline_code: {name} }} }}"
        )
    };
    let with = |route: &str| {
        hcm(
            &format!("http_filters: [{}, {}, ROUTER]", script("e"), script("f")),
            &format!("{{ match: {{ prefix: / }}, route: {{ cluster: a }}{route} }}"),
        )
    };
    let off = below("lua.v3.LuaPerRoute, disabled: true");
    let text = with(&off);
    has(&text, FIRST, &[("lua/source", "e")]);
    let (root, _) = load(&text);
    let root = root.unwrap();
    let first = |node: &Node, key: &str| node.get(key).unwrap().node.items()[0].clone();
    let chain = first(&first(&root, "listeners"), "chains");
    let filters = &chain.get("http").unwrap().node.get("filters").unwrap().node;
    let keys = filters.items().iter().filter_map(|item| item.entries()?.first());
    let keys: Vec<&str> = keys.map(|entry| &*entry.key).collect();
    assert!(keys.ends_with(&["lua", "lua/2"]), "{keys:?}");
    let rule = first(&first(&root.get("routes").unwrap().node, "t"), "rules");
    let own = &rule.get("filters").unwrap().node;
    assert!(own.get("lua/2").is_some() && own.get("lua").is_none());
    let other = with(&off.replacen("f:", "g:", 1));
    refused(&other, "the chain has several filters `lua`, none of that name");
}
