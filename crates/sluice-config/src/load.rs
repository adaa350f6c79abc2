//! Loads a configuration from a path.
//!
//! Owns: files and folders, and how several files become one. Refuses to know: certificates and all other files that
//! a configuration names, except for those whose content is a value and those that list endpoints. Keeps: a file is
//! read only once.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use sluice_core::tree::MapEntry;
use sluice_core::{Diags, Node, Setting as _, Span, Value};
use sluice_expr::{TableUse, noting_tables};
use sluice_model::Config;
use sluice_model::translate::endpoints::EndpointFiles;

use crate::sources::{CONFIG_BYTES_MAX, Sources, not_utf8, read_file};
use crate::{endpoint_file, hints, substitute, yaml};

/// A configuration that was read, valid or not.
#[derive(Debug)]
pub struct Loaded {
    /// Its files.
    pub sources: Sources,
    /// The folder that relative paths are resolved against.
    pub folder: PathBuf,
    /// The configuration, as far as it could be read; `None` if parts of it are missing. If
    /// `diags` has errors, it only serves further checks.
    pub config: Option<Config>,
    /// What was read, as a tree; present where `config` is.
    pub root: Option<Node>,
    /// The lookup tables that expressions in it name.
    pub tables: Vec<TableUse>,
    /// The endpoint files that it names.
    pub endpoint_files: EndpointFiles,
    /// The findings.
    pub diags: Diags,
    /// Whether clusters may be without endpoints, which come from a control plane.
    pub discovered: bool,
}

/// Reads a file, or every `.yaml` and `.yml` file of a folder in order of name.
pub fn load(path: &Path) -> Loaded {
    let mut loaded = Loaded::new(Sources::default(), folder_of(path));
    let files = match files_of(path) {
        Ok(files) => files,
        Err(problem) => {
            loaded.diags.error("bad-file", None, "", problem);
            return loaded;
        }
    };
    for file in files {
        match read_file(&file) {
            Ok(text) => drop(loaded.sources.add(file, text)),
            Err(problem) => drop(loaded.diags.error("bad-file", None, "", problem)),
        }
    }
    loaded.bind();
    loaded.read_endpoints();
    loaded
}

/// Reads a configuration from standard input; relative paths are resolved against the working directory.
pub fn load_stdin() -> Loaded {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes);
    let problem = match (read, String::from_utf8(bytes)) {
        (Ok(_), Ok(text)) if text.len() as u64 <= CONFIG_BYTES_MAX => {
            return load_text(Path::new(STDIN), &text);
        }
        (Ok(_), Ok(_)) => {
            format!("{STDIN}: a configuration file must not exceed {CONFIG_BYTES_MAX} bytes")
        }
        (Ok(_), Err(error)) => not_utf8(STDIN, &error),
        (Err(error), _) => format!("{STDIN}: cannot be read: {error}"),
    };
    let mut loaded = load_text(Path::new(STDIN), "");
    loaded.config = None;
    loaded.diags = Diags::new();
    loaded.diags.error("bad-file", None, "", problem);
    loaded
}

const STDIN: &str = "<stdin>";

/// Reads a configuration from text, as if it were the file `path`.
pub fn load_text(path: &Path, text: &str) -> Loaded {
    let mut sources = Sources::default();
    sources.add(path.to_owned(), text.to_owned());
    let mut loaded = Loaded::new(sources, folder_of(path));
    loaded.bind();
    loaded.read_endpoints();
    loaded
}

/// Reads files again whose text is known; endpoint files are not read.
pub fn load_sources(sources: &Sources, folder: &Path) -> Loaded {
    let (sources, folder) = (sources.without_substitutions(), folder.to_owned());
    let mut loaded = Loaded::new(sources, folder);
    loaded.bind();
    loaded
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    folder
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
        .to_owned()
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    let shown = path.display();
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries =
        std::fs::read_dir(path).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    let is_yaml =
        |file: &PathBuf| file.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
    let hidden = |file: &PathBuf| {
        file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|file| is_yaml(file) && !hidden(file) && file.is_file())
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(format!("{shown}: this folder contains no .yaml file"));
    }
    Ok(files)
}

impl Loaded {
    /// A configuration whose tree was made from files in another form; `diags` has what was found on the way. Places in
    /// the tree are those in the files. With errors so far, nothing is bound: what is missing would be reported, too.
    pub fn of_tree(sources: Sources, folder: PathBuf, root: Node, diags: Diags) -> Self {
        let mut loaded = Self { diags, ..Self::new(sources, folder) };
        if loaded.diags.has_errors() {
            return loaded;
        }
        let bind = || Config::bind(&root, &sluice_core::Path::ROOT, &mut loaded.diags);
        let (bound, tables) = noting_tables(bind);
        loaded.tables = tables;
        loaded.config = bound.map(|mut config| {
            config.name_listeners();
            config
        });
        loaded.root = loaded.config.is_some().then_some(root);
        loaded
    }

    fn new(sources: Sources, folder: PathBuf) -> Self {
        let (endpoint_files, diags) = (EndpointFiles::new(), Diags::new());
        Self {
            sources,
            folder,
            config: None,
            root: None,
            tables: Vec::new(),
            endpoint_files,
            diags,
            discovered: false,
        }
    }

    fn read_endpoints(&mut self) {
        let clusters = self.config.iter().flat_map(|config| config.clusters.iter());
        for path in clusters.filter_map(|(_, cluster)| cluster.endpoints_file.as_ref()) {
            let path = self.folder.join(&path.value);
            self.endpoint_files.entry(path).or_insert_with_key(|path| endpoint_file::read(path));
        }
    }

    /// The configuration, if there are no errors so far.
    pub fn usable(&self) -> Option<&Config> {
        self.config.as_ref().filter(|_| !self.diags.has_errors())
    }

    fn bind(&mut self) {
        // Files that could not be read are among the findings already.
        let mut whole = !self.diags.has_errors();
        let mut parts = Vec::new();
        for number in 0.. {
            let Some((_, text)) = self.sources.get(number) else { break };
            let part = yaml::read(text, number, &mut self.diags);
            whole &= part.is_some();
            parts.extend(part);
        }
        let before = self.diags.counts();
        let mut root = join(parts, &mut self.diags);
        let environment = |name: &str| std::env::var_os(name);
        substitute::resolve(&mut root, &self.folder, &mut self.sources, &environment);
        whole &= self.diags.counts() == before;
        let at = sluice_core::Path::ROOT;
        let (bound, tables) = noting_tables(|| Config::bind(&root, &at, &mut self.diags));
        self.tables = tables;
        hints::complete(&mut self.diags);
        // If whole parts were missing, every reference to them would seem wrong.
        if whole {
            // An error in a single section does not prevent checks of the repeated ones.
            let many = ["listeners", "clusters", "routes", "secrets", "access_log"];
            let rebind = || Config::bind(&only(root.clone(), &many), &at, &mut Diags::new());
            self.config = bound.or_else(|| {
                let (bound, tables) = noting_tables(rebind);
                self.tables = tables;
                bound
            });
            if let Some(config) = &mut self.config {
                config.name_listeners();
                self.root = Some(root);
            }
        }
    }
}

/// Joins the trees of several files: top-level lists and maps add up, single sections must appear once.
fn join(parts: Vec<Node>, diags: &mut Diags) -> Node {
    let nothing = Node { value: Value::Null, span: Span::default() };
    if parts.len() < 2 {
        return parts.into_iter().next().unwrap_or(nothing);
    }
    let mut all: Vec<MapEntry> = Vec::new();
    for part in parts {
        let entries = match part.value {
            Value::Map(entries) => entries,
            Value::Null => continue,
            Value::List(_) | Value::Scalar { .. } | Value::Substituted(_) => {
                let message = "expected a map with sections such as `listeners`";
                diags.error("wrong-kind", part.span, "", message);
                continue;
            }
        };
        for entry in entries {
            match all.iter_mut().find(|other| other.key == entry.key) {
                None => all.push(entry),
                Some(first) => join_entry(first, entry, diags),
            }
        }
    }
    Node { value: Value::Map(all), ..nothing }
}

fn join_entry(first: &mut MapEntry, second: MapEntry, diags: &mut Diags) {
    match (&mut first.node.value, second.node.value) {
        (Value::List(items), Value::List(more)) => items.extend(more),
        (Value::Map(fields), Value::Map(more))
            if matches!(&*first.key, "clusters" | "routes" | "secrets") =>
        {
            for field in more {
                if let Some(twin) = fields.iter().find(|other| other.key == field.key) {
                    diags
                        .error(
                            "duplicate-key",
                            field.key_span,
                            format!("{}.{}", first.key, field.key),
                            format!("`{}` is declared in two files", field.key),
                        )
                        .other(twin.key_span, "first declared here");
                } else {
                    fields.push(field);
                }
            }
        }
        _ => {
            diags
                .error(
                    "duplicate-key",
                    second.key_span,
                    &first.key,
                    format!("`{}` is declared in two files", first.key),
                )
                .other(first.key_span, "first declared here")
                .help("only listeners, clusters, routes, secrets and access logs may be spread over several files");
        }
    }
}

/// Keeps the entries of a map that have one of these names.
fn only(mut root: Node, keys: &[&str]) -> Node {
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|entry| keys.contains(&&*entry.key));
    }
    root
}
