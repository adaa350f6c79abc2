//! The library's side of the interface for access logs.
//!
//! Owns: the table of an access logger. Refuses to know: what it does with records. Keeps: as the module above, on whose rules the
//! blocks below lean.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sluice_abi::{AbiText, record, result};

use super::{Made, Table, bytes, config_free, config_new, empty};
use crate::logger::{AccessLogger, LoggedKind};
use crate::request::Config;

/// The objects of access loggers.
struct OfLogger<L>(PhantomData<L>);

impl<L: AccessLogger> Made for OfLogger<L> {
    type Object = L;

    fn make(config: &mut Config<'_>, name: &str, text: &str) -> Result<L, String> {
        L::new(config, name, text)
    }
}

/// Makes the table of a library with that access logger.
pub const fn logger_table<L: AccessLogger>(name: &'static str) -> Table {
    let mut table = empty(name);
    table.config_new = Some(config_new::<OfLogger<L>>);
    table.config_free = Some(config_free::<L>);
    table.record = Some(take::<L>);
    table.records_done = Some(records_done::<L>);
    Table { module: table, minor: 1 }
}

unsafe extern "C" fn take<L: AccessLogger>(object: *mut c_void, kind: i32, line: AbiText) -> i32 {
    let taken = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: from `config_new`, and not freed before the last record.
        let logger = unsafe { &*object.cast::<L>() };
        let kind = match kind {
            record::CONNECTION => LoggedKind::Connection,
            record::FLOW => LoggedKind::Flow,
            record::HEALTH => LoggedKind::Health,
            _ => LoggedKind::Request,
        };
        // SAFETY: it stays during this call.
        let line = unsafe { bytes(line) };
        std::str::from_utf8(line).is_ok_and(|line| logger.record(kind, line))
    }));
    if taken.unwrap_or(false) { result::OK } else { result::INTERNAL }
}

unsafe extern "C" fn records_done<L: AccessLogger>(object: *mut c_void) {
    // Records were taken or not before; a panic must not unwind into the host.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as in `take`.
        unsafe { &*object.cast::<L>() }.done();
    }));
}
