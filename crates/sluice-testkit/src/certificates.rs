//! Certificates made for a test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

/// A certificate authority, and the folder that its certificates are written to.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Creates an authority; its own certificate is `ca.pem` in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self::named(folder, "ca")
    }

    /// Creates an authority whose own certificate is `NAME.pem` in `folder`.
    pub fn named(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("test authority {name}"));
        let own = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.join(format!("{name}.pem")), own.pem()).expect("it is written");
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for these names and URIs, as `FILE.pem` and `FILE.key`.
    pub fn issue(&self, file: &str, names: &[&str]) {
        self.issue_until(file, names, 4096);
    }

    /// Like `issue`, but the certificate expired long ago.
    pub fn issue_expired(&self, file: &str, names: &[&str]) {
        self.issue_until(file, names, 2020);
    }

    fn issue_until(&self, file: &str, names: &[&str], year: i32) {
        let key = KeyPair::generate().expect("a key");
        let names = names.iter().map(ToString::to_string);
        let (uris, names): (Vec<_>, Vec<_>) = names.partition(|name| name.contains("://"));
        let common = names.first().or_else(|| uris.first()).cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("host names");
        let uris = uris.into_iter().map(|uri| SanType::URI(uri.try_into().expect("ASCII")));
        params.subject_alt_names.extend(uris);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |name: String, pem: String| {
            // Moved into place, so that no reader sees half of it.
            let new = self.folder.join(format!("{name}.new"));
            std::fs::write(&new, pem).expect("it is written");
            std::fs::rename(new, self.folder.join(name)).expect("it is moved into place");
        };
        write(format!("{file}.key"), key.serialize_pem());
        write(format!("{file}.pem"), cert.pem());
    }
}
