//! Files that a running Sluice watches.
//!
//! Owns: how a test replaces one. Refuses to know: what is in it. Keeps: a reader sees the content of before or the whole
//! of the new one; a file that is written in place is empty for a moment, and a machine under load may read it then.

use std::path::Path;

/// Moves a file with this content into place, as editors and control planes do.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn place(path: &Path, content: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).expect("the new file is written");
    std::fs::rename(&new, path).expect("it is moved into place");
}
