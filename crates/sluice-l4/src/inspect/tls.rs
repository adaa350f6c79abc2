//! TLS: the ClientHello, read without being consumed.
//!
//! Owns: record and handshake framing up to the first message. Refuses to know: cryptography. Keeps: the result does
//! not depend on how the bytes were cut into segments or records; a hello that is not understood is not TLS.
//!
//! Source: RFC 8446 §4.1.2, §5.1; RFC 6066 §3 (server name); RFC 7301 §3.1 (ALPN). With encrypted ClientHello the name
//! is that of the outer hello, which is what can be routed by.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::borrow::Cow;
use std::rc::Rc;

use sluice_core::facts::{ByteList, FactDef, FactKey};
use sluice_core::{Facts, Protocol, TransportKind};
use sluice_io::{Inspection, Inspector};
use smallvec::SmallVec;

use super::{InspectorDef, need};
use sluice_core::reader::Reader;

/// TLS, whatever it carries.
pub const TLS: Protocol = Protocol::new("tls");

/// The server name in the ClientHello, lower case.
pub static SNI: FactKey<Box<str>> = FactKey::new("tls.sni");

/// The ALPN protocols that the client offers, in its order.
pub static OFFERS: FactKey<ByteList> = FactKey::new("tls.alpn");

/// The stream began with a request for TLS that was granted.
pub static STARTTLS: FactKey<()> = FactKey::new("tls.starttls");

/// The facts of the TLS that is terminated; they hold for the clear text inside as well.
pub static FACTS: [&FactDef; 3] = [SNI.def(), OFFERS.def(), STARTTLS.def()];

pub(super) static TLS_DEF: InspectorDef =
    InspectorDef { protocol: TLS, make: |_| Rc::new(TlsInspector), upgrade: None, words: &[] };

const RECORD_MAX: usize = 16_384;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// ALPN protocols kept per hello; RFC 7301 allows thousands, no client offers ten.
const ALPN_MAX: usize = 16;

/// Recognises TLS and reads server name and ALPN.
#[derive(Debug)]
pub struct TlsInspector;

impl Inspector for TlsInspector {
    fn protocol(&self) -> Protocol {
        TLS
    }

    /// Takes: stream bytes from the first record header on.
    /// Returns: `Match` with server name (lower case) and ALPN, `No`, or `NeedMore`.
    /// Allocates: only what it returns, and once more for a hello split over records.
    fn inspect(&self, prefix: &[u8]) -> Inspection {
        match first_message(prefix) {
            HandshakeMessage::Whole(body) => {
                match read_hello(&body, Facts::new(Some(TLS), TransportKind::Tls)) {
                    Some(facts) => Inspection::Match(facts),
                    None => Inspection::No,
                }
            }
            HandshakeMessage::NeedMore(bytes) => need(bytes),
            HandshakeMessage::NotTls => Inspection::No,
        }
    }
}

/// The result of reading a handshake message without records, as QUIC carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello with these facts.
    Whole(Facts),
    /// More bytes are needed; the whole message has this many, if known.
    NeedMore(Option<usize>),
    /// Not a ClientHello.
    Malformed,
}

/// Reads a ClientHello as far as it has been received.
pub fn read_message(message: &[u8]) -> Hello {
    match expected(message) {
        Expected::NotHello => Hello::Malformed,
        Expected::Unknown => Hello::NeedMore(None),
        Expected::Body(size) => {
            let end = size.saturating_add(4);
            let quic = Facts::new(None, TransportKind::Quic);
            match message.get(4..end).map(|body| read_hello(body, quic)) {
                None => Hello::NeedMore(Some(end)),
                Some(None) => Hello::Malformed,
                Some(Some(facts)) => Hello::Whole(facts),
            }
        }
    }
}

enum HandshakeMessage<'a> {
    Whole(Cow<'a, [u8]>),
    NeedMore(usize),
    NotTls,
}

/// The body of the first handshake message, assembled from as many records as needed.
fn first_message(prefix: &[u8]) -> HandshakeMessage<'_> {
    let mut stream = Reader(prefix);
    let mut gathered: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        // The bytes of a record header received so far must already look like one.
        let header = stream.0;
        let kind_fits = header.first().is_none_or(|kind| *kind == HANDSHAKE);
        let version_fits = header.get(1).is_none_or(|major| *major == 3);
        if !kind_fits || !version_fits {
            return HandshakeMessage::NotTls;
        }
        let (Some(_), Some(length)) = (stream.take(3), stream.u16()) else {
            return HandshakeMessage::NeedMore(1);
        };
        let length = usize::from(length);
        if length == 0 || length > RECORD_MAX {
            return HandshakeMessage::NotTls;
        }
        let available = stream.0.len();
        let Some(fragment) = stream.take(length) else {
            // The type and length of the message may already rule it out.
            let so_far = append(gathered, stream.0);
            return match expected(&so_far) {
                Expected::NotHello => HandshakeMessage::NotTls,
                // The next byte may rule it out.
                Expected::Unknown => HandshakeMessage::NeedMore(1),
                Expected::Body(_) => HandshakeMessage::NeedMore(length.saturating_sub(available)),
            };
        };
        gathered = append(gathered, fragment);
        match expected(&gathered) {
            Expected::NotHello => return HandshakeMessage::NotTls,
            Expected::Unknown => {}
            Expected::Body(size) => {
                let end = size.saturating_add(4);
                if gathered.len() >= end {
                    let body = 4..end;
                    return HandshakeMessage::Whole(match gathered {
                        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(body).unwrap_or_default()),
                        Cow::Owned(bytes) => {
                            Cow::Owned(bytes.get(body).unwrap_or_default().to_vec())
                        }
                    });
                }
            }
        }
    }
}

fn append<'a>(gathered: Cow<'a, [u8]>, fragment: &'a [u8]) -> Cow<'a, [u8]> {
    if gathered.is_empty() {
        return Cow::Borrowed(fragment);
    }
    let mut all = gathered.into_owned();
    all.extend_from_slice(fragment);
    Cow::Owned(all)
}

enum Expected {
    Body(usize),
    Unknown,
    NotHello,
}

/// What the handshake header contains, as far as it has been received.
fn expected(message: &[u8]) -> Expected {
    let mut reader = Reader(message);
    match reader.u8() {
        None => return Expected::Unknown,
        Some(CLIENT_HELLO) => {}
        Some(_) => return Expected::NotHello,
    }
    match reader.array::<3>() {
        Some([high, middle, low]) => {
            let size = u32::from_be_bytes([0, high, middle, low]);
            Expected::Body(usize::try_from(size).unwrap_or(usize::MAX))
        }
        None => Expected::Unknown,
    }
}

/// Adds server name and ALPN of a hello's body to `facts`; `None` if it is malformed.
fn read_hello(body: &[u8], mut facts: Facts) -> Option<Facts> {
    let mut hello = Reader(body);
    let legacy_version = hello.u16()?;
    if legacy_version >> 8 != 3 {
        return None;
    }
    let _random = hello.take(32)?;
    let _session = hello.vector8()?;
    let _suites = hello.vector16()?;
    let _compression = hello.vector8()?;
    if hello.0.is_empty() {
        // TLS 1.2 without extensions is legal.
        return Some(facts);
    }
    let (mut sni, mut alpn) = (None, SmallVec::<[&[u8]; ALPN_MAX]>::new());
    let mut extensions = Reader(hello.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut data = Reader(extensions.vector16()?);
        match kind {
            SERVER_NAME => sni = read_server_name(Reader(data.vector16()?))?,
            ALPN => {
                let mut offers = Reader(data.vector16()?);
                while !offers.0.is_empty() {
                    let offer = offers.vector8()?;
                    if alpn.len() < ALPN_MAX {
                        alpn.push(offer);
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(sni) = sni {
        facts.set(&SNI, sni);
    }
    if !alpn.is_empty() {
        facts.set(&OFFERS, alpn.into_iter().collect());
    }
    Some(facts)
}

/// The host name in a list of names. The outer `None` means malformed, the inner one that there is no host name.
#[allow(clippy::option_option, reason = "malformed and absent are different answers")]
fn read_server_name(mut names: Reader<'_>) -> Option<Option<Box<str>>> {
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.vector16()?;
        if kind == 0 {
            let fits =
                !name.is_empty() && name.len() <= 255 && name.iter().all(u8::is_ascii_graphic);
            let text = std::str::from_utf8(name).ok().filter(|_| fits)?;
            // A trailing dot is not part of a name in TLS, but some clients send it.
            let text = text.strip_suffix('.').unwrap_or(text);
            return Some(Some(text.to_ascii_lowercase().into_boxed_str()));
        }
    }
    Some(None)
}
