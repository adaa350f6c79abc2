//! The round trip: a message that is received and forwarded is read by its receiver as the same single message, with
//! the same end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::h1::chunked::Chunked;
use sluice_codec::h1::parse::{self, BodyLength, HeadLimits, Meta, Scan};
use sluice_codec::h1::write::{self, Framing, Persistence};
use sluice_codec::{Head, Method, Version};
use sluice_io::buffers::BufPool;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 40 };

/// A forwarded message is longer than the received one: its framing is written again.
const FORWARDED: HeadLimits = HeadLimits { bytes: 8192, fields: 44 };

type Read = fn(&[u8], &mut Head, HeadLimits) -> Option<Meta>;

fn request(bytes: &[u8], head: &mut Head, limits: HeadLimits) -> Option<Meta> {
    parse::request(bytes, head, limits, true).ok()
}

fn response(bytes: &[u8], head: &mut Head, limits: HeadLimits) -> Option<Meta> {
    parse::response(bytes, head, Method::Get, limits, true).ok()
}

/// The first message of a stream: its head, its body framing, and where the head ends.
fn first(stream: &[u8], read: Read, limits: HeadLimits) -> Option<(Head, Meta, usize)> {
    let (start, end) = Scan::default().find_end(stream, limits).ok()??;
    let mut head = Head::default();
    let meta = read(stream.get(start..end)?, &mut head, limits)?;
    Some((head, meta, end))
}

/// The fields that both must agree on: not those that frame a body or concern one connection.
fn fields(head: &Head) -> Vec<(Vec<u8>, Vec<u8>)> {
    let framing = |name: &[u8]| name == b"content-length" || name == b"transfer-encoding";
    let kept = head.fields().filter(|(name, _)| !framing(name) && *name != b"connection");
    kept.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// Once forwarded, `head` is one head with nothing after it, and is read alike.
fn passes(head: &Head, meta: Meta, framing: Framing, written: &[u8], read: Read) {
    let (again, other, end) = first(written, read, FORWARDED).expect("what we write can be read");
    assert_eq!(end, written.len(), "the head that was written ends in its middle");
    assert_eq!(fields(head), fields(&again));
    assert_eq!(
        (head.method_text(), head.status(), head.authority(), head.upgrade()),
        (again.method_text(), again.status(), again.authority(), again.upgrade()),
    );
    let body = match (framing, meta.body) {
        (Framing::Chunked, _) => BodyLength::Chunked,
        (Framing::Empty, _) => BodyLength::None,
        (Framing::UntilEnd, _) => BodyLength::UntilEnd,
        (Framing::Bare | Framing::Described | Framing::Stated(_), body) => body,
    };
    assert_eq!(other.body, body);
}

fuzz_target!(|stream: &[u8]| {
    let pool = BufPool::new(1 << 20);
    if let Some((head, meta, end)) = first(stream, request, LIMITS) {
        let framing = write::request_framing(&head, meta.body == BodyLength::None);
        let written = write::request(&head, framing, &pool).unwrap();
        passes(&head, meta, framing, &written, request);
        if meta.body == BodyLength::Chunked {
            trailers(stream.get(end..).unwrap_or_default(), &pool);
        }
    }
    if let Some((head, meta, _)) = first(stream, response, LIMITS) {
        if head.status() == 101 {
            return;
        }
        let end = meta.body == BodyLength::None;
        let framing = write::response_framing(&head, Method::Get, Version::Http11, end);
        let written = write::response(&head, framing, Persistence::Default, &pool).unwrap();
        passes(&head, meta, framing, &written, response);
    }
});

/// Forwarded trailers are read as the same ones, and end the body.
fn trailers(body: &[u8], pool: &BufPool) {
    let mut chunked = Chunked::default();
    if chunked.read(&mut body.to_vec(), LIMITS.bytes).is_err() || !chunked.is_done() {
        return;
    }
    let mut head = Head::default();
    if parse::trailers(chunked.trailer_lines(), &mut head, LIMITS, true).is_err() {
        return;
    }
    let mut written = write::trailers(&head, pool).unwrap().to_vec();
    let (mut again, mut other) = (Chunked::default(), Head::default());
    let got = again.read(&mut written, FORWARDED.bytes).expect("trailers we write can be read");
    assert!(again.is_done() && got.data == 0 && got.read == written.len());
    parse::trailers(again.trailer_lines(), &mut other, FORWARDED, true).expect("and are trailers");
    assert_eq!(fields(&head), fields(&other));
}
