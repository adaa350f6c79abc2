//! A QUIC server on quinn, whose streams a test reads and writes itself.
//!
//! Owns: its socket, its thread, handshakes with ALPN `h3`. Refuses to know: HTTP. Keeps: everything of it ends when it
//! is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, ServerConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::LocalSet;

/// A server on a port of loopback.
#[derive(Debug)]
pub struct QuicServer {
    endpoint: Endpoint,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl QuicServer {
    /// Starts a server with the certificate in `FILE.pem` and `FILE.key` of `folder`; each connection is given to
    /// `serve`.
    pub fn start(
        folder: &Path,
        file: &str,
        serve: impl AsyncFn(Connection) + Clone + Send + 'static,
    ) -> Self {
        Self::start_on(0, folder, file, serve)
    }

    /// The same on this UDP port.
    pub fn start_on(
        port: u16,
        folder: &Path,
        file: &str,
        serve: impl AsyncFn(Connection) + Clone + Send + 'static,
    ) -> Self {
        let of = |suffix: &str| folder.join(format!("{file}.{suffix}"));
        let cert = CertificateDer::from_pem_file(of("pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(of("key")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .expect("they fit");
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("a suite for QUIC");
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let (give, take) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
            LocalSet::new().block_on(&runtime, async move {
                let at = (Ipv4Addr::LOCALHOST, port).into();
                let endpoint = Endpoint::server(config, at).expect("a socket");
                give.send(endpoint.clone()).expect("it is awaited");
                while let Some(incoming) = endpoint.accept().await {
                    let serve = serve.clone();
                    tokio::task::spawn_local(async move {
                        if let Ok(connection) = incoming.await {
                            serve(connection).await;
                        }
                    });
                }
            });
        });
        let endpoint: Endpoint = take.recv().expect("it started");
        let address = endpoint.local_addr().expect("it is bound");
        Self { endpoint, address, thread: Some(thread) }
    }

    /// Its address.
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for QuicServer {
    fn drop(&mut self) {
        self.endpoint.close(0_u8.into(), b"");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
