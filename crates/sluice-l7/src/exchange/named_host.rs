//! The endpoint of a request whose cluster is a forward proxy: the host that the client named.
//!
//! Owns: which part of a request names the host, and what the client is told if it cannot be reached. Refuses to know:
//! which hosts may be named, and how they are looked up. Keeps: a request never goes to a host that it does not name.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{HttpStream, Method};
use sluice_core::Reason;
use sluice_upstream::reasons as upstream_reasons;
use sluice_upstream::{EndpointState, ForwardFailure, HostNaming};

use super::{RequestTask, Stop};
use crate::pools::ClusterPool;
use crate::reply::Reply;

/// The usual port of what is in TLS, which a tunnel is assumed to be.
const HTTPS: u16 = 443;

/// The usual port of requests in clear text.
const HTTP: u16 = 80;

impl RequestTask {
    /// Whether the request asks for a tunnel to a host.
    pub(super) fn is_tunnel(&self) -> bool {
        self.method == Method::Connect && self.request.upgrade().is_none()
    }

    /// Whether the request asks for a tunnel that ends here: endpoints get its bytes alone.
    pub(super) fn ends_tunnel(&self, pool: &ClusterPool) -> bool {
        let by_post = self.method == Method::Post && self.request.upgrade().is_none();
        (self.is_tunnel() && (self.ends_connect || pool.handle.ends_tunnels()))
            || (self.ends_post && by_post)
    }

    /// The endpoint of the host that the request names, after its rule has rewritten it; waits for its look-up.
    pub(super) async fn named_endpoint(
        &mut self,
        down: &mut HttpStream,
        pool: &Rc<ClusterPool>,
    ) -> Result<Arc<EndpointState>, Stop> {
        let worker = Rc::clone(self.worker());
        let plan = pool.handle.cluster.plan();
        let in_tls = plan.tls.is_some() || self.is_tunnel();
        let usual = if in_tls { HTTPS } else { HTTP };
        let named = self.request.authority();
        let host = plan.forward.as_ref().map(|forward| match &forward.named_by {
            HostNaming::Client => forward.host(named, usual),
            HostNaming::Destination { header, .. } => {
                forward.destination(self.destination(header.as_deref()))
            }
        });
        let host = match host {
            Some(Ok(host)) => host,
            Some(Err(failure)) => return Err(self.unserved(failure)),
            None => {
                let failure = ForwardFailure::new(upstream_reasons::NO_ENDPOINT, "");
                return Err(self.unserved(failure));
            }
        };
        let by = self.deadlines.overall();
        let looking = pin!(pool.handle.endpoint_of(&worker, &host));
        match self.guarded(down, by, looking).await? {
            Some(Ok(endpoint)) => Ok(endpoint),
            Some(Err(failure)) => Err(self.unserved(failure)),
            None => {
                let late = self.overall_timed_out();
                self.summary.detail = late.said.detail;
                let body = self.failure_body(late.text, late.why);
                Err(Stop::reply(Reply::new(late.status, late.why, late.details, body)))
            }
        }
    }

    /// Where the client wanted to go: the address in this header if it is one, or else that of its connection.
    fn destination(&self, header: Option<&str>) -> Option<SocketAddr> {
        let of_header = header.and_then(|name| {
            let value = self.request.get_named(name.as_bytes())?;
            std::str::from_utf8(value).ok()?.trim().parse().ok()
        });
        of_header.or_else(|| self.downstream.conn.info.restored_destination())
    }

    /// The reply to a request whose host is not served.
    fn unserved(&mut self, failure: ForwardFailure) -> Stop {
        let ForwardFailure { why, detail } = failure;
        let known = REFUSALS.iter().find(|(reason, ..)| *reason == why);
        let (status, details, text) = known.map_or(
            (503, "no_healthy_upstream", "no healthy upstream"),
            |(_, status, details, text)| (*status, *details, *text),
        );
        self.summary.detail = (!detail.is_empty()).then_some(detail);
        let body = self.failure_body(text, why);
        Stop::reply(Reply::new(status, why, details, body))
    }
}

/// What a client is told, by reason: the status, the value of `%RESPONSE_CODE_DETAILS%`, and the text.
const REFUSALS: &[(Reason, u16, &str, &str)] = &[
    (upstream_reasons::NAME_MISSING, 400, "host_malformed", "the request names no host"),
    (upstream_reasons::NAME_DENIED, 403, "host_denied", "this host is not served"),
    (upstream_reasons::EGRESS, 403, "egress_denied", "this host is not served"),
    (upstream_reasons::LIMIT, 503, "dns_cache_overflow", "too many hosts"),
    (upstream_reasons::DNS, 503, "dns_resolution_failure", "the host cannot be looked up"),
];
