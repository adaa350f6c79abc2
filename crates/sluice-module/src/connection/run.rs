//! What a library may do in a hook of a connection.
//!
//! Owns: the operations of a hook on its connection and its bytes. Refuses to know: how a library calls them, and what becomes of the
//! connection. Keeps: everything that a library makes grow is bounded; what is lent stays where it is until the hook ends.

use std::rc::Rc;

use sluice_abi::AbiTicket;
use sluice_core::connection::Peer;
use sluice_core::{ConnInfo, SharedValues};
use sluice_io::{DATAGRAM_MAX, WorkerCx};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_sys::module::{ConnectionCall, HostAnswer, HostRefusal, RequestFact};
use sluice_telemetry::Counter;

use crate::lent::{Lent, LogLines};
use crate::values;
use crate::verdict::bounded;
use crate::waits::{ModuleWait, Waits};

/// The most bytes that a library may put in the place of others.
const PIECE_MAX: usize = 1 << 20;

/// What all hooks of a filter on a worker have in common.
#[derive(Debug)]
pub(super) struct OfConnections {
    /// The name of the filter of the library.
    pub(super) filter: String,
    pub(super) listener: String,
    /// By the numbers that the library has.
    pub(super) counters: Vec<Counter>,
    pub(super) waits: Rc<Waits>,
    pub(super) worker: Rc<WorkerCx>,
}

/// What is known of a connection from its beginning to its end.
#[derive(Debug)]
pub(super) struct ConnectionFacts {
    pub(super) id: u64,
    source: Peer,
    peer: Peer,
    local: Peer,
    sni: Option<Box<str>>,
}

impl ConnectionFacts {
    pub(super) fn of(conn: &ConnInfo) -> Self {
        let ConnSubject { id, source, peer, local, sni, .. } = ConnSubject::of(conn);
        Self { id, source, peer, local, sni: sni.map(Into::into) }
    }
}

/// Where a hook runs.
#[derive(Debug)]
pub(super) enum ConnectionPlace<'a> {
    /// When the connection begins, with what is shared about it.
    Opened(&'a ConnInfo, &'a mut SharedValues),
    /// With bytes.
    Bytes(&'a mut Vec<u8>),
    /// With a datagram.
    Datagram(&'a mut Vec<u8>),
    /// When it has ended.
    Ended(&'a ConnInfo),
}

/// A hook of a connection, while it runs.
#[derive(Debug)]
pub(super) struct ConnectionRun<'a> {
    of: &'a OfConnections,
    facts: &'a ConnectionFacts,
    place: ConnectionPlace<'a>,
    /// Why the connection ends.
    note: &'a mut Option<String>,
    /// Made by `connection_suspend`.
    pub(super) wait: Option<ModuleWait>,
    lent: Lent,
    lines: LogLines,
}

impl<'a> ConnectionRun<'a> {
    pub(super) fn new(
        of: &'a OfConnections,
        facts: &'a ConnectionFacts,
        place: ConnectionPlace<'a>,
        note: &'a mut Option<String>,
    ) -> Self {
        let (lent, lines) = (Lent::default(), LogLines::default());
        Self { of, facts, place, note, wait: None, lent, lines }
    }
}

impl ConnectionCall for ConnectionRun<'_> {
    fn fact(&mut self, fact: RequestFact) -> HostAnswer<Option<&[u8]>> {
        let text = match fact {
            RequestFact::Source => self.facts.source.to_string(),
            RequestFact::Peer => self.facts.peer.to_string(),
            RequestFact::Local => self.facts.local.to_string(),
            RequestFact::Sni => {
                return Ok(self.facts.sni.as_deref().map(str::as_bytes));
            }
            RequestFact::Listener => return Ok(Some(self.of.listener.as_bytes())),
            RequestFact::Protocol | RequestFact::Route | RequestFact::Request => return Ok(None),
        };
        self.lent.keep(text)
    }

    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>> {
        let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
        let value = match &self.place {
            ConnectionPlace::Opened(conn, own) => {
                own.named(name).or_else(|| conn.values.named(name))
            }
            ConnectionPlace::Ended(conn) => conn.values.named(name),
            ConnectionPlace::Bytes(_) | ConnectionPlace::Datagram(_) => {
                return Err(HostRefusal::NotNow);
            }
        };
        match value.map(ToString::to_string) {
            Some(text) => self.lent.keep(text),
            None => Ok(None),
        }
    }

    fn set_value(&mut self, name: &[u8], value: &[u8]) -> HostAnswer<()> {
        let ConnectionPlace::Opened(conn, own) = &mut self.place else {
            return Err(HostRefusal::NotNow);
        };
        if conn.values.get(&values::SHARED).is_some() {
            return Err(HostRefusal::NotNow);
        }
        let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
        values::share(own, name, value)
    }

    fn count(&mut self, counter: u32, amount: u64) -> HostAnswer<()> {
        let place = usize::try_from(counter).map_err(|_| HostRefusal::Invalid)?;
        self.of.counters.get(place).ok_or(HostRefusal::Invalid)?.add(amount);
        Ok(())
    }

    fn bytes(&mut self) -> HostAnswer<&[u8]> {
        match &self.place {
            ConnectionPlace::Bytes(bytes) | ConnectionPlace::Datagram(bytes) => Ok(bytes),
            _ => Err(HostRefusal::NotNow),
        }
    }

    fn set_bytes(&mut self, bytes: &[u8]) -> HostAnswer<()> {
        let (place, most) = match &mut self.place {
            ConnectionPlace::Bytes(place) => (place, PIECE_MAX),
            ConnectionPlace::Datagram(place) => (place, DATAGRAM_MAX),
            _ => return Err(HostRefusal::NotNow),
        };
        if bytes.len() > most {
            return Err(HostRefusal::TooLarge);
        }
        // They may be some of those that they replace.
        **place = bytes.to_vec();
        Ok(())
    }

    fn note(&mut self, why: &[u8]) -> HostAnswer<()> {
        self.note.get_or_insert_with(|| bounded(why));
        Ok(())
    }

    fn suspend(&mut self) -> HostAnswer<AbiTicket> {
        // A datagram that waited would be overtaken.
        if matches!(self.place, ConnectionPlace::Ended(_) | ConnectionPlace::Datagram(_)) {
            return Err(HostRefusal::NotNow);
        }
        let of = self.of;
        Ok(self.wait.get_or_insert_with(|| of.waits.begin(&of.worker)).ticket())
    }

    fn log(&mut self, level: i32, line: String) {
        if let Some(line) = self.lines.next(&line) {
            let (filter, connection) = (&*self.of.filter, self.facts.id);
            match level {
                0 => tracing::error!(filter, connection, "{line}"),
                1 => tracing::warn!(filter, connection, "{line}"),
                2 => tracing::info!(filter, connection, "{line}"),
                3 => tracing::debug!(filter, connection, "{line}"),
                _ => tracing::trace!(filter, connection, "{line}"),
            }
        }
    }
}
