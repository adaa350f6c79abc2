//! Envoy's configuration.
//!
//! Owns: Envoy's messages with their rules, how they are read, and what they are in the native form. Refuses to know:
//! how the native form is compiled and run. Keeps: what is not understood is an error that names its type and field;
//! nothing is dropped without a word.
#![forbid(unsafe_code)]

pub mod coverage;
pub mod delivered;
pub mod descriptors;
pub mod dump;
pub mod load;
pub mod map;
mod merge;
pub mod message;
mod native;
mod native_names;
pub mod parts;
pub mod read;
mod rules;
mod scalars;
pub mod secret_files;
pub mod sources;
pub mod stats;
pub mod wire;

#[cfg(test)]
mod tests;

pub use load::{LoadOptions, load, load_part, load_part_of_text, load_text};
pub use read::UnknownFields;
