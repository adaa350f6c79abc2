//! The functions of the host for connections.
//!
//! Owns: the way from what a library passes to safe values. Refuses to know: what an operation does. Keeps: as all functions of the
//! host, no argument is followed before it was checked.

use sluice_abi::{AbiConnection, AbiText, AbiTicket, result};

use super::{BODY_MAX, TEXT_MAX, done, lend, pair};
use crate::module::call::{HostRefusal, RequestFact, with_connection};
use crate::module::text;

pub(super) unsafe extern "C" fn fact(
    connection: AbiConnection,
    fact: i32,
    value: *mut AbiText,
) -> i32 {
    with_connection(connection, |call| {
        let answer = call.fact(RequestFact::of(fact)?);
        // SAFETY: see the module above.
        unsafe { lend(answer, value) }
    })
}

pub(super) unsafe extern "C" fn value(
    connection: AbiConnection,
    name: AbiText,
    value: *mut AbiText,
) -> i32 {
    with_connection(connection, |call| {
        // SAFETY: see the module above.
        let name = unsafe { text::read(name, TEXT_MAX) }?;
        // SAFETY: as above.
        unsafe { lend(call.value(name), value) }
    })
}

pub(super) unsafe extern "C" fn value_set(
    connection: AbiConnection,
    name: AbiText,
    value: AbiText,
) -> i32 {
    with_connection(connection, |call| {
        // SAFETY: see the module above.
        let (name, value) = unsafe { pair(name, value) }?;
        done(call.set_value(name, value))
    })
}

pub(super) unsafe extern "C" fn count(connection: AbiConnection, counter: u32, amount: u64) -> i32 {
    with_connection(connection, |call| done(call.count(counter, amount)))
}

pub(super) unsafe extern "C" fn bytes(connection: AbiConnection, bytes: *mut AbiText) -> i32 {
    with_connection(connection, |call| {
        let answer = call.bytes().map(Some);
        // SAFETY: see the module above.
        unsafe { lend(answer, bytes) }
    })
}

pub(super) unsafe extern "C" fn bytes_set(connection: AbiConnection, bytes: AbiText) -> i32 {
    with_connection(connection, |call| {
        // SAFETY: see the module above.
        let bytes = unsafe { text::read(bytes, BODY_MAX) }?;
        done(call.set_bytes(bytes))
    })
}

pub(super) unsafe extern "C" fn note(connection: AbiConnection, why: AbiText) -> i32 {
    with_connection(connection, |call| {
        // SAFETY: see the module above.
        let why = unsafe { text::read(why, TEXT_MAX) }?;
        done(call.note(why))
    })
}

pub(super) unsafe extern "C" fn suspend(connection: AbiConnection, ticket: *mut AbiTicket) -> i32 {
    with_connection(connection, |call| {
        if ticket.is_null() || !ticket.is_aligned() {
            return Err(result::INVALID);
        }
        let made = call.suspend().map_err(HostRefusal::code)?;
        // SAFETY: see the module above.
        Ok(unsafe { text::write(ticket, made) })
    })
}
