//! Responses that the proxy generates itself.

use super::*;

fn replies(config: &str) -> String {
    hcm(
        &format!("local_reply_config: {{ {config} }}"),
        "{ match: { prefix: / }, route: { cluster: a } }",
    )
}

/// What the condition of a mapper with this filter is.
#[track_caller]
fn check(filter: &str, expected: &str) {
    let text = replies(&format!("mappers: [{{ filter: {{ {filter} }}, status_code: 500 }}]"));
    expect(&text, &[("listeners/0/chains/0/http/local_replies/rules/0/when", expected)]);
}

fn header(matcher: &str) -> String {
    format!("header_filter: {{ header: {{ name: X-A, {matcher} }} }}")
}

#[test]
fn filters_are_expressions() {
    for (op, sign) in [("EQ", "=="), ("GE", ">="), ("LE", "<="), ("NE", "!=")] {
        let comparison =
            format!("comparison: {{ op: {op}, value: {{ default_value: 404, runtime_key: k }} }}");
        check(
            &format!("status_code_filter: {{ {comparison} }}"),
            &format!("response.code {sign} 404"),
        );
    }
    check("response_flag_filter: {}", "has(response.flag)");
    check(
        "response_flag_filter: { flags: [UF, NR] }",
        "(has(response.flag) && response.flag in ['UF', 'NR'])",
    );
    let (is_there, value) = ("'x-a' in request.headers", "request.headers['x-a']");
    check(&header("present_match: true"), &format!("({is_there})"));
    check(&header("present_match: false"), &format!("!({is_there})"));
    check(&header("present_match: true, invert_match: true"), &format!("!({is_there})"));
    check(
        &header("string_match: { exact: \"it's\" }"),
        &format!("({is_there} && ({value} == 'it\\'s'))"),
    );
    check(
        &header("string_match: { prefix: a.b, ignore_case: true }"),
        &format!("({is_there} && ({value}.matches('^(?:(?is:a\\\\.b.*))$')))"),
    );
    check(
        &header("contains_match: b, invert_match: true"),
        &format!("({is_there} && !({value}.contains('b')))"),
    );
    check(
        &header("suffix_match: b, treat_missing_header_as_empty: true"),
        &format!("(({is_there} ? {value} : '').endsWith('b'))"),
    );
    check(
        "header_filter: { header: { name: ':path', prefix_match: /a } }",
        "(true && (request.path.startsWith('/a')))",
    );
    check(
        "or_filter: { filters: [{ response_flag_filter: {} }, { and_filter: { filters: [{ response_flag_filter: {} }, { response_flag_filter: {} }] } }] }",
        "(has(response.flag) || (has(response.flag) && has(response.flag)))",
    );
    check(
        "extension_filter: { name: e, typed_config: { '@type': t/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter, expression: 'response.code > 400' } }",
        "(response.code > 400)",
    );
}

#[test]
fn bodies_and_headers() {
    let own = "listeners/0/chains/0/http/local_replies";
    let text = replies(
        "mappers: [{ filter: { response_flag_filter: {} }, body: { inline_string: a }, headers_to_add: [{ header: { key: X-A, value: b } }] }], body_format: { json_format: { b: '%RESPONSE_CODE%', a: { c: 5, d: yes } } }",
    );
    let at = |path: &str| format!("{own}/{path}");
    let expected = [
        (at("rules/0/text"), "a"),
        (at("rules/0/content_type"), "text/plain"),
        (at("rules/0/add_headers/x-a"), "b"),
        (at("json/b"), "%RESPONSE_CODE%"),
        (at("json/a/c"), "5"),
        (at("json/a/d"), "yes"),
        (at("content_type"), "application/json"),
    ];
    let expected: Vec<(&str, &str)> =
        expected.iter().map(|(path, value)| (path.as_str(), *value)).collect();
    expect(&text, &expected);
    let text = replies("body_format: { text_format_source: { inline_string: 'a %PROTOCOL%' } }");
    expect(&text, &[(&at("body"), "a %PROTOCOL%"), (&at("content_type"), "text/plain")]);
    differs(
        &replies("body_format: { text_format: a, omit_empty_values: true }"),
        "an operator without a value is `-`",
    );
}

#[test]
fn what_is_refused() {
    let mapper = |filter: &str| replies(&format!("mappers: [{{ filter: {{ {filter} }} }}]"));
    for (filter, part) in [
        ("not_health_check_filter: {}", "`not_health_check_filter` of"),
        ("traceable_filter: {}", "`traceable_filter` of"),
        (
            "duration_filter: { comparison: { value: { default_value: 5, runtime_key: k } } }",
            "`duration_filter` of",
        ),
        ("runtime_filter: { runtime_key: k }", "`runtime_filter` of"),
        (
            "header_filter: { header: { name: a, range_match: { start: 1, end: 5 } } }",
            "`range_match` of",
        ),
        ("header_filter: { header: { name: ':scheme', exact_match: a } }", "`name` of"),
    ] {
        refused(&mapper(filter), part);
    }
    refused(&replies("body_format: { json_format: { a: [b] } }"), "`json_format` of");
    refused(
        &replies(
            "body_format: { text_format: a, formatters: [{ name: x, typed_config: { '@type': t/envoy.extensions.formatter.metadata.v3.Metadata } }] }",
        ),
        "`formatters` of",
    );
}
