//! Whose certificates are accepted.
//!
//! Owns: validation contexts, wherever they are, and the names that a certificate must have. Refuses to know: which side
//! presents it. Keeps: a name that cannot be asked for exactly is an error, since any other certificate would do then.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted};

/// A validation context that is not known here; that is among the findings.
pub(super) struct Unknown;

/// A validation context: none, one, or a secret over a default. Single fields of the last count, and lists add up, as
/// in Envoy.
pub(super) struct Validation<'m>(Vec<&'m ProtoMessage>);

impl<'m> Validation<'m> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.with(field).is_some()
    }

    /// The part that has a field.
    fn with(&self, field: &str) -> Option<&'m ProtoMessage> {
        self.0.iter().rev().copied().find(|part| part.has(field))
    }

    fn message(&self, field: &str) -> Option<&'m ProtoMessage> {
        // All are read, so that none is reported.
        self.0.iter().filter_map(|part| part.message(field)).fold(None, |_, found| Some(found))
    }

    fn reads(&self, fields: &[&str]) {
        self.0.iter().for_each(|part| part.without_effect(fields));
    }
}

impl<'a> Mapping<'a> {
    /// The validation context of a TLS context.
    pub(super) fn validation<'m>(
        &mut self,
        common: &'m ProtoMessage,
    ) -> Result<Validation<'m>, Unknown>
    where
        'a: 'm,
    {
        let mut parts: Vec<&'m ProtoMessage> = Vec::new();
        let combined = common.message("combined_validation_context");
        parts.extend(common.message("validation_context"));
        parts.extend(combined.and_then(|of| of.message("default_validation_context")));
        let config = common
            .message("validation_context_sds_secret_config")
            .or_else(|| combined.and_then(|of| of.message("validation_context_sds_secret_config")));
        if let Some(config) = config {
            let secret: &'m ProtoMessage =
                self.secret(config).ok_or(Unknown).inspect_err(|_| {
                    parts.iter().for_each(|part| part.all_without_effect());
                })?;
            let Some(found) = secret.message("validation_context") else {
                self.unfit_secret(config, secret, "`validation_context`");
                return Err(Unknown);
            };
            parts.push(found);
        }
        for part in &parts {
            self.judged(part);
        }
        Ok(Validation(parts))
    }

    /// Reports what no validation here can do.
    fn judged(&mut self, validation: &ProtoMessage) {
        validation.without_effect(&["suppress_client_ca_list"]);
        if let Some(folder) = validation.message("watched_directory") {
            folder.all_without_effect();
        }
        if &*validation.choice("trust_chain_verification") != "VERIFY_TRUST_CHAIN" {
            let how = "certificates are always verified";
            self.unsupported(validation, "trust_chain_verification", how);
        }
    }

    /// The certificates that clients present.
    pub(super) fn client_auth(&mut self, of: &Validation<'_>, required: bool) -> Option<Node> {
        let source = of.message("trusted_ca")?;
        let mut native = NativeMap::new(source.span);
        if let Some(crl) = of.message("crl").and_then(|of| self.pem(of)) {
            native.set("crl", crl);
        }
        let ca = self.pem(source)?;
        native.set("ca", ca);
        self.names(of, &mut native);
        native.word("mode", if required { "required" } else { "optional" }, source.span);
        Some(native.node())
    }

    /// Names that are asked for where no authority is: anybody could write them into a certificate.
    pub(super) fn names_without_authority(&mut self, of: &Validation<'_>) {
        for field in ["match_typed_subject_alt_names", "match_subject_alt_names"] {
            if let Some(part) = of.with(field) {
                self.unsupported(part, field, "without a `trusted_ca`, they prove nothing");
            }
        }
    }

    /// How the certificates of endpoints are verified. `replaced`: their names are compared with the server name that is
    /// sent, not with those of the context.
    pub(super) fn server_validation(
        &mut self,
        of: &Validation<'_>,
        replaced: bool,
        native: &mut NativeMap,
    ) {
        if let Some(part) = of.with("crl") {
            self.unsupported(part, "crl", "of endpoints");
        }
        of.reads(&["system_root_certs"]);
        match of.message("trusted_ca") {
            Some(source) => {
                if let Some(ca) = self.pem(source) {
                    native.set("ca", ca);
                }
            }
            None if of.has("system_root_certs") => {}
            None => {
                native.word(
                    "verify",
                    "none",
                    of.0.last().map(|part| part.span).unwrap_or_default(),
                );
                self.names_without_authority(of);
                return;
            }
        }
        for part in &of.0 {
            self.only_false(part, "allow_expired_certificate", "");
        }
        if replaced {
            of.reads(&["match_typed_subject_alt_names", "match_subject_alt_names"]);
            for part in &of.0 {
                for field in ["match_typed_subject_alt_names", "match_subject_alt_names"] {
                    part.messages(field).for_each(ProtoMessage::all_without_effect);
                }
            }
            return;
        }
        self.names(of, native);
        if !native.has("names")
            && let Some(part) = of.with("trusted_ca").or_else(|| of.with("system_root_certs"))
        {
            let field = if part.has("trusted_ca") { "trusted_ca" } else { "system_root_certs" };
            self.differs(part, field, "the name in the certificate is verified, too: that in `sni`, or that of the endpoint");
        }
    }

    /// Adds the names of which a certificate must have one.
    fn names(&mut self, of: &Validation<'_>, native: &mut NativeMap) {
        let mut names = Vec::new();
        let mut last = None;
        for part in &of.0 {
            for matcher in part.messages("match_typed_subject_alt_names") {
                last = Some(matcher);
                let kinds: &[&str] = match &*matcher.choice("san_type") {
                    "DNS" => &["dns"],
                    "URI" => &["uri"],
                    "IP_ADDRESS" => &["ip"],
                    _ => {
                        self.unsupported(matcher, "san_type", "names are DNS, URI or IP_ADDRESS");
                        continue;
                    }
                };
                if let Some(matcher) = matcher.message("matcher") {
                    self.name(matcher, kinds, &mut names);
                }
            }
            for matcher in part.messages("match_subject_alt_names") {
                last = Some(matcher);
                self.name(matcher, &["dns", "uri", "ip"], &mut names);
            }
        }
        if let Some(last) = last.filter(|_| names.is_empty() && !self.diags.has_errors()) {
            let message = format!("{} is not supported: no name could fit", last.type_name());
            self.diags.error(crate::coverage::UNSUPPORTED, last.span, &*last.path, message);
        }
        native.list("names", names, last.map(|of| of.span).unwrap_or_default());
    }

    /// A name, for each kind that it may be of.
    fn name(&mut self, matcher: &ProtoMessage, kinds: &[&str], names: &mut Vec<Node>) {
        let text = matcher.text("exact").map(|text| text.to_string());
        let text = text.or_else(|| matcher.text("prefix").map(|text| format!("{text}*")));
        let stars = text.as_ref().map_or(0, |text| text.matches('*').count());
        let Some(text) = text.filter(|_| stars == usize::from(matcher.has("prefix"))) else {
            matcher.all_without_effect();
            let message = format!(
                "{} is not supported here: only `exact` and `prefix` are, without a star",
                matcher.type_name()
            );
            self.diags.error(crate::coverage::UNSUPPORTED, matcher.span, &*matcher.path, message);
            return;
        };
        if matcher.is("ignore_case") && kinds != ["dns"] {
            self.unsupported(matcher, "ignore_case", "only DNS names ignore case");
        }
        for kind in kinds {
            let is_address = text.parse::<std::net::IpAddr>().is_ok();
            if *kind != "ip" || is_address {
                names.push(quoted(&format!("{kind}:{text}"), matcher.span));
            } else if kinds.len() == 1 && matcher.has("prefix") {
                let of_address =
                    |letter: char| letter.is_ascii_hexdigit() || ".:*".contains(letter);
                if text.chars().all(of_address) {
                    self.unsupported(matcher, "prefix", "an IP address is compared whole");
                } else {
                    let how = "no IP address begins so, so no certificate has one";
                    self.differs(matcher, "prefix", how);
                }
            } else if kinds.len() == 1 {
                self.differs(matcher, "exact", "it is no IP address, so no certificate has it");
            }
        }
    }
}
