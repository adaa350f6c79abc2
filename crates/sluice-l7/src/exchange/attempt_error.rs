//! Why an attempt of an exchange delivered no response to the client.
//!
//! Owns: the distinction between a failed attempt and the end of the request. Refuses to know: how either came about.
//! Keeps: only a failed attempt may be followed by a retry.

use super::Stop;
use crate::failed_attempt::FailedAttempt;

/// Why an attempt delivered no response to the client.
pub(super) enum AttemptError {
    /// It failed; a retry may succeed.
    Failed(FailedAttempt),
    /// It was redirected, and the rule follows.
    Redirected,
    /// The request ends without a retry.
    Stop(Stop),
}

impl From<FailedAttempt> for AttemptError {
    fn from(failed: FailedAttempt) -> Self {
        Self::Failed(failed)
    }
}

impl From<Stop> for AttemptError {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}
