//! The files of a configuration.

use std::path::{Path, PathBuf};

use sluice_core::Span;

/// Files, in the order in which spans number them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<(PathBuf, String)>,
}

impl Sources {
    /// Adds a file and returns its number.
    pub fn add(&mut self, path: PathBuf, text: String) -> u16 {
        self.files.push((path, text));
        u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX)
    }

    /// Path and text of a file.
    pub fn get(&self, file: u16) -> Option<(&Path, &str)> {
        self.files.get(usize::from(file)).map(|(path, text)| (path.as_path(), text.as_str()))
    }

    /// Every path.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Every text.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(_, text)| text.as_str())
    }

    /// Line and column of the start of a span, both from 1; columns count characters.
    pub fn line_column(&self, span: Span) -> Option<(usize, usize)> {
        let (_, text) = self.get(span.file)?;
        let before = text.get(..span.start as usize)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((line, column))
    }
}
