//! Files, and what is wrong with them.
//!
//! Owns: how a file is read, and the error about one. Refuses to know: what files contain. Keeps: an error names the file.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it, if there is something to do.
    pub help: Option<&'static str>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for LoadError {}

/// A file with this problem.
pub(crate) fn wrong(path: &Path, problem: impl Into<String>) -> LoadError {
    LoadError { path: path.into(), problem: problem.into(), help: None }
}

/// The content of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|error| LoadError {
        help: match error.kind() {
            std::io::ErrorKind::NotFound => Some(
                "paths are relative to the configuration file; `sluice cert` creates certificates for testing",
            ),
            std::io::ErrorKind::PermissionDenied => {
                Some("make it readable for the user that runs Sluice")
            }
            _ => None,
        },
        ..wrong(path, format!("cannot be read: {error}"))
    })
}
