//! Credentials that requests are given.
//!
//! Owns: `credential_injector`, with fixed credentials and those of OAuth 2.0. Refuses to know: secrets of TLS.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted, single};

impl Mapping<'_> {
    /// The filter `inject_credentials`, from a `CredentialInjector`.
    pub(super) fn injected(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        if !config.is("overwrite") {
            native.word("keep", true, config.place("overwrite"));
        }
        let credential = config.message("credential")?;
        credential.without_effect(&["name"]);
        let of = credential.message("typed_config")?;
        match of.type_name() {
            "envoy.extensions.http.injected_credentials.generic.v3.Generic" => {
                // A fixed credential is always there.
                config.without_effect(&["allow_request_without_credential"]);
                let secret = self.text_secret(of.message("credential")?)?;
                native.set("secret", secret);
                if let Some(header) = of.text("header") {
                    native.text("header", &header.to_ascii_lowercase(), of.place("header"));
                }
                native.text("prefix", "", of.span);
            }
            "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2" => {
                let how = "without a token, a request gets 503";
                self.only_false(config, "allow_request_without_credential", how);
                let client = self.oauth2_client(of)?;
                native.set("oauth2", client);
            }
            _ => {
                self.unsupported_type(of);
                return None;
            }
        }
        Some(single("inject_credentials", native.node()))
    }

    fn oauth2_client(&mut self, of: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(of.span);
        self.http_uri(of.message("token_endpoint")?, &mut native)?;
        let scopes = of.texts("scopes").map(|(text, span)| quoted(text, span)).collect();
        native.list("scopes", scopes, of.place("scopes"));
        if let Some(pause) = self.duration(of, "token_fetch_retry_interval", Zero::Refused) {
            native.set("refetch_after", pause);
        }
        let client = of.message("client_credentials")?;
        native.text("client_id", client.text("client_id")?, client.place("client_id"));
        let secret = self.text_secret(client.message("client_secret")?)?;
        native.set("client_secret", secret);
        let word =
            if &*client.choice("auth_type") == "URL_ENCODED_BODY" { "body" } else { "header" };
        native.word("authentication", word, client.place("auth_type"));
        Some(native.node())
    }

    /// The text of a `generic_secret` that a `SdsSecretConfig` names.
    fn text_secret(&mut self, config: &ProtoMessage) -> Option<Node> {
        let secret = self.secret(config)?;
        let Some(source) = secret.message("generic_secret").and_then(|of| of.message("secret"))
        else {
            self.unfit_secret(config, secret, "`generic_secret` with one `secret`");
            return None;
        };
        let text = self.inline_text(source)?;
        if text.is_empty() {
            self.diags.error("bad-value", source.span, &*source.path, "the secret is empty");
            return None;
        }
        Some(quoted(&text, source.span))
    }
}
