//! TLS contexts, of clients and of endpoints.
//!
//! Owns: certificates, validation, versions. Refuses to know: which socket they are for. Keeps: what would let in
//! somebody whom Envoy refuses is an error.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted};

impl Mapping<'_> {
    /// The TLS of a filter chain, from a `DownstreamTlsContext`.
    pub(super) fn downstream_tls(&mut self, context: &ProtoMessage, chain: &ProtoMessage) -> Node {
        let mut native = NativeMap::new(context.span);
        context.without_effect(&[
            "session_timeout",
            "full_scan_certs_on_sni_mismatch",
            "prefer_client_ciphers",
        ]);
        for field in [
            "require_sni",
            "disable_stateless_session_resumption",
            "disable_stateful_session_resumption",
        ] {
            self.only_false(context, field, "");
        }
        if &*context.choice("ocsp_staple_policy") != "LENIENT_STAPLING" {
            self.unsupported(context, "ocsp_staple_policy", "");
        }
        if let Some(timeout) =
            self.duration(chain, "transport_socket_connect_timeout", Zero::Refused)
        {
            native.set("handshake_timeout", timeout);
        }
        let required = context.is("require_client_certificate");
        let Some(common) = context.message("common_tls_context") else { return native.node() };
        let certificates = self.certificates(common);
        native.list("certificates", certificates, common.span);
        self.versions(common, &mut native);
        let validation = self.validation(common);
        match validation.and_then(|of| self.client_auth(of, required)) {
            Some(auth) => native.set("client_auth", auth),
            None if required => {
                let how = "without a `trusted_ca`, any certificate would do";
                self.unsupported(context, "require_client_certificate", how);
            }
            None => {}
        }
        native.node()
    }

    fn client_auth(&mut self, validation: &ProtoMessage, required: bool) -> Option<Node> {
        let mut native = NativeMap::new(validation.span);
        self.san_matchers(validation);
        if let Some(crl) =
            validation.message("crl").and_then(|of| self.file(of).map(|path| quoted(path, of.span)))
        {
            native.set("crl", crl);
        }
        let source = validation.message("trusted_ca")?;
        let path = self.file(source)?;
        native.text("ca", path, source.span);
        native.word("mode", if required { "required" } else { "optional" }, validation.span);
        Some(native.node())
    }

    fn san_matchers(&mut self, validation: &ProtoMessage) {
        for field in ["match_typed_subject_alt_names", "match_subject_alt_names"] {
            if validation.has(field) {
                self.unsupported(validation, field, "judge certificates with the filter `rbac`");
            }
        }
    }

    /// The TLS of a cluster, from an `UpstreamTlsContext`.
    pub(super) fn upstream_tls(&mut self, context: &ProtoMessage) -> Node {
        let mut native = NativeMap::new(context.span);
        context.without_effect(&["max_session_keys", "enforce_rsa_key_usage"]);
        self.only_false(context, "allow_renegotiation", "TLS 1.3 has none");
        for field in ["auto_host_sni", "auto_sni_san_validation"] {
            // Without `sni`, the name of the endpoint is sent and verified.
            if context.is(field) && context.has("sni") {
                self.unsupported(context, field, "beside `sni`");
            }
        }
        let sni = context.text("sni");
        if let Some(sni) = sni {
            native.text("sni", sni, context.place("sni"));
        }
        let common = context.message("common_tls_context");
        if let Some(common) = common {
            self.versions(common, &mut native);
            let mut certificates = self.certificates(common);
            if certificates.len() > 1 {
                self.unsupported(common, "tls_certificates", "a cluster presents one certificate");
            } else if let Some(certificate) = certificates.pop() {
                native.set("certificate", certificate);
            }
        }
        match common.and_then(|common| self.validation(common)) {
            Some(validation) => {
                self.server_validation(validation, sni.map(|sni| &**sni), &mut native)
            }
            // Without a validation context, Envoy takes any certificate.
            None => native.word("verify", "none", context.span),
        }
        native.node()
    }

    fn server_validation(
        &mut self,
        validation: &ProtoMessage,
        sni: Option<&str>,
        native: &mut NativeMap,
    ) {
        if validation.has("crl") {
            self.unsupported(validation, "crl", "of endpoints");
        }
        validation.without_effect(&["system_root_certs"]);
        match validation.message("trusted_ca") {
            Some(source) => {
                if let Some(path) = self.file(source) {
                    native.text("ca", path, source.span);
                }
            }
            None if validation.has("system_root_certs") => {}
            None => {
                native.word("verify", "none", validation.span);
                self.san_matchers(validation);
                return;
            }
        }
        self.only_false(validation, "allow_expired_certificate", "");
        let mut names = Vec::new();
        for matcher in validation.messages("match_typed_subject_alt_names") {
            let exact = matcher.message("matcher").and_then(|of| of.text("exact"));
            if &*matcher.choice("san_type") != "DNS" || exact.is_none() {
                self.unsupported(
                    validation,
                    "match_typed_subject_alt_names",
                    "only exact DNS names are",
                );
                return;
            }
            names.extend(exact);
        }
        for matcher in validation.messages("match_subject_alt_names") {
            match matcher.text("exact") {
                Some(name) => names.push(name),
                None => {
                    self.unsupported(
                        validation,
                        "match_subject_alt_names",
                        "only exact DNS names are",
                    );
                    return;
                }
            }
        }
        match names.as_slice() {
            [] => {
                let field =
                    if validation.has("trusted_ca") { "trusted_ca" } else { "system_root_certs" };
                self.differs(validation, field, "the name in the certificate is verified, too: that in `sni`, or that of the endpoint");
            }
            [name] if sni == Some(&***name) => {}
            [name] if sni.is_none() => native.text("sni", name, validation.span),
            _ => {
                let field = if validation.has("match_subject_alt_names") {
                    "match_subject_alt_names"
                } else {
                    "match_typed_subject_alt_names"
                };
                self.unsupported(
                    validation,
                    field,
                    "the name in the certificate must be that in `sni`",
                );
            }
        }
    }

    /// The validation context, wherever it is.
    fn validation<'m>(&mut self, common: &'m ProtoMessage) -> Option<&'m ProtoMessage>
    where
        Self: 'm,
    {
        if let Some(config) = common.message("validation_context_sds_secret_config") {
            if let Some(secret) = self.secret(config) {
                if let Some(found) = secret.message("validation_context") {
                    return self.judged(found);
                }
                self.unsupported(config, "name", "the secret has no `validation_context`");
            }
            return None;
        }
        if common.has("combined_validation_context") {
            self.unsupported(common, "combined_validation_context", "");
            return None;
        }
        common.message("validation_context").and_then(|found| self.judged(found))
    }

    /// Reports what no validation here can do.
    fn judged<'m>(&mut self, validation: &'m ProtoMessage) -> Option<&'m ProtoMessage> {
        validation.without_effect(&["suppress_client_ca_list"]);
        if let Some(folder) = validation.message("watched_directory") {
            folder.all_without_effect();
        }
        if &*validation.choice("trust_chain_verification") != "VERIFY_TRUST_CHAIN" {
            self.unsupported(
                validation,
                "trust_chain_verification",
                "certificates are always verified",
            );
        }
        Some(validation)
    }

    fn certificates(&mut self, common: &ProtoMessage) -> Vec<Node> {
        let mut found: Vec<Node> =
            common.messages("tls_certificates").filter_map(|of| self.certificate(of)).collect();
        for config in common.messages("tls_certificate_sds_secret_configs") {
            let Some(secret) = self.secret(config) else { continue };
            match secret.message("tls_certificate") {
                Some(certificate) => found.extend(self.certificate(certificate)),
                None => self.unsupported(config, "name", "the secret has no `tls_certificate`"),
            }
        }
        found
    }

    fn certificate(&mut self, certificate: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(certificate.span);
        if let Some(folder) = certificate.message("watched_directory") {
            folder.all_without_effect();
        }
        for (field, key) in [("certificate_chain", "cert"), ("private_key", "key")] {
            let source = certificate.message(field)?;
            let path = self.file(source)?;
            native.text(key, path, source.span);
        }
        Some(native.node())
    }

    /// ALPN and versions.
    fn versions(&mut self, common: &ProtoMessage, native: &mut NativeMap) {
        let alpn = common.texts("alpn_protocols").map(|(text, span)| quoted(text, span)).collect();
        native.list("alpn", alpn, common.place("alpn_protocols"));
        let Some(params) = common.message("tls_params") else { return };
        match &*params.choice("tls_minimum_protocol_version") {
            "TLS_AUTO" => {}
            "TLSv1_2" => native.word("min_version", "1.2", params.span),
            "TLSv1_3" => native.word("min_version", "1.3", params.span),
            _ => {
                let how = "TLS 1.2 is the oldest version";
                self.differs(params, "tls_minimum_protocol_version", how);
            }
        }
        match &*params.choice("tls_maximum_protocol_version") {
            "TLS_AUTO" | "TLSv1_3" => {}
            _ => self.unsupported(
                params,
                "tls_maximum_protocol_version",
                "TLS 1.3 is always offered",
            ),
        }
    }
}
