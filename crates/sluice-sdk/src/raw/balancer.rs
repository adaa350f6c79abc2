//! Both sides of the interface for balancers.
//!
//! Owns: the table of a balancer, and the calls of the host for endpoints. Refuses to know: what balancers do. Keeps: as the module
//! above, on whose rules the blocks below lean.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sluice_abi::{AbiBalancer, AbiText, result};

use super::{Made, Table, bytes, config_free, config_new, done, empty, host};
use crate::balancer::{Balancer, Endpoints, Pick};
use crate::request::{Config, Refusal};

/// The objects of balancers.
struct OfBalancer<B>(PhantomData<B>);

impl<B: Balancer> Made for OfBalancer<B> {
    type Object = B;

    fn make(config: &mut Config<'_>, name: &str, text: &str) -> Result<B, String> {
        B::new(config, name, text)
    }
}

/// The table of a balancer, and the number of its endpoints.
struct Balanced<B: Balancer> {
    table: B::Table,
    count: usize,
}

/// Makes the table of a library with that balancer.
pub const fn balancer_table<B: Balancer>(name: &'static str) -> Table {
    let mut table = empty(name);
    table.config_new = Some(config_new::<OfBalancer<B>>);
    table.config_free = Some(config_free::<B>);
    table.balancer_new = Some(balancer_new::<B>);
    table.balancer_free = Some(balancer_free::<B>);
    table.balancer_pick = Some(balancer_pick::<B>);
    Table { module: table, minor: 2 }
}

const fn endpoints_of<'a>(handle: AbiBalancer, count: usize) -> Endpoints<'a> {
    Endpoints { handle, count, of_call: PhantomData }
}

unsafe extern "C" fn balancer_new<B: Balancer>(
    handle: AbiBalancer,
    object: *mut c_void,
    count: usize,
    state: *mut *mut c_void,
) -> i32 {
    // SAFETY: from `config_new`, and not freed before its lists have ended.
    let balancer = unsafe { &*object.cast::<B>() };
    let begin = || balancer.begin(&endpoints_of(handle, count));
    let Ok(Some(table)) = catch_unwind(AssertUnwindSafe(begin)) else { return result::INTERNAL };
    let balanced: Box<Balanced<B>> = Box::new(Balanced { table, count });
    // SAFETY: the place of the host.
    unsafe { state.write(Box::into_raw(balanced).cast()) };
    result::OK
}

unsafe extern "C" fn balancer_free<B: Balancer>(_object: *mut c_void, state: *mut c_void) {
    // It must not unwind into the host, which has no use for the failure of what it gives up.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: from `balancer_new`, once.
        drop(unsafe { Box::from_raw(state.cast::<Balanced<B>>()) });
    }));
}

unsafe extern "C" fn balancer_pick<B: Balancer>(
    handle: AbiBalancer,
    object: *mut c_void,
    state: *mut c_void,
    index: *mut usize,
) -> i32 {
    // SAFETY: as in `balancer_new`.
    let balancer = unsafe { &*object.cast::<B>() };
    // SAFETY: from `balancer_new`, and not freed before the last pick.
    let balanced = unsafe { &*state.cast::<Balanced<B>>() };
    let pick = Pick(endpoints_of(handle, balanced.count));
    match catch_unwind(AssertUnwindSafe(|| balancer.pick(&balanced.table, &pick))) {
        Ok(Some(chosen)) => {
            // SAFETY: the place of the host.
            unsafe { index.write(chosen) };
            result::OK
        }
        Ok(None) => result::NOT_FOUND,
        Err(_) => result::INTERNAL,
    }
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

pub(crate) fn fact<'r>(of: &'r Endpoints<'_>, index: usize, fact: i32) -> Option<&'r [u8]> {
    let mut value = AbiText::NONE;
    match call!(endpoint_fact(of.handle, index, fact, &raw mut value)) {
        // SAFETY: it stays until the call ends, and the endpoints are borrowed no longer.
        result::OK => Some(unsafe { bytes(value) }),
        _ => None,
    }
}

pub(crate) fn number(of: &Endpoints<'_>, index: usize, which: i32) -> Result<u64, Refusal> {
    let mut number = 0;
    done(call!(endpoint_number(of.handle, index, which, &raw mut number))).map(|()| number)
}

pub(crate) fn is_open(of: &Endpoints<'_>, index: usize) -> bool {
    call!(endpoint_open(of.handle, index)) == result::OK
}

pub(crate) fn hash(of: &Endpoints<'_>) -> Option<u64> {
    let mut hash = 0;
    (call!(pick_hash(of.handle, &raw mut hash)) == result::OK).then_some(hash)
}

pub(crate) fn random(of: &Endpoints<'_>, bound: u64) -> Result<u64, Refusal> {
    let mut number = 0;
    done(call!(pick_random(of.handle, bound, &raw mut number))).map(|()| number)
}
