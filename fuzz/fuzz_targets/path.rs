//! Path normalisation: no input panics, and a normalised path stays unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l7::hygiene::{EscapedSlashes, Hygiene, PathVerdict, path};

fuzz_target!(|text: &str| {
    for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Unescape] {
        for merge_slashes in [false, true] {
            let hygiene = Hygiene { merge_slashes, escaped_slashes, ..Hygiene::default() };
            let rooted = format!("/{text}");
            if let PathVerdict::Changed(changed) = path(&hygiene, &rooted) {
                assert_eq!(path(&hygiene, &changed), PathVerdict::Normal, "{rooted:?} to {changed:?}");
            }
        }
    }
});
