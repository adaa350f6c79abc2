//! What the requests of a connection know of it.
//!
//! Owns: the facts that are the same for all of them. Refuses to know: requests. Keeps: they are taken once, when the connection is
//! handed to its handler, and change no more.

use sluice_core::connection::{ClientCertFacts, ConnInfo, Peer, TlsFacts};
use sluice_core::{ConnValues, Name};
use sluice_l4::inspect::tls;
use sluice_l4::rbac::conn::ConnSubject;

/// The facts about a connection that its requests share.
#[derive(Clone, Debug)]
pub struct ConnFacts {
    pub(super) id: u64,
    pub(super) listener: Name,
    pub(super) chain: Option<Name>,
    pub(super) peer: Peer,
    pub(super) local: Peer,
    pub(super) sni: Option<Box<str>>,
    pub(super) tls: Option<Box<TlsFacts>>,
}

impl ConnFacts {
    /// The facts about a connection that was handed to its handler.
    pub fn of(info: &ConnInfo) -> Self {
        Self {
            id: info.id,
            listener: info.listener.clone(),
            chain: info.chain.get().cloned(),
            peer: info.peer,
            local: info.destination(),
            sni: info.nearest_facts().and_then(|facts| facts.get(&tls::SNI)).map(Into::into),
            tls: info.tls.get().cloned(),
        }
    }

    /// The connection of a request from `source`, as policies see it.
    pub(crate) fn subject<'a>(&'a self, source: Peer, values: &'a ConnValues) -> ConnSubject<'a> {
        ConnSubject {
            id: self.id,
            source,
            peer: self.peer,
            local: self.local,
            sni: self.sni.as_deref(),
            tls: self.tls.as_deref(),
            values,
        }
    }

    /// The number of the connection.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The listener.
    pub const fn listener(&self) -> &Name {
        &self.listener
    }

    /// The address that the client connected to.
    pub const fn local(&self) -> Peer {
        self.local
    }

    /// The server name in the ClientHello.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// What TLS termination found; `None` without TLS.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_deref()
    }

    /// The remote address of the socket.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// What the client's certificate says, if it sent one.
    pub(crate) fn client_certificate(&self) -> Option<&ClientCertFacts> {
        self.tls.as_ref()?.client.as_deref()
    }
}
