//! TLS peers in the process of the test.
//!
//! Owns: a client and a server over a blocking socket. Refuses to know: the data inside. Keeps: a server accepts what
//! `rustls` accepts; a test that needs a broken handshake writes its bytes.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{StreamOwned, SupportedProtocolVersion};

use crate::peers::{Server, connect};

/// A client's stream.
pub type ClientStream = StreamOwned<ClientConnection, TcpStream>;
/// A server's stream.
pub type ServerStream = StreamOwned<ServerConnection, TcpStream>;

/// What a client offers.
#[derive(Debug)]
pub struct Offer<'a> {
    /// The server name it requests.
    pub name: &'a str,
    /// The authority that it trusts.
    pub ca: &'a Path,
    /// ALPN protocols, most preferred first.
    pub alpn: &'a [&'a str],
    /// The files of the client certificate: `FILE.pem` and `FILE.key`, without the extension.
    pub certificate: Option<&'a Path>,
    /// TLS versions.
    pub versions: &'a [&'static SupportedProtocolVersion],
}

impl<'a> Offer<'a> {
    /// An offer of both TLS versions and nothing else.
    pub const fn of(name: &'a str, ca: &'a Path) -> Self {
        Self { name, ca, alpn: &[], certificate: None, versions: rustls::ALL_VERSIONS }
    }

    /// Connects; the handshake takes place with the first byte that is read or written.
    #[track_caller]
    pub fn connect(&self, to: SocketAddr) -> ClientStream {
        self.over(connect(to))
    }

    /// Like `connect`, over an existing stream.
    #[track_caller]
    pub fn over(&self, stream: TcpStream) -> ClientStream {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(self.ca)).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions that are known")
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let (chain, key) = pair(file);
                builder.with_client_auth_cert(chain, key).expect("a certificate")
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(self.name.to_owned()).expect("a server name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session");
        StreamOwned::new(session, stream)
    }
}

/// A client that returns: it keeps its sessions, and its connections can begin with early data (0-RTT).
#[derive(Debug)]
pub struct ReturningClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ReturningClient {
    /// A client of the server `name`, whose authority is in `ca`.
    #[track_caller]
    pub fn new(name: &str, ca: &Path, alpn: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(ca)).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config.enable_early_data = true;
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        Self { config: Arc::new(config), name }
    }

    /// Connects, without early data.
    #[track_caller]
    pub fn connect(&self, to: SocketAddr) -> ClientStream {
        StreamOwned::new(self.session(), connect(to))
    }

    /// Connects and sends `early` before anything is read; `None` if no session allows it.
    #[track_caller]
    pub fn connect_early(&self, to: SocketAddr, early: &[u8]) -> Option<EarlyConnection> {
        let mut session = self.session();
        session.early_data()?.write_all(early).expect("the server takes so much");
        let mut first = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut first).expect("a vector takes it");
        }
        let mut socket = connect(to);
        socket.write_all(&first).expect("it is sent");
        Some(EarlyConnection { session, socket, first })
    }

    fn session(&self) -> ClientConnection {
        let session = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        session.expect("a session")
    }
}

/// A connection that began with early data. Reading from it sends nothing, so that the handshake is not complete for the
/// server until [`EarlyConnection::finish`].
#[derive(Debug)]
pub struct EarlyConnection {
    session: ClientConnection,
    socket: TcpStream,
    first: Vec<u8>,
}

impl EarlyConnection {
    /// Everything that was sent first: the hello and the early data, as an attacker could record it.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// Whether the server has accepted the early data, as far as was read.
    pub fn is_accepted(&self) -> bool {
        self.session.is_early_data_accepted()
    }

    /// Goes on with the handshake, with the next byte that is read or written.
    pub fn finish(self) -> ClientStream {
        StreamOwned::new(self.session, self.socket)
    }
}

impl io::Read for EarlyConnection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.session.read_tls(&mut self.socket)?;
            self.session.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

pub(crate) fn pair(file: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = PrivateKeyDer::from_pem_file(file.with_extension("key")).expect("a key");
    (vec![certificate(&file.with_extension("pem"))], key)
}

/// Serves with the certificate in `FILE.pem` and `FILE.key`; `serve` gets the stream after the handshake.
pub fn server(
    file: &Path,
    alpn: &[&str],
    serve: impl Fn(ServerStream) -> io::Result<()> + Send + Sync + 'static,
) -> Server {
    let (chain, key) = pair(file);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let config = Arc::new(config);
    Server::start(move |mut stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        while session.is_handshaking() {
            if let Err(error) = session.complete_io(&mut stream) {
                // The alert is sent, and no reset overtakes it.
                let _ = session.write_tls(&mut stream);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
                return Err(error);
            }
        }
        serve(StreamOwned::new(session, stream))
    })
}

/// Reads once, at most 4096 bytes, and replies with `bytes`; then reads to the end.
pub fn answer_with(mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut first = [0; 4096];
    let _ = stream.read(&mut first)?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}
