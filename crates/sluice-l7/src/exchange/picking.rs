//! The endpoint of the next attempt.
//!
//! Owns: the pick, the wait in the queue of the cluster, the clusters that serve in place of one. Refuses to know: what
//! becomes of the attempt. Keeps: a request waits no longer than its client and its deadlines do.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::HttpStream;
use sluice_core::Reason;
use sluice_upstream::EndpointState;
use sluice_upstream::cluster::{FALLBACKS_MAX, RequestClaim, TrafficClass, WhenFull};
use sluice_upstream::reasons as upstream_reasons;

use super::RequestTask;
use super::attempt_error::AttemptError;
use super::forward::Forwarding;
use crate::affinity::affinity;
use crate::failed_attempt::no_endpoint;

impl RequestTask {
    /// Picks the endpoint of the next attempt; of the clusters that serve in place of this one if it has none that is
    /// usable.
    pub(super) async fn pick_or_fall_back(
        &mut self,
        down: &mut HttpStream,
        forwarding: &mut Forwarding,
    ) -> Result<(Arc<EndpointState>, RequestClaim), AttemptError> {
        loop {
            let why = match self.pick(forwarding) {
                Ok(picked) => return Ok(picked),
                Err(why) => why,
            };
            let handle = Rc::clone(&forwarding.pool.handle);
            let waits = why == upstream_reasons::LIMIT && handle.has_queue();
            let why = if waits {
                // Boxed, so that requests that do not wait have no room for it.
                match Box::pin(self.wait_for_room(down, forwarding)).await? {
                    Ok(picked) => return Ok(picked),
                    Err(why) => why,
                }
            } else {
                why
            };
            let may_fall_back = usize::from(forwarding.fallbacks) < FALLBACKS_MAX;
            let next = handle.cluster.fallback_for(why).filter(|_| may_fall_back);
            let Some(next) = next else {
                return Err(no_endpoint(why, handle.shortage(why)).into());
            };
            let worker = Rc::clone(self.worker());
            handle.count_fallback(&worker);
            let class = forwarding.options.class;
            let pool = self.manager.shared.pools.to_class(&next, class, &worker);
            self.summary.cluster = Some(next.name.clone());
            forwarding.in_flight = pool.enter_request();
            forwarding.pool = pool;
            forwarding.fallbacks += 1;
        }
    }

    /// Picks the endpoint of the next attempt, preferably one that has not failed this request.
    fn pick(
        &self,
        forwarding: &mut Forwarding,
    ) -> Result<(Arc<EndpointState>, RequestClaim), Reason> {
        let Forwarding { pool, options, hash, named, subset, attempts, .. } = forwarding;
        let (handle, class) = (&pool.handle, TrafficClass::Request);
        if let Some(endpoint) = named {
            let claim = handle.claim_named_for_request(self.worker(), endpoint)?;
            return Ok((Arc::clone(endpoint), claim));
        }
        let affinity = affinity(&self.values, *hash, subset.as_deref());
        let avoid = options.retry.avoid;
        attempts.pick(handle, self.worker(), class, affinity, avoid, WhenFull::Wait)
    }

    /// Waits in the queue of the cluster, as long as the client and its deadlines do.
    async fn wait_for_room(
        &mut self,
        down: &mut HttpStream,
        forwarding: &Forwarding,
    ) -> Result<Result<(Arc<EndpointState>, RequestClaim), Reason>, AttemptError> {
        let worker = Rc::clone(self.worker());
        let handle = &forwarding.pool.handle;
        let affinity = affinity(&self.values, forwarding.hash, forwarding.subset.as_deref());
        let waiting = pin!(async {
            match &forwarding.named {
                Some(endpoint) => handle.wait_for_named_request(&worker, endpoint).await,
                None => handle.wait_for_request(&worker, affinity).await,
            }
        });
        let waited = self.guarded(down, self.deadlines.overall(), waiting).await?;
        waited.ok_or_else(|| self.overall_timed_out().into())
    }
}
