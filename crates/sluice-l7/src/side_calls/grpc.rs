//! gRPC calls of filters: one message there, one back.
//!
//! Owns: the request, the message in the response, and the error of a call. Refuses to know: frames and statuses on the
//! wire, connections, attempts. Keeps: a response without the message that the method returns is an error; a call has
//! all bounds of a side call, and tells the service how much time is left.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sluice_codec::grpc::{self, GrpcFault, GrpcFrames, GrpcStatus};
use sluice_core::{LocalFuture, Moment, Reason};
use sluice_upstream::Cluster;

use super::{GrpcRequest, SideCallError, SideCalls, SideResponse};
use crate::reasons;

/// Why a gRPC call did not return what its method returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcCallError {
    /// There is no complete response.
    Call(SideCallError),
    /// The service ended the call with an error.
    Status(GrpcStatus),
    /// The response is not what gRPC or the method prescribes.
    Malformed(GrpcFault),
}

impl GrpcCallError {
    /// The reason, for the reply of a filter that fails closed.
    pub const fn why(&self) -> Reason {
        match self {
            Self::Call(error) => error.why,
            Self::Status(_) => reasons::SIDE_CALL_STATUS,
            Self::Malformed(GrpcFault::TooLarge { .. }) => reasons::SIDE_CALL_TOO_LARGE,
            Self::Malformed(_) => reasons::SIDE_CALL_MALFORMED,
        }
    }

    /// The same error as records show it.
    pub(super) fn recorded(&self) -> SideCallError {
        let detail = match self {
            Self::Call(error) => return error.clone(),
            Self::Status(status) => status.to_string(),
            Self::Malformed(fault) => fault.to_string(),
        };
        SideCallError { why: self.why(), detail: Some(detail.into()) }
    }
}

impl fmt::Display for GrpcCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.recorded().fmt(f)
    }
}

impl std::error::Error for GrpcCallError {}

impl From<SideCallError> for GrpcCallError {
    fn from(error: SideCallError) -> Self {
        Self::Call(error)
    }
}

impl SideCalls {
    /// Calls a method that takes one message and returns one, in the time that [`SideCalls::call`] has: a path
    /// (`/package.Service/Method`), a [`GrpcMethod`](super::GrpcMethod) with metadata, or a [`GrpcRequest`] with retries.
    /// Dropping the future cancels the call.
    ///
    /// The cluster is called over HTTP/2: its `protocol` is `http2`, or `auto` and its endpoints choose HTTP/2. Attempts
    /// that an endpoint cannot have seen are repeated as often as `connect_attempts` of the cluster allows; anything
    /// else only if the request has retries. Theirs may name gRPC statuses.
    ///
    /// # Errors
    /// Why the method returned nothing; a status other than OK is an error.
    pub fn call_grpc<Req: Message, Res: Message + Default>(
        &self,
        cluster: &Arc<Cluster>,
        method: impl Into<GrpcRequest>,
        message: &Req,
        by: Moment,
    ) -> LocalFuture<Result<Res, GrpcCallError>> {
        let request = method.into().into_request(framed(message));
        let (calls, cluster) = (self.clone(), Arc::clone(cluster));
        Box::pin(async move {
            let mut call = calls.begin(&cluster);
            let response = calls.run(&call, request, by).await;
            let returned = response.map_err(GrpcCallError::Call).and_then(|it| returned(&it));
            let ended = returned.as_ref().map(|_| 200);
            call.end = Some(ended.map_err(GrpcCallError::recorded));
            returned
        })
    }
}

/// A message in its frame.
pub(super) fn framed(message: &impl Message) -> Bytes {
    grpc::frame(&message.encode_to_vec()).expect("messages have less than 2 GiB")
}

/// The message that a method returned.
fn returned<Res: Message + Default>(response: &SideResponse) -> Result<Res, GrpcCallError> {
    let status = GrpcStatus::of_response(&response.head, response.trailers.as_deref());
    if !status.is_ok() {
        return Err(GrpcCallError::Status(status));
    }
    only_message(&response.body).map_err(GrpcCallError::Malformed)
}

fn only_message<Res: Message + Default>(body: &Bytes) -> Result<Res, GrpcFault> {
    // The body is bounded, and its only message is smaller.
    let mut frames = GrpcFrames::new(body.len());
    frames.push(body);
    let Some(message) = frames.message()? else {
        frames.finish()?;
        return Err(GrpcFault::NoMessage);
    };
    if frames.message()?.is_some() {
        return Err(GrpcFault::SeveralMessages);
    }
    frames.finish()?;
    Res::decode(message).map_err(|_| GrpcFault::Undecodable)
}
