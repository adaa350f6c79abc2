//! Configuration files as one batch of changes.
//!
//! Owns: the order in which a configuration is checked, translated and staged. Refuses to know: YAML, and how a
//! batch is put in force. Keeps: every failure is reported here, with its place in the files; what was staged without
//! errors can be applied.

use std::collections::HashSet;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Diags, Name, Node, Path};
use sluice_expr::{TableUse, noting_tables};

use crate::check;
use crate::compile::{SharedParts, Surroundings};
use crate::inline;
use crate::model::Kind;
use crate::process::Process;
use crate::sections::{Config, PlaneResource};
use crate::store::{Batch, BatchMode, KnownNames, Staged, Store, stage};
use crate::translate::endpoints::EndpointFiles;
use crate::translate::{ResourceSources, translate};

/// The source of everything that files configure.
pub const FILES: &str = "the configuration files";

/// A configuration as it was read.
#[derive(Debug)]
pub struct FilesInput<'a> {
    /// The sections.
    pub config: Config,
    /// The files as a tree, for the places of findings.
    pub root: Node,
    /// The folder that relative paths are resolved against.
    pub folder: &'a FilePath,
    /// The endpoint files that it names.
    pub endpoint_files: &'a EndpointFiles,
    /// The lookup tables that expressions in it name.
    pub tables: Vec<TableUse>,
    /// Whether clusters may be without endpoints, which come from a control plane.
    pub discovered: bool,
}

/// Checks a configuration and stages its resources; adds every error and warning to `diags`. `None` if there are
/// errors. `now` is the time since the Unix epoch.
pub fn stage_files(
    input: FilesInput<'_>,
    store: &Store,
    around: &Surroundings,
    shared: &mut SharedParts,
    now: Duration,
    diags: &mut Diags,
) -> Option<(Process, Staged)> {
    let FilesInput { mut config, root, folder, endpoint_files, mut tables, discovered } = input;
    // What a plane sends may use anything.
    let beside_plane = discovered || config.xds.is_some();
    let inline = inline::expand(&mut config, diags);
    check::names_and_addresses(&config, diags);
    check::inspected_bytes(&config, diags);
    check::admin(&config, diags);
    check::clusters(&config, diags);
    if !beside_plane {
        check::zones::node(&config, diags);
    }
    check::forward(&config, diags);
    check::routes(&config, diags);
    check::loops(&config, diags);
    check::control_plane(&config, diags);
    inline::relocate(&inline, diags);
    let sources = ResourceSources { folder, endpoint_files, store, discovered };
    let translated = translate(&config, &root, &inline, sources, diags);
    let (process, recorded) = noting_tables(|| Process::of(&config, folder, diags));
    tables.extend(recorded);
    supply(&tables, &translated.declared, &root, around, diags);
    let batch = Batch {
        source: Arc::from(FILES),
        updates: translated.updates,
        mode: BatchMode::Files {
            root,
            folder: folder.to_owned(),
            declared: translated.declared,
            expected: check::is_on_demand(&config)
                || config.xds.as_ref().is_some_and(|xds| xds.sends(PlaneResource::Clusters)),
        },
    };
    let mut staged = stage(store, batch, around, shared, now, diags);
    staged.stale_endpoint_files = translated.stale_endpoint_files;
    check::runtime(&config, &process, staged.runtime_keys(store), diags);
    if diags.has_errors() {
        return None;
    }
    // With errors present, what seems unused may be used by what is wrong; and what comes later may use anything.
    if !beside_plane {
        let looked_up = tables.iter().map(|table| (Kind::Map, table.name().into()));
        let looked_up: Vec<(Kind, Name)> = looked_up.collect();
        check::unused(&config, staged.named(store).chain(&looked_up), diags);
    }
    Some((process, staged))
}

/// Supplies the lookup tables that expressions of rules and records name. Reports those that do not exist.
fn supply(
    tables: &[TableUse],
    declared: &HashSet<(Kind, Name)>,
    root: &Node,
    around: &Surroundings,
    diags: &mut Diags,
) {
    let known = KnownNames::default();
    for table in tables {
        let name: Name = table.name().into();
        match known.why_unknown(declared, Kind::Map, &name) {
            None => table.supply(Arc::new(around.maps.reference(&name))),
            Some((message, help)) => {
                let found = root.find_text(table.expression(), &Path::ROOT);
                let (at, span) = found.unwrap_or_else(|| (String::new(), root.span));
                diags.error("unknown-name", span, at, message).help(help);
            }
        }
    }
}
