//! TLS to endpoints.
//!
//! Owns: the client configuration of a cluster. Refuses to know: endpoints and when to connect.
//! Keeps: the server is verified unless the configuration explicitly sets `verify: none`.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::authorities::Authorities;
use crate::files::LoadError;
use crate::names::{CertName, NamedServers};
use crate::pem::PemSource;
use crate::server::{TlsVersion, versions};
use crate::store::StoredCert;

/// The servers that are trusted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verify {
    /// Servers with a certificate from an authority trusted by the system.
    System,
    /// Servers with a certificate from one of these authorities.
    Ca(PemSource),
    /// Any server. The connection is encrypted, but open to a man in the middle.
    Unverified,
}

/// The TLS client settings of a cluster.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// The servers that are trusted.
    pub verify: Verify,
    /// The name sent and verified; if `None`, the endpoint's own name or address.
    pub sni: Option<ServerName<'static>>,
    /// Whether the name is sent.
    pub send_sni: bool,
    /// Names of which the certificate must have one, in place of the name that is sent; if empty, that is verified.
    pub names: Vec<CertName>,
    /// The certificate presented when the server requests one.
    pub certificate: Option<Arc<StoredCert>>,
    /// The ALPN protocols offered.
    pub alpn: Vec<Vec<u8>>,
    /// The minimum version.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is spoken too, on connections that offer nothing else.
    pub http2: bool,
    /// Whether HTTP/3 is spoken too, over QUIC.
    pub http3: bool,
    /// Whether data may be sent before the handshake is complete (0-RTT).
    pub early_data: bool,
}

/// The TLS configuration of a cluster.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The rustls configuration.
    pub config: Arc<ClientConfig>,
    /// The same for QUIC, if both are used: it offers HTTP/3, and its sessions are its own, since a ticket of TCP is none
    /// for QUIC (RFC 9001 §4.5).
    quic: Option<Arc<ClientConfig>>,
    /// The same as `config` and `quic` with early data, for connections that begin with it. They have the same sessions as
    /// those without.
    early: Option<Arc<ClientConfig>>,
    early_quic: Option<Arc<ClientConfig>>,
    /// The same for connections that offer HTTP/2 only, if there are others.
    http2: Option<Arc<Self>>,
    /// The name sent and verified, unless the endpoint's own is used.
    pub sni: Option<ServerName<'static>>,
}

impl ClientTls {
    /// The rustls configuration of connections over QUIC.
    pub fn for_quic(&self) -> &Arc<ClientConfig> {
        self.quic.as_ref().unwrap_or(&self.config)
    }

    /// The rustls configuration of connections over QUIC that begin with early data, if connections may.
    pub fn for_early_quic(&self) -> &Arc<ClientConfig> {
        let early = if self.quic.is_some() { &self.early_quic } else { &self.early };
        early.as_ref().unwrap_or_else(|| self.for_quic())
    }

    /// The rustls configuration of connections over TCP that begin with early data, if connections may.
    pub const fn for_early(&self) -> Option<&Arc<ClientConfig>> {
        self.early.as_ref()
    }

    /// The configuration of connections for HTTP/2.
    pub fn for_http2(&self) -> &Self {
        self.http2.as_deref().unwrap_or(self)
    }

    /// Builds the configuration.
    ///
    /// # Errors
    /// The authorities cannot be loaded.
    pub fn build(plan: ClientPlan, authorities: &mut Authorities) -> Result<Self, LoadError> {
        let builder = ClientConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(versions(plan.min_version))
            .expect("the provider has suites for both versions");
        let builder = match &plan.verify {
            Verify::Unverified => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(VerifyNothing))
            }
            trusted => {
                let roots = match trusted {
                    Verify::Ca(source) => authorities.of(source)?,
                    _ => authorities.of_system()?,
                };
                if plan.names.is_empty() {
                    builder.with_root_certificates(roots)
                } else {
                    let verifier = NamedServers { roots, names: plan.names };
                    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
                }
            }
        };
        let mut config = match plan.certificate {
            None => builder.with_no_client_auth(),
            Some(stored) => builder.with_client_cert_resolver(Arc::new(OwnCert(stored))),
        };
        config.enable_sni = plan.send_sni;
        let quic = plan.http3.then(|| {
            let mut quic = config.clone();
            quic.alpn_protocols = vec![b"h3".to_vec()];
            quic.resumption = Resumption::default();
            Arc::new(quic)
        });
        let with_early = |config: &Arc<ClientConfig>| {
            plan.early_data.then(|| {
                let mut early = ClientConfig::clone(config);
                early.enable_early_data = true;
                Arc::new(early)
            })
        };
        let http2 = plan.http2.then(|| {
            let mut http2 = config.clone();
            http2.alpn_protocols = vec![b"h2".to_vec()];
            // Early data belongs to the protocol of its session (RFC 8446 section 4.2.10).
            http2.resumption = Resumption::default();
            let http2 = Arc::new(http2);
            let (sni, early) = (plan.sni.clone(), with_early(&http2));
            Arc::new(Self { config: http2, quic: None, early, early_quic: None, http2: None, sni })
        });
        config.alpn_protocols = plan.alpn;
        let config = Arc::new(config);
        let early = with_early(&config);
        let early_quic = quic.as_ref().and_then(with_early);
        Ok(Self { config, quic, early, early_quic, http2, sni: plan.sni })
    }
}

/// The client certificate of a cluster; reloaded with its files.
#[derive(Debug)]
struct OwnCert(Arc<StoredCert>);

impl rustls::client::ResolvesClientCert for OwnCert {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0.material().key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts any certificate; signatures are still verified, so that the handshake is sound.
#[derive(Debug)]
struct VerifyNothing;

impl ServerCertVerifier for VerifyNothing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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
