//! An HTTP/3 client on quinn and the crate h3: many connections and requests at once, and requests in the first packets
//! of a connection (0-RTT).
//!
//! Owns: one socket, its connections, sessions to resume. Refuses to know: what is requested. Keeps: every failure is
//! an error that describes itself; everything runs on the runtime of the caller.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, TransportConfig};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::tls::pair;

/// A description of what went wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs `work` with a client that trusts the authority in `ca`, on its own runtime, then closes the connections. With
/// `pings`, idle connections send a keep-alive at that interval.
///
/// # Errors
/// The file does not load, no socket or runtime can be created, or `work` fails.
pub fn run<T>(
    ca: &Path,
    pings: Option<Duration>,
    work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    run_as(ca, None, pings, work)
}

/// As [`run`], as a client with this certificate, a file name without `.pem` or `.key`.
///
/// # Errors
/// As those of [`run`].
pub fn run_as<T>(
    ca: &Path,
    certificate: Option<&Path>,
    pings: Option<Duration>,
    work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(ca, certificate, pings)?;
        let done = work(&client).await;
        client.endpoint.close(NO_ERROR.into(), b"");
        client.endpoint.wait_idle().await;
        done
    })
}

/// `H3_NO_ERROR`, RFC 9114 §8.1.
const NO_ERROR: u32 = 0x100;

/// A socket for outgoing connections; see [`run`].
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    config: ClientConfig,
}

impl Client {
    fn new(
        ca: &Path,
        certificate: Option<&Path>,
        pings: Option<Duration>,
    ) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut tls = match certificate {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let (chain, key) = pair(file);
                builder.with_client_auth_cert(chain, key)?
            }
        };
        tls.alpn_protocols = vec![b"h3".to_vec()];
        tls.enable_early_data = true;
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(pings);
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport));
        Ok(Self { endpoint: Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?, config })
    }

    /// Connects and completes the handshake with the server name `name`.
    ///
    /// # Errors
    /// An error of QUIC, TLS or the server.
    pub async fn connect(&self, to: SocketAddr, name: &str) -> Result<Connection, Failure> {
        let quic = self.endpoint.connect_with(self.config.clone(), to, name)?.await?;
        Connection::handshake(quic, name).await
    }

    /// Opens two connections concurrently from the same socket.
    ///
    /// # Errors
    /// An error of QUIC, TLS or the server.
    pub async fn connect_both(
        &self,
        to: SocketAddr,
        names: [&str; 2],
    ) -> Result<(Connection, Connection), Failure> {
        tokio::try_join!(self.connect(to, names[0]), self.connect(to, names[1]))
    }

    /// Connects without waiting for the handshake, if an earlier connection under `name` left a session for 0-RTT.
    ///
    /// # Errors
    /// An error of QUIC.
    pub async fn connect_early(
        &self,
        to: SocketAddr,
        name: &str,
    ) -> Result<Option<Connection>, Failure> {
        match self.endpoint.connect_with(self.config.clone(), to, name)?.into_0rtt() {
            Ok((quic, _)) => Connection::handshake(quic, name).await.map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// An HTTP/3 connection.
pub struct Connection {
    /// The name of the server.
    name: String,
    quic: quinn::Connection,
    requests: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.quic.fmt(f)
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The length of the body in bytes.
    pub length: usize,
}

impl Connection {
    async fn handshake(quic: quinn::Connection, name: &str) -> Result<Self, Failure> {
        let (mut driver, requests) =
            h3::client::new(h3_quinn::Connection::new(quic.clone())).await?;
        #[allow(clippy::disallowed_methods, reason = "a client has no worker")]
        tokio::spawn(async move {
            // How it ends shows in the requests.
            drop(driver.wait_idle().await);
        });
        Ok(Self { name: name.to_owned(), quic, requests })
    }

    /// Sends a request for a path and reads its response.
    ///
    /// # Errors
    /// The reason why the stream or the connection ended.
    pub async fn ask(&self, method: &str, path: &str) -> Result<Answer, Failure> {
        self.ask_with(method, path, &[]).await
    }

    /// Like `ask`, with these additional headers.
    ///
    /// # Errors
    /// The reason why the stream or the connection ended.
    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        let to = format!("https://{}{path}", self.name);
        let request = http::Request::builder().method(method).uri(to);
        let request =
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let mut stream = self.requests.clone().send_request(request.body(())?).await?;
        stream.finish().await?;
        let status = stream.recv_response().await?.status().as_u16();
        let mut length = 0;
        while let Some(piece) = stream.recv_data().await? {
            length += piece.remaining();
        }
        Ok(Answer { status, length })
    }

    /// The same connection, with another host in its requests from now on.
    #[must_use]
    pub fn asking_for(mut self, host: &str) -> Self {
        self.name = host.to_owned();
        self
    }

    /// Requests a path repeatedly, `at_once` requests in parallel, until `go_on` returns false for a response.
    ///
    /// # Errors
    /// The reason why a stream or the connection ended.
    pub async fn ask_always(
        &self,
        at_once: usize,
        path: &str,
        go_on: impl Fn(Answer) -> bool,
    ) -> Result<(), Failure> {
        let mut asked: Vec<_> = (0..at_once)
            .map(|_| {
                Box::pin(async {
                    while go_on(self.ask("GET", path).await?) {}
                    Ok(())
                })
            })
            .collect();
        poll_fn(|cx| {
            let mut at = 0;
            while let Some(ask) = asked.get_mut(at) {
                match ask.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => drop(asked.swap_remove(at)),
                    Poll::Ready(error) => return Poll::Ready(error),
                    Poll::Pending => at += 1,
                }
            }
            if asked.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Waits until the connection has ended; returns the reason.
    pub async fn closed(&self) -> String {
        self.quic.closed().await.to_string()
    }
}

/// Open connections that only send keep-alives, until it is dropped.
#[derive(Debug)]
pub struct Held {
    /// Dropping it closes them.
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// Opens `count` connections under `name`, requests `/` on each, and holds them.
///
/// # Errors
/// A connection could not be made, or its response was not 200.
pub fn hold(ca: &Path, to: SocketAddr, name: &str, count: usize) -> Result<Held, Failure> {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let (ca, name) = (ca.to_owned(), name.to_owned());
    std::thread::spawn(move || {
        let done = run(&ca, Some(PINGS), async |client| {
            let mut held = Vec::new();
            for _ in 0..count {
                let connection = client.connect(to, &name).await?;
                let status = connection.ask("GET", "/").await?.status;
                if status != 200 {
                    return Err(format!("answered with {status}").into());
                }
                held.push(connection);
            }
            // The caller may be gone.
            let _ = tell.send(Ok(()));
            let _ = stopped.await;
            Ok(())
        });
        if let Err(failure) = done {
            let _ = tell.send(Err(failure));
        }
    });
    told.recv()??;
    Ok(Held { _stop: stop })
}

/// The keep-alive interval of a held connection.
const PINGS: Duration = Duration::from_secs(10);

/// How long a handshake may take where perhaps nobody answers; its packets are sent again meanwhile.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Whether a server at this address speaks HTTP/3.
pub fn answers(ca: &Path, to: SocketAddr, name: &str) -> bool {
    let asked = run(ca, None, async |client| {
        tokio::time::timeout(ATTEMPT, client.connect(to, name)).await?
    });
    asked.is_ok()
}
