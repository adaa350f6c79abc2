//! An HTTP/1 reader that shares no code with ours.
//!
//! Owns: a second implementation of RFC 9112 §6.3, over the crate `httparse`: the length of a message body, and the
//! position of a reader in a stream of messages. Refuses to know: how Sluice parses and writes. Keeps: whatever two
//! readers could take for two different messages is [`Length::Ambiguous`].

/// The length of a message body as a reader understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// This many bytes; 0 means no body.
    Bytes(u64),
    /// Chunked.
    Chunked,
    /// Until the connection closes.
    UntilClose,
    /// Another protocol follows, if the peer agrees to switch.
    Switch,
    /// Readers may differ.
    Ambiguous,
}

/// A parsed head: its length, and the length of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The length of the head in bytes.
    pub(crate) head: usize,
    /// The length of the body.
    pub(crate) body: Length,
}

/// Reads a request head; `None` if it is incomplete.
///
/// # Panics
/// When it is not a request head.
pub(crate) fn request(bytes: &[u8]) -> Option<Message> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut fields);
    let head = match parsed.parse(bytes).expect("a request head") {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return None,
    };
    let fields = &*parsed.headers;
    let switches = parsed.method == Some("CONNECT") || !values(fields, "upgrade").is_empty();
    let body = match framing(fields) {
        // A server that does not switch reads the body after the head, if one is declared.
        Some(Length::Bytes(0)) | None if switches => Length::Switch,
        None => Length::Bytes(0),
        Some(body) => body,
    };
    Some(Message { head, body })
}

/// Reads the head of a response to a request of `method`; `None` if it is incomplete.
///
/// # Panics
/// When it is not a response head.
pub(crate) fn response(bytes: &[u8], method: &str) -> Option<Message> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut fields);
    let head = match parsed.parse(bytes).expect("a response head") {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return None,
    };
    let status = parsed.code.expect("a whole head has a status");
    let connected = method == "CONNECT" && (200..300).contains(&status);
    let body = if status == 101 || connected {
        Length::Switch
    } else if method == "HEAD" || status < 200 || status == 204 || status == 304 {
        Length::Bytes(0)
    } else {
        framing(parsed.headers).unwrap_or(Length::UntilClose)
    };
    Some(Message { head, body })
}

fn values<'a>(fields: &'a [httparse::Header<'_>], name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value).collect()
}

/// The body length that the headers declare; `None` if they declare none.
fn framing(fields: &[httparse::Header<'_>]) -> Option<Length> {
    let (lengths, codings) =
        (values(fields, "content-length"), values(fields, "transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => None,
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Some(Length::Chunked),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let number = std::str::from_utf8(length).ok().and_then(|digits| digits.parse().ok());
            Some(number.map_or(Length::Ambiguous, Length::Bytes))
        }
        _ => Some(Length::Ambiguous),
    }
}

/// Reads a stream of requests and counts them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    unread: Vec<u8>,
    at: At,
    /// Requests whose last byte has been received.
    pub(crate) complete: usize,
    /// Heads received completely.
    pub(crate) heads: usize,
}

/// The position of the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum At {
    /// At the first byte of a head, or in it.
    #[default]
    Head,
    /// In a body, with this many bytes remaining.
    Body(u64),
    /// In a chunked body, before the line of a chunk.
    ChunkLine,
    /// In a chunk, with this many bytes remaining, its line end included.
    Chunk(u64),
    /// After the last chunk.
    Trailers,
    /// After a head that asks for another protocol.
    Switched,
}

impl Requests {
    /// Reads the bytes received.
    ///
    /// # Panics
    /// When they cannot be read in exactly one way.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        while self.step() {}
    }

    /// Whether the stream is between two requests: no byte of the next one has been received.
    pub(crate) fn is_between(&self) -> bool {
        self.at == At::Head && self.unread.is_empty()
    }

    fn step(&mut self) -> bool {
        match self.at {
            At::Head => {
                let Some(message) =
                    (!self.unread.is_empty()).then(|| request(&self.unread)).flatten()
                else {
                    return false;
                };
                self.unread.drain(..message.head);
                self.heads += 1;
                self.at = match message.body {
                    Length::Bytes(count) => At::Body(count),
                    Length::Chunked => At::ChunkLine,
                    Length::Switch => At::Switched,
                    other => panic!("a request with a body that is {other:?}"),
                };
            }
            At::Body(0) => self.end(),
            At::Body(left) => return self.skip(left, At::Body),
            At::Chunk(0) => self.at = At::ChunkLine,
            At::Chunk(left) => return self.skip(left, At::Chunk),
            At::ChunkLine => {
                let Some(line) = self.line() else { return false };
                let size = std::str::from_utf8(&line).expect("a chunk's line is text");
                let size = u64::from_str_radix(size, 16).expect("a chunk's size");
                self.at = if size == 0 { At::Trailers } else { At::Chunk(size + 2) };
            }
            At::Trailers => match self.line() {
                Some(line) if line.is_empty() => self.end(),
                Some(_) => {}
                None => return false,
            },
            At::Switched => return false,
        }
        true
    }

    fn end(&mut self) {
        self.complete += 1;
        self.at = At::Head;
    }

    fn skip(&mut self, left: u64, at: fn(u64) -> At) -> bool {
        let count = self.unread.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.unread.drain(..count);
        self.at = at(left - count as u64);
        count > 0
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.windows(2).position(|two| two == b"\r\n")?;
        let line = self.unread[..end].to_vec();
        self.unread.drain(..end + 2);
        Some(line)
    }
}
