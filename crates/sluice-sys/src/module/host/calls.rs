//! The functions of the host by which a library calls clusters.
//!
//! Owns: the way from what a library passes to a request, and back to it from the response. Refuses to know: how a call is made.
//! Keeps: as all functions of the host, no argument is followed before it was checked.

use sluice_abi::{AbiField, AbiRequest, AbiText, result};

use super::{BODY_MAX, TEXT_MAX, lend, pairs};
use crate::module::call::{HostRefusal, with_hook};
use crate::module::text;

pub(super) unsafe extern "C" fn call(
    request: AbiRequest,
    cluster: AbiText,
    fields: *const AbiField,
    count: usize,
    body: AbiText,
    timeout_ms: u64,
) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module above.
        let cluster = unsafe { text::read(cluster, TEXT_MAX) }?;
        // SAFETY: as above.
        let fields = unsafe { pairs(fields, count) }?;
        // SAFETY: as above.
        let body = unsafe { text::read(body, BODY_MAX) }?;
        let called = call.call(cluster, &fields, body, timeout_ms);
        called.map(|()| result::OK).map_err(HostRefusal::code)
    })
}

pub(super) unsafe extern "C" fn call_answer(
    request: AbiRequest,
    status: *mut u32,
    body: *mut AbiText,
) -> i32 {
    with_hook(request, |call| {
        if body.is_null() || !body.is_aligned() {
            return Err(result::INVALID);
        }
        let Some((number, bytes)) = call.call_answer().map_err(HostRefusal::code)? else {
            return Ok(result::NOT_FOUND);
        };
        // SAFETY: see the module above.
        match unsafe { text::write(status, number) } {
            // SAFETY: see the module above.
            result::OK => Ok(unsafe { text::write(body, AbiText::of(bytes)) }),
            code => Err(code),
        }
    })
}

pub(super) unsafe extern "C" fn call_header(
    request: AbiRequest,
    name: AbiText,
    index: usize,
    value: *mut AbiText,
) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module above.
        let name = unsafe { text::read(name, TEXT_MAX) }?;
        // SAFETY: as above.
        unsafe { lend(call.call_header(name, index), value) }
    })
}
