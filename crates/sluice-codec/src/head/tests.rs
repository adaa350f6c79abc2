use super::*;

fn shown(head: &Head) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    head.fields().map(|(name, value)| (text(name), text(value))).collect()
}

#[test]
fn fields_keep_order_and_case_and_are_found_in_any() {
    let mut head = Head::response(200);
    head.append(b"X-One", b"1");
    head.append(b"Set-Cookie", b"a");
    head.append(b"set-cookie", b"b");
    assert_eq!(head.get(Known::SetCookie), Some(&b"a"[..]));
    assert_eq!(head.get_named(b"x-one"), Some(&b"1"[..]));
    assert_eq!(head.values(b"SET-COOKIE").count(), 2);
    head.set(b"set-cookie", b"c");
    assert_eq!(shown(&head), [("X-One".into(), "1".into()), ("Set-Cookie".into(), "c".into())]);
    assert!(head.remove(b"x-one") && !head.remove(b"x-one"));
    head.remove_where(|name, _| name.eq_ignore_ascii_case(b"set-cookie"));
    assert!(head.is_empty() && head.get(Known::SetCookie).is_none());
    head.append_known(Known::SetCookie, b"d");
    assert_eq!(head.get(Known::SetCookie), Some(&b"d"[..]));
}

#[test]
fn many_fields_of_one_name_are_one_after_a_set() {
    for name in [&b"x"[..], b"accept"] {
        let mut head = Head::response(200);
        (0..9).for_each(|_| head.append(name, b"1"));
        head.set(&name.to_ascii_uppercase(), b"2");
        let only = String::from_utf8_lossy(name).into_owned();
        assert_eq!(shown(&head), [(only, "2".into())]);
        let mut wire = Vec::new();
        head.write_lines(|_| false, |text| wire.extend_from_slice(text));
        assert_eq!(wire, [name, b": 2\r\n"].concat());
    }
}

#[test]
fn a_head_with_what_is_no_field_says_so_until_it_is_cleared() {
    let unsound: [fn(&mut Head); 6] = [
        |head| head.append(b"a b", b"1"),
        |head| head.append(b"", b"1"),
        |head| head.append(b"a", b"1\r\nb: 2"),
        |head| head.append_known(Known::Server, b"\0"),
        |head| head.set(b"a", b"\n"),
        |head| {
            head.append(b"a", b"1");
            head.set(b"a", b"\x7f");
        },
    ];
    for make in unsound {
        let mut head = Head::response(200);
        make(&mut head);
        assert!(!head.is_sound());
        head.clear();
        head.append(b"a", b"1\t\xff");
        assert!(head.is_sound());
    }
}

#[test]
fn path_and_query_come_apart() {
    let head = Head::request("GET", "http", "a", "/x/y?z=1?2");
    assert_eq!((head.path_only(), head.query()), ("/x/y", Some("z=1?2")));
    assert_eq!((head.method(), head.method_text()), (Method::Get, "GET"));
}

#[test]
fn grpc_is_known_by_its_content_type() {
    for (kind, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("Application/gRPC; charset=x", true),
        ("application/grpc-web", false),
        ("text/plain", false),
    ] {
        let mut head = Head::response(200);
        head.append(b"content-type", kind.as_bytes());
        assert_eq!(head.is_grpc(), grpc, "{kind}");
    }
}
