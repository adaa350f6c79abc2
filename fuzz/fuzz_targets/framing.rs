//! Any head from any source: the output is one message, and a reader that shares no code with ours takes its body to be
//! as long as the stream will send.
//!
//! The input is an HTTP/1 message, an HTTP/3 field section, an HTTP/2 header block, or a list of fields that a filter may
//! have set; the first byte selects which, and whether a body follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::h1::parse::{self, HeadLimits, Scan};
use sluice_codec::h1::write::{self, Framing, Persistence};
use sluice_codec::Bounds;
use sluice_codec::h3::convert;
use sluice_codec::hpack::{HpackDecoder, TABLE_BYTES};
use sluice_codec::{Head, Method, Version};
use sluice_io::buffers::BufPool;

#[allow(dead_code, reason = "the tests that it is shared with use more of it")]
#[path = "../../crates/sluice-codec/tests/framing/oracle.rs"]
mod oracle;

use oracle::Length;

const BOUNDS: Bounds = Bounds { bytes: 4096, fields: 40 };
const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 40 };

/// A request head from the input, from one of the sources of heads.
fn request(way: u8, input: &[u8]) -> Option<Head> {
    let mut head = Head::default();
    match way & 3 {
        0 => {
            let (start, end) = Scan::default().find_end(input, LIMITS).ok()??;
            parse::request(input.get(start..end)?, &mut head, LIMITS, true).ok()?;
        }
        1 => convert::request(input, BOUNDS, &mut head).ok()?,
        2 => HpackDecoder::new(TABLE_BYTES).request(input, BOUNDS, &mut head).ok()?,
        _ => {
            let methods = ["GET", "POST", "CONNECT", "HEAD"];
            head = Head::request(methods[usize::from(way >> 2 & 3)], "http", "a.test", "/x");
            set_fields(&mut head, input);
        }
    }
    // A filter may also set this.
    if way & 0x40 != 0 {
        head.set_upgrade(b"websocket");
    }
    Some(head)
}

fn set_fields(head: &mut Head, input: &[u8]) {
    for line in input.split(|byte| *byte == 0xff).take(LIMITS.fields) {
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(0));
        match name.first() {
            Some(b'+') => head.set(&name[1..], value.get(1..).unwrap_or_default()),
            Some(b'!') => {
                head.set_upgrade(value.get(1..).unwrap_or_default());
            }
            Some(b'@') => {
                head.set_authority(value.get(1..).unwrap_or_default());
            }
            _ => head.append(name, value.get(1..).unwrap_or_default()),
        }
    }
}

fn request_is_one_message(head: &Head, end: bool, pool: &BufPool) {
    let framing = write::request_framing(head, end);
    let Ok(written) = write::request(head, framing, pool) else { return };
    let message = oracle::request(&written).expect("a whole head");
    assert_eq!(message.head, written.len(), "something follows the head");
    let switches = head.upgrade().is_some() || head.method() == Method::Connect;
    let body = match framing {
        Framing::Bare if switches => Length::Switch,
        Framing::Bare | Framing::Empty => Length::Bytes(0),
        Framing::Stated(length) => Length::Bytes(length),
        Framing::Chunked => Length::Chunked,
        Framing::Described | Framing::UntilEnd => panic!("no request ends like that"),
    };
    assert_eq!(message.body, body, "{}", written.escape_ascii());
}

fn response_is_one_message(head: &Head, method: &str, end: bool, pool: &BufPool) {
    let framing =
        write::response_framing(head, Method::of(method.as_bytes()), Version::Http11, end);
    let Ok(written) = write::response(head, framing, Persistence::Default, pool) else { return };
    let message = oracle::response(&written, method).expect("a whole head");
    assert_eq!(message.head, written.len(), "something follows the head");
    let status = head.status();
    let switches = status == 101 || (method == "CONNECT" && (200..300).contains(&status));
    let body = match framing {
        Framing::Bare if switches => Length::Switch,
        Framing::Bare | Framing::Described | Framing::Empty => Length::Bytes(0),
        Framing::Stated(length) => Length::Bytes(length),
        Framing::Chunked => Length::Chunked,
        Framing::UntilEnd => Length::UntilClose,
    };
    assert_eq!(message.body, body, "{}", written.escape_ascii());
}

fuzz_target!(|input: &[u8]| {
    let Some((way, input)) = input.split_first() else { return };
    let (pool, end) = (BufPool::new(1 << 20), way & 0x80 != 0);
    if let Some(head) = request(*way, input) {
        request_is_one_message(&head, end, &pool);
    }
    let mut head = Head::response([200, 101, 204, 304, 404, 100][usize::from(way >> 2) % 6]);
    set_fields(&mut head, input);
    for method in ["GET", "HEAD", "CONNECT"] {
        response_is_one_message(&head, method, end, &pool);
    }
});
