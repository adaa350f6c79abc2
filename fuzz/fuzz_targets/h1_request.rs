//! HTTP/1 request heads: no input panics, splitting does not change the result, and neither does parsing unsearched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::h1::parse;
use sluice_fuzz::{head_reads_alike_however_it_is_cut, whole_request_is_what_the_search_finds};

fuzz_target!(|stream: &[u8]| {
    head_reads_alike_however_it_is_cut(stream, |bytes, head, limits| {
        parse::request(bytes, head, limits, true)
    });
    whole_request_is_what_the_search_finds(stream);
});
