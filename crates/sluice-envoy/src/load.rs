//! Loads a file of Envoy as a configuration.
//!
//! Owns: the way from a file to the sections. Refuses to know: what is checked across sections. Keeps: every finding
//! names the field of Envoy's file that it comes from.

use std::path::{Path, PathBuf};

use sluice_config::{Loaded, Sources, read_file, yaml};
use sluice_core::{Diags, Node, Span, Value};

use crate::message::ProtoMessage;
use crate::sources::{self, DynamicResources};
use crate::{UnknownFields, descriptors, map, read};

/// The type of a whole file.
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Reads a bootstrap in YAML or JSON. Relative paths in it are resolved against the working directory, as Envoy does.
///
/// Clusters that wait for endpoints have none, and listeners that wait for routes have no hosts.
pub fn load(path: &Path, unknown: UnknownFields) -> Loaded {
    match read_file(path) {
        Ok(text) => load_text(path, text, unknown),
        Err(problem) => unreadable(problem),
    }
}

/// Reads a bootstrap from text, as if it were the file `path`.
pub fn load_text(path: &Path, text: String, unknown: UnknownFields) -> Loaded {
    let mut diags = Diags::new();
    let mut bootstrap = bootstrap(&text, unknown, &mut diags);
    let discovered = bootstrap.as_mut().is_some_and(|of| sources::complete(of, &mut diags));
    if discovered {
        let how = "what control planes send is not in the native form";
        let span = bootstrap.as_ref().map(|of| of.place("dynamic_resources"));
        diags.warning(crate::coverage::DIFFERS, span, "dynamic_resources", how);
    }
    Loaded { discovered, ..mapped(path, text, bootstrap.as_ref(), diags) }
}

/// Reads a bootstrap as the part that does not depend on control planes, and the one that does.
pub fn load_part(path: &Path, unknown: UnknownFields) -> (Loaded, Option<DynamicResources>) {
    match read_file(path) {
        Ok(text) => load_part_of_text(path, text, unknown),
        Err(problem) => (unreadable(problem), None),
    }
}

/// As [`load_part`], from text.
pub fn load_part_of_text(
    path: &Path,
    text: String,
    unknown: UnknownFields,
) -> (Loaded, Option<DynamicResources>) {
    let mut diags = Diags::new();
    let mut bootstrap = bootstrap(&text, unknown, &mut diags);
    let mut dynamic = bootstrap.as_mut().and_then(|of| sources::take(of, &mut diags));
    let discovered = dynamic.is_some();
    let loaded = Loaded { discovered, ..mapped(path, text, bootstrap.as_ref(), diags) };
    if let Some(dynamic) = &mut dynamic {
        let node = loaded.root.as_ref().and_then(|root| root.get("node"));
        dynamic.node_section = node.map(|entry| entry.node.clone());
    }
    (loaded, dynamic)
}

fn unreadable(problem: String) -> Loaded {
    let mut diags = Diags::new();
    diags.error("bad-file", None, "", problem);
    Loaded::of_tree(Sources::default(), PathBuf::from("."), nothing(), diags)
}

/// The native form of a bootstrap, bound.
fn mapped(path: &Path, text: String, bootstrap: Option<&ProtoMessage>, mut diags: Diags) -> Loaded {
    let root = bootstrap.map_or_else(nothing, |bootstrap| map::map(bootstrap, &mut diags));
    let mut sources = Sources::default();
    sources.add(path.to_owned(), text);
    let before = diags.iter().count();
    let mut loaded = Loaded::of_tree(sources, PathBuf::from("."), root, diags);
    if let Some(bootstrap) = bootstrap {
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
