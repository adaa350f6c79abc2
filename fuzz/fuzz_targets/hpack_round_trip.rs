//! Heads: what the encoder writes, the decoder reads, while both tables fill, change size and forget.
//!
//! Each head begins with a byte: its kind, and whether the table changes its size before. Its fields follow as lines,
//! and end with an empty one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::hpack::{HpackDecoder, HpackEncoder, TABLE_BYTES};
use sluice_codec::{Bounds, Head};

const BOUNDS: Bounds = Bounds { bytes: 1 << 20, fields: 5000 };

/// Splits the next line off.
fn line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (line, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    line
}

fn add_fields(head: &mut Head, rest: &mut &[u8]) {
    loop {
        let line = line(rest);
        let Some(colon) = line.iter().position(|byte| *byte == b':').filter(|at| *at > 0) else {
            return;
        };
        let value = line[colon + 1..].trim_ascii();
        // These the decoder looks into; cookies are joined.
        let name = line[..colon].to_ascii_lowercase();
        let vital = ["te", "content-length", "host", "cookie", "upgrade", "connection"];
        let dropped = ["keep-alive", "proxy-connection", "transfer-encoding", "http2-settings"];
        if vital.iter().chain(&dropped).all(|known| known.as_bytes() != name) {
            head.append(&line[..colon], value);
        }
    }
}

type Shown = (u16, [String; 4], Vec<(Vec<u8>, Vec<u8>)>);

fn shown(head: &Head) -> Shown {
    let line = [head.method_text(), head.scheme(), head.authority(), head.path()];
    let fields = head.fields().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
    (head.status(), line.map(str::to_owned), fields.collect())
}

fuzz_target!(|input: &[u8]| {
    let (mut encoder, mut decoder) = (HpackEncoder::new(), HpackDecoder::new(TABLE_BYTES));
    let (mut block, mut read) = (Vec::new(), Head::default());
    let mut rest = input;
    while let [kind, after @ ..] = rest {
        rest = after;
        if kind & 0x80 != 0 {
            encoder.set_table_max(u32::from(kind & 0x7f) * 40);
        }
        let mut head = match kind % 2 {
            0 => Head::response(100 + u16::from(*kind) * 3),
            _ => Head::request("GET", "https", "a.test", "/"),
        };
        if kind % 2 == 1 {
            head.set_path(&[b"/", line(&mut rest)].concat());
        }
        add_fields(&mut head, &mut rest);
        block.clear();
        let is_request = head.status() == 0;
        let written = match is_request {
            true => encoder.request(&head, &mut block),
            false => encoder.response(&head, &mut block),
        };
        assert_eq!(written.is_ok(), head.is_sound());
        if written.is_err() {
            assert!(block.is_empty());
            continue;
        }
        let got = match is_request {
            true => decoder.request(&block, BOUNDS, &mut read),
            false => decoder.response(&block, BOUNDS, &mut read),
        };
        if head.path().contains('#') || head.status() == 101 {
            assert!(got.is_err());
            continue;
        }
        got.expect("what is written can be read");
        assert_eq!(shown(&read), shown(&head));
    }
});
