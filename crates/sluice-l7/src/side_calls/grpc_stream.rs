//! gRPC calls of filters with several messages, in either direction or both.
//!
//! Owns: the messages of one open call, and how it ends. Refuses to know: frames and statuses on the wire, and how its
//! connection came about. Keeps: a call has all bounds of a side call as long as it is open; at most one message that
//! was not taken is held; once it has ended, it ends the same way however often it is asked.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message;
use sluice_codec::grpc::{GrpcFault, GrpcFrames, GrpcStatus};
use sluice_codec::{Body, Frame, Head, HttpError};
use sluice_core::limits::Limit;
use sluice_core::{LocalFuture, Moment, Name};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_io::timers::Timer;
use sluice_upstream::cluster::RequestClaim;
use sluice_upstream::{Cluster, EndpointState};

use super::attempt::{StreamBound, too_many_heads};
use super::attempts::failure;
use super::grpc::framed;
use super::permits::SideCallPermit;
use super::{GrpcCallError, GrpcMethod, SideCallError, SideCallGuard, SideCalls, SideRequest};
use crate::attempts::AttemptGuard;
use crate::failed_attempt::{FailedAttempt, endpoint_left, failed_attempt};
use crate::reasons;
use crate::upstream_stream::{RESPONSE_HEADS_MAX, UpstreamStream};

/// An open call; dropping it cancels the call.
pub struct GrpcStream<Req, Res> {
    call: OpenCall,
    types: PhantomData<fn(Req) -> Res>,
}

impl<Req, Res> fmt::Debug for GrpcStream<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcStream").field("cluster", &self.call.cluster()).finish_non_exhaustive()
    }
}

/// What is sent in an open call while messages are received.
pub trait GrpcConversation<Req> {
    /// The next message to send; `None` ends those to the service, and nothing is asked for after it.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<Option<Req>>;

    /// Ready if there is room for another message of the service.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl SideCalls {
    /// Opens a call of a method that takes or returns several messages, as [`SideCalls::call_grpc`] does otherwise: a
    /// path, or a [`GrpcMethod`] with metadata. All of it must be over in the time that [`SideCalls::call`] has. Once
    /// opened, it is not repeated, since its messages are not kept.
    ///
    /// # Errors
    /// No connection could be used.
    pub fn open_grpc<Req: Message, Res: Message + Default>(
        &self,
        cluster: &Arc<Cluster>,
        method: impl Into<GrpcMethod>,
        by: Moment,
    ) -> LocalFuture<Result<GrpcStream<Req, Res>, GrpcCallError>> {
        let request = method.into().into_request();
        let (calls, cluster) = (self.clone(), Arc::clone(cluster));
        Box::pin(async move {
            let mut guard = calls.begin(&cluster);
            match calls.open(&guard, request, by).await {
                Ok(opened) => Ok(GrpcStream { call: opened.into_call(guard), types: PhantomData }),
                Err(error) => {
                    guard.end = Some(Err(error.clone()));
                    Err(error.into())
                }
            }
        })
    }

    async fn open(
        &self,
        guard: &SideCallGuard,
        mut request: SideRequest,
        by: Moment,
    ) -> Result<Opened, SideCallError> {
        let permit = self.admit(&mut request, by)?;
        let by = request.by;
        let open = async |endpoint: Arc<EndpointState>, claim: RequestClaim| {
            let pool = &guard.pool();
            let attempt = self.enter_attempt(pool, &endpoint);
            let connecting = pin!(self.connect(pool, &endpoint, &request));
            let up = AttemptGuard::unless_cancelled(attempt.as_ref(), connecting).await;
            let up = up.unwrap_or_else(|left| Err(endpoint_left(left)))?;
            Ok((up, attempt.map(Rc::new), claim))
        };
        let opening = self.in_attempts(guard, &request, open, |_, _| None);
        let opened = Timer::new(&self.worker.timers).until(by, opening).await;
        let (up, attempt, claim) = opened.unwrap_or_else(|_| Err(self.late(guard.began)))?;
        let message_max = request.message_max;
        let end = self.stream_end(&guard.pool(), &up);
        Ok(Opened { up, attempt, _claim: claim, _permit: permit, by, end, message_max })
    }
}

impl<Req: Message, Res: Message + Default> GrpcStream<Req, Res> {
    /// The response headers, once a message or the end was received.
    pub const fn head(&self) -> Option<&Head> {
        self.call.head.as_ref()
    }

    /// The trailers, once the call has ended with some.
    pub const fn trailers(&self) -> Option<&Head> {
        self.call.trailers.as_ref()
    }

    /// Sends a message once there is room for it. If the service has stopped receiving, the message is dropped, and
    /// [`GrpcStream::message`] tells how the call ended.
    ///
    /// A service that receives nothing until its own messages are taken holds this up: take them in between.
    ///
    /// # Errors
    /// The time is over, or the endpoint has left its cluster.
    pub async fn send(&mut self, message: &Req) -> Result<(), GrpcCallError> {
        self.call.send(Some(framed(message))).await
    }

    /// Ends the messages to the service.
    ///
    /// # Errors
    /// As [`GrpcStream::send`].
    pub async fn finish(&mut self) -> Result<(), GrpcCallError> {
        self.call.send(None).await
    }

    /// Receives the next message, as [`GrpcStream::message`] does, and sends meanwhile what there is to send.
    ///
    /// # Errors
    /// As [`GrpcStream::message`].
    pub async fn converse(
        &mut self,
        with: &mut impl GrpcConversation<Req>,
    ) -> Result<Option<Res>, GrpcCallError> {
        let mut talk = |call: &mut OpenCall, worker: &WorkerCx, cx: &mut Context<'_>| {
            call.send_all(worker, cx, |cx| {
                with.poll_outgoing(cx).map(|message| message.map(|message| framed(&message)))
            });
            with.poll_room(cx)
        };
        let message = self.call.message(&mut talk).await?;
        self.decoded(message)
    }

    /// Receives the next message; `None` if the call has ended with the status OK. A message has at most
    /// `limits.side_call_bytes`, or what [`GrpcMethod::message_max`] says. Dropping the future loses nothing.
    ///
    /// # Errors
    /// How the call ended, if not well.
    pub async fn message(&mut self) -> Result<Option<Res>, GrpcCallError> {
        let mut talk = |call: &mut OpenCall, worker: &WorkerCx, cx: &mut Context<'_>| {
            call.flush(worker, cx);
            Poll::Ready(())
        };
        let message = self.call.message(&mut talk).await?;
        self.decoded(message)
    }

    fn decoded(&mut self, message: Option<Bytes>) -> Result<Option<Res>, GrpcCallError> {
        let Some(message) = message else { return Ok(None) };
        match Res::decode(message) {
            Ok(message) => Ok(Some(message)),
            Err(_) => self.call.ends(Err(GrpcCallError::Malformed(GrpcFault::Undecodable))),
        }
    }
}

/// What a call has been given for its time.
struct Opened {
    up: UpstreamStream,
    attempt: Option<Rc<AttemptGuard>>,
    _claim: RequestClaim,
    _permit: SideCallPermit,
    by: Moment,
    /// When the cluster ends the stream, if that is earlier.
    end: Option<StreamBound>,
    message_max: Limit,
}

impl Opened {
    fn into_call(self, guard: SideCallGuard) -> OpenCall {
        let worker = &guard.calls.worker;
        let max = worker.limits.size(self.message_max);
        OpenCall {
            frames: GrpcFrames::new(max),
            charge: worker.buffers.charge(),
            opened: self,
            guard,
            head: None,
            trailers: None,
            broken: None,
            ended: None,
        }
    }
}

/// Sends, and says whether to receive.
type Talk<'t> = dyn FnMut(&mut OpenCall, &WorkerCx, &mut Context<'_>) -> Poll<()> + 't;

/// An open call, whatever its messages are.
struct OpenCall {
    guard: SideCallGuard,
    opened: Opened,
    /// What was received and not taken.
    frames: GrpcFrames,
    /// Counts that towards the buffers of the worker.
    charge: Charge,
    /// The response headers, once received.
    head: Option<Head>,
    trailers: Option<Head>,
    /// Why nothing more can be sent. The service may have responded before it stopped receiving.
    broken: Option<HttpError>,
    ended: Option<Result<(), GrpcCallError>>,
}

impl OpenCall {
    fn cluster(&self) -> Name {
        Arc::clone(&self.guard.pool().handle.cluster.name)
    }

    /// Sends a message, or the end.
    async fn send(&mut self, message: Option<Bytes>) -> Result<(), GrpcCallError> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let mut message = Some(message);
        let sent = self.step(|call, worker, cx| {
            let up = &mut call.opened.up.stream;
            if call.broken.is_some() || up.is_sent() {
                return Poll::Ready(Ok(()));
            }
            let sent = std::task::ready!(up.poll_flushed(cx, worker)).and_then(|()| match message
                .take()
            {
                Some(Some(bytes)) => up.send_data(cx, worker, Body::Shared(bytes), false),
                Some(None) => up.send_end(cx, worker, None),
                None => Ok(()),
            });
            call.broken = sent.err();
            Poll::Ready(Ok(()))
        });
        match sent.await {
            Ok(()) => Ok(()),
            Err(error) => self.ends::<()>(Err(error)).map(drop),
        }
    }

    /// Receives a message, without its frame; `talk` sends what there is to send, and says whether to receive.
    async fn message(&mut self, talk: &mut Talk<'_>) -> Result<Option<Bytes>, GrpcCallError> {
        loop {
            if let Some(ended) = &self.ended {
                return ended.clone().map(|()| None);
            }
            match self.frames.message() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(fault) => return self.ends(Err(GrpcCallError::Malformed(fault))),
            }
            let Some(head) = &self.head else {
                match self.receive_head(talk).await {
                    Ok(head) => self.head = Some(head),
                    Err(error) => return self.ends(Err(error)),
                }
                continue;
            };
            // Only a response with this status has messages.
            if head.status() != 200 || self.opened.up.stream.is_received() {
                return self.ends_with_status(None);
            }
            match self.receive(talk).await {
                Ok(Frame::Data { body, .. }) if self.hold(&body) => {}
                Ok(Frame::Data { .. }) => {
                    let error = SideCallError { why: sluice_l4::reasons::BUFFERS, detail: None };
                    return self.ends(Err(error.into()));
                }
                Ok(Frame::Trailers(trailers)) => {
                    let ended = self.ends_with_status(Some(&trailers));
                    self.trailers = Some(*trailers);
                    return ended;
                }
                Ok(Frame::End) => return self.ends_with_status(None),
                Err(error) => return self.ends(Err(error)),
            }
        }
    }

    async fn receive_head(&mut self, talk: &mut Talk<'_>) -> Result<Head, GrpcCallError> {
        let mut head = Head::default();
        let received = self.step(|call, worker, cx| {
            for _ in 0..RESPONSE_HEADS_MAX {
                // What has no room waits once there is a message.
                let _ = talk(call, worker, cx);
                let up = &mut call.opened.up;
                match std::task::ready!(up.stream.poll_recv_head(cx, worker, &mut head)) {
                    Ok(()) if head.status() < 200 => {}
                    Ok(()) => return Poll::Ready(Ok(())),
                    Err(error) => {
                        let error = call.broken.take().unwrap_or(error);
                        return Poll::Ready(Err(failed_attempt(&error, up.reused)));
                    }
                }
            }
            Poll::Ready(Err(failed_attempt(&too_many_heads(), false)))
        });
        received.await?;
        let pool = self.guard.pool();
        self.guard.calls.note(&pool, &mut self.opened.up, Ok(head.status()));
        Ok(head)
    }

    async fn receive(&mut self, talk: &mut Talk<'_>) -> Result<Frame, GrpcCallError> {
        let frame = self.step(|call, worker, cx| {
            std::task::ready!(talk(call, worker, cx));
            let up = &mut call.opened.up.stream;
            up.poll_recv(cx, worker).map_err(|error| failed_attempt(&error, false))
        });
        frame.await
    }

    /// Holds a piece of the response; `false` if the worker has no room for it.
    fn hold(&mut self, piece: &[u8]) -> bool {
        let has_room = self.charge.set(self.frames.held() + piece.len()).is_ok();
        if has_room {
            self.frames.push(piece);
        }
        has_room
    }

    /// Sends what `next` has to send as far as there is room for it.
    fn send_all(
        &mut self,
        worker: &WorkerCx,
        cx: &mut Context<'_>,
        mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<Bytes>>,
    ) {
        loop {
            let up = &mut self.opened.up.stream;
            if self.broken.is_some() || up.is_sent() {
                return;
            }
            let sent = match up.poll_flushed(cx, worker) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => Err(error),
                Poll::Ready(Ok(())) => match next(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Some(bytes)) => {
                        up.send_data(cx, worker, Body::Shared(bytes), false)
                    }
                    Poll::Ready(None) => up.send_end(cx, worker, None),
                },
            };
            self.broken = sent.err();
        }
    }

    /// Lets what was sent leave while something is awaited.
    fn flush(&mut self, worker: &WorkerCx, cx: &mut Context<'_>) {
        if self.broken.is_none()
            && let Poll::Ready(Err(error)) = self.opened.up.stream.poll_flushed(cx, worker)
        {
            self.broken = Some(error);
        }
    }

    /// Polls until it is ready, the time is over or the endpoint leaves.
    async fn step<T>(
        &mut self,
        mut poll: impl FnMut(&mut Self, &WorkerCx, &mut Context<'_>) -> Poll<Result<T, FailedAttempt>>,
    ) -> Result<T, GrpcCallError> {
        let worker = Rc::clone(&self.guard.calls.worker);
        let attempt = self.opened.attempt.clone();
        let end = self.opened.end.filter(|end| end.at < self.opened.by);
        let by = end.map_or(self.opened.by, |end| end.at);
        let stepping = pin!(poll_fn(|cx| poll(self, &worker, cx)));
        let stepping = AttemptGuard::unless_cancelled(attempt.as_deref(), stepping);
        let stepped = Timer::new(&worker.timers).until(by, stepping).await;
        match stepped {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(failed))) => Err(self.failed(failed)),
            Ok(Err(left)) => Err(self.failed(endpoint_left(left))),
            Err(_) => match end {
                Some(end) => Err(self.failed(end.failure())),
                None => Err(self.guard.calls.late(self.guard.began).into()),
            },
        }
    }

    /// The error for a failure, which is judged and counted if there was no response before it.
    fn failed(&mut self, failed: FailedAttempt) -> GrpcCallError {
        let pool = self.guard.pool();
        let up = &mut self.opened.up;
        if self.head.is_none() {
            self.guard.calls.note(&pool, up, Err(&failed));
        }
        failure(failed, Some(&up.endpoint)).into()
    }

    /// Ends the call with the status of its response.
    fn ends_with_status<T>(&mut self, trailers: Option<&Head>) -> Result<Option<T>, GrpcCallError> {
        let head = self.head.as_ref().expect("the response headers come first");
        let status = GrpcStatus::of_response(head, trailers);
        let ended = if status.is_ok() {
            self.frames.finish().map_err(GrpcCallError::Malformed)
        } else {
            Err(GrpcCallError::Status(status))
        };
        self.ends(ended)
    }

    /// Ends the call.
    fn ends<T>(&mut self, ended: Result<(), GrpcCallError>) -> Result<Option<T>, GrpcCallError> {
        if ended.as_ref().is_err_and(|error| error.why() == reasons::SIDE_CALL_TOO_LARGE) {
            let worker = &self.guard.calls.worker;
            sluice_l4::metrics::count_limit(worker, self.opened.message_max);
        }
        let up = &mut self.opened.up.stream;
        if !(up.is_sent() && up.is_received()) {
            up.reset(true);
        }
        self.guard.end = Some(ended.as_ref().map(|()| 200).map_err(GrpcCallError::recorded));
        self.ended = Some(ended.clone());
        ended.map(|()| None)
    }
}
