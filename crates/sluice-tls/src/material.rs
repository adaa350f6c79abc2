//! PEM files, read and checked.
//!
//! Owns: what makes a certificate file usable, and the messages about what is wrong with it.
//! Refuses to know: its users. Keeps: a certificate is returned only with a matching key.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sluice_core::connection::ClientCertFacts;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::files::{LoadError, wrong};
use crate::pem::PemSource;

/// The contents of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The subject.
    pub subject: String,
    /// The DNS names, lower case; the common name if there are none.
    pub names: Vec<String>,
    /// The end of its validity, in seconds since the Unix epoch.
    pub not_after: u64,
    /// The serial number in hexadecimal.
    pub serial: String,
}

impl CertificateInfo {
    /// Parses a DER certificate.
    ///
    /// # Errors
    /// The message of the parser.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let (mut names, _) = alternative_names(&certificate);
        if names.is_empty() {
            let common = certificate.subject().iter_common_name();
            names.extend(common.filter_map(|cn| cn.as_str().ok()).map(str::to_ascii_lowercase));
        }
        Ok(Self {
            subject: certificate.subject().to_string(),
            names,
            not_after: u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0),
            serial: certificate.raw_serial_as_string(),
        })
    }
}

/// The DNS names, lower case, and the URIs of a certificate.
fn alternative_names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<String>) {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let (mut names, mut uris) = (Vec::new(), Vec::new());
    for name in alternative.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            _ => {}
        }
    }
    (names, uris)
}

/// What the certificate of a client says, in DER; `None` if it cannot be parsed.
pub fn client_facts(der: &[u8]) -> Option<Arc<ClientCertFacts>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let (names, uris) = alternative_names(&certificate);
    let boxed = |all: Vec<String>| all.into_iter().map(String::into_boxed_str).collect();
    let subject = certificate.subject().to_string().into_boxed_str();
    let hash = digest(&SHA256, der);
    let mut sha256 = String::with_capacity(64);
    for byte in hash.as_ref() {
        let _ = write!(sha256, "{byte:02x}");
    }
    let (uris, names, sha256) = (boxed(uris), boxed(names), sha256.into());
    Some(Arc::new(ClientCertFacts { subject, uris, names, sha256, der: der.into() }))
}

/// A certificate chain with its matching key.
#[derive(Clone, Debug)]
pub struct Material {
    /// The chain and key in the form rustls uses.
    pub key: Arc<CertifiedKey>,
    /// The contents of the first certificate.
    pub info: CertificateInfo,
}

impl Material {
    /// Parses a chain and its key, as PEM, that no files contain; errors name `secret` in place of a file.
    ///
    /// # Errors
    /// One of the two contains no certificate or key, or they do not match.
    pub fn of_secret(secret: &str, chain: &[u8], key: &[u8]) -> Result<Self, LoadError> {
        let name = PathBuf::from(secret);
        certify(certificates_of(&name, chain)?, &name, key, &name)
    }
}

/// Loads a chain and its key.
///
/// # Errors
/// A file is missing, contains no certificate or key, or the two do not match.
pub fn load_pair(cert: &PemSource, key: &PemSource) -> Result<Material, LoadError> {
    let chain = certificates_of(&cert.name(), &cert.read()?)?;
    certify(chain, &cert.name(), &key.read()?, &key.name())
}

/// Joins a chain from `cert` and a key from `key`, whose content is `text`.
fn certify(
    chain: Vec<CertificateDer<'static>>,
    cert: &Path,
    text: &[u8],
    key: &Path,
) -> Result<Material, LoadError> {
    let info = CertificateInfo::of(&chain[0]).map_err(|problem| {
        wrong(cert, format!("the first certificate cannot be parsed: {problem}"))
    })?;
    let der = PrivateKeyDer::from_pem_slice(text).map_err(|error| no_key(key, text, &error))?;
    let signing = crate::provider()
        .key_provider
        .load_private_key(der)
        .map_err(|error| wrong(key, format!("the key cannot be used: {error}")))?;
    // Some keys cannot provide their public half; those are trusted, as in rustls, which compares itself only what is of
    // version 3.
    let matches = signing.public_key().is_none_or(|own| *public_key_of(&chain[0]) == *own);
    if !matches {
        return Err(LoadError {
            help: Some("use the key that belongs to this certificate"),
            ..wrong(key, format!("this key does not match the certificate in {}", cert.display()))
        });
    }
    Ok(Material { key: Arc::new(CertifiedKey::new(chain, signing)), info })
}

/// The public key of a certificate in DER, which has been parsed before.
fn public_key_of(der: &[u8]) -> &[u8] {
    X509Certificate::from_der(der).map_or(&[], |(_, certificate)| certificate.subject_pki.raw)
}

/// The certificates in `text`, the content of `path`.
fn certificates_of(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(certificates) if certificates.is_empty() && holds(text, "PRIVATE KEY") => {
            Err(LoadError {
                help: Some(SWAPPED),
                ..wrong(path, "the file contains a private key and no certificate")
            })
        }
        Ok(certificates) if certificates.is_empty() => Err(LoadError {
            help: Some("a certificate file contains blocks such as -----BEGIN CERTIFICATE-----"),
            ..wrong(path, "the file contains no certificate")
        }),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(not_pem(path, &error)),
    }
}

const SWAPPED: &str =
    "`cert` and `key` seem to be swapped: `cert` is the certificate, `key` its private key";

/// Whether a PEM file contains a block whose type ends with `kind`.
fn holds(text: &[u8], kind: &str) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines().any(|line| {
        line.strip_prefix("-----BEGIN ").is_some_and(|of| of.trim_end_matches('-').ends_with(kind))
    })
}

fn no_key(path: &Path, text: &[u8], error: &pem::Error) -> LoadError {
    if holds(text, "ENCRYPTED PRIVATE KEY") || text.windows(9).any(|part| part == b"ENCRYPTED") {
        return LoadError {
            help: Some(
                "decrypt it into a file that only Sluice can read: openssl pkey -in FILE -out NEW",
            ),
            ..wrong(path, "the private key is encrypted")
        };
    }
    if holds(text, "CERTIFICATE") && !holds(text, "PRIVATE KEY") {
        return LoadError {
            help: Some(SWAPPED),
            ..wrong(path, "the file contains a certificate and no private key")
        };
    }
    if holds(text, "PRIVATE KEY") {
        return not_pem(path, error);
    }
    LoadError {
        help: Some("a key file contains a block such as -----BEGIN PRIVATE KEY-----"),
        ..wrong(path, "the file contains no private key")
    }
}

/// Describes what is wrong with a PEM file, without the bytes in it.
fn not_pem(path: &Path, error: &pem::Error) -> LoadError {
    let problem = match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM block has no -----END line",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a PEM block is not Base64",
        pem::Error::NoItemsFound => "the file contains no usable PEM block",
        _ => "the file is not PEM",
    };
    LoadError {
        help: Some("the file may have been truncated or edited; copy it again"),
        ..wrong(path, problem)
    }
}

/// Loads the certificates of authorities.
///
/// # Errors
/// The file is missing, contains none, or one that cannot be an authority.
pub fn load_roots(source: &PemSource) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(&source.name(), &source.read()?)? {
        roots.add(certificate).map_err(|error| {
            wrong(&source.name(), format!("not usable as an authority: {error}"))
        })?;
    }
    Ok(roots)
}

/// Loads certificate revocation lists.
///
/// # Errors
/// The file is missing or contains none.
pub fn load_revocations(
    source: &PemSource,
) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
    let found: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(&source.read()?).collect();
    match found {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        _ => Err(wrong(&source.name(), "the file contains no revocation list")),
    }
}
