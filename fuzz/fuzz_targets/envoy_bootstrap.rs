//! Files of Envoy: no text panics, and a file without a configuration has an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_config::render;
use sluice_envoy::{UnknownFields, load_text};

fuzz_target!(|text: &str| {
    let path = std::path::Path::new("fuzz.yaml");
    let loaded = load_text(path, text.to_owned(), &UnknownFields::Refuse.into());
    assert!(loaded.config.is_some() || loaded.diags.has_errors());
    let findings = loaded.diags.into_sorted();
    let _ = render::text(&findings, &loaded.sources, false);
});
