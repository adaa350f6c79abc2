//! Files of secrets that a configuration names (SDS by `path_config_source`).
//!
//! Owns: which files are named, and the secrets in each. Refuses to know: what a secret is used for. Keeps: every file
//! is read once for a configuration.

use std::path::Path;
use std::sync::Arc;

use sluice_config::{Sources, read_file, yaml};
use sluice_core::Diags;

use crate::message::{ProtoMessage, ProtoValue};
use crate::{UnknownFields, descriptors, read};

/// What such a file contains.
const RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";

/// Files of secrets by the path under which they are named.
#[derive(Debug, Default)]
pub struct SecretFiles {
    files: Vec<(Arc<str>, ProtoMessage)>,
}

/// The path in a `ConfigSource`, if it is one of a file.
pub(crate) fn path_of(source: &ProtoMessage) -> Option<&Arc<str>> {
    let ProtoValue::Message(of) = &source.peek("path_config_source")?.value else { return None };
    match &of.peek("path")?.value {
        ProtoValue::Text(path) => Some(path),
        _ => None,
    }
}

impl SecretFiles {
    /// Reads every file that secrets below this message are in, and adds it to `sources`.
    pub fn read(
        below: &ProtoMessage,
        unknown: UnknownFields,
        sources: &mut Sources,
        diags: &mut Diags,
    ) -> Self {
        let mut wanted = Vec::new();
        named_below(below, &mut wanted);
        let mut all = Self::default();
        for (path, config) in wanted {
            if all.files.iter().any(|(known, _)| *known == path) {
                continue;
            }
            match read_file(Path::new(&*path)) {
                Ok(text) => {
                    let number = sources.add(Path::new(&*path).to_owned(), text.clone());
                    let read = yaml::read(&text, number, diags).and_then(|node| {
                        let descriptor = descriptors::message(RESPONSE)?;
                        read::read(&node, &descriptor, unknown, diags)
                    });
                    all.files.extend(read.map(|message| (path, message)));
                }
                Err(problem) => {
                    diags.error("bad-file", config.span, config.at("sds_config"), problem);
                }
            }
        }
        all
    }

    /// The secrets in a file.
    pub(crate) fn secrets(&self, path: &str) -> impl Iterator<Item = &ProtoMessage> {
        let file = self.files.iter().find(|(known, _)| **known == *path);
        let resources = file.into_iter().flat_map(|(_, file)| file.messages("resources"));
        resources.filter(|resource| resource.descriptor.name() == "Secret")
    }
}

/// The files below a message, each with the `SdsSecretConfig` that names it.
fn named_below<'m>(of: &'m ProtoMessage, found: &mut Vec<(Arc<str>, &'m ProtoMessage)>) {
    if of.descriptor.name() == "SdsSecretConfig"
        && let Some(ProtoValue::Message(source)) = of.peek("sds_config").map(|of| &of.value)
        && let Some(path) = path_of(source)
    {
        found.push((Arc::clone(path), of));
    }
    for field in &of.fields {
        field.value.messages(&mut |message| named_below(message, found));
    }
}
