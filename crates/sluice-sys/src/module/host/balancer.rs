//! The functions of the host for balancers.
//!
//! Owns: the way from what a library passes to safe values. Refuses to know: what an operation does. Keeps: as all functions of the
//! host, no argument is followed before it was checked.

use sluice_abi::{AbiBalancer, AbiText, result};

use super::lend;
use crate::module::balancer::{EndpointFact, EndpointNumber, with_balancer};
use crate::module::call::HostRefusal;
use crate::module::text;

pub(super) unsafe extern "C" fn endpoint_fact(
    balancer: AbiBalancer,
    index: usize,
    fact: i32,
    value: *mut AbiText,
) -> i32 {
    with_balancer(balancer, |call| {
        let answer = call.fact(index, EndpointFact::of(fact)?);
        // SAFETY: see the module above.
        unsafe { lend(answer, value) }
    })
}

pub(super) unsafe extern "C" fn endpoint_number(
    balancer: AbiBalancer,
    index: usize,
    which: i32,
    number: *mut u64,
) -> i32 {
    with_balancer(balancer, |call| {
        let known = call.number(index, EndpointNumber::of(which)?).map_err(HostRefusal::code)?;
        // SAFETY: see the module above.
        Ok(unsafe { text::write(number, known) })
    })
}

pub(super) unsafe extern "C" fn endpoint_open(balancer: AbiBalancer, index: usize) -> i32 {
    with_balancer(balancer, |call| {
        let is_open = call.is_open(index).map_err(HostRefusal::code)?;
        Ok(if is_open { result::OK } else { result::NOT_FOUND })
    })
}

pub(super) unsafe extern "C" fn pick_hash(balancer: AbiBalancer, hash: *mut u64) -> i32 {
    with_balancer(balancer, |call| match call.hash().map_err(HostRefusal::code)? {
        // SAFETY: see the module above.
        Some(known) => Ok(unsafe { text::write(hash, known) }),
        None => Ok(result::NOT_FOUND),
    })
}

pub(super) unsafe extern "C" fn pick_random(
    balancer: AbiBalancer,
    bound: u64,
    number: *mut u64,
) -> i32 {
    with_balancer(balancer, |call| {
        let made = call.random(bound).map_err(HostRefusal::code)?;
        // SAFETY: see the module above.
        Ok(unsafe { text::write(number, made) })
    })
}
