//! What a configuration means.
//!
//! Owns: the sections of the configuration as types, the checks across them, what changed between
//! two of them, and the snapshot that workers run. Refuses to know: YAML, files' order, sockets.
//! Keeps: a section is declared once, and its reference, schema, long form and binding come from
//! there; a snapshot is only made of a configuration without errors.
#![forbid(unsafe_code)]

pub mod build;
pub mod chains;
pub mod check;
pub mod diff;
pub mod reach;
pub mod sections;
#[cfg(test)]
mod trees;

pub use build::{Needed, Snapshot, build};
pub use sections::Config;
