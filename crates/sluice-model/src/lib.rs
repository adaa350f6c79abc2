//! The configuration model.
//!
//! Owns: the sections of configuration files, the Model that they are translated to, the resources in force and their
//! changes. Refuses to know: YAML, the order of files, sockets.
//! Keeps: a section is declared once, and its reference, schema, long form and binding derive from that; files and
//! control planes alike configure Sluice through the Model.
#![forbid(unsafe_code)]

pub mod chains;
pub mod check;
pub mod compile;
pub mod diff;
pub mod files;
mod inline;
pub mod model;
mod own_name;
pub mod planes;
pub mod process;
pub mod provenance;
pub mod reach;
pub mod sections;
pub mod store;
pub mod translate;
#[cfg(test)]
mod trees;

pub use sections::Config;
