//! The loads: services behind the proxies, and clients in front of them.
//!
//! Owns: the traffic. Refuses to know: which proxy is in between. Keeps: a client counts what it has received, not what
//! it has sent; services live as long as the process.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use sluice_testkit::http3;

use super::proxy::{Kit, NAME};

/// Starts a service and returns its port.
pub(super) type Service = fn() -> Result<u16>;

/// Works until it is stopped, and counts.
pub(super) type Client = fn(u16, &Kit, &AtomicBool, &AtomicU64) -> Result<()>;

/// The service for connections that are held.
pub(super) const SERVE_IDLE: Service = echo_and_hold;

const MESSAGE: usize = 64;

/// The messages of a simulated TLS handshake, by their lengths.
const HELLO_ANSWER: usize = 2000;
const FINISHED: usize = 80;
const REPLY: usize = 1200;

/// Asks [`SERVE_IDLE`] to drop the connections it holds.
const LET_GO: [u8; MESSAGE] = [1; MESSAGE];

// --- services ---

fn accept(each: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            thread::spawn(move || drop(each(stream)));
        }
    });
    Ok(port)
}

pub(super) fn echo() -> Result<u16> {
    accept(|mut stream| {
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE];
        loop {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
    })
}

pub(super) fn echo_once() -> Result<u16> {
    accept(|mut stream| {
        let mut message = [0; MESSAGE];
        stream.read_exact(&mut message)?;
        stream.write_all(&message)
    })
}

pub(super) fn source() -> Result<u16> {
    accept(|mut stream| {
        let block = vec![7; 256 << 10];
        loop {
            stream.write_all(&block)?;
        }
    })
}

/// Replies like a TLS server, by length only; the contents are ignored.
pub(super) fn pretend_tls() -> Result<u16> {
    accept(|mut stream| {
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        let hello = usize::from(u16::from_be_bytes([header[3], header[4]]));
        stream.read_exact(&mut vec![0; hello])?;
        stream.write_all(&[2; HELLO_ANSWER])?;
        stream.read_exact(&mut [0; FINISHED])?;
        stream.write_all(&[3; REPLY])
    })
}

pub(super) fn echo_datagrams() -> Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = socket.local_addr()?.port();
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        loop {
            // An error reports an earlier datagram that could not be delivered.
            if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&datagram[..length], from);
            }
        }
    });
    Ok(port)
}

/// Holds every connection until a client asks it to drop the earlier ones.
fn echo_and_hold() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut message = [0; MESSAGE];
            if stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {
                if message == LET_GO {
                    held.clear();
                }
                held.push(stream);
            }
        }
    });
    Ok(port)
}

/// Responds to every HTTP request with a page of `SIZE` bytes.
pub(super) fn pages<const SIZE: usize>() -> Result<u16> {
    accept(|stream| {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + SIZE, b'x');
        let mut body = Vec::new();
        loop {
            let length = read_head(&mut reader)?;
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
            reader.get_mut().write_all(&answer)?;
        }
    })
}

/// Reads HTTP/1 request headers; returns the length of the body that follows.
fn read_head(reader: &mut impl BufRead) -> Result<usize> {
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(Error::other)?;
        }
    }
    Ok(length)
}

// --- clients ---

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    // A proxy that is silent for this long has failed.
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn session(kit: &Kit) -> Result<ClientConnection> {
    let name = NAME.try_into().map_err(Error::other)?;
    ClientConnection::new(Arc::clone(&kit.tls), name).map_err(Error::other)
}

fn connect_tls(port: u16, kit: &Kit) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    Ok(StreamOwned::new(session(kit)?, connect(port)?))
}

/// Repeats `work` and adds up what it counts.
fn repeat(
    stop: &AtomicBool,
    events: &AtomicU64,
    mut work: impl FnMut() -> Result<u64>,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        events.fetch_add(work()?, Ordering::Relaxed);
    }
    Ok(())
}

pub(super) fn ping_pong(port: u16, _: &Kit, stop: &AtomicBool, events: &AtomicU64) -> Result<()> {
    let mut stream = connect(port)?;
    let mut message = [0; MESSAGE];
    repeat(stop, events, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message).map(|()| 1)
    })
}

pub(super) fn connect_once(
    port: u16,
    _: &Kit,
    stop: &AtomicBool,
    events: &AtomicU64,
) -> Result<()> {
    let mut message = [0; MESSAGE];
    repeat(stop, events, || {
        let mut stream = connect(port)?;
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        // The server closes first, so that its side keeps the TIME_WAIT.
        stream.read(&mut message).map(|_| 1)
    })
}

pub(super) fn drain(port: u16, _: &Kit, stop: &AtomicBool, events: &AtomicU64) -> Result<()> {
    let mut stream = connect(port)?;
    let mut block = vec![0; 256 << 10];
    repeat(stop, events, || stream.read(&mut block).map(|count| count as u64))?;
    stream.shutdown(Shutdown::Both)
}

pub(super) fn hello_once(
    port: u16,
    kit: &Kit,
    stop: &AtomicBool,
    events: &AtomicU64,
) -> Result<()> {
    let mut hello = Vec::new();
    session(kit)?.write_tls(&mut hello)?;
    repeat(stop, events, || {
        let mut stream = connect(port)?;
        stream.write_all(&hello)?;
        stream.read_exact(&mut [0; HELLO_ANSWER])?;
        stream.write_all(&[4; FINISHED])?;
        stream.read_exact(&mut [0; REPLY])?;
        stream.read(&mut [0; 1]).map(|_| 1)
    })
}

pub(super) fn handshake_once(
    port: u16,
    kit: &Kit,
    stop: &AtomicBool,
    events: &AtomicU64,
) -> Result<()> {
    let mut message = [0; MESSAGE];
    repeat(stop, events, || {
        let mut stream = connect_tls(port, kit)?;
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        // Any kind of end counts as the end.
        let _ = stream.read(&mut message);
        Ok(1)
    })
}

pub(super) fn drain_tls(port: u16, kit: &Kit, stop: &AtomicBool, events: &AtomicU64) -> Result<()> {
    let mut stream = connect_tls(port, kit)?;
    let mut block = vec![0; 256 << 10];
    repeat(stop, events, || stream.read(&mut block).map(|count| count as u64))
}

/// Requests pages of `SIZE` bytes.
pub(super) fn get<const SIZE: usize>(
    port: u16,
    _: &Kit,
    stop: &AtomicBool,
    events: &AtomicU64,
) -> Result<()> {
    ask(connect(port)?, GET, SIZE, stop, events)
}

/// Like `get`, over TLS, 1 KiB each.
pub(super) fn get_tls(port: u16, kit: &Kit, stop: &AtomicBool, events: &AtomicU64) -> Result<()> {
    ask(connect_tls(port, kit)?, GET, 1024, stop, events)
}

/// Sends requests with bodies of 16 KiB.
pub(super) fn post(port: u16, _: &Kit, stop: &AtomicBool, events: &AtomicU64) -> Result<()> {
    const SIZE: usize = 16 << 10;
    let mut request =
        format!("POST / HTTP/1.1\r\nhost: bench.test\r\ncontent-length: {SIZE}\r\n\r\n")
            .into_bytes();
    request.resize(request.len() + SIZE, b'x');
    ask(connect(port)?, &request, 64, stop, events)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: bench.test\r\naccept: */*\r\n\r\n";

fn ask(
    stream: impl Read + Write,
    request: &[u8],
    size: usize,
    stop: &AtomicBool,
    events: &AtomicU64,
) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    repeat(stop, events, || {
        reader.get_mut().write_all(request)?;
        let length = read_head(&mut reader)?;
        if length != size {
            return Err(Error::other("another page than was asked for"));
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).map(|()| 1)
    })
}

/// Requests pages of 1 KiB over HTTP/3, 8 at a time.
pub(super) fn get_h3(port: u16, kit: &Kit, stop: &AtomicBool, events: &AtomicU64) -> Result<()> {
    const AT_ONCE: usize = 8;
    let run = http3::run(&kit.ca(), None, async |client| {
        let connection = client.connect((Ipv4Addr::LOCALHOST, port).into(), NAME).await?;
        connection
            .ask_always(AT_ONCE, "/", |answer| {
                let whole = answer.status == 200 && answer.length == 1024;
                events.fetch_add(u64::from(whole), Ordering::Relaxed);
                whole && !stop.load(Ordering::Relaxed)
            })
            .await
    });
    run.map_err(Error::other)
}

pub(super) fn ping_pong_datagrams(
    port: u16,
    _: &Kit,
    stop: &AtomicBool,
    events: &AtomicU64,
) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // A datagram that was dropped is sent again.
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    let mut datagram = [0; 100];
    repeat(stop, events, || {
        socket.send(&datagram)?;
        Ok(u64::from(socket.recv(&mut datagram).is_ok()))
    })
}

/// Connections that have exchanged one message each and are idle.
pub(super) enum Held {
    Http3(#[allow(dead_code, reason = "it is held")] http3::Held),
    Plain(#[allow(dead_code, reason = "it is held")] Vec<TcpStream>),
    Tls(#[allow(dead_code, reason = "it is held")] Vec<StreamOwned<ClientConnection, TcpStream>>),
}

/// The protocol of held connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Plain,
    Tls,
    Http3,
}

/// Opens `count` connections, one after the other, once those of another proxy have been dropped.
pub(super) fn hold(port: u16, kit: &Kit, count: usize, speech: Speech) -> Result<Held> {
    if speech == Speech::Http3 {
        let held = http3::hold(&kit.ca(), (Ipv4Addr::LOCALHOST, port).into(), NAME, count);
        return held.map(Held::Http3).map_err(Error::other);
    }
    if speech == Speech::Tls {
        first_exchange(connect_tls(port, kit)?, LET_GO)?;
        let one = |_| first_exchange(connect_tls(port, kit)?, [0; MESSAGE]);
        return (0..count).map(one).collect::<Result<_>>().map(Held::Tls);
    }
    first_exchange(connect(port)?, LET_GO)?;
    let one = |_| first_exchange(connect(port)?, [0; MESSAGE]);
    (0..count).map(one).collect::<Result<_>>().map(Held::Plain)
}

fn first_exchange<S: Read + Write>(mut stream: S, mut message: [u8; MESSAGE]) -> Result<S> {
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok(stream)
}
