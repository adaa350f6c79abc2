//! The built-in services of the demo: small, mostly blocking, with a thread per connection.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;
use rustls::pki_types::PrivateKeyDer;
use sluice_codec::h1::Role;

use super::http2::BlockingHttp2;
use crate::commands::cert::SelfSigned;

/// Validity of the demo's certificate in days: Sluice warns if one expires soon.
const DAYS: u32 = 30;

/// The addresses of the services.
#[derive(Debug)]
pub(crate) struct Services {
    /// Echoes what it receives.
    pub(crate) echo: SocketAddr,
    /// Speaks a subset of Redis: PING, GET and SET.
    pub(crate) redis: SocketAddr,
    /// Plain text over HTTP/1 over TLS.
    pub(crate) tls: SocketAddr,
    /// Plain text over HTTP/1.
    pub(crate) web: SocketAddr,
    /// Pages, one that fails every other time, and a WebSocket echo, over HTTP/1.
    pub(crate) site: SocketAddr,
    /// A gRPC echo service, over HTTP/2.
    pub(crate) grpc: SocketAddr,
    /// Echoes datagrams.
    pub(crate) udp: SocketAddr,
}

impl Services {
    /// Starts all but `without`, whose address then refuses connections; writes the certificates.
    pub(crate) fn start(folder: &Path, without: Option<&str>) -> anyhow::Result<Self> {
        let tls = Arc::new(certificates(folder)?);
        let store: Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>> = Arc::default();
        let starts = |name: &str| without != Some(name);
        Ok(Self {
            echo: serve(starts("echo"), |stream| echo(&stream))?,
            redis: serve(starts("redis"), move |stream| redis(&stream, &store))?,
            web: serve(starts("web"), |mut stream| {
                web(&mut stream, "served in clear by the web service\n")
            })?,
            tls: serve(starts("tls"), move |stream| {
                let session =
                    rustls::ServerConnection::new(Arc::clone(&tls)).map_err(io::Error::other)?;
                let mut stream = rustls::StreamOwned::new(session, stream);
                web(&mut stream, "served by the TLS service itself\n")?;
                stream.conn.send_close_notify();
                stream.flush()
            })?,
            site: {
                let fails = AtomicBool::new(false);
                serve(starts("site"), move |stream| site(stream, &fails))?
            },
            grpc: serve(starts("grpc"), |stream| {
                BlockingHttp2::new(Role::Server, stream).echo_calls()
            })?,
            udp: udp(starts("udp"))?,
        })
    }
}

/// Creates a certificate for both names of the demo; returns the server's TLS configuration.
fn certificates(folder: &Path) -> anyhow::Result<rustls::ServerConfig> {
    let names = ["passthrough.demo.test", "secure.demo.test"].map(str::to_owned);
    let made = SelfSigned::new(&names, DAYS)?;
    made.write(&folder.join("demo.pem"), &folder.join("demo.key"), false)?;
    let SelfSigned { cert, key } = made;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    rustls::ServerConfig::builder_with_provider(sluice_tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], der)
        .context("the demo's certificate")
}

fn serve(
    start: bool,
    each: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let each = Arc::new(each);
    if start {
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let each = Arc::clone(&each);
                // An error ends that connection, and the client notices.
                thread::spawn(move || drop(each(stream)));
            }
        });
    }
    Ok(address)
}

fn udp(start: bool) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    if start {
        thread::spawn(move || {
            let mut datagram = vec![0; 65_535];
            while let Ok((count, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&datagram[..count], from);
            }
        });
    }
    Ok(address)
}

fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16_384];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

fn web(stream: &mut (impl Read + Write), text: &str) -> io::Result<()> {
    match request_head(stream)? {
        Some(_) => page(stream, "200 OK", text),
        None => Ok(()),
    }
}

/// Reads the request headers up to the empty line, at most 4096 bytes.
fn request_head(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn page(stream: &mut impl Write, status: &str, text: &str) -> io::Result<()> {
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    )?;
    stream.flush()
}

fn site(mut stream: TcpStream, fails: &AtomicBool) -> io::Result<()> {
    let Some(head) = request_head(&mut stream)? else { return Ok(()) };
    let path = head.split(' ').nth(1).unwrap_or_default();
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
    match (path, key) {
        ("/flaky", _) if !fails.fetch_not(Ordering::Relaxed) => {
            page(&mut stream, "503 Busy", "busy\n")
        }
        ("/ws", Some(key)) => {
            let accept = sluice_l7::exchange::websocket::accept_for(key.as_bytes());
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            )?;
            echo_frames(&stream)
        }
        _ => page(&mut stream, "200 OK", "served by the site\n"),
    }
}

/// Echoes messages of up to 125 bytes (RFC 6455 §5.2); a close is echoed and ends the connection.
fn echo_frames(mut stream: &TcpStream) -> io::Result<()> {
    const CLOSE: u8 = 0x88;
    loop {
        let mut head = [0; 6];
        stream.read_exact(&mut head)?;
        let [kind, length, mask @ ..] = head;
        let mut data = vec![0; usize::from(length & 0x7f)];
        if data.len() > 125 {
            return Ok(());
        }
        stream.read_exact(&mut data)?;
        data.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        stream.write_all(&[&[kind, length & 0x7f], &data[..]].concat())?;
        if kind == CLOSE {
            return Ok(());
        }
    }
}

type RedisKeys = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

fn redis(stream: &TcpStream, store: &RedisKeys) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(words) = command(&mut reader)? {
        let answer = answer(&words, store);
        (&*stream).write_all(&answer)?;
    }
    Ok(())
}

fn answer(words: &[Vec<u8>], store: &RedisKeys) -> Vec<u8> {
    let bulk = |value: &[u8]| [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match (name.as_slice(), &words[1..]) {
        (b"PING", []) => b"+PONG\r\n".to_vec(),
        (b"GET", [key]) => store.get(key).map_or_else(|| b"$-1\r\n".to_vec(), |value| bulk(value)),
        (b"SET", [key, value]) => {
            // Bounds the memory of the demo.
            if store.len() < 1000 {
                store.insert(key.clone(), value.clone());
            }
            b"+OK\r\n".to_vec()
        }
        _ => b"-ERR this service knows PING, GET and SET\r\n".to_vec(),
    }
}

/// Reads one command: an array of bulk strings, or words on a line. `None` at the end of the stream.
fn command(reader: &mut impl BufRead) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some(line) = line(reader)? else { return Ok(None) };
    let Some(count) = line.strip_prefix(b"*") else {
        let words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        return Ok(Some(words.map(<[u8]>::to_vec).collect()));
    };
    let mut words = Vec::new();
    for _ in 0..number(count)?.min(16) {
        let length = self::line(reader)?.unwrap_or_default();
        let length = number(length.strip_prefix(b"$").unwrap_or_default())?.min(65_536);
        let mut word = vec![0; length + 2];
        reader.read_exact(&mut word)?;
        word.truncate(length);
        words.push(word);
    }
    Ok(Some(words))
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if reader.take(65_536).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        line.pop();
    }
    Ok(Some(line))
}

fn number(digits: &[u8]) -> io::Result<usize> {
    let text = std::str::from_utf8(digits).unwrap_or_default();
    text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}
