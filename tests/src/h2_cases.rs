//! HTTP/2 cases from a text file: what a client sends, frame by frame, and the expected outcome.
//!
//! Owns: the vocabulary of `tests/cases/http2.txt`. Refuses to know: the server under test. Keeps: an unknown word is
//! an error of the test, never skipped.

use std::collections::BTreeMap;

use sluice_testkit::frames::{Frame, flag, frame, kind};

/// A case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// What it tests.
    pub name: String,
    /// Nothing is sent before its steps.
    pub raw: bool,
    /// The limit of concurrent streams, if it differs from the default.
    pub streams: Option<u32>,
    /// What the client does.
    pub steps: Vec<Step>,
    /// The expected outcome.
    pub wanted: Outcome,
    /// The number of requests that the endpoint receives.
    pub reached: Option<usize>,
}

/// A step of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Waits until everything sent so far has been read.
    Sync,
    /// Waits until the response on a stream has ended.
    Await(u32),
    /// Lets the endpoint respond to the waiting requests.
    Release,
}

/// The outcome of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Statuses by stream.
    pub statuses: BTreeMap<u32, u16>,
    /// Bytes of data by stream, where they are checked.
    pub data: BTreeMap<u32, usize>,
    /// Streams that ended normally.
    pub ended: Vec<u32>,
    /// Reset codes by stream.
    pub resets: BTreeMap<u32, u32>,
    /// The error code of the GOAWAY that ends the connection.
    pub goaway: Option<u32>,
    /// The connection closes without a GOAWAY.
    pub closed: bool,
    /// Acknowledged PINGs.
    pub pongs: Vec<Vec<u8>>,
}

/// The names of the error codes in order, RFC 9113 §7.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

const KINDS: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

impl Case {
    /// Parses the cases of a text.
    ///
    /// # Panics
    /// On an unknown word.
    pub fn read_all(text: &str) -> Vec<Self> {
        let mut cases: Vec<Self> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some(rest) = line.strip_prefix("  ") else {
                cases.push(Self::begin(line));
                continue;
            };
            let case = cases.last_mut().expect("a case begins with its name");
            let words = rest.split_once(' ').map(|(_, words)| words).expect("a line has words");
            match rest.as_bytes()[0] {
                b'>' => case.steps.extend(step(words)),
                b'<' if words.starts_with("reached ") => {
                    case.reached = Some(number(&words["reached ".len()..]));
                }
                b'<' => case.wanted.add(words),
                _ => panic!("what is `{line}`?"),
            }
        }
        cases
    }

    fn begin(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut case = Self { name: words.next().unwrap_or_default().into(), ..Self::default() };
        for option in words {
            match option.split_once('=') {
                None if option == "raw" => case.raw = true,
                Some(("streams", count)) => case.streams = Some(number(count)),
                _ => panic!("what is `{option}`?"),
            }
        }
        case
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no number"))
}

fn code(text: &str) -> u32 {
    let place = CODES.iter().position(|name| *name == text);
    place.and_then(|place| place.try_into().ok()).unwrap_or_else(|| panic!("what is `{text}`?"))
}

impl Outcome {
    fn add(&mut self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        match words[..] {
            ["goaway", name] => self.goaway = Some(code(name)),
            ["closed"] => self.closed = true,
            ["pong", hex] => self.pongs.push(unhex(hex)),
            [stream, "status", status] => {
                self.statuses.insert(number(stream), number(status));
            }
            [stream, "data", bytes] => {
                self.data.insert(number(stream), number(bytes));
            }
            [stream, "end"] => self.ended.push(number(stream)),
            [stream, "reset", name] => {
                self.resets.insert(number(stream), code(name));
            }
            _ => panic!("what is `{words:?}`?"),
        }
    }

    /// Takes a received frame into account.
    pub fn take(&mut self, frame: &Frame) {
        match frame.kind {
            kind::HEADERS => {
                // Trailers have no status.
                self.statuses.entry(frame.stream).or_insert_with(|| status(&frame.payload));
            }
            kind::DATA => *self.data.entry(frame.stream).or_default() += frame.payload.len(),
            kind::RST_STREAM => {
                self.resets.insert(frame.stream, frame.code());
            }
            kind::GOAWAY => self.goaway = Some(frame.code()),
            kind::PING if frame.flags & flag::ACK != 0 => self.pongs.push(frame.payload.clone()),
            _ => {}
        }
        if frame.ends_stream() {
            self.ended.push(frame.stream);
        }
    }

    /// Whether it contains everything in `wanted`; false for good once it has a reset or GOAWAY that is not in there.
    pub fn covers(&self, wanted: &Self) -> bool {
        wanted.statuses.iter().all(|(stream, status)| self.statuses.get(stream) == Some(status))
            && wanted.data.iter().all(|(stream, bytes)| self.data.get(stream) == Some(bytes))
            && wanted.ended.iter().all(|stream| self.ended.contains(stream))
            && wanted.pongs.iter().all(|pong| self.pongs.contains(pong))
            && self.resets_but_for(wanted).eq(&wanted.resets)
            && wanted.goaway == self.goaway
            && (!wanted.closed || self.closed)
    }

    /// The resets, without those after a whole response that only ask the client to stop sending (RFC 9113, §8.1). Whether
    /// there is one depends on whether the request had arrived whole before.
    fn resets_but_for(&self, wanted: &Self) -> impl Iterator<Item = (&u32, &u32)> {
        let stops = |stream: &u32, code: u32| code == 0 && self.ended.contains(stream);
        self.resets.iter().filter(move |(stream, code)| {
            wanted.resets.contains_key(stream) || !stops(stream, **code)
        })
    }
}

/// The status in the header block of a response, as the library encodes it, RFC 7541 §6.1 and §6.2.
fn status(block: &[u8]) -> u16 {
    match block {
        // A table size update may precede it, with as many bytes as its integer takes.
        [0x3f, rest @ ..] => {
            let last =
                rest.iter().position(|byte| byte & 0x80 == 0).map_or(rest.len(), |at| at + 1);
            status(&rest[last..])
        }
        [0x20..=0x3e, rest @ ..] => status(rest),
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // A literal whose name is `:status`; its three digits are Huffman-coded or not.
        [0x48 | 0x08, length, digits @ ..] => {
            let digits = digits.get(..usize::from(length & 0x7f)).unwrap_or_default();
            let text = if length & 0x80 == 0 {
                String::from_utf8_lossy(digits).into_owned()
            } else {
                huffman_digits(digits)
            };
            text.parse().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Decodes digits in the Huffman code of RFC 7541 Appendix B.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let mut rest = bits.as_str();
    let mut digits = String::new();
    loop {
        let known = [
            ("00000", '0'),
            ("00001", '1'),
            ("00010", '2'),
            ("011001", '3'),
            ("011010", '4'),
            ("011011", '5'),
            ("011100", '6'),
            ("011101", '7'),
            ("011110", '8'),
            ("011111", '9'),
        ];
        let found = known.iter().find(|(bits, _)| rest.starts_with(bits));
        let Some((bits, digit)) = found else { return digits };
        digits.push(*digit);
        rest = &rest[bits.len()..];
    }
}

/// The steps of a line for the client.
fn step(words: &str) -> Vec<Step> {
    if let Some((count, rest)) = words.split_once(" x ") {
        let steps = step(rest);
        return (0..number::<usize>(count)).flat_map(|_| steps.clone()).collect();
    }
    let (said, what) = words.split_once(" : ").unwrap_or((words, ""));
    vec![match said.split(' ').collect::<Vec<_>>()[..] {
        ["sync"] => Step::Sync,
        ["release"] => Step::Release,
        ["await", stream] => Step::Await(number(stream)),
        ["PREFACE"] => Step::Send(sluice_testkit::frames::PREFACE.to_vec()),
        ["RAW", ..] => Step::Send(items(&words["RAW ".len()..])),
        [name, stream, ref flags @ ..] => {
            let known = KINDS.iter().position(|known| *known == name);
            let kind = known.and_then(|place| place.try_into().ok()).unwrap_or_else(|| hex8(name));
            let stream = match stream.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).expect("it is hexadecimal"),
                None => number(stream),
            };
            let flags = flags.iter().fold(0, |all, name| all | flag_of(name));
            Step::Send(frame(kind, flags, stream, &items(what)))
        }
        _ => panic!("what is `{words}`?"),
    }]
}

fn flag_of(name: &str) -> u8 {
    match name {
        "END_STREAM" | "ACK" => 1,
        "END_HEADERS" => 4,
        "PADDED" => 8,
        "PRIORITY" => 0x20,
        name => hex8(name),
    }
}

fn hex8(text: &str) -> u8 {
    let hex = text.strip_prefix("0x").unwrap_or_else(|| panic!("what is `{text}`?"));
    u8::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("what is `{text}`?"))
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("it is hexadecimal")).collect()
}

/// The bytes of the items after the colon of a line.
fn items(mut text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let (mark, rest) = match text.as_bytes()[0] {
            b'+' => (Some(0x40), &text[1..]),
            b'!' => (Some(0x10), &text[1..]),
            _ => (None, text),
        };
        let (name, behind) = value(rest);
        let end;
        if let Some(rest) = behind.strip_prefix('=') {
            let (value, behind) = value(rest);
            out.push(mark.unwrap_or(0));
            sluice_testkit::frames::string(&mut out, &name);
            sluice_testkit::frames::string(&mut out, &value);
            end = behind;
        } else if let Some((method, path)) = pseudo(rest) {
            let fields =
                [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
            out.extend(sluice_testkit::frames::block(&fields));
            end = &rest[method.len() + path.len() + 2..];
        } else {
            out.extend(name);
            end = behind;
        }
        assert_ne!(end, text, "what is `{text}`?");
        text = end.strip_prefix(' ').unwrap_or(end);
    }
    out
}

/// `GET(path)` or `POST(path)` at the start of a text.
fn pseudo(text: &str) -> Option<(&str, &str)> {
    let (method, rest) = text.split_once('(')?;
    let known = matches!(method, "GET" | "POST");
    rest.split_once(')').filter(|_| known).map(|(path, _)| (method, path))
}

/// One value at the start of a text, with its repetition, and the rest: `hex(..)`, `"text"` or a bare word.
fn value(text: &str) -> (Vec<u8>, &str) {
    let (bytes, rest) = if let Some(rest) = text.strip_prefix("hex(") {
        let (hex, rest) = rest.split_once(')').expect("a parenthesis is closed");
        (unhex(hex), rest)
    } else if let Some(rest) = text.strip_prefix('"') {
        quoted(rest)
    } else {
        // A name may start with a colon.
        let end = text.find([' ', '=', '*']).unwrap_or(text.len());
        (text.as_bytes()[..end].to_vec(), &text[end..])
    };
    match rest.strip_prefix('*') {
        Some(rest) if !bytes.is_empty() && rest.starts_with(|c: char| c.is_ascii_digit()) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            (bytes.repeat(number(&rest[..end])), &rest[end..])
        }
        _ => (bytes, rest),
    }
}

/// A text up to its closing quote.
fn quoted(text: &str) -> (Vec<u8>, &str) {
    let mut out = Vec::new();
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return (out, &text[at + 1..]),
            b'\\' => match bytes.next() {
                Some((at, b'x')) => {
                    out.extend(unhex(&text[at + 1..at + 3]));
                    bytes.nth(1);
                }
                Some((_, byte)) => out.push(byte),
                None => break,
            },
            byte => out.push(byte),
        }
    }
    panic!("a quote is not closed: {text}")
}
