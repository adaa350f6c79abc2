//! TLS contexts, of clients and of endpoints.
//!
//! Owns: certificates, validation, versions. Refuses to know: which socket they are for. Keeps: what would let in
//! somebody whom Envoy refuses is an error.

use rustls_pki_types::ServerName;
use sluice_core::Node;

use super::validation::Unknown;
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
        match &validation {
            Ok(validation) if validation.has("trusted_ca") => {
                if let Some(auth) = self.client_auth(validation, required) {
                    native.set("client_auth", auth);
                }
            }
            Ok(validation) => {
                self.names_without_authority(validation);
                if required {
                    let how = "without a `trusted_ca`, any certificate would do";
                    self.unsupported(context, "require_client_certificate", how);
                }
            }
            // It is reported.
            Err(Unknown) => {}
        }
        native.node()
    }

    /// The TLS of a cluster, from an `UpstreamTlsContext`.
    pub(super) fn upstream_tls(&mut self, context: &ProtoMessage) -> Node {
        let mut native = NativeMap::new(context.span);
        context.without_effect(&["max_session_keys", "enforce_rsa_key_usage"]);
        self.only_false(context, "allow_renegotiation", "TLS 1.3 has none");
        // Without `sni`, the name of the endpoint is sent and verified.
        if context.is("auto_host_sni") && context.has("sni") {
            self.unsupported(context, "auto_host_sni", "beside `sni`");
        }
        let unsendable = self.server_name(context, &mut native);
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
        let replaced = context.is("auto_sni_san_validation");
        match common.map(|common| self.validation(common)) {
            Some(Ok(validation)) if !validation.is_empty() => {
                self.server_validation(&validation, replaced, &mut native);
                if let Some(name) = unsendable.filter(|_| replaced) {
                    self.name_not_sent(name, context, &mut native);
                }
            }
            Some(Err(Unknown)) => {}
            // Without a validation context, Envoy takes any certificate.
            _ => native.word("verify", "none", context.span),
        }
        native.node()
    }

    /// The name that is sent; the text of one that is no name of a host, which cannot be sent.
    fn server_name<'m>(
        &mut self,
        context: &'m ProtoMessage,
        native: &mut NativeMap,
    ) -> Option<&'m str> {
        let (name, span) = (context.text("sni")?, context.place("sni"));
        if ServerName::try_from(&**name).is_ok() {
            native.text("sni", name, span);
            return None;
        }
        native.word("send_sni", false, span);
        let how = format!(
            "`{name}` is no name of a host, since its last label is a number or a label has other characters: no server name is sent"
        );
        self.differs(context, "sni", &how);
        Some(name)
    }

    /// Verifies a name that is not sent, where that is what the certificate must have.
    fn name_not_sent(&mut self, name: &str, context: &ProtoMessage, native: &mut NativeMap) {
        if native.get("verify").is_some_and(|verify| verify.is_word("none")) {
            return;
        }
        if name.contains('*') {
            self.unsupported(context, "auto_sni_san_validation", "of a name with a star");
            return;
        }
        let span = context.place("sni");
        native.list("names", vec![quoted(&format!("dns:{name}"), span)], span);
    }

    fn certificates(&mut self, common: &ProtoMessage) -> Vec<Node> {
        let mut found: Vec<Node> =
            common.messages("tls_certificates").filter_map(|of| self.certificate(of)).collect();
        for config in common.messages("tls_certificate_sds_secret_configs") {
            let Some(secret) = self.secret(config) else { continue };
            match secret.message("tls_certificate") {
                Some(certificate) => found.extend(self.certificate(certificate)),
                None => self.unfit_secret(config, secret, "`tls_certificate`"),
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
            let pem = self.pem(certificate.message(field)?);
            native.set(key, pem?);
        }
        Some(native.node())
    }

    /// ALPN and versions.
    fn versions(&mut self, common: &ProtoMessage, native: &mut NativeMap) {
        let alpn = common.texts("alpn_protocols").map(|(text, span)| quoted(text, span)).collect();
        native.list("alpn", alpn, common.place("alpn_protocols"));
        let Some(params) = common.message("tls_params") else { return };
        self.ciphers(params);
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

    /// Lists of ciphers. Those here are fixed, so a list must have at least these; more of them are weaker ones.
    fn ciphers(&mut self, params: &ProtoMessage) {
        let listed: Vec<&str> = params
            .texts("cipher_suites")
            .flat_map(|(text, _)| text.trim_matches(['[', ']']).split('|'))
            .collect();
        let newest = &*params.choice("tls_minimum_protocol_version") == "TLSv1_3";
        let missing = CIPHERS.iter().find(|cipher| !listed.contains(cipher));
        match missing {
            _ if listed.is_empty() || newest => {}
            Some(missing) => {
                let how = format!("{missing} is always offered, as are {}", CIPHERS.join(", "));
                self.unsupported(params, "cipher_suites", &how);
            }
            None if listed.len() == CIPHERS.len() => {}
            None => {
                let how = format!("of TLS 1.2, only these are offered: {}", CIPHERS.join(", "));
                self.differs(params, "cipher_suites", &how);
            }
        }
        if params.has("ecdh_curves") {
            let curves: Vec<_> =
                params.texts("ecdh_curves").map(|(text, _)| text.clone()).collect();
            if curves.iter().any(|curve| &**curve != "X25519" && &**curve != "P-256") {
                let how = "X25519MLKEM768, X25519, P-256 and P-384 are offered, in this order";
                self.differs(params, "ecdh_curves", how);
            }
        }
    }
}

/// The cipher suites of TLS 1.2, as OpenSSL calls them.
const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];
