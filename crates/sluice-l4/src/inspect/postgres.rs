//! PostgreSQL by its first message.
//!
//! Owns: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage. Refuses to know: what follows.
//! Source: PostgreSQL documentation, "Message Formats" and "SSL Session Encryption".
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::rc::Rc;

use sluice_core::facts::FactKey;
use sluice_core::{Facts, Protocol};
use sluice_io::{Inspection, Inspector};
use sluice_telemetry::Operator;

use super::{InspectorDef, TlsUpgrade, WordFact, need};
use sluice_core::reader::Reader;

/// PostgreSQL.
pub const POSTGRES: Protocol = Protocol::new("postgres");

/// The user of the startup message.
pub static USER: WordFact = WordFact {
    key: FactKey::new("postgres.user"),
    protocol: POSTGRES,
    as_read: name_of,
    operator: Operator::plain("POSTGRES_USER", "The PostgreSQL user."),
};

/// The database of the startup message; defaults to the user.
pub static DATABASE: WordFact = WordFact {
    key: FactKey::new("postgres.database"),
    protocol: POSTGRES,
    as_read: name_of,
    operator: Operator::plain("POSTGRES_DATABASE", "The PostgreSQL database."),
};

pub(super) static DEF: InspectorDef = InspectorDef {
    protocol: POSTGRES,
    make: |needs| Rc::new(PostgresInspector { grant_tls: needs.grants_tls(POSTGRES) }),
    upgrade: Some(TlsUpgrade { request: SSL_REQUEST, granted: GRANTED, alpn: ALPN }),
    words: &[&DATABASE, &USER],
};

/// Asks a server for TLS, which it grants with [`GRANTED`].
pub(super) const SSL_REQUEST: &[u8; 8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The byte that grants TLS.
const GRANTED: u8 = b'S';

/// The ALPN of a client that starts TLS without a request.
const ALPN: &[u8] = b"postgresql";

const SSL_CODE: u32 = 80_877_103;
const GSS_CODE: u32 = 80_877_104;
const CANCEL_CODE: u32 = 80_877_102;

/// The largest startup packet that a server accepts (`MAX_STARTUP_PACKET_LENGTH`).
const STARTUP_MAX: usize = 10_000;

/// Bytes of a name that a server uses (`NAMEDATALEN` less one); the rest of a longer name is cut off.
const NAME_MAX: usize = 63;

/// A name as the server reads it.
fn name_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..NAME_MAX).unwrap_or(bytes)).into_owned()
}

/// Recognises PostgreSQL; reads user and database.
#[derive(Debug)]
pub struct PostgresInspector {
    /// Whether a request for TLS is granted.
    pub grant_tls: bool,
}

impl Inspector for PostgresInspector {
    fn protocol(&self) -> Protocol {
        POSTGRES
    }

    fn inspect(&self, prefix: &[u8]) -> Inspection {
        let mut reader = Reader(prefix);
        // A length of at most 10000 begins with two zero bytes, unlike any text and unlike TLS.
        if prefix.iter().take(2).any(|byte| *byte != 0) {
            return Inspection::No;
        }
        let (Some(length), Some(code)) = (reader.u32(), reader.u32()) else {
            return need(1);
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match (code, length) {
            (SSL_CODE, 8) if self.grant_tls => {
                Inspection::Reply { bytes: b"S", consumed: 8, starttls: true }
            }
            (SSL_CODE | GSS_CODE, 8) => {
                Inspection::Reply { bytes: b"N", consumed: 8, starttls: false }
            }
            // Newer servers issue longer keys.
            (CANCEL_CODE, 16..=272) => Inspection::Match(Facts::of(POSTGRES)),
            (_, 9..=STARTUP_MAX) if code >> 16 == 3 => {
                let body = length.saturating_sub(8);
                match reader.take(body) {
                    Some(parameters) => read_startup(Reader(parameters)),
                    None => need(body.saturating_sub(reader.0.len())),
                }
            }
            _ => Inspection::No,
        }
    }
}

fn read_startup(mut parameters: Reader<'_>) -> Inspection {
    let (mut user, mut database) = (None, None);
    loop {
        let Some(key) = parameters.until_zero() else { return Inspection::No };
        if key.is_empty() {
            break;
        }
        let Some(value) = parameters.until_zero() else { return Inspection::No };
        let slot = match key {
            b"user" => &mut user,
            b"database" => &mut database,
            _ => continue,
        };
        // The server treats an empty name as absent, and an absent database as the user's name.
        *slot = (!value.is_empty()).then(|| name_of(value).into_boxed_str());
    }
    let mut facts = Facts::of(POSTGRES);
    if let Some(database) = database.or_else(|| user.clone()) {
        facts.set(&DATABASE.key, database);
    }
    if let Some(user) = user {
        facts.set(&USER.key, user);
    }
    Inspection::Match(facts)
}
