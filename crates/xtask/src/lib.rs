//! The rules of the repository, and the commands that developers and CI run.
//!
//! Owns: the order of crates, the checks behind the rules. Refuses to know: Sluice.
#![forbid(unsafe_code)]

pub mod bench;
pub mod envoy;
pub mod packages;
pub mod rules;
pub mod shell;
