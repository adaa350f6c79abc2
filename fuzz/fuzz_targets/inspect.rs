//! The panel of inspectors: no input panics, and cutting does not change the outcome.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l4::inspect::{Look, Needs, Panel};

fn decide(stream: &[u8], cut: usize) -> Look {
    let inspectors = Needs::ALL.inspectors();
    let mut panel = Panel::new(&inspectors);
    let mut start = 0;
    for end in [cut.min(stream.len()), stream.len()] {
        loop {
            match panel.look(&stream[start..end.max(start)]) {
                Look::Reply { consumed, .. } => start += consumed,
                Look::More => break,
                look => return look,
            }
        }
    }
    Look::More
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, stream) = input;
    assert_eq!(decide(stream, usize::from(cut)), decide(stream, 0));
});
