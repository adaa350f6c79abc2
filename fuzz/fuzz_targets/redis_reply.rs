//! Replies of a Redis server: no input panics; cutting a reply only makes it incomplete, and what follows it does not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l7::resp::read;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((value, length))) = read(bytes) else { return };
    assert!(length <= bytes.len());
    let reply = &bytes[..length];
    assert_eq!(read(reply), Ok(Some((value, length))));
    // All places of a short reply, some of a long one.
    for end in (0..length).step_by(1 + length / 256) {
        assert_eq!(read(&reply[..end]), Ok(None));
    }
});
