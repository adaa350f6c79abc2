//! Lookup tables that the configuration declares: `maps`.
//!
//! Owns: the entries as they are written, and the handle of those who look something up. Refuses to know: who that is, and
//! where names are declared. Keeps: a handle follows when the table gets other entries, whether by a new configuration or
//! because its file has changed; a look-up takes no lock.

use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use sluice_core::limits::Limit;
use sluice_core::settings::{Plain, Shape, bind_entries, bind_scalar, entries_of};
use sluice_core::{Diags, Name, Node, Path, Setting};
use sluice_expr::ExpressionTable;

use super::{CidrFile, ExactFile, LookupKind, LookupTable, PrefixFile, RegexFile, SuffixFile};
use crate::filters::content::Content;
use crate::filters::fetch::{Fetched, Fetches, FileOrigin};

/// Values by keys, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntries(pub Vec<(String, String)>);

impl Setting for MapEntries {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of keys to values")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            let value = bind_scalar(&entry.node, here, diags, "a value", |text| {
                Ok::<_, String>(text.to_owned())
            })?;
            Some((entry.key.to_string(), value))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Text { what: "a value", example: "gold" }))
    }

    fn show(&self) -> Plain {
        let shown = self.0.iter().map(|(key, value)| (key.clone(), Plain::Text(value.clone())));
        Plain::Map(shown.collect())
    }
}

impl MapEntries {
    /// The table.
    ///
    /// # Errors
    /// The key of the entry that is wrong, and why.
    pub fn table(&self, kind: LookupKind) -> Result<LookupTable, (&str, String)> {
        let pairs = self.0.iter().map(|(key, value)| (&**key, &**value));
        LookupTable::new(kind, pairs)
            .map_err(|(number, problem)| (self.0.get(number).map_or("", |(key, _)| key), problem))
    }
}

/// What a table has: entries of the configuration, or those of a file.
#[derive(Clone, Debug)]
pub enum MapContent {
    /// Entries of the configuration.
    Entries(Arc<LookupTable>),
    /// A file of [`LookupKind::Exact`].
    Exact(Fetched<ExactFile>),
    /// A file of [`LookupKind::Prefix`].
    Prefix(Fetched<PrefixFile>),
    /// A file of [`LookupKind::Suffix`].
    Suffix(Fetched<SuffixFile>),
    /// A file of [`LookupKind::Cidr`].
    Cidr(Fetched<CidrFile>),
    /// A file of [`LookupKind::Regex`].
    Regex(Fetched<RegexFile>),
}

impl MapContent {
    /// The content of a file. It is read and checked now, and again whenever it changes.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn of_file(kind: LookupKind, path: PathBuf, fetches: &Fetches) -> Result<Self, String> {
        let origin = FileOrigin { path, limit: Limit::LookupBytes };
        Ok(match kind {
            LookupKind::Exact => Self::Exact(fetches.declare_file(origin)?),
            LookupKind::Prefix => Self::Prefix(fetches.declare_file(origin)?),
            LookupKind::Suffix => Self::Suffix(fetches.declare_file(origin)?),
            LookupKind::Cidr => Self::Cidr(fetches.declare_file(origin)?),
            LookupKind::Regex => Self::Regex(fetches.declare_file(origin)?),
        })
    }

    /// The value for a key.
    pub fn get(&self, key: &str) -> Option<String> {
        fn of<T: Content>(
            file: &Fetched<T>,
            table: impl Fn(&T) -> &LookupTable,
            key: &str,
        ) -> Option<String> {
            // A file was read when the configuration was checked.
            let content = file.current()?;
            table(&content).get(key).map(str::to_owned)
        }
        match self {
            Self::Entries(table) => table.get(key).map(str::to_owned),
            Self::Exact(file) => of(file, |file| &file.0, key),
            Self::Prefix(file) => of(file, |file| &file.0, key),
            Self::Suffix(file) => of(file, |file| &file.0, key),
            Self::Cidr(file) => of(file, |file| &file.0, key),
            Self::Regex(file) => of(file, |file| &file.0, key),
        }
    }
}

/// A table by its name. Clones share it.
#[derive(Clone)]
pub struct LiveMap(Arc<MapCell>);

struct MapCell {
    name: Name,
    content: ArcSwapOption<MapContent>,
}

impl LiveMap {
    /// A table that has no entries yet.
    pub fn new(name: Name) -> Self {
        Self(Arc::new(MapCell { name, content: ArcSwapOption::empty() }))
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// Replaces what it has.
    pub fn set(&self, content: &Arc<MapContent>) {
        self.0.content.store(Some(Arc::clone(content)));
    }

    /// The value for a key.
    pub fn get(&self, key: &str) -> Option<String> {
        self.0.content.load().as_ref()?.get(key)
    }

    /// Whether something else has a handle.
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl ExpressionTable for LiveMap {
    fn get(&self, key: &str) -> Option<String> {
        Self::get(self, key)
    }
}

impl PartialEq for LiveMap {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Debug for LiveMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveMap({})", self.0.name)
    }
}
