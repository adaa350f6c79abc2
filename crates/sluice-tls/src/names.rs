//! Names that the certificate of a peer must have.
//!
//! Owns: how such a name is written, and whether a certificate has it. Refuses to know: who signed the certificate. Keeps:
//! names are asked for after the chain has been verified, never in place of that.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A subject alternative name that a certificate must have: `dns:api.example.com`, `uri:spiffe://mesh/web` or
/// `ip:10.0.0.1`; with a star at its end, one that begins so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertName {
    kind: NameKind,
    text: String,
    /// Whether it is only the begin of the name.
    prefix: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum NameKind {
    Dns,
    Uri,
    Ip,
}

const KINDS: [(&str, NameKind); 3] =
    [("dns:", NameKind::Dns), ("uri:", NameKind::Uri), ("ip:", NameKind::Ip)];

impl CertName {
    /// Parses a name.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let kind = KINDS.iter().find_map(|(word, kind)| Some((*kind, text.strip_prefix(word)?)));
        let Some((kind, name)) = kind else {
            return Err(format!("expected dns:NAME, uri:URI or ip:ADDRESS, not `{text}`"));
        };
        let (name, prefix) = match name.strip_suffix('*') {
            Some(begin) => (begin, true),
            None => (name, false),
        };
        if name.is_empty() || name.contains('*') {
            return Err(format!(
                "expected a name, with a star at its end only, not `{text}`; a certificate for *.example.com is accepted as `dns:api.example.com`"
            ));
        }
        if kind == NameKind::Ip && (prefix || name.parse::<IpAddr>().is_err()) {
            return Err(format!("expected an IP address, not `{name}`"));
        }
        let text = if kind == NameKind::Dns { name.to_ascii_lowercase() } else { name.to_owned() };
        Ok(Self { kind, text, prefix })
    }

    fn is(&self, name: &GeneralName<'_>) -> bool {
        match (self.kind, name) {
            (NameKind::Uri, GeneralName::URI(uri)) if self.prefix => uri.starts_with(&self.text),
            (NameKind::Uri, GeneralName::URI(uri)) => *uri == self.text,
            (NameKind::Dns, GeneralName::DNSName(name)) => self.is_dns(&name.to_ascii_lowercase()),
            (NameKind::Ip, GeneralName::IPAddress(bytes)) => {
                let own = self.text.parse::<IpAddr>();
                let of = match *bytes {
                    [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d])),
                    bytes => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
                };
                own.ok().is_some_and(|own| of == Some(own))
            }
            _ => false,
        }
    }

    /// A wildcard in a certificate stands for the first label (RFC 6125 §6.4.3).
    fn is_dns(&self, name: &str) -> bool {
        if self.prefix {
            return name.starts_with(&self.text);
        }
        let below = name.strip_prefix("*.");
        name == self.text
            || below.is_some_and(|below| {
                self.text.split_once('.').is_some_and(|(label, rest)| {
                    !label.is_empty() && rest == below && rest.contains('.')
                })
            })
    }
}

impl fmt::Display for CertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(word, _)| word);
        write!(f, "{word}{}{}", self.text, if self.prefix { "*" } else { "" })
    }
}

/// Whether a certificate has one of the names.
fn has_one(names: &[CertName], der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else { return false };
    alternative.value.general_names.iter().any(|name| names.iter().any(|wanted| wanted.is(name)))
}

const WRONG_NAME: rustls::Error =
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);

/// Clients whose certificate has one of some names, besides what `inner` verifies.
#[derive(Debug)]
pub(crate) struct NamedClients {
    pub(crate) inner: Arc<dyn ClientCertVerifier>,
    pub(crate) names: Vec<CertName>,
}

impl ClientCertVerifier for NamedClients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(leaf, chain, now)?;
        if has_one(&self.names, leaf) { Ok(verified) } else { Err(WRONG_NAME) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Servers with a certificate from one of these authorities that has one of these names, whatever they are called.
#[derive(Debug)]
pub(crate) struct NamedServers {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) names: Vec<CertName>,
}

impl ServerCertVerifier for NamedServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = crate::provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, chain, now, algorithms)?;
        if has_one(&self.names, leaf) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(WRONG_NAME)
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = crate::provider();
        verify_tls12_signature(message, cert, signed, &provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = crate::provider();
        verify_tls13_signature(message, cert, signed, &provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crate::provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::material::load_roots;

    /// A certificate with these names, and its authority.
    fn issued(names: &[rcgen::SanType]) -> (CertificateDer<'static>, Arc<RootCertStore>) {
        let mut own = rcgen::CertificateParams::default();
        own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = own.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(own, key);
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
        let source =
            crate::PemSource::Inline(sluice_core::SecretText::new(pem.as_bytes()).unwrap());
        (leaf.der().clone(), Arc::new(load_roots(&source).unwrap()))
    }

    fn names(all: &[&str]) -> Vec<CertName> {
        all.iter().map(|text| CertName::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_certificate_has_the_name_that_is_asked_for() {
        let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
        let dns = |text: &str| rcgen::SanType::DnsName(text.try_into().unwrap());
        let (web, _) = issued(&[uri("spiffe://mesh/web"), dns("Web.Example.com")]);
        let (wild, _) = issued(&[dns("*.example.com"), dns("*.com")]);
        let (address, _) = issued(&[rcgen::SanType::IpAddress("10.0.0.1".parse().unwrap())]);
        for (certificate, name, expected) in [
            (&web, "uri:spiffe://mesh/web", true),
            (&web, "uri:spiffe://mesh/*", true),
            (&web, "uri:spiffe://mesh/we", false),
            (&web, "uri:spiffe://mesh/web/", false),
            (&web, "dns:web.example.com", true),
            (&web, "dns:WEB.example.com", true),
            (&web, "dns:example.com", false),
            (&web, "dns:web.*", true),
            (&web, "dns:spiffe://mesh/web", false),
            (&wild, "dns:api.example.com", true),
            (&wild, "dns:a.api.example.com", false),
            (&wild, "dns:example.com", false),
            (&address, "ip:10.0.0.1", true),
            (&address, "ip:10.0.0.2", false),
            (&address, "dns:10.0.0.1", false),
        ] {
            assert_eq!(has_one(&names(&[name]), certificate), expected, "{name}");
        }
        assert!(has_one(&names(&["dns:none.test", "uri:spiffe://mesh/web"]), &web));
        assert!(!has_one(&names(&["dns:a"]), &CertificateDer::from(vec![0x30, 0x03, 1])));
    }

    #[test]
    fn names_are_written_with_their_kind() {
        for text in ["dns:a.test", "uri:spiffe://a/*", "ip:::1"] {
            assert_eq!(CertName::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "a.test", "dns:", "dns:*", "dns:*.a.test", "ip:a", "ip:10.*", "mail:a"] {
            assert!(CertName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_does_not_stand_in_for_the_authority() {
        let (leaf, roots) = issued(&[rcgen::SanType::URI("spiffe://a/b".try_into().unwrap())]);
        let (_, others) = issued(&[]);
        let judge = |roots: &Arc<RootCertStore>, name: &str| {
            let verifier = NamedServers { roots: Arc::clone(roots), names: names(&[name]) };
            let server = ServerName::try_from("other.test").unwrap();
            let now = UnixTime::now();
            verifier.verify_server_cert(&leaf, &[], &server, &[], now).is_ok()
        };
        assert!(judge(&roots, "uri:spiffe://a/b"));
        assert!(!judge(&roots, "uri:spiffe://a/c"));
        assert!(!judge(&others, "uri:spiffe://a/b"));
    }
}
