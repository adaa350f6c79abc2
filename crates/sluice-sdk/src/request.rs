//! What a filter may do with a request.
//!
//! Owns: the operations of the host as methods. Refuses to know: how they are called. Keeps: reading borrows the request, and
//! changing borrows it alone.

use std::marker::PhantomData;
use std::time::Duration;

use sluice_abi::{AbiConfig, AbiRequest, AbiTicket, fact, part, result};

use crate::raw;

/// Why the host did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An argument cannot be used.
    Invalid,
    /// Not in this hook.
    NotNow,
    /// The request is not at hand any more.
    Stale,
    /// A bound is exceeded.
    TooLarge,
    /// The configuration did not declare it.
    NotAllowed,
    /// The host lacks the function, or failed.
    Internal,
}

impl Refusal {
    pub(crate) const fn of(code: i32) -> Self {
        match code {
            result::INVALID => Self::Invalid,
            result::NOT_NOW => Self::NotNow,
            result::STALE => Self::Stale,
            result::TOO_LARGE => Self::TooLarge,
            result::NOT_ALLOWED => Self::NotAllowed,
            _ => Self::Internal,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Invalid => "an argument cannot be used",
            Self::NotNow => "not possible in this hook",
            Self::Stale => "the request is not at hand any more",
            Self::TooLarge => "a bound is exceeded",
            Self::NotAllowed => "the configuration did not declare it",
            Self::Internal => "an error of the host",
        })
    }
}

impl std::error::Error for Refusal {}

/// A part of a message that has headers or trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Part {
    /// The headers of the request, to read in every hook; with `:method`, `:path`, `:authority`, `:scheme`.
    RequestHeaders = part::REQUEST_HEADERS,
    /// Its trailers.
    RequestTrailers = part::REQUEST_TRAILERS,
    /// The headers of the response, with `:status`.
    ResponseHeaders = part::RESPONSE_HEADERS,
    /// Its trailers.
    ResponseTrailers = part::RESPONSE_TRAILERS,
}

/// Headers: names and values.
pub type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// A fact about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Fact {
    /// The address of the client.
    Source = fact::SOURCE,
    /// The other end of the connection.
    Peer = fact::PEER,
    /// This end of it.
    Local = fact::LOCAL,
    /// The version of HTTP.
    Protocol = fact::PROTOCOL,
    /// The name of the rule.
    Route = fact::ROUTE,
    /// The server name of TLS.
    Sni = fact::SNI,
    /// The number of the request, as in records and logs.
    Request = fact::REQUEST,
    /// The name of the listener.
    Listener = fact::LISTENER,
}

/// A level of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Level {
    /// Something failed.
    Error = 0,
    /// Something may be wrong.
    Warn = 1,
    /// Something happened.
    Info = 2,
    /// For those who look for a fault.
    Debug = 3,
    /// For those who still look for it.
    Trace = 4,
}

/// Writes a line to the log of Sluice; on any thread, at any time.
pub fn log(level: Level, line: &str) {
    raw::log(level as i32, line);
}

/// A configuration that is being checked.
#[derive(Debug)]
pub struct Config<'a> {
    pub(crate) handle: AbiConfig,
    pub(crate) of_call: PhantomData<&'a mut *mut ()>,
}

impl Config<'_> {
    /// Declares a counter, `sluice_module_counts_total{filter,counter}`; returns its number for [`Request::count`].
    ///
    /// # Errors
    /// The name has other characters than `a-z`, `0-9` and `_`, or there are 64 already.
    pub fn counter(&mut self, name: &str) -> Result<u32, Refusal> {
        raw::config_counter(self.handle, name)
    }

    /// Declares that the filter may set `:path` or `:authority`.
    ///
    /// # Errors
    /// The host lacks the function.
    pub fn edits_target(&mut self) -> Result<(), Refusal> {
        raw::config_edits_target(self.handle)
    }
}

/// A response of the filter.
#[derive(Clone, Debug, Default)]
pub struct Response<'a> {
    /// From 200 to 599.
    pub status: u16,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
    /// For the record.
    pub details: &'a str,
}

/// A call of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// The cluster, one of `clusters` of the settings.
    pub cluster: &'a str,
    /// Names and values, with `:method`, `:path` and perhaps `:authority`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
    /// When it ends at the latest; without it, with the time of a filter.
    pub timeout: Option<Duration>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The status of the response; 0 if there is none.
    pub status: u32,
    /// Its body, or why there is no response.
    pub body: &'a [u8],
}

/// A request, in the hook that gets it.
#[derive(Debug)]
pub struct Request<'a> {
    pub(crate) handle: AbiRequest,
    pub(crate) of_call: PhantomData<&'a mut *mut ()>,
}

impl Request<'_> {
    /// The first value of a header.
    ///
    /// # Errors
    /// The part is not at hand.
    pub fn get(&self, part: Part, name: &str) -> Result<Option<&[u8]>, Refusal> {
        self.get_at(part, name, 0)
    }

    /// The value of a header with that index.
    ///
    /// # Errors
    /// The part is not at hand.
    pub fn get_at(&self, part: Part, name: &str, index: usize) -> Result<Option<&[u8]>, Refusal> {
        raw::header(self, part as i32, name, index)
    }

    /// All headers, without `:method` and the like.
    ///
    /// # Errors
    /// The part is not at hand.
    pub fn all(&self, part: Part) -> Result<Fields<'_>, Refusal> {
        raw::headers(self, part as i32)
    }

    /// Adds a header.
    ///
    /// # Errors
    /// The part was sent, or it is no header that may be changed.
    pub fn add(&mut self, part: Part, name: &str, value: &str) -> Result<(), Refusal> {
        raw::header_add(self.handle, part as i32, name, value)
    }

    /// Sets a header in place of all of that name.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn set(&mut self, part: Part, name: &str, value: &str) -> Result<(), Refusal> {
        raw::header_set(self.handle, part as i32, name, value)
    }

    /// Removes a header; returns whether there was one.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn remove(&mut self, part: Part, name: &str) -> Result<bool, Refusal> {
        raw::header_remove(self.handle, part as i32, name)
    }

    /// The body at hand.
    ///
    /// # Errors
    /// It is no hook for a body.
    pub fn body(&self) -> Result<&[u8], Refusal> {
        raw::body(self)
    }

    /// Replaces it.
    ///
    /// # Errors
    /// It may not be changed, or is larger than `body_max`.
    pub fn set_body(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        raw::body_set(self.handle, bytes)
    }

    /// Makes a response and returns the step that sends it, or [`Step::Fail`](crate::Step::Fail) if that is not possible.
    pub fn respond(&mut self, response: &Response<'_>) -> crate::Step {
        match raw::respond(self.handle, response) {
            Ok(()) => crate::Step::Respond,
            Err(_) => crate::Step::Fail,
        }
    }

    /// A value that filters share.
    ///
    /// # Errors
    /// It is too large.
    pub fn value(&self, name: &str) -> Result<Option<&[u8]>, Refusal> {
        raw::value(self, name)
    }

    /// Shares a value, `%VALUE(module.values.NAME)%`.
    ///
    /// # Errors
    /// There is no room for it, or it is no text.
    pub fn set_value(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        raw::value_set(self.handle, name, value)
    }

    /// A fact.
    ///
    /// # Errors
    /// It is not at hand.
    pub fn fact(&self, fact: Fact) -> Result<Option<&[u8]>, Refusal> {
        raw::fact(self, fact as i32)
    }

    /// Counts.
    ///
    /// # Errors
    /// The configuration has no such counter.
    pub fn count(&mut self, counter: u32, amount: u64) -> Result<(), Refusal> {
        raw::count(self.handle, counter, amount)
    }

    /// Has the route selected again, after the hook for the headers of the request.
    ///
    /// # Errors
    /// It is too late.
    pub fn reroute(&mut self) -> Result<(), Refusal> {
        raw::reroute(self.handle)
    }

    /// A ticket that ends the wait of this hook, which then returns [`Step::Wait`](crate::Step::Wait).
    ///
    /// # Errors
    /// There is nothing that could wait.
    pub fn suspend(&mut self) -> Result<Ticket, Refusal> {
        raw::suspend(self.handle).map(Ticket::new)
    }

    /// Calls a cluster, when the hook returns [`Step::Wait`](crate::Step::Wait), which is what this returns if it can be called.
    ///
    /// # Errors
    /// The settings do not name the cluster, it is no request, or there is a ticket or a call already.
    pub fn call(&mut self, call: &Call<'_>) -> Result<crate::Step, Refusal> {
        raw::call(self.handle, call).map(|()| crate::Step::Wait)
    }

    /// How the call ended that [`Filter::resumed`](crate::Filter::resumed) waited for.
    ///
    /// # Errors
    /// The host lacks the function.
    pub fn answer(&self) -> Result<Option<Answer<'_>>, Refusal> {
        raw::call_answer(self)
    }

    /// The value of a header of that response, with an index from 0.
    ///
    /// # Errors
    /// The host lacks the function.
    pub fn answer_header(&self, name: &str, index: usize) -> Result<Option<&[u8]>, Refusal> {
        raw::call_header(self, name, index)
    }
}

/// A wait. It ends when this is resumed or dropped, on any thread.
#[derive(Debug)]
pub struct Ticket(Option<AbiTicket>);

impl Ticket {
    pub(crate) const fn new(ticket: AbiTicket) -> Self {
        Self(Some(ticket))
    }

    /// Ends the wait. Returns whether the worker was told; if its queue is full, this waits until it is not.
    pub fn resume(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let Some(ticket) = self.0.take() else { return false };
        loop {
            match raw::resume(ticket) {
                result::BUSY => std::thread::yield_now(),
                code => return code == result::OK,
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end();
    }
}
