//! What is known of a QUIC connection, for access logs, admin pages and metrics.
//!
//! Owns: the conversion of what the library counts. Refuses to know: what reads it. Keeps: reading changes nothing; the
//! path of a connection is counted once, when it ends.

use std::cell::Cell;
use std::rc::Rc;

use quinn::Connection;
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use sluice_core::connection::{PathFacts, QuicPath, TlsFacts};

use crate::listener::QuicListener;

/// Returns the facts of a handshake.
pub(crate) fn facts_of(connection: &Connection) -> TlsFacts {
    let said = connection.handshake_data().and_then(|said| said.downcast::<HandshakeData>().ok());
    let chain = connection.peer_identity();
    let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let client = chain.as_ref().and_then(|chain| chain.first());
    TlsFacts {
        version: "1.3",
        // The library does not report it.
        cipher: "unknown",
        alpn: said.and_then(|said| said.protocol).map(Vec::into_boxed_slice),
        client: client.and_then(|der| sluice_tls::client_facts(der)),
        // Nor this.
        resumed: false,
        early: false,
    }
}

/// Returns the path of a connection of `listener`, read on demand.
pub(crate) fn path_of(connection: &Connection, listener: Rc<QuicListener>) -> Box<dyn QuicPath> {
    let early = Cell::new(false);
    Box::new(ObservedPath { connection: connection.clone(), listener, early })
}

#[derive(Debug)]
struct ObservedPath {
    connection: Connection,
    listener: Rc<QuicListener>,
    early: Cell<bool>,
}

impl QuicPath for ObservedPath {
    fn facts(&self) -> PathFacts {
        let counted = self.connection.stats();
        PathFacts {
            version: "v1",
            client: self.connection.remote_address(),
            rtt: counted.path.rtt,
            mtu: counted.path.current_mtu,
            packets_sent: counted.path.sent_packets,
            packets_lost: counted.path.lost_packets,
            // A client that migrates validates its new address, RFC 9000 §8.2.
            migrations: counted.frame_rx.path_response,
            early_data: self.early.get(),
        }
    }

    fn note_early(&self) {
        self.early.set(true);
    }

    fn ended(&self) {
        self.listener.count_path(&self.facts());
    }
}
