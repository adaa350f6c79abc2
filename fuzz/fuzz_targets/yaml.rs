//! Configurations: no text panics, and every error has a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_config::{load_text, render};

fuzz_target!(|text: &str| {
    let loaded = load_text(std::path::Path::new("fuzz.yaml"), text);
    assert!(loaded.config.is_some() || loaded.diags.has_errors());
    let findings = loaded.diags.into_sorted();
    let _ = render::text(&findings, &loaded.sources, false);
});
