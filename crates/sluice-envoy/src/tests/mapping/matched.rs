//! Filters with a matcher before them.

use super::*;

const FIRST: &str = "listeners/0/chains/0/http/filters/2";
const RULES: &str = "routes/t/0/rules";

fn with(extension: &str, matcher: &str) -> String {
    hcm(
        &format!(
            "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.common.matching.v3.ExtensionWithMatcher, extension_config: {{ name: e, typed_config: {{ '@type': t/envoy.extensions.filters.http.{extension} }} }}, xds_matcher: {{ {matcher} }} }} }}, ROUTER]"
        ),
        "{ match: { prefix: / }, route: { cluster: a } }",
    )
}

fn by_header(actions: &str) -> String {
    format!(
        "matcher_tree: {{ input: {{ name: i, typed_config: {{ '@type': t/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-kind }} }}, exact_match_map: {{ map: {{ {actions} }} }} }}"
    )
}

const SKIP: &str = "{ action: { name: s, typed_config: { '@type': t/envoy.extensions.filters.common.matcher.action.v3.SkipFilter } } }";

fn executes(filter: &str) -> String {
    format!(
        "{{ action: {{ name: c, typed_config: {{ '@type': t/envoy.extensions.filters.http.composite.v3.ExecuteFilterAction, typed_config: {{ name: x, typed_config: {{ '@type': t/envoy.extensions.filters.http.{filter} }} }} }} }} }}"
    )
}

#[test]
fn a_filter_is_skipped_where_the_matcher_says_so() {
    let text = with("buffer.v3.Buffer, max_request_bytes: 5", &by_header(&format!("a: {SKIP}")));
    expect(
        &text,
        &[
            (&format!("{FIRST}/buffer/max"), "5"),
            (&format!("{RULES}/0/match/headers/x-kind"), "a"),
            (&format!("{RULES}/0/filters/buffer"), "skip"),
            (&format!("{RULES}/1/filters/buffer/max"), "5"),
        ],
    );
    let (root, _) = load(&text);
    assert_eq!(at(&root.unwrap(), &format!("{RULES}/1/match/headers/x-kind")), None);
    let response = text.replace("HttpRequestHeaderMatchInput", "HttpResponseHeaderMatchInput");
    refused(&response, "HttpResponseHeaderMatchInput is not supported");
    let cors = with("cors.v3.Cors", &by_header(&format!("a: {SKIP}")));
    assert!(!load(&cors).1.is_empty(), "a filter that hosts switch on has no settings of its own");
}

#[test]
fn a_composite_filter_has_the_settings_of_its_case() {
    let delay = |time: &str| {
        executes(&format!(
            "fault.v3.HTTPFault, delay: {{ fixed_delay: {time}, percentage: {{ numerator: 100 }} }}"
        ))
    };
    let cases = format!("big: {}, small: {}", delay("10s"), delay("1s"));
    expect(
        &with("composite.v3.Composite", &by_header(&cases)),
        &[
            (&format!("{RULES}/0/match/headers/x-kind"), "big"),
            (&format!("{RULES}/0/filters/fault/delay/time"), "10s"),
            (&format!("{RULES}/1/filters/fault/delay/time"), "1s"),
            (&format!("{RULES}/2/filters/fault"), "skip"),
        ],
    );
    let mixed =
        format!("a: {}, b: {}", delay("1s"), executes("buffer.v3.Buffer, max_request_bytes: 5"));
    refused(&with("composite.v3.Composite", &by_header(&mixed)), "execute a filter of one kind");
    let twice = with("buffer.v3.Buffer, max_request_bytes: 5", &by_header(&format!("a: {SKIP}")))
        .replace("[{ name: f, ", "[{ name: b, typed_config: { '@type': t/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 9 } }, { name: f, ");
    refused(&twice, "the chain has another filter of its kind");
}
