//! The response to a DNS check: no datagram panics, and only one that repeats the ID of the query is a response to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_upstream::health::dns::{query, rcode};
use sluice_upstream::plan::DnsCheck;

fuzz_target!(|datagram: &[u8]| {
    let check = DnsCheck { name: "example.org".into(), record: 1, rcode: 0 };
    let asked = query(0x5353, &check);
    if let Some(code) = rcode(&asked, datagram) {
        assert!(code < 16);
        assert!(datagram.starts_with(&asked[..2]));
    }
    // The question may be repeated or left out, and nothing is read behind it.
    let mut answer = asked.clone();
    answer[2] |= 0x80;
    answer.extend_from_slice(datagram);
    assert_eq!(rcode(&asked, &answer), Some(0));
});
