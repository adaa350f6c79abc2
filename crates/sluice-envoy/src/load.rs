//! Loads a file of Envoy as a configuration.
//!
//! Owns: the way from a file to the sections. Refuses to know: what is checked across sections. Keeps: every finding
//! names the field of Envoy's file that it comes from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_config::{Loaded, Sources, read_file, yaml};
use sluice_core::{Diags, Node, Span, Value};

use crate::merge::merge;
use crate::message::ProtoMessage;
use crate::secret_files::SecretFiles;
use crate::sources::{self, DynamicResources};
use crate::{UnknownFields, descriptors, map, read};

/// The type of a whole file.
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// How a file is loaded, and what goes with it.
#[derive(Clone)]
pub struct LoadOptions {
    /// What becomes of fields that messages do not have.
    pub unknown: UnknownFields,
    /// Bootstraps that are laid over that of the file, in order, each with the name that messages show.
    pub overlays: Vec<(String, String)>,
    /// Whether there is no file, so that the first of these is all there is.
    pub without_file: bool,
    /// How long connections may continue once the process shuts down.
    pub drain: Option<Duration>,
}

/// Texts may contain secrets.
impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("unknown", &self.unknown).finish_non_exhaustive()
    }
}

impl From<UnknownFields> for LoadOptions {
    fn from(unknown: UnknownFields) -> Self {
        Self { unknown, overlays: Vec::new(), without_file: false, drain: None }
    }
}

/// Reads a bootstrap in YAML or JSON. Relative paths in it are resolved against the working directory, as Envoy does.
///
/// Clusters that wait for endpoints have none, and listeners that wait for routes have no hosts.
pub fn load(path: &Path, options: &LoadOptions) -> Loaded {
    match text_of(path, options) {
        Ok(text) => load_text(path, text, options),
        Err(problem) => unreadable(problem),
    }
}

/// Reads a bootstrap from text, as if it were the file `path`.
pub fn load_text(path: &Path, text: String, options: &LoadOptions) -> Loaded {
    let (sources, mut whole, mut diags) = read_whole(path, text, options);
    let discovered = whole.as_mut().is_some_and(|of| sources::complete(of, &mut diags));
    if discovered {
        let how = "what control planes send is not in the native form";
        let span = whole.as_ref().map(|of| of.place("dynamic_resources"));
        diags.warning(crate::coverage::DIFFERS, span, "dynamic_resources", how);
    }
    Loaded { discovered, ..mapped(sources, whole.as_ref(), options, diags) }
}

/// Reads a bootstrap as the part that does not depend on control planes, and the one that does.
pub fn load_part(path: &Path, options: &LoadOptions) -> (Loaded, Option<DynamicResources>) {
    match text_of(path, options) {
        Ok(text) => load_part_of_text(path, text, options),
        Err(problem) => (unreadable(problem), None),
    }
}

/// As [`load_part`], from text.
pub fn load_part_of_text(
    path: &Path,
    text: String,
    options: &LoadOptions,
) -> (Loaded, Option<DynamicResources>) {
    let (sources, mut whole, mut diags) = read_whole(path, text, options);
    let mut dynamic = whole.as_mut().and_then(|of| sources::take(of, &mut diags));
    let discovered = dynamic.is_some();
    let loaded = Loaded { discovered, ..mapped(sources, whole.as_ref(), options, diags) };
    if let Some(dynamic) = &mut dynamic {
        let node = loaded.root.as_ref().and_then(|root| root.get("node"));
        dynamic.node_section = node.map(|entry| entry.node.clone());
    }
    (loaded, dynamic)
}

/// The message of a bootstrap that was loaded before, for the pages that show it. What is laid over it is the same.
pub fn bootstrap_of_text(path: &Path, text: String, options: &LoadOptions) -> Option<ProtoMessage> {
    read_whole(path, text, options).1
}

/// The text of the file, which is empty if there is none.
fn text_of(path: &Path, options: &LoadOptions) -> Result<String, String> {
    if options.without_file {
        return Ok(String::new());
    }
    let ending = path.extension().and_then(|ending| ending.to_str());
    if let Some(ending) = ending.filter(|ending| ["pb", "pb_text", "textproto"].contains(ending)) {
        let shown = path.display();
        return Err(format!("{shown}: `.{ending}` is not read; write it in YAML or JSON"));
    }
    read_file(path)
}

fn unreadable(problem: String) -> Loaded {
    let mut diags = Diags::new();
    diags.error("bad-file", None, "", problem);
    Loaded::of_tree(Sources::default(), PathBuf::from("."), nothing(), diags)
}

/// Reads a file with what is laid over it.
fn read_whole(
    path: &Path,
    text: String,
    options: &LoadOptions,
) -> (Sources, Option<ProtoMessage>, Diags) {
    let (mut diags, mut sources) = (Diags::new(), Sources::default());
    let mut texts: Vec<(PathBuf, String)> = Vec::new();
    if !options.without_file {
        texts.push((path.to_owned(), text));
    }
    texts.extend(options.overlays.iter().map(|(name, text)| (name.into(), text.clone())));
    let mut whole: Option<ProtoMessage> = None;
    for (path, text) in texts {
        let number = sources.add(path, text.clone());
        let found = bootstrap(&text, number, options.unknown, &mut diags);
        match (&mut whole, found) {
            (Some(base), Some(over)) => merge(base, over),
            (none, found) => *none = none.take().or(found),
        }
    }
    (sources, whole, diags)
}

/// The native form of a bootstrap, bound.
fn mapped(
    mut sources: Sources,
    whole: Option<&ProtoMessage>,
    options: &LoadOptions,
    mut diags: Diags,
) -> Loaded {
    let root = whole.map_or_else(nothing, |bootstrap| {
        let files = SecretFiles::read(bootstrap, options.unknown, &mut sources, &mut diags);
        map::map(bootstrap, &files, options.drain, &mut diags)
    });
    let before = diags.iter().count();
    let mut loaded = Loaded::of_tree(sources, PathBuf::from("."), root, diags);
    if let Some(bootstrap) = whole {
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
fn bootstrap(
    text: &str,
    file: u16,
    unknown: UnknownFields,
    diags: &mut Diags,
) -> Option<ProtoMessage> {
    let node = yaml::read(text, file, diags)?;
    let descriptor = descriptors::message(BOOTSTRAP)?;
    read::read(&node, &descriptor, unknown, diags)
}

fn nothing() -> Node {
    Node { value: Value::Null, span: Span::default() }
}
