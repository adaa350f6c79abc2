use prost::Message as _;
use sluice_codec::Head;

use super::answer::{AuthzAnswer, EditAction, of_grpc};
use super::messages::{
    CheckResponse, HeaderValueMessage, HeaderValueOption, HttpStatusMessage, ListMessage,
    OkHttpResponse, RpcStatus, StructMessage, ValueKind, ValueMessage,
};

fn header(name: &str, value: &str, append: Option<bool>, action: i32) -> HeaderValueOption {
    let (key, value) = (name.into(), value.into());
    let header = Some(HeaderValueMessage { key, value, ..Default::default() });
    HeaderValueOption { header, append, append_action: action }
}

fn allows(ok: OkHttpResponse) -> CheckResponse {
    let status = Some(RpcStatus { code: 0 });
    CheckResponse { status, ok_response: Some(ok), ..CheckResponse::default() }
}

#[test]
fn a_header_is_set_as_its_action_says() {
    for (append, action, there, expected) in [
        (None, 0, true, EditAction::Overwrite),
        (Some(false), 1, true, EditAction::Overwrite),
        (Some(true), 0, true, EditAction::Append),
        (None, 1, true, EditAction::AddIfAbsent),
        (None, 1, false, EditAction::AddIfAbsent),
        (None, 2, true, EditAction::Overwrite),
        (None, 3, true, EditAction::OverwriteIfExists),
        (None, 3, false, EditAction::OverwriteIfExists),
        (None, 99, true, EditAction::Overwrite),
    ] {
        let headers = vec![header("X-A", "new", append, action)];
        let Ok(AuthzAnswer::Allow(edits)) =
            of_grpc(allows(OkHttpResponse { headers, ..Default::default() }))
        else {
            panic!("{append:?} {action}");
        };
        assert_eq!(edits.request[0].action, expected, "{append:?} {action}");
        let mut head = Head::request("GET", "http", "a", "/");
        if there {
            head.append(b"x-a", b"old");
        }
        edits.apply(&mut head);
        let values: Vec<_> = head.values(b"x-a").collect();
        let wanted: &[&[u8]] = match (expected, there) {
            (EditAction::Append, _) => &[b"old", b"new"],
            (EditAction::AddIfAbsent, true) => &[b"old"],
            (EditAction::OverwriteIfExists, false) => &[],
            _ => &[b"new"],
        };
        assert_eq!(values, wanted, "{append:?} {action}");
    }
}

#[test]
fn what_would_change_the_meaning_of_a_message_is_no_answer() {
    for (name, value) in [
        (":path", "/"),
        ("host", "a"),
        ("content-length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("upgrade", "x"),
        ("te", "trailers"),
        ("x a", "b"),
        ("", "b"),
        ("x-a", "b\r\nx-c: d"),
        ("x-a", "b\0"),
    ] {
        let headers = vec![header(name, value, None, 0)];
        for ok in [
            OkHttpResponse { headers: headers.clone(), ..Default::default() },
            OkHttpResponse { response_headers_to_add: headers.clone(), ..Default::default() },
        ] {
            assert!(of_grpc(allows(ok)).is_err(), "{name:?}: {value:?}");
        }
        let mut denied =
            CheckResponse { status: Some(RpcStatus { code: 7 }), ..Default::default() };
        denied.denied_response.get_or_insert_default().headers = headers;
        assert!(of_grpc(denied).is_err(), "{name:?}: {value:?}");
    }
    assert!(of_grpc(CheckResponse::default()).is_err(), "an answer without a status");
}

#[test]
fn a_refusal_has_a_status_that_is_one() {
    for (said, status) in [(0, 403), (401, 401), (302, 302), (99, 403), (600, 403), (-1, 403)] {
        let mut answer =
            CheckResponse { status: Some(RpcStatus { code: 7 }), ..Default::default() };
        let denied = answer.denied_response.get_or_insert_default();
        denied.status = Some(HttpStatusMessage { code: said });
        let Ok(AuthzAnswer::Deny(reply)) = of_grpc(answer) else { panic!("{said}") };
        assert_eq!(reply.status, status, "{said}");
    }
}

#[test]
fn metadata_is_a_tree() {
    let value = |kind| ValueMessage { kind: Some(kind) };
    let list =
        ListMessage { values: vec![value(ValueKind::Bool(true)), value(ValueKind::Null(0))] };
    let fields = [
        ("a", value(ValueKind::Text("x\"y".into()))),
        ("b", value(ValueKind::Number(1.5))),
        ("c", value(ValueKind::List(list))),
        ("d", value(ValueKind::Struct(StructMessage::default()))),
        ("e", ValueMessage::default()),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut answer = allows(OkHttpResponse::default());
    answer.dynamic_metadata = Some(StructMessage { fields });
    let Ok(AuthzAnswer::Allow(edits)) = of_grpc(answer) else { panic!() };
    let shown = edits.metadata.unwrap().to_string();
    assert_eq!(shown, r#"{"a":"x\"y","b":1.5,"c":[true,null],"d":{},"e":null}"#);
}

#[test]
fn any_bytes_are_an_answer_or_none() {
    let mut answer = allows(OkHttpResponse {
        headers: vec![header("x-a", "b", Some(true), 2)],
        headers_to_remove: vec!["x-b".into()],
        ..Default::default()
    });
    answer.dynamic_metadata = Some(StructMessage::default());
    let bytes = answer.encode_to_vec();
    assert_eq!(CheckResponse::decode(&*bytes), Ok(answer));
    let read = |bytes: &[u8]| drop(CheckResponse::decode(bytes).map(of_grpc));
    (0..bytes.len()).for_each(|end| read(&bytes[..end]));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..10_000 {
        let mut bytes = bytes.clone();
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
        read(&bytes);
    }
}
