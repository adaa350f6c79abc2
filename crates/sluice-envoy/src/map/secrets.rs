//! Secrets of the file, by name, and files that are named.
//!
//! Owns: which secret a name stands for. Refuses to know: what a secret is used for.

use super::Mapping;
use crate::message::ProtoMessage;

impl<'a> Mapping<'a> {
    /// Collects the secrets of a file. Those that nothing names have no effect.
    pub(super) fn secrets(&mut self, resources: &'a ProtoMessage) {
        for secret in resources.messages("secrets") {
            if let Some(name) = secret.text("name") {
                self.secrets.insert(name.clone(), secret);
            }
        }
    }

    /// The secret that a `SdsSecretConfig` names among those of the file.
    pub(super) fn secret(&mut self, config: &ProtoMessage) -> Option<&'a ProtoMessage> {
        if config.has("sds_config") {
            self.unsupported(config, "sds_config", "list the secret under `static_resources`");
            return None;
        }
        let name = config.text("name")?;
        let found = self.secrets.get(name).copied();
        if found.is_none() {
            let message = format!("there is no secret `{name}` under `static_resources`");
            self.diags.error("unknown-name", config.span, config.at("name"), message);
        }
        found
    }

    /// The path of the file that a `DataSource` names.
    pub(super) fn file<'m>(&mut self, source: &'m ProtoMessage) -> Option<&'m str> {
        // Folders are watched as files are.
        if let Some(folder) = source.message("watched_directory") {
            folder.all_without_effect();
        }
        for field in ["inline_bytes", "inline_string", "environment_variable"] {
            if source.has(field) {
                self.unsupported(source, field, "write it to a file and name that (`filename`)");
            }
        }
        source.text("filename").map(|path| &**path)
    }
}
