//! What became of the look-ups of a name, for people.
//!
//! Owns: the outcome of the last look-up, when it was, and when the next is due. Refuses to know: how a name is looked
//! up, and the addresses themselves. Keeps: every way in which a look-up fails has a word of its own, the same on admin
//! pages and in metrics.

use tokio::time::Instant;

/// How a look-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupOutcome {
    /// None has ended yet.
    Waiting,
    /// There are addresses.
    Resolved,
    /// The name exists, and has no record of the kind asked for.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// The name server failed.
    ServFail,
    /// The name server refused to answer.
    Refused,
    /// No answer came in time.
    Timeout,
    /// No name server could be reached.
    Unreachable,
    /// The egress policy of the cluster denies every address.
    Denied,
    /// Anything else.
    Failed,
}

impl LookupOutcome {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Resolved => "resolved",
            Self::NoData => "no_data",
            Self::NxDomain => "nxdomain",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// The state of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameState {
    /// How the last look-up ended.
    pub outcome: LookupOutcome,
    /// What is to be said of it: the number of addresses, or what went wrong.
    pub message: String,
    /// When the last look-up ended; `None` before the first.
    pub looked_up_at: Option<Instant>,
    /// When the next begins.
    pub next_at: Option<Instant>,
    /// When the addresses in use were last confirmed; `None` if there are none.
    pub answered_at: Option<Instant>,
}

impl NameState {
    /// Before the first look-up.
    pub fn waiting() -> Self {
        Self {
            outcome: LookupOutcome::Waiting,
            message: "not looked up yet".into(),
            looked_up_at: None,
            next_at: None,
            answered_at: None,
        }
    }
}
