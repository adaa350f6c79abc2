//! HTTP/1 response heads: no input panics, and splitting does not change the result.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::Method;
use sluice_codec::h1::parse;
use sluice_fuzz::head_reads_alike_however_it_is_cut;

fuzz_target!(|stream: &[u8]| head_reads_alike_however_it_is_cut(
    stream,
    |bytes, head, limits| parse::response(bytes, head, Method::Get, limits, true)
));
