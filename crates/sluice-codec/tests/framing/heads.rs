//! Heads written from arbitrary contents.
//!
//! Owns: heads with fields that contradict their framing. Refuses to know: streams. Keeps: the output is exactly one
//! head, and its body is as long as its framing declares.

use proptest::prelude::*;
use sluice_codec::h1::write::{self, Framing, Persistence};
use sluice_codec::{Head, Method, Version};
use sluice_io::buffers::BufPool;

use crate::oracle::{self, Length};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "PURGE"];

/// Fields that a head may contain, from a peer, another version or a filter.
const FIELDS: [(&[u8], &[u8]); 22] = [
    (b"content-length", b"5"),
    (b"content-length", b"0"),
    (b"Content-Length", b"6"),
    (b"content-length", b"+5"),
    (b"content-length", b"5, 5"),
    (b"content-length", b""),
    (b"content-length", b"18446744073709551616"),
    (b"content-length", b"000005"),
    (b"transfer-encoding", b"chunked"),
    (b"Transfer-Encoding", b"gzip, chunked"),
    (b"transfer-encoding ", b"chunked"),
    (b"connection", b"close"),
    (b"upgrade", b"h2c"),
    (b"te", b"trailers"),
    (b"trailer", b"x"),
    (b"x", b"1\r\ncontent-length: 7"),
    (b"x\r\ntransfer-encoding", b"chunked"),
    (b"x", b"1\ntransfer-encoding: chunked"),
    (b"", b"chunked"),
    (b"x", b"\0"),
    (b"x-one", b"1"),
    (b"host", b"other"),
];

fn text() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just("websocket"),
        1 => Just("a\r\ncontent-length: 5"),
        1 => Just("h2c, foo"),
    ]
}

fn with_fields(mut head: Head, fields: &[usize]) -> Head {
    fields.iter().for_each(|place| head.append(FIELDS[*place].0, FIELDS[*place].1));
    head
}

/// The framings that a request can have, besides the one chosen for it.
const OF_REQUESTS: [Framing; 5] =
    [Framing::Bare, Framing::Empty, Framing::Stated(5), Framing::Stated(0), Framing::Chunked];

fn request_is_one(head: &Head, framing: Framing) {
    let Ok(written) = write::request(head, framing, &BufPool::new(1 << 20)) else { return };
    let message = oracle::request(&written).expect("a head that ends");
    assert_eq!(message.head, written.len(), "another head behind it: {}", written.escape_ascii());
    let hosts = written.windows(7).filter(|seven| seven.eq_ignore_ascii_case(b"\r\nhost:")).count();
    assert_eq!(hosts, 1, "{}", written.escape_ascii());
    let switches = head.upgrade().is_some() || head.method() == Method::Connect;
    let expected = match framing {
        Framing::Bare | Framing::Empty | Framing::Stated(0) if switches => Length::Switch,
        Framing::Bare | Framing::Empty => Length::Bytes(0),
        Framing::Stated(length) => Length::Bytes(length),
        Framing::Chunked => Length::Chunked,
        Framing::Described | Framing::UntilEnd => panic!("no request is framed like that"),
    };
    assert_eq!(message.body, expected, "{framing:?}: {}", written.escape_ascii());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_request_has_the_body_its_framing_declares(
        method in prop::sample::select(&METHODS[..]),
        upgrade in prop::option::of(text()),
        fields in prop::collection::vec(0..FIELDS.len(), 0..6),
        end: bool,
    ) {
        let mut head = with_fields(Head::request(method, "http", "a.test", "/x"), &fields);
        head.set_upgrade(upgrade.unwrap_or_default().as_bytes());
        let chosen = write::request_framing(&head, end);
        if head.upgrade().is_some() || method == "CONNECT" {
            prop_assert_eq!(chosen, Framing::Bare);
        }
        request_is_one(&head, chosen);
        OF_REQUESTS.iter().for_each(|framing| request_is_one(&head, *framing));
        for framing in [Framing::Described, Framing::UntilEnd] {
            prop_assert!(write::request(&head, framing, &BufPool::new(1 << 20)).is_err());
        }
    }

    #[test]
    fn a_response_has_the_body_its_framing_declares(
        status in prop::sample::select(&[100, 101, 103, 200, 204, 206, 304, 404, 502][..]),
        method in prop::sample::select(&METHODS[..]),
        upgrade in prop::option::of(text()),
        fields in prop::collection::vec(0..FIELDS.len(), 0..6),
        old: bool,
        end: bool,
    ) {
        let mut head = with_fields(Head::response(status), &fields);
        head.set_upgrade(upgrade.unwrap_or_default().as_bytes());
        let peer = if old { Version::Http10 } else { Version::Http11 };
        let framing = write::response_framing(&head, Method::of(method.as_bytes()), peer, end);
        let written = write::response(&head, framing, Persistence::Default, &BufPool::new(1 << 20));
        let Ok(written) = written else { return Ok(()) };
        let message = oracle::response(&written, method).expect("a head that ends");
        prop_assert_eq!(message.head, written.len());
        let switches = status == 101 || (method == "CONNECT" && (200..300).contains(&status));
        let expected = match framing {
            Framing::Bare if switches => Length::Switch,
            Framing::Bare | Framing::Described | Framing::Empty => Length::Bytes(0),
            Framing::Stated(length) => Length::Bytes(length),
            Framing::Chunked => Length::Chunked,
            Framing::UntilEnd => Length::UntilClose,
        };
        prop_assert_eq!(message.body, expected, "{}", written.escape_ascii());
    }

    /// Trailer fields cannot end the trailers early or carry framing.
    #[test]
    fn trailers_cannot_end_early_or_carry_framing(fields in prop::collection::vec(0..FIELDS.len(), 0..6)) {
        let head = with_fields(Head::default(), &fields);
        let Ok(written) = write::trailers(&head, &BufPool::new(1 << 20)) else { return Ok(()) };
        let lines: Vec<&[u8]> = written.strip_suffix(b"\r\n\r\n").unwrap().split(|b| *b == b'\n').collect();
        prop_assert_eq!(lines[0].trim_ascii_end(), b"0");
        let framing = |line: &&[u8]| {
            let line = line.to_ascii_lowercase();
            line.starts_with(b"content-length") || line.starts_with(b"transfer-encoding") || line.is_empty()
        };
        prop_assert!(!lines[1..].iter().any(framing), "{}", written.escape_ascii());
    }
}

/// No word of a start line splits in two, and nothing is written if one is missing.
#[test]
fn a_start_line_has_exactly_its_words() {
    let mut head = Head::request("GET", "http", "a", "/x");
    for two in [&b"/x y"[..], b"a\r\nb", b"\tx", b"\xff"] {
        let taken = [
            head.set_method(two),
            head.set_path(two),
            head.set_authority(two),
            head.set_scheme(two),
        ];
        assert_eq!(taken, [false; 4], "{}", two.escape_ascii());
    }
    assert_eq!((head.method_text(), head.authority(), head.path()), ("GET", "a", "/x"));
    let pool = BufPool::new(1 << 20);
    for (method, authority, path) in [("CONNECT", "", ""), ("", "a", "/")] {
        let head = Head::request(method, "http", authority, path);
        assert!(
            write::request(&head, Framing::Bare, &pool).is_err(),
            "{method} {authority} {path}"
        );
    }
    let old = Head::request("GET", "http", "", "/");
    assert!(write::request(&old, Framing::Bare, &pool).is_ok());
}

/// Text of any length is either refused or written in full; it never overruns the buffer.
#[test]
fn long_text_fits_or_is_refused() {
    let pool = BufPool::new(1 << 20);
    for length in [1, 255, 256, 4_000, 5_000, 20_000, 100_000, 200_000] {
        let long = "w".repeat(length);
        let mut answer = Head::response(101);
        answer.set_upgrade(long.as_bytes());
        if let Ok(written) = write::response(&answer, Framing::Bare, Persistence::Default, &pool) {
            assert_eq!(oracle::response(&written, "GET").unwrap().head, written.len());
        }
        let mut request = Head::request(&long, "http", &long, &format!("/{long}"));
        request.set_upgrade(long.as_bytes());
        if let Ok(written) = write::request(&request, Framing::Bare, &pool) {
            assert_eq!(oracle::request(&written).unwrap().head, written.len());
        }
    }
}
