//! HTTP filters: their interface, and those that come with Sluice.
//!
//! Owns: the traits, the types that pass through them, the list of built-in filters. Refuses to know: which chain or
//! rule uses which filter. Keeps: filters judge and edit; the exchange that runs them owns order, buffering, waiting and
//! responding. Built-in and third-party filters are registered and configured alike.

use std::any::Any;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use sluice_codec::{Body, Head};
use sluice_core::settings::Short;
use sluice_core::{ConnValues, Moment, SharedValues};
use sluice_io::WorkerCx;
use sluice_l4::rbac::conn::ConnSubject;
use sluice_telemetry::metrics::SeriesLabels;

use crate::hop_count::HopCount;
use crate::record::{ConnFacts, SideCallRecord, Summary, View};
use crate::runtime::{Runtime, RuntimeKind};
use crate::side_calls::{SideCallLog, SideCalls};

pub mod adaptive_concurrency;
pub mod admission_control;
pub mod api_key;
pub mod bandwidth_limit;
pub mod basic_auth;
pub mod body_max;
pub mod buffer;
pub mod client_cert;
pub mod concurrency_limit;
pub mod cors;
pub mod credentials;
pub mod csrf;
pub mod error_pages;
pub mod ext_authz;
pub mod ext_proc;
pub mod fault;
mod from_settings;
mod generations;
pub mod geo;
pub mod global_rate_limit;
pub mod grpc_stats;
pub mod health_check;
pub mod inject_credentials;
pub mod jwt;
pub mod oidc;
mod pause;
pub mod rate_limit;
pub mod rbac;
pub mod request_id;
pub mod set_headers;
pub mod set_values;
mod solitary;
pub mod step;
pub mod sticky;
pub mod tap;

use from_settings::{OfSettings, PlanSettings, Ready, check_error_status, check_names};
pub use sluice_l4::filters::{
    CheckContext, Content, FetchSchedule, Fetched, FileOrigin, FilterFactory, FilterOwner,
    FilterRegistry, LiveSecret, long_form_of,
};
pub use solitary::SolitaryRequest;
pub use step::{
    BodyStart, BodyStep, HeadDecision, HeadResume, HeadStep, MessageEnd, PeekResume, PieceResume,
    PieceStep, ResponseBodyStep, ResponseResume, ResponseStep, ResponseTrailersStep, TrailersStep,
    WholeMessage, WholeResume, WholeStep,
};

/// One use of a filter in a configuration, shared by all workers.
pub trait HttpFilterPlan: Any + Send + Sync + Debug {
    /// Merges these settings onto `under`, the enclosing settings of the chain or the virtual host. `None` if they
    /// replace `under`, which is the default.
    fn on_top_of(&self, _under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        None
    }

    /// Whether the settings ask to replace the enclosing ones. A chain has no enclosing settings, so there it is an
    /// error.
    fn says_replace(&self) -> bool {
        false
    }

    /// What these settings lack before they can be used, such as "the `cluster` of the service". Those of a rule or
    /// virtual host may lack what the settings of a chain add ([`HttpFilterPlan::on_top_of`]); `check` refuses those that
    /// no chain completes, and a filter that is created from such settings must let no request pass.
    fn lacks(&self) -> Option<String> {
        None
    }

    /// Whether the filter refuses requests by what they ask for, as authentication, authorisation and limits do: then it
    /// runs again if a later filter changes the route, and the new one has other settings for it.
    fn is_guard(&self) -> bool {
        false
    }

    /// Whether the filter judges the path or host of requests: then it runs again, after all other filters, if a filter
    /// behind it changes them, and for the target of a redirect that is followed. It must not change them itself.
    fn judges_target(&self) -> bool {
        false
    }

    /// Whether the filter changes the path or host of requests. `check` warns if it stands after a guard that does not
    /// judge them again ([`HttpFilterPlan::judges_target`]), and judged what the client sent, not what is forwarded.
    fn edits_target(&self) -> bool {
        false
    }

    /// The runtime values that the filter reads, and as what. An operator can set these and no others, and only to what
    /// can be read so.
    fn runtime_keys(&self) -> Vec<(&str, RuntimeKind)> {
        Vec::new()
    }

    /// Whether this filter may count in the series with these labels, which have values of its settings, such as names
    /// of policies. Such series leave when no filter in force counts in them.
    fn counts_in(&self, _series: &SeriesLabels<'_>) -> bool {
        false
    }

    /// What the filter would decide about a request that somebody only asks about; `None` if it cannot say without a
    /// request, since it waits for others or counts.
    fn would_decide(&self, _request: &TriedRequest<'_>) -> Option<FilterRuling> {
        None
    }

    /// Creates the filter on one worker. `owner` names the listener and chain that it belongs to, and the rule or
    /// virtual host if its settings are from there; state that outlives a reload is kept under this name.
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter>;
}

/// A request that somebody only asks about.
#[derive(Clone, Copy, Debug)]
pub struct TriedRequest<'a> {
    /// Its connection.
    pub conn: ConnSubject<'a>,
    /// Its head.
    pub head: &'a Head,
    /// What filters shared about it.
    pub values: &'a SharedValues,
}

/// What a filter would decide about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterRuling {
    /// The status of the response if the request is refused.
    pub refused: Option<u16>,
    /// What it goes by, by the names of the values that it would share.
    pub notes: Vec<(&'static str, String)>,
}

/// A filter on one worker; sees every request of its chain. What it must remember of a request between two calls goes
/// into [`Cx::state`].
///
/// The hooks of a request run in the order of the chain, those of a response in reverse order. A filter that receives a
/// whole message ([`HeadStep::Buffer`], [`ResponseStep::Buffer`]) sees it when it has passed the hooks for bodies and
/// trailers of the filters before it, and its own; those behind it see what it makes of it, in one piece.
pub trait HttpFilter: Debug {
    /// Called with the head of a request, before it is forwarded. A path or authority that it sets is normalised and
    /// checked as if a client had sent it.
    fn request_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> HeadStep {
        HeadStep::Continue
    }

    /// Whether [`HttpFilter::request_body`] is to be called for this request, and what it does with the body.
    fn request_body_access(&self, _cx: &Cx<'_>) -> BodyAccess {
        BodyAccess::None
    }

    /// The most bytes of the request body that [`HttpFilter::request_body`] is to be called with at once; at least one. Larger
    /// pieces are divided, for all filters.
    fn request_piece_max(&self, _cx: &Cx<'_>) -> usize {
        usize::MAX
    }

    /// Called with a piece of the request body, which it may replace if its access is [`BodyAccess::Edit`]; `last` means
    /// that only trailers may follow. The last piece may be empty.
    fn request_body(&self, _cx: &mut Cx<'_>, _body: &mut Body, _last: bool) -> BodyStep {
        BodyStep::Continue
    }

    /// Asked while nothing of the request body arrives: ready if the filter has something to add to it, and
    /// [`HttpFilter::request_body`] is called with an empty piece then.
    fn poll_request_addition(&self, _cx: &Cx<'_>, _task: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Called with the trailers of a request. If the body ends without trailers and the access is [`BodyAccess::Edit`],
    /// it is called with none; those that it adds are sent.
    fn request_trailers(&self, _cx: &mut Cx<'_>, _trailers: &mut Head) -> TrailersStep {
        TrailersStep::Continue
    }

    /// Called with the head of the response, from an endpoint or from Sluice itself. Of informational responses, it sees
    /// only a 101.
    fn response_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> ResponseStep {
        ResponseStep::Continue
    }

    /// Whether [`HttpFilter::response_body`] is to be called for this response, which is one of an endpoint, and what it
    /// does with the body.
    fn response_body_access(&self, _cx: &Cx<'_>) -> BodyAccess {
        BodyAccess::None
    }

    /// As [`HttpFilter::request_piece_max`], for the response.
    fn response_piece_max(&self, _cx: &Cx<'_>) -> usize {
        usize::MAX
    }

    /// Called with a piece of the response body, as [`HttpFilter::request_body`] is with one of the request.
    fn response_body(&self, _cx: &mut Cx<'_>, _body: &mut Body, _last: bool) -> ResponseBodyStep {
        ResponseBodyStep::Continue
    }

    /// As [`HttpFilter::poll_request_addition`], for the response.
    fn poll_response_addition(&self, _cx: &Cx<'_>, _task: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Called with the trailers of the response, as [`HttpFilter::request_trailers`] is with those of the request.
    fn response_trailers(&self, _cx: &mut Cx<'_>, _trailers: &mut Head) -> ResponseTrailersStep {
        ResponseTrailersStep::Continue
    }

    /// Called when the request has ended, however it ended.
    fn ended(&self, _cx: &mut Cx<'_>) {}
}

/// What a filter does with the body of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyAccess {
    /// Nothing: its hook is not called, and the body may be spliced.
    None,
    /// It reads the body, or delays it.
    Read,
    /// It changes the body, or adds trailers. A `content-length` is removed from the head, since the length may change.
    Edit,
}

/// What a filter knows of the request besides the message passed to the hook.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The worker.
    pub worker: &'a Rc<WorkerCx>,
    /// The connection.
    pub conn: &'a ConnFacts,
    /// What is known of the request.
    pub summary: &'a Summary,
    /// The request head, in every hook that is not itself passed it.
    pub request: Option<&'a Head>,
    /// What filters share about the request.
    pub values: &'a mut SharedValues,
    /// What filters share about the connection.
    pub conn_values: &'a ConnValues,
    /// Runtime values.
    pub runtime: &'a Runtime,
    /// What the filter remembers of this request.
    pub state: &'a mut Option<Box<dyn Any>>,
    pub(crate) calls: CallScope<'a>,
    pub(crate) reroutes: &'a mut bool,
    pub(crate) hook: &'a mut HookScope,
}

/// What a hook is told of the message beside the part that it is passed, and asks for besides its decision.
#[derive(Debug, Default)]
pub(crate) struct HookScope {
    /// The message ends with its head.
    pub(crate) ends: bool,
    /// The trailers that follow the last piece of the body.
    pub(crate) trailers: Option<Box<Head>>,
    /// The filter has more to add to the body.
    pub(crate) again: bool,
}

/// What the side calls of a request have in common.
#[derive(Debug)]
pub(crate) struct CallScope<'a> {
    pub(crate) hops: HopCount,
    /// When the request ends at the latest.
    pub(crate) by: Moment,
    /// Created at the first call.
    pub(crate) log: &'a mut Option<SideCallLog>,
}

impl Cx<'_> {
    /// Has the route selected again, for the head as it is when the hook for request heads has decided; elsewhere it has no
    /// effect. Guards that the new route configures differently run again, wherever they stand in the chain; other
    /// filters run once.
    pub const fn reroute(&mut self) {
        *self.reroutes = true;
    }

    /// Has the hook for a piece of a body called again once this piece has passed, with an empty one, before anything
    /// else of the message: a filter adds to the body so, piece by piece. Elsewhere it has no effect.
    pub const fn call_again(&mut self) {
        self.hook.again = true;
    }

    /// In a hook for a head, or when it resumes: whether the message ends with it, as far as has been received.
    pub const fn ends_with_head(&self) -> bool {
        self.hook.ends
    }

    /// In the hook for the last piece of a body: the trailers that follow.
    pub fn following_trailers(&self) -> Option<&Head> {
        self.hook.trailers.as_deref()
    }

    /// A call of the request that may last as long as the request does, or longer; its record is in the log that is
    /// returned, and becomes part of that of the request by [`Cx::record_calls`].
    pub(crate) fn lasting_calls(&mut self) -> (SideCalls, SideCallLog) {
        let log = SideCallLog::default();
        let (worker, hops) = (Rc::clone(self.worker), self.calls.hops);
        (SideCalls::lasting(worker, hops, Rc::clone(&log)), log)
    }

    /// Adds calls to the record of the request.
    pub(crate) fn record_calls(&mut self, calls: impl IntoIterator<Item = SideCallRecord>) {
        self.calls.log.get_or_insert_default().borrow_mut().extend(calls);
    }

    /// The side calls of this request: requests to clusters that the filter may wait for.
    pub fn side_calls(&mut self) -> SideCalls {
        let log = Rc::clone(self.calls.log.get_or_insert_default());
        SideCalls::of_request(Rc::clone(self.worker), self.calls.hops, self.calls.by, log)
    }

    /// The request as templates see it, in a hook that is passed its head.
    pub fn view<'v>(&'v self, request: &'v Head) -> View<'v> {
        View {
            conn: self.conn,
            request,
            response: None,
            summary: self.summary,
            values: self.values,
            conn_values: self.conn_values,
        }
    }
}

/// HTTP filters by name.
pub type HttpFilters = FilterRegistry<dyn HttpFilterPlan>;

/// The HTTP filters that come with Sluice.
pub fn built_in() -> HttpFilters {
    let all: Vec<Arc<dyn FilterFactory<dyn HttpFilterPlan>>> = vec![
        Arc::new(adaptive_concurrency::AdaptiveConcurrencyFactory::default()),
        Arc::new(admission_control::AdmissionControlFactory::default()),
        Arc::new(Ready::<api_key::ApiKey>::default()),
        Arc::new(bandwidth_limit::BandwidthLimitFactory::default()),
        Arc::new(Ready::<basic_auth::BasicAuth>::default()),
        Arc::new(Ready::<buffer::Buffer>::default()),
        Arc::new(Ready::<Short<body_max::BodyMax>>::default()),
        Arc::new(Ready::<client_cert::ClientCert>::default()),
        Arc::new(concurrency_limit::ConcurrencyLimitFactory::default()),
        Arc::new(Ready::<cors::Cors>::default()),
        Arc::new(Ready::<csrf::Csrf>::default()),
        Arc::new(Ready::<error_pages::settings::ErrorPages>::default()),
        Arc::new(Ready::<ext_authz::settings::ExtAuthz>::default()),
        Arc::new(Ready::<ext_proc::settings::ExtProc>::default()),
        Arc::new(Ready::<fault::settings::FaultInjection>::default()),
        Arc::new(Ready::<geo::Geo>::default()),
        Arc::new(global_rate_limit::GlobalRateLimitFactory::default()),
        Arc::new(Ready::<grpc_stats::GrpcStats>::default()),
        Arc::new(Ready::<health_check::HealthCheck>::default()),
        Arc::new(Ready::<inject_credentials::InjectCredentials>::default()),
        Arc::new(Ready::<jwt::settings::Jwt>::default()),
        Arc::new(Ready::<oidc::settings::Oidc>::default()),
        Arc::new(rate_limit::RateLimitFactory::default()),
        Arc::new(Ready::<rbac::RequestPolicies>::default()),
        Arc::new(Ready::<request_id::RequestId>::default()),
        Arc::new(Ready::<set_headers::Layers>::default()),
        Arc::new(Ready::<set_values::settings::SetValues>::default()),
        Arc::new(Ready::<sticky::Sticky>::default()),
        Arc::new(Ready::<tap::settings::Tap>::default()),
    ];
    all.into_iter().collect()
}
