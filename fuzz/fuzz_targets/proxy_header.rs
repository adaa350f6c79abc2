//! The PROXY header: no input panics, and a header is within the bytes it was read from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l4::proxy_protocol::{Header, read};

fuzz_target!(|bytes: &[u8]| {
    if let Header::Present { length, .. } = read(bytes) {
        assert!(length <= bytes.len());
        // The bytes after the header do not affect it.
        assert_eq!(read(&bytes[..length]), read(bytes));
    }
});
