#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

use super::*;
use proptest::prelude::*;

/// Searches for the head in pieces of `step` bytes, then parses it as a request.
fn read(stream: &[u8], step: usize) -> Result<Option<(Head, Meta, usize)>, ParseError> {
    let (limits, mut scan) = (HeadLimits { bytes: 2048, fields: 20 }, Scan::default());
    let mut end = 0;
    while end < stream.len() {
        end = (end + step.max(1)).min(stream.len());
        if let Some((start, stop)) = scan.find_end(&stream[..end], limits)? {
            let mut head = Head::default();
            let meta = request(&stream[start..stop], &mut head, limits, true)?;
            return Ok(Some((head, meta, stop)));
        }
    }
    Ok(None)
}

#[track_caller]
fn refused(text: &str, fault: ParseError) {
    for step in 1..=text.len() {
        match read(text.as_bytes(), step) {
            Err(found) => assert_eq!(found, fault, "{text:?}, step {step}"),
            Ok(got) => panic!("{text:?} is let through with step {step}: {got:?}"),
        }
    }
}

#[track_caller]
fn accepted(text: &str) -> (Head, Meta) {
    let whole = read(text.as_bytes(), text.len()).unwrap_or_else(|f| panic!("{text:?}: {f:?}"));
    let (head, meta, end) = whole.unwrap_or_else(|| panic!("{text:?} is not complete"));
    for step in 1..text.len() {
        let (_, again, stop) = read(text.as_bytes(), step).unwrap().unwrap();
        assert_eq!((again, stop), (meta, end), "{text:?}, step {step}");
    }
    (head, meta)
}

fn names(head: &Head) -> Vec<String> {
    head.fields().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn a_request_is_taken_apart() {
    let (head, meta) = accepted(
        "POST /a?b HTTP/1.1\r\nHost: a.test:81\r\nX-One:  1 \r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!((head.method(), head.path()), (Method::Post, "/a?b"));
    assert_eq!(head.authority(), "a.test:81");
    assert_eq!(head.get_named(b"x-one"), Some(&b"1"[..]));
    assert_eq!(names(&head), ["x-one", "content-length"]);
    assert_eq!(meta, Meta { body: BodyLength::Counted(5), keep_alive: true });
}

#[test]
fn what_speaks_of_the_connection_stays_here() {
    let (head, meta) = accepted(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine, Upgrade\r\nX-Mine: 1\r\n\
         Keep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: websocket\r\nTE: gzip, trailers\r\n\
         HTTP2-Settings: AAA\r\nX-Kept: 1\r\n\r\n",
    );
    assert_eq!(names(&head), ["te", "x-kept"]);
    assert_eq!((head.upgrade(), head.get(Known::Te)), (Some("websocket"), Some(&b"trailers"[..])));
    assert!(meta.keep_alive);
    let (head, _) =
        accepted("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    assert_eq!(head.upgrade(), None);
    // Nor if a body is between the `Upgrade` and the other protocol.
    let (head, _) = accepted(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(head.upgrade(), None);
    let (head, _) = accepted(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\n",
    );
    assert_eq!(head.content_length(), Some(1));
}

#[test]
fn persistence_goes_by_version_and_connection() {
    for (text, keeps) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ] {
        assert_eq!(accepted(text).1.keep_alive, keeps, "{text:?}");
    }
}

#[test]
fn targets() {
    for host in
        ["a.test:", "[::1]", "[2001:db8::1]:443", "10.0.0.1:80", "a_b-c.test", "xn--a", "a%20b"]
    {
        let (head, _) = accepted(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(head.authority(), host);
    }
    let (head, _) = accepted("GET http://B.test/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.authority(), head.path(), head.scheme()), ("B.test", "/x", "http"));
    let (head, _) = accepted("GET HTTP://b?q HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.authority(), head.path()), ("b", "/?q"));
    let (head, _) = accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.path(), "*");
    let (head, _) = accepted("CONNECT a.test:443 HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!((head.authority(), head.path()), ("a.test:443", ""));
    for target in ["x", "*", "/a#b", "ftp://a/", "http://", "http:///x", "/\x7f", "/a\u{e9}"] {
        refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), ParseError::Target);
    }
    refused("CONNECT a.test HTTP/1.1\r\nHost: b\r\n\r\n", ParseError::Target);
}

#[test]
fn whatever_is_in_doubt_is_refused() {
    use ParseError as F;
    for (text, fault) in [
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", F::Version),
        ("GET /\r\nHost: a\r\n\r\n", F::Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", F::VersionUnsupported),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", F::VersionUnsupported),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", F::Version),
        ("G\u{1}T / HTTP/1.1\r\nHost: a\r\n\r\n", F::Method),
        ("\u{16}\u{3}\u{1}", F::TlsRecord),
        ("GET / HTTP/1.1\r\n\r\n", F::HostMissing),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", F::HostRepeated),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: a:+1\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", F::HostMalformed),
        ("GET / HTTP/1.1\nHost: a\n\n", F::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", F::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", F::BareCr),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\u{0}b\r\n\r\n", F::FieldValue),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", F::ObsFold),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", F::SpaceBeforeColon),
        ("GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", F::FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", F::FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(: 1\r\n\r\n", F::FieldName),
        (
            "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            F::LengthRepeated,
        ),
        ("P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", F::LengthMalformed),
        ("P / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", F::LengthMalformed),
        ("P / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", F::LengthMalformed),
        ("P / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", F::LengthMalformed),
        (
            "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            F::LengthMalformed,
        ),
        (
            "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            F::LengthWithEncoding,
        ),
        ("P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", F::EncodingUnknown),
        ("P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", F::FieldValue),
        (
            "P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            F::EncodingRepeated,
        ),
        ("P / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", F::EncodingInOldVersion),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n", F::BodyOnConnect),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n",
            F::BodyOnConnect,
        ),
    ] {
        refused(text, fault);
    }
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: 1\r\n".repeat(30));
    assert_eq!(read(many.as_bytes(), 99).unwrap_err(), ParseError::TooManyFields);
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(3000));
    assert_eq!(read(long.as_bytes(), 99).unwrap_err(), ParseError::RequestLineTooLong);
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n", "a".repeat(3000));
    assert_eq!(read(large.as_bytes(), 99).unwrap_err(), ParseError::HeadTooLarge);
    // A fault after the bound is not reached, however the bytes are split.
    let wrong_later = format!("GET / HTTP/1.1\r\nx: {}\n", "a".repeat(3000));
    refused(&wrong_later, ParseError::HeadTooLarge);
    refused(&format!("{}(", "a".repeat(3000)), ParseError::RequestLineTooLong);
}

#[test]
fn responses() {
    let read = |text: &str, method| {
        let mut head = Head::default();
        let limits = HeadLimits::default();
        response(text.as_bytes(), &mut head, method, limits, true).map(|meta| (head, meta))
    };
    let body = |text, method| read(text, method).unwrap().1.body;
    let get = Method::Get;
    assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", get), BodyLength::Counted(3));
    assert_eq!(body("HTTP/1.1 200\r\n\r\n", get), BodyLength::UntilEnd);
    assert_eq!(body("HTTP/1.1 200 \r\ncontent-length: 3\r\n\r\n", Method::Head), BodyLength::None);
    assert_eq!(body("HTTP/1.1 304 x\r\ncontent-length: 3\r\n\r\n", get), BodyLength::None);
    assert_eq!(body("HTTP/1.1 204 x\r\n\r\n", get), BodyLength::None);
    assert_eq!(body("HTTP/1.1 200 x\r\n\r\n", Method::Connect), BodyLength::Tunnel);
    let upgraded = "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(body(upgraded, get), BodyLength::Tunnel);
    for (text, fault) in [
        ("HTTP/1.1 20 OK\r\n\r\n", ParseError::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", ParseError::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", ParseError::StatusLine),
        ("HTTP/2.0 200 OK\r\n\r\n", ParseError::Version),
        ("ICY 200 OK\r\n\r\n", ParseError::Version),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            ParseError::LengthWithEncoding,
        ),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", ParseError::EncodingInOldVersion),
    ] {
        assert_eq!(read(text, get).unwrap_err(), fault, "{text:?}");
    }
}

#[test]
fn trailers_may_not_frame_or_route() {
    let read = |text: &str| {
        let mut head = Head::default();
        trailers(text.as_bytes(), &mut head, HeadLimits::default(), true).map(|()| head)
    };
    assert_eq!(names(&read("x: 1\r\n\r\n").unwrap()), ["x"]);
    for name in ["content-length", "Transfer-Encoding", "host", "connection", "cookie"] {
        assert_eq!(read(&format!("{name}: 1\r\n\r\n")).unwrap_err(), ParseError::TrailerBarred);
    }
}

fn request_text() -> impl Strategy<Value = String> {
    let name = "[a-zA-Z][a-zA-Z-]{0,8}";
    let value = "[ -~]{0,12}";
    let fields = prop::collection::vec((name, value), 0..6);
    ("[A-Z]{1,6}", "/[a-z0-9/?=&%.]{0,12}", fields).prop_map(|(method, path, fields)| {
        let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
    })
}

proptest! {
    #[test]
    fn a_head_reads_alike_however_it_is_cut(text in request_text(), step in 1_usize..40) {
        let shown = |step| read(text.as_bytes(), step).map(|got| {
            got.map(|(head, meta, end)| (format!("{head:?}"), meta, end))
        });
        prop_assert_eq!(shown(step), shown(text.len()));
    }

    #[test]
    fn what_is_parsed_unsearched_is_what_the_search_finds(
        text in request_text(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3, prop::sample::select(&b"\r\n :ab\0"[..])), 0..4),
    ) {
        let mut stream = text.into_bytes();
        for (place, change, byte) in changes {
            let place = place.index(stream.len());
            match change {
                0 => stream[place] = byte,
                1 => stream.insert(place, byte),
                _ => {
                    stream.remove(place);
                }
            }
        }
        let limits = HeadLimits { bytes: 2048, fields: 20 };
        if let Ok(meta) = request(&stream, &mut Head::default(), limits, true) {
            let found = read(&stream, stream.len()).map(|got| got.map(|(_, meta, end)| (meta, end)));
            prop_assert_eq!(found, Ok(Some((meta, stream.len()))));
        }
    }

    #[test]
    fn what_we_accept_the_oracle_accepts_alike(text in request_text()) {
        if let Ok(Some((head, _, end))) = read(text.as_bytes(), text.len()) {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut oracle = httparse::Request::new(&mut fields);
            prop_assert_eq!(oracle.parse(text.as_bytes()), Ok(httparse::Status::Complete(end)));
            prop_assert_eq!(oracle.method, Some(head.method_text()));
            for (name, value) in head.fields() {
                let name = String::from_utf8_lossy(name);
                let found = oracle.headers.iter().any(|header| {
                    header.name.eq_ignore_ascii_case(&name)
                        && (header.value.trim_ascii_end() == value || name == "te")
                });
                prop_assert!(found, "{} is not there", name);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic_and_never_depend_on_cuts(
        stream in prop::collection::vec(prop::sample::select(&b"GET / HTP1.:\r\n\r\nxHost \t\x00\xff"[..]), 0..80),
    ) {
        let shown = |step| read(&stream, step).map(|got| got.map(|(head, meta, end)| {
            (format!("{head:?}"), meta, end)
        }));
        prop_assert_eq!(shown(1), shown(stream.len().max(1)));
    }
}
