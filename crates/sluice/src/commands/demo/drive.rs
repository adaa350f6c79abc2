//! Driving every path of the demo once, as a client would.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// How long a path may take.
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
        stream.read_exact(&mut got).context("the service did not answer")?;
        ensure!(
            got == expect.as_bytes(),
            "{say:?} was answered with {:?}",
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
    let mut roots = rustls::RootCertStore::empty();
    let pem = fs::read(folder.join("ca.pem"))?;
    roots.add(CertificateDer::from_pem_slice(&pem)?)?;
    let config = rustls::ClientConfig::builder_with_provider(sluice_tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned())?;
    let session = rustls::ClientConnection::new(Arc::new(config), name)?;
    get(&mut rustls::StreamOwned::new(session, connect(address)?), expect)
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

fn read_to_end(stream: &mut impl Read) -> anyhow::Result<Vec<u8>> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).context("the connection broke")?;
    Ok(got)
}
