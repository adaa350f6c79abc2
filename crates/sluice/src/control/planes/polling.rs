//! Control planes that are asked by HTTP, again and again.
//!
//! Owns: requests in JSON and when they are sent. Refuses to know: what a response says. Keeps: one request at a time for
//! each type; whatever a request ends with, what is in force stays.
//!
//! Source: "REST-JSON polling subscriptions" of Envoy's documentation.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

use bytes::Bytes;
use prost::Message as _;
use sluice_core::limits::Limit;
use sluice_envoy::sources::{ApiSource, Polling};
use sluice_envoy::wire;
use sluice_l7::{SideCalls, SideRequest};
use sluice_xds::messages::{DiscoveryRequest, DiscoveryResponse};
use sluice_xds::{XdsMessage, XdsRequest, XdsType};

use super::streams::PlaneStream;
use super::{CONNECTED, Planes, RESPONSES};
use crate::control::Control;

/// The message of a request.
const REQUEST: &str = "envoy.service.discovery.v3.DiscoveryRequest";

/// Nothing has changed.
const NOT_MODIFIED: u16 = 304;

/// A request, which is sent again until another one takes its place.
#[derive(Clone)]
struct PolledType {
    request: DiscoveryRequest,
    /// A hash of the response to the same names that was taken last.
    seen: Option<u64>,
}

/// Why a request brought nothing.
enum PollFailure {
    /// The status of the response.
    Status(u16),
    Other(String),
}

impl fmt::Display for PollFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "it has responded with the status {status}"),
            Self::Other(failure) => f.write_str(failure),
        }
    }
}

/// The requests of a source.
type PolledTypes = BTreeMap<XdsType, PolledType>;

impl Planes {
    /// Asks a plane, for ever.
    pub(super) async fn poll(
        self: Rc<Self>,
        control: Rc<Control>,
        stream: Rc<PlaneStream>,
        api: ApiSource,
        polling: Polling,
    ) {
        stream.machine.borrow_mut().opened();
        let (mut polls, mut due) = (PolledTypes::new(), self.clock.now());
        loop {
            let asks_more = collect(&stream, &mut polls);
            let now = self.clock.now();
            if !asks_more && now < due {
                tokio::select! {
                    () = stream.changed.notified() => {}
                    () = tokio::time::sleep(due.since(now)) => {}
                }
                continue;
            }
            // Many clients of a plane do not come at once.
            due = now.after(polling.every + polling.every.mul_f64(fastrand::f64() / 10.0));
            for (kind, poll) in &mut polls {
                self.ask(&control, &stream, &api, polling, *kind, poll).await;
            }
        }
    }

    async fn ask(
        self: &Rc<Self>,
        control: &Rc<Control>,
        stream: &Rc<PlaneStream>,
        api: &ApiSource,
        polling: Polling,
        kind: XdsType,
        poll: &mut PolledType,
    ) {
        let mut found = self.fetch(control, api, polling, kind, poll).await;
        // A plane that cannot read why a response was refused must not be kept from sending the next one.
        if let Err(PollFailure::Status(400..=499)) = &found
            && poll.request.error_detail.take().is_some()
        {
            found = self.fetch(control, api, polling, kind, poll).await;
        }
        let now = self.clock.now();
        let response = match found {
            Ok(response) => response,
            Err(failure) => {
                if stream.state.borrow().connected {
                    control.shard.gauge(&CONNECTED, &[&api.cluster]).decrement();
                }
                stream.failed(failure.to_string(), api, now);
                self.changed.notify_one();
                return;
            }
        };
        if !stream.state.borrow().connected {
            control.shard.gauge(&CONNECTED, &[&api.cluster]).increment();
            stream.connected(api, now);
        }
        let Some((mut response, seen)) = response else { return };
        poll.seen = Some(seen);
        // What was asked for is known: a response need not say it.
        if response.type_url.is_empty() {
            kind.url().clone_into(&mut response.type_url);
        }
        let taken = stream.machine.borrow_mut().receive(XdsMessage::Sotw(response), now);
        let Some(taken) = taken else {
            control.shard.counter(&RESPONSES, &["unknown", "ignored"]).increment();
            return;
        };
        let faults = self.take(control, taken).await;
        stream.machine.borrow_mut().answer(kind, &faults);
    }

    /// One request: the response and its hash; `None` if nothing has changed.
    async fn fetch(
        &self,
        control: &Control,
        api: &ApiSource,
        polling: Polling,
        kind: XdsType,
        poll: &PolledType,
    ) -> Result<Option<(DiscoveryResponse, u64)>, PollFailure> {
        let body = wire::json_of(REQUEST, &poll.request.encode_to_vec());
        let body = body
            .ok_or_else(|| PollFailure::Other("the node cannot be written as JSON".to_owned()))?;
        let native = self.native_cluster(&api.cluster).await;
        let cluster = control.builder.around.clusters.reference(&native);
        let calls = SideCalls::unbounded(&control.worker);
        let request = SideRequest::new("POST", path_of(kind))
            .host(&api.cluster)
            .with("content-type", b"application/json")
            .body(body)
            .response_max(Limit::DiscoveryBytes);
        let by = control.worker.now().after(polling.timeout);
        let response = calls.call(&cluster, request, by).await;
        let response = response.map_err(|error| PollFailure::Other(error.to_string()))?;
        match response.head.status() {
            200 => {}
            NOT_MODIFIED => return Ok(None),
            status => return Err(PollFailure::Status(status)),
        }
        let body = response.body.clone();
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let seen = hasher.finish();
        if poll.seen == Some(seen) {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || decoded(&body));
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        read.map(|read| Some((read, seen))).map_err(PollFailure::Other)
    }
}

fn decoded(body: &Bytes) -> Result<DiscoveryResponse, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the response is not UTF-8".to_owned())?;
    let encoded = wire::response_of_text(text).map_err(|error| format!("the response: {error}"))?;
    DiscoveryResponse::decode(encoded.as_slice()).map_err(|error| error.to_string())
}

/// Notes what is to be asked from now on; whether other resources are asked for than before.
fn collect(stream: &PlaneStream, polls: &mut PolledTypes) -> bool {
    let mut asks_more = false;
    while let Some(XdsRequest::Sotw(request)) = stream.next_request() {
        let Some(kind) = XdsType::of_url(&request.type_url) else { continue };
        let same = polls
            .get_mut(&kind)
            .filter(|poll| poll.request.resource_names == request.resource_names);
        match same {
            Some(poll) => poll.request = request,
            None => {
                asks_more = true;
                polls.insert(kind, PolledType { request, seen: None });
            }
        }
    }
    asks_more
}

const fn path_of(kind: XdsType) -> &'static str {
    match kind {
        XdsType::Cluster => "/v3/discovery:clusters",
        XdsType::Assignment => "/v3/discovery:endpoints",
        XdsType::Listener => "/v3/discovery:listeners",
        XdsType::Scope => "/v3/discovery:scoped-routes",
        XdsType::Routes => "/v3/discovery:routes",
        // These come over streams only.
        XdsType::VirtualHost => "/v3/discovery:virtual-hosts",
        XdsType::Secret => "/v3/discovery:secrets",
        XdsType::Extension => "/v3/discovery:extension_configs",
        XdsType::Runtime => "/v3/discovery:runtime",
    }
}
