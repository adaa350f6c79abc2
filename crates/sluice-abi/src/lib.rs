//! The interface between Sluice and loaded libraries, as types of Rust.
//!
//! Owns: the layout of `include/sluice_filter.h`, which has the rules, and the numbers in it. Refuses to know: how either
//! side is made. Keeps: this file and the header describe the same bytes, which a test of the black-box suite compares;
//! within a major version, entries are only appended to the tables.
#![forbid(unsafe_code)]

use std::ffi::c_void;

/// The version of the interface. Another major version is another interface.
pub const MAJOR: u16 = 1;

/// Entries may have been appended with it.
pub const MINOR: u16 = 2;

/// The function that a library exports.
pub const INIT: &std::ffi::CStr = c"sluice_module_init";

/// The type of [`INIT`].
pub type InitFn = unsafe extern "C" fn(*const HostTable) -> *const ModuleTable;

/// A text or bytes: pointer and length.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AbiText {
    /// May be null if `size` is 0.
    pub data: *const u8,
    /// The number of bytes.
    pub size: usize,
}

impl AbiText {
    /// No text.
    pub const NONE: Self = Self { data: std::ptr::null(), size: 0 };

    /// Borrows bytes.
    pub const fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), size: bytes.len() }
    }
}

/// A header or trailer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AbiField {
    /// Its name.
    pub name: AbiText,
    /// Its value.
    pub value: AbiText,
}

/// A request, in the hook that gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AbiRequest {
    /// Its number.
    pub id: u64,
}

/// A connection, in the hook that gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AbiConnection {
    /// Its number.
    pub id: u64,
}

/// A configuration that is being checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AbiConfig {
    /// Its number.
    pub id: u64,
}

/// The endpoints of a balancer, in the call that gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AbiBalancer {
    /// Its number.
    pub id: u64,
}

/// A wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AbiTicket {
    /// Where it is found.
    pub id: u64,
    /// Which of those it is that were found there.
    pub generation: u64,
}

/// What both tables begin with, in every version.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TableStart {
    /// The size of the table in bytes, as the side that made it knows it.
    pub size: u32,
    /// Its version; see [`MAJOR`].
    pub major: u16,
    /// See [`MINOR`].
    pub minor: u16,
}

/// What functions of the host return.
pub mod result {
    /// It was done.
    pub const OK: i32 = 0;
    /// There is none.
    pub const NOT_FOUND: i32 = 1;
    /// An argument cannot be used.
    pub const INVALID: i32 = -1;
    /// Not in this hook, or not on this thread.
    pub const NOT_NOW: i32 = -2;
    /// The handle is another's.
    pub const STALE: i32 = -3;
    /// A bound is exceeded.
    pub const TOO_LARGE: i32 = -4;
    /// The queue is full.
    pub const BUSY: i32 = -5;
    /// The configuration did not declare it.
    pub const NOT_ALLOWED: i32 = -6;
    /// An error of the host.
    pub const INTERNAL: i32 = -7;
}

/// What hooks return.
pub mod step {
    /// The message goes on, unseen from here.
    pub const CONTINUE: i32 = 0;
    /// It ends with a response.
    pub const RESPOND: i32 = 1;
    /// It waits.
    pub const WAIT: i32 = 2;
    /// The library failed.
    pub const FAIL: i32 = 3;
    /// It goes on, and its body is read.
    pub const READ: i32 = 4;
    /// It goes on, and its body is changed.
    pub const EDIT: i32 = 5;
    /// It is received whole.
    pub const BUFFER: i32 = 6;
    /// The connection ends.
    pub const CLOSE: i32 = 7;
    /// The datagram is dropped.
    pub const DROP: i32 = 8;
}

/// Hooks of connections, as `connection_resumed` names them.
pub mod connection_hook {
    /// It begins.
    pub const OPENED: i32 = 0;
    /// Bytes from the client.
    pub const RECEIVED: i32 = 1;
    /// Bytes to the client.
    pub const SENT: i32 = 2;
}

/// What a record is about.
pub mod record {
    /// A connection.
    pub const CONNECTION: i32 = 0;
    /// A UDP flow.
    pub const FLOW: i32 = 1;
    /// A request.
    pub const REQUEST: i32 = 2;
    /// An event of an endpoint.
    pub const HEALTH: i32 = 3;
}

/// Parts of messages that have headers or trailers.
pub mod part {
    /// The headers of the request.
    pub const REQUEST_HEADERS: i32 = 0;
    /// Its trailers.
    pub const REQUEST_TRAILERS: i32 = 1;
    /// The headers of the response.
    pub const RESPONSE_HEADERS: i32 = 2;
    /// Its trailers.
    pub const RESPONSE_TRAILERS: i32 = 3;
}

/// Facts about a request.
pub mod fact {
    /// The address of the client.
    pub const SOURCE: i32 = 0;
    /// The other end of the connection.
    pub const PEER: i32 = 1;
    /// This end of it.
    pub const LOCAL: i32 = 2;
    /// The version of HTTP.
    pub const PROTOCOL: i32 = 3;
    /// The rule.
    pub const ROUTE: i32 = 4;
    /// The server name of TLS.
    pub const SNI: i32 = 5;
    /// The number of the request.
    pub const REQUEST: i32 = 6;
    /// The listener.
    pub const LISTENER: i32 = 7;
}

/// What is known of an endpoint, as a text.
pub mod endpoint_fact {
    /// Its address.
    pub const ADDRESS: i32 = 0;
    /// The host name that it was resolved from.
    pub const HOST: i32 = 1;
    /// Its locality.
    pub const LOCALITY: i32 = 2;
}

/// What is known of an endpoint, as a number.
pub mod endpoint_number {
    /// Its weight.
    pub const WEIGHT: i32 = 0;
    /// Its connections and requests in flight.
    pub const LOAD: i32 = 1;
    /// Its priority.
    pub const PRIORITY: i32 = 2;
}

/// A hook of a library.
pub type HookFn =
    unsafe extern "C" fn(AbiRequest, config: *mut c_void, state: *mut c_void, end: i32) -> i32;

/// A hook of a library for connections.
pub type ConnectionHookFn =
    unsafe extern "C" fn(AbiConnection, config: *mut c_void, state: *mut c_void, i32) -> i32;

macro_rules! tables {
    (@empty) => { None };
    (@empty $empty:expr) => { $empty };
    ($($(#[$doc:meta])* $table:ident { $($(#[$entry_doc:meta])* $entry:ident: $of:ty $(= $empty:expr)?,)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            #[repr(C)]
            pub struct $table {
                /// Its size in bytes, as the side that made it knows it.
                pub size: u32,
                /// [`MAJOR`].
                pub major: u16,
                /// [`MINOR`].
                pub minor: u16,
                $($(#[$entry_doc])* pub $entry: $of,)+
            }

            impl $table {
                /// A table of no size, without any entry.
                pub const EMPTY: Self =
                    Self { size: 0, major: 0, minor: 0, $($entry: tables!(@empty $($empty)?),)+ };

                /// The places of the entries, in bytes, by name.
                pub const PLACES: &'static [(&'static str, usize)] =
                    &[$((stringify!($entry), std::mem::offset_of!(Self, $entry)),)+];
            }
        )+
    };
}

tables! {
    /// The functions of the host.
    HostTable {
        /// Writes a line to the log.
        log: Option<unsafe extern "C" fn(i32, AbiText) -> i32>,
        /// Ends a wait.
        resume: Option<unsafe extern "C" fn(AbiTicket) -> i32>,
        /// Refuses a configuration.
        config_refuse: Option<unsafe extern "C" fn(AbiConfig, AbiText) -> i32>,
        /// Declares a counter.
        config_counter: Option<unsafe extern "C" fn(AbiConfig, AbiText, *mut u32) -> i32>,
        /// Declares that the filter may change path or host.
        config_edits_target: Option<unsafe extern "C" fn(AbiConfig) -> i32>,
        /// Reads a header.
        header: Option<unsafe extern "C" fn(AbiRequest, i32, AbiText, usize, *mut AbiText) -> i32>,
        /// Reads all headers.
        headers: Option<unsafe extern "C" fn(AbiRequest, i32, *mut AbiField, usize, *mut usize) -> i32>,
        /// Adds a header.
        header_add: Option<unsafe extern "C" fn(AbiRequest, i32, AbiText, AbiText) -> i32>,
        /// Sets a header.
        header_set: Option<unsafe extern "C" fn(AbiRequest, i32, AbiText, AbiText) -> i32>,
        /// Removes a header.
        header_remove: Option<unsafe extern "C" fn(AbiRequest, i32, AbiText) -> i32>,
        /// Reads a body.
        body: Option<unsafe extern "C" fn(AbiRequest, *mut AbiText) -> i32>,
        /// Replaces a body.
        body_set: Option<unsafe extern "C" fn(AbiRequest, AbiText) -> i32>,
        /// Makes a response.
        respond: Option<unsafe extern "C" fn(AbiRequest, u32, *const AbiField, usize, AbiText, AbiText) -> i32>,
        /// Reads a shared value.
        value: Option<unsafe extern "C" fn(AbiRequest, AbiText, *mut AbiText) -> i32>,
        /// Shares a value.
        value_set: Option<unsafe extern "C" fn(AbiRequest, AbiText, AbiText) -> i32>,
        /// Reads a fact.
        fact: Option<unsafe extern "C" fn(AbiRequest, i32, *mut AbiText) -> i32>,
        /// Counts.
        count: Option<unsafe extern "C" fn(AbiRequest, u32, u64) -> i32>,
        /// Has the route selected again.
        reroute: Option<unsafe extern "C" fn(AbiRequest) -> i32>,
        /// Makes a ticket.
        suspend: Option<unsafe extern "C" fn(AbiRequest, *mut AbiTicket) -> i32>,
        /// Calls a cluster; since 1.1, as all that follows.
        call: Option<unsafe extern "C" fn(AbiRequest, AbiText, *const AbiField, usize, AbiText, u64) -> i32>,
        /// Reads how a call ended.
        call_answer: Option<unsafe extern "C" fn(AbiRequest, *mut u32, *mut AbiText) -> i32>,
        /// Reads a header of the response to a call.
        call_header: Option<unsafe extern "C" fn(AbiRequest, AbiText, usize, *mut AbiText) -> i32>,
        /// Reads a fact about a connection.
        connection_fact: Option<unsafe extern "C" fn(AbiConnection, i32, *mut AbiText) -> i32>,
        /// Reads a shared value of it.
        connection_value: Option<unsafe extern "C" fn(AbiConnection, AbiText, *mut AbiText) -> i32>,
        /// Shares a value about it.
        connection_value_set: Option<unsafe extern "C" fn(AbiConnection, AbiText, AbiText) -> i32>,
        /// Counts.
        connection_count: Option<unsafe extern "C" fn(AbiConnection, u32, u64) -> i32>,
        /// Reads the bytes at hand.
        connection_bytes: Option<unsafe extern "C" fn(AbiConnection, *mut AbiText) -> i32>,
        /// Replaces them.
        connection_bytes_set: Option<unsafe extern "C" fn(AbiConnection, AbiText) -> i32>,
        /// Notes for the record why it ends.
        connection_note: Option<unsafe extern "C" fn(AbiConnection, AbiText) -> i32>,
        /// Makes a ticket.
        connection_suspend: Option<unsafe extern "C" fn(AbiConnection, *mut AbiTicket) -> i32>,
        /// Reads a fact about an endpoint; since 1.2, as all that follows.
        endpoint_fact: Option<unsafe extern "C" fn(AbiBalancer, usize, i32, *mut AbiText) -> i32>,
        /// Reads a number about an endpoint.
        endpoint_number: Option<unsafe extern "C" fn(AbiBalancer, usize, i32, *mut u64) -> i32>,
        /// Tells whether an endpoint can be chosen.
        endpoint_open: Option<unsafe extern "C" fn(AbiBalancer, usize) -> i32>,
        /// Reads the hash of a pick.
        pick_hash: Option<unsafe extern "C" fn(AbiBalancer, *mut u64) -> i32>,
        /// Makes a random number.
        pick_random: Option<unsafe extern "C" fn(AbiBalancer, u64, *mut u64) -> i32>,
    }
    /// The functions of a library.
    ModuleTable {
        /// Name and version of the library.
        name: AbiText = AbiText::NONE,
        /// Checks a configuration.
        config_new: Option<unsafe extern "C" fn(AbiConfig, AbiText, AbiText, *mut *mut c_void) -> i32>,
        /// Frees a configuration.
        config_free: Option<unsafe extern "C" fn(*mut c_void)>,
        /// Begins a request.
        request_new: Option<unsafe extern "C" fn(AbiRequest, *mut c_void, *mut *mut c_void) -> i32>,
        /// Ends a request.
        request_end: Option<unsafe extern "C" fn(AbiRequest, *mut c_void, *mut c_void)>,
        /// The headers of a request.
        request_headers: Option<HookFn>,
        /// A piece of its body.
        request_body: Option<HookFn>,
        /// Its trailers.
        request_trailers: Option<HookFn>,
        /// The headers of a response.
        response_headers: Option<HookFn>,
        /// A piece of its body.
        response_body: Option<HookFn>,
        /// Its trailers.
        response_trailers: Option<HookFn>,
        /// A wait has ended.
        resumed: Option<HookFn>,
        /// Begins a connection; since 1.1, as all that follows.
        connection_new: Option<unsafe extern "C" fn(AbiConnection, *mut c_void, *mut *mut c_void) -> i32>,
        /// Ends a connection.
        connection_end: Option<unsafe extern "C" fn(AbiConnection, *mut c_void, *mut c_void)>,
        /// A connection begins.
        connection_opened: Option<ConnectionHookFn>,
        /// Bytes from the client.
        connection_received: Option<ConnectionHookFn>,
        /// Bytes to the client.
        connection_sent: Option<ConnectionHookFn>,
        /// A wait has ended.
        connection_resumed: Option<ConnectionHookFn>,
        /// Gets a record.
        record: Option<unsafe extern "C" fn(*mut c_void, i32, AbiText) -> i32>,
        /// No record follows for now.
        records_done: Option<unsafe extern "C" fn(*mut c_void)>,
        /// A datagram of a client; since 1.2, as all that follows.
        datagram_received: Option<ConnectionHookFn>,
        /// A datagram to a client.
        datagram_sent: Option<ConnectionHookFn>,
        /// Begins with a list of endpoints.
        balancer_new: Option<unsafe extern "C" fn(AbiBalancer, *mut c_void, usize, *mut *mut c_void) -> i32>,
        /// Frees what was made of them.
        balancer_free: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
        /// Chooses one.
        balancer_pick: Option<unsafe extern "C" fn(AbiBalancer, *mut c_void, *mut c_void, *mut usize) -> i32>,
    }
}
