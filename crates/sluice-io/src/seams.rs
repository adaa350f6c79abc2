//! What others implement: inspectors, connection filters, stream handlers.
//!
//! Owns: the traits and the words that pass through them. Refuses to know: any implementation.
//! Keeps: implementations judge; runners own control flow, caps and deadlines.

use std::any::Any;
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{ConnInfo, Diags, Facts, LocalFuture, Node, Path, Reason, Shape, Verdict};

use crate::stream::Stream;
use crate::tap::ByteTap;
use crate::worker::WorkerCx;
use crate::worker::conn::Conn;

/// Looks at the first bytes of a stream.
pub trait Inspector: Debug {
    /// The word for what it recognises.
    fn name(&self) -> &'static str;

    /// Votes on a prefix of the stream. Pure: the same prefix gives the same vote, and a longer one
    /// never turns `Match` or `No` around.
    fn inspect(&self, prefix: &[u8]) -> Inspection;
}

/// An inspector's vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// It is this.
    Match(Facts),
    /// It is not.
    No,
    /// It could be; do not ask again before the prefix has grown by so much. Ask for no more than
    /// it takes to say `Match` or `No`, so that the vote does not depend on how the bytes were cut.
    NeedMore(NonZeroUsize),
    /// The peer waits for an answer before it goes on: send it, take `consumed` bytes off, go on.
    Reply {
        /// What to send.
        bytes: &'static [u8],
        /// What to take off.
        consumed: usize,
        /// Whether what follows must be TLS.
        starttls: bool,
    },
}

/// A kind of connection filter, registered by name. One for the process.
pub trait ConnectionFilterFactory: Send + Sync + Debug {
    /// The name in configurations.
    fn name(&self) -> &'static str;

    /// One sentence for the reference page.
    fn help(&self) -> &'static str;

    /// What its settings look like.
    fn shape(&self) -> Shape;

    /// Checks the settings of one use; adds what is wrong to `diags`.
    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn ConnectionFilterPlan>>;
}

/// One use of a filter in a configuration, shared by all workers.
pub trait ConnectionFilterPlan: Send + Sync + Debug {
    /// The filter on one worker. `owner` names the listener or chain that it belongs to; state
    /// that shall outlive a reload is kept under it.
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter>;
}

/// A filter on one worker.
pub trait ConnectionFilter: Debug {
    /// Judges a connection.
    fn admit(&self, conn: &ConnInfo) -> Admit;

    /// Called once when a connection that was admitted ends.
    fn ended(&self, _conn: &ConnInfo) {}

    /// Something that wants to see the bytes. Any tap turns splicing off.
    fn tap(&self) -> Option<Rc<dyn ByteTap>> {
        None
    }
}

/// A filter's answer, now or later.
pub enum Admit {
    /// At once.
    Now(Verdict),
    /// After something else has happened. The connection waits, nobody else does.
    Wait(LocalFuture<Verdict>),
}

/// Takes a connection over: the relay, or an upgrade to another protocol.
///
/// Whoever hands it a stream of another kind than this layer knows asks for the handler's own type.
pub trait StreamHandler: Any + Debug {
    /// Serves `stream` to its end and says why it ended.
    fn handle(self: Rc<Self>, stream: Stream, conn: Rc<Conn>) -> LocalFuture<Reason>;
}
