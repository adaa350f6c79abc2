//! What a library may do with the host during a call.
//!
//! Owns: which call is in progress on a thread, and that handles are those of this call. Refuses to know: how an operation is
//! carried out. Keeps: a handle is a number that is compared, never a pointer that is followed; during an operation of the
//! host, and after a call, no handle is valid.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use sluice_abi::{AbiConfig, AbiConnection, AbiRequest, AbiTicket, fact, part, result};

/// Why an operation is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRefusal {
    /// An argument cannot be used.
    Invalid,
    /// Not in this hook.
    NotNow,
    /// A bound is exceeded.
    TooLarge,
    /// The configuration did not declare it.
    NotAllowed,
}

impl HostRefusal {
    pub(super) const fn code(self) -> i32 {
        match self {
            Self::Invalid => result::INVALID,
            Self::NotNow => result::NOT_NOW,
            Self::TooLarge => result::TOO_LARGE,
            Self::NotAllowed => result::NOT_ALLOWED,
        }
    }
}

/// What comes of an operation.
pub type HostAnswer<T> = Result<T, HostRefusal>;

/// A part of a message that has headers or trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderPart {
    /// The headers of the request.
    RequestHeaders,
    /// Its trailers.
    RequestTrailers,
    /// The headers of the response.
    ResponseHeaders,
    /// Its trailers.
    ResponseTrailers,
}

impl HeaderPart {
    pub(super) const fn of(number: i32) -> Result<Self, i32> {
        Ok(match number {
            part::REQUEST_HEADERS => Self::RequestHeaders,
            part::REQUEST_TRAILERS => Self::RequestTrailers,
            part::RESPONSE_HEADERS => Self::ResponseHeaders,
            part::RESPONSE_TRAILERS => Self::ResponseTrailers,
            _ => return Err(result::INVALID),
        })
    }
}

/// A fact about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFact {
    /// The address of the client.
    Source,
    /// The other end of the connection.
    Peer,
    /// This end of it.
    Local,
    /// The version of HTTP.
    Protocol,
    /// The rule.
    Route,
    /// The server name of TLS.
    Sni,
    /// The number of the request.
    Request,
    /// The listener.
    Listener,
}

impl RequestFact {
    pub(super) const fn of(number: i32) -> Result<Self, i32> {
        Ok(match number {
            fact::SOURCE => Self::Source,
            fact::PEER => Self::Peer,
            fact::LOCAL => Self::Local,
            fact::PROTOCOL => Self::Protocol,
            fact::ROUTE => Self::Route,
            fact::SNI => Self::Sni,
            fact::REQUEST => Self::Request,
            fact::LISTENER => Self::Listener,
            _ => return Err(result::INVALID),
        })
    }
}

/// What a hook may do. The bytes that it lends must stay where they are until the call ends or the message is changed.
pub trait ModuleCall {
    /// The value of a header with that index.
    fn header(&mut self, part: HeaderPart, name: &[u8], index: usize) -> HostAnswer<Option<&[u8]>>;
    /// All headers.
    fn headers(&mut self, part: HeaderPart, tell: &mut dyn FnMut(&[u8], &[u8])) -> HostAnswer<()>;
    /// Adds a header.
    fn add_header(&mut self, part: HeaderPart, name: &[u8], value: &[u8]) -> HostAnswer<()>;
    /// Sets a header.
    fn set_header(&mut self, part: HeaderPart, name: &[u8], value: &[u8]) -> HostAnswer<()>;
    /// Removes a header; returns whether there was one.
    fn remove_header(&mut self, part: HeaderPart, name: &[u8]) -> HostAnswer<bool>;
    /// The body, or the piece of it.
    fn body(&mut self) -> HostAnswer<&[u8]>;
    /// Replaces it.
    fn set_body(&mut self, bytes: &[u8]) -> HostAnswer<()>;
    /// Makes a response.
    fn respond(
        &mut self,
        status: u32,
        fields: &[(&[u8], &[u8])],
        body: &[u8],
        details: &[u8],
    ) -> HostAnswer<()>;
    /// A shared value.
    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>>;
    /// Shares a value.
    fn set_value(&mut self, name: &[u8], value: &[u8]) -> HostAnswer<()>;
    /// A fact.
    fn fact(&mut self, fact: RequestFact) -> HostAnswer<Option<&[u8]>>;
    /// Counts.
    fn count(&mut self, counter: u32, amount: u64) -> HostAnswer<()>;
    /// Has the route selected again.
    fn reroute(&mut self) -> HostAnswer<()>;
    /// Makes a ticket.
    fn suspend(&mut self) -> HostAnswer<AbiTicket>;
    /// Calls a cluster, within so many milliseconds.
    fn call(
        &mut self,
        cluster: &[u8],
        fields: &[(&[u8], &[u8])],
        body: &[u8],
        timeout_ms: u64,
    ) -> HostAnswer<()>;
    /// The status and body of the response to a call; the status is 0 and the body says why if there is none.
    fn call_answer(&mut self) -> HostAnswer<Option<(u32, &[u8])>>;
    /// The value of a header of that response, with that index.
    fn call_header(&mut self, name: &[u8], index: usize) -> HostAnswer<Option<&[u8]>>;
    /// Writes to the log.
    fn log(&mut self, level: i32, line: String);
}

/// What a hook of a connection may do. What it lends stays as in [`ModuleCall`].
pub trait ConnectionCall {
    /// A fact.
    fn fact(&mut self, fact: RequestFact) -> HostAnswer<Option<&[u8]>>;
    /// A shared value.
    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>>;
    /// Shares a value.
    fn set_value(&mut self, name: &[u8], value: &[u8]) -> HostAnswer<()>;
    /// Counts.
    fn count(&mut self, counter: u32, amount: u64) -> HostAnswer<()>;
    /// The bytes at hand.
    fn bytes(&mut self) -> HostAnswer<&[u8]>;
    /// Replaces them.
    fn set_bytes(&mut self, bytes: &[u8]) -> HostAnswer<()>;
    /// Notes why the connection ends.
    fn note(&mut self, why: &[u8]) -> HostAnswer<()>;
    /// Makes a ticket.
    fn suspend(&mut self) -> HostAnswer<AbiTicket>;
    /// Writes to the log.
    fn log(&mut self, level: i32, line: String);
}

/// What a library may do while a configuration is checked.
pub trait ConfigCall {
    /// Says why it is refused.
    fn refuse(&mut self, why: String);
    /// Declares a counter; returns its number.
    fn counter(&mut self, name: &[u8]) -> HostAnswer<u32>;
    /// Declares that path and host are changed.
    fn edits_target(&mut self);
}

/// A call in progress.
pub(super) struct InProgress<T: ?Sized> {
    pub(super) number: u64,
    pub(super) call: NonNull<T>,
}

impl<T: ?Sized> Clone for InProgress<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for InProgress<T> {}

pub(super) type CallPlace<T> = Cell<Option<InProgress<T>>>;

thread_local! {
    static HOOK: CallPlace<dyn ModuleCall> = const { Cell::new(None) };
    static CONNECTION: CallPlace<dyn ConnectionCall> = const { Cell::new(None) };
    static CONFIG: CallPlace<dyn ConfigCall> = const { Cell::new(None) };
    static CONFIGS: Cell<u64> = const { Cell::new(0) };
}

/// Puts back what was in progress before, also when a library unwinds.
pub(super) struct Restore<'p, T: ?Sized + 'static>(
    pub(super) &'p CallPlace<T>,
    pub(super) Option<InProgress<T>>,
);

impl<T: ?Sized + 'static> Drop for Restore<'_, T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Calls a library with this request at hand.
pub(super) fn enter<R>(
    number: u64,
    call: &mut dyn ModuleCall,
    run: impl FnOnce(AbiRequest) -> R,
) -> R {
    let call: NonNull<dyn ModuleCall + '_> = NonNull::from(call);
    // SAFETY: only the lifetime changes. `Restore` takes the pointer away before the borrow ends, and `with` is the only
    // reader.
    let call = unsafe {
        std::mem::transmute::<NonNull<dyn ModuleCall + '_>, NonNull<dyn ModuleCall + 'static>>(call)
    };
    HOOK.with(|place| {
        let _restore = Restore(place, place.replace(Some(InProgress { number, call })));
        run(AbiRequest { id: number })
    })
}

/// Calls a library with nothing at hand.
pub(super) fn outside<R>(run: impl FnOnce() -> R) -> R {
    HOOK.with(|hook| {
        let _hook = Restore(hook, hook.replace(None));
        CONNECTION.with(|connection| {
            let _connection = Restore(connection, connection.replace(None));
            run()
        })
    })
}

/// Calls a library with this connection at hand.
pub(super) fn enter_connection<R>(
    number: u64,
    call: &mut dyn ConnectionCall,
    run: impl FnOnce(AbiConnection) -> R,
) -> R {
    let call: NonNull<dyn ConnectionCall + '_> = NonNull::from(call);
    // SAFETY: as in `enter`.
    let call = unsafe {
        std::mem::transmute::<NonNull<dyn ConnectionCall + '_>, NonNull<dyn ConnectionCall + 'static>>(
            call,
        )
    };
    CONNECTION.with(|place| {
        let _restore = Restore(place, place.replace(Some(InProgress { number, call })));
        run(AbiConnection { id: number })
    })
}

/// Calls a library with this configuration at hand.
pub(super) fn enter_config<R>(call: &mut dyn ConfigCall, run: impl FnOnce(AbiConfig) -> R) -> R {
    let number = CONFIGS.get() + 1;
    CONFIGS.set(number);
    let call: NonNull<dyn ConfigCall + '_> = NonNull::from(call);
    // SAFETY: as in `enter`.
    let call = unsafe {
        std::mem::transmute::<NonNull<dyn ConfigCall + '_>, NonNull<dyn ConfigCall + 'static>>(call)
    };
    CONFIG.with(|place| {
        let _restore = Restore(place, place.replace(Some(InProgress { number, call })));
        run(AbiConfig { id: number })
    })
}

/// Runs an operation on the call in progress, if it has that number. The place is looked up once for all that is done with
/// it: threads find theirs by a call.
pub(super) fn with<T: ?Sized + 'static>(
    place: &CallPlace<T>,
    number: u64,
    run: impl FnOnce(&mut T) -> Result<i32, i32>,
) -> i32 {
    let Some(mut now) = place.get() else { return result::NOT_NOW };
    if now.number != number {
        return result::STALE;
    }
    // While it is in use, no other operation can reach it.
    place.set(None);
    let _restore = Restore(place, Some(now));
    // SAFETY: the pointer is that of a borrow which lasts until `enter` takes it away; it was taken out of its place, so that
    // there is no other reference.
    let call = unsafe { now.call.as_mut() };
    let ran = catch_unwind(AssertUnwindSafe(|| run(call)));
    ran.unwrap_or(Err(result::INTERNAL)).unwrap_or_else(|code| code)
}

/// Runs an operation on the request that a hook has at hand.
pub(super) fn with_hook(
    request: AbiRequest,
    run: impl FnOnce(&mut dyn ModuleCall) -> Result<i32, i32>,
) -> i32 {
    // A thread that ends has no places any more.
    HOOK.try_with(|place| with(place, request.id, |call| run(call))).unwrap_or(result::NOT_NOW)
}

/// Runs an operation on the connection that a hook has at hand.
pub(super) fn with_connection(
    connection: AbiConnection,
    run: impl FnOnce(&mut dyn ConnectionCall) -> Result<i32, i32>,
) -> i32 {
    let ran = CONNECTION.try_with(|place| with(place, connection.id, |call| run(call)));
    ran.unwrap_or(result::NOT_NOW)
}

/// Runs an operation on the configuration at hand.
pub(super) fn with_config(
    config: AbiConfig,
    run: impl FnOnce(&mut dyn ConfigCall) -> Result<i32, i32>,
) -> i32 {
    CONFIG.try_with(|place| with(place, config.id, |call| run(call))).unwrap_or(result::NOT_NOW)
}

/// Writes a line for the hook that this thread runs; returns it if there is none.
pub(super) fn log_in_hook(level: i32, line: String) -> Option<String> {
    if let Ok(Some(now)) = HOOK.try_with(Cell::get) {
        with_hook(AbiRequest { id: now.number }, |call| {
            call.log(level, line);
            Ok(result::OK)
        });
    } else if let Ok(Some(now)) = CONNECTION.try_with(Cell::get) {
        with_connection(AbiConnection { id: now.number }, |call| {
            call.log(level, line);
            Ok(result::OK)
        });
    } else {
        return Some(line);
    }
    None
}
