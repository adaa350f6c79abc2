//! Lookup tables.

use std::path::PathBuf;

use sluice_l4::filters::lookup::{LookupKind, MapEntries};

/// A lookup table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupMap {
    /// How a key is searched.
    pub kind: LookupKind,
    /// Its entries.
    pub entries: EntriesFrom,
}

/// Where the entries of a table are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntriesFrom {
    /// Here.
    Here(MapEntries),
    /// In this file.
    File(PathBuf),
}
