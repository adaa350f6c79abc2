//! The files of a configuration, and what it takes from outside.
//!
//! Owns: texts, lines and columns, the content of files that are values. Refuses to know: what is in them.
//! Keeps: what was read is not read again, so that a configuration in force can be shown as it was.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_core::Span;
use sluice_core::tree::{Substitution, SubstitutionError};

/// Files, in the order in which spans number them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
    /// The content of files whose content is a value.
    value_files: BTreeMap<PathBuf, Result<Arc<str>, SubstitutionError>>,
    substitutions: Vec<Arc<Substitution>>,
}

#[derive(Clone, Debug)]
struct SourceFile {
    path: PathBuf,
    text: String,
    /// The byte at which each line starts.
    lines: Vec<usize>,
}

impl Sources {
    /// Adds a file and returns its number.
    pub fn add(&mut self, path: PathBuf, text: String) -> u16 {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        self.files.push(SourceFile { path, text, lines });
        u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX)
    }

    /// Path and text of a file.
    pub fn get(&self, file: u16) -> Option<(&Path, &str)> {
        self.files.get(usize::from(file)).map(|file| (file.path.as_path(), file.text.as_str()))
    }

    /// The content of a file that is a value, if it was read.
    pub(crate) fn value_file(&self, path: &Path) -> Option<&Result<Arc<str>, SubstitutionError>> {
        self.value_files.get(path)
    }

    pub(crate) fn add_value_file(
        &mut self,
        path: PathBuf,
        content: Result<Arc<str>, SubstitutionError>,
    ) {
        self.value_files.insert(path, content);
    }

    /// The path of every file whose content is a value.
    pub fn value_paths(&self) -> impl Iterator<Item = &Path> {
        self.value_files.keys().map(PathBuf::as_path)
    }

    pub(crate) fn substituted(&mut self, of: &Arc<Substitution>) {
        self.substitutions.push(Arc::clone(of));
    }

    /// The same files, before placeholders are resolved.
    pub(crate) fn without_substitutions(&self) -> Self {
        let Self { files, value_files, substitutions: _ } = self.clone();
        Self { files, value_files, substitutions: Vec::new() }
    }

    /// Every placeholder, with its value.
    pub(crate) fn substitutions(&self) -> impl Iterator<Item = (&Substitution, &str)> {
        self.substitutions.iter().filter_map(|of| of.text.as_deref().ok().map(|text| (&**of, text)))
    }

    /// Every path.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Every text, of files that are values too.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let values = self.value_files.values().filter_map(|text| text.as_deref().ok());
        self.files.iter().map(|file| file.text.as_str()).chain(values)
    }

    /// Line and column of the start of a span, both from 1; columns count characters.
    pub fn line_column(&self, span: Span) -> Option<(usize, usize)> {
        let source = self.files.get(usize::from(span.file))?;
        let at = span.start as usize;
        let line = source.line_of(at);
        let column = source.text.get(source.lines[line]..at)?.chars().count() + 1;
        Some((line + 1, column))
    }

    /// The whole lines from one byte of a file to another: the number of the first, from 1, and the bytes they occupy.
    pub fn lines(&self, file: u16, bytes: Range<usize>) -> Option<(usize, Range<usize>)> {
        let source = self.files.get(usize::from(file))?;
        let (first, last) = (source.line_of(bytes.start), source.line_of(bytes.end));
        let end = source.lines.get(last + 1).map_or(source.text.len(), |next| next - 1);
        Some((first + 1, source.lines[first]..end))
    }
}

impl SourceFile {
    /// The line, from 0, that contains a byte.
    fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at) - 1
    }
}

/// Maximum size of one configuration file, in bytes. Not among the limits that a file may set: it is checked before the
/// file is read.
pub(crate) const CONFIG_BYTES_MAX: u64 = 64 << 20;

/// Reads a configuration file, of at most 64 MiB.
///
/// # Errors
/// A sentence that says why it cannot be read.
pub fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| format!("{shown}: cannot be read: {error}");
    if std::fs::metadata(path).map_err(unreadable)?.len() > CONFIG_BYTES_MAX {
        return Err(format!(
            "{shown}: a configuration file must not exceed {CONFIG_BYTES_MAX} bytes"
        ));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| not_utf8(shown, &error))
}

/// That a file is not UTF-8.
pub(crate) fn not_utf8(
    shown: impl std::fmt::Display,
    error: &std::string::FromUtf8Error,
) -> String {
    format!("{shown}: byte {} is not UTF-8", error.utf8_error().valid_up_to())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u32) -> Span {
        Span { file: 0, start, end: start }
    }

    #[test]
    fn lines_and_columns_count_from_one() {
        let mut sources = Sources::default();
        sources.add(PathBuf::from("a"), "ab\n\nüc\n".to_owned());
        for (at, expected) in
            [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (6, (3, 2)), (8, (4, 1))]
        {
            assert_eq!(sources.line_column(span(at)), Some(expected), "at {at}");
        }
        assert_eq!(sources.line_column(span(5)), None, "within a character");
        assert_eq!(sources.line_column(span(99)), None, "behind the end");
    }

    #[test]
    fn lines_are_whole_and_without_the_last_break() {
        let mut sources = Sources::default();
        sources.add(PathBuf::from("a"), "ab\ncd\nef".to_owned());
        for (bytes, expected) in [
            (0..1, (1, 0..2)),
            (1..4, (1, 0..5)),
            (4..5, (2, 3..5)),
            (6..8, (3, 6..8)),
            (2..2, (1, 0..2)),
        ] {
            assert_eq!(sources.lines(0, bytes.clone()), Some(expected), "{bytes:?}");
        }
        assert_eq!(sources.lines(1, 0..0), None);
    }
}
