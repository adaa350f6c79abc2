//! What limits count requests by: no text of a key and no request panics; a key is shown as it is read, and two lists of keys
//! do not make the same text of a request.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;
use sluice_core::connection::Peer;
use sluice_core::{
    ConnInfo, ConnValues, Diags, Moment, Node, Path, Setting as _, SharedValues, Span, Value,
};
use sluice_l7::filters::rate_limit::keys::{RateKey, text_of};
use sluice_l7::record::{ConnFacts, Summary, View};

fn key(text: &str) -> Option<RateKey> {
    let value = Value::Scalar { text: text.into(), quoted: true };
    RateKey::bind(&Node { value, span: Span::default() }, &Path::ROOT, &mut Diags::new())
}

fuzz_target!(|input: (Vec<&str>, [&str; 3], Vec<(&[u8], &[u8])>, u32)| {
    let (keys, [method, host, path], fields, source) = input;
    let keys: Vec<RateKey> = keys.into_iter().filter_map(key).collect();
    for of in &keys {
        assert_eq!(key(&of.to_string()).as_ref(), Some(of));
    }
    let mut request = Head::request(method, "http", host, path);
    fields.iter().for_each(|(name, value)| request.append(name, value));
    let peer = Peer::Ip((std::net::Ipv4Addr::from_bits(source), 1).into());
    let conn = ConnInfo::new(1, "l".into(), peer, peer, Moment::default());
    let summary = Summary {
        id: 1,
        started: Duration::ZERO,
        lasted: Duration::ZERO,
        request_end: None,
        response_start: None,
        version: request.version(),
        upstream_version: None,
        original_path: String::new(),
        source: peer,
        route: None,
        destination: None,
        cluster: None,
        attempts: Default::default(),
        side_calls: Vec::new(),
        received: 0,
        sent: 0,
        status: 0,
        grpc_status: None,
        filter: None,
        reason: None,
        details: "".into(),
        detail: None,
        local_text: None,
    };
    let of = View {
        conn: &ConnFacts::of(&conn),
        request: &request,
        response: None,
        summary: &summary,
        values: &SharedValues::default(),
        conn_values: &ConnValues::default(),
    };
    let text = text_of(&keys, &of);
    assert_eq!(text, text_of(&keys, &of));
    if let Some((_, fewer)) = keys.split_last() {
        let shorter = text_of(fewer, &of);
        assert!(text.len() > shorter.len() && text.starts_with(&shorter));
    }
    for key in &keys {
        let _ = key.read(&of);
    }
});
