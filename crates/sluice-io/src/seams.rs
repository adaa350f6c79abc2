//! The traits for extensions: inspectors, connection filters, stream handlers.
//!
//! Owns: the traits and the types they exchange. Refuses to know: any implementation.
//! Keeps: implementations decide; their callers own control flow, limits and deadlines.

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::rc::Rc;

use sluice_core::{ConnInfo, Facts, LocalFuture, Protocol, Reason, Verdict};
use sluice_telemetry::metrics::SeriesLabels;

use crate::byte_filter::ByteFilter;
use crate::datagram_filter::DatagramFilter;
use crate::stream::Stream;
use crate::tap::ByteTap;
use crate::worker::WorkerCx;
use crate::worker::conn::Conn;

/// Inspects the first bytes of a stream.
pub trait Inspector: Debug {
    /// What it recognises.
    fn protocol(&self) -> Protocol;

    /// Votes on a prefix of the stream. Pure: the same prefix gives the same vote, and a longer one never reverses
    /// `Match` or `No`.
    fn inspect(&self, prefix: &[u8]) -> Inspection;
}

/// The vote of an inspector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// The stream is this.
    Match(Facts),
    /// It is not.
    No,
    /// It could be; do not ask again until the prefix has grown by this many bytes. Request no more than needed to vote
    /// `Match` or `No`, so that the vote does not depend on how the bytes were segmented.
    NeedMore(NonZeroUsize),
    /// The peer waits for a reply before it continues: send it, remove `consumed` bytes, continue.
    Reply {
        /// The bytes to send.
        bytes: &'static [u8],
        /// The number of bytes to remove.
        consumed: usize,
        /// Whether TLS must follow.
        starttls: bool,
    },
}

/// One use of a filter in a configuration, shared by all workers.
pub trait ConnectionFilterPlan: Send + Sync + Debug {
    /// Whether the filter has a [`ByteFilter`] for its connections. Only a relay moves bytes through filters, so that it is
    /// an error on chains that serve HTTP and for UDP.
    fn filters_bytes(&self) -> bool {
        false
    }

    /// Whether the filter has a [`DatagramFilter`] for its flows. Then UDP may use it in spite of a [`ByteFilter`]; one that
    /// has nothing else is an error elsewhere.
    fn filters_datagrams(&self) -> bool {
        false
    }

    /// Whether it has nothing to do with connections over TCP.
    fn is_for_datagrams_only(&self) -> bool {
        false
    }

    /// Whether this filter may count in the series with these labels, which have values of its settings, such as names
    /// of policies. Such series leave when no filter in force counts in them.
    fn counts_in(&self, _series: &SeriesLabels<'_>) -> bool {
        false
    }

    /// Creates the filter on one worker. `owner` names the listener or chain that it belongs to; state that should
    /// outlive a reload is kept under that name.
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter>;
}

/// A filter on one worker.
pub trait ConnectionFilter: Debug {
    /// Decides whether to admit a connection.
    fn admit(&self, conn: &ConnInfo) -> Admit;

    /// Called once when an admitted connection ends.
    fn ended(&self, _conn: &ConnInfo) {}

    /// Called when a flow that was admitted continues as another, which has an identity of its own and to which it was not asked
    /// to admit: what is kept for one is now that of the other.
    fn moved(&self, _from: &ConnInfo, _to: &ConnInfo) {}

    /// Whether it judges the client's certificate. Over TCP a chain's filters always know it; over QUIC those that judge
    /// it are asked after the handshake, and the others before.
    fn judges_certificate(&self) -> bool {
        false
    }

    /// A tap for the bytes of an admitted connection. Any tap disables splicing.
    fn tap(&self, _conn: &ConnInfo) -> Option<Rc<dyn ByteTap>> {
        None
    }

    /// What changes the bytes of an admitted connection. A connection with a byte filter is copied, never spliced.
    fn byte_filter(&self, _conn: &ConnInfo) -> Option<Box<dyn ByteFilter>> {
        None
    }

    /// What changes the datagrams of an admitted flow.
    fn datagram_filter(&self, _flow: &ConnInfo) -> Option<Box<dyn DatagramFilter>> {
        None
    }
}

/// The decision of a filter, now or later.
pub enum Admit {
    /// Immediately.
    Now(Verdict),
    /// After something else has happened. Only this connection waits.
    Wait(LocalFuture<AdmitResume>),
}

/// Called when what a filter waited for has happened: notes what there is to note of the connection, and decides.
pub type AdmitResume = Box<dyn FnOnce(&ConnInfo) -> Verdict>;

impl Admit {
    /// Waits; `later` returns what decides then.
    pub fn wait<R>(later: impl Future<Output = R> + 'static) -> Self
    where
        R: FnOnce(&ConnInfo) -> Verdict + 'static,
    {
        Self::Wait(Box::pin(async move { Box::new(later.await) as AdmitResume }))
    }
}

/// Takes over a connection: the relay, or an upgrade to another protocol.
pub trait StreamHandler: Debug {
    /// Serves `stream` to its end and returns why it ended.
    fn handle(self: Rc<Self>, stream: Stream, conn: Rc<Conn>) -> LocalFuture<Reason>;
}
