//! HTTP/3 at endpoints of a cluster that may use TCP as well.
//!
//! Owns: what a failure of HTTP/3 means for an endpoint. Refuses to know: how HTTP/3 is attempted. Keeps: it does not
//! count as a failure of the endpoint, which TCP reaches.

use sluice_io::WorkerCx;

use super::ClusterHandle;
use crate::endpoint::EndpointState;

impl ClusterHandle {
    /// Notes that HTTP/3 does not work at `endpoint`, for `cause`: it is not attempted again for a while.
    pub fn note_http3_failure(&self, worker: &WorkerCx, endpoint: &EndpointState, cause: &str) {
        let Some(race) = self.plan().http3.race else { return };
        endpoint.http3.note_failed(&race, worker.now(), cause);
        let (cluster, endpoint) = (&*self.cluster.name, &*endpoint.name);
        tracing::info!(cluster, endpoint, error = cause, "HTTP/3 does not work; TCP is used");
    }
}
