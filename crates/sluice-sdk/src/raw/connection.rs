//! Both sides of the interface for connections.
//!
//! Owns: the table of a connection filter, and the calls of the host for connections. Refuses to know: what filters do. Keeps: as the
//! module above, on whose rules the blocks below lean.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sluice_abi::{AbiConnection, AbiText, AbiTicket, connection_hook, result, step};

use super::{Made, Table, bytes, config_free, config_new, done, empty, host, text};
use crate::connection::{Connection, ConnectionEvent, ConnectionModule, ConnectionStep};
use crate::request::{Config, Refusal};

/// The objects of connection filters.
struct OfConnections<F>(PhantomData<F>);

impl<F: ConnectionModule> Made for OfConnections<F> {
    type Object = F;

    fn make(config: &mut Config<'_>, name: &str, text: &str) -> Result<F, String> {
        F::new(config, name, text)
    }
}

/// Makes the table of a library with that connection filter.
pub const fn connection_table<F: ConnectionModule>(name: &'static str) -> Table {
    let mut table = empty(name);
    table.config_new = Some(config_new::<OfConnections<F>>);
    table.config_free = Some(config_free::<F>);
    table.connection_new = Some(connection_new::<F>);
    table.connection_end = Some(connection_end::<F>);
    table.connection_opened = Some(opened::<F>);
    table.connection_resumed = Some(resumed::<F>);
    if F::BYTES {
        table.connection_received = Some(received::<F>);
        table.connection_sent = Some(sent::<F>);
    }
    if F::DATAGRAMS {
        table.datagram_received = Some(datagram_received::<F>);
        table.datagram_sent = Some(datagram_sent::<F>);
    }
    Table { module: table, minor: if F::DATAGRAMS { 2 } else { 1 } }
}

fn connection_of<'a>(handle: AbiConnection) -> Connection<'a> {
    Connection { handle, of_call: PhantomData }
}

unsafe extern "C" fn connection_new<F: ConnectionModule>(
    handle: AbiConnection,
    object: *mut c_void,
    state: *mut *mut c_void,
) -> i32 {
    // SAFETY: from `config_new`, and not freed before its connections have ended.
    let filter = unsafe { &*object.cast::<F>() };
    let begun = catch_unwind(AssertUnwindSafe(|| filter.begin(&mut connection_of(handle))));
    let Ok(begun) = begun else { return result::INTERNAL };
    // SAFETY: the place of the host.
    unsafe { state.write(Box::into_raw(Box::new(begun)).cast()) };
    result::OK
}

unsafe extern "C" fn connection_end<F: ConnectionModule>(
    handle: AbiConnection,
    object: *mut c_void,
    state: *mut c_void,
) {
    // The connection has ended, so that a panic cannot change it any more; it must not unwind into the host.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as in `connection_new`.
        let filter = unsafe { &*object.cast::<F>() };
        // SAFETY: from `connection_new`, once.
        let state = unsafe { Box::from_raw(state.cast::<F::State>()) };
        filter.end(*state, &mut connection_of(handle));
    }));
}

/// Runs a hook.
///
/// # Safety
/// The objects are those of `config_new` and `connection_new`.
unsafe fn hook<F: ConnectionModule>(
    handle: AbiConnection,
    object: *mut c_void,
    state: *mut c_void,
    run: impl FnOnce(&F, &mut F::State, &mut Connection<'_>) -> i32,
) -> i32 {
    // SAFETY: by the promise of the caller.
    let filter = unsafe { &*object.cast::<F>() };
    // SAFETY: by the promise of the caller; hooks of a connection never overlap.
    let state = unsafe { &mut *state.cast::<F::State>() };
    let step = catch_unwind(AssertUnwindSafe(|| run(filter, state, &mut connection_of(handle))));
    step.unwrap_or(step::FAIL)
}

macro_rules! hooks {
    ($($name:ident => |$filter:ident, $state:ident, $connection:ident, $argument:ident| $call:expr;)+) => {
        $(
            unsafe extern "C" fn $name<F: ConnectionModule>(
                connection: AbiConnection,
                object: *mut c_void,
                state: *mut c_void,
                $argument: i32,
            ) -> i32 {
                // SAFETY: the host passes what it was given.
                unsafe {
                    hook::<F>(connection, object, state, |$filter, $state, $connection| $call as i32)
                }
            }
        )+
    };
}

hooks! {
    opened => |filter, state, connection, _zero| filter.opened(state, connection);
    received => |filter, state, connection, end| filter.received(state, connection, end != 0);
    sent => |filter, state, connection, end| filter.sent(state, connection, end != 0);
    datagram_received => |filter, state, connection, _zero| filter.datagram_received(state, connection);
    datagram_sent => |filter, state, connection, _zero| filter.datagram_sent(state, connection);
    resumed => |filter, state, connection, of| match of {
        connection_hook::OPENED => filter.resumed(state, connection, ConnectionEvent::Opened),
        connection_hook::RECEIVED => filter.resumed(state, connection, ConnectionEvent::Received),
        connection_hook::SENT => filter.resumed(state, connection, ConnectionEvent::Sent),
        _ => ConnectionStep::Continue,
    };
}

/// Calls a function of the host, if it has it.
macro_rules! call {
    ($function:ident($($argument:expr),*)) => {
        match host().$function {
            // SAFETY: the arguments are valid during the call.
            Some(function) => unsafe { function($($argument),*) },
            None => result::INTERNAL,
        }
    };
}

/// What the host lent for as long as the connection is borrowed.
fn lent<'r>(_: &'r Connection<'_>, code: i32, text: AbiText) -> Result<Option<&'r [u8]>, Refusal> {
    match code {
        // SAFETY: it stays until the hook ends or the bytes are changed, which borrows the connection alone.
        result::OK => Ok(Some(unsafe { bytes(text) })),
        result::NOT_FOUND => Ok(None),
        code => Err(Refusal::of(code)),
    }
}

pub(crate) fn fact<'r>(of: &'r Connection<'_>, fact: i32) -> Result<Option<&'r [u8]>, Refusal> {
    let mut value = AbiText::NONE;
    let code = call!(connection_fact(of.handle, fact, &raw mut value));
    lent(of, code, value)
}

pub(crate) fn value<'r>(of: &'r Connection<'_>, name: &str) -> Result<Option<&'r [u8]>, Refusal> {
    let mut value = AbiText::NONE;
    let code = call!(connection_value(of.handle, text(name), &raw mut value));
    lent(of, code, value)
}

pub(crate) fn value_set(of: AbiConnection, name: &str, value: &str) -> Result<(), Refusal> {
    done(call!(connection_value_set(of, text(name), text(value))))
}

pub(crate) fn count(of: AbiConnection, counter: u32, amount: u64) -> Result<(), Refusal> {
    done(call!(connection_count(of, counter, amount)))
}

pub(crate) fn piece<'r>(of: &'r Connection<'_>) -> Result<&'r [u8], Refusal> {
    let mut piece = AbiText::NONE;
    let code = call!(connection_bytes(of.handle, &raw mut piece));
    lent(of, code, piece).map(Option::unwrap_or_default)
}

pub(crate) fn piece_set(of: AbiConnection, bytes: &[u8]) -> Result<(), Refusal> {
    done(call!(connection_bytes_set(of, AbiText::of(bytes))))
}

pub(crate) fn note(of: AbiConnection, why: &str) -> Result<(), Refusal> {
    done(call!(connection_note(of, text(why))))
}

pub(crate) fn suspend(of: AbiConnection) -> Result<AbiTicket, Refusal> {
    let mut ticket = AbiTicket { id: 0, generation: 0 };
    done(call!(connection_suspend(of, &raw mut ticket))).map(|()| ticket)
}
