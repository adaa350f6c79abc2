//! Answers of a service for external processing: whatever was sent and is answered, an answer is taken only where something
//! waits for it, and nothing after a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sluice_l7::filters::ext_proc::machine::fuzz(input));
