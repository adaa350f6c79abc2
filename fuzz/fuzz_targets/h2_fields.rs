//! HTTP/2 heads: no header block panics, and a request that is accepted can be written as HTTP/1, and as HTTP/2 with the
//! same meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::h1::write;
use sluice_codec::hpack::{HpackDecoder, HpackEncoder, TABLE_BYTES};
use sluice_codec::{Bounds, Head};
use sluice_io::buffers::BufPool;

const BOUNDS: Bounds = Bounds { bytes: 4096, fields: 20 };

fuzz_target!(|block: &[u8]| {
    let mut head = Head::default();
    if HpackDecoder::new(TABLE_BYTES).request(block, BOUNDS, &mut head).is_err() {
        return;
    }
    assert!(head.len() <= BOUNDS.fields);
    // HTTP/1 can express it, whether or not a body follows,
    for end in [false, true] {
        let framing = write::request_framing(&head, end);
        write::request(&head, framing, &BufPool::new(1 << 20)).expect("HTTP/1 can say it");
    }
    // and so can HTTP/2, with the same meaning.
    let mut again = Vec::new();
    HpackEncoder::new().request(&head, &mut again).expect("HTTP/2 can say what it said");
    let mut other = Head::default();
    let wide = Bounds { bytes: 2 * BOUNDS.bytes, fields: BOUNDS.fields + 1 };
    HpackDecoder::new(TABLE_BYTES).request(&again, wide, &mut other).expect("we can be read");
    let shown = |head: &Head| {
        let fields: Vec<_> = head.fields().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        let line = [head.method_text(), head.authority(), head.path()].map(str::to_owned);
        (line, head.upgrade().map(str::to_owned), fields)
    };
    assert_eq!(shown(&head), shown(&other));
});
