//! Paths that are normalised, rewritten and normalised again: the result has no dot segments, and another pass does not
//! change it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l7::hygiene::{self, EscapedSlashes, Hygiene, PathVerdict, Underscores};

fn no_dots(path: &str) {
    let only = path.split('?').next().unwrap_or_default();
    assert!(!only.split('/').any(|segment| matches!(segment, "." | "..")), "{path:?}");
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let slashes = [
        EscapedSlashes::Keep,
        EscapedSlashes::Reject,
        EscapedSlashes::Redirect,
        EscapedSlashes::Unescape,
    ];
    let hygiene = Hygiene {
        normalize: true,
        merge_slashes: first & 1 != 0,
        escaped_slashes: slashes[usize::from(first >> 1 & 3)],
        underscores: Underscores::Keep,
    };
    let (asked, prefix) = text.split_once('\n').unwrap_or((text, "/static/"));
    let normal = match hygiene::path(&hygiene, asked) {
        PathVerdict::Normal => asked.to_owned(),
        PathVerdict::Changed(path) | PathVerdict::Redirect(path) => path,
        PathVerdict::Refused => return,
    };
    let joined = format!("{prefix}{}", normal.strip_prefix("/img").unwrap_or(&normal));
    for made in [joined, normal] {
        let Some(once) = hygiene::rewritten(&hygiene, made) else { continue };
        no_dots(&once);
        assert!(once.starts_with('/') && once.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(hygiene::rewritten(&hygiene, once.clone()), Some(once));
    }
});
