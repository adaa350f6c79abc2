//! The dialogue of a check by send and expect: whatever the endpoint sends, it ends or waits, and cutting does not change how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::dialogue_ends_alike_however_it_is_cut;
use sluice_upstream::plan::{CheckKind, SendExpect};

fuzz_target!(|stream: &[u8]| {
    let kind = CheckKind::Tcp(vec![
        step("", "220 "),
        step("EHLO a\r\n", "250 "),
        step("QUIT\r\n", "221"),
    ]);
    dialogue_ends_alike_however_it_is_cut(&kind, stream);
});

fn step(send: &str, expect: &str) -> SendExpect {
    SendExpect { send: send.into(), expect: expect.into() }
}
