//! Filters that are on for some routes only.

use super::*;

const ON: &str = "'@type': t/envoy.config.route.v3.FilterConfig, config: {}";
const OFF: &str = "'@type': t/envoy.config.route.v3.FilterConfig, disabled: true";

fn buffers(filters: &str, own: &str) -> String {
    let route = format!(
        "{{ match: {{ prefix: /a }}, route: {{ cluster: a }}, typed_per_filter_config: {{ {own} }} }}, {{ match: {{ prefix: / }}, route: {{ cluster: a }} }}"
    );
    hcm(&format!("http_filters: [{filters}, ROUTER]"), &route)
}

fn buffer(name: &str, more: &str) -> String {
    format!(
        "{{ name: {name}, typed_config: {{ '@type': t/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1024 }}{more} }}"
    )
}

#[test]
fn filters_are_switched_by_their_names() {
    let chain = "listeners/0/chains/0/http/filters";
    let off = buffer("one", ", disabled: true");
    expect(
        &buffers(&off, &format!("one: {{ {ON} }}")),
        &[
            (&format!("{chain}/2/buffer/max"), "1024"),
            ("routes/t/0/filters/buffer", "skip"),
            ("routes/t/0/rules/0/filters/buffer/max", "1024"),
        ],
    );
    expect(
        &buffers(&buffer("one", ""), &format!("one: {{ {OFF} }}, other: {{ {OFF} }}")),
        &[("routes/t/0/rules/0/filters/buffer", "skip")],
    );
    let two = format!("{off}, {}", buffer("two", ", disabled: true").replace("1024", "9"));
    let text = buffers(&two, &format!("two: {{ {ON} }}"));
    expect(&text, &[("routes/t/0/rules/0/filters/buffer/max", "9")]);
    refused(
        &buffers(&two, &format!("one: {{ {ON} }}, two: {{ {ON} }}")),
        "has settings here already",
    );
    let mixed = format!("{}, {off}", buffer("two", ""));
    refused(&buffers(&mixed, &format!("one: {{ {ON} }}")), "another filter of its kind is on");
}
