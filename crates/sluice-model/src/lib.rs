//! The configuration model.
//!
//! Owns: the sections of the configuration as types, the checks across them, the difference between
//! two configurations, and the snapshot that workers run. Refuses to know: YAML, the order of files, sockets.
//! Keeps: a section is declared once, and its reference, schema, long form and binding derive from
//! that; a snapshot is only built from a configuration without errors.
#![forbid(unsafe_code)]

pub mod build;
pub mod chains;
pub mod check;
pub mod diff;
pub mod reach;
pub mod sections;
#[cfg(test)]
mod trees;

pub use build::{BuildInput, Snapshot, build};
pub use sections::Config;
