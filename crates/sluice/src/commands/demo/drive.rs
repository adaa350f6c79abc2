//! Tests every path of the demo once, as a client would use it.

use std::fs;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sluice_codec::h1::Role;
use sluice_codec::h3::H3Client;
use sluice_codec::quic::QuicClients;
use sluice_codec::{Frame, Head};
use sluice_core::clock::ClockOrigin;
use sluice_io::WorkerCx;
use sluice_upstream::plan::ClusterSettings;

use super::http2::{BlockingHttp2, Called};

/// How long a test may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn echo(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    let mut stream = connect(address)?;
    stream.write_all(b"hello")?;
    stream.shutdown(Shutdown::Write)?;
    let got = read_to_end(&mut stream)?;
    ensure!(got == b"hello", "sent `hello` and got {} bytes back", got.len());
    Ok(())
}

pub(crate) fn redis(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    let mut stream = connect(address)?;
    let talk = [
        ("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
        ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n", "+OK\r\n"),
        ("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "$1\r\nv\r\n"),
    ];
    for (say, expect) in talk {
        stream.write_all(say.as_bytes())?;
        let mut got = vec![0; expect.len()];
        stream.read_exact(&mut got).context("the service did not reply")?;
        ensure!(
            got == expect.as_bytes(),
            "the reply to {say:?} is {:?}",
            String::from_utf8_lossy(&got)
        );
    }
    Ok(())
}

pub(crate) fn passthrough(address: SocketAddr, folder: &Path) -> anyhow::Result<()> {
    https(address, folder, "passthrough.demo.test", "served by the TLS service itself")
}

pub(crate) fn terminated(address: SocketAddr, folder: &Path) -> anyhow::Result<()> {
    https(address, folder, "secure.demo.test", "served in clear by the web service")
}

pub(crate) fn http(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    get(&mut connect(address)?, "served in clear by the web service")
}

pub(crate) fn site(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    let got = page(address, "/")?;
    ensure!(got.contains("served by the site"), "expected the site, got `{got}`");
    ensure!(got.contains("x-request-id: "), "the response has no x-request-id: `{got}`");
    Ok(())
}

pub(crate) fn retried(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    for _ in 0..2 {
        let got = page(address, "/flaky")?;
        ensure!(got.contains("served by the site"), "expected a retry, got `{got}`");
    }
    Ok(())
}

pub(crate) fn limited(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    for status in ["200", "200", "429"] {
        let got = page(address, "/limited")?;
        ensure!(got.split(' ').nth(1) == Some(status), "expected {status}, got `{got}`");
    }
    Ok(())
}

pub(crate) fn http2(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    let got = call(address, "GET", "/", b"")?;
    ensure!(got.status == 200 && got.body == b"served by the site\n", "got {got:?}");
    Ok(())
}

pub(crate) fn http3(address: SocketAddr, folder: &Path) -> anyhow::Result<()> {
    let mut tls = trusting(folder)?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let name = rustls::pki_types::ServerName::try_from("secure.demo.test")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let asking = async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        let (clients, settings) = (QuicClients::default(), ClusterSettings::bare());
        let connected = clients.connect(address, Arc::new(tls), &name, &settings).await;
        let connection = connected.map_err(anyhow::Error::msg)?;
        let client =
            H3Client::handshake(connection, &worker, settings.http3.stream_window, ()).await?;
        let head = Head::request("GET", "https", "secure.demo.test", "/");
        let mut stream = client.open(&head, true).await?;
        let (mut answer, mut body) = (Head::default(), Vec::new());
        poll_fn(|cx| {
            stream.push(cx)?;
            stream.poll_recv_head(cx, &worker, &mut answer)
        })
        .await?;
        while let Frame::Data { body: piece, .. } =
            poll_fn(|cx| stream.poll_recv(cx, &worker)).await?
        {
            body.extend_from_slice(&piece);
        }
        ensure!(
            answer.status() == 200 && body == b"served by the site\n",
            "got {answer:?} and {} bytes",
            body.len()
        );
        Ok(())
    };
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, asking).await.context("no response in time")?
    })
}

pub(crate) fn grpc(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    let message = b"\0\0\0\0\x05hello";
    let got = call(address, "POST", "/demo.Echo/Call", message)?;
    ensure!(got.grpc_status.as_deref() == Some("0") && got.body == message, "got {got:?}");
    Ok(())
}

pub(crate) fn websocket(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    let mut stream = connect(address)?;
    stream.write_all(
        b"GET /ws HTTP/1.1\r\nhost: demo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )?;
    // A text frame and a close frame, masked with zeros (RFC 6455 section 5.2); the same come back unmasked.
    stream.write_all(b"\x81\x85\0\0\0\0hello\x88\x80\0\0\0\0")?;
    let got = read_to_end(&mut stream)?;
    ensure!(got.starts_with(b"HTTP/1.1 101"), "got `{}`", String::from_utf8_lossy(&got));
    ensure!(got.ends_with(b"\x81\x05hello\x88\0"), "the echo is {:?}", got.trim_ascii_start());
    Ok(())
}

pub(crate) fn udp(address: SocketAddr, _: &Path) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    for say in [&b"hello"[..], &[7; 60_000]] {
        socket.send(say)?;
        let mut got = vec![0; 65_535];
        let count = socket.recv(&mut got).context("no datagram came back")?;
        ensure!(&got[..count] == say, "sent {} bytes and got {count} back", say.len());
    }
    Ok(())
}

fn https(address: SocketAddr, folder: &Path, name: &str, expect: &str) -> anyhow::Result<()> {
    let config = trusting(folder)?;
    let name = rustls::pki_types::ServerName::try_from(name.to_owned())?;
    let session = rustls::ClientConnection::new(Arc::new(config), name)?;
    get(&mut rustls::StreamOwned::new(session, connect(address)?), expect)
}

/// A TLS client that trusts the demo's own certificate.
fn trusting(folder: &Path) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = fs::read(folder.join("demo.pem"))?;
    roots.add(CertificateDer::from_pem_slice(&pem)?)?;
    Ok(rustls::ClientConfig::builder_with_provider(sluice_tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream =
        TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn get(stream: &mut (impl Read + Write), expect: &str) -> anyhow::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n")?;
    let got = read_to_end(stream)?;
    let got = String::from_utf8_lossy(&got);
    ensure!(got.contains(expect), "expected `{expect}`, got `{got}`");
    Ok(())
}

/// The HTTP/1 response for `path`, headers included.
fn page(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n")?;
    Ok(String::from_utf8_lossy(&read_to_end(&mut stream)?).into_owned())
}

fn call(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Called> {
    let head = Head::request(method, "http", &address.to_string(), path);
    BlockingHttp2::new(Role::Client, connect(address)?).call(head, body)
}

fn read_to_end(stream: &mut impl Read) -> anyhow::Result<Vec<u8>> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).context("the connection broke")?;
    Ok(got)
}
