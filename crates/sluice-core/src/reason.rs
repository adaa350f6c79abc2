//! Why a connection or flow ended: a closed, published set.
//!
//! Owns: the structure of a reason and the tables of the reasons that no single layer owns.
//! Refuses to know: how a reason is logged or counted.
//! Keeps: codes are never made up at the call site; each is declared in a table with its help.

use std::fmt;

/// The phases of a connection, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The socket was accepted; the peer and local addresses are known, then the source.
    Accept,
    /// The first bytes are inspected; protocol, server name and ALPN become known.
    Inspect,
    /// The filter chain is selected.
    Select,
    /// TLS is terminated or passed through.
    Transport,
    /// The connection filters of the chain decide.
    Filter,
    /// Bytes are relayed, or the stream is handed to an upgrade; the endpoint is known.
    Handle,
    /// The one access log record is written.
    Log,
}

impl Phase {
    /// The word used in logs, metrics and documentation.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Inspect => "inspect",
            Self::Select => "select",
            Self::Transport => "transport",
            Self::Filter => "filter",
            Self::Handle => "handle",
            Self::Log => "log",
        }
    }
}

/// The side that ended the connection or flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// The endpoint.
    Upstream,
    /// Sluice itself: its configuration, limits or operator.
    Local,
}

impl Side {
    /// The word used in logs and documentation.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Local => "local",
        }
    }
}

/// One row of a table of reasons.
#[derive(Debug, PartialEq, Eq)]
pub struct ReasonDef {
    /// `subject.what`, unique in the process.
    pub code: &'static str,
    /// The phase in which it happens.
    pub phase: Phase,
    /// The side that caused it.
    pub side: Side,
    /// The response flag that Envoy logs for the same event, or `-` if it has none.
    pub envoy_flag: &'static str,
    /// What it means and what to do about it, in one sentence.
    pub help: &'static str,
}

/// A reference to a row of a table of reasons.
#[derive(Clone, Copy)]
pub struct Reason(&'static ReasonDef);

impl Reason {
    /// The reason that `def` describes; used by the [`reasons!`](crate::reasons) macro.
    pub const fn new(def: &'static ReasonDef) -> Self {
        Self(def)
    }

    /// `subject.what`.
    pub const fn code(self) -> &'static str {
        self.0.code
    }

    /// The row.
    pub const fn def(self) -> &'static ReasonDef {
        self.0
    }
}

impl PartialEq for Reason {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.0.code == other.0.code
    }
}

impl Eq for Reason {}

impl std::hash::Hash for Reason {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.code.hash(state);
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code)
    }
}

/// The decision of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Continue.
    Continue,
    /// End the connection for this reason.
    Reject(Reason),
}

/// Declares a table of reasons: one constant per row, and `TABLE` with all of them.
///
/// ```
/// sluice_core::reasons! {
///     TEAPOT = "kitchen.teapot", Handle, Local, "-", "The pot is not for coffee; use the other one.";
/// }
/// assert_eq!(TEAPOT.code(), "kitchen.teapot");
/// assert_eq!(TABLE.len(), 1);
/// ```
#[macro_export]
macro_rules! reasons {
    ($($name:ident = $code:literal, $phase:ident, $side:ident, $flag:literal, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $name: $crate::reason::Reason =
                $crate::reason::Reason::new(&$crate::reason::ReasonDef {
                    code: $code,
                    phase: $crate::reason::Phase::$phase,
                    side: $crate::reason::Side::$side,
                    envoy_flag: $flag,
                    help: $help,
                });
        )+
        /// Every reason declared here, in order.
        pub const TABLE: &[$crate::reason::Reason] = &[$($name),+];
    };
}

/// Reasons that apply to any connection or flow.
pub mod end {
    crate::reasons! {
        DONE = "end.done", Handle, Downstream, "-", "Both sides closed the connection cleanly. Nothing to do.";
        IDLE = "end.idle", Handle, Local, "SI", "No bytes were relayed for the relay's `idle_timeout`. If idle periods are expected, raise `idle_timeout` or enable keepalives in the application.";
        MAX_DURATION = "end.max_duration", Handle, Local, "DT", "The connection reached the relay's `max_duration`. Raise it if connections may last longer.";
        HALF_CLOSE = "end.half_close", Handle, Local, "SI", "One side closed and the other sent nothing for `half_close_timeout`. Raise it if the reply may take longer, or check why the other side does not close.";
        ENDPOINT_REMOVED = "end.endpoint_removed", Handle, Local, "-", "The endpoint was removed from its cluster, and `on_endpoint_removed` closes its connections. Set it to `keep` or `{ drain: 30s }` if they should continue.";
        ENDPOINT_UNHEALTHY = "end.endpoint_unhealthy", Handle, Local, "-", "The endpoint became unhealthy or was ejected, and `on_endpoint_unhealthy: close` closes its connections. See `/clusters` on the admin address for the cause. Set it to `keep` if they should continue.";
        KILLED = "end.killed", Handle, Local, "-", "An operator ended this connection or flow (`sluice connection ID kill`, or a POST to `/connections` on the admin address). Nothing to do; the process log has the time.";
        DRAIN = "end.drain", Handle, Local, "-", "Sluice was shutting down and closed the connection, either between requests or because `drain.timeout` had expired. Raise `drain.timeout` if requests or transfers were cut off.";
        FORCED = "end.forced", Handle, Local, "-", "Sluice was told to stop immediately (a second signal). Send only one signal and wait for `drain.timeout` so that connections can finish.";
        DOWNSTREAM_RESET = "downstream.reset", Handle, Downstream, "DR", "The client reset the connection, and the reset was passed on to the endpoint. Check the client: it crashed, gave up or did not read everything; a firewall in between may also send resets.";
        DOWNSTREAM_CLOSED = "downstream.closed", Handle, Downstream, "DC", "The client closed the connection before it could be served. Check the client: a port scan, a load balancer's probe, or a timeout shorter than ours.";
        WORKER_PANIC = "worker.panic", Handle, Local, "-", "A bug in Sluice ended this connection or request and no other. Please report it with the lines of the process log that begin with `panicked`.";
    }
}
