//! The TLS settings of chains and clusters, with their files loaded.

use std::sync::Arc;

use rustls_pki_types::ServerName;
use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Spanned};
use sluice_tls::{
    ClientAuth, ClientPlan, ClientTls, EarlySessions, LoadError, ServerPlan, ServerTls, StoredCert,
    TlsVersion, Verify,
};

use super::http::alpn;
use super::{Build, report};
use crate::sections::{
    self, Certificate, ClientAuthMode, ClusterProtocol, Http, Tls, UpstreamTls, Verification,
};

/// A certificate that expires in fewer days causes a warning.
const EXPIRY_WARNING_DAYS: u64 = 14;

impl Build<'_> {
    pub(super) fn server_tls(
        &mut self,
        tls: &Spanned<Short<Tls>>,
        http: Option<&Http>,
        early: Option<EarlySessions>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ServerTls> {
        let mut certificates = Some(Vec::new());
        let list = at.key("certificates");
        for (index, pair) in tls.certificates.iter().enumerate() {
            match (self.certificate(pair, &list.index(index), diags), &mut certificates) {
                (Some(stored), Some(all)) => all.push(stored),
                _ => certificates = None,
            }
        }
        if tls.certificates.is_empty() {
            diags
                .error(
                    "missing-field",
                    tls.span,
                    list,
                    "TLS cannot be terminated without a certificate",
                )
                .help("add `certificates: [a.pem]`, or remove `tls` to pass TLS through");
            certificates = None;
        }
        let client_auth = tls.client_auth.as_ref().map(|auth| {
            // Fields are listed by name: a forgotten one would let clients in.
            let sections::ClientAuth { ca, crl, mode } = auth;
            ClientAuth {
                ca: self.file(ca),
                crl: crl.as_ref().map(|crl| self.file(crl)),
                required: *mode == ClientAuthMode::Required,
            }
        });
        let plan = ServerPlan {
            certificates: certificates?,
            alpn: alpn(tls, http),
            client_auth,
            min_version: version(tls.min_version),
            early,
        };
        let revocations = plan.client_auth.as_ref().and_then(|auth| auth.crl.clone());
        let trouble = |error: LoadError| {
            let auth = tls.client_auth.as_ref();
            let crl = auth.and_then(|auth| auth.crl.as_ref());
            let at = at.key("client_auth");
            match crl.filter(|_| revocations.as_deref() == Some(error.path.as_path())) {
                Some(crl) => report(&error, crl.span, &at.key("crl"), diags),
                None => {
                    report(&error, auth.map_or(tls.span, |auth| auth.ca.span), &at.key("ca"), diags)
                }
            }
        };
        ServerTls::build(plan, &mut self.authorities).map_err(trouble).ok()
    }

    fn certificate(
        &mut self,
        pair: &Certificate,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<StoredCert>> {
        let cert = self.file(&pair.cert);
        let key = match &pair.key {
            Some(key) => self.file(key),
            None => {
                let beside = cert.with_extension("key");
                self.file(if beside.is_file() { &beside } else { &cert })
            }
        };
        match self.input.certs.load(&cert, &key) {
            Ok((stored, trouble)) => {
                self.stale.extend(trouble);
                let left = stored.material().info.not_after.saturating_sub(self.input.now);
                if left < EXPIRY_WARNING_DAYS * 86_400 {
                    let when = if left == 0 {
                        "has expired".into()
                    } else {
                        match left.div_ceil(86_400) {
                            1 => "expires within a day".into(),
                            days => format!("expires within {days} days"),
                        }
                    };
                    diags
                        .warning(
                            "certificate-expiry",
                            pair.cert.span,
                            at.key("cert"),
                            format!("the certificate {when}"),
                        )
                        .help("renew it; it is read again when the file changes");
                }
                Some(stored)
            }
            Err(error) => {
                let own = pair.key.as_ref().filter(|_| error.path == key);
                let (span, field) = own.map_or((pair.cert.span, "cert"), |own| (own.span, "key"));
                report(&error, span, &at.key(field), diags);
                None
            }
        }
    }

    pub(super) fn client_tls(
        &mut self,
        tls: &Spanned<UpstreamTls>,
        protocol: ClusterProtocol,
        speaks_http: bool,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ClientTls> {
        let verify = match (&tls.ca, tls.verify) {
            (_, Verification::Unverified) => {
                diags
                    .warning(
                        "unverified",
                        tls.span,
                        at.key("verify"),
                        "with `verify: none`, anyone can impersonate the endpoint",
                    )
                    .help("set the certificate authority with `ca` instead");
                Verify::Unverified
            }
            (Some(ca), Verification::Full) => Verify::Ca(self.file(ca)),
            (None, Verification::Full) => Verify::System,
        };
        let sni =
            match tls.sni.as_ref().map(|sni| (ServerName::try_from(sni.value.clone()), sni.span)) {
                None => None,
                Some((Ok(name), _)) => Some(name),
                Some((Err(_), span)) => {
                    diags.error(
                        "bad-value",
                        span,
                        at.key("sni"),
                        "expected a host name or an IP address",
                    );
                    return None;
                }
            };
        let certificate = match &tls.certificate {
            None => None,
            Some(pair) => Some(self.certificate(pair, &at.key("certificate"), diags)?),
        };
        let plan = ClientPlan {
            verify,
            sni,
            certificate,
            alpn: match protocol {
                // A cluster with an explicit `protocol` offers it even if only a header leads to the cluster.
                of if !tls.alpn.is_empty() || (!speaks_http && of == ClusterProtocol::Http1) => {
                    tls.alpn.iter().map(|alpn| alpn.clone().into_bytes()).collect()
                }
                ClusterProtocol::Http1 => vec![b"http/1.1".to_vec()],
                ClusterProtocol::Http2 => vec![b"h2".to_vec()],
                ClusterProtocol::Http3 => vec![b"h3".to_vec()],
                ClusterProtocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            },
            min_version: version(tls.min_version),
        };
        let place = tls.ca.as_ref().map_or(tls.span, |ca| ca.span);
        ClientTls::build(plan, &mut self.authorities)
            .map_err(|error| report(&error, place, &at.key("ca"), diags))
            .ok()
    }
}

const fn version(of: sections::TlsVersion) -> TlsVersion {
    match of {
        sections::TlsVersion::V1_2 => TlsVersion::V1_2,
        sections::TlsVersion::V1_3 => TlsVersion::V1_3,
    }
}
