//! A request on its way to an endpoint: the stream that carries it, and what belongs to that stream.
//!
//! Owns: sending the request headers on a connection from a pool. Refuses to know: whose request it is, and what the
//! endpoint responds. Keeps: what is needed to give the connection back stays with the stream.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::h1::H1Stream;
use sluice_codec::{Head, HttpError, HttpStream, Version};
use sluice_core::Moment;
use sluice_io::WorkerCx;
use sluice_upstream::EndpointState;

use crate::pools::{ClusterPool, PoolTicket, PooledConn, TakenH1};

/// The most response heads per attempt, the final one included; an endpoint that sends more informational ones is at
/// fault.
pub(crate) const RESPONSE_HEADS_MAX: u32 = 32;

/// A stream to an endpoint, and what belongs to it.
pub(crate) struct UpstreamStream {
    pub(crate) stream: HttpStream,
    pub(crate) version: Version,
    pub(crate) endpoint: Arc<EndpointState>,
    /// Returns an HTTP/1 connection to its pool.
    pub(crate) ticket: Option<PoolTicket>,
    pub(crate) reused: bool,
    /// Whether the request headers were sent before the handshake was complete.
    pub(crate) early: bool,
    pub(crate) sent_at: Moment,
}

impl UpstreamStream {
    /// Returns the connection to its pool, if the stream has one to itself and both messages have ended; resets a stream
    /// that has not `sent` all of its request.
    pub(crate) fn finish(self, worker: &Rc<WorkerCx>, pool: &ClusterPool, sent: bool) {
        match (self.stream, self.ticket) {
            (HttpStream::H1(stream), Some(ticket)) => {
                pool.give_back(worker, &self.endpoint, stream, ticket);
            }
            (mut stream, _) if !sent => stream.reset(true),
            _ => {}
        }
    }
}

/// An HTTP/1 connection on which request headers were sent, with its ticket and whether it carried requests before.
pub(crate) type SentOnH1 = (Box<H1Stream>, PoolTicket, bool);

/// The HTTP version of the requests on a connection.
pub(crate) fn version_of(pooled: &PooledConn) -> Version {
    match pooled {
        PooledConn::H1(_) => Version::Http11,
        PooledConn::Shared(connection) => connection.version(),
        #[cfg(test)]
        PooledConn::Scripted(stream, _) if stream.is_shared() => Version::Http2,
        #[cfg(test)]
        PooledConn::Scripted(..) => Version::Http11,
    }
}

/// Sends request headers on an HTTP/1 connection, of which at most `read_max` bytes are read at once; `whole` means that
/// nothing follows on the wire.
///
/// # Errors
/// The headers cannot be sent, or the error of the stream.
pub(crate) fn send_on_h1(
    taken: TakenH1,
    worker: &WorkerCx,
    request: &Head,
    whole: bool,
    read_max: usize,
) -> Result<SentOnH1, HttpError> {
    let reused = taken.is_reused();
    let (mut stream, ticket) = taken.into_parts();
    stream.set_read_max(read_max);
    stream.send_head(worker, request, whole, false)?;
    Ok((stream, ticket, reused))
}
