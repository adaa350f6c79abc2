//! Secrets that control planes send.
//!
//! Owns: those that have come, and what stands in for one that has not. Refuses to know: streams, what a secret is used
//! for. Keeps: what stands in proves nothing to anybody: its key is made up and forgotten.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use sluice_core::Span;

use crate::descriptors;
use crate::message::{ProtoField, ProtoMessage, ProtoValue};

const PACKAGE: &str = "envoy.extensions.transport_sockets.tls.v3";
const SOURCE: &str = "envoy.config.core.v3.DataSource";

/// A self-signed certificate and its key, for a secret that has not come.
static STAND_IN: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["pending.invalid".to_owned()]).ok()?;
    Some((made.cert.pem(), made.signing_key.serialize_pem()))
});

/// The secrets of planes by name.
#[derive(Debug, Default)]
pub struct DeliveredSecrets<'m> {
    secrets: HashMap<Arc<str>, &'m ProtoMessage>,
    stand_in: OnceCell<Option<ProtoMessage>>,
}

impl<'m> DeliveredSecrets<'m> {
    /// These secrets.
    pub fn new(secrets: HashMap<Arc<str>, &'m ProtoMessage>) -> Self {
        Self { secrets, stand_in: OnceCell::new() }
    }

    /// The secret of this name, if it has come.
    pub(crate) fn get(&self, name: &str) -> Option<&'m ProtoMessage> {
        self.secrets.get(name).copied()
    }

    /// What stands in for a secret, whatever it is for.
    pub(crate) fn stand_in(&self) -> Option<&ProtoMessage> {
        self.stand_in.get_or_init(stand_in).as_ref()
    }
}

fn stand_in() -> Option<ProtoMessage> {
    let (cert, key) = STAND_IN.as_ref()?;
    let text = |text: &str| message(SOURCE, [("inline_string", ProtoValue::Text(text.into()))]);
    let certificate = [("certificate_chain", text(cert)?), ("private_key", text(key)?)];
    let certificate = certificate.map(|(field, value)| (field, ProtoValue::Message(value)));
    let validation = [("trusted_ca", ProtoValue::Message(text(cert)?))];
    let generic = [("secret", ProtoValue::Message(text("pending")?))];
    let all = [
        ("tls_certificate", message(&format!("{PACKAGE}.TlsCertificate"), certificate)?),
        (
            "validation_context",
            message(&format!("{PACKAGE}.CertificateValidationContext"), validation)?,
        ),
        ("generic_secret", message(&format!("{PACKAGE}.GenericSecret"), generic)?),
    ];
    let mut secret = message(&format!("{PACKAGE}.Secret"), [])?;
    for (field, value) in all {
        // They exclude each other in a secret that somebody sends.
        let (descriptor, span) = (secret.descriptor.get_field_by_name(field)?, Span::default());
        secret.fields.push(ProtoField::new(descriptor, span, span, ProtoValue::Message(value)));
    }
    Some(secret)
}

fn message<const N: usize>(name: &str, fields: [(&str, ProtoValue); N]) -> Option<ProtoMessage> {
    let (descriptor, span) = (descriptors::message(name)?, Span::default());
    let mut message = ProtoMessage { descriptor, path: "".into(), span, fields: Vec::new() };
    for (field, value) in fields {
        message.set(field, span, value);
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_is_of_every_kind() {
        let secrets = DeliveredSecrets::default();
        let secret = secrets.stand_in().expect("a stand-in");
        for field in ["tls_certificate", "validation_context", "generic_secret"] {
            assert!(secret.message(field).is_some_and(|of| !of.fields.is_empty()), "{field}");
        }
        assert!(secrets.get("pending").is_none());
    }
}
