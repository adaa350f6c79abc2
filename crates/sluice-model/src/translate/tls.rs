//! TLS to clients and to endpoints.

use rustls_pki_types::ServerName;
use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Spanned};
use sluice_l4::plain_http::PlainHttp;
use sluice_tls::{CertName, ClientAuth, EarlySessions, PemSource, TlsVersion, Verify};

use super::Context;
use super::http::alpn;
use crate::model::tls::{CertificateSource, ClientTls, ServerTls};
use crate::sections::{
    self, Certificate, ClientAuthMode, Cluster, ClusterProtocol, Http, NameOfCert, Pem, Tls,
    UpstreamTls, Verification,
};

impl Context<'_> {
    pub(super) fn server_tls(
        self,
        tls: &Spanned<Short<Tls>>,
        http: Option<&Http>,
        early: Option<EarlySessions>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ServerTls> {
        // Fields are listed by name, here and below, so that a new one cannot be forgotten.
        let Tls {
            certificates,
            client_auth,
            alpn: _,
            min_version,
            handshake_timeout,
            early_data_sessions: _,
            plain_http,
        } = &tls.0;
        if certificates.is_empty() {
            if diags.has_unknown(at) {
                return None;
            }
            diags
                .error(
                    "missing-field",
                    tls.span,
                    at.key("certificates"),
                    "TLS cannot be terminated without a certificate",
                )
                .help("add `certificates: [a.pem]`, or remove `tls` to pass TLS through");
            return None;
        }
        let client_auth = client_auth.as_ref().map(|auth| {
            let sections::ClientAuth { ca, crl, mode, names } = auth;
            ClientAuth {
                ca: self.pem(ca),
                crl: crl.as_ref().map(|crl| self.pem(crl)),
                names: cert_names(names),
                required: *mode == ClientAuthMode::Required,
            }
        });
        Some(ServerTls {
            certificates: certificates.iter().map(|pair| self.certificate(pair)).collect(),
            alpn: alpn(tls, http),
            client_auth,
            min_version: version(*min_version),
            early,
            handshake_timeout: *handshake_timeout,
            plain_http: match plain_http {
                sections::PlainHttp::Close => PlainHttp::Close,
                sections::PlainHttp::Answer => PlainHttp::Answer,
                sections::PlainHttp::Redirect => PlainHttp::Redirect,
            },
        })
    }

    /// The files of a certificate. Without `key`, the key is beside the certificate or in the same file.
    fn certificate(self, pair: &Certificate) -> CertificateSource {
        let Certificate { cert, key } = pair;
        let cert = self.pem(cert);
        let beside = || {
            let path = cert.file()?.with_extension("key");
            path.is_file().then_some(PemSource::File(path))
        };
        let key = key.as_ref().map(|key| self.pem(key)).or_else(beside);
        CertificateSource::Pem { key, cert }
    }

    fn pem(self, written: &Pem) -> PemSource {
        match written {
            Pem::File(path) => PemSource::File(self.file(path)),
            Pem::Inline(text) => PemSource::Inline(text.clone()),
        }
    }

    pub(super) fn client_tls(
        self,
        tls: &Spanned<UpstreamTls>,
        cluster: &Cluster,
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
            (Some(ca), Verification::Full) => Verify::Ca(self.pem(ca)),
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
        if let Some(first) = tls.names.first()
            && verify == Verify::Unverified
        {
            let message = "with `verify: none`, no name is verified";
            let finding = diags.error("conflict", first.span, at.key("names"), message);
            finding.help("remove `verify: none` or `names`");
            return None;
        }
        let protocol = cluster.protocol;
        if tls.early_data.value && protocol == ClusterProtocol::Auto {
            let message = "with `protocol: auto`, the version is not known before the handshake";
            diags
                .error("useless-setting", tls.early_data.span, at.key("early_data"), message)
                .help("remove it, or set `protocol` to `http1`, `http2`, `http3` or `same`");
            return None;
        }
        Some(ClientTls {
            names: cert_names(&tls.names),
            http2: protocol == ClusterProtocol::Same,
            http3: cluster.adds_http3(),
            early_data: tls.early_data.value,
            verify,
            sni,
            send_sni: tls.send_sni,
            certificate: tls.certificate.as_ref().map(|pair| self.certificate(pair)),
            alpn: match protocol {
                // A cluster with an explicit `protocol` offers it even if only a header leads to the cluster.
                of if !tls.alpn.is_empty() || (!speaks_http && of == ClusterProtocol::Http1) => {
                    tls.alpn.iter().map(|alpn| alpn.clone().into_bytes()).collect()
                }
                ClusterProtocol::Http1 | ClusterProtocol::Same => vec![b"http/1.1".to_vec()],
                ClusterProtocol::Http2 => vec![b"h2".to_vec()],
                ClusterProtocol::Http3 => vec![b"h3".to_vec()],
                ClusterProtocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            },
            min_version: version(tls.min_version),
        })
    }
}

fn cert_names(names: &[Spanned<NameOfCert>]) -> Vec<CertName> {
    names.iter().map(|name| name.value.0.clone()).collect()
}

const fn version(of: sections::TlsVersion) -> TlsVersion {
    match of {
        sections::TlsVersion::V1_2 => TlsVersion::V1_2,
        sections::TlsVersion::V1_3 => TlsVersion::V1_3,
    }
}
