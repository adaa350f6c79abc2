//! Loaded libraries that call the host in every wrong way that can be told.
//!
//! Owns: the programs. Refuses to know: what the library does with them. Keeps: a seed is a program, so that what fails can be run
//! again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod driver;

/// Bytes of a generator (xorshift), which begins with `seed`.
fn program(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..512).flat_map(|_| next()).collect()
}

#[test]
fn whatever_a_library_calls_is_an_answer() {
    for seed in 0..500 {
        driver::run(&program(seed));
    }
    for short in [&b""[..], b"\0", b"\xff\xff\xff", &[5; 100]] {
        driver::run(short);
    }
}
