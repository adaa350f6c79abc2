//! Lookup tables.

use std::sync::Arc;

use sluice_core::{Diags, Path, Spanned};

use super::{Context, Translated};
use crate::model::maps::EntriesFrom;
use crate::model::{Kind, LookupMap, Resource};
use crate::provenance::Provenance;
use crate::sections;
use crate::store::Update;

impl Context<'_> {
    pub(super) fn maps(self, all: &mut Translated, diags: &mut Diags) {
        let maps = &self.config.maps;
        all.declared.extend(maps.names().map(|name| (Kind::Map, Arc::clone(name))));
        let list = Path::ROOT.key("maps");
        for (name, section) in maps.iter() {
            let at = list.key(name);
            let Some(map) = self.map(section, &at, diags) else { continue };
            let from = Provenance::section(list.key(name));
            all.updates.push(Update::set(name, Resource::Map(Arc::new(map)), from));
        }
    }

    fn map(
        self,
        section: &Spanned<sections::LookupMap>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<LookupMap> {
        let sections::LookupMap { entries, file, lookup } = &section.value;
        let entries = match (entries, file) {
            (Some(entries), None) => EntriesFrom::Here(entries.clone()),
            (None, Some(file)) => EntriesFrom::File(self.file(&file.value)),
            (entries, _) => {
                let code = if entries.is_some() { "short-and-long" } else { "missing-field" };
                let message = "a map needs exactly one of `entries` and `file`";
                let finding = diags.error(code, section.span, at, message);
                finding.help("write `{ entries: { KEY: VALUE } }` or `{ file: PATH }`");
                return None;
            }
        };
        Some(LookupMap { kind: *lookup, entries })
    }
}
