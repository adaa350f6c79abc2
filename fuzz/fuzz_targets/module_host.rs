//! The functions that loaded libraries call: no handle, pointer that can be told to be wrong, or length leads anywhere but to an
//! answer.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/sluice-sys/tests/hostile/driver.rs"]
mod driver;

fuzz_target!(|program: &[u8]| driver::run(program));
