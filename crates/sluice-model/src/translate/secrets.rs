//! Secrets.

use std::sync::Arc;

use sluice_core::Path;

use super::{Context, Translated};
use crate::model::{Kind, Resource, Secret};
use crate::provenance::Provenance;
use crate::store::Update;

impl Context<'_> {
    pub(super) fn secrets(self, all: &mut Translated) {
        let secrets = &self.config.secrets;
        all.declared.extend(secrets.names().map(|name| (Kind::Secret, Arc::clone(name))));
        let at = Path::ROOT.key("secrets");
        for (name, text) in secrets.iter() {
            let resource = Resource::Secret(Arc::new(Secret::Text(text.value.clone())));
            all.updates.push(Update::set(name, resource, Provenance::section(at.key(name))));
        }
    }
}
