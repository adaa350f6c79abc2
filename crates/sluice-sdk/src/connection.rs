//! Connection filters.
//!
//! Owns: what a connection filter implements, and what it may do. Refuses to know: how the host is called. Keeps: reading borrows the
//! connection, and changing borrows it alone.

use std::marker::PhantomData;

use sluice_abi::{AbiConnection, step};

use crate::raw::connection as raw;
use crate::request::Ticket;
use crate::{Config, Fact, Refusal};

/// A connection filter: what a library makes of a configuration. All threads share it. Exported with
/// [`connection_module!`](crate::connection_module).
pub trait ConnectionModule: Send + Sync + Sized + 'static {
    /// What it remembers of a connection.
    type State: 'static;

    /// Whether it has to do with bytes. Then it can only be used where a relay moves them, which copies them for it.
    const BYTES: bool;

    /// Whether it has to do with the datagrams of UDP flows.
    const DATAGRAMS: bool = false;

    /// Makes a filter of the text of a configuration; `filter` is the `name` of the settings.
    ///
    /// # Errors
    /// Why it cannot be used; `sluice check` prints it.
    fn new(config: &mut Config<'_>, filter: &str, text: &str) -> Result<Self, String>;

    /// A connection begins.
    fn begin(&self, connection: &mut Connection<'_>) -> Self::State;

    /// Whether it is served.
    fn opened(&self, _: &mut Self::State, _: &mut Connection<'_>) -> ConnectionStep {
        ConnectionStep::Continue
    }

    /// Bytes from the client; `end` if none follow.
    fn received(&self, _: &mut Self::State, _: &mut Connection<'_>, _end: bool) -> ConnectionStep {
        ConnectionStep::Continue
    }

    /// Bytes to the client; `end` if none follow.
    fn sent(&self, _: &mut Self::State, _: &mut Connection<'_>, _end: bool) -> ConnectionStep {
        ConnectionStep::Continue
    }

    /// A datagram of the client: [`Connection::bytes`] is it, and may be replaced.
    fn datagram_received(&self, _: &mut Self::State, _: &mut Connection<'_>) -> DatagramStep {
        DatagramStep::Forward
    }

    /// A datagram to the client.
    fn datagram_sent(&self, _: &mut Self::State, _: &mut Connection<'_>) -> DatagramStep {
        DatagramStep::Forward
    }

    /// What `event` waited for ([`ConnectionStep::Wait`]) has happened; decides what it left open.
    fn resumed(
        &self,
        _: &mut Self::State,
        _: &mut Connection<'_>,
        _event: ConnectionEvent,
    ) -> ConnectionStep {
        ConnectionStep::Continue
    }

    /// The connection has ended.
    fn end(&self, _: Self::State, _: &mut Connection<'_>) {}
}

/// What becomes of a connection after a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ConnectionStep {
    /// It goes on.
    Continue = step::CONTINUE,
    /// It waits for the ticket of [`Connection::suspend`].
    Wait = step::WAIT,
    /// The filter failed.
    Fail = step::FAIL,
    /// It is refused; once it is open, it ends.
    Close = step::CLOSE,
}

/// What becomes of a datagram after a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum DatagramStep {
    /// It is forwarded.
    Forward = step::CONTINUE,
    /// The filter failed.
    Fail = step::FAIL,
    /// Its flow ends.
    Close = step::CLOSE,
    /// It is dropped.
    Drop = step::DROP,
}

/// A hook that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// [`ConnectionModule::opened`].
    Opened,
    /// [`ConnectionModule::received`].
    Received,
    /// [`ConnectionModule::sent`].
    Sent,
}

/// A connection, in the hook that gets it.
#[derive(Debug)]
pub struct Connection<'a> {
    pub(crate) handle: AbiConnection,
    pub(crate) of_call: PhantomData<&'a mut *mut ()>,
}

impl Connection<'_> {
    /// A fact; those about requests are missing.
    ///
    /// # Errors
    /// It is too large.
    pub fn fact(&self, fact: Fact) -> Result<Option<&[u8]>, Refusal> {
        raw::fact(self, fact as i32)
    }

    /// A value that filters share about the connection.
    ///
    /// # Errors
    /// It is a hook for bytes.
    pub fn value(&self, name: &str) -> Result<Option<&[u8]>, Refusal> {
        raw::value(self, name)
    }

    /// Shares a value, `%VALUE(module.values.NAME)%`.
    ///
    /// # Errors
    /// It is no hook for the beginning, another library has shared some, there is no room for it, or it is no text.
    pub fn set_value(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        raw::value_set(self.handle, name, value)
    }

    /// Counts.
    ///
    /// # Errors
    /// The configuration has no such counter.
    pub fn count(&mut self, counter: u32, amount: u64) -> Result<(), Refusal> {
        raw::count(self.handle, counter, amount)
    }

    /// The bytes at hand; the datagram, in a hook for one.
    ///
    /// # Errors
    /// It is no hook for bytes.
    pub fn bytes(&self) -> Result<&[u8], Refusal> {
        raw::piece(self)
    }

    /// Replaces them; none hold them back.
    ///
    /// # Errors
    /// It is no hook for bytes, or there are more than 1 MiB; more than 65507 bytes of a datagram.
    pub fn set_bytes(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        raw::piece_set(self.handle, bytes)
    }

    /// Says for the record why the connection ends.
    ///
    /// # Errors
    /// It is too large.
    pub fn note(&mut self, why: &str) -> Result<(), Refusal> {
        raw::note(self.handle, why)
    }

    /// Says for the record why the connection ends, and returns the step that ends it.
    pub fn close(&mut self, why: &str) -> ConnectionStep {
        match raw::note(self.handle, why) {
            Ok(()) => ConnectionStep::Close,
            Err(_) => ConnectionStep::Fail,
        }
    }

    /// A ticket that ends the wait of this hook, which then returns [`ConnectionStep::Wait`].
    ///
    /// # Errors
    /// There is nothing that could wait.
    pub fn suspend(&mut self) -> Result<Ticket, Refusal> {
        raw::suspend(self.handle).map(Ticket::new)
    }
}
