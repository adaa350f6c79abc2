//! Configuration files.
//!
//! Owns: reading YAML files and folders into a spanned tree, rendering findings with their source lines, the
//! JSON Schema, the reference page, the long form. Refuses to know: what sections mean.
//! Keeps: a file is read once; every finding has a place; the output of `explain` can be read again and contains no
//! secret.
#![forbid(unsafe_code)]

pub mod endpoint_file;
pub mod explain;
pub mod hints;
pub mod load;
pub mod redact;
pub mod reference;
pub mod render;
pub mod schema;
pub mod sources;
pub mod substitute;
pub mod yaml;

mod filter_settings;
mod origin;
mod written;

pub use filter_settings::{KnownFilters, NoFilters};
pub use load::{Loaded, load, load_sources, load_stdin, load_text};
pub use sources::{Sources, read_file};
