//! Header blocks do not allocate in the steady state, neither when they are decoded nor when they are encoded.
//!
//! Without the test harness, whose threads would be counted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;

use sluice_codec::hpack::{HpackDecoder, HpackEncoder, TABLE_BYTES};
use sluice_codec::{Bounds, Head};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BOUNDS: Bounds = Bounds { bytes: 60 << 10, fields: 100 };

/// Heads that are encoded before allocations are counted; the table is full by then.
const BEFORE: u32 = 500;

fn main() {
    let (mut encoder, mut decoder) = (HpackEncoder::new(), HpackDecoder::new(TABLE_BYTES));
    let (mut block, mut read) = (Vec::new(), Head::default());
    let heads: Vec<Head> = (0..BEFORE + 2000).map(request).collect();
    let count = || ALLOCATOR.stats().allocations + ALLOCATOR.stats().reallocations;
    let mut before = 0;
    for (number, head) in (0..).zip(&heads) {
        if number == BEFORE {
            before = count();
        }
        block.clear();
        encoder.request(head, &mut block).unwrap();
        decoder.request(&block, BOUNDS, &mut read).unwrap();
        // And on to the next connection.
        block.clear();
        assert_eq!(read.path(), head.path());
    }
    let made = count() - before;
    assert_eq!(made, 0, "{} heads came with {made} allocations", heads.len());
    assert!(encoder.bytes_held() > 4096 && decoder.bytes_held() > 4096, "the tables are in use");
}

/// A request with fields that repeat always, for a while, and never, in crumbs and in upper case.
fn request(number: u32) -> Head {
    let mut head = Head::request("GET", "https", "www.example.com", "/");
    head.set_path(format!("/items/{number}?page={}", number % 7).as_bytes());
    for (name, value) in [
        ("User-Agent", "tests/1.0 (steady)".to_owned()),
        ("accept", "*/*".to_owned()),
        ("x-request-id", format!("{:032x}", u128::from(number) * 0x9e37_79b9)),
        ("x-for-a-while", "w".repeat(40 + (number / 8 % 100) as usize)),
        ("authorization", format!("Bearer {number}")),
        ("cookie", "session=0123456789abcdef0123456789".to_owned()),
        ("cookie", format!("seen={number:06}")),
    ] {
        head.append(name.as_bytes(), value.as_bytes());
    }
    head
}
