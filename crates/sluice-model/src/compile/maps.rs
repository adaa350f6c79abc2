//! Lookup tables, ready for use.
//!
//! Owns: what a table is compiled to, and the handles by name. Refuses to know: who looks something up. Keeps: those who hold a
//! handle get the new entries when a configuration is put in force, not before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::{Diags, Name, Path};
use sluice_l4::filters::Fetches;
use sluice_l4::filters::lookup::{LiveMap, MapContent};

use crate::model::LookupMap;
use crate::model::maps::EntriesFrom;

/// Reads a table; reports entries and files that cannot be used.
pub(crate) fn content(
    map: &LookupMap,
    fetches: &Fetches,
    diags: &mut Diags,
) -> Option<Arc<MapContent>> {
    match &map.entries {
        EntriesFrom::Here(entries) => match entries.table(map.kind) {
            Ok(table) => Some(Arc::new(MapContent::Entries(Arc::new(table)))),
            Err((key, problem)) => {
                let entries = Path::ROOT.key("entries");
                diags.error("bad-value", None, entries.key(key), format!("`{key}`: {problem}"));
                None
            }
        },
        EntriesFrom::File(path) => match MapContent::of_file(map.kind, path.clone(), fetches) {
            Ok(content) => Some(Arc::new(content)),
            Err(problem) => {
                let message = format!("cannot use {}: {problem}", path.display());
                diags.error("bad-file", None, "file", message);
                None
            }
        },
    }
}

/// Lookup tables by name.
#[derive(Debug, Default)]
pub struct LiveMaps(Mutex<HashMap<Name, LiveMap>>);

impl LiveMaps {
    /// The table of that name, which has no entries until they are set; forgets those that nothing uses any more.
    pub(crate) fn reference(&self, name: &Name) -> LiveMap {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known, map| known == name || map.is_in_use());
        let map = all.entry(Arc::clone(name)).or_insert_with(|| LiveMap::new(Arc::clone(name)));
        map.clone()
    }
}
