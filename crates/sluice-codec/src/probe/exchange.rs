//! One request to an endpoint and its response, on a connection that may be kept.
//!
//! Owns: the connection between two checks. Refuses to know: what the response means. Keeps: a connection is opened and
//! secured like those of requests; no more of a body is read than a bound; a kept connection that fails before it
//! responds is replaced once, since that says nothing about the endpoint.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use sluice_io::{Stream, WorkerCx};
use sluice_upstream::connector::reach_by;
use sluice_upstream::health::CheckError;
use sluice_upstream::plan::{ClusterPlan, HttpVersion};
use sluice_upstream::{EndpointState, Preface};

use crate::HttpError;
use crate::body::{Body, Frame};
use crate::h1::stream::H1Options;
use crate::h1::{H1Stream, Role};
use crate::h2::{H2Client, H2Options};
use crate::h3::H3Client;
use crate::head::Head;
use crate::names::Known;
use crate::quic::QuicClients;
use crate::stream::HttpStream;

/// Bytes of a response body after which no more is read.
pub(super) const READ_MAX: usize = 64 * 1024;

/// What is needed for a request and its response.
pub(super) struct CheckExchange {
    pub plan: Arc<ClusterPlan>,
    pub endpoint: Arc<EndpointState>,
    pub worker: Rc<WorkerCx>,
    /// The connection of the last check.
    pub kept: Rc<RefCell<Option<KeptConnection>>>,
}

/// A connection between two checks.
#[derive(Debug)]
pub(super) enum KeptConnection {
    H1(Box<H1Stream>),
    H2(H2Client),
    H3(H3Client),
}

impl KeptConnection {
    /// Whether it is still open, and between two messages.
    fn may_be_used(&mut self, worker: &WorkerCx) -> bool {
        match self {
            Self::H1(h1) => h1.is_quiet(worker),
            Self::H2(h2) => h2.is_alive(),
            Self::H3(h3) => h3.is_alive(),
        }
    }
}

/// What was received after a head.
#[derive(Debug, Default)]
pub(super) struct ProbeResponse {
    pub data: Vec<u8>,
    pub trailers: Option<Box<Head>>,
    /// Whether nothing was left to read.
    pub ended: bool,
}

impl CheckExchange {
    /// Sends a request and reads its response: the head, and body and trailers if they are wanted or if the connection
    /// is kept.
    pub(super) async fn ask(
        &self,
        mut head: Head,
        body: Option<Bytes>,
        wants_body: bool,
        keep: bool,
    ) -> Result<(Head, ProbeResponse), CheckError> {
        if head.get_named(b"user-agent").is_none() {
            head.append(b"user-agent", b"sluice-health-check");
        }
        let kept = self.kept.borrow_mut().take();
        let mut started = None;
        if let Some(mut connection) = kept
            && connection.may_be_used(&self.worker)
        {
            started = self.start(connection, &head, body.clone()).await.ok();
        }
        let (mut stream, connection, answer) = match started {
            Some(started) => started,
            None => self.start(self.open(is_grpc(&head)).await?, &head, body).await?,
        };
        let mut rest = ProbeResponse::default();
        if wants_body || keep {
            rest = self.read(&mut stream).await.map_err(told)?;
        }
        let whole = rest.ended && stream.is_received() && stream.is_sent();
        let kept = match stream {
            HttpStream::H1(mut h1) => {
                let again = keep && whole && h1.next_exchange();
                if !again {
                    h1.reset();
                }
                again.then_some(KeptConnection::H1(h1))
            }
            mut stream => {
                stream.reset(true);
                connection.filter(|_| keep)
            }
        };
        *self.kept.borrow_mut() = kept;
        Ok((answer, rest))
    }

    async fn open(&self, is_grpc: bool) -> Result<KeptConnection, CheckError> {
        let Self { plan, endpoint, worker, .. } = self;
        if plan.protocol == HttpVersion::Http3 {
            let client = QuicClients::default().reach(plan, endpoint, None, worker, ()).await?;
            return Ok(KeptConnection::H3(client));
        }
        let follows = plan.protocol == HttpVersion::Same && is_grpc;
        let tls = plan.tls.as_ref();
        let tls = tls.map(|tls| if follows { tls.for_http2() } else { tls });
        let preface = Preface::default();
        let stream = reach_by(plan, tls, endpoint, worker, &preface).await?;
        let h2 = match (plan.protocol, &stream) {
            (HttpVersion::Http2, _) => true,
            (HttpVersion::Same, _) => is_grpc,
            (HttpVersion::Auto, Stream::Tls(tls)) => tls.facts().alpn.as_deref() == Some(b"h2"),
            _ => false,
        };
        if h2 {
            let client = H2Client::begin(stream, worker, &H2Options::default(), ());
            return Ok(KeptConnection::H2(client));
        }
        let options = Rc::new(H1Options::default());
        Ok(KeptConnection::H1(H1Stream::new(stream, Role::Client, options)))
    }

    /// Sends the request and receives the head of the response. Returns the connection too, if the stream is not all of
    /// it.
    async fn start(
        &self,
        connection: KeptConnection,
        head: &Head,
        body: Option<Bytes>,
    ) -> Result<(HttpStream, Option<KeptConnection>, Head), CheckError> {
        let (worker, end) = (&self.worker, body.is_none());
        let (mut stream, connection) = match connection {
            KeptConnection::H1(mut h1) => {
                h1.send_head(worker, head, end, false).map_err(told)?;
                (HttpStream::H1(h1), None)
            }
            KeptConnection::H2(h2) => {
                let stream = h2.open(head, end).await.map_err(told)?;
                (HttpStream::H2(stream), Some(KeptConnection::H2(h2)))
            }
            KeptConnection::H3(h3) => {
                let stream = h3.open(head, end).await.map_err(told)?;
                (HttpStream::H3(Box::new(stream)), Some(KeptConnection::H3(h3)))
            }
        };
        let mut body = body;
        let sending = poll_fn(|cx| match body.take() {
            None => stream.push(cx, worker).into(),
            Some(bytes) => stream.send_data(cx, worker, Body::Shared(bytes), true).into(),
        });
        sending.await.map_err(told)?;
        let mut answer = Head::default();
        loop {
            let receiving = poll_fn(|cx| {
                // What the peer had no room for yet leaves while the response is awaited.
                if let Poll::Ready(Err(error)) = stream.poll_flushed(cx, worker) {
                    return Poll::Ready(Err(error));
                }
                stream.poll_recv_head(cx, worker, &mut answer)
            });
            receiving.await.map_err(told)?;
            if answer.status() >= 200 {
                return Ok((stream, connection, answer));
            }
        }
    }

    async fn read(&self, stream: &mut HttpStream) -> Result<ProbeResponse, HttpError> {
        let mut rest = ProbeResponse::default();
        while rest.data.len() < READ_MAX {
            match poll_fn(|cx| stream.poll_recv(cx, &self.worker)).await? {
                Frame::Data { body, last } => {
                    rest.data.extend_from_slice(&body);
                    rest.ended = last;
                }
                Frame::Trailers(trailers) => {
                    rest.trailers = Some(trailers);
                    rest.ended = true;
                }
                Frame::End => rest.ended = true,
            }
            if rest.ended {
                break;
            }
        }
        Ok(rest)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn told(error: HttpError) -> CheckError {
    CheckError::Endpoint(error.to_string())
}

/// Whether a request is one of gRPC, which needs HTTP/2.
fn is_grpc(head: &Head) -> bool {
    head.get(Known::ContentType).is_some_and(|kind| kind.starts_with(b"application/grpc"))
}
