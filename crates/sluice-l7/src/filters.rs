//! HTTP filters: the seam, and where filters are found by name.
//!
//! Owns: the traits, the words that pass through them, the registry. Refuses to know: which chain or
//! rule uses which filter. Keeps: filters judge and edit; the runner owns order, buffering, waiting
//! and answering. Built-in and third-party filters are registered and configured alike.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Body, Head};
use sluice_core::settings::Short;
use sluice_core::{Diags, LocalFuture, Node, Path, Setting, Shape};
use sluice_io::WorkerCx;

use crate::record::{ConnFacts, Summary, View};
use crate::reply::Reply;
use crate::runtime::Runtime;

pub mod body_max;
pub mod buffer;
pub mod error_pages;
pub mod health_check;
pub mod rate_limit;
pub mod request_id;
pub mod set_headers;

/// A kind of HTTP filter, registered by name. One for the process.
pub trait HttpFilterFactory: Send + Sync + Debug {
    /// The name in configurations.
    fn name(&self) -> &'static str;

    /// One sentence for the reference page.
    fn help(&self) -> &'static str;

    /// What its settings look like.
    fn shape(&self) -> Shape;

    /// Checks the settings of one use; adds what is wrong to `diags`.
    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn HttpFilterPlan>>;
}

/// One use of a filter in a configuration, shared by all workers.
pub trait HttpFilterPlan: Any + Send + Sync + Debug {
    /// These settings on top of `under`, those that hold around them: of the chain, or of the virtual host. `None`
    /// where they replace them, which is what they do unless the filter says otherwise.
    fn on_top_of(&self, _under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        None
    }

    /// Whether they say that they replace what holds around them. A chain's replace nothing, so there it is an error.
    fn says_replace(&self) -> bool {
        false
    }

    /// Names of the runtime values that the filter reads. An operator can set these and no others.
    fn runtime_keys(&self) -> Vec<&str> {
        Vec::new()
    }

    /// The filter on one worker. `owner` names the listener, or the listener and rule, that it belongs
    /// to; state that shall outlive a reload is kept under it.
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter>;
}

/// A filter on one worker: sees every request of its chain. What it must remember of one request
/// between two calls goes into [`Cx::state`].
///
/// The hooks of a request run in the order of the chain, those of a response in reverse.
pub trait HttpFilter: Debug {
    /// The head of a request, before it goes anywhere.
    fn request_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> Step {
        Step::Continue
    }

    /// Whether [`HttpFilter::request_body`] wants to be called for this request.
    fn wants_request_body(&self, _cx: &Cx<'_>) -> bool {
        false
    }

    /// A piece of the request's body; it may be replaced. `last` says that no other follows. Only
    /// `Continue` and `Reply` can be answered, and a reply only as long as no answer has begun.
    fn request_body(&self, _cx: &mut Cx<'_>, _body: &mut Body, _last: bool) -> Step {
        Step::Continue
    }

    /// The trailers of a request.
    fn request_trailers(&self, _cx: &mut Cx<'_>, _trailers: &mut Head) {}

    /// The head of the response, an endpoint's or Sluice's own. `Reply` replaces it; other steps
    /// than that count as `Continue`.
    fn response_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> Step {
        Step::Continue
    }

    /// Whether [`HttpFilter::response_body`] wants to be called for this response.
    fn wants_response_body(&self, _cx: &Cx<'_>) -> bool {
        false
    }

    /// A piece of the response's body; it may be replaced.
    fn response_body(&self, _cx: &mut Cx<'_>, _body: &mut Body, _last: bool) {}

    /// The trailers of the response.
    fn response_trailers(&self, _cx: &mut Cx<'_>, _trailers: &mut Head) {}

    /// The request has ended, however it did.
    fn ended(&self, _cx: &mut Cx<'_>) {}
}

/// What a filter knows of the request beside the message it is given.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The worker.
    pub worker: &'a WorkerCx,
    /// The connection.
    pub conn: &'a ConnFacts,
    /// What is known of the request.
    pub summary: &'a Summary,
    /// The head of the request, in the hooks of a response.
    pub request: Option<&'a Head>,
    /// Runtime values.
    pub runtime: &'a Runtime,
    /// What the filter remembers of this request.
    pub state: &'a mut Option<Box<dyn Any>>,
}

impl Cx<'_> {
    /// The request for templates, in a hook that is given its head.
    pub fn view<'v>(&'v self, request: &'v Head) -> View<'v> {
        View { conn: self.conn, request, response: None, summary: self.summary }
    }
}

/// What a filter decides.
pub enum Step {
    /// Go on.
    Continue,
    /// Answer with this; the request goes no further.
    Reply(Box<Reply>),
    /// Go on when the whole body is there, or answer 413 when it is larger than so many bytes.
    Buffer(usize),
    /// Go on after something else has happened. The request waits, nobody else does.
    Wait(LocalFuture<Resume>),
}

impl Step {
    /// An answer.
    pub fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reply(reply) => write!(f, "Reply({})", reply.status),
            Self::Buffer(max) => write!(f, "Buffer({max})"),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

/// What a filter does when what it waited for has happened: edits the head, and decides again.
pub type Resume = Box<dyn FnOnce(&mut Cx<'_>, &mut Head) -> Step>;

/// A filter that needs nothing but its settings: they judge requests themselves.
trait OfSettings: HttpFilter + Setting + Clone + Send + Sync + 'static {
    const NAME: &'static str;
    const HELP: &'static str;

    /// See [`HttpFilterPlan::on_top_of`].
    fn on_top_of(&self, _under: &Self) -> Option<Self> {
        None
    }

    /// See [`HttpFilterPlan::says_replace`].
    fn says_replace(&self) -> bool {
        false
    }

    /// See [`HttpFilterPlan::runtime_keys`].
    fn runtime_keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The factory of such a filter.
struct Ready<S>(PhantomData<fn() -> S>);

impl<S> Default for Ready<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S: OfSettings> Debug for Ready<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(S::NAME)
    }
}

impl<S: OfSettings> HttpFilterFactory for Ready<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn help(&self) -> &'static str {
        S::HELP
    }

    fn shape(&self) -> Shape {
        S::shape()
    }

    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        Some(Arc::new(Use(S::bind(settings, at, diags)?)))
    }
}

#[derive(Debug)]
struct Use<S>(S);

impl<S: OfSettings> HttpFilterPlan for Use<S> {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn Any = under;
        let both = self.0.on_top_of(&under.downcast_ref::<Self>()?.0)?;
        Some(Arc::new(Self(both)))
    }

    fn says_replace(&self) -> bool {
        self.0.says_replace()
    }

    fn runtime_keys(&self) -> Vec<&str> {
        self.0.runtime_keys()
    }

    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.0.clone())
    }
}

/// Filters by name.
#[derive(Clone, Debug)]
pub struct HttpFilters(BTreeMap<&'static str, Arc<dyn HttpFilterFactory>>);

impl Default for HttpFilters {
    /// The filters that come with Sluice.
    fn default() -> Self {
        let mut filters = Self(BTreeMap::new());
        filters.register(Arc::new(Ready::<buffer::Buffer>::default()));
        filters.register(Arc::new(Ready::<Short<body_max::BodyMax>>::default()));
        filters.register(Arc::new(Ready::<error_pages::ErrorPages>::default()));
        filters.register(Arc::new(Ready::<health_check::HealthCheck>::default()));
        filters.register(Arc::new(rate_limit::RateLimitFactory::default()));
        filters.register(Arc::new(Ready::<request_id::RequestId>::default()));
        filters.register(Arc::new(Ready::<set_headers::Layers>::default()));
        filters
    }
}

impl HttpFilters {
    /// Adds a filter, or replaces the one of that name.
    pub fn register(&mut self, factory: Arc<dyn HttpFilterFactory>) {
        self.0.insert(factory.name(), factory);
    }

    /// The filter of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn HttpFilterFactory>> {
        self.0.get(name)
    }

    /// Every filter, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn HttpFilterFactory>> {
        self.0.values()
    }
}
