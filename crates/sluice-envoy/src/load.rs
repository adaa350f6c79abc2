//! Loads a file of Envoy as a configuration.
//!
//! Owns: the way from a file to the sections. Refuses to know: what is checked across sections. Keeps: every finding
//! names the field of Envoy's file that it comes from.

use std::path::{Path, PathBuf};

use sluice_config::{Loaded, Sources, read_file, yaml};
use sluice_core::{Diags, Node, Span, Value};

use crate::message::ProtoMessage;
use crate::{UnknownFields, descriptors, map, read};

/// The type of a whole file.
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Reads a bootstrap in YAML or JSON. Relative paths in it are resolved against the working directory, as Envoy does.
pub fn load(path: &Path, unknown: UnknownFields) -> Loaded {
    match read_file(path) {
        Ok(text) => load_text(path, text, unknown),
        Err(problem) => {
            let mut diags = Diags::new();
            diags.error("bad-file", None, "", problem);
            Loaded::of_tree(Sources::default(), PathBuf::from("."), nothing(), diags)
        }
    }
}

/// Reads a bootstrap from text, as if it were the file `path`.
pub fn load_text(path: &Path, text: String, unknown: UnknownFields) -> Loaded {
    let mut diags = Diags::new();
    let bootstrap = bootstrap(&text, unknown, &mut diags);
    let root = bootstrap.as_ref().map_or_else(nothing, |bootstrap| map::map(bootstrap, &mut diags));
    let mut sources = Sources::default();
    sources.add(path.to_owned(), text);
    let before = diags.iter().count();
    let mut loaded = Loaded::of_tree(sources, PathBuf::from("."), root, diags);
    if let Some(bootstrap) = &bootstrap {
        for finding in loaded.diags.iter_mut().skip(before) {
            let path = finding.span.and_then(|span| bootstrap.path_of(span));
            if let Some(path) = path {
                finding.path = path;
            }
        }
    }
    loaded
}

/// Reads a bootstrap; `None` if there is none, which is among the findings.
fn bootstrap(text: &str, unknown: UnknownFields, diags: &mut Diags) -> Option<ProtoMessage> {
    let node = yaml::read(text, 0, diags)?;
    let descriptor = descriptors::message(BOOTSTRAP)?;
    read::read(&node, &descriptor, unknown, diags)
}

fn nothing() -> Node {
    Node { value: Value::Null, span: Span::default() }
}
