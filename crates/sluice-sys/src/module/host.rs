//! The functions of the host.
//!
//! Owns: the table, and the way from what a library passes to safe values. Refuses to know: what an operation does. Keeps: no
//! argument is followed before it was checked; no panic reaches a library.
//!
//! Each function is called by libraries, which promise by the rules of the header that a text has as many bytes as it says,
//! and that a place which is neither null nor misaligned may be written to. The `SAFETY` comments below lean on that; the
//! tests of this module call each with what can be told to be wrong.

use std::panic::catch_unwind;

use sluice_abi::{
    AbiConfig, AbiField, AbiRequest, AbiText, AbiTicket, HostTable, MAJOR, MINOR, result,
};

use super::call::{
    HeaderPart, HostAnswer, HostRefusal, RequestFact, log_in_hook, with_config, with_hook,
};
use super::{mailbox, text};

mod balancer;
mod calls;
mod connection;

/// The most bytes of a name, a value, and a line.
const TEXT_MAX: usize = 64 * 1024;

/// The most bytes of a body; the bound of the settings is smaller.
const BODY_MAX: usize = 1 << 30;

/// The most bytes of a line in the log.
const LINE_MAX: usize = 4096;

/// The most headers of a response.
const FIELDS_MAX: usize = 1024;

#[allow(clippy::cast_possible_truncation, reason = "a table has a few hundred bytes")]
pub(super) static HOST: HostTable = HostTable {
    size: size_of::<HostTable>() as u32,
    major: MAJOR,
    minor: MINOR,
    log: Some(log),
    resume: Some(resume),
    config_refuse: Some(config_refuse),
    config_counter: Some(config_counter),
    config_edits_target: Some(config_edits_target),
    header: Some(header),
    headers: Some(headers),
    header_add: Some(header_add),
    header_set: Some(header_set),
    header_remove: Some(header_remove),
    body: Some(body),
    body_set: Some(body_set),
    respond: Some(respond),
    value: Some(value),
    value_set: Some(value_set),
    fact: Some(fact),
    count: Some(count),
    reroute: Some(reroute),
    suspend: Some(suspend),
    call: Some(calls::call),
    call_answer: Some(calls::call_answer),
    call_header: Some(calls::call_header),
    connection_fact: Some(connection::fact),
    connection_value: Some(connection::value),
    connection_value_set: Some(connection::value_set),
    connection_count: Some(connection::count),
    connection_bytes: Some(connection::bytes),
    connection_bytes_set: Some(connection::bytes_set),
    connection_note: Some(connection::note),
    connection_suspend: Some(connection::suspend),
    endpoint_fact: Some(balancer::endpoint_fact),
    endpoint_number: Some(balancer::endpoint_number),
    endpoint_open: Some(balancer::endpoint_open),
    pick_hash: Some(balancer::pick_hash),
    pick_random: Some(balancer::pick_random),
};

fn done(answer: HostAnswer<()>) -> Result<i32, i32> {
    answer.map(|()| result::OK).map_err(HostRefusal::code)
}

/// Lends bytes to the library.
///
/// # Safety
/// As [`text::write`].
unsafe fn lend(answer: HostAnswer<Option<&[u8]>>, place: *mut AbiText) -> Result<i32, i32> {
    match answer.map_err(HostRefusal::code)? {
        // SAFETY: by the promise of the caller.
        Some(bytes) => Ok(unsafe { text::write(place, AbiText::of(bytes)) }),
        None => Ok(result::NOT_FOUND),
    }
}

unsafe extern "C" fn log(level: i32, line: AbiText) -> i32 {
    // SAFETY: see the module.
    let line = match unsafe { text::read(line, BODY_MAX) } {
        Ok(line) => line,
        Err(code) => return code,
    };
    let logged = catch_unwind(|| {
        if let Some(line) = log_in_hook(level, text::one_line(line, LINE_MAX)) {
            outside_of_hooks(level, &line);
        }
    });
    logged.map_or(result::INTERNAL, |()| result::OK)
}

/// Writes the line of a thread of a library, or of a library that checks a configuration.
fn outside_of_hooks(level: i32, line: &str) {
    match level {
        0 => tracing::error!(target: "sluice_module", "{line}"),
        1 => tracing::warn!(target: "sluice_module", "{line}"),
        2 => tracing::info!(target: "sluice_module", "{line}"),
        3 => tracing::debug!(target: "sluice_module", "{line}"),
        _ => tracing::trace!(target: "sluice_module", "{line}"),
    }
}

unsafe extern "C" fn resume(ticket: AbiTicket) -> i32 {
    catch_unwind(|| mailbox::post(ticket)).unwrap_or(result::INTERNAL)
}

unsafe extern "C" fn config_refuse(config: AbiConfig, why: AbiText) -> i32 {
    with_config(config, |call| {
        // SAFETY: see the module.
        let why = unsafe { text::read(why, TEXT_MAX) }?;
        call.refuse(text::one_line(why, LINE_MAX));
        Ok(result::OK)
    })
}

unsafe extern "C" fn config_counter(config: AbiConfig, name: AbiText, counter: *mut u32) -> i32 {
    with_config(config, |call| {
        // SAFETY: see the module.
        let name = unsafe { text::read(name, TEXT_MAX) }?;
        if counter.is_null() {
            return Err(result::INVALID);
        }
        let number = call.counter(name).map_err(HostRefusal::code)?;
        // SAFETY: see the module.
        Ok(unsafe { text::write(counter, number) })
    })
}

unsafe extern "C" fn config_edits_target(config: AbiConfig) -> i32 {
    with_config(config, |call| {
        call.edits_target();
        Ok(result::OK)
    })
}

unsafe extern "C" fn header(
    request: AbiRequest,
    part: i32,
    name: AbiText,
    index: usize,
    value: *mut AbiText,
) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let name = unsafe { text::read(name, TEXT_MAX) }?;
        let answer = call.header(HeaderPart::of(part)?, name, index);
        // SAFETY: see the module.
        unsafe { lend(answer, value) }
    })
}

unsafe extern "C" fn headers(
    request: AbiRequest,
    part: i32,
    fields: *mut AbiField,
    room: usize,
    count: *mut usize,
) -> i32 {
    with_hook(request, |call| {
        if room > 0 && (fields.is_null() || !fields.is_aligned()) {
            return Err(result::INVALID);
        }
        let mut found = 0;
        let answer = call.headers(HeaderPart::of(part)?, &mut |name, value| {
            if found < room {
                let field = AbiField { name: AbiText::of(name), value: AbiText::of(value) };
                // SAFETY: the library says that there is room for so many; see the module.
                let place = unsafe { fields.add(found) };
                // SAFETY: as above; it is aligned, since the first is.
                unsafe { place.write(field) };
            }
            found += 1;
        });
        answer.map_err(HostRefusal::code)?;
        // SAFETY: see the module.
        Ok(unsafe { text::write(count, found) })
    })
}

/// The name and value of a header that a library changes.
///
/// # Safety
/// As [`text::read`].
unsafe fn pair<'a>(name: AbiText, value: AbiText) -> Result<Pair<'a>, i32> {
    // SAFETY: by the promise of the caller.
    let name = unsafe { text::read(name, TEXT_MAX) }?;
    // SAFETY: as above.
    let value = unsafe { text::read(value, TEXT_MAX) }?;
    Ok((name, value))
}

/// A name and a value.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// The names and values of so many headers.
///
/// # Safety
/// `fields` is null or has `count` fields, each as for [`pair`].
unsafe fn pairs<'a>(fields: *const AbiField, count: usize) -> Result<Vec<Pair<'a>>, i32> {
    if count > FIELDS_MAX {
        return Err(result::TOO_LARGE);
    }
    if count > 0 && (fields.is_null() || !fields.is_aligned()) {
        return Err(result::INVALID);
    }
    let mut all = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: there are so many, by the promise of the caller.
        let place = unsafe { fields.add(index) };
        // SAFETY: as above.
        let field = unsafe { place.read() };
        // SAFETY: as above.
        all.push(unsafe { pair(field.name, field.value) }?);
    }
    Ok(all)
}

unsafe extern "C" fn header_add(
    request: AbiRequest,
    part: i32,
    name: AbiText,
    value: AbiText,
) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let (name, value) = unsafe { pair(name, value) }?;
        done(call.add_header(HeaderPart::of(part)?, name, value))
    })
}

unsafe extern "C" fn header_set(
    request: AbiRequest,
    part: i32,
    name: AbiText,
    value: AbiText,
) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let (name, value) = unsafe { pair(name, value) }?;
        done(call.set_header(HeaderPart::of(part)?, name, value))
    })
}

unsafe extern "C" fn header_remove(request: AbiRequest, part: i32, name: AbiText) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let name = unsafe { text::read(name, TEXT_MAX) }?;
        let found = call.remove_header(HeaderPart::of(part)?, name).map_err(HostRefusal::code)?;
        Ok(if found { result::OK } else { result::NOT_FOUND })
    })
}

unsafe extern "C" fn body(request: AbiRequest, bytes: *mut AbiText) -> i32 {
    with_hook(request, |call| {
        let answer = call.body().map(Some);
        // SAFETY: see the module.
        unsafe { lend(answer, bytes) }
    })
}

unsafe extern "C" fn body_set(request: AbiRequest, bytes: AbiText) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let bytes = unsafe { text::read(bytes, BODY_MAX) }?;
        done(call.set_body(bytes))
    })
}

unsafe extern "C" fn respond(
    request: AbiRequest,
    status: u32,
    fields: *const AbiField,
    count: usize,
    body: AbiText,
    details: AbiText,
) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let all = unsafe { pairs(fields, count) }?;
        // SAFETY: as above.
        let body = unsafe { text::read(body, BODY_MAX) }?;
        // SAFETY: as above.
        let details = unsafe { text::read(details, TEXT_MAX) }?;
        done(call.respond(status, &all, body, details))
    })
}

unsafe extern "C" fn value(request: AbiRequest, name: AbiText, value: *mut AbiText) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let name = unsafe { text::read(name, TEXT_MAX) }?;
        // SAFETY: as above.
        unsafe { lend(call.value(name), value) }
    })
}

unsafe extern "C" fn value_set(request: AbiRequest, name: AbiText, value: AbiText) -> i32 {
    with_hook(request, |call| {
        // SAFETY: see the module.
        let (name, value) = unsafe { pair(name, value) }?;
        done(call.set_value(name, value))
    })
}

unsafe extern "C" fn fact(request: AbiRequest, fact: i32, value: *mut AbiText) -> i32 {
    with_hook(request, |call| {
        let answer = call.fact(RequestFact::of(fact)?);
        // SAFETY: see the module.
        unsafe { lend(answer, value) }
    })
}

unsafe extern "C" fn count(request: AbiRequest, counter: u32, amount: u64) -> i32 {
    with_hook(request, |call| done(call.count(counter, amount)))
}

unsafe extern "C" fn reroute(request: AbiRequest) -> i32 {
    with_hook(request, |call| done(call.reroute()))
}

unsafe extern "C" fn suspend(request: AbiRequest, ticket: *mut AbiTicket) -> i32 {
    with_hook(request, |call| {
        if ticket.is_null() || !ticket.is_aligned() {
            return Err(result::INVALID);
        }
        let made = call.suspend().map_err(HostRefusal::code)?;
        // SAFETY: see the module.
        Ok(unsafe { text::write(ticket, made) })
    })
}
