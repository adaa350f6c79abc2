//! Input that is cut short or random.

use super::*;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

const WHOLE: &str = r#"
static_resources:
  listeners:
  - name: a
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: a
          cluster: b
          idle_timeout: { seconds: 5 }
  clusters:
  - { name: b, type: static, connect_timeout: 0.25s, load_assignment: { cluster_name: b } }
admin: { address: { socket_address: { address: 127.0.0.1, port_value: "0" } } }
"#;

/// A message is read, or there is an error.
fn is_sound(text: &str) {
    let (message, found) = read_as(BOOTSTRAP, text, UnknownFields::Refuse);
    assert!(message.is_some() || !found.is_empty(), "{text}");
}

#[test]
fn cut_at_every_byte() {
    taken(BOOTSTRAP, WHOLE);
    for end in 0..WHOLE.len() {
        is_sound(&WHOLE[..end]);
    }
}

#[test]
fn a_byte_replaced() {
    let mut random = fastrand::Rng::with_seed(14);
    let marks = b"{}[]:,-\"' \n@/09azAZ#&*";
    for _ in 0..2000 {
        let mut bytes = WHOLE.as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = marks[random.usize(..marks.len())];
        }
        is_sound(&String::from_utf8(bytes).expect("all of it is ASCII"));
    }
}

#[test]
fn random_text() {
    let mut random = fastrand::Rng::with_seed(41);
    for _ in 0..500 {
        let text: String =
            (0..random.usize(..200)).map(|_| random.char('\0'..='\u{fff}')).collect();
        is_sound(&text);
    }
}

#[test]
fn nesting_is_bounded() {
    let any = "{ '@type': t/google.protobuf.Any, value: ";
    let text = format!("{{ name: x, typed_config: {}{{}}{} }}", any.repeat(40), "}".repeat(40));
    refused("envoy.config.listener.v3.Filter", &text, "nested too deeply");
    // The tree of a file is bounded itself.
    let text = format!("{}{}", "{ a: ".repeat(100), "}".repeat(100));
    refused(BOOTSTRAP, &text, "nested too deeply");
}
