//! The rule about the files of black-box tests.
//!
//! Owns: that each of them is compiled. Refuses to know: what they test. Keeps: a folder of `tests/tests` is one binary.

use std::fs;
use std::path::Path;

use super::rust_files;

/// Files of black-box tests that are no module of their binary, so that nobody would notice that they do not run.
///
/// # Errors
/// A source file cannot be read.
pub fn uncompiled_tests(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for file in rust_files(&root.join("tests/tests"))? {
        let main = file.with_file_name("main.rs");
        let Some(module) = file.file_stem().filter(|_| main.exists() && main != file) else {
            continue;
        };
        let module = format!("mod {};", module.display());
        if !fs::read_to_string(&main)?.lines().any(|line| line == module) {
            broken.push(format!(
                "{} has no line `{module}` for {}",
                main.display(),
                file.display()
            ));
        }
    }
    Ok(broken)
}
