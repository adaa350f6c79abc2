//! PostgreSQL with requests for TLS granted: no input panics, and splitting does not change the outcome.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::cutting_changes_nothing;
use sluice_l4::inspect::Needs;
use sluice_l4::inspect::postgres::POSTGRES;

fuzz_target!(|stream: &[u8]| {
    let mut needs = Needs::of(POSTGRES);
    needs.grant_tls(POSTGRES);
    cutting_changes_nothing(needs, stream);
});
