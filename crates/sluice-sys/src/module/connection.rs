//! Connections, as a library knows them.
//!
//! Owns: the objects that a library makes of connections, and the calls of their hooks. Refuses to know: bytes, and what becomes of
//! a connection. Keeps: an object is freed once, after the last hook.

use std::ffi::c_void;
use std::sync::Arc;

use sluice_abi::{AbiConnection, ConnectionHookFn, connection_hook, result};

use super::{ConnectionCall, Module, ModuleConfig, call};

/// A hook of a library for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ConnectionHook {
    /// It begins.
    Opened = connection_hook::OPENED,
    /// Bytes from the client.
    Received = connection_hook::RECEIVED,
    /// Bytes to the client.
    Sent = connection_hook::SENT,
}

/// A hook of a library for datagrams, which never waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramHook {
    /// From the client.
    Received,
    /// To the client.
    Sent,
}

/// A connection, as a library knows it. Stays on its thread.
#[derive(Debug)]
pub struct ModuleConnection {
    config: Arc<ModuleConfig>,
    number: u64,
    state: *mut c_void,
    ended: bool,
}

impl Module {
    const fn connection_hook(&self, hook: ConnectionHook) -> Option<ConnectionHookFn> {
        match hook {
            ConnectionHook::Opened => self.table.connection_opened,
            ConnectionHook::Received => self.table.connection_received,
            ConnectionHook::Sent => self.table.connection_sent,
        }
    }

    const fn datagram_hook(&self, hook: DatagramHook) -> Option<ConnectionHookFn> {
        match hook {
            DatagramHook::Received => self.table.datagram_received,
            DatagramHook::Sent => self.table.datagram_sent,
        }
    }

    /// Whether it has a hook for connections.
    pub const fn filters_connections(&self) -> bool {
        self.table.connection_opened.is_some() || self.filters_bytes() || self.filters_datagrams()
    }

    /// Whether it has a hook for datagrams.
    pub const fn filters_datagrams(&self) -> bool {
        self.table.datagram_received.is_some() || self.table.datagram_sent.is_some()
    }

    /// Whether it has no other hook.
    pub const fn is_for_datagrams_only(&self) -> bool {
        self.filters_datagrams() && !self.filters_bytes() && self.table.connection_opened.is_none()
    }

    /// Whether it has a hook for their bytes.
    pub const fn filters_bytes(&self) -> bool {
        self.table.connection_received.is_some() || self.table.connection_sent.is_some()
    }
}

impl ModuleConfig {
    /// Begins a connection with that number, which no other of this process has.
    ///
    /// # Errors
    /// What the library returned in place of 0.
    pub fn connect(
        self: &Arc<Self>,
        number: u64,
        call: &mut dyn ConnectionCall,
    ) -> Result<ModuleConnection, i32> {
        let mut state = std::ptr::null_mut();
        if let Some(new) = self.module.table.connection_new {
            let object = self.object;
            let made = call::enter_connection(number, call, |connection| {
                // SAFETY: the function has this type by the header; the place is valid during the call.
                unsafe { new(connection, object, &raw mut state) }
            });
            if made != result::OK {
                return Err(made);
            }
        }
        Ok(ModuleConnection { config: Arc::clone(self), number, state, ended: false })
    }
}

impl ModuleConnection {
    /// Runs a hook and returns what it returned; `None` if the library has no such hook. `end` says whether no bytes follow.
    pub fn hook(
        &mut self,
        hook: ConnectionHook,
        call: &mut dyn ConnectionCall,
        end: bool,
    ) -> Option<i32> {
        Some(self.run(self.config.module.connection_hook(hook)?, call, i32::from(end)))
    }

    /// As [`Self::hook`], for a datagram.
    pub fn datagram(&mut self, hook: DatagramHook, call: &mut dyn ConnectionCall) -> Option<i32> {
        Some(self.run(self.config.module.datagram_hook(hook)?, call, 0))
    }

    /// As [`Self::hook`], once what `hook` waited for has happened.
    pub fn resumed(&mut self, hook: ConnectionHook, call: &mut dyn ConnectionCall) -> Option<i32> {
        Some(self.run(self.config.module.table.connection_resumed?, call, hook as i32))
    }

    fn run(&mut self, hook: ConnectionHookFn, call: &mut dyn ConnectionCall, argument: i32) -> i32 {
        let (object, state) = (self.config.object, self.state);
        call::enter_connection(self.number, call, |connection| {
            // SAFETY: the function has this type by the header; the objects are the library's own, and were not freed.
            unsafe { hook(connection, object, state, argument) }
        })
    }

    /// Ends the connection.
    pub fn end(mut self, call: &mut dyn ConnectionCall) {
        self.ended = true;
        if let Some(end) = self.config.module.table.connection_end {
            let (object, state) = (self.config.object, self.state);
            call::enter_connection(self.number, call, |connection| {
                // SAFETY: as in `run`; `ended` sees to it that this is the only time.
                unsafe { end(connection, object, state) }
            });
        }
    }
}

impl Drop for ModuleConnection {
    fn drop(&mut self) {
        if let Some(end) = self.config.module.table.connection_end
            && !self.ended
        {
            // Nothing of the connection is at hand: functions of the host say so.
            let connection = AbiConnection { id: self.number };
            call::outside(|| {
                // SAFETY: as in `end`.
                unsafe { end(connection, self.config.object, self.state) }
            });
        }
    }
}
