//! Health checks of endpoints by HTTP and by the gRPC health service.
//!
//! Owns: the request and what counts as a healthy response. Refuses to know: when checks run and what a sequence of
//! results means. Keeps: a status that is not expected is the endpoint's own word; a connection that fails is not.
//!
//! Source: the gRPC Health Checking Protocol, `grpc.health.v1.Health/Check`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_core::LocalFuture;
use sluice_io::WorkerCx;
use sluice_upstream::EndpointState;
use sluice_upstream::health::{CheckError, CheckPassed, CheckResult, HealthProbe};
use sluice_upstream::plan::{CheckKind, ClusterPlan, HttpCheck, StatusRanges};

use self::exchange::{CheckExchange, KeptConnection, ProbeResponse, READ_MAX};
use crate::grpc::{self, GrpcFrames, GrpcStatus};
use crate::head::Head;

mod exchange;

/// The response header of an endpoint that asks for no more traffic, and is unhealthy at once.
pub const FAIL_HEADER: &[u8] = b"x-envoy-immediate-health-check-fail";

/// The response header of an endpoint that asks to be used only if others do not suffice.
pub const DEGRADED_HEADER: &[u8] = b"x-envoy-degraded";

/// Health checks by requests.
#[derive(Debug)]
pub struct RequestProbe {
    plan: Arc<ClusterPlan>,
    endpoint: Arc<EndpointState>,
    worker: Rc<WorkerCx>,
    kept: Rc<RefCell<Option<KeptConnection>>>,
}

impl RequestProbe {
    /// Checks of `endpoint`, which run on `worker`.
    pub fn new(plan: Arc<ClusterPlan>, endpoint: Arc<EndpointState>, worker: Rc<WorkerCx>) -> Self {
        Self { plan, endpoint, worker, kept: Rc::default() }
    }
}

impl HealthProbe for RequestProbe {
    fn probe(&self) -> LocalFuture<CheckResult> {
        let exchange = CheckExchange {
            plan: Arc::clone(&self.plan),
            endpoint: Arc::clone(&self.endpoint),
            worker: Rc::clone(&self.worker),
            kept: Rc::clone(&self.kept),
        };
        Box::pin(async move {
            let plan = Arc::clone(&exchange.plan);
            match plan.health.as_ref().map(|health| &health.kind) {
                Some(CheckKind::Http(check)) => ask_http(&exchange, check).await,
                Some(CheckKind::Grpc { service, authority }) => {
                    ask_grpc(&exchange, service, authority.as_deref()).await
                }
                _ => Err(CheckError::Local("the check is not by request".into())),
            }
        })
    }
}

fn scheme(plan: &ClusterPlan) -> &'static str {
    if plan.tls.is_some() { "https" } else { "http" }
}

/// The host in a request: that of the endpoint's own checks, or that of the cluster's, or else its name.
fn host(endpoint: &EndpointState, of_cluster: Option<&str>) -> String {
    let own = endpoint.check().and_then(|check| check.host.clone());
    let name = || of_cluster.or(endpoint.host.as_deref()).unwrap_or(&endpoint.name).to_owned();
    own.unwrap_or_else(name)
}

async fn ask_http(exchange: &CheckExchange, check: &HttpCheck) -> CheckResult {
    let host = host(&exchange.endpoint, check.host.as_deref());
    let host = host.as_str();
    let mut head = Head::request(&check.method, scheme(&exchange.plan), host, &check.path);
    for (name, value) in &check.headers {
        head.set(name.as_bytes(), value.as_bytes());
    }
    let (answer, rest) = exchange.ask(head, None, !check.body.is_empty(), check.reuse).await?;
    judge(check, &answer, &rest)
}

fn judge(check: &HttpCheck, answer: &Head, rest: &ProbeResponse) -> CheckResult {
    let status = answer.status();
    let within =
        |ranges: &StatusRanges| ranges.iter().any(|(low, high)| (*low..=*high).contains(&status));
    if !within(&check.expect) {
        let message = format!("answered {status}");
        let passing = within(&check.retriable);
        return Err(if passing { message.into() } else { CheckError::Unfit(message) });
    }
    if answer.get_named(FAIL_HEADER).is_some() {
        return Err(CheckError::Unfit("asked for no more traffic by its header".into()));
    }
    let found = check.body.is_empty() || memchr::memmem::find(&rest.data, &check.body).is_some();
    if !found {
        let within = if rest.ended { "" } else { " in the first 64 KiB" };
        return Err(CheckError::Unfit(format!(
            "the body does not contain what is expected{within}"
        )));
    }
    Ok(CheckPassed { degraded: answer.get_named(DEGRADED_HEADER).is_some() })
}

async fn ask_grpc(exchange: &CheckExchange, service: &str, authority: Option<&str>) -> CheckResult {
    let authority = host(&exchange.endpoint, authority);
    let authority = authority.as_str();
    let path = "/grpc.health.v1.Health/Check";
    let head = grpc::request_head(scheme(&exchange.plan), authority, path);
    let (answer, rest) = exchange.ask(head, Some(question(service)), true, true).await?;
    if answer.status() != 200 {
        return Err(format!("answered {}", answer.status()).into());
    }
    let status = GrpcStatus::of_response(&answer, rest.trailers.as_deref());
    if !status.is_ok() {
        return Err(status.to_string().into());
    }
    if !is_serving(&rest.data) {
        return Err(CheckError::Unfit("the service is not SERVING".into()));
    }
    Ok(CheckPassed { degraded: answer.get_named(DEGRADED_HEADER).is_some() })
}

/// Encodes a `HealthCheckRequest` in a gRPC frame: field 1 is the service.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        // Service names are short; a length of two bytes is enough.
        let length = u16::try_from(service.len()).unwrap_or(u16::MAX).min(0x3fff);
        if length < 0x80 {
            message.push(length.to_le_bytes()[0]);
        } else {
            message.push((length & 0x7f).to_le_bytes()[0] | 0x80);
            message.push((length >> 7).to_le_bytes()[0]);
        }
        message.extend_from_slice(&service.as_bytes()[..usize::from(length)]);
    }
    grpc::frame(&message).expect("it has less than four gibibytes")
}

/// Whether a `HealthCheckResponse` in a gRPC frame contains SERVING: field 1 is 1.
pub fn is_serving(data: &[u8]) -> bool {
    let mut frames = GrpcFrames::new(READ_MAX);
    frames.push(data);
    matches!(frames.message(), Ok(Some(message)) if message.starts_with(&[0x08, 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_of_the_health_service() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(question(&"x".repeat(200))[5..8], [0x0a, 0xc8, 1]);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!is_serving(&[0, 0, 0, 0, 2, 8, 2]) && !is_serving(&[0, 0, 0, 0, 0]));
    }

    #[test]
    fn what_a_response_means() {
        let check = HttpCheck {
            method: "GET".into(),
            path: "/".into(),
            host: None,
            headers: Vec::new(),
            expect: vec![(200, 299), (404, 404)],
            retriable: vec![(500, 503)],
            body: b"ready".to_vec(),
            reuse: true,
        };
        let says = |status: u16, header: Option<&[u8]>, body: &[u8]| {
            let mut head = Head::response(status);
            header.into_iter().for_each(|name| head.append(name, b"1"));
            let rest = ProbeResponse { data: body.to_vec(), ended: true, ..Default::default() };
            judge(&check, &head, &rest)
        };
        let passed = |degraded| Ok(CheckPassed { degraded });
        let unfit = |why: &str| Err(CheckError::Unfit(why.into()));
        assert_eq!(says(200, None, b"I am ready."), passed(false));
        assert_eq!(says(404, None, b"ready"), passed(false));
        assert_eq!(says(204, Some(b"x-envoy-degraded"), b"ready"), passed(true));
        assert_eq!(says(302, None, b"ready"), unfit("answered 302"));
        assert_eq!(says(504, None, b"ready"), unfit("answered 504"));
        assert_eq!(says(503, None, b"ready"), Err(CheckError::Endpoint("answered 503".into())));
        let body = "the body does not contain what is expected";
        assert_eq!(says(200, None, b"read"), unfit(body));
        let header = "asked for no more traffic by its header";
        assert_eq!(says(200, Some(FAIL_HEADER), b"ready"), unfit(header));
    }
}
