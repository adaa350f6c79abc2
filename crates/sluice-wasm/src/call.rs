//! What a guest reaches of the request while one of its functions runs.
//!
//! Owns: the interface between the functions that a guest calls and the message at hand. Refuses to know: how a guest calls them,
//! and which message it is. Keeps: where there is no message, every operation on one is refused.

use bytes::Bytes;
use sluice_l7::SideCalls;
use sluice_sys::loan::Lendable;

use crate::abi::Status;
use crate::pairs::FieldPair;

/// What comes of an operation.
pub(crate) type CallResult<T> = Result<T, Status>;

/// A change of a map of headers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MapEdit<'a> {
    Add(&'a [u8], &'a [u8]),
    Replace(&'a [u8], &'a [u8]),
    Remove(&'a [u8]),
    All(&'a [FieldPair]),
}

/// Which map of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapOf {
    pub(crate) response: bool,
    pub(crate) trailers: bool,
}

/// The message and the request at hand.
pub(crate) trait GuestCall {
    /// All pairs of a map; none if there is no such map now.
    fn pairs(&self, _of: MapOf) -> Vec<FieldPair> {
        Vec::new()
    }

    /// The first value of a name.
    fn value(&self, _of: MapOf, _name: &[u8]) -> CallResult<Option<Vec<u8>>> {
        Err(Status::BadArgument)
    }

    fn edit(&mut self, _of: MapOf, _edit: MapEdit<'_>) -> CallResult<()> {
        Err(Status::BadArgument)
    }

    /// The body at hand.
    fn body(&self, _response: bool) -> CallResult<Bytes> {
        Err(Status::NotFound)
    }

    fn set_body(&mut self, _response: bool, _body: Bytes) -> CallResult<()> {
        Err(Status::NotFound)
    }

    /// The bytes of a connection at hand; whether those to the client.
    fn bytes(&self, _sent: bool) -> CallResult<Bytes> {
        Err(Status::NotFound)
    }

    fn set_bytes(&mut self, _sent: bool, _bytes: Bytes) -> CallResult<()> {
        Err(Status::NotFound)
    }

    /// A property of the request or connection, as bytes.
    fn property(&self, _path: &[&str]) -> Option<Vec<u8>> {
        None
    }

    /// Shares a value about the request or connection.
    fn set_property(&mut self, _path: &[&str], _value: &[u8]) -> CallResult<()> {
        Err(Status::NotFound)
    }

    /// Whether a response can still be sent in place of what there is.
    fn may_respond(&self) -> bool {
        false
    }

    /// Has the route selected again.
    fn reroute(&mut self) -> CallResult<()> {
        Err(Status::BadArgument)
    }

    /// What calls of the request are made with.
    fn side_calls(&mut self) -> Option<SideCalls> {
        None
    }

    /// The number of the request or connection, for the log; 0 without one.
    fn request(&self) -> u64 {
        0
    }
}

/// [`GuestCall`], as it is lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls;

impl Lendable for Calls {
    type Of<'a> = dyn GuestCall + 'a;
}

/// No message is at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoMessage;

impl GuestCall for NoMessage {}
