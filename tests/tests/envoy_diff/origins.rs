//! The endpoints: servers that do what a request tells them to, and record what they receive.
//!
//! Owns: the servers of an area and their addresses. Refuses to know: which proxy is in front. Keeps: both proxies have
//! the same endpoints, so that a choice by hash can be compared; nothing of one case is left when the next begins.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_testkit::origin::{Message, read_message, websocket_accept};
use sluice_testkit::peers::{RefusingPort, Server, UdpServer, reset_on_close};
use sluice_testkit::{tls, tools, wait};
use sluice_tests::envoy_service;

/// A service that decides about requests: it does what the header `x-authz` says.
const AUTHZ: &str = "authz";

/// What the endpoints received since the case began: the name of the endpoint, and the request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received(Arc<Mutex<Vec<(String, Message)>>>);

impl Received {
    fn push(&self, name: &str, message: Message) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((name.to_owned(), message));
        all.len()
    }

    /// Takes what was received, once there are at least so many.
    pub(crate) fn take(&self, least: usize) -> Vec<(String, Message)> {
        let count = || self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        // What is missing shows in the comparison.
        let _ = wait::within(crate::SOON, || (count() >= least).then_some(()));
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The endpoints of an area, as long as it lives.
#[derive(Debug)]
pub(crate) struct Origins {
    pub(crate) received: Received,
    servers: Vec<(&'static str, Server)>,
    datagrams: Vec<(&'static str, UdpServer)>,
    nobody: RefusingPort,
    /// A service that speaks a protocol of Envoy's over gRPC, if the area needs one.
    service: Option<(&'static str, SocketAddr, tools::Process)>,
}

impl Origins {
    /// Starts those of an area; those with TLS have their certificates from `folder`.
    pub(crate) fn start(area: &str, folder: &Path) -> Self {
        let service = match area {
            "checks" => Some(("checks", "authz_server.py", "auth.v3.external_auth_pb2_grpc")),
            "rates" => Some(("rates", "rate_server.py", "ratelimit.v3.rls_pb2_grpc")),
            "wasm_grpc" => Some(("grpc", "grpc_server.py", "auth.v3.external_auth_pb2_grpc")),
            _ => None,
        };
        let service = service.map(|(name, script, module)| {
            let started = envoy_service(script, &format!("envoy.service.{module}"));
            let (process, address) = started.expect("Python has Envoy's messages");
            (name, address, process)
        });
        let received = Received::default();
        let mut servers = Vec::new();
        for name in ["a", "b", "c", "d", AUTHZ] {
            let received = received.clone();
            servers.push((name, Server::start(move |stream| serve(name, stream, &received))));
        }
        servers.push(("echo_a", Server::greeter("a:")));
        servers.push(("echo_b", Server::greeter("b:")));
        servers.push(("tls_a", secure(&folder.join("a"), "tls a:")));
        servers.push(("tls_b", secure(&folder.join("b"), "tls b:")));
        let datagrams = vec![("udp_a", UdpServer::echo("a:")), ("udp_b", UdpServer::echo("b:"))];
        Self { received, servers, datagrams, nobody: RefusingPort::take(), service }
    }

    /// The addresses by name; nobody listens at `nobody`.
    pub(crate) fn addresses(&self) -> BTreeMap<&'static str, SocketAddr> {
        let servers = self.servers.iter().map(|(name, server)| (*name, server.addr()));
        let datagrams = self.datagrams.iter().map(|(name, server)| (*name, server.addr()));
        let service = self.service.iter().map(|(name, address, _)| (*name, *address));
        servers.chain(datagrams).chain(service).chain([("nobody", self.nobody.addr())]).collect()
    }
}

/// Greets over TLS, then echoes.
fn secure(certificate: &Path, greeting: &'static str) -> Server {
    tls::server(certificate, &[], move |mut stream| {
        stream.write_all(greeting.as_bytes())?;
        echo(&mut stream)?;
        stream.conn.send_close_notify();
        stream.flush()
    })
}

fn echo(stream: &mut (impl io::Read + Write)) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

fn serve(name: &str, mut stream: TcpStream, received: &Received) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let request = read_message(&mut reader, false)?;
        let count = received.push(name, request.clone());
        let orders = Orders::of(&request, if name == AUTHZ { "x-authz" } else { "x-do" }, count);
        if orders.hold {
            // The proxy gives up; the rest is what it may still send.
            reader.read_to_end(&mut Vec::new())?;
            return Ok(());
        }
        if orders.reset {
            reset_on_close(&stream);
        }
        if orders.reset || orders.close {
            return Ok(());
        }
        if request.words().first() == Some(&"CONNECT") && orders.status == 200 {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            return echo(&mut Both { reader, stream });
        }
        if orders.status == 101 {
            let accept = websocket_accept(request.value("sec-websocket-key"));
            let upgrade = request.value("upgrade");
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\nsec-websocket-accept: {accept}\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
            return echo(&mut Both { reader, stream });
        }
        orders.respond(name, &request, &mut stream)?;
        if orders.cut {
            return Ok(());
        }
    }
}

/// What may be buffered, and the stream.
struct Both {
    reader: BufReader<TcpStream>,
    stream: TcpStream,
}

impl io::Read for Both {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The header `x-do` of a request: `status=N`, `body=TEXT`, `NAME: VALUE` (a header), `hold` (never responds), `close`,
/// `reset`, `cut` (ends within the body), `chunked`; `first=N` applies them to the first N requests of a case only.
#[derive(Debug, Default)]
struct Orders {
    status: u16,
    body: Option<String>,
    headers: String,
    hold: bool,
    close: bool,
    reset: bool,
    cut: bool,
    chunked: bool,
}

impl Orders {
    fn of(request: &Message, header: &str, count: usize) -> Self {
        let mut orders = Self { status: 200, ..Self::default() };
        for order in request.value(header).split(';').map(str::trim) {
            match order.split_once('=') {
                Some(("first", most)) if count > most.parse().unwrap_or(0) => {
                    return Self { status: 200, ..Self::default() };
                }
                Some(("status", status)) => orders.status = status.parse().unwrap_or(500),
                Some(("body", body)) => orders.body = Some(body.to_owned()),
                _ => match order {
                    "hold" => orders.hold = true,
                    "close" => orders.close = true,
                    "reset" => orders.reset = true,
                    "cut" => orders.cut = true,
                    "chunked" => orders.chunked = true,
                    header if header.contains(": ") => orders.headers += &format!("{header}\r\n"),
                    _ => {}
                },
            }
        }
        orders
    }

    fn respond(&self, name: &str, request: &Message, stream: &mut TcpStream) -> io::Result<()> {
        let body = self.body.clone().unwrap_or_else(|| format!("from {name}"));
        let mut head =
            format!("HTTP/1.1 {} X\r\nx-origin: {name}\r\n{}", self.status, self.headers);
        let bodiless = matches!(self.status, 204 | 304);
        if self.chunked {
            head += "transfer-encoding: chunked\r\n\r\n";
            return stream
                .write_all(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
        }
        if !bodiless {
            let more = if self.cut { 100 } else { 0 };
            head += &format!("content-length: {}\r\n", body.len() + more);
        }
        head += "\r\n";
        if !bodiless && request.words().first() != Some(&"HEAD") {
            head += &body;
        }
        stream.write_all(head.as_bytes())
    }
}
