//! TLS to clients and to endpoints, and where certificates are found.

use std::time::Duration;

use rustls_pki_types::ServerName;
use sluice_core::{Name, Path, SecretText};
use sluice_l4::plain_http::PlainHttp;
use sluice_tls::{CertName, ClientAuth, EarlySessions, PemSource, TlsVersion, Verify};

use super::{Kind, References};

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A certificate chain and its private key, as PEM.
    Certificate {
        /// The certificate chain, leaf certificate first.
        chain: Vec<u8>,
        /// The private key.
        key: Vec<u8>,
    },
    /// A text that filters use.
    Text(SecretText),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a certificate and its key are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// In PEM files, or in the configuration itself.
    Pem {
        /// The certificate chain.
        cert: PemSource,
        /// The private key; `None` if it is in the same place.
        key: Option<PemSource>,
    },
    /// In the secret of that name.
    Secret(Name),
}

impl CertificateSource {
    pub(crate) fn reference(&self, at: &Path<'_>, found: &mut References) {
        if let Self::Secret(name) = self {
            found.add(Kind::Secret, name, at);
        }
    }
}

/// TLS termination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificates; the first is used if no server name matches.
    pub certificates: Vec<CertificateSource>,
    /// The ALPN protocols in order of preference; if empty, none is negotiated.
    pub alpn: Vec<Vec<u8>>,
    /// The client certificates to request, if any.
    pub client_auth: Option<ClientAuth>,
    /// The oldest version accepted.
    pub min_version: TlsVersion,
    /// The sessions to remember for early data.
    pub early: Option<EarlySessions>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// What a client that sends plain HTTP gets.
    pub plain_http: PlainHttp,
}

/// TLS to endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// The servers that are trusted.
    pub verify: Verify,
    /// The name sent and verified; if `None`, the endpoint's own name or address.
    pub sni: Option<ServerName<'static>>,
    /// Whether the name is sent.
    pub send_sni: bool,
    /// Names of which the certificate must have one, in place of the name that is sent.
    pub names: Vec<CertName>,
    /// The certificate presented when the server requests one.
    pub certificate: Option<CertificateSource>,
    /// The ALPN protocols offered.
    pub alpn: Vec<Vec<u8>>,
    /// The oldest version accepted.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is spoken too, on connections that offer nothing else.
    pub http2: bool,
    /// Whether HTTP/3 is spoken too, over QUIC.
    pub http3: bool,
    /// Whether data may be sent over QUIC before the handshake is complete (0-RTT).
    pub early_data: bool,
}
