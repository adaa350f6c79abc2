//! What is exchanged with a seed.

use bytes::Bytes;

/// A list of names and values.
pub(crate) type Fields = Vec<(String, String)>;

/// Everything that a client and a server exchange.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) exchanges: Vec<Exchange>,
}

/// A request and its response.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) number: usize,
    pub(crate) path: String,
    pub(crate) request: Message,
    pub(crate) informational: usize,
    pub(crate) status: u16,
    pub(crate) response: Message,
    pub(crate) abort: Option<Abort>,
}

/// A message after its start line.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) fields: Fields,
    pub(crate) body: usize,
    /// Whether the head states the length of the body.
    pub(crate) says_length: bool,
    pub(crate) trailers: Option<Fields>,
}

/// Who gives up an exchange, after so many bytes of what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    Client(usize),
    Server(usize),
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(1..40);
        let exchanges = (0..count).map(|number| Exchange::new(number, &mut random)).collect();
        Self { exchanges }
    }

    /// Returns the exchange with that path.
    pub(crate) fn of_path(&self, path: &str) -> &Exchange {
        let number = path.trim_start_matches('/').split('?').next().unwrap();
        &self.exchanges[number.parse::<usize>().unwrap()]
    }
}

impl Exchange {
    fn new(number: usize, random: &mut fastrand::Rng) -> Self {
        let abort = match random.u8(..12) {
            0 => Some(Abort::Client(random.usize(..30_000))),
            1 => Some(Abort::Server(random.usize(..30_000))),
            _ => None,
        };
        Self {
            number,
            path: format!("/{number}?{}", "q".repeat(random.usize(..50))),
            request: Message::new(random),
            informational: if random.u8(..5) == 0 { random.usize(1..4) } else { 0 },
            status: *random.choice(&[200, 206, 404, 500, 299]).unwrap(),
            response: Message::new(random),
            abort,
        }
    }

    /// Whether the head of the request ends it.
    pub(crate) fn request_ends(&self) -> bool {
        self.request.body == 0 && self.request.trailers.is_none() && self.number.is_multiple_of(2)
    }
}

impl Message {
    fn new(random: &mut fastrand::Rng) -> Self {
        let body = match random.u8(..4) {
            0 => 0,
            1 => random.usize(..100),
            2 => random.usize(..20_000),
            _ => random.usize(..300_000),
        };
        let trailers = (random.u8(..4) == 0).then(|| fields(random));
        Self { fields: fields(random), body, says_length: random.bool(), trailers }
    }

    /// Returns the fields of the head.
    pub(crate) fn head_fields(&self) -> Fields {
        let length = ("content-length".to_owned(), self.body.to_string());
        self.fields.iter().cloned().chain(self.says_length.then_some(length)).collect()
    }
}

/// Some fields, of which many repeat from message to message.
fn fields(random: &mut fastrand::Rng) -> Fields {
    let common = [("accept", "*/*"), ("user-agent", "tests/1.0 (pairs)"), ("x-same", "same")];
    let mut fields: Fields =
        common.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    for _ in 0..random.usize(..8) {
        let name = format!("x-{}", random.u8(..12));
        let length = if random.u8(..10) == 0 { random.usize(..6000) } else { random.usize(..40) };
        let value = (0..length).map(|_| random.alphanumeric()).collect();
        fields.push((name, value));
    }
    // A map groups the values of a name, so they are adjacent here too.
    fields.sort_by_key(|(name, _)| name.clone());
    fields
}

/// Returns bytes of the body with this number.
pub(crate) fn piece(number: usize, from: usize, len: usize) -> Bytes {
    (from..from + len).map(|at| byte(number, at)).collect()
}

fn byte(number: usize, at: usize) -> u8 {
    u8::try_from((at * 31 + number * 7) % 251).unwrap()
}

/// Checks bytes of the body with this number, and returns where the next begin.
#[track_caller]
pub(crate) fn check_piece(number: usize, from: usize, bytes: &[u8]) -> usize {
    assert_eq!(bytes, piece(number, from, bytes.len()), "exchange {number} at {from}");
    from + bytes.len()
}
