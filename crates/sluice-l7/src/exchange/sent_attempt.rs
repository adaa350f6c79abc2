//! An attempt whose request headers were sent.
//!
//! Owns: what it holds until it ends. Refuses to know: what its endpoint responds. Keeps: the claim on the endpoint lasts
//! as long as the stream.

use std::rc::Rc;

use sluice_upstream::cluster::RequestClaim;

use crate::attempts::AttemptGuard;
use crate::pools::ClusterPool;
use crate::upstream_stream::UpstreamStream;

/// An attempt that has sent its request headers, and what it holds until it ends.
pub(super) struct SentAttempt {
    pub(super) up: UpstreamStream,
    pub(super) pool: Rc<ClusterPool>,
    pub(super) _claim: RequestClaim,
    /// Its entry in the table of attempts, if its endpoint may be withdrawn from it.
    pub(super) guard: Option<AttemptGuard>,
}
