//! Both sides of the interface, and all unsafe code of this crate.
//!
//! Owns: the tables of libraries, and the calls of the host. Refuses to know: what filters do. Keeps: no panic leaves a function;
//! an object is made into a box once, and back once. The unsafe code of the crate is in this module and those below it.
//!
//! The blocks below lean on the rules of `sluice_filter.h`, which the host keeps: pointers are those that this side returned
//! before, or null; texts have as many bytes as they say, until the hook ends or the message is changed.
#![allow(unsafe_code, reason = "a library exports functions of C, and calls those of its host")]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use sluice_abi::{
    AbiConfig, AbiField, AbiRequest, AbiText, AbiTicket, HostTable, MAJOR, MINOR, ModuleTable,
    TableStart, result, step,
};

use crate::request::{Answer, Call, Config, Fields, Refusal, Request, Response};
use crate::{Filter, Hook, Step};

pub(crate) mod balancer;
pub(crate) mod connection;
mod logger;

pub use balancer::balancer_table;
pub use connection::connection_table;
pub use logger::logger_table;

/// What the host passes. Only the host makes one.
#[derive(Debug)]
#[repr(transparent)]
pub struct HostPointer(*const HostTable);

/// What it gets.
pub type TablePointer = *const ModuleTable;

/// The table of a library.
#[derive(Debug)]
pub struct Table {
    module: ModuleTable,
    /// The least minor version of a host that calls all of it.
    minor: u16,
}

// SAFETY: the pointer in it is that of a static text.
unsafe impl Sync for Table {}

/// The functions of the host, as far as it has them.
static HOST: OnceLock<HostTable> = OnceLock::new();

/// The table of a library that can do nothing.
#[allow(clippy::cast_possible_truncation, reason = "a table has a few hundred bytes")]
const fn empty(name: &'static str) -> ModuleTable {
    ModuleTable {
        size: size_of::<ModuleTable>() as u32,
        major: MAJOR,
        minor: MINOR,
        name: AbiText::of(name.as_bytes()),
        ..ModuleTable::EMPTY
    }
}

/// How an object is made of a text.
trait Made {
    type Object;

    fn make(config: &mut Config<'_>, name: &str, text: &str) -> Result<Self::Object, String>;
}

/// The objects of filters.
struct OfFilter<F>(PhantomData<F>);

impl<F: Filter> Made for OfFilter<F> {
    type Object = F;

    fn make(config: &mut Config<'_>, name: &str, text: &str) -> Result<F, String> {
        F::new(config, name, text)
    }
}

/// Makes the table of a library with that filter.
pub const fn table<F: Filter>(name: &'static str) -> Table {
    let module = ModuleTable {
        config_new: Some(config_new::<OfFilter<F>>),
        config_free: Some(config_free::<F>),
        request_new: Some(request_new::<F>),
        request_end: Some(request_end::<F>),
        request_headers: Some(request_headers::<F>),
        request_body: Some(request_body::<F>),
        request_trailers: Some(request_trailers::<F>),
        response_headers: Some(response_headers::<F>),
        response_body: Some(response_body::<F>),
        response_trailers: Some(response_trailers::<F>),
        resumed: Some(resumed::<F>),
        ..empty(name)
    };
    Table { module, minor: 0 }
}

/// Keeps the functions of the host, and returns the table; null if it has another version.
pub fn init(HostPointer(host): HostPointer, table: &'static Table) -> TablePointer {
    if host.is_null() {
        return std::ptr::null();
    }
    // SAFETY: every table begins so, in every version.
    let start = unsafe { host.cast::<TableStart>().read() };
    // An older host would leave out what the library is for.
    if start.major != MAJOR || start.minor < table.minor {
        return std::ptr::null();
    }
    let mut own = HostTable::EMPTY;
    let known = (start.size as usize).min(size_of::<HostTable>());
    // SAFETY: both tables have so many bytes, of plain data with the same layout.
    unsafe { std::ptr::copy_nonoverlapping(host.cast::<u8>(), (&raw mut own).cast(), known) };
    HOST.get_or_init(|| own);
    &raw const table.module
}

fn host() -> &'static HostTable {
    HOST.get().unwrap_or(&HostTable::EMPTY)
}

fn request_of<'a>(handle: AbiRequest) -> Request<'a> {
    Request { handle, of_call: PhantomData }
}

/// A text of the host.
///
/// # Safety
/// It stays until `'a` ends.
unsafe fn bytes<'a>(text: AbiText) -> &'a [u8] {
    if text.data.is_null() || text.size == 0 {
        return &[];
    }
    // SAFETY: by the promise of the caller.
    unsafe { std::slice::from_raw_parts(text.data, text.size) }
}

unsafe extern "C" fn config_new<M: Made>(
    handle: AbiConfig,
    filter: AbiText,
    text: AbiText,
    object: *mut *mut c_void,
) -> i32 {
    let made = catch_unwind(|| {
        // SAFETY: it stays during this call.
        let filter = unsafe { bytes(filter) };
        // SAFETY: as above.
        let text = unsafe { bytes(text) };
        let words = (std::str::from_utf8(filter), std::str::from_utf8(text));
        let (Ok(filter), Ok(text)) = words else { return Err("it is no text".to_owned()) };
        M::make(&mut Config { handle, of_call: PhantomData }, filter, text)
    });
    match made.unwrap_or_else(|_| Err("the library panicked".to_owned())) {
        Ok(filter) => {
            // SAFETY: the place of the host.
            unsafe { object.write(Box::into_raw(Box::new(filter)).cast()) };
            result::OK
        }
        Err(why) => {
            if let Some(refuse) = host().config_refuse {
                // SAFETY: the text stays during the call.
                unsafe { refuse(handle, AbiText::of(why.as_bytes())) };
            }
            result::INVALID
        }
    }
}

unsafe extern "C" fn config_free<F>(object: *mut c_void) {
    // It must not unwind into the host, which has no use for the failure of what it gives up.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: from `config_new`, once.
        drop(unsafe { Box::from_raw(object.cast::<F>()) });
    }));
}

unsafe extern "C" fn request_new<F: Filter>(
    handle: AbiRequest,
    object: *mut c_void,
    state: *mut *mut c_void,
) -> i32 {
    // SAFETY: from `config_new`, and not freed before its requests have ended.
    let filter = unsafe { &*object.cast::<F>() };
    let begun = catch_unwind(AssertUnwindSafe(|| filter.begin(&mut request_of(handle))));
    let Ok(begun) = begun else { return result::INTERNAL };
    // SAFETY: the place of the host.
    unsafe { state.write(Box::into_raw(Box::new(begun)).cast()) };
    result::OK
}

unsafe extern "C" fn request_end<F: Filter>(
    handle: AbiRequest,
    object: *mut c_void,
    state: *mut c_void,
) {
    // The request has ended, so that a panic cannot change it any more; it must not unwind into the host.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as in `request_new`.
        let filter = unsafe { &*object.cast::<F>() };
        // SAFETY: from `request_new`, once.
        let state = unsafe { Box::from_raw(state.cast::<F::State>()) };
        filter.end(*state, &mut request_of(handle));
    }));
}

/// Runs a hook.
///
/// # Safety
/// The objects are those of `config_new` and `request_new`.
unsafe fn hook<F: Filter>(
    handle: AbiRequest,
    object: *mut c_void,
    state: *mut c_void,
    run: impl FnOnce(&F, &mut F::State, &mut Request<'_>) -> Step,
) -> i32 {
    // SAFETY: by the promise of the caller.
    let filter = unsafe { &*object.cast::<F>() };
    // SAFETY: by the promise of the caller; hooks of a request never overlap.
    let state = unsafe { &mut *state.cast::<F::State>() };
    let step = catch_unwind(AssertUnwindSafe(|| run(filter, state, &mut request_of(handle))));
    step.map_or(step::FAIL, |step| step as i32)
}

macro_rules! hooks {
    ($($name:ident($end:ident) => $call:expr;)+) => {
        $(
            unsafe extern "C" fn $name<F: Filter>(
                request: AbiRequest,
                object: *mut c_void,
                state: *mut c_void,
                $end: i32,
            ) -> i32 {
                // SAFETY: the host passes what it was given.
                unsafe { hook::<F>(request, object, state, $call) }
            }
        )+
    };
}

hooks! {
    request_headers(end) => |filter, state, request| filter.request_headers(state, request, end != 0);
    request_body(end) => |filter, state, request| filter.request_body(state, request, end != 0);
    request_trailers(_end) => |filter, state, request| filter.request_trailers(state, request);
    response_headers(end) => |filter, state, request| filter.response_headers(state, request, end != 0);
    response_body(end) => |filter, state, request| filter.response_body(state, request, end != 0);
    response_trailers(_end) => |filter, state, request| filter.response_trailers(state, request);
    resumed(of) => |filter, state, request| match hook_of(of) {
        Some(hook) => filter.resumed(state, request, hook),
        None => Step::Continue,
    };
}

const fn hook_of(number: i32) -> Option<Hook> {
    Some(match number {
        0 => Hook::RequestHeaders,
        1 => Hook::RequestBody,
        2 => Hook::RequestTrailers,
        3 => Hook::ResponseHeaders,
        4 => Hook::ResponseBody,
        5 => Hook::ResponseTrailers,
        _ => return None,
    })
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

const fn done(code: i32) -> Result<(), Refusal> {
    if code == result::OK { Ok(()) } else { Err(Refusal::of(code)) }
}

/// What the host lent for as long as the request is borrowed.
fn lent<'r>(_: &'r Request<'_>, code: i32, text: AbiText) -> Result<Option<&'r [u8]>, Refusal> {
    match code {
        // SAFETY: it stays until the hook ends or the message is changed, which borrows the request alone.
        result::OK => Ok(Some(unsafe { bytes(text) })),
        result::NOT_FOUND => Ok(None),
        code => Err(Refusal::of(code)),
    }
}

const fn text(of: &str) -> AbiText {
    AbiText::of(of.as_bytes())
}

pub(crate) fn log(level: i32, line: &str) {
    call!(log(level, text(line)));
}

pub(crate) fn resume(ticket: AbiTicket) -> i32 {
    call!(resume(ticket))
}

pub(crate) fn config_counter(config: AbiConfig, name: &str) -> Result<u32, Refusal> {
    let mut number = 0;
    done(call!(config_counter(config, text(name), &raw mut number))).map(|()| number)
}

pub(crate) fn config_edits_target(config: AbiConfig) -> Result<(), Refusal> {
    done(call!(config_edits_target(config)))
}

pub(crate) fn header<'r>(
    request: &'r Request<'_>,
    part: i32,
    name: &str,
    index: usize,
) -> Result<Option<&'r [u8]>, Refusal> {
    let mut value = AbiText::NONE;
    let code = call!(header(request.handle, part, text(name), index, &raw mut value));
    lent(request, code, value)
}

pub(crate) fn headers<'r>(request: &'r Request<'_>, part: i32) -> Result<Fields<'r>, Refusal> {
    let mut fields = vec![AbiField { name: AbiText::NONE, value: AbiText::NONE }; 64];
    loop {
        let mut count = 0;
        let (place, room) = (fields.as_mut_ptr(), fields.len());
        done(call!(headers(request.handle, part, place, room, &raw mut count)))?;
        if count <= room {
            fields.truncate(count);
            // SAFETY: as in `lent`.
            let lent = |text: AbiText| unsafe { bytes(text) };
            return Ok(fields.iter().map(|field| (lent(field.name), lent(field.value))).collect());
        }
        fields.resize(count, AbiField { name: AbiText::NONE, value: AbiText::NONE });
    }
}

pub(crate) fn header_add(
    request: AbiRequest,
    part: i32,
    name: &str,
    value: &str,
) -> Result<(), Refusal> {
    done(call!(header_add(request, part, text(name), text(value))))
}

pub(crate) fn header_set(
    request: AbiRequest,
    part: i32,
    name: &str,
    value: &str,
) -> Result<(), Refusal> {
    done(call!(header_set(request, part, text(name), text(value))))
}

pub(crate) fn header_remove(request: AbiRequest, part: i32, name: &str) -> Result<bool, Refusal> {
    match call!(header_remove(request, part, text(name))) {
        result::NOT_FOUND => Ok(false),
        code => done(code).map(|()| true),
    }
}

pub(crate) fn body<'r>(request: &'r Request<'_>) -> Result<&'r [u8], Refusal> {
    let mut body = AbiText::NONE;
    let code = call!(body(request.handle, &raw mut body));
    lent(request, code, body).map(Option::unwrap_or_default)
}

pub(crate) fn body_set(request: AbiRequest, bytes: &[u8]) -> Result<(), Refusal> {
    done(call!(body_set(request, AbiText::of(bytes))))
}

pub(crate) fn respond(request: AbiRequest, response: &Response<'_>) -> Result<(), Refusal> {
    let field = |(name, value): &(&str, &str)| AbiField { name: text(name), value: text(value) };
    let fields: Vec<AbiField> = response.headers.iter().map(field).collect();
    let (body, details) = (AbiText::of(response.body), text(response.details));
    let status = u32::from(response.status);
    done(call!(respond(request, status, fields.as_ptr(), fields.len(), body, details)))
}

pub(crate) fn value<'r>(request: &'r Request<'_>, name: &str) -> Result<Option<&'r [u8]>, Refusal> {
    let mut value = AbiText::NONE;
    let code = call!(value(request.handle, text(name), &raw mut value));
    lent(request, code, value)
}

pub(crate) fn value_set(request: AbiRequest, name: &str, value: &str) -> Result<(), Refusal> {
    done(call!(value_set(request, text(name), text(value))))
}

pub(crate) fn fact<'r>(request: &'r Request<'_>, fact: i32) -> Result<Option<&'r [u8]>, Refusal> {
    let mut value = AbiText::NONE;
    let code = call!(fact(request.handle, fact, &raw mut value));
    lent(request, code, value)
}

pub(crate) fn count(request: AbiRequest, counter: u32, amount: u64) -> Result<(), Refusal> {
    done(call!(count(request, counter, amount)))
}

pub(crate) fn reroute(request: AbiRequest) -> Result<(), Refusal> {
    done(call!(reroute(request)))
}

pub(crate) fn suspend(request: AbiRequest) -> Result<AbiTicket, Refusal> {
    let mut ticket = AbiTicket { id: 0, generation: 0 };
    done(call!(suspend(request, &raw mut ticket))).map(|()| ticket)
}

pub(crate) fn call(request: AbiRequest, of: &Call<'_>) -> Result<(), Refusal> {
    let field = |(name, value): &(&str, &str)| AbiField { name: text(name), value: text(value) };
    let fields: Vec<AbiField> = of.headers.iter().map(field).collect();
    let (cluster, body) = (text(of.cluster), AbiText::of(of.body));
    // Less than a millisecond is not no bound.
    let millis = of.timeout.map_or(0, |timeout| timeout.as_millis().max(1));
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    done(call!(call(request, cluster, fields.as_ptr(), fields.len(), body, millis)))
}

pub(crate) fn call_answer<'r>(request: &'r Request<'_>) -> Result<Option<Answer<'r>>, Refusal> {
    let (mut status, mut body) = (0, AbiText::NONE);
    let code = call!(call_answer(request.handle, &raw mut status, &raw mut body));
    Ok(lent(request, code, body)?.map(|body| Answer { status, body }))
}

pub(crate) fn call_header<'r>(
    request: &'r Request<'_>,
    name: &str,
    index: usize,
) -> Result<Option<&'r [u8]>, Refusal> {
    let mut value = AbiText::NONE;
    let code = call!(call_header(request.handle, text(name), index, &raw mut value));
    lent(request, code, value)
}
