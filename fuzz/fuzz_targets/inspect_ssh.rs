//! The SSH inspector alone: no input panics, and splitting does not change the outcome.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::cutting_changes_nothing;
use sluice_l4::inspect::Needs;
use sluice_l4::inspect::ssh::SSH;

fuzz_target!(|stream: &[u8]| cutting_changes_nothing(Needs::of(SSH), stream));
