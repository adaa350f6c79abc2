//! The two kinds of rustls session behind one interface, and the loop that feeds them.
//!
//! Owns: no bytes; takes slices and reports what to discard. Refuses to know: sockets.
//! Keeps: every state of the session is handled, so that a feed never stops short of what the bytes allow.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, ReadEarlyData, UnbufferedStatus,
};
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use sluice_core::Side;
use sluice_core::connection::TlsFacts;

use super::HandshakeError;

/// The size of an encrypted EndOfEarlyData: the header of a record, that of an empty message, its type, and the tag of the
/// cipher. A client sends it if and only if the server has accepted early data (RFC 8446 §4.5), and no other message of
/// TLS has that size; unbuffered sessions do not say otherwise whether early data was accepted.
const END_OF_EARLY_DATA: usize = 5 + 4 + 1 + TAG;

/// The size of the tag of every cipher of TLS 1.3 that rustls has.
const TAG: usize = 16;

/// What encryption adds to a record of TLS 1.3: its header, the type of its content, and the tag.
const RECORD_OVERHEAD: usize = 5 + 1 + TAG;

pub(super) enum Session {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Client(_) => "Client",
        })
    }
}

/// The result of a feed.
pub(super) struct Fed<'a> {
    clear: &'a mut [u8],
    /// Bytes of ciphertext that have been processed.
    pub(super) discard: usize,
    /// Bytes of plaintext written to the caller's slice.
    pub(super) clear_count: usize,
    /// Plaintext that did not fit.
    pub(super) surplus: Vec<u8>,
    /// Plaintext arrived before the handshake was complete (early data).
    pub(super) early: bool,
    /// The session ended its own early data, which a client does if the server takes it.
    pub(super) ended_early: bool,
    /// The peer sent a close_notify.
    pub(super) peer_finished: bool,
    /// Ciphertext to send.
    pub(super) say: Vec<u8>,
}

impl<'a> Fed<'a> {
    pub(super) const fn new(clear: &'a mut [u8]) -> Self {
        Self {
            clear,
            discard: 0,
            clear_count: 0,
            surplus: Vec::new(),
            early: false,
            ended_early: false,
            peer_finished: false,
            say: Vec::new(),
        }
    }

    fn take_clear(&mut self, payload: &[u8]) {
        let fits = payload.len().min(self.clear.len() - self.clear_count);
        self.clear[self.clear_count..self.clear_count + fits].copy_from_slice(&payload[..fits]);
        self.clear_count += fits;
        self.surplus.extend_from_slice(&payload[fits..]);
    }
}

impl Session {
    pub(super) fn feed(
        &mut self,
        cipher: &mut [u8],
        fed: &mut Fed<'_>,
    ) -> Result<(), HandshakeError> {
        match self {
            Self::Server(server) => feed(&mut **server, cipher, fed),
            Self::Client(client) => feed(&mut **client, cipher, fed),
        }
    }

    /// Begins the handshake of a client: writes its hello to `say`, and returns whether early data may follow. If not, the
    /// handshake continues as any other.
    pub(super) fn begin_early(&mut self, say: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        let Self::Client(client) = self else { return Ok(false) };
        loop {
            match client.process_tls_records(&mut []).state? {
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, say),
                ConnectionState::TransmitTlsData(mut data) => {
                    if data.may_encrypt_early_data().is_some() {
                        // Not done: early data can be encrypted only in this state, which lasts until something is fed.
                        return Ok(true);
                    }
                    data.done();
                    return Ok(false);
                }
                _ => return Ok(false),
            }
        }
    }

    /// Encrypts as much of `data`, at most a record, as the server takes early; returns how much that is, and the length
    /// of the ciphertext. Only before anything is fed.
    pub(super) fn encrypt_early(&mut self, data: &[u8], out: &mut [u8]) -> (usize, usize) {
        let Self::Client(client) = self else { return (0, 0) };
        let Ok(ConnectionState::TransmitTlsData(mut transmit)) =
            client.process_tls_records(&mut []).state
        else {
            return (0, 0);
        };
        let Some(mut early) = transmit.may_encrypt_early_data() else { return (0, 0) };
        let written = early.encrypt(data, out).unwrap_or(0);
        (written.saturating_sub(RECORD_OVERHEAD), written)
    }

    /// Encrypts `data` into `out`, which must be large enough; returns the length of the ciphertext.
    pub(super) fn encrypt(
        &mut self,
        partial: &mut [u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, HandshakeError> {
        match self {
            Self::Server(server) => encrypt(&mut **server, partial, data, out),
            Self::Client(client) => encrypt(&mut **client, partial, data, out),
        }
    }

    /// Writes a close_notify into `out`; nothing if it was sent before.
    pub(super) fn close_notify(&mut self, partial: &mut [u8], out: &mut [u8]) -> usize {
        match self {
            Self::Server(server) => close_notify(&mut **server, partial, out),
            Self::Client(client) => close_notify(&mut **client, partial, out),
        }
    }

    fn common(&self) -> &CommonState {
        match self {
            Self::Server(server) => server,
            Self::Client(client) => client,
        }
    }

    /// Whether it is the server side.
    pub(super) const fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// The side that the connection leads to.
    pub(super) const fn peer(&self) -> Side {
        if self.is_server() { Side::Downstream } else { Side::Upstream }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether we must send before anything has arrived: a client's ClientHello.
    pub(super) fn wants_to_speak(&self) -> bool {
        matches!(self, Self::Client(client) if client.is_handshaking() && client.wants_write())
    }

    pub(super) fn facts(&self) -> TlsFacts {
        let common = self.common();
        let client = common.peer_certificates().and_then(|chain| chain.first());
        TlsFacts {
            version: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                Some(ProtocolVersion::TLSv1_3) => "1.3",
                _ => "unknown",
            },
            cipher: common
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            alpn: common.alpn_protocol().map(Into::into),
            client: client.and_then(|der| sluice_tls::client_facts(der)),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            early: false,
        }
    }
}

/// What both kinds of session have in common without a shared trait in rustls.
trait TlsRole {
    type Data;

    fn process<'c, 'i>(&'c mut self, cipher: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Takes what a client sent before its handshake was complete. A server sends nothing so early.
    fn take_early(
        early: ReadEarlyData<'_, '_, Self::Data>,
        fed: &mut Fed<'_>,
    ) -> Result<(), rustls::Error>;

    /// Whether something is queued that `process` will return before it looks at any byte.
    fn has_words(&self) -> bool;
}

impl TlsRole for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, cipher: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(cipher)
    }

    fn take_early(
        mut early: ReadEarlyData<'_, '_, Self::Data>,
        fed: &mut Fed<'_>,
    ) -> Result<(), rustls::Error> {
        while let Some(record) = early.next_record() {
            let record = record?;
            fed.discard += record.discard;
            fed.take_clear(record.payload);
        }
        fed.early = true;
        Ok(())
    }

    fn has_words(&self) -> bool {
        self.wants_write()
    }
}

impl TlsRole for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, cipher: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(cipher)
    }

    fn take_early(
        _: ReadEarlyData<'_, '_, Self::Data>,
        _: &mut Fed<'_>,
    ) -> Result<(), rustls::Error> {
        Err(rustls::Error::General("early data from a server".into()))
    }

    fn has_words(&self) -> bool {
        self.wants_write()
    }
}

fn feed<S: TlsRole>(
    side: &mut S,
    cipher: &mut [u8],
    fed: &mut Fed<'_>,
) -> Result<(), HandshakeError> {
    loop {
        let UnbufferedStatus { discard, state, .. } = side.process(&mut cipher[fed.discard..]);
        fed.discard += discard;
        match state {
            Err(error) => {
                // An alert for the peer may be queued; it is sent before we return. The session has lost its position
                // in the bytes and must not look at them again, which it does not as long as it has output queued.
                while side.has_words()
                    && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                        side.process(&mut []).state
                {
                    encode(&mut data, &mut fed.say);
                }
                return Err(error.into());
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    fed.discard += record.discard;
                    fed.take_clear(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let before = fed.say.len();
                encode(&mut data, &mut fed.say);
                fed.ended_early |= fed.say.len() - before == END_OF_EARLY_DATA;
            }
            // The encoded output is in `say`, and we are responsible for its delivery.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => fed.peer_finished = true,
            Ok(ConnectionState::Closed) => {
                fed.peer_finished = true;
                return Ok(());
            }
            Ok(ConnectionState::ReadEarlyData(early)) => S::take_early(early, fed)?,
            // BlockedHandshake and WriteTraffic: nothing more to do with these bytes.
            Ok(_) => return Ok(()),
        }
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, say: &mut Vec<u8>) {
    let start = say.len();
    // The first attempt reports the required size.
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        say.resize(start + size.required_size, 0);
        let written = data.encode(&mut say[start..]).unwrap_or(0);
        say.truncate(start + written);
    }
}

fn encrypt<S: TlsRole>(
    side: &mut S,
    partial: &mut [u8],
    data: &[u8],
    out: &mut [u8],
) -> Result<usize, HandshakeError> {
    let mut said = Vec::new();
    loop {
        match side.process(partial).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                out[..said.len()].copy_from_slice(&said);
                let count = traffic
                    .encrypt(data, &mut out[said.len()..])
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                return Ok(said.len() + count);
            }
            // A key update that the peer requested goes first.
            ConnectionState::EncodeTlsData(mut data) => encode(&mut data, &mut said),
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(rustls::Error::HandshakeNotComplete.into()),
        }
    }
}

fn close_notify<S: TlsRole>(side: &mut S, partial: &mut [u8], out: &mut [u8]) -> usize {
    loop {
        match side.process(partial).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                return traffic.queue_close_notify(out).unwrap_or(0);
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            _ => return 0,
        }
    }
}
