//! The rules of the repository, each a function that lists its violations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::shell;

mod black_box;
mod pages;

pub use black_box::uncompiled_tests;
pub use pages::paths;

/// The crates from the bottom up. A crate may depend on those before it, never on those after it.
pub const LAYERS: &[&str] = &[
    "sluice-abi",
    "sluice-core",
    "sluice-expr",
    "sluice-sys",
    "sluice-telemetry",
    "sluice-tls",
    "sluice-io",
    "sluice-upstream",
    "sluice-l4",
    "sluice-codec",
    "sluice-quic",
    "sluice-l7",
    "sluice-lua",
    "sluice-module",
    "sluice-wasm",
    "sluice-model",
    "sluice-config",
    "sluice-envoy",
    "sluice-xds",
    "sluice-admin",
    "sluice",
];

/// Crates of developers, which no shipped crate may depend on: for Sluice itself, and for libraries that it loads.
const DEVELOPERS: &[&str] = &["sluice-testkit", "xtask", "sluice-sdk"];

/// The packages that L4 must not depend on: it knows HTTP only by its first bytes.
const NOT_IN_L4: &[&str] = &["http", "httparse", "h2", "h3", "hyper", "quinn"];

/// The dependencies between crates that do not point downwards. `root` contains the folder `crates`.
///
/// # Errors
/// A manifest cannot be read.
pub fn layers(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for (height, name) in LAYERS.iter().enumerate() {
        let manifest = root.join("crates").join(name).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let normal = text.split("[dependencies]").nth(1).unwrap_or_default();
        let normal = normal.split("\n[").next().unwrap_or_default();
        for line in normal.lines() {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let upwards =
                LAYERS.iter().position(|other| *other == dependency).is_some_and(|h| h >= height);
            // The codecs and L4 are siblings: neither may depend on the other.
            let sideways = *name == "sluice-codec" && dependency == "sluice-l4";
            if upwards || sideways || DEVELOPERS.contains(&dependency) {
                broken.push(format!("{name} names {dependency}, which is not below it"));
            }
        }
    }
    broken.sort();
    broken.dedup();
    Ok(broken)
}

/// The packages that L4 depends on but must not.
///
/// # Errors
/// `cargo tree` fails.
pub fn l4_packages() -> anyhow::Result<Vec<String>> {
    let args = ["tree", "--offline", "-p", "sluice-l4", "-e", "normal", "--prefix", "none"];
    let tree = shell::output(shell::command("cargo", &args).args(["--format", "{p}"]))?;
    Ok(not_for_l4(&tree))
}

/// The packages in the output of `cargo tree` that L4 must not be built on.
pub fn not_for_l4(tree: &str) -> Vec<String> {
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let banned = names.into_iter().filter(|name| NOT_IN_L4.contains(name));
    banned.map(|name| format!("sluice-l4 is built on {name}")).collect()
}

/// Modules of a crate with the same parent that use each other in a circle. A module and its parent may: a child
/// continues what its parent begins.
///
/// # Errors
/// A source file cannot be read.
pub fn cycles(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for name in LAYERS {
        let source = root.join("crates").join(name).join("src");
        let mut modules: BTreeMap<ModulePath, Vec<ModulePath>> = BTreeMap::new();
        for file in rust_files(&source)?.into_iter().filter(|file| !is_tests(file)) {
            let module = module_of(&source, &file);
            let used = used_paths(&shipped(&fs::read_to_string(&file)?), &module);
            modules.insert(module, used);
        }
        let parents: BTreeSet<&[String]> =
            modules.keys().filter_map(|module| module.split_last().map(|(_, up)| up)).collect();
        for parent in parents {
            let circle = circle_below(parent, &modules);
            if !circle.is_empty() {
                let place = [&[(*name).to_owned()], parent].concat().join("::");
                broken.push(format!("{place}: modules use each other in a circle: {circle:?}"));
            }
        }
    }
    Ok(broken)
}

type ModulePath = Vec<String>;

/// The children of `parent` that use each other in a circle, each with those it uses.
fn circle_below(
    parent: &[String],
    modules: &BTreeMap<ModulePath, Vec<ModulePath>>,
) -> BTreeMap<String, BTreeSet<String>> {
    let child_of = |path: &[String]| path.strip_prefix(parent)?.first().cloned();
    let children: BTreeSet<String> = modules.keys().filter_map(|path| child_of(path)).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, used) in modules {
        if let Some(child) = child_of(module) {
            let others = used.iter().filter_map(|path| child_of(path));
            let others = others.filter(|other| *other != child && children.contains(other));
            uses.entry(child.clone()).or_default().extend(others);
        }
    }
    // A module that uses no remaining module is not part of a circle.
    while let Some(leaf) =
        uses.iter().find(|(_, used)| used.is_empty()).map(|(name, _)| name.clone())
    {
        uses.remove(&leaf);
        for used in uses.values_mut() {
            used.remove(&leaf);
        }
    }
    uses
}

/// The paths within the crate that a source of `module` names, by `crate::` and by `super::`.
fn used_paths(text: &str, module: &[String]) -> Vec<ModulePath> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = code[..start].chars().next_back();
        // `super::super::` is read from its first word; `other_crate::` is another word.
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let mut base =
            if code[start..].starts_with("crate") { Vec::new() } else { module.to_vec() };
        let mut rest = &code[start..];
        while let Some(behind) = rest.strip_prefix("super::") {
            base.pop();
            rest = behind;
        }
        rest = rest.strip_prefix("crate::").unwrap_or(rest);
        expand(&base, rest, &mut paths);
    }
    paths
}

/// Adds the paths that begin with `base` and go on as `text` does: `a::b`, or `{a::b, c}`.
fn expand(base: &[String], text: &str, paths: &mut Vec<ModulePath>) {
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut from) = (0_usize, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    expand(base, group[from..at].trim_start(), paths);
                    from = at + 1;
                    if c == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    match named(text) {
        Some(name) => {
            let path = [base, std::slice::from_ref(&name)].concat();
            match text[name.len()..].strip_prefix("::") {
                Some(rest) => expand(&path, rest, paths),
                None => paths.push(path),
            }
        }
        None => paths.push(base.to_vec()),
    }
}

/// The source without its own test module.
fn shipped(text: &str) -> String {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text).to_owned()
}

/// Locks that a worker may meet, in the crates of the data path, and why each is harmless there.
const LOCKS: &[(&str, &str)] = &[
    ("sluice-l4/src/filters/buckets.rs", "limits per source hold over all workers"),
    ("sluice-l4/src/filters/connection_limit.rs", "the table above"),
    ("sluice-l4/src/filters/buckets/rate_table.rs", "the table above"),
    ("sluice-l4/src/filters/rate_limit.rs", "the table above"),
    ("sluice-l4/src/filters/buckets/key_table.rs", "the table above"),
    ("sluice-l7/src/filters/concurrency_limit/slots.rs", "the request that waited longest is next"),
    (
        "sluice-l7/src/filters/adaptive_concurrency.rs",
        "only ever tried: a worker that finds it taken leaves a latency out",
    ),
    ("sluice-l7/src/filters/rate_limit/filter.rs", "the table above"),
    ("sluice-l7/src/filters/global_rate_limit/service.rs", "the table above"),
    ("sluice-l4/src/filters/fetch/registry.rs", "taken when a configuration is built"),
    ("sluice-l4/src/quic/ids.rs", "clients that change their address may reach another worker"),
    ("sluice-l7/src/runtime.rs", "taken to change a value; readers have a snapshot"),
    ("sluice-module/src/config.rs", "taken when a configuration is checked"),
    ("sluice-sys/src/module.rs", "taken when a configuration is checked"),
    (
        "sluice-sys/src/module/mailbox.rs",
        "read by threads of libraries; written when a worker starts",
    ),
    ("sluice-telemetry/src/log.rs", "taken by the log thread; workers have rings"),
    ("sluice-telemetry/src/metrics.rs", "taken once per series; then workers have cells"),
    ("sluice-telemetry/src/metrics/facade.rs", "taken once per name of a library's metric"),
    ("sluice-tls/src/server.rs", "taken when a configuration is built"),
    ("sluice-tls/src/store.rs", "taken when a configuration is built"),
    ("sluice-upstream/src/cluster.rs", "taken by the resolver, and for the detail of a failure"),
    ("sluice-upstream/src/cluster/reported_load.rs", "taken for what is dropped"),
    (
        "sluice-upstream/src/endpoint/request_counts.rs",
        "taken for a response with metrics that a control plane wants to know",
    ),
    (
        "sluice-upstream/src/cluster/queue.rs",
        "only ever tried: a worker that finds it taken leaves a message",
    ),
    ("sluice-upstream/src/cluster/fleet.rs", "taken when the endpoints of a cluster change"),
    ("sluice-upstream/src/directory.rs", "taken when a resource is compiled; look-ups have a map"),
    ("sluice-upstream/src/hops.rs", "taken for connections to listeners of this process"),
    (
        "sluice-wasm/src/counters.rs",
        "metrics of guests have numbers of the process: taken to find one",
    ),
    (
        "sluice-wasm/src/module.rs",
        "a module is compiled once for all workers, when a setup begins to use it",
    ),
    ("sluice-wasm/src/shared.rs", "shared data and queues of proxy-wasm are of all workers"),
];

/// Locks in the crates of the data path that `LOCKS` does not explain, and explanations without a lock.
///
/// # Errors
/// A source file cannot be read.
pub fn locks(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    let top = LAYERS.iter().position(|name| *name == "sluice-model").unwrap_or(LAYERS.len());
    for name in &LAYERS[..top] {
        let source = root.join("crates").join(name).join("src");
        for file in rust_files(&source)?.into_iter().filter(|file| !is_tests(file)) {
            let text = shipped(&fs::read_to_string(&file)?);
            let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            if code
                .any(|line| ["Mutex<", "RwLock<", "Condvar"].iter().any(|lock| line.contains(lock)))
            {
                let place = file.strip_prefix(root.join("crates")).unwrap_or(&file);
                found.insert(place.display().to_string());
            }
        }
    }
    let explained = |place: &str| LOCKS.iter().any(|(known, _)| *known == place);
    let unexplained = found.iter().filter(|place| !explained(place));
    let unexplained = unexplained.map(|place| format!("{place} has a lock; workers share nothing"));
    // A tree of a test has none of these files.
    let gone = LOCKS
        .iter()
        .filter(|(known, _)| root.join("crates").join(known).exists() && !found.contains(*known));
    let gone =
        gone.map(|(known, _)| format!("{known} has no lock any more: remove it from the list"));
    Ok(unexplained.chain(gone).collect())
}

fn is_tests(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// The module at the start of a path after `crate::`.
fn named(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(path.len());
    Some(path[..end].to_owned()).filter(|name| !name.is_empty())
}

/// The path of the module that a file is: `a/b.rs` is `a::b`; the root of a crate has none.
fn module_of(source: &Path, file: &Path) -> ModulePath {
    let inside = file.strip_prefix(source).unwrap_or(file).with_extension("");
    let parts = inside.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    parts.filter(|part| !matches!(part.as_str(), "lib" | "main")).collect()
}

/// The source files without a `//!` header.
///
/// # Errors
/// A source file cannot be read.
pub fn headers(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for file in rust_files(&root.join("crates"))? {
        if !is_tests(&file) && !fs::read_to_string(&file)?.starts_with("//!") {
            broken.push(format!("{} has no header", file.display()));
        }
    }
    Ok(broken)
}

/// Crates besides `sluice-sys` with unsafe code, all of it in one file and the modules below it: a library that others load has to export and to
/// call functions of C.
const UNSAFE_FILES: &[(&str, &str)] = &[("sluice-sdk", "raw.rs")];

/// The crates other than `sluice-sys` that do not forbid unsafe code, nor deny it outside of the one file that they may have.
///
/// # Errors
/// A source file cannot be read.
pub fn safety(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for name in LAYERS.iter().chain(DEVELOPERS).filter(|name| **name != "sluice-sys") {
        let source = root.join("crates").join(name).join("src");
        let root =
            [source.join("lib.rs"), source.join("main.rs")].into_iter().find(|file| file.exists());
        let text = fs::read_to_string(root.with_context(|| format!("{name} has no root"))?)?;
        if text.contains("#![forbid(unsafe_code)]") {
            continue;
        }
        let Some((_, own)) = UNSAFE_FILES.iter().find(|(known, _)| known == name) else {
            broken.push(format!("{name} does not forbid unsafe code"));
            continue;
        };
        if !text.contains("#![deny(unsafe_code)]") {
            broken.push(format!("{name} does not deny unsafe code"));
        }
        for file in rust_files(&source)?.into_iter().filter(|file| !file.ends_with(own)) {
            if fs::read_to_string(&file)?.contains("allow(unsafe_code") {
                broken.push(format!("{} allows unsafe code; only {own} may", file.display()));
            }
        }
    }
    Ok(broken)
}

/// Type names that are declared more than once. A YAML section may share the name of the type it becomes.
///
/// # Errors
/// A source file cannot be read.
pub fn type_names(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut owners: BTreeMap<(String, ResourceForm), BTreeSet<String>> = BTreeMap::new();
    for name in LAYERS {
        let source = root.join("crates").join(name).join("src");
        for file in rust_files(&source)?.into_iter().filter(|file| !is_tests(file)) {
            let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            let form = ResourceForm::of(&place);
            for declared in declared_types(&fs::read_to_string(&file)?) {
                owners.entry((declared, form)).or_default().insert(place.clone());
            }
        }
    }
    let twice = owners.into_iter().filter(|(_, files)| files.len() > 1);
    Ok(twice
        .map(|((name, _), files)| format!("the type `{name}` is declared in {files:?}"))
        .collect())
}

/// A resource has one name in three forms: as files write it, in the Model, and as workers run it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ResourceForm {
    Section,
    Model,
    Live,
}

impl ResourceForm {
    fn of(file: &str) -> Self {
        match file {
            file if file.starts_with("crates/sluice-model/src/sections") => Self::Section,
            file if file.starts_with("crates/sluice-model/src/model") => Self::Model,
            _ => Self::Live,
        }
    }
}

/// The types that a source file declares, except those in its own test module.
fn declared_types(text: &str) -> impl Iterator<Item = String> {
    let shipped = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    shipped.lines().filter_map(|line| {
        let public = ["pub ", "pub(crate) ", "pub(super) "];
        // An indented private type is an associated type; an indented public one is in a macro that declares a section.
        let rest =
            public.iter().find_map(|public| line.trim_start().strip_prefix(public)).unwrap_or(line);
        let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
        let name = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
        named(name).filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase()))
    })
}

/// Coined words to avoid in sources and pages, and the established terms, which readers search for.
const COINED: &[(&str, &str)] = &[
    ("lane", "downstream connection"),
    ("station", "connection manager"),
    ("shelf", "pool"),
    ("shelves", "pools"),
    ("farewell", "close_notify"),
    ("goodbye", "close_notify"),
    ("newcomer", "the first datagram, or an unknown source"),
    ("whoever", "a name: the client, the caller"),
    ("anew", "again"),
    ("under way", "in flight"),
    ("at work", "in use, serving"),
];

/// The files that contain coined words, with what to write instead.
pub fn words(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = rust_files(&root.join("crates"))?;
    files.retain(|file| !file.starts_with(root.join("crates/xtask")));
    files.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|page| root.join(page)));
    files.extend(files_of(&root.join("docs"), "md")?);
    files.extend(files_of(&root.join("config"), "yaml")?);
    let mut broken = Vec::new();
    for file in files.into_iter().filter(|file| file.exists()) {
        let text = fs::read_to_string(&file)?.to_lowercase();
        for (coined, plain) in COINED {
            let apart = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
            let found = text.match_indices(coined).any(|(at, _)| {
                apart(text[..at].chars().next_back())
                    && apart(text[at + coined.len()..].chars().next())
            });
            if found {
                broken.push(format!("{} says `{coined}`; write: {plain}", file.display()));
            }
        }
    }
    Ok(broken)
}

/// Markers of unfinished work.
///
/// # Errors
/// A source file cannot be read.
pub fn leftovers(root: &Path) -> anyhow::Result<Vec<String>> {
    // Spelled so that this file does not match itself.
    let marks = ["TO\u{44}O", "FIX\u{4d}E", "unimplemented\u{21}(", "#[ign\u{6f}re"];
    let mut broken = Vec::new();
    for folder in ["crates", "tests"] {
        for file in rust_files(&root.join(folder))? {
            let text = fs::read_to_string(&file)?;
            for mark in marks.iter().filter(|mark| text.contains(**mark)) {
                broken.push(format!("{} holds {mark}", file.display()));
            }
        }
    }
    Ok(broken)
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    files_of(folder, "rs")
}

fn files_of(folder: &Path, kind: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        folder.exists().then(|| folder.to_owned()).into_iter().collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == kind) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
