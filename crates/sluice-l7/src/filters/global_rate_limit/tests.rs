use bytes::Bytes;
use prost::Message as _;

use super::answer::read;
use super::descriptors::RateDescriptor;
use super::messages::{
    CurrentLimitMessage, DescriptorStatusMessage, DurationMessage, RateLimitResponse,
};
use crate::filters::ext_authz::messages::{HeaderValueMessage, StructMessage};
use sluice_core::settings::Short;
use sluice_core::{Diags, Node, Path, Setting as _, Span, Value};

fn status(code: i32, name: &str, unit: i32, reset: Option<(i64, i32)>) -> DescriptorStatusMessage {
    let limit = CurrentLimitMessage { requests_per_unit: 10, unit, name: name.into() };
    DescriptorStatusMessage {
        code,
        current_limit: Some(limit),
        limit_remaining: 3,
        duration_until_reset: reset.map(|(seconds, nanos)| DurationMessage { seconds, nanos }),
    }
}

fn header(key: &str, value: &str) -> HeaderValueMessage {
    HeaderValueMessage { key: key.into(), value: value.into(), raw_value: Bytes::new() }
}

#[test]
fn an_answer_says_what_is_left_and_when_to_come_back() {
    let statuses = vec![
        status(1, "users", 2, Some((12, 0))),
        status(2, "", 4, Some((4, 1))),
        status(2, "a\"b", 1, None),
        // No limit, and one of a unit that is not known.
        DescriptorStatusMessage { current_limit: None, ..status(1, "x", 1, None) },
        status(1, "x", 99, None),
    ];
    let answer = read(RateLimitResponse { overall_code: 2, statuses, ..Default::default() });
    let answer = answer.unwrap();
    assert_eq!((answer.limited, answer.retry_after), (true, Some(5)));
    let fields = answer.fields.headers();
    assert_eq!(fields[0].1, "\"users\";q=10;w=60, \"limit-1\";q=10;w=86400, \"limit-2\";q=10;w=1");
    assert_eq!(fields[1].1, "\"users\";r=3;t=12, \"limit-1\";r=3;t=5, \"limit-2\";r=3;t=1");
    // Nobody who may go on is told to wait.
    let statuses = vec![status(2, "x", 1, Some((9, 0)))];
    let answer = read(RateLimitResponse { overall_code: 1, statuses, ..Default::default() });
    assert_eq!(answer.unwrap().retry_after, None);
}

#[test]
fn what_would_change_the_meaning_of_a_message_is_no_answer() {
    for (name, value) in [
        (":path", "/"),
        ("host", "a"),
        ("Content-Length", "1"),
        ("transfer-encoding", "chunked"),
        ("x a", "b"),
        ("", "b"),
        ("x-a", "b\r\nx-c: d"),
    ] {
        let headers = vec![header(name, value)];
        let one = RateLimitResponse { overall_code: 1, ..Default::default() };
        for answer in [
            RateLimitResponse { request_headers_to_add: headers.clone(), ..one.clone() },
            RateLimitResponse { response_headers_to_add: headers.clone(), ..one.clone() },
            RateLimitResponse { overall_code: 2, response_headers_to_add: headers, ..one },
        ] {
            assert!(read(answer).is_err(), "{name:?}: {value:?}");
        }
    }
    for code in [0, 3, -1] {
        let answer = RateLimitResponse { overall_code: code, ..Default::default() };
        assert!(read(answer).is_err(), "{code}");
    }
}

#[test]
fn any_bytes_are_an_answer_or_none() {
    let answer = RateLimitResponse {
        overall_code: 2,
        statuses: vec![status(2, "users", 2, Some((i64::MIN, i32::MAX)))],
        response_headers_to_add: vec![header("x-a", "b")],
        raw_body: Bytes::from_static(b"no"),
        dynamic_metadata: Some(StructMessage::default()),
        ..Default::default()
    };
    let bytes = answer.encode_to_vec();
    assert_eq!(RateLimitResponse::decode(&*bytes), Ok(answer));
    let decode = |bytes: &[u8]| drop(RateLimitResponse::decode(bytes).map(read));
    (0..bytes.len()).for_each(|end| decode(&bytes[..end]));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..10_000 {
        let mut bytes = bytes.clone();
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
        decode(&bytes);
    }
}

#[test]
fn a_descriptor_may_be_a_word_a_list_or_a_map() {
    let scalar = |text: &str| Node {
        value: Value::Scalar { text: text.into(), quoted: false },
        span: Span::default(),
    };
    let list = |nodes: Vec<Node>| Node { value: Value::List(nodes), span: Span::default() };
    let bind = |node: &Node| {
        let mut diags = Diags::new();
        Short::<RateDescriptor>::bind(node, &Path::ROOT, &mut diags).unwrap().0
    };
    let one = bind(&scalar("source_ip"));
    assert_eq!(one, bind(&list(vec![scalar("source_ip")])));
    assert_eq!(one.mistake(), None);
    assert_eq!(bind(&list(vec![scalar("source_ip"), scalar("path/2")])).entries.len(), 2);
    assert!(bind(&scalar("all")).mistake().is_some());
    assert!(bind(&list(Vec::new())).mistake().is_some());
}
