//! Health checks of endpoints by HTTP and by the gRPC health service.
//!
//! Owns: the request and what counts as a healthy response. Refuses to know: when checks run and what a sequence of
//! results means. Keeps: every check has a connection of its own, opened and secured like those of requests, and reads
//! no more of a response than it must.
//!
//! Source: the gRPC Health Checking Protocol, `grpc.health.v1.Health/Check`.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use sluice_core::LocalFuture;
use sluice_io::{Stream, WorkerCx};
use sluice_upstream::connector::reach;
use sluice_upstream::health::{CheckError, HealthProbe};
use sluice_upstream::plan::{CheckKind, ClusterPlan, HttpVersion};
use sluice_upstream::{EndpointState, Preface};

use crate::body::{Body, Frame};
use crate::grpc::{self, GrpcFrames, GrpcStatus};
use crate::h1::stream::H1Options;
use crate::h1::{H1Stream, Role};
use crate::h2::{H2Client, H2Options};
use crate::head::Head;
use crate::quic::QuicClients;
use crate::stream::HttpStream;

/// Bytes of a response body after which no more is read.
const ANSWER_MAX: usize = 4096;

/// Health checks by requests.
#[derive(Debug)]
pub struct RequestProbe {
    /// How endpoints are reached and what is requested.
    pub plan: Arc<ClusterPlan>,
    /// The worker on which the checks run.
    pub worker: Rc<WorkerCx>,
}

impl HealthProbe for RequestProbe {
    fn probe(&self, endpoint: &Arc<EndpointState>) -> LocalFuture<Result<(), CheckError>> {
        let (plan, worker, endpoint) =
            (Arc::clone(&self.plan), Rc::clone(&self.worker), Arc::clone(endpoint));
        Box::pin(async move {
            match plan.health.as_ref().map(|health| &health.kind) {
                Some(CheckKind::Http { path, host, expect }) => {
                    let host = host.as_deref().unwrap_or_else(|| own_name(&endpoint));
                    let head = Head::request("GET", scheme(&plan), host, path);
                    let (answer, _) = ask(&plan, &endpoint, &worker, head, None).await?;
                    let status = answer.status();
                    if expect.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
                        Ok(())
                    } else {
                        Err(format!("answered {status}").into())
                    }
                }
                Some(CheckKind::Grpc { service }) => {
                    ask_grpc(&plan, &endpoint, &worker, service).await
                }
                Some(CheckKind::Tcp) | None => {
                    reach(&plan, &endpoint, &worker, &Preface::default())
                        .await
                        .map(drop)
                        .map_err(CheckError::from)
                }
            }
        })
    }
}

fn scheme(plan: &ClusterPlan) -> &'static str {
    if plan.tls.is_some() { "https" } else { "http" }
}

fn own_name(endpoint: &EndpointState) -> &str {
    endpoint.host.as_deref().unwrap_or(&endpoint.name)
}

/// Sends one request and reads its response: the head, and as much of body and trailers as needed.
async fn ask(
    plan: &ClusterPlan,
    endpoint: &Arc<EndpointState>,
    worker: &Rc<WorkerCx>,
    mut head: Head,
    body: Option<Bytes>,
) -> Result<(Head, ProbeResponse), CheckError> {
    head.append(b"user-agent", b"sluice-health-check");
    let wants_body = body.is_some();
    let mut stream = open(plan, endpoint, worker, &head, body.is_none()).await?;
    let failed = |error: crate::HttpError| error.to_string();
    let mut body = body;
    poll_fn(|cx| {
        let Some(bytes) = body.take() else { return stream.push(cx, worker).into() };
        stream.send_data(cx, worker, Body::Shared(bytes), true).into()
    })
    .await
    .map_err(failed)?;
    let mut answer = Head::default();
    loop {
        poll_fn(|cx| {
            // What the peer had no room for yet leaves while the response is awaited.
            if let Poll::Ready(Err(error)) = stream.poll_flushed(cx, worker) {
                return Poll::Ready(Err(error));
            }
            stream.poll_recv_head(cx, worker, &mut answer)
        })
        .await
        .map_err(failed)?;
        if answer.status() >= 200 {
            break;
        }
    }
    let mut rest = ProbeResponse::default();
    while wants_body && rest.data.len() <= ANSWER_MAX {
        match poll_fn(|cx| stream.poll_recv(cx, worker)).await.map_err(failed)? {
            Frame::Data { body, last } => {
                rest.data.extend_from_slice(&body);
                if last {
                    break;
                }
            }
            Frame::Trailers(trailers) => {
                rest.trailers = Some(trailers);
                break;
            }
            Frame::End => break,
        }
    }
    stream.reset(true);
    Ok((answer, rest))
}

/// Sends the head of a request on a new connection.
async fn open(
    plan: &ClusterPlan,
    endpoint: &Arc<EndpointState>,
    worker: &Rc<WorkerCx>,
    head: &Head,
    end: bool,
) -> Result<HttpStream, CheckError> {
    let failed = |error: crate::HttpError| error.to_string();
    if plan.protocol == HttpVersion::Http3 {
        let clients = QuicClients::default();
        let client = clients.reach(plan, endpoint, worker, ()).await?;
        return Ok(HttpStream::H3(Box::new(client.open(head, end).await.map_err(failed)?)));
    }
    let stream = reach(plan, endpoint, worker, &Preface::default()).await?;
    let h2 = match (plan.protocol, &stream) {
        (HttpVersion::Http2, _) => true,
        (HttpVersion::Auto, Stream::Tls(tls)) => tls.facts().alpn.as_deref() == Some(b"h2"),
        _ => false,
    };
    if h2 {
        let client = H2Client::handshake(stream, worker, &H2Options::default(), ()).await;
        let opened = client.map_err(failed)?.open(head, end).await;
        return Ok(HttpStream::H2(Box::new(opened.map_err(failed)?)));
    }
    let mut h1 = H1Stream::new(stream, Role::Client, Rc::new(H1Options::default()));
    h1.send_head(worker, head, end, false).map_err(failed)?;
    Ok(HttpStream::H1(h1))
}

/// What was received after a head.
#[derive(Default)]
struct ProbeResponse {
    data: Vec<u8>,
    trailers: Option<Box<Head>>,
}

async fn ask_grpc(
    plan: &ClusterPlan,
    endpoint: &Arc<EndpointState>,
    worker: &Rc<WorkerCx>,
    service: &str,
) -> Result<(), CheckError> {
    let head = grpc::request_head(scheme(plan), own_name(endpoint), "/grpc.health.v1.Health/Check");
    let (answer, rest) = ask(plan, endpoint, worker, head, Some(question(service))).await?;
    if answer.status() != 200 {
        return Err(format!("answered {}", answer.status()).into());
    }
    let status = GrpcStatus::of_response(&answer, rest.trailers.as_deref());
    if !status.is_ok() {
        return Err(status.to_string().into());
    }
    if !is_serving(&rest.data) {
        return Err("the service is not SERVING".to_owned().into());
    }
    Ok(())
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
fn is_serving(data: &[u8]) -> bool {
    let mut frames = GrpcFrames::new(ANSWER_MAX);
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
}
