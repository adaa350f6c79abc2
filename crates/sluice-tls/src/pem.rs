//! Where PEM is found: in a file, or in the configuration itself.
//!
//! Owns: how its bytes are read, and what it is called in messages. Refuses to know: what the bytes mean. Keeps: neither
//! `Debug` nor a name contains a byte of an inline text.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use sluice_core::SecretText;

use crate::files::{LoadError, read};

/// Where a PEM text is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PemSource {
    /// In a file.
    File(PathBuf),
    /// In the configuration.
    Inline(SecretText),
}

impl PemSource {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Inline(_) => None,
        }
    }

    /// What it is called: its path, or `inline:` and the begin of a hash, which tells texts apart and says nothing of them.
    pub fn name(&self) -> Cow<'_, Path> {
        match self {
            Self::File(path) => Cow::Borrowed(path),
            Self::Inline(text) => {
                let hash = digest(&SHA256, text.bytes());
                let begin = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}"));
                Cow::Owned(PathBuf::from(format!("inline:{}", begin.collect::<String>())))
            }
        }
    }

    /// The text.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<Cow<'_, [u8]>, LoadError> {
        match self {
            Self::File(path) => read(path).map(Cow::Owned),
            Self::Inline(text) => Ok(Cow::Borrowed(text.bytes())),
        }
    }
}

impl From<PathBuf> for PemSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for PemSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<&str> for PemSource {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl fmt::Display for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inline_text_is_read_and_never_shown() {
        let text = SecretText::new(b"-----BEGIN PRIVATE KEY-----").unwrap();
        let inline = PemSource::Inline(text);
        assert_eq!(&*inline.read().unwrap(), b"-----BEGIN PRIVATE KEY-----");
        assert!(inline.to_string().starts_with("inline:"), "{inline}");
        assert_eq!(inline.to_string().len(), "inline:".len() + 16);
        for shown in [format!("{inline:?}"), inline.to_string()] {
            assert!(!shown.contains("BEGIN"), "{shown}");
        }
        assert_eq!(inline.file(), None);
        assert_eq!(PemSource::from("a.pem").to_string(), "a.pem");
        assert!(PemSource::from("/none.pem").read().is_err());
    }
}
