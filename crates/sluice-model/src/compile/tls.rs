//! TLS configurations, with their files loaded.

use std::sync::Arc;

use sluice_core::{Diags, Path};
use sluice_tls::{ClientPlan, LoadError, ServerPlan, StoredCert, Verify};

use super::{Compiler, SecretContent, report};
use crate::model::tls::{CertificateSource, ClientTls, ServerTls};

/// A certificate that expires in fewer days causes a warning.
const EXPIRY_WARNING_DAYS: u64 = 14;

impl Compiler<'_> {
    pub(super) fn server_tls(
        &self,
        tls: &ServerTls,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<sluice_tls::ServerTls> {
        let list = at.key("certificates");
        let mut certificates = Some(Vec::new());
        for (index, source) in tls.certificates.iter().enumerate() {
            match (self.certificate(source, &list.index(index), diags), &mut certificates) {
                (Some(stored), Some(all)) => all.push(stored),
                _ => certificates = None,
            }
        }
        let revocations = tls.client_auth.as_ref().and_then(|auth| auth.crl.clone());
        if let Some(auth) = &tls.client_auth {
            self.uses_pem(&auth.ca);
            revocations.iter().for_each(|crl| self.uses_pem(crl));
        }
        let plan = ServerPlan {
            certificates: certificates?,
            alpn: tls.alpn.clone(),
            client_auth: tls.client_auth.clone(),
            min_version: tls.min_version,
            early: tls.early.clone(),
        };
        let trouble = |error: LoadError| {
            let at = at.key("client_auth");
            let of_list = revocations.as_ref().is_some_and(|crl| *crl.name() == error.path);
            report(&error, &at.key(if of_list { "crl" } else { "ca" }), diags);
        };
        let mut shared = self.shared.borrow_mut();
        sluice_tls::ServerTls::build(plan, &mut shared.authorities).map_err(trouble).ok()
    }

    pub(super) fn client_tls(
        &self,
        tls: &Arc<ClientTls>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<sluice_tls::ClientTls> {
        // Noted even if the configuration is shared: its files are watched on behalf of each cluster.
        if let Verify::Ca(source) = &tls.verify {
            self.uses_pem(source);
        }
        tls.certificate.iter().for_each(|source| self.uses_certificate(source));
        let known = self.shared.borrow_mut().client_tls(tls);
        if known.is_some() {
            return known;
        }
        let certificate = match &tls.certificate {
            None => None,
            Some(source) => Some(self.certificate(source, &at.key("certificate"), diags)?),
        };
        let ClientTls {
            verify,
            sni,
            send_sni,
            names,
            certificate: _,
            alpn,
            min_version,
            http2,
            http3,
            early_data,
        } = &**tls;
        let plan = ClientPlan {
            verify: verify.clone(),
            sni: sni.clone(),
            send_sni: *send_sni,
            names: names.clone(),
            certificate,
            alpn: alpn.clone(),
            min_version: *min_version,
            http2: *http2,
            http3: *http3,
            early_data: *early_data,
        };
        let mut shared = self.shared.borrow_mut();
        match sluice_tls::ClientTls::build(plan, &mut shared.authorities) {
            Ok(built) => {
                let own = self.files.borrow();
                let files = own.iter().map(|path| (path.clone(), shared.hash_of(path))).collect();
                shared.client_tls.insert(Arc::clone(tls), (built.clone(), files));
                Some(built)
            }
            Err(error) => {
                report(&error, &at.key("ca"), diags);
                None
            }
        }
    }

    fn certificate(
        &self,
        source: &CertificateSource,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<StoredCert>> {
        self.uses_certificate(source);
        let (cert, key) = match source {
            CertificateSource::Pem { cert, key } => (cert, key.as_ref()),
            CertificateSource::Secret(name) => {
                let message = match self.others.secret(name) {
                    Some(SecretContent::Certificate(material)) => {
                        return Some(self.around.certs.secret(name, material));
                    }
                    Some(SecretContent::Text(_)) => {
                        format!("the secret `{name}` is no certificate")
                    }
                    None => format!("there is no secret `{name}`"),
                };
                diags.error("not-there", None, at, message);
                return None;
            }
        };
        match self.around.certs.load(cert, key.unwrap_or(cert)) {
            Ok((stored, trouble)) => {
                self.stale.borrow_mut().extend(trouble);
                let left = stored.material().info.not_after.saturating_sub(self.now);
                if left < EXPIRY_WARNING_DAYS * 86_400 {
                    let when = if left == 0 {
                        "has expired".into()
                    } else {
                        match left.div_ceil(86_400) {
                            1 => "expires within a day".into(),
                            days => format!("expires within {days} days"),
                        }
                    };
                    let message = format!("the certificate {when}");
                    diags
                        .warning("certificate-expiry", None, at.key("cert"), message)
                        .help("renew it; it is read again when the file changes");
                }
                Some(stored)
            }
            Err(error) => {
                let of_key = key.is_some_and(|key| error.path == *key.name());
                report(&error, &at.key(if of_key { "key" } else { "cert" }), diags);
                None
            }
        }
    }
}
