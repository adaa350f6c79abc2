//! Streams to control planes.
//!
//! Owns: opening, messages in both directions, waits after a failure. Refuses to know: what a response says, what becomes of
//! it. Keeps: a stream is an ordinary gRPC request to an ordinary cluster; whatever ends it, what is in force stays.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use sluice_core::Moment;
use sluice_envoy::sources::{ApiForm, ApiSource, SourceKind};
use sluice_l7::{GrpcCallError, GrpcStream};
use sluice_xds::messages::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use sluice_xds::{
    DiscoveryForm, ReconnectBackoff, StreamMachine, WantedNames, XdsMessage, XdsRequest, XdsType,
};
use tokio::sync::Notify;

use super::{CONNECTED, Planes, RESPONSES, STREAMS};
use crate::control::Control;

/// Waits before a stream is opened again: those of Envoy.
pub(super) const WAIT: Duration = Duration::from_millis(500);

/// The longest of them.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a stream may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// A stream to a plane, one after the other, or the file that stands for it.
#[derive(Debug)]
pub(super) struct PlaneStream {
    pub(super) source: SourceKind,
    /// What it is for.
    pub(super) kinds: RefCell<BTreeSet<XdsType>>,
    pub(super) machine: RefCell<StreamMachine>,
    /// What is asked for has changed.
    pub(super) changed: Notify,
    /// The plane is to be told again what is there.
    pub(super) reopen: Notify,
    pub(super) state: RefCell<PlaneStreamState>,
    /// Responses on the stream that is open.
    pub(super) responses: Cell<u64>,
}

/// The state of a stream, for people.
#[derive(Clone, Debug)]
pub(super) struct PlaneStreamState {
    pub(super) connected: bool,
    pub(super) since: Moment,
    /// Why the last one ended.
    pub(super) failure: Option<String>,
}

/// How a stream ended that was not broken.
enum ConversationEnd {
    ByPlane,
    ToTellAgain,
}

/// A stream in either form.
enum WireStream {
    Sotw(GrpcStream<DiscoveryRequest, DiscoveryResponse>),
    Delta(GrpcStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>),
}

impl WireStream {
    async fn send(&mut self, request: &XdsRequest) -> Result<(), GrpcCallError> {
        match (self, request) {
            (Self::Sotw(stream), XdsRequest::Sotw(request)) => stream.send(request).await,
            (Self::Delta(stream), XdsRequest::Delta(request)) => stream.send(request).await,
            // A machine has the form of its stream.
            _ => Ok(()),
        }
    }

    async fn message(&mut self) -> Result<Option<XdsMessage>, GrpcCallError> {
        Ok(match self {
            Self::Sotw(stream) => stream.message().await?.map(XdsMessage::Sotw),
            Self::Delta(stream) => stream.message().await?.map(XdsMessage::Delta),
        })
    }
}

impl Planes {
    /// Asks a source for resources of a type. A stream begins with the first of them.
    pub(super) fn want(
        self: &Rc<Self>,
        control: &Rc<Control>,
        kind: XdsType,
        source: &SourceKind,
        wanted: WantedNames,
    ) {
        let known =
            self.streams.borrow().iter().find(|stream| stream.is_for(kind, source)).cloned();
        if known.is_none() && wanted.is_nothing() {
            return;
        }
        let stream = known.unwrap_or_else(|| self.begin_stream(control, kind, source));
        stream.kinds.borrow_mut().insert(kind);
        if stream.machine.borrow_mut().want(kind, wanted) {
            stream.reopen.notify_one();
        }
        stream.changed.notify_one();
    }

    fn begin_stream(
        self: &Rc<Self>,
        control: &Rc<Control>,
        kind: XdsType,
        source: &SourceKind,
    ) -> Rc<PlaneStream> {
        let api = self.api_of(source);
        let form = match &api {
            Some(api) if api.form == ApiForm::Delta => DiscoveryForm::Delta,
            _ => DiscoveryForm::Sotw,
        };
        let once = api.as_ref().is_some_and(|api| api.node_once);
        let state = PlaneStreamState { connected: false, since: self.clock.now(), failure: None };
        let stream = Rc::new(PlaneStream {
            source: source.clone(),
            kinds: RefCell::new(BTreeSet::from([kind])),
            machine: RefCell::new(StreamMachine::new(form, self.node.clone(), once)),
            changed: Notify::new(),
            reopen: Notify::new(),
            state: RefCell::new(state),
            responses: Cell::new(0),
        });
        self.streams.borrow_mut().push(Rc::clone(&stream));
        let (planes, control, own) = (Rc::clone(self), Rc::clone(control), Rc::clone(&stream));
        match (source, api) {
            (SourceKind::File(path), _) => {
                let path = path.clone();
                tokio::task::spawn_local(
                    async move { planes.follow_file(control, own, path).await },
                );
            }
            (_, Some(api)) => {
                tokio::task::spawn_local(async move {
                    match api.form {
                        ApiForm::Rest(polling) => planes.poll(control, own, api, polling).await,
                        _ => planes.follow(control, own, api).await,
                    }
                });
            }
            (_, None) => {
                let failure = "the bootstrap has no `ads_config`; add one".to_owned();
                tracing::error!("{kind}: {failure}");
                stream.state.borrow_mut().failure = Some(failure);
            }
        }
        stream
    }

    fn api_of(&self, source: &SourceKind) -> Option<ApiSource> {
        match source {
            SourceKind::Ads => self.dynamic.ads.clone(),
            SourceKind::Api(api) => Some(api.clone()),
            SourceKind::File(_) => None,
        }
    }

    /// Keeps a stream open, for ever.
    async fn follow(self: Rc<Self>, control: Rc<Control>, stream: Rc<PlaneStream>, api: ApiSource) {
        let mut backoff = ReconnectBackoff::new(WAIT, WAIT_MAX, fastrand::u64(..));
        loop {
            let ended = self.converse(&control, &stream, &api).await;
            let worked = stream.responses.replace(0) > 0;
            stream.machine.borrow_mut().closed();
            if worked {
                control.shard.gauge(&CONNECTED, &[&api.cluster]).decrement();
                backoff.succeeded();
            }
            let failure = match ended {
                Ok(ConversationEnd::ToTellAgain) => {
                    tracing::info!(
                        "the control plane `{}` is told on a new stream what is in force",
                        api.cluster
                    );
                    continue;
                }
                Ok(ConversationEnd::ByPlane) => {
                    "the control plane has closed the stream".to_owned()
                }
                Err(error) => error.to_string(),
            };
            let result = if worked { "closed" } else { "failed" };
            control.shard.counter(&STREAMS, &[&api.cluster, result]).increment();
            let wait = backoff.next_wait();
            stream.failed(failure, &api, self.clock.now());
            // What was kept of an earlier process may be due.
            self.changed.notify_one();
            tokio::time::sleep(wait).await;
        }
    }

    /// Opens a stream and speaks until it ends.
    async fn converse(
        self: &Rc<Self>,
        control: &Rc<Control>,
        stream: &Rc<PlaneStream>,
        api: &ApiSource,
    ) -> Result<ConversationEnd, GrpcCallError> {
        let mut wire = self.open(control, stream, api).await?;
        stream.machine.borrow_mut().opened();
        loop {
            while let Some(request) = stream.next_request() {
                wire.send(&request).await?;
            }
            let message = tokio::select! {
                message = wire.message() => message?,
                () = stream.changed.notified() => continue,
                () = stream.reopen.notified() => return Ok(ConversationEnd::ToTellAgain),
            };
            let Some(message) = message else { return Ok(ConversationEnd::ByPlane) };
            if stream.responses.replace(stream.responses.get() + 1) == 0 {
                control.shard.gauge(&CONNECTED, &[&api.cluster]).increment();
                stream.connected(api, self.clock.now());
            }
            let response = stream.machine.borrow_mut().receive(message, self.clock.now());
            let Some(response) = response else {
                control.shard.counter(&RESPONSES, &["unknown", "ignored"]).increment();
                continue;
            };
            let kind = response.kind;
            let faults = self.take(control, response).await;
            stream.machine.borrow_mut().answer(kind, &faults);
        }
    }

    async fn open(
        &self,
        control: &Rc<Control>,
        stream: &PlaneStream,
        api: &ApiSource,
    ) -> Result<WireStream, GrpcCallError> {
        let aggregated = stream.source == SourceKind::Ads;
        let kind = stream.kinds.borrow().first().copied().unwrap_or(XdsType::Cluster);
        let delta = api.form == ApiForm::Delta;
        let path = method_of(kind, aggregated, delta);
        if delta {
            self.open_call(control, api, path).await.map(WireStream::Delta)
        } else {
            self.open_call(control, api, path).await.map(WireStream::Sotw)
        }
    }

    pub(super) async fn native_cluster(&self, name: &str) -> std::sync::Arc<str> {
        let _turn = self.turn.lock().await;
        self.mapper.borrow_mut().as_mut().map_or_else(|| name.into(), |of| of.cluster(name))
    }
}

/// A stream that opens in time, or what is sent in time.
pub(super) async fn bounded<T>(
    opening: impl Future<Output = Result<T, GrpcCallError>>,
) -> Result<T, GrpcCallError> {
    let late = || {
        let why = sluice_l7::reasons::SIDE_CALL_TIMEOUT;
        let detail = format!("nothing was taken within {} s", OPEN_TIMEOUT.as_secs());
        GrpcCallError::Call(sluice_l7::SideCallError { why, detail: Some(detail.into()) })
    };
    tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(|_| Err(late()))
}

impl PlaneStream {
    /// Whether resources of a type come over this stream: over ADS, all do.
    fn is_for(&self, kind: XdsType, source: &SourceKind) -> bool {
        self.source == *source
            && (*source == SourceKind::Ads || self.kinds.borrow().contains(&kind))
    }

    pub(super) fn next_request(&self) -> Option<XdsRequest> {
        self.machine.borrow_mut().poll_request()
    }

    pub(super) fn connected(&self, api: &ApiSource, now: Moment) {
        match api.form {
            ApiForm::Rest(_) => tracing::info!("the control plane `{}` responds", api.cluster),
            _ => tracing::info!("the stream to the control plane `{}` works", api.cluster),
        }
        *self.state.borrow_mut() = PlaneStreamState { connected: true, since: now, failure: None };
    }

    /// A plane that is away is logged once.
    pub(super) fn failed(&self, failure: String, api: &ApiSource, now: Moment) {
        let mut state = self.state.borrow_mut();
        let is_new = state.connected || state.failure.as_ref() != Some(&failure);
        if is_new && matches!(api.form, ApiForm::Rest(_)) {
            tracing::warn!(
                "the control plane `{}` does not respond: {failure}; what is in force stays, and it is asked again",
                api.cluster
            );
        } else if is_new {
            tracing::warn!(
                "the stream to the control plane `{}` has ended: {failure}; what is in force stays, and the stream is opened again",
                api.cluster
            );
        }
        let since = if state.connected { now } else { state.since };
        *state = PlaneStreamState { connected: false, since, failure: Some(failure) };
    }
}

/// The path of the method for a type.
fn method_of(kind: XdsType, aggregated: bool, delta: bool) -> &'static str {
    match (aggregated, kind, delta) {
        (true, _, false) => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        }
        (true, _, true) => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        }
        (_, XdsType::Cluster, false) => {
            "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
        }
        (_, XdsType::Cluster, true) => {
            "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
        }
        (_, XdsType::Assignment, false) => {
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
        }
        (_, XdsType::Assignment, true) => {
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"
        }
        (_, XdsType::Listener, false) => {
            "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners"
        }
        (_, XdsType::Listener, true) => {
            "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners"
        }
        (_, XdsType::Scope, false) => {
            "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes"
        }
        (_, XdsType::Scope, true) => {
            "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes"
        }
        (_, XdsType::Routes, false) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        (_, XdsType::Routes, true) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        // There is no other form of it.
        (_, XdsType::VirtualHost, _) => {
            "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts"
        }
        (_, XdsType::Secret, false) => {
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
        }
        (_, XdsType::Secret, true) => {
            "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
        }
        (_, XdsType::Extension, false) => {
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs"
        }
        (_, XdsType::Extension, true) => {
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"
        }
        (_, XdsType::Runtime, false) => {
            "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime"
        }
        (_, XdsType::Runtime, true) => {
            "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime"
        }
    }
}
