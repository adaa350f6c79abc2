//! The answer of the gRPC health service: no body panics, and only a message that begins with SERVING serves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::grpc::frame;
use sluice_codec::probe::is_serving;

fuzz_target!(|body: &[u8]| {
    is_serving(body);
    let framed = frame(body).expect("it is short");
    assert_eq!(is_serving(&framed), body.starts_with(&[8, 1]));
});
