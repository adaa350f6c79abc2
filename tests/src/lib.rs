//! What several black-box tests share; the tests are in `tests/`.
#![forbid(unsafe_code)]

use std::path::Path;

/// A sample configuration with its addresses replaced; each must stand in it.
///
/// # Panics
/// When the sample cannot be read or does not hold what is to be replaced.
pub fn sample(name: &str, replace: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    let mut text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let to_test = [
        ("127.0.0.1:9901", "127.0.0.1:0".to_owned()),
        ("sink: stdout", "sink: records.json".to_owned()),
    ];
    for (from, to) in to_test.iter().chain(replace) {
        assert!(text.contains(from), "{name} does not hold {from}");
        text = text.replace(from, to);
    }
    text
}
