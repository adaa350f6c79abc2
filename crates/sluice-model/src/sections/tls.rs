//! TLS with clients and with endpoints.
//!
//! Owns: certificates, who must show one, the least version. Refuses to know: the content of files. Keeps: endpoints are
//! verified unless the configuration says otherwise.

use std::time::Duration;

use sluice_core::settings::{Short, ShortForm};
use sluice_core::{Spanned, choice, section};

pub use super::pem::{NameOfCert, Pem};

choice! {
    /// A TLS version.
    pub enum TlsVersion {
        /// TLS 1.2.
        V1_2 = "1.2",
        /// TLS 1.3.
        V1_3 = "1.3",
    }
}

section! {
    /// A certificate and its private key, as PEM: in files, or `{ inline: TEXT }`. Paths are relative to the
    /// configuration file. The files are reloaded when they change. The short form is `cert`.
    pub struct Certificate {
        /// The certificate chain, leaf certificate first.
        pub cert: Spanned<Pem>,
        /// The private key; if omitted, the file of the same name with the ending `.key`, or else `cert` itself.
        pub key: Option<Spanned<Pem>>,
    }
}

choice! {
    /// Whether a client must present a certificate.
    pub enum ClientAuthMode {
        /// A client without a certificate is refused.
        Required = "required",
        /// A client may omit it; a certificate that does not verify is refused all the same.
        Optional = "optional",
    }
}

section! {
    /// Client certificates (mutual TLS, mTLS). A session is resumed only where the same authorities, revocation list,
    /// names and mode apply.
    pub struct ClientAuth {
        /// Certificate authorities that must have signed the client certificates.
        pub ca: Spanned<Pem>,
        /// Certificate revocation list (CRL).
        pub crl: Option<Spanned<Pem>>,
        /// Names of which a certificate must have one; if omitted, any certificate of the authorities will do.
        pub names: Vec<Spanned<NameOfCert>>,
        /// Whether a client must present a certificate.
        pub mode: ClientAuthMode = "required",
    }
}

section! {
    /// TLS termination. The short form is its certificates: one or a list.
    pub struct Tls {
        /// Certificates, selected by server name (SNI); the first is used if no name matches.
        pub certificates: Vec<Short<Certificate>>,
        /// Verification of client certificates (mutual TLS).
        pub client_auth: Option<ClientAuth>,
        /// ALPN protocols in order of preference. If omitted, a chain that serves HTTP negotiates the versions it
        /// serves, and other chains negotiate none.
        pub alpn: Vec<String>,
        /// The oldest TLS version accepted.
        pub min_version: TlsVersion = "1.2",
        /// How long the TLS handshake may take.
        pub handshake_timeout: Duration = "10s",
        /// Number of sessions that the chain remembers so that returning clients may send requests before the handshake
        /// is complete (0-RTT, early data): so many over TCP (TLS 1.3), and so many over QUIC; at most 65536, 0 turns it
        /// off. Only for chains with `http` that do not ask for client certificates. Sessions are used once; over TCP,
        /// early data is at most 64 KiB.
        pub early_data_sessions: Spanned<u32> = "0",
        /// How to respond to a client that sends a plain HTTP request to this TLS port.
        pub plain_http: PlainHttp = "close",
    }
}

choice! {
    /// How to respond to a client that sends a plain HTTP request to a TLS port.
    pub enum PlainHttp {
        /// Close the connection without a response.
        Close = "close",
        /// Respond with status 400 and a text that explains the error.
        Answer = "answer",
        /// Redirect (308) to the same address with `https`; 400 if the request has no usable host.
        Redirect = "redirect",
    }
}

choice! {
    /// Whether the certificate of a server is verified.
    pub enum Verification {
        /// The certificate must be valid and match the name.
        Full = "full",
        /// Any certificate is accepted. The connection is open to man-in-the-middle attacks.
        Unverified = "none",
    }
}

section! {
    /// TLS to endpoints.
    pub struct UpstreamTls {
        /// The server name sent (SNI) and verified; if omitted, the endpoint's own name or address.
        pub sni: Option<Spanned<String>>,
        /// Trusted certificate authorities; if omitted, those of the system.
        pub ca: Option<Spanned<Pem>>,
        /// Names of which the certificate must have one, in place of the name that is sent: for servers with an
        /// identity of their own, such as a SPIFFE ID.
        pub names: Vec<Spanned<NameOfCert>>,
        /// Whether the server certificate is verified.
        pub verify: Verification = "full",
        /// Whether the server name is sent (SNI). Without it, the name is only verified.
        pub send_sni: bool = "true",
        /// The client certificate presented when the server requests one (mutual TLS).
        pub certificate: Option<Short<Certificate>>,
        /// ALPN protocols offered; if omitted, those of `protocol` if the cluster is used for HTTP.
        pub alpn: Vec<String>,
        /// The oldest TLS version accepted.
        pub min_version: TlsVersion = "1.2",
        /// Whether an HTTP request that needs a new connection is sent before the handshake is complete (0-RTT, early
        /// data), over TLS 1.3 and over QUIC, if the endpoint has granted that before. Only requests with a safe method and
        /// without a body are: an attacker can send them again. Not with `protocol: auto`.
        pub early_data: Spanned<bool> = "false",
    }
}

impl ShortForm for Tls {
    const KEY: &'static str = "certificates";
    const KEYS_OF_SHORT: &'static [&'static str] = Certificate::KEYS;
    const NOT_A_SWITCH: Option<&'static str> = Some(
        "to terminate TLS, name a certificate: `tls: site.pem`; to pass TLS through, leave the field out",
    );
}

impl ShortForm for Certificate {
    const KEY: &'static str = "cert";
}
