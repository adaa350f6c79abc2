//! What a connection tells its driver.
//!
//! Owns: the events. Refuses to know: what causes them, and what becomes of them. Keeps: an event owns the head that it
//! is about.

use crate::error::HttpError;
use crate::head::Head;

/// What happened on a connection.
#[derive(Debug)]
pub enum MachineEvent {
    /// A request was received; its stream has this key.
    Request(usize, Box<Head>),
    /// A request was refused, and the client has been told.
    Refused(HttpError),
}
