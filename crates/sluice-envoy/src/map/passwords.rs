//! Passwords and keys of clients.
//!
//! Owns: `basic_auth` and `api_key_auth`, of chains, hosts and routes. Refuses to know: credentials for services behind.
//! Keeps: keys become hashes here, so that no native form contains one.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted, single};

impl Mapping<'_> {
    /// The filter `basic_auth`, from `BasicAuth`.
    pub(super) fn passwords(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        self.users(config, &mut native)?;
        if let Some(header) = config.text("forward_username_header") {
            let span = config.place("forward_username_header");
            native.text("user_header", &header.to_ascii_lowercase(), span);
        }
        let header = config.text("authentication_header");
        if header.is_some_and(|name| !name.eq_ignore_ascii_case("authorization")) {
            let how = "clients send passwords in `authorization`";
            self.unsupported(config, "authentication_header", how);
        }
        self.only_false(config, "emit_dynamic_metadata", "records have the name as `identity`");
        native.word("allow_missing", config.is("allow_missing"), config.place("allow_missing"));
        native.word("forward", true, config.span);
        // The only hashes that Envoy knows.
        native.word("sha1", true, config.place("users"));
        Some(single("basic_auth", native.node()))
    }

    /// The settings of a host or route: other users.
    pub(super) fn passwords_override(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = self.settings_of_chain("basic_auth", config)?;
        native.take("users");
        native.take("users_file");
        self.users(config, &mut native)?;
        Some(native.node())
    }

    fn users(&mut self, config: &ProtoMessage, native: &mut NativeMap) -> Option<()> {
        let Some(source) = config.message("users") else {
            self.unsupported(config, "users", "a list of users is needed");
            return None;
        };
        if let Some(folder) = source.message("watched_directory") {
            folder.all_without_effect();
        }
        if let Some(path) = source.text("filename") {
            native.text("users_file", path, source.place("filename"));
            return Some(());
        }
        let text = self.given_text(source)?;
        native.text("users", &text, source.span);
        Some(())
    }

    /// The filter `api_key`, from `ApiKeyAuth`.
    pub(super) fn api_keys(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        native.word("forward", true, config.span);
        self.key_settings(config, &mut native)?;
        for (key, field) in [("keys", "credentials"), ("from", "key_sources")] {
            if !native.has(key) {
                self.unsupported(config, field, "the filter of the chain needs some");
                return None;
            }
        }
        let how = "a request with several keys gets 401; in `authorization`, the key has `Bearer ` before it, in other headers nothing";
        self.differs(config, "key_sources", how);
        Some(single("api_key", native.node()))
    }

    /// The settings of a host or route: those of the chain, as far as they are not replaced.
    pub(super) fn api_keys_override(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = self.settings_of_chain("api_key", config)?;
        self.key_settings(config, &mut native)?;
        let allowed = config.texts("allowed_clients").map(|(name, span)| quoted(name, span));
        native.list("allow", allowed.collect(), config.place("allowed_clients"));
        Some(native.node())
    }

    fn key_settings(&mut self, config: &ProtoMessage, native: &mut NativeMap) -> Option<()> {
        let mut keys = NativeMap::new(config.place("credentials"));
        for credential in config.messages("credentials") {
            let (key, client) = (credential.text("key")?, credential.text("client")?);
            if keys.has(client) {
                let how =
                    format!("`{client}` has a key already; give each key a client of its own");
                self.unsupported(credential, "client", &how);
                return None;
            }
            let hash = HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref());
            keys.text(client, &hash, credential.place("client"));
        }
        native.map("keys", keys);
        let mut from = NativeMap::new(config.place("key_sources"));
        for (field, key) in [("header", "headers"), ("cookie", "cookies"), ("query", "query")] {
            let names = config.messages("key_sources").filter_map(|of| {
                let name = of.text(field)?;
                let lower = name.to_ascii_lowercase();
                Some(quoted(if field == "header" { &lower } else { name }, of.place(field)))
            });
            from.list(key, names.collect(), config.place("key_sources"));
        }
        native.map("from", from);
        if let Some(forwarding) = config.message("forwarding") {
            native.word("forward", !forwarding.is("hide_credentials"), forwarding.span);
            match forwarding.text("header") {
                Some(header) => {
                    let span = forwarding.place("header");
                    native.text("user_header", &header.to_ascii_lowercase(), span);
                }
                None => drop(native.take("user_header")),
            }
        }
        Some(())
    }

    /// What the filter of the chain says; without such a filter, settings for it have no effect.
    fn settings_of_chain(&mut self, native: &str, config: &ProtoMessage) -> Option<NativeMap> {
        if self.has_several(native) {
            let how = format!("the chain has several filters `{native}`");
            self.unsupported_at(config, &how);
            return None;
        }
        let found = self.chain_filters.values().find(|(name, _)| name == native);
        if let Some((_, settings)) = found {
            return Some(NativeMap::of(Some(settings.clone()), config.span));
        }
        self.without_filter(config);
        None
    }

    /// Reports settings for a filter that the chain does not have.
    pub(super) fn without_filter(&mut self, config: &ProtoMessage) {
        config.all_without_effect();
        let message = format!(
            "no filter of the chain has a {}: as in Envoy, it has no effect",
            config.type_name()
        );
        self.diags.warning(crate::coverage::DIFFERS, config.span, &*config.path, message);
    }
}
