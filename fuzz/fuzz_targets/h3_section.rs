//! HTTP/3 field sections: no input panics, the output is bounded, and an accepted request survives being written and
//! read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;
use sluice_codec::Bounds;
use sluice_codec::h3::convert;

const MAX: usize = 2048;

const BOUNDS: Bounds = Bounds { bytes: MAX, fields: 1000 };

fuzz_target!(|section: &[u8]| {
    let mut head = Head::default();
    let _ = convert::trailers(section, BOUNDS, &mut head);
    let _ = convert::response(section, BOUNDS, &mut head);
    if convert::request(section, BOUNDS, &mut head).is_err() {
        return;
    }
    let size: usize = head.fields().map(|(name, value)| name.len() + value.len() + 32).sum();
    assert!(size <= MAX, "more comes out than may");
    let mut frame = Vec::new();
    convert::put_request(&mut frame, &head).expect("what was read can be written");
    // The frame header: one byte of type, and a length of one, two or four bytes.
    let skip = 1 + (1 << (frame[1] >> 6));
    let mut again = Head::default();
    convert::request(&frame[skip..], Bounds { bytes: 2 * MAX, ..BOUNDS }, &mut again).expect("what we write can be read");
    let shown = |head: &Head| {
        let fields: Vec<(Vec<u8>, Vec<u8>)> =
            head.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let line = [head.method_text(), head.authority(), head.path()].map(str::to_owned);
        (line, head.upgrade().map(str::to_owned), fields)
    };
    assert_eq!(shown(&head), shown(&again));
});
