//! Lookup tables.
//!
//! Owns: where the entries of a table are written, and how it is searched. Refuses to know: what it is used for. Keeps: the
//! entries are in one place.

use std::path::PathBuf;

use sluice_core::{Spanned, section};
use sluice_l4::filters::lookup::{LookupKind, MapEntries};

section! {
    /// A lookup table. Exactly one of `entries` and `file` is required.
    pub struct LookupMap {
        /// Values by keys: `{ 10.0.0.0/8: inside }`.
        pub entries: Option<MapEntries>,
        /// A file with a line for each entry: the key, blanks, and the value, or the key alone; `#` begins a comment. It is read
        /// again when it changes; one with a mistake leaves the last one in place.
        pub file: Option<Spanned<PathBuf>>,
        /// How a key is searched.
        pub lookup: LookupKind = "exact",
    }
}
