//! The settings of `tap`.
//!
//! Owns: what is written, and what is wrong with a condition. Refuses to know: requests.

use std::path::PathBuf;

use sluice_codec::names::is_token;
use sluice_core::settings::{Size, bind_entries, entries_of};
use sluice_core::{Diags, Node, Path, Plain, Setting, Shape, Spanned};
use sluice_l4::tap::TapFormat;

use crate::value_match::{ValueMatch, Values};

sluice_core::section! {
    /// Records requests and their responses, each in a file.
    pub struct Tap {
        /// What the names of the files begin with: a folder and the beginning of a name. A number and an extension follow.
        pub file: Option<Spanned<PathBuf>>,
        /// The form of a trace.
        pub format: TapFormat = "json_bytes",
        /// Which requests are recorded. All if omitted.
        pub wanted as "match": Option<TapMatch>,
        /// Whether each part is written as it passes, from when the request is known to be one that is recorded, rather than
        /// all of it at the end.
        pub stream: bool = "false",
        /// How much of the body of a request is recorded; with `stream`, of each piece.
        pub request_body: Size = "1KiB",
        /// How much of the body of a response is recorded; with `stream`, of each piece.
        pub response_body: Size = "1KiB",
        /// Whether it is recorded when headers were received.
        pub times: bool = "false",
        /// Whether the addresses of the client's connection are recorded.
        pub client_connection: bool = "false",
        /// Whether the address of the endpoint is recorded.
        pub endpoint_connection: bool = "false",
    }
}

sluice_core::section! {
    /// A condition on requests and their responses. All given fields must match.
    pub struct TapMatch {
        /// Headers of the request, `:method`, `:scheme`, `:authority` and `:path` among them: a value, or { present: },
        /// { prefix: }, { suffix: }, { contains: }, { range: }, { regex: }, { not: }.
        pub request_headers: TapHeaders,
        /// Headers of the response, `:status` among them.
        pub response_headers: TapHeaders,
        /// Trailers of the request.
        pub request_trailers: TapHeaders,
        /// Trailers of the response.
        pub response_trailers: TapHeaders,
        /// The body of the request.
        pub request_body: Option<BodySearch>,
        /// The body of the response.
        pub response_body: Option<BodySearch>,
        /// All of these conditions.
        pub all: Vec<TapMatch>,
        /// Any of these conditions.
        pub any: Vec<TapMatch>,
        /// Not this condition.
        pub not: Option<Box<TapMatch>>,
    }
}

sluice_core::section! {
    /// What is looked for in a body.
    pub struct BodySearch {
        /// Texts of which each must be in the body.
        pub contains: Vec<String>,
        /// Bytes of which each must be in the body, in hexadecimal.
        pub contains_hex: Vec<HexBytes>,
        /// How far is looked, from the beginning; to the end if omitted.
        pub within: Option<Size>,
    }
}

/// Conditions on headers or trailers, by their names in lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TapHeaders(pub Vec<(String, ValueMatch)>);

/// What HTTP/2 sends as headers, of requests.
const OF_REQUESTS: [&str; 4] = [":method", ":scheme", ":authority", ":path"];

/// The same of responses.
const OF_RESPONSES: [&str; 1] = [":status"];

impl Setting for TapHeaders {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of names to values")?;
        let bound = bind_entries(entries, at, diags, |entry, here, diags| {
            let name = entry.key.to_ascii_lowercase();
            let is_own = OF_REQUESTS.iter().chain(&OF_RESPONSES).any(|own| *own == name);
            if !is_own && !is_token(name.as_bytes()) {
                let message = format!("`{}` is not a valid name", entry.key);
                diags.error("bad-name", entry.key_span, here, message);
                return None;
            }
            Some((name, ValueMatch::bind(&entry.node, here, diags)?))
        });
        bound.map(Self)
    }

    fn shape() -> Shape {
        Values::shape()
    }

    fn show(&self) -> Plain {
        Values(self.0.clone()).show()
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl TapHeaders {
    /// Whether one of the names begins with a colon, and is none of these.
    fn strays(&self, own: &[&str]) -> bool {
        self.0.iter().any(|(name, _)| name.starts_with(':') && !own.contains(&name.as_str()))
    }
}

/// Bytes in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HexBytes(pub Vec<u8>);

sluice_core::text_setting! {
    HexBytes, "bytes in hexadecimal", "0a1b", parse_hex, |bytes| bytes.0.iter().map(|byte| format!("{byte:02x}")).collect();
}

fn parse_hex(text: &str) -> Result<HexBytes, String> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    match digits.filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2)) {
        Some(digits) => Ok(HexBytes(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())),
        None => Err(format!("expected pairs of hexadecimal digits, not `{text}`")),
    }
}

impl TapMatch {
    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let inner = self.all.iter().chain(&self.any).chain(self.not.as_deref());
        let mut searches = self.request_body.iter().chain(&self.response_body);
        if searches.any(|of| of.patterns().all(<[u8]>::is_empty)) {
            return Some("a condition on a body needs something to look for; set `contains`");
        }
        if self.request_headers.strays(&OF_REQUESTS) {
            return Some("requests have no status");
        }
        if self.response_headers.strays(&OF_RESPONSES) {
            return Some("of what begins with a colon, responses have `:status` only");
        }
        if [&self.request_trailers, &self.response_trailers].iter().any(|of| of.strays(&[])) {
            return Some("no trailer begins with a colon");
        }
        inner.into_iter().find_map(Self::problem)
    }
}

impl BodySearch {
    /// What must be in the body.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &[u8]> {
        let texts = self.contains.iter().map(String::as_bytes);
        texts.chain(self.contains_hex.iter().map(|bytes| &*bytes.0))
    }
}
