//! Configurations as people write them.
//!
//! Owns: reading YAML files and folders into a spanned tree, showing findings with their lines, the
//! JSON Schema, the reference page, the long form. Refuses to know: what sections mean.
//! Keeps: a file is read once; every finding has a place; what `explain` prints can be read again, and holds no
//! secret.
#![forbid(unsafe_code)]

pub mod explain;
pub mod hints;
pub mod load;
pub mod redact;
pub mod reference;
pub mod render;
pub mod schema;
pub mod sources;
pub mod yaml;

pub use load::{Loaded, load, load_stdin, load_text};
pub use sources::Sources;
