//! Load of endpoints: how a request went, what an endpoint reports with its response, and what is dropped to keep the load
//! down.
//!
//! Owns: what is awaited of trailers. Refuses to know: who goes by it. Keeps: a request has one result at most; a call of gRPC
//! has that of its status, which mostly comes last.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_codec::grpc::status_number;
use sluice_core::Reason;
use sluice_core::reason::Side;
use sluice_upstream::{ClusterHandle, EndpointState};

use super::attempt_error::AttemptError;
use super::{RequestTask, Stop};
use crate::load_report::report_in;
use crate::pools::ClusterPool;
use crate::reply::Reply;
use crate::upstream_stream::UpstreamStream;

/// What is awaited of the trailers of a response.
pub(super) struct AwaitedTrailers {
    handle: Rc<ClusterHandle>,
    endpoint: Arc<EndpointState>,
    /// What the endpoint reports of its load.
    load: bool,
    /// The result of a call of gRPC.
    result: bool,
}

impl RequestTask {
    /// Drops the request, if the cluster drops a part of them and chance wants it.
    pub(super) fn drop_by_chance(
        &mut self,
        handle: &ClusterHandle,
        tells: bool,
    ) -> Result<(), Stop> {
        let dropped = handle.drop_by_chance(self.worker());
        dropped.map_err(|(why, category)| {
            self.summary.detail = Some(format!("category {category}").into());
            let body = self.failure_body("drop overload", why);
            let reply = Reply::new(503, why, "drop_overload", body);
            Stop::reply(if tells { reply.with("x-envoy-drop-overload", "true") } else { reply })
        })
    }

    /// Notes what the headers of a response report of the load of the endpoint.
    pub(super) fn note_reported_in_head(&mut self, pool: &ClusterPool, up: &UpstreamStream) {
        self.reporting = None;
        let endpoint = &up.endpoint;
        if !pool.handle.heeds_reports(endpoint) {
            return;
        }
        if let Some(report) = report_in(&self.response) {
            pool.handle.note_load_report(self.worker(), endpoint, report.as_ref());
        } else {
            self.awaited(pool, up).load = true;
        }
    }

    /// Notes the result of a request, or that the trailers have it.
    pub(super) fn note_result_in_head(&mut self, pool: &ClusterPool, up: &UpstreamStream) {
        if !pool.handle.cluster.reports_load() {
            return;
        }
        let (status, grpc) = (self.response.status(), status_number(&self.response));
        if self.grpc && status == 200 && grpc.is_none() {
            self.awaited(pool, up).result = true;
        } else {
            pool.handle.note_result(&up.endpoint, status < 500 && !is_server_error(grpc));
        }
    }

    fn awaited(&mut self, pool: &ClusterPool, up: &UpstreamStream) -> &mut AwaitedTrailers {
        let (handle, endpoint) = (&pool.handle, &up.endpoint);
        self.reporting.get_or_insert_with(|| {
            let (handle, endpoint) = (Rc::clone(handle), Arc::clone(endpoint));
            Box::new(AwaitedTrailers { handle, endpoint, load: false, result: false })
        })
    }

    /// Notes what trailers say.
    pub(super) fn note_trailers(&mut self, trailers: &Head) {
        let Some(reporting) = self.reporting.take() else { return };
        let AwaitedTrailers { handle, endpoint, load, result } = &*reporting;
        if *load && let Some(report) = report_in(trailers) {
            handle.note_load_report(self.worker(), endpoint, report.as_ref());
        }
        if *result {
            handle.note_result(endpoint, !is_server_error(status_number(trailers)));
        }
    }

    /// Notes that a response has ended without the trailers that were awaited.
    pub(super) fn end_without_trailers(&mut self, why: Reason) {
        let Some(reporting) = self.reporting.take() else { return };
        let AwaitedTrailers { handle, endpoint, result, .. } = &*reporting;
        if *result && why.def().side == Side::Upstream {
            handle.note_result(endpoint, false);
        }
    }
}

/// Notes that a request did not reach the endpoint that was picked for it, if that is the endpoint's fault.
pub(super) fn note_unreached(pool: &ClusterPool, endpoint: &EndpointState, error: &AttemptError) {
    if let AttemptError::Failed(failed) = error
        && failed.why.def().side == Side::Upstream
    {
        pool.handle.note_result(endpoint, false);
    }
}

/// Whether a status of gRPC stands for an error of the server, as those of HTTP from 500 on do: unknown, deadline exceeded,
/// unimplemented, internal, unavailable, data loss.
const fn is_server_error(grpc: Option<u32>) -> bool {
    matches!(grpc, Some(2 | 4 | 12..=15))
}
