//! Calls to services of control planes that are not discovery.
//!
//! Owns: opening one, waits after a failure, what people are told of it. Refuses to know: its messages. Keeps: a call is an
//! ordinary gRPC request to an ordinary cluster; one that has ended is opened again, with jitter.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;

use sluice_core::limits::Limit;
use sluice_core::{LocalFuture, Moment};
use sluice_envoy::sources::ApiSource;
use sluice_l7::{GrpcCallError, GrpcMethod, GrpcStream, SideCalls};
use sluice_xds::ReconnectBackoff;

use super::streams::{PlaneStreamState, WAIT, WAIT_MAX, bounded};
use super::{CONNECTED, Planes, STREAMS};
use crate::control::Control;

/// A call, one after the other.
#[derive(Debug)]
pub(super) struct PlaneCall {
    pub(super) api: ApiSource,
    /// The word for it.
    pub(super) what: &'static str,
    pub(super) state: RefCell<PlaneStreamState>,
    /// Whether the one that is open has had a message.
    worked: Cell<bool>,
}

impl PlaneCall {
    pub(super) const fn new(api: ApiSource, what: &'static str, now: Moment) -> Self {
        let state = PlaneStreamState { connected: false, since: now, failure: None };
        Self { api, what, state: RefCell::new(state), worked: Cell::new(false) }
    }

    /// Notes a message of the plane.
    pub(super) fn responded(&self, control: &Control, now: Moment) {
        if !self.worked.replace(true) {
            control.shard.gauge(&CONNECTED, &[&self.api.cluster]).increment();
            tracing::info!("the stream of {} to `{}` works", self.what, self.api.cluster);
            let state = PlaneStreamState { connected: true, since: now, failure: None };
            *self.state.borrow_mut() = state;
        }
    }

    /// One that is away is logged once.
    fn failed(&self, failure: String, now: Moment) {
        let mut state = self.state.borrow_mut();
        if state.connected || state.failure.as_ref() != Some(&failure) {
            let cluster = &self.api.cluster;
            tracing::warn!(
                "the stream of {} to `{cluster}` has ended: {failure}; it is opened again",
                self.what
            );
        }
        let since = if state.connected { now } else { state.since };
        *state = PlaneStreamState { connected: false, since, failure: Some(failure) };
    }
}

impl Planes {
    /// Keeps a call open, for ever: `converse` opens it and speaks until it ends.
    pub(super) async fn keep_calling(
        &self,
        control: &Rc<Control>,
        call: &PlaneCall,
        mut converse: impl AsyncFnMut() -> Result<(), GrpcCallError>,
    ) {
        let mut backoff = ReconnectBackoff::new(WAIT, WAIT_MAX, fastrand::u64(..));
        loop {
            let ended = converse().await;
            let worked = call.worked.replace(false);
            if worked {
                control.shard.gauge(&CONNECTED, &[&call.api.cluster]).decrement();
                backoff.succeeded();
            }
            let result = if worked { "closed" } else { "failed" };
            control.shard.counter(&STREAMS, &[&call.api.cluster, result]).increment();
            let failure = match ended {
                Ok(()) => "the control plane has closed the stream".to_owned(),
                Err(error) => error.to_string(),
            };
            call.failed(failure, self.clock.now());
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Opens a call of a method.
    pub(super) async fn open_call<Req, Res>(
        &self,
        control: &Rc<Control>,
        api: &ApiSource,
        path: &'static str,
    ) -> Result<GrpcStream<Req, Res>, GrpcCallError>
    where
        Req: prost::Message + 'static,
        Res: prost::Message + Default + 'static,
    {
        let native = self.native_cluster(&api.cluster).await;
        let cluster = control.builder.around.clusters.reference(&native);
        let calls = SideCalls::unbounded(&control.worker);
        let mut method = GrpcMethod::new(path).message_max(Limit::DiscoveryBytes);
        if let Some(authority) = &api.authority {
            match method.clone().authority(authority) {
                Ok(with) => method = with,
                Err(error) => tracing::warn!("`authority` {authority} is not sent: {error}"),
            }
        }
        for (name, value) in &api.metadata {
            match method.clone().with(name, value) {
                Ok(with) => method = with,
                Err(error) => tracing::warn!("`initial_metadata` {name} is not sent: {error}"),
            }
        }
        let opening: LocalFuture<_> = calls.open_grpc(&cluster, method, Moment::NEVER);
        bounded(opening).await
    }
}

/// Sends a message, in time.
pub(super) async fn send<Req, Res>(
    wire: &mut GrpcStream<Req, Res>,
    message: &Req,
) -> Result<(), GrpcCallError>
where
    Req: prost::Message,
    Res: prost::Message + Default,
{
    let sending = pin!(wire.send(message));
    bounded(sending).await
}
