//! Secrets by name, and texts that a `DataSource` gives.
//!
//! Owns: which secret a name stands for, and how PEM is written. Refuses to know: what a secret is used for. Keeps: no
//! finding contains a byte of a secret; a secret that something names is read whole.

use std::sync::Arc;

use sluice_core::Node;

use super::Mapping;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{quoted, single};
use crate::secret_files::path_of;

impl<'a> Mapping<'a> {
    /// Collects the secrets of a file.
    pub(super) fn secrets(&mut self, resources: &'a ProtoMessage) {
        for secret in resources.messages("secrets") {
            if let Some(name) = secret.text("name") {
                self.secrets.insert(name.clone(), secret);
            }
        }
    }

    /// Counts the secrets that nothing names as read: they have no effect.
    pub(super) fn forget_unused_secrets(&mut self) {
        for (name, secret) in &self.secrets {
            if !self.used_secrets.contains(name) {
                secret.all_without_effect();
            }
        }
    }

    /// The secret that a `SdsSecretConfig` names: one of the file, of a file that it names, or of a control plane.
    pub(super) fn secret(&mut self, config: &ProtoMessage) -> Option<&'a ProtoMessage> {
        let name = config.text("name");
        let from = config.message("sds_config");
        let path = from.and_then(path_of);
        if let (Some(from), None) = (from, path) {
            from.all_without_effect();
            return self.secret_of_plane(name.map_or("", |name| name));
        }
        let found = match (from, path) {
            (Some(from), Some(path)) => {
                from.all_without_effect();
                let how = "the file is read whenever the configuration is; files that it names are watched";
                self.differs(config, "sds_config", how);
                let mut known = self.secret_files.secrets(path);
                known.find(|secret| match secret.peek("name").map(|field| &field.value) {
                    Some(ProtoValue::Text(own)) => name.is_none_or(|name| name == own),
                    _ => name.is_none(),
                })
            }
            _ => {
                let found = name.and_then(|name| self.secrets.get(name).copied());
                self.used_secrets.extend(name.cloned());
                found
            }
        };
        if let Some(secret) = found {
            secret.without_effect(&["name"]);
            if path.is_some() {
                self.used_of_others.push(secret);
            }
            return Some(secret);
        }
        let place =
            path.map_or_else(|| "under `static_resources`".into(), |path| format!("in {path}"));
        let name = name.map_or("", |name| name);
        let message = format!("there is no secret `{name}` {place}");
        self.diags.error("unknown-name", config.span, config.at("name"), message);
        None
    }

    /// A secret that a control plane sends. As long as it has not come, its chain refuses connections.
    fn secret_of_plane(&mut self, name: &str) -> Option<&'a ProtoMessage> {
        let Some(secret) = self.delivered.get(name) else {
            self.chain_waits = true;
            return self.delivered.stand_in();
        };
        secret.without_effect(&["name"]);
        if !self.used_of_others.iter().any(|used| std::ptr::eq(*used, secret)) {
            self.used_of_others.push(secret);
        }
        Some(secret)
    }

    /// Reports that a secret is not of the kind that is needed: where it is, if it came on its own.
    pub(super) fn unfit_secret(
        &mut self,
        config: &ProtoMessage,
        secret: &ProtoMessage,
        field: &str,
    ) {
        secret.all_without_effect();
        if !config.has("sds_config") {
            self.unsupported(config, "name", &format!("the secret has no {field}"));
            return;
        }
        let message =
            format!("the secret has no {field}, for which `{}` is to be used", config.path);
        let finding = self.diags.error("bad-value", secret.span, &*secret.path, message);
        finding.help("send one of that kind under this name");
    }

    /// PEM, from a `DataSource`: the path of a file, or the text itself.
    pub(super) fn pem(&mut self, source: &ProtoMessage) -> Option<Node> {
        // Folders are watched as files are.
        if let Some(folder) = source.message("watched_directory") {
            folder.all_without_effect();
        }
        if let Some(path) = source.text("filename") {
            return Some(quoted(path, source.place("filename")));
        }
        let text = self.given_text(source)?;
        if text.is_empty() {
            self.diags.error("bad-value", source.span, &*source.path, "the text is empty");
            return None;
        }
        Some(single("inline", quoted(&text, source.span)))
    }

    /// The text that a `DataSource` gives without a file.
    pub(super) fn given_text(&mut self, source: &ProtoMessage) -> Option<Arc<str>> {
        if let Some(field) = source.field("inline_string")
            && let ProtoValue::Text(text) = &field.value
        {
            return Some(Arc::clone(text));
        }
        if let Some(field) = source.field("inline_bytes")
            && let ProtoValue::Bytes(bytes) = &field.value
        {
            match std::str::from_utf8(bytes) {
                Ok(text) => return Some(text.into()),
                Err(_) => self.unsupported(source, "inline_bytes", "only UTF-8 is"),
            }
        }
        let name = source.text("environment_variable")?;
        match std::env::var(&**name) {
            Ok(text) => Some(text.into()),
            Err(_) => {
                let message = format!("the environment variable `{name}` is not set, or not UTF-8");
                let at = source.at("environment_variable");
                self.diags.error("bad-value", source.place("environment_variable"), at, message);
                None
            }
        }
    }
}
