//! Certificates, keys, and the rustls configurations built from them.
//!
//! Owns: loading and checking of certificate files, the store that survives reloads, server and client configurations,
//! the selection of a certificate by name, session tickets, words for errors.
//! Refuses to know: sockets, and when handshakes take place.
//! Keeps: a certificate that does not load, or does not match its key, never replaces one that works.
#![forbid(unsafe_code)]

pub mod authorities;
pub mod client;
mod files;
pub mod material;
pub mod names;
mod pem;
pub mod quic;
pub mod reasons;
pub mod server;
pub mod store;
mod words;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use authorities::Authorities;
pub use client::{ClientPlan, ClientTls, Verify};
pub use files::LoadError;
pub use material::{CertificateInfo, client_facts};
pub use names::CertName;
pub use pem::PemSource;
pub use quic::InitialKeys;
pub use server::{ClientAuth, EarlySessions, ServerPlan, ServerTls, TlsVersion};
pub use store::{CertStore, StoredCert};
pub use words::in_words;

/// The cryptography provider for everything here: AWS-LC, with post-quantum key exchange preferred.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}
