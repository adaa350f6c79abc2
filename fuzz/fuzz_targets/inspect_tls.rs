//! The inspector of TLS ClientHellos alone: no input panics, and splitting does not change the outcome.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::cutting_changes_nothing;
use sluice_l4::inspect::Needs;
use sluice_l4::inspect::tls::TLS;

fuzz_target!(|stream: &[u8]| cutting_changes_nothing(Needs::of(TLS), stream));
