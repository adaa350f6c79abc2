//! The filter on a worker: asks about a request, and carries out the answer.
//!
//! Owns: the reply to a request that exceeds a limit, and what is noted of a decision. Refuses to know: how descriptors and
//! answers are read. Keeps: what a service says of a request is said of that request alone.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_codec::Head;
use sluice_core::values::ValueFamily;
use sluice_telemetry::CounterSet;

use super::answer::{self, RateAnswer};
use super::descriptors::RateDescriptor;
use super::messages::RateLimitResponse;
use super::service::{Fallback, LocalBuckets};
use super::{DECISION, HttpRateService, METADATA};
use crate::filters::rate_limit::fields::{RateFields, seconds};
use crate::filters::{Cx, HeadStep, HttpFilter, ResponseStep};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::side_calls::GrpcCallError;

#[derive(Debug)]
pub(super) struct GlobalRateFilter(pub(super) Rc<Asking>);

/// What a request that waits for the answer needs of the filter.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) service: Option<Arc<HttpRateService>>,
    pub(super) descriptors: Vec<Arc<RateDescriptor>>,
    pub(super) buckets: LocalBuckets,
    pub(super) listener: Box<str>,
    pub(super) counters: CounterSet<&'static str>,
}

/// The headers that the response gets.
#[derive(Debug)]
struct ForResponse {
    fields: RateFields,
    headers: Vec<(String, Bytes)>,
}

const LIMITED_BODY: &str = "too many requests\n";

impl HttpFilter for GlobalRateFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let asking = Rc::clone(&self.0);
        let Some(service) = asking.service.clone() else {
            let details = "rate_limiter_error[the rule has no service, and neither has its chain]";
            let reply = Reply::new(500, reasons::GLOBAL_RATE, details, "no rate limits\n");
            return HeadStep::reply(reply);
        };
        let descriptors = asking.descriptors.iter();
        let descriptors: Vec<_> =
            descriptors.filter_map(|descriptor| descriptor.of_request(cx, head)).collect();
        if descriptors.is_empty() {
            return HeadStep::Continue;
        }
        let keys = service.service.keys(&asking.buckets, &descriptors);
        let called = service.service.ask(&cx.side_calls(), cx.worker.now(), descriptors);
        HeadStep::wait(async move {
            let answer = called.await;
            move |cx: &mut Cx<'_>, head: &mut Head| {
                let reply = match read(answer) {
                    Ok(answer) => asking.carry_out(&service, answer, cx, head),
                    Err(why) => asking.without_decision(&service, &why, &keys, cx),
                };
                reply.map_or(HeadStep::Continue, HeadStep::reply)
            }
        })
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let add = cx.state.as_ref().and_then(|state| state.downcast_ref::<ForResponse>());
        if let Some(ForResponse { fields, headers }) = add {
            for (name, value) in fields.headers() {
                head.append(name.as_bytes(), value.as_bytes());
            }
            headers.iter().for_each(|(name, value)| head.append(name.as_bytes(), value));
        }
        ResponseStep::Continue
    }
}

/// Why there is no decision: the reason, and the details for the record.
struct NoDecision(sluice_core::Reason, String);

fn read(answer: Result<RateLimitResponse, GrpcCallError>) -> Result<RateAnswer, NoDecision> {
    let answer =
        answer.map_err(|error| NoDecision(error.why(), "rate_limiter_error".to_owned()))?;
    answer::read(answer).map_err(|what| {
        NoDecision(reasons::SIDE_CALL_MALFORMED, format!("rate_limiter_error[{what}]"))
    })
}

impl Asking {
    /// Carries out an answer; returns the reply if the request exceeds a limit.
    fn carry_out(
        &self,
        service: &HttpRateService,
        answer: RateAnswer,
        cx: &mut Cx<'_>,
        head: &mut Head,
    ) -> Option<Reply> {
        self.note(if answer.limited { "limited" } else { "allowed" }, cx);
        if let Some(metadata) = answer.metadata {
            cx.values.set(&METADATA, ValueFamily(Arc::new(metadata)));
        }
        let fields = if service.fields { answer.fields } else { RateFields::default() };
        if !answer.limited {
            for (name, value) in &answer.request {
                head.set(name.as_bytes(), value);
            }
            if !fields.is_empty() || !answer.response.is_empty() {
                *cx.state = Some(Box::new(ForResponse { fields, headers: answer.response }));
            }
            return None;
        }
        let body = if answer.body.is_empty() { Bytes::from(LIMITED_BODY) } else { answer.body };
        let mut reply = refusal(service, "request_rate_limited", answer.retry_after, body);
        for (name, value) in fields.headers() {
            reply = reply.with(name, value);
        }
        for (name, value) in answer.response {
            let value = String::from_utf8_lossy(&value).into_owned();
            if name == "content-type" {
                reply.content_type = value.into();
            } else {
                reply = reply.with(name, value);
            }
        }
        Some(reply)
    }

    /// Does what the settings say without a decision; returns the reply if the request does not pass.
    fn without_decision(
        &self,
        service: &HttpRateService,
        none: &NoDecision,
        keys: &[u128],
        cx: &mut Cx<'_>,
    ) -> Option<Reply> {
        self.note("failed", cx);
        match service.service.without_decision(cx.worker, &self.buckets, keys) {
            Fallback::Pass => None,
            Fallback::Limited(wait) => {
                let retry_after = Some(seconds(wait).max(1));
                Some(refusal(service, "local_rate_limited", retry_after, LIMITED_BODY.into()))
            }
            Fallback::Refuse => {
                let NoDecision(why, details) = none;
                let body = "no decision about rate limits\n";
                Some(Reply::new(service.error_status, *why, details.clone(), body))
            }
        }
    }

    fn note(&self, decision: &'static str, cx: &mut Cx<'_>) {
        cx.values.set(&DECISION, decision);
        self.counters.count(&decision, |decision| {
            cx.worker.shard.counter(&metrics::GLOBAL_RATE, &[&self.listener, decision])
        });
    }
}

/// Refuses a request beyond a limit, and tells the client when to retry.
fn refusal(
    service: &HttpRateService,
    details: &'static str,
    retry_after: Option<u64>,
    body: Bytes,
) -> Reply {
    let mut reply = Reply::new(service.status, reasons::GLOBAL_RATE, details, body);
    if let Some(seconds) = retry_after {
        reply = reply.with("retry-after", seconds.to_string());
    }
    if service.envoy_header {
        reply = reply.with("x-envoy-ratelimited", "true");
    }
    reply
}
