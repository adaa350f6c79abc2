//! Scoped routes.

use super::*;

const LIST: &str = "scoped_route_configurations_list: { scoped_route_configurations: ";

/// A connection manager with these scopes, of the key that these fragments make.
fn scoped(fragments: &str, rest: &str) -> String {
    let text = hcm("http_filters: [ROUTER]", "{ match: { prefix: / }, route: { cluster: a } }");
    let at = text.find("route_config:").expect("routes");
    let end = text[at..].find("http_filters").map_or(text.len(), |end| at + end);
    let scoped = format!(
        "scoped_routes: {{ name: s, scope_key_builder: {{ fragments: [{fragments}] }}, {rest} }}, "
    );
    format!("{}{scoped}{}", &text[..at], &text[end..])
}

fn header(rest: &str) -> String {
    format!("{{ header_value_extractor: {{ name: X-A, {rest} }} }}")
}

fn scope(name: &str, keys: &[&str], rest: &str) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("{{ string_key: '{key}' }}")).collect();
    format!("{{ name: {name}, key: {{ fragments: [{}] }}, {rest} }}", keys.join(", "))
}

fn table(name: &str, more: &str) -> String {
    format!(
        "route_configuration: {{ name: {name}, {more}virtual_hosts: [{{ name: h, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: a }} }}] }}] }}"
    )
}

#[test]
fn hosts_say_for_which_scopes_they_are() {
    let two = format!("{}, {}", header("index: 0"), header("element_separator: ';', index: 2"));
    let add = "request_headers_to_add: [{ header: { key: x-b, value: c } }], ";
    let scopes =
        [scope("one", &["a", "b"], &table("t", add)), scope("two", &["c", ""], &table("u", ""))];
    let text = scoped(&two, &format!("{LIST}[{}] }}", scopes.join(", ")));
    let host = |place: usize, rest: &str| format!("routes/s/{place}/{rest}");
    let expected = [
        ("listeners/0/chains/0/http/routes".to_owned(), "s"),
        (host(0, "scope/key/0/header"), "x-a"),
        (host(0, "scope/key/1/separator"), ";"),
        (host(0, "scope/key/1/item"), "3"),
        (host(0, "scope/values/0/0"), "a"),
        (host(0, "scope/values/0/1"), "b"),
        (host(0, "filters/set_headers/add_request/x-b"), "c"),
        (host(1, "scope/values/0/0"), "c"),
        (host(1, "scope/values/0/1"), ""),
    ];
    let expected: Vec<(&str, &str)> = expected.iter().map(|(path, of)| (&**path, *of)).collect();
    expect(&text, &expected);
    let element = header("element_separator: ',', element: { key: vip, separator: '=' }");
    let list = format!("{LIST}[{}] }}", scope("one", &["a"], &table("t", "")));
    expect(
        &scoped(&element, &list),
        &[("routes/s/0/scope/key/0/element", "vip"), ("routes/s/0/scope/key/0/assignment", "=")],
    );
}

#[test]
fn scopes_that_envoy_refuses() {
    let of = |scopes: &[String]| {
        scoped(&header("index: 0"), &format!("{LIST}[{}] }}", scopes.join(", ")))
    };
    let (a, b) = (scope("one", &["a"], &table("t", "")), scope("two", &["a"], &table("u", "")));
    refused(&of(&[a.clone(), b]), "the scope `one` has the same key");
    refused(&of(&[scope("one", &["a"], "route_configuration_name: t")]), "has its routes in");
    let list = format!("{LIST}[{a}] }}");
    refused(&scoped(&header("index: 1"), &list), "without `element_separator`");
    refused(
        &scoped("{ header_value_extractor: { name: x } }", &list),
        "needs `element` or `index`",
    );
    differs(&of(&[a, scope("two", &["a", "b"], &table("u", ""))]), "no request is in this scope");
}
