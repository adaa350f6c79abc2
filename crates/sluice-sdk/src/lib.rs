//! Filters for Sluice as loaded libraries, in Rust.
//!
//! Owns: what a filter implements, and what it may do, without unsafe code of its own. Refuses to know: Sluice, but for
//! `sluice_filter.h`. Keeps: what the host lends is borrowed from the request, so that nothing outlives its hook or a change of
//! the message; a panic of a filter is a failure of its request.
//!
//! A library is a crate of the type `cdylib`:
//!
//! ```
//! use sluice_sdk::{Config, Filter, Part, Request, Step};
//!
//! struct Tag(String);
//!
//! impl Filter for Tag {
//!     type State = ();
//!
//!     fn new(_: &mut Config<'_>, _filter: &str, text: &str) -> Result<Self, String> {
//!         if text.is_empty() { Err("a tag is missing".into()) } else { Ok(Self(text.into())) }
//!     }
//!
//!     fn begin(&self, _: &mut Request<'_>) {}
//!
//!     fn request_headers(&self, _: &mut (), request: &mut Request<'_>, _: bool) -> Step {
//!         match request.set(Part::RequestHeaders, "x-tag", &self.0) {
//!             Ok(()) => Step::Continue,
//!             Err(_) => Step::Fail,
//!         }
//!     }
//! }
//!
//! sluice_sdk::module!("tag 1.0", Tag);
//! ```
#![deny(unsafe_code)]

mod balancer;
mod connection;
mod logger;
#[doc(hidden)]
pub mod raw;
mod request;

pub use balancer::{Balancer, Endpoints, Pick};
pub use connection::{Connection, ConnectionEvent, ConnectionModule, ConnectionStep, DatagramStep};
pub use logger::{AccessLogger, LoggedKind};
pub use request::{
    Answer, Call, Config, Fact, Fields, Level, Part, Refusal, Request, Response, Ticket, log,
};

/// A filter: what a library makes of a configuration. All threads share it.
pub trait Filter: Send + Sync + Sized + 'static {
    /// What it remembers of a request.
    type State: 'static;

    /// Makes a filter of the text of a configuration; `filter` is the `name` of the settings.
    ///
    /// # Errors
    /// Why it cannot be used; `sluice check` prints it.
    fn new(config: &mut Config<'_>, filter: &str, text: &str) -> Result<Self, String>;

    /// A request begins.
    fn begin(&self, request: &mut Request<'_>) -> Self::State;

    /// The headers of a request; `end` if nothing follows.
    fn request_headers(&self, _: &mut Self::State, _: &mut Request<'_>, _end: bool) -> Step {
        Step::Continue
    }

    /// A piece of its body, after [`Step::Read`] or [`Step::Edit`], or all of it, after [`Step::Buffer`].
    fn request_body(&self, _: &mut Self::State, _: &mut Request<'_>, _end: bool) -> Step {
        Step::Continue
    }

    /// Its trailers.
    fn request_trailers(&self, _: &mut Self::State, _: &mut Request<'_>) -> Step {
        Step::Continue
    }

    /// The headers of a response.
    fn response_headers(&self, _: &mut Self::State, _: &mut Request<'_>, _end: bool) -> Step {
        Step::Continue
    }

    /// A piece of its body, or all of it.
    fn response_body(&self, _: &mut Self::State, _: &mut Request<'_>, _end: bool) -> Step {
        Step::Continue
    }

    /// Its trailers.
    fn response_trailers(&self, _: &mut Self::State, _: &mut Request<'_>) -> Step {
        Step::Continue
    }

    /// What `hook` waited for ([`Step::Wait`]) has happened; decides what it left open.
    fn resumed(&self, _: &mut Self::State, _: &mut Request<'_>, _hook: Hook) -> Step {
        Step::Continue
    }

    /// The request has ended.
    fn end(&self, _: Self::State, _: &mut Request<'_>) {}
}

/// What becomes of a message after a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// It goes on; after headers, without showing its body and trailers.
    Continue = 0,
    /// It ends with the response of [`Request::respond`].
    Respond = 1,
    /// It waits for the ticket of [`Request::suspend`].
    Wait = 2,
    /// The filter failed.
    Fail = 3,
    /// After headers: it goes on, and its body and trailers are read.
    Read = 4,
    /// After headers: it goes on, and its body and trailers are changed.
    Edit = 5,
    /// After headers: its body is received whole.
    Buffer = 6,
}

/// A hook that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// [`Filter::request_headers`].
    RequestHeaders,
    /// [`Filter::request_body`].
    RequestBody,
    /// [`Filter::request_trailers`].
    RequestTrailers,
    /// [`Filter::response_headers`].
    ResponseHeaders,
    /// [`Filter::response_body`].
    ResponseBody,
    /// [`Filter::response_trailers`].
    ResponseTrailers,
}

/// Exports a filter: name and version of the library, and the type of the filter. Once in a library.
#[macro_export]
macro_rules! module {
    ($name:literal, $filter:ty) => {
        $crate::export!($crate::raw::table::<$filter>($name));
    };
}

/// Exports a connection filter, as [`module!`] does a filter.
#[macro_export]
macro_rules! connection_module {
    ($name:literal, $filter:ty) => {
        $crate::export!($crate::raw::connection_table::<$filter>($name));
    };
}

/// Exports an access logger, as [`module!`] does a filter.
#[macro_export]
macro_rules! logger_module {
    ($name:literal, $logger:ty) => {
        $crate::export!($crate::raw::logger_table::<$logger>($name));
    };
}

/// Exports a balancer, as [`module!`] does a filter.
#[macro_export]
macro_rules! balancer_module {
    ($name:literal, $balancer:ty) => {
        $crate::export!($crate::raw::balancer_table::<$balancer>($name));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export {
    ($table:expr) => {
        const _: () = {
            static TABLE: $crate::raw::Table = $table;

            #[unsafe(no_mangle)]
            extern "C" fn sluice_module_init(
                host: $crate::raw::HostPointer,
            ) -> $crate::raw::TablePointer {
                $crate::raw::init(host, &TABLE)
            }
        };
    };
}
