//! An HTTP/1.1 server in the process of the test, and a matching client.
//!
//! Owns: just enough of HTTP/1 to see what a proxy made of a message: both sides keep every byte. Refuses to know:
//! Sluice. Keeps: a message is shown as received, never normalised.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::peers::{Server, connect, reset_on_close};

/// A message as received: start line and headers as one text, and the body without its framing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Start line and headers, each with its CRLF.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
    /// Trailer lines, if any.
    pub trailers: String,
}

impl Message {
    /// The words of the start line.
    pub fn words(&self) -> Vec<&str> {
        self.head.lines().next().unwrap_or_default().split(' ').collect()
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.words().get(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// The path of a request.
    pub fn path(&self) -> &str {
        self.words().get(1).copied().unwrap_or_default()
    }

    /// The values of a header; its name is matched case-insensitively.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1);
        let fields = lines.filter_map(|line| line.split_once(": "));
        fields.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The first value of a header; empty if there is none.
    pub fn value(&self, name: &str) -> &str {
        self.values(name).first().copied().unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads one message. With `bodiless` there is no body, whatever the headers declare.
///
/// # Errors
/// The stream ended early or is not HTTP/1.
pub fn read_message(reader: &mut impl io::BufRead, bodiless: bool) -> io::Result<Message> {
    let mut message = Message { head: read_lines(reader)?, ..Message::default() };
    if message.head.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let is_response = message.head.starts_with("HTTP/");
    let status = message.status();
    if bodiless || (is_response && (status < 200 || matches!(status, 204 | 304))) {
        return Ok(message);
    }
    if message.value("transfer-encoding") == "chunked" {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            if size == 0 {
                message.trailers = read_lines(reader)?;
                return Ok(message);
            }
            let start = message.body.len();
            message.body.resize(start + size, 0);
            reader.read_exact(&mut message.body[start..])?;
            reader.read_line(&mut line)?;
        }
    }
    match message.value("content-length").parse::<usize>() {
        Ok(length) => {
            message.body = vec![0; length];
            reader.read_exact(&mut message.body)?;
        }
        Err(_) if is_response => drop(reader.read_to_end(&mut message.body)?),
        Err(_) => {}
    }
    Ok(message)
}

/// Reads lines up to an empty one, or to the end.
fn read_lines(reader: &mut impl io::BufRead) -> io::Result<String> {
    let mut lines = String::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 || line == b"\r\n" {
            return Ok(lines);
        }
        lines.push_str(&String::from_utf8_lossy(&line));
    }
}

/// A server that chooses its response by the path:
///
/// `/status/N`: that status; `/bytes/N`: a body of N bytes; `/chunked`: chunks and trailers; `/hints`: a 103 first;
/// `/unfit`: asks for no more traffic by a header; `/close`: closes; `/reset`: resets; `/garbage`: bytes that are not HTTP; `/wait`: responds when [`Origin::release`]
/// is called; `/flaky/N`: 503 N times, then 200; anything else: 200 and the request as received.
#[derive(Debug)]
pub struct Origin {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Message>>,
    flaky: AtomicUsize,
    released: Mutex<bool>,
    bell: std::sync::Condvar,
}

impl Origin {
    /// Serves on a free port; its responses have `name` in `x-origin`.
    pub fn start(name: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let of_server = Arc::clone(&shared);
        let server = Server::start(move |stream| serve(name, stream, &of_server));
        Self { server, shared }
    }

    /// The address it listens on.
    pub const fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The number of connections accepted.
    pub fn connections(&self) -> usize {
        self.server.accepted()
    }

    /// Every request received, in order.
    pub fn requests(&self) -> Vec<Message> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the waiting requests finish.
    pub fn release(&self) {
        *self.shared.released.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.bell.notify_all();
    }
}

fn serve(name: &str, mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let request = read_request(&mut reader, &mut stream)?;
        let path = request.path().to_owned();
        let head_only = request.words().first() == Some(&"HEAD");
        let echo = format!("{}\n{}{}", request.head, request.text(), request.trailers);
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let (kind, argument) = path
            .trim_start_matches('/')
            .split_once('/')
            .unwrap_or_else(|| (path.trim_start_matches('/'), ""));
        let number = argument.split('?').next().and_then(|text| text.parse::<usize>().ok());
        let answer = |stream: &mut TcpStream, status: usize, body: &[u8]| {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\nX-Origin: {name}\r\nContent-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
            if head_only { Ok(()) } else { stream.write_all(body) }
        };
        match (kind, number) {
            ("status", Some(204 | 304)) => {
                stream.write_all(
                    format!("HTTP/1.1 {argument} X\r\nX-Origin: {name}\r\n\r\n").as_bytes(),
                )?;
            }
            ("status", Some(status)) => answer(&mut stream, status, b"status\n")?,
            ("bytes", Some(count)) => answer(&mut stream, 200, &vec![b'x'; count])?,
            ("flaky", Some(times)) => {
                let before = shared.flaky.fetch_add(1, Ordering::SeqCst);
                answer(&mut stream, if before < times { 503 } else { 200 }, b"flaky\n")?;
            }
            ("chunked", _) => stream.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                  5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-sum: 42\r\n\r\n",
            )?,
            ("until-end", _) => {
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nto the end")?;
                return Ok(());
            }
            ("hints", _) => {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")?;
                answer(&mut stream, 200, b"hinted\n")?;
            }
            ("unfit", _) => stream.write_all(
                b"HTTP/1.1 200 X\r\nX-Envoy-Immediate-Health-Check-Fail: true\r\nContent-Length: 0\r\n\r\n",
            )?,
            ("close", _) => return Ok(()),
            ("cut", _) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
                return Ok(());
            }
            ("reset", _) => {
                reset_on_close(&stream);
                return Ok(());
            }
            ("garbage", _) => {
                stream.write_all(b"this is no HTTP\r\n\r\n")?;
                return Ok(());
            }
            ("wait", _) => {
                let mut released = shared.released.lock().unwrap_or_else(PoisonError::into_inner);
                while !*released {
                    released = shared.bell.wait(released).unwrap_or_else(PoisonError::into_inner);
                }
                drop(released);
                answer(&mut stream, 200, b"waited\n")?;
            }
            _ => answer(&mut stream, 200, echo.as_bytes())?,
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>, stream: &mut TcpStream) -> io::Result<Message> {
    let head = read_lines(reader)?;
    let message = Message { head, ..Message::default() };
    if message.value("expect") == "100-continue" {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let rest = [message.head.as_bytes(), b"\r\n"].concat();
    read_message(&mut io::Read::chain(&rest[..], reader), false)
}

/// A client connection.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self { reader: BufReader::new(connect(address)) }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).expect("it is sent");
    }

    /// Reads one message.
    #[track_caller]
    pub fn read(&mut self) -> Message {
        read_message(&mut self.reader, false).expect("an answer comes")
    }

    /// Reads the response to a HEAD.
    #[track_caller]
    pub fn read_head(&mut self) -> Message {
        read_message(&mut self.reader, true).expect("an answer comes")
    }

    /// Reads one message, or returns the error that prevented it.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn try_read(&mut self) -> io::Result<Message> {
        read_message(&mut self.reader, false)
    }

    /// Sends a request and reads its response.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        self.read()
    }

    /// Sends a GET and reads its response.
    #[track_caller]
    pub fn get(&mut self, host: &str, path: &str) -> Message {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Everything received until the end; a reset counts as the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}

/// Sends a GET on its own connection.
#[track_caller]
pub fn get(address: SocketAddr, host: &str, path: &str) -> Message {
    Client::connect(address).get(host, path)
}

/// The reply of a server to a WebSocket key, RFC 6455 §4.2.2.
#[must_use]
pub fn websocket_accept(key: &str) -> String {
    let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes());
    data_encoding::BASE64.encode(digest.as_ref())
}
