//! Why an attempt of an exchange delivered no response to the client.
//!
//! Owns: the distinction between a failed attempt and the end of the request. Refuses to know: how either came about.
//! Keeps: only a failed attempt may be followed by a retry.

use super::Stop;
use super::late_attempts::LateAttempt;
use crate::failed_attempt::FailedAttempt;

/// Why an attempt delivered no response to the client.
pub(super) enum AttemptError {
    /// It failed; a retry may succeed.
    Failed(FailedAttempt),
    /// Its response is one to retry, and no retry is left; other attempts in flight may do better.
    Unwanted(FailedAttempt),
    /// It is late, and goes on.
    Late(Box<LateAttempt>),
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
