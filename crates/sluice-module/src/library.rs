//! Libraries as settings name them.
//!
//! Owns: what is reported when a library cannot be used, or refuses its text. Refuses to know: what it is used for. Keeps: a finding
//! names the library, and has its words.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use sluice_core::{Diagnostic, Diags, Path, Spanned};
use sluice_sys::module::Module;

use crate::config::CheckedConfig;

/// The name of a filter that is not named: that of the file, without what all files have.
pub(crate) fn name_of(library: &Module) -> String {
    name_of_file(library.path())
}

fn name_of_file(path: &FilePath) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix("lib").unwrap_or(&stem).to_owned()
}

/// Loads the library `file`, which is written as `path`; reports why that is not possible.
pub(crate) fn open(
    path: &Spanned<PathBuf>,
    file: &FilePath,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<&'static Module> {
    match Module::open(file) {
        Ok(module) => Some(module),
        Err(problem) => {
            let message = format!("cannot use {}: {problem}", path.value.display());
            diags.error("bad-library", path.span, at.key("library"), message);
            None
        }
    }
}

/// Has a library check a text; reports what it says against it.
pub(crate) fn make(
    module: &'static Module,
    filter: &str,
    text: Option<&str>,
    path: &Spanned<PathBuf>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Arc<CheckedConfig>> {
    match CheckedConfig::of(module, filter, text.unwrap_or_default()) {
        Ok(made) => Some(made),
        Err(problem) => {
            let of = match module.name() {
                "" => path.value.display().to_string(),
                name => name.to_owned(),
            };
            let message = format!("{of} refuses this configuration: {problem}");
            let (at, place) = match text {
                Some(_) => (at.key("config"), None),
                None => (at.key("library"), Some(path.span)),
            };
            diags.error("bad-config", place, at, message);
            None
        }
    }
}

/// Reports that a library has no function for what it is used for.
pub(crate) fn lacks<'d>(
    path: &Spanned<PathBuf>,
    what: &str,
    at: &Path<'_>,
    diags: &'d mut Diags,
) -> &'d mut Diagnostic {
    let message = format!("{} {what}", path.value.display());
    diags.error("bad-library", path.span, at.key("library"), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_named_like_its_file() {
        assert_eq!(name_of_file(FilePath::new("/a/libtag.so")), "tag");
        assert_eq!(name_of_file(FilePath::new("waf.so")), "waf");
    }
}
