//! Files that list the endpoints of a cluster.
//!
//! Owns: how one is read. Refuses to know: which cluster it is for, and whether its entries fit there. Keeps: a file is
//! used whole or not at all; one that is empty, as a file is that is just being written, does not mean that there are
//! no endpoints.

use std::path::Path;

use sluice_core::{Diags, Setting as _, Severity, Value};
use sluice_model::translate::endpoints::EndpointList;

use crate::sources::{Sources, read_file};
use crate::{render, yaml};

/// Reads the endpoints in a file: a list in YAML or JSON, with the entries of `endpoints` of a cluster.
///
/// # Errors
/// The first error, with its place.
pub fn read(path: &Path) -> Result<EndpointList, String> {
    parse(path, read_file(path)?)
}

fn parse(path: &Path, text: String) -> Result<EndpointList, String> {
    let mut diags = Diags::new();
    let root = yaml::read(&text, 0, &mut diags);
    let list = match root {
        Some(root) if matches!(root.value, Value::Null) => {
            let empty = "the file is empty; write `[]` if there are no endpoints";
            return Err(format!("{}: {empty}", path.display()));
        }
        Some(root) => EndpointList::bind(&root, &sluice_core::Path::ROOT, &mut diags),
        None => None,
    };
    let mut errors = diags.sorted();
    errors.retain(|found| found.severity == Severity::Error);
    match (errors.first(), list) {
        (None, Some(list)) => Ok(list),
        (Some(first), _) => {
            let mut sources = Sources::default();
            sources.add(path.to_owned(), text);
            let more = match errors.len() {
                1 => String::new(),
                all => format!(" (and {} more)", all - 1),
            };
            Err(format!("{}{more}", render::line(first, &sources)))
        }
        (None, None) => Err(format!("{}: not a list of endpoints", path.display())),
    }
}

#[cfg(test)]
mod tests;
