//! The names of the headers that Sluice itself looks at.
//!
//! Owns: the table and the look-up. Refuses to know: what the headers mean. Keeps: a name is found whatever its case; a
//! look-up costs a comparison or two.

mod field_name;

pub(crate) use field_name::{FieldName, PseudoField};

macro_rules! known {
    ($($variant:ident = $text:literal,)+) => {
        /// A header name that has a number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each is the name of its field")]
        pub enum Known { $($variant,)+ }

        const TABLE: &[(&str, Known)] = &[$(($text, Known::$variant),)+];
    };
}

known! {
    Host = "host",
    Connection = "connection",
    ContentLength = "content-length",
    ContentType = "content-type",
    TransferEncoding = "transfer-encoding",
    Te = "te",
    Trailer = "trailer",
    Upgrade = "upgrade",
    KeepAlive = "keep-alive",
    ProxyConnection = "proxy-connection",
    Http2Settings = "http2-settings",
    Expect = "expect",
    Cookie = "cookie",
    SetCookie = "set-cookie",
    Date = "date",
    Server = "server",
    Location = "location",
    UserAgent = "user-agent",
    Referer = "referer",
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    Authorization = "authorization",
    XForwardedFor = "x-forwarded-for",
    XForwardedProto = "x-forwarded-proto",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XRequestId = "x-request-id",
    XSluiceHops = "x-sluice-hops",
    Forwarded = "forwarded",
    Traceparent = "traceparent",
    GrpcStatus = "grpc-status",
    GrpcMessage = "grpc-message",
    GrpcTimeout = "grpc-timeout",
    SecWebSocketKey = "sec-websocket-key",
    SecWebSocketAccept = "sec-websocket-accept",
    RetryAfter = "retry-after",
    AltSvc = "alt-svc",
}

impl Known {
    /// How many known names there are.
    pub const COUNT: usize = TABLE.len();

    /// Returns the name in lower case.
    pub const fn text(self) -> &'static str {
        TABLE[self as usize].0
    }

    /// Returns the known name equal to `name`, in any case.
    pub fn of(name: &[u8]) -> Option<Self> {
        let candidates = *BY_LENGTH.get(name.len())?;
        let words = words(name);
        candidates.iter().find(|known| PATTERNS[**known as usize].is_matched_by(words)).copied()
    }

    /// Returns the known name that is `name`, in lower case, for tables that are made by the compiler.
    pub(crate) const fn of_constant(name: &str) -> Option<Self> {
        let mut at = 0;
        while at < Self::COUNT {
            if same_text(TABLE[at].0.as_bytes(), name.as_bytes()) {
                return Some(TABLE[at].1);
            }
            at += 1;
        }
        None
    }

    /// Whether the header is hop-by-hop and never forwarded, RFC 9110 §7.6.1.
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
        )
    }

    /// Whether the header is not allowed in trailers, where it would change how the part already read is to be
    /// understood, RFC 9110 §6.5.1.
    pub const fn is_barred_from_trailers(self) -> bool {
        self.is_hop_by_hop()
            || matches!(
                self,
                Self::Host
                    | Self::ContentLength
                    | Self::ContentType
                    | Self::Te
                    | Self::Trailer
                    | Self::Expect
                    | Self::Authorization
                    | Self::Cookie
                    | Self::SetCookie
            )
    }
}

const fn same_text(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([a, rest @ ..], [b, other_rest @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (rest, other_rest);
    }
    one.is_empty() && other.is_empty()
}

const LENGTH_MAX: usize = 24;

/// A name of which the length is known, as integers that contain every byte of it; they overlap. Names of one byte and
/// of three have none, since no known name has that length.
const fn words(name: &[u8]) -> [u64; 3] {
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u64::from_ne_bytes(*first), u64::from_ne_bytes(*last));
        return match name.split_at(8).1.first_chunk() {
            Some(middle) => [first, u64::from_ne_bytes(*middle), last],
            None => [first, 0, last],
        };
    }
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        return [u32::from_ne_bytes(*first) as u64, 0, u32::from_ne_bytes(*last) as u64];
    }
    match name {
        [first, last] => [*first as u64, 0, *last as u64],
        _ => [0; 3],
    }
}

/// A known name, for comparisons that ignore case.
struct KnownPattern {
    /// The name in lower case.
    lower: [u64; 3],
    /// The bit that distinguishes the cases, where the name has a letter.
    case: [u64; 3],
}

impl KnownPattern {
    const fn of(name: &[u8]) -> Self {
        let mut case = [0; LENGTH_MAX];
        let mut at = 0;
        while at < name.len() {
            if name[at].is_ascii_alphabetic() {
                case[at] = 0x20;
            }
            at += 1;
        }
        Self { lower: words(name), case: words(case.split_at(name.len()).0) }
    }

    const fn is_matched_by(&self, name: [u64; 3]) -> bool {
        let ([a, b, c], [case_a, case_b, case_c]) = (name, self.case);
        let [lower_a, lower_b, lower_c] = self.lower;
        (a | case_a) ^ lower_a | (b | case_b) ^ lower_b | (c | case_c) ^ lower_c == 0
    }
}

static PATTERNS: [KnownPattern; Known::COUNT] = {
    let mut patterns = [const { KnownPattern::of(b"") }; Known::COUNT];
    let mut at = 0;
    while at < Known::COUNT {
        patterns[at] = KnownPattern::of(TABLE[at].0.as_bytes());
        at += 1;
    }
    patterns
};

/// Names by their length, so that most look-ups compare once.
static BY_LENGTH: [&[Known]; LENGTH_MAX] = [
    &[],
    &[],
    &[Known::Te],
    &[],
    &[Known::Host, Known::Date],
    &[],
    &[Known::Accept, Known::Expect, Known::Cookie, Known::Server],
    &[Known::Upgrade, Known::Trailer, Known::Referer, Known::AltSvc],
    &[Known::Location],
    &[Known::Forwarded],
    &[Known::UserAgent, Known::Connection, Known::KeepAlive, Known::SetCookie],
    &[Known::GrpcStatus, Known::Traceparent, Known::RetryAfter],
    &[Known::ContentType, Known::XRequestId, Known::GrpcMessage, Known::GrpcTimeout],
    &[Known::Authorization, Known::XSluiceHops],
    &[Known::ContentLength, Known::Http2Settings],
    &[Known::AcceptEncoding, Known::XForwardedFor],
    &[Known::ProxyConnection, Known::XForwardedHost, Known::XForwardedPort],
    &[Known::TransferEncoding, Known::XForwardedProto, Known::SecWebSocketKey],
    &[],
    &[],
    &[Known::SecWebSocketAccept],
    &[],
    &[],
    &[],
];

/// Whether `name` is a token, RFC 9110 §5.6.2.
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().copied().all(is_token_byte)
}

/// Whether a byte is allowed in a token.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether a byte is allowed in a host that is not an IPv6 literal: the bytes of RFC 3986 §3.2.2, and others that some
/// clients send and that no parser reads as the end of the host.
pub(crate) const fn is_host_byte(byte: u8) -> bool {
    HOST[byte as usize]
}

static HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = !matches!(
            byte,
            b'/' | b'?' | b'#' | b'@' | b'\\' | b',' | b'<' | b'>' | b'"' | b':' | b'[' | b']'
        );
        byte += 1;
    }
    table
};

/// The characters of a token.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "below 256")]
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

/// Whether `value` is a valid header value: no control characters but tab, RFC 9110 §5.5.
pub fn is_field_value(value: &[u8]) -> bool {
    let fits = |byte: &u8| (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t';
    let Some(last) = value.last_chunk::<8>() else { return value.iter().all(fits) };
    // Eight bytes at once; the last eight may overlap those before.
    let odd =
        value.as_chunks().0.iter().fold(has_control(*last), |odd, eight| odd | has_control(*eight));
    !odd || value.iter().all(fits)
}

/// A one in each of eight bytes.
const ONES: u64 = u64::MAX / 0xff;
/// The highest bit of each of eight bytes.
const HIGH: u64 = ONES * 0x80;

/// Where the name of a header line ends: at its first colon.
pub(crate) fn find_colon(line: &[u8]) -> Option<usize> {
    const COLONS: u64 = ONES * b':' as u64;
    // Eight bytes at once, since names are short.
    let (eights, rest) = line.as_chunks();
    for (nth, eight) in eights.iter().enumerate() {
        let other = u64::from_le_bytes(*eight) ^ COLONS;
        // The lowest bit that this sets is in the first byte that is zero.
        let zeros = other.wrapping_sub(ONES) & !other & HIGH;
        if zeros != 0 {
            return Some(8 * nth + zeros.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|byte| *byte == b':').map(|place| line.len() - rest.len() + place)
}

/// Makes a name lower case.
pub(crate) fn make_lower(name: &mut [u8]) {
    if name.len() < 8 {
        return name.make_ascii_lowercase();
    }
    // Eight bytes at once; the last eight may overlap those before.
    name.as_chunks_mut().0.iter_mut().for_each(make_eight_lower);
    name.last_chunk_mut().into_iter().for_each(make_eight_lower);
}

fn make_eight_lower(bytes: &mut [u8; 8]) {
    let word = u64::from_le_bytes(*bytes);
    let low = word & !HIGH;
    // Of each byte, the highest bit: whether it is at least `A`, and whether it is above `Z`.
    let from_a = low + ONES * (0x80 - u64::from(b'A'));
    let above_z = low + ONES * (0x7f - u64::from(b'Z'));
    let upper = (from_a ^ above_z) & !word & HIGH;
    *bytes = (word | upper >> 2).to_le_bytes();
}

/// Whether one of the bytes is a control character, tab included.
const fn has_control(bytes: [u8; 8]) -> bool {
    let bytes = u64::from_le_bytes(bytes);
    let below_space = bytes.wrapping_sub(ONES * 0x20) & !bytes;
    let other = bytes ^ (ONES * 0x7f);
    let is_delete = other.wrapping_sub(ONES) & !other;
    (below_space | is_delete) & HIGH != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for (text, known) in TABLE {
            assert_eq!(Known::of(text.as_bytes()), Some(*known), "{text}");
            assert_eq!(Known::of(text.to_ascii_uppercase().as_bytes()), Some(*known), "{text}");
            assert_eq!((known.text(), Known::of_constant(text)), (*text, Some(*known)));
        }
        assert_eq!((Known::of(b"x-unknown"), Known::of_constant("hos")), (None, None));
        for (text, known) in TABLE {
            for place in 0..text.len() {
                for byte in 0..=u8::MAX {
                    let mut name = text.as_bytes().to_vec();
                    name[place] = byte;
                    let same = byte.eq_ignore_ascii_case(&text.as_bytes()[place]);
                    assert_eq!(
                        Known::of(&name) == Some(*known),
                        same,
                        "{byte} at {place} of {text}"
                    );
                }
            }
        }
        assert_eq!(Known::of(&[b'a'; 300]), None);
    }

    #[test]
    fn every_byte_at_every_place_is_made_lower_and_told_from_a_colon() {
        for length in 1_usize..20 {
            for byte in 0..=u8::MAX {
                for place in 0..length {
                    let mut name: Vec<u8> =
                        b"aZ@[`{\xc1\xda:;".iter().cycle().take(length).copied().collect();
                    name[place] = byte;
                    assert_eq!(
                        find_colon(&name),
                        name.iter().position(|byte| *byte == b':'),
                        "{name:?}"
                    );
                    let lower = name.to_ascii_lowercase();
                    make_lower(&mut name);
                    assert_eq!(name, lower);
                }
            }
        }
        assert_eq!(find_colon(b""), None);
    }

    #[test]
    fn tokens_and_values() {
        assert!(is_token(b"x-a.b_c!") && !is_token(b"") && !is_token(b"a b") && !is_token(b"a:b"));
        assert!(is_field_value(b"a\tb \xff") && is_field_value(b""));
        // Every byte at every place of values that are read in one step, in several, and in none.
        for length in [1_usize, 7, 8, 9, 15, 16, 17, 31] {
            for byte in 0..=u8::MAX {
                for place in 0..length {
                    let mut value = vec![b'\xff'; length];
                    value[place] = byte;
                    let fits = (byte >= b' ' && byte != 0x7f) || byte == b'\t';
                    assert_eq!(is_field_value(&value), fits, "{byte} at {place} of {length}");
                }
            }
        }
    }
}
