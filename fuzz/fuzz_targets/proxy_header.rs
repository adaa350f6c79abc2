//! The PROXY header: no input panics, and a header lies within the bytes it was read from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l4::proxy_protocol::{Header, read};

fuzz_target!(|bytes: &[u8]| {
    if let Header::Present { length, .. } = read(bytes) {
        assert!(length <= bytes.len());
        // What is behind the header does not matter to it.
        assert_eq!(read(&bytes[..length]), read(bytes));
    }
});
