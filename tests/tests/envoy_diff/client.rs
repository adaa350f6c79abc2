//! The steps of a case: what a client sends, and what it gets.
//!
//! Owns: the grammar of a step, and the client's side of the observations. Refuses to know: which proxy responds. Keeps:
//! a step ends when its response, or the end of its connection, is there.
//!
//! `[xN | spread N | distinct N | steady N] [@LISTENER] [tls NAME[,ALPN]] METHOD HOST PATH [| NAME: VALUE]... [|| BODY]` sends a request of HTTP/1.1 on a
//! connection of its own; behind `h2`, of HTTP/2. `raw "BYTES"` sends them and reads one response; `tcp "BYTES"` sends
//! them, ends its side and reads to the end; `udp "BYTES"` sends one datagram and reads one. `xN` repeats a
//! request, and observes how many responses each endpoint gave; `spread N` observes only which endpoints did, and
//! `distinct N` how many did. `steady N` repeats that until all N are alike.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use sluice_testkit::origin::{Message, read_message};
use sluice_testkit::peers::{connect, udp_client};
use sluice_testkit::tls::{ClientStream, Offer};
use sluice_testkit::{tools, wait};

use crate::compare::Seen;

/// A step, read.
#[derive(Debug)]
pub(crate) struct Step {
    repeat: usize,
    tally: Tally,
    pub(crate) listener: Option<String>,
    tls: Option<(String, Vec<String>)>,
    http2: bool,
    what: What,
    folder: PathBuf,
}

/// What is observed of repeated requests.
#[derive(Clone, Copy, Debug)]
enum Tally {
    Counts,
    Which,
    HowMany,
    Steady,
}

#[derive(Debug)]
enum What {
    Request(Request),
    Raw(String),
    Tcp(String),
    Udp(String),
}

#[derive(Debug)]
struct Request {
    method: String,
    host: String,
    path: String,
    headers: Vec<String>,
    body: String,
}

impl Step {
    /// Reads a step; certificates are in `folder`.
    pub(crate) fn parse(line: &str, folder: &Path) -> Self {
        let mut step = Self {
            repeat: 1,
            tally: Tally::Counts,
            listener: None,
            tls: None,
            http2: false,
            what: What::Raw(String::new()),
            folder: folder.to_owned(),
        };
        let mut rest = line;
        loop {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "spread" | "distinct" | "steady" | "tls" => {
                    let (value, after) = after.split_once(' ').expect("a step goes on");
                    if word != "tls" {
                        step.repeat = value.parse().expect("a number");
                        step.tally = match word {
                            "spread" => Tally::Which,
                            "distinct" => Tally::HowMany,
                            _ => Tally::Steady,
                        };
                    } else {
                        let mut parts = value.split(',').map(str::to_owned);
                        step.tls = Some((parts.next().unwrap_or_default(), parts.collect()));
                    }
                    rest = after;
                    continue;
                }
                "h2" => step.http2 = true,
                "raw" => step.what = What::Raw(unescape(after)),
                "tcp" => step.what = What::Tcp(unescape(after)),
                "udp" => step.what = What::Udp(unescape(after)),
                _ if word.starts_with('@') => step.listener = Some(word[1..].to_owned()),
                _ if word.starts_with('x') => step.repeat = word[1..].parse().expect("xN"),
                _ => step.what = What::Request(Request::parse(rest)),
            }
            if !(word == "h2" || word.starts_with(['@', 'x'])) {
                return step;
            }
            rest = after;
        }
    }

    /// The number of records that it makes.
    pub(crate) const fn records(&self) -> usize {
        if matches!(self.what, What::Udp(_)) { 0 } else { self.repeat }
    }

    /// Whether single requests are of no interest.
    pub(crate) const fn repeats(&self) -> bool {
        self.repeat > 1
    }

    /// Does it, and notes what comes back.
    pub(crate) fn run(&self, to: SocketAddr, number: usize, seen: &mut Seen) {
        if self.repeats() {
            return self.run_often(to, number, seen);
        }
        match &self.what {
            What::Udp(text) => {
                let socket = udp_client();
                socket.send_to(text.as_bytes(), to).unwrap();
                let mut buffer = [0; 2048];
                let count = socket.recv(&mut buffer).unwrap_or(0);
                seen.note(format!("{number} reply"), String::from_utf8_lossy(&buffer[..count]));
            }
            What::Tcp(text) => {
                let got = match &self.tls {
                    Some(_) => self.secure(to, |stream| {
                        ask_to_end(stream, text, |stream| {
                            stream.conn.send_close_notify();
                            let _ = stream.flush();
                        })
                    }),
                    None => ask_to_end(connect(to), text, |stream: &mut TcpStream| {
                        let _ = stream.shutdown(Shutdown::Write);
                    }),
                };
                seen.note(format!("{number} bytes"), String::from_utf8_lossy(&got));
            }
            What::Raw(_) | What::Request(_) => note(&self.ask(to), number, seen),
        }
    }

    fn run_often(&self, to: SocketAddr, number: usize, seen: &mut Seen) {
        let observed = match self.tally {
            Tally::Counts => format!("{:?}", self.count(to)),
            Tally::Which => format!("{:?}", self.count(to).into_keys().collect::<BTreeSet<_>>()),
            Tally::HowMany => self.count(to).len().to_string(),
            Tally::Steady => {
                let is_one = || (self.count(to).len() == 1).then_some(());
                format!("{:?}", wait::within(crate::SOON, is_one))
            }
        };
        seen.note(format!("{number} tally"), observed);
    }

    /// How many responses were of each kind.
    fn count(&self, to: SocketAddr) -> BTreeMap<String, usize> {
        let mut tally = BTreeMap::<String, usize>::new();
        for _ in 0..self.repeat {
            let response = match &self.what {
                What::Tcp(text) => {
                    let got = ask_to_end(connect(to), text, |stream: &mut TcpStream| {
                        let _ = stream.shutdown(Shutdown::Write);
                    });
                    String::from_utf8_lossy(&got).into_owned()
                }
                _ => {
                    let message = self.ask(to).message;
                    format!("{} {}", message.status(), message.value("x-origin"))
                }
            };
            *tally.entry(response.trim().to_owned()).or_default() += 1;
        }
        tally
    }

    /// Sends a request and reads the response.
    fn ask(&self, to: SocketAddr) -> Response {
        let (bytes, method) = match &self.what {
            What::Request(request) if self.http2 => return request.over_http2(to),
            What::Request(request) => (request.bytes(), request.method.as_str()),
            What::Raw(text) => (text.clone(), ""),
            What::Tcp(_) | What::Udp(_) => unreachable!("they have no response"),
        };
        match &self.tls {
            Some(_) => self.secure(to, |stream| exchange(stream, &bytes, method)),
            None => exchange(connect(to), &bytes, method),
        }
    }

    /// A certificate `client` is shown if the second word of `tls` is `client`.
    fn secure<T>(&self, to: SocketAddr, with: impl FnOnce(ClientStream) -> T) -> T {
        let (name, more) = self.tls.as_ref().expect("it was asked");
        let (ca, own) = (self.folder.join("ca.pem"), self.folder.join("client"));
        let shows = more.iter().any(|word| word == "client");
        let alpn: Vec<&str> =
            more.iter().map(String::as_str).filter(|word| *word != "client").collect();
        let offer = Offer {
            alpn: &alpn,
            certificate: shows.then_some(own.as_path()),
            ..Offer::of(name, &ca)
        };
        with(offer.connect(to))
    }
}

impl Request {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once(" || ").unwrap_or((text, ""));
        let mut parts = head.split(" | ");
        let mut words = parts.next().unwrap_or_default().split(' ');
        let mut word =
            || words.next().unwrap_or_else(|| panic!("METHOD HOST PATH: {text}")).to_owned();
        Self {
            method: word(),
            host: word(),
            path: word(),
            headers: parts.map(str::to_owned).collect(),
            body: body.to_owned(),
        }
    }

    fn bytes(&self) -> String {
        let Self { method, host, path, headers, body } = self;
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        headers.iter().for_each(|header| text += &format!("{header}\r\n"));
        if !body.is_empty() {
            text += &format!("content-length: {}\r\n", body.len());
        }
        format!("{text}\r\n{body}")
    }

    fn over_http2(&self, to: SocketAddr) -> Response {
        let mut curl = tools::command("curl");
        curl.args(["-sS", "-i", "--http2-prior-knowledge", "--path-as-is", "--max-time", "30"]);
        curl.args(["-X", &self.method, "-H", &format!("host: {}", self.host)]);
        for header in &self.headers {
            curl.args(["-H", header]);
        }
        if !self.body.is_empty() {
            curl.args(["-H", "content-type;", "--data-raw", &self.body]);
        }
        let output = tools::run(curl.arg(format!("http://{to}{}", self.path)));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let message =
            Message { head: format!("{head}\r\n"), body: body.into(), trailers: String::new() };
        Response { message, tunnel: None, closed: false }
    }
}

/// What came back.
#[derive(Debug, Default)]
struct Response {
    message: Message,
    /// What was echoed after the protocol had changed.
    tunnel: Option<String>,
    /// The connection ended with the response.
    closed: bool,
}

fn note(response: &Response, number: usize, seen: &mut Seen) {
    let Response { message, tunnel, closed } = response;
    seen.note(format!("{number} status"), message.status());
    seen.headers(&format!("{number} response"), message);
    seen.body(number, &message.text());
    seen.note(format!("{number} closed"), closed);
    if let Some(tunnel) = tunnel {
        seen.note(format!("{number} tunnel"), tunnel);
    }
}

fn exchange<S: Read + Write>(stream: S, request: &str, method: &str) -> Response {
    let mut reader = BufReader::new(stream);
    if reader.get_mut().write_all(request.as_bytes()).is_err() {
        return Response { closed: true, ..Response::default() };
    }
    let bodiless = matches!(method, "HEAD" | "CONNECT");
    let mut message = read_message(&mut reader, bodiless).unwrap_or_default();
    while matches!(message.status(), 100 | 103) {
        message = read_message(&mut reader, bodiless).unwrap_or_default();
    }
    let switched = message.status() == 101 || (method == "CONNECT" && message.status() == 200);
    let mut tunnel = None;
    if switched {
        let mut echo = [0; 5];
        let sent = reader.get_mut().write_all(b"hello").and_then(|()| reader.get_mut().flush());
        let read = sent.and_then(|()| reader.read_exact(&mut echo));
        tunnel = Some(match read {
            Ok(()) => String::from_utf8_lossy(&echo).into_owned(),
            Err(_) => "ended".to_owned(),
        });
    }
    let asked = message.value("connection").eq_ignore_ascii_case("close");
    let closed =
        message.head.is_empty() || (asked && matches!(reader.read(&mut [0; 1]), Ok(0) | Err(_)));
    Response { message, tunnel, closed }
}

fn ask_to_end<S: Read + Write>(mut stream: S, text: &str, end: impl FnOnce(&mut S)) -> Vec<u8> {
    let mut got = Vec::new();
    if stream.write_all(text.as_bytes()).is_ok() {
        // An end that comes before the chain is chosen may win.
        while got.len() < text.len() {
            let mut some = [0; 4096];
            match stream.read(&mut some) {
                Ok(count) if count > 0 => got.extend_from_slice(&some[..count]),
                _ => return got,
            }
        }
        end(&mut stream);
    }
    // A refused client may see a reset or an end, depending on what was still unread.
    let _ = stream.read_to_end(&mut got);
    got
}

/// The text in quotes, with `\r`, `\n`, `\t`, `\0` and `\\` replaced.
fn unescape(quoted: &str) -> String {
    let inner = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let inner = inner.unwrap_or_else(|| panic!("no quotes around {quoted}"));
    let mut out = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        out.push(match letter {
            '\\' => match letters.next() {
                Some('r') => '\r',
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                Some('\\') => '\\',
                other => panic!("\\{other:?} in {quoted}"),
            },
            letter => letter,
        });
    }
    out
}
