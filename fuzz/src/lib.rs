//! What the targets share.
//!
//! Owns: the property every panel of inspectors has. Refuses to know: how inputs are made. Keeps: the
//! property is stated once, for one inspector as for all of them.
#![forbid(unsafe_code)]

use sluice_l4::inspect::{Look, Needs, Panel};

/// No inspector.
pub const NONE: Needs = Needs {
    tls: false,
    postgres: false,
    postgres_tls: false,
    http1: false,
    http2: false,
    redis: false,
    ssh: false,
    presence: false,
};

/// A panel comes to the same outcome whether its stream is seen whole or a byte at a time.
///
/// # Panics
/// When it does not.
pub fn cutting_changes_nothing(needs: Needs, stream: &[u8]) {
    assert_eq!(decide(needs, stream, 1), decide(needs, stream, stream.len().max(1)));
}

fn decide(needs: Needs, stream: &[u8], step: usize) -> Look {
    let inspectors = needs.inspectors();
    let mut panel = Panel::new(&inspectors);
    let mut start = 0;
    for end in (step..=stream.len()).step_by(step) {
        loop {
            match panel.look(&stream[start..end]) {
                Look::Reply { consumed, .. } => start += consumed,
                Look::More => break,
                look => return look,
            }
        }
    }
    Look::More
}
