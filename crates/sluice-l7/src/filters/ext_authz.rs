//! `ext_authz`: asks a service whether a request may pass.
//!
//! Owns: the settings, when the service is asked, and what becomes of a request that it does not decide about. Refuses to
//! know: how the service decides. Keeps: without a decision in time no request passes, unless the configuration says so; a
//! header that the service sets can come from no client.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::{Head, Method};
use sluice_core::settings::{Plain, Short, ShortForm, Size};
use sluice_core::values::ValueFamily;
use sluice_core::{
    Diags, LocalFuture, Name, Node, Path, Reason, Setting, Shape, Spanned, ValueDef,
};
use sluice_io::WorkerCx;
use sluice_telemetry::CounterSet;
use sluice_upstream::Cluster;

use self::answer::{AnswerFault, AuthzAnswer, AuthzEdits, HeaderEdit};
use self::messages::{CHECK, CheckResponse};
use super::{
    BodyStart, CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings, ResponseStep,
    WholeStep,
};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::words::{EditableHeader, bind_by_name};

pub(super) mod answer;
pub(crate) mod messages;
mod over_http;
pub(crate) mod question;
#[cfg(test)]
mod tests;

sluice_core::values! {
    DECISION: &'static str = "ext_authz.decision", "What the service of the filter `ext_authz` decided: `allowed` or `denied`; `failed` if it did not.";
    METADATA: ValueFamily = "ext_authz.metadata.*", "What the service of the filter `ext_authz` tells of the request (dynamic metadata), by the names in it.";
}

sluice_core::choice! {
    /// How the service is asked.
    pub enum AuthzProtocol {
        /// The gRPC method `envoy.service.auth.v3.Authorization/Check`.
        Grpc = "grpc",
        /// A request with the same method and path; a response with 2xx allows it.
        Http = "http",
    }
}

sluice_core::section! {
    /// Asks a service whether requests may pass.
    pub struct ExtAuthz {
        /// The cluster of the service. In a rule or virtual host, settings without it add to those of the chain: their
        /// `context` and `with_body`.
        pub cluster: Option<Spanned<Name>>,
        /// How the service is asked.
        pub protocol: AuthzProtocol = "grpc",
        /// The time for its answer.
        pub timeout: Duration = "200ms",
        /// Whether requests pass that the service does not decide about: it cannot be reached, is late, or fails.
        pub allow_on_error: bool = "false",
        /// The status of the response to a request that does not pass for that reason, from 400 to 599.
        pub error_status: u16 = "403",
        /// Whether the service is sent the client's certificate, in PEM and percent-encoded: as `source.certificate` over
        /// gRPC, in the header `ssl-client-cert` over HTTP.
        pub client_certificate: bool = "false",
        /// The largest body that the service is sent; a larger one gets a 413 response. If omitted, it gets none.
        pub with_body: Option<Short<AuthzBody>>,
        /// Over gRPC: whether bodies are always sent as bytes (`raw_body`). If not, those that are UTF-8 are sent as a text
        /// (`body`).
        pub body_as_bytes: bool = "false",
        /// What the service is told besides: context extensions over gRPC, headers over HTTP.
        pub context: ContextTexts,
        /// The request headers that the service gets. If omitted, all over gRPC, and `authorization` over HTTP.
        pub request_headers: Option<Vec<EditableHeader>>,
        /// Over HTTP: what stands before the path of the request.
        pub path_prefix: Option<String>,
        /// Over HTTP: the headers of an answer that allows which the endpoint gets. Those of the client are removed.
        pub upstream_headers: Vec<EditableHeader>,
        /// Over HTTP: the headers of an answer that allows which the client gets.
        pub allowed_client_headers: Vec<EditableHeader>,
        /// Over HTTP: the headers of an answer that denies which the client gets, besides the type of the body.
        pub denied_client_headers: Vec<EditableHeader>,
        /// Whether the route is selected again if the answer changes headers of the request.
        pub reroute: bool = "false",
    }
}

sluice_core::section! {
    /// The body of requests, for the service.
    pub struct AuthzBody {
        /// The largest body.
        pub max: Size,
        /// Whether a larger body is not refused: the service decides by its first `max` bytes.
        pub partial: bool = "false",
    }
}

impl ShortForm for AuthzBody {
    const KEY: &'static str = "max";
}

/// Texts by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextTexts(Vec<(String, String)>);

impl ContextTexts {
    /// The texts, with their names.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().cloned()
    }
}

impl Setting for ContextTexts {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_by_name(node, at, diags, String::bind).map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(String::shape()))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.0.iter().map(|(name, text)| (name.clone(), text.show())).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl PlanSettings for ExtAuthz {
    const NAME: &'static str = "ext_authz";
    const HELP: &'static str = "Asks a service whether requests may pass.";

    fn values() -> &'static [ValueDef] {
        VALUES
    }

    fn plan(self, node: &Node, context: &mut CheckContext<'_>) -> Option<Arc<dyn HttpFilterPlan>> {
        if !self.is_usable(node, context) {
            return None;
        }
        let cluster = match &self.cluster {
            Some(name) => Some(context.cluster(name, "cluster")?),
            None => None,
        };
        Some(Arc::new(AuthzPlan {
            with_body: self.with_body.as_ref().map(|body| AskedBody {
                max: usize::try_from(body.max.0).unwrap_or(usize::MAX),
                partial: body.partial,
            }),
            context: self.context.0.clone(),
            service: cluster.map(|cluster| Arc::new(AuthzService::new(self, cluster))),
        }))
    }
}

impl ExtAuthz {
    fn is_usable(&self, node: &Node, context: &mut CheckContext<'_>) -> bool {
        let written = |key: &str| {
            let entries = node.entries().unwrap_or_default();
            entries.iter().find(|entry| &*entry.key == key).map(|entry| entry.key_span)
        };
        if self.cluster.is_none() {
            let of_routes = matches!(context.owner, super::FilterOwner::Routes(_));
            let own = ["context", "with_body"];
            let other = node.entries().unwrap_or_default().iter();
            let other = other.map(|entry| &*entry.key).find(|key| !own.contains(key));
            if of_routes && other.is_none() {
                return true;
            }
            let message = "`ext_authz` needs the `cluster` of the service";
            let finding = context.diags.error("missing-field", node.span, context.at, message);
            finding
                .help("only `context` and `with_body` of a rule add to the settings of its chain");
            return false;
        }
        if !(400..600).contains(&self.error_status) {
            let (span, at) = (written("error_status"), context.at.key("error_status"));
            let message = "`error_status` must be from 400 to 599";
            context.diags.error("bad-value", span, at, message);
            return false;
        }
        if let Some(prefix) = &self.path_prefix
            && (!prefix.starts_with('/') || !prefix.bytes().all(is_path_byte))
        {
            let message = format!("expected a path that begins with `/`, not `{prefix}`");
            let (span, at) = (written("path_prefix"), context.at.key("path_prefix"));
            context.diags.error("bad-value", span, at, message);
            return false;
        }
        let of_http =
            ["path_prefix", "upstream_headers", "allowed_client_headers", "denied_client_headers"];
        if self.protocol == AuthzProtocol::Http && written("body_as_bytes").is_some() {
            let (span, at) = (written("body_as_bytes"), context.at.key("body_as_bytes"));
            let message = "`body_as_bytes` has no effect over HTTP, which sends bodies as they are";
            context.diags.error("useless-setting", span, at, message).help("remove it");
            return false;
        }
        let useless = of_http.into_iter().find(|key| written(key).is_some());
        if let Some(key) = useless.filter(|_| self.protocol == AuthzProtocol::Grpc) {
            let message =
                format!("`{key}` has no effect over gRPC: the answer itself names the headers");
            let (span, at) = (written(key), context.at.key(key));
            let finding = context.diags.error("useless-setting", span, at, message);
            finding.help("remove it, or write `protocol: http`");
            return false;
        }
        true
    }
}

const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')
}

/// The service, and how it is asked.
#[derive(Debug)]
pub(crate) struct AuthzService {
    cluster: Arc<Cluster>,
    protocol: AuthzProtocol,
    timeout: Duration,
    allow_on_error: bool,
    error_status: u16,
    /// The headers that it gets; `None` for all.
    request_headers: Option<Vec<EditableHeader>>,
    path_prefix: String,
    upstream_headers: Vec<EditableHeader>,
    allowed_client_headers: Vec<EditableHeader>,
    denied_client_headers: Vec<EditableHeader>,
    reroute: bool,
    client_certificate: bool,
    body_as_bytes: bool,
}

/// How much of the body the service is sent.
#[derive(Clone, Copy, Debug)]
struct AskedBody {
    /// The most bytes.
    max: usize,
    /// Whether these are sent of a larger one, which is refused otherwise.
    partial: bool,
}

/// What the service is sent of a body.
#[derive(Clone, Debug)]
pub(super) struct SentBody {
    bytes: Bytes,
    /// Whether there is more.
    cut: bool,
}

/// The header in which the service is told whether it has all of the body.
const PARTIAL: &str = "x-envoy-auth-partial-body";

impl AuthzService {
    fn new(settings: ExtAuthz, cluster: Arc<Cluster>) -> Self {
        let default = || match settings.protocol {
            AuthzProtocol::Grpc => None,
            AuthzProtocol::Http => Some(vec![EditableHeader("authorization".into())]),
        };
        Self {
            cluster,
            protocol: settings.protocol,
            timeout: settings.timeout,
            allow_on_error: settings.allow_on_error,
            error_status: settings.error_status,
            request_headers: settings.request_headers.or_else(default),
            // The path of the request begins with a slash.
            path_prefix: settings
                .path_prefix
                .map_or_else(String::new, |prefix| prefix.trim_end_matches('/').to_owned()),
            upstream_headers: settings.upstream_headers,
            allowed_client_headers: settings.allowed_client_headers,
            denied_client_headers: settings.denied_client_headers,
            reroute: settings.reroute,
            client_certificate: settings.client_certificate,
            body_as_bytes: settings.body_as_bytes,
        }
    }
}

#[derive(Clone, Debug)]
struct AuthzPlan {
    /// `None` in a rule that adds to the settings of its chain.
    service: Option<Arc<AuthzService>>,
    with_body: Option<AskedBody>,
    context: Vec<(String, String)>,
}

impl HttpFilterPlan for AuthzPlan {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn std::any::Any = under;
        let under = under.downcast_ref::<Self>().filter(|_| self.service.is_none())?;
        let others = under.context.iter().filter(|(name, _)| {
            !self.context.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
        });
        Some(Arc::new(Self {
            service: under.service.clone(),
            with_body: self.with_body.or(under.with_body),
            context: others.chain(&self.context).cloned().collect(),
        }))
    }

    fn lacks(&self) -> Option<String> {
        self.service.is_none().then(|| "the `cluster` of the service".to_owned())
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn judges_target(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let listener = owner.split('/').next().unwrap_or_default().into();
        let counters = CounterSet::default();
        Rc::new(AuthzFilter(Rc::new(Asking {
            plan: self.clone(),
            worker: Rc::clone(worker),
            listener,
            counters,
        })))
    }
}

#[derive(Debug)]
struct AuthzFilter(Rc<Asking>);

/// What a request that waits for the answer needs of the filter.
#[derive(Debug)]
struct Asking {
    plan: AuthzPlan,
    worker: Rc<WorkerCx>,
    listener: Box<str>,
    counters: CounterSet<&'static str>,
}

/// How the service answered, or why not.
type Answered = Result<AuthzAnswer, NoDecision>;

/// Why there is no decision.
#[derive(Debug)]
struct NoDecision {
    why: Reason,
    details: Cow<'static, str>,
    /// Whether the service did decide, but what cannot be carried out.
    unusable: bool,
}

impl NoDecision {
    fn new(why: Reason, details: impl Into<Cow<'static, str>>) -> Self {
        Self { why, details: details.into(), unusable: false }
    }

    fn unusable(what: &AnswerFault) -> Self {
        let details = format!("ext_authz_invalid[{what}]");
        Self { unusable: true, ..Self::new(reasons::SIDE_CALL_MALFORMED, details) }
    }
}

/// The headers that the response gets.
#[derive(Debug)]
struct ForResponse(Vec<HeaderEdit>);

impl HttpFilter for AuthzFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let asking = Rc::clone(&self.0);
        let Some(service) = asking.plan.service.clone() else {
            let details = "ext_authz_error[the rule adds to settings that its chain does not have]";
            return HeadStep::reply(asking.no_decision(
                403,
                NoDecision::new(reasons::DENIED, details),
                cx,
            ));
        };
        for name in &service.upstream_headers {
            head.remove(name.0.as_bytes());
        }
        let tunnel = head.method() == Method::Connect || head.upgrade().is_some();
        match asking.plan.with_body.filter(|_| !tunnel) {
            None => asking.head_step(service, cx, head, None),
            Some(AskedBody { max, partial: true }) => {
                HeadStep::peek(max, move |cx, head, BodyStart { bytes, whole }| {
                    asking.head_step(service, cx, head, Some(SentBody { bytes, cut: !whole }))
                })
            }
            Some(AskedBody { max, partial: false }) => HeadStep::buffer(max, move |cx, whole| {
                let body = SentBody { bytes: whole.body.clone(), cut: false };
                let answer = asking.ask(&service, cx, &whole.head, Some(body));
                WholeStep::wait(async move {
                    let answer = answer.await;
                    move |cx: &mut Cx<'_>, whole: &mut super::WholeMessage| {
                        let reply = asking.decide(&service, answer, cx, &mut whole.head);
                        reply.map_or(WholeStep::Continue, WholeStep::reply)
                    }
                })
            }),
        }
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        if let Some(ForResponse(edits)) = cx.state.as_ref().and_then(|state| state.downcast_ref()) {
            edits.iter().for_each(|edit| edit.apply(head));
        }
        ResponseStep::Continue
    }
}

impl Asking {
    /// Asks the service about a request and carries its answer out.
    fn head_step(
        self: Rc<Self>,
        service: Arc<AuthzService>,
        cx: &mut Cx<'_>,
        head: &Head,
        body: Option<SentBody>,
    ) -> HeadStep {
        let answer = self.ask(&service, cx, head, body);
        HeadStep::wait(async move {
            let answer = answer.await;
            move |cx: &mut Cx<'_>, head: &mut Head| {
                let reply = self.decide(&service, answer, cx, head);
                reply.map_or(HeadStep::Continue, HeadStep::reply)
            }
        })
    }

    /// Asks the service about a request.
    fn ask(
        &self,
        service: &Arc<AuthzService>,
        cx: &mut Cx<'_>,
        head: &Head,
        body: Option<SentBody>,
    ) -> LocalFuture<Answered> {
        let (calls, by) = (cx.side_calls(), cx.worker.now().after(service.timeout));
        let failed = |why| NoDecision::new(why, "ext_authz_error");
        let service = Arc::clone(service);
        if service.protocol == AuthzProtocol::Http {
            let context = self.plan.context.iter().map(|(name, text)| (&**name, &**text));
            let certificate = cx.conn.client_certificate().filter(|_| service.client_certificate);
            let question = over_http::question(&service, head, body, certificate, context);
            let called = calls.call(&service.cluster, question, by);
            return Box::pin(async move {
                let response = called.await.map_err(|error| failed(error.why))?;
                over_http::of_http(&service, &response)
            });
        }
        let conn = cx.conn.subject(cx.summary.source, cx.conn_values);
        let context = self.plan.context.iter().cloned();
        let question = question::of_request(&service, &conn, cx.summary, head, body, context);
        let called = calls.call_grpc(&service.cluster, CHECK, &question, by);
        Box::pin(async move {
            let answer: CheckResponse = called.await.map_err(|error| failed(error.why()))?;
            answer::of_grpc(answer).map_err(|what| NoDecision::unusable(&what))
        })
    }

    /// Carries out an answer; returns the reply if the request does not pass.
    fn decide(
        &self,
        service: &AuthzService,
        answer: Answered,
        cx: &mut Cx<'_>,
        head: &mut Head,
    ) -> Option<Reply> {
        match answer {
            Ok(AuthzAnswer::Allow(edits)) => {
                self.note("allowed", cx);
                self.allow(service, edits, cx, head);
                None
            }
            Ok(AuthzAnswer::Deny(reply)) => {
                self.note("denied", cx);
                Some(*reply)
            }
            // A service that answers what cannot be carried out has decided, and it is not known what.
            Err(none) if service.allow_on_error && !none.unusable => {
                self.note("failed", cx);
                None
            }
            Err(none) => Some(self.no_decision(service.error_status, none, cx)),
        }
    }

    fn allow(&self, service: &AuthzService, edits: AuthzEdits, cx: &mut Cx<'_>, head: &mut Head) {
        if edits.apply(head) && service.reroute {
            cx.reroute();
        }
        if let Some(metadata) = edits.metadata {
            cx.values.set(&METADATA, ValueFamily(Arc::new(metadata)));
        }
        if !edits.response.is_empty() {
            *cx.state = Some(Box::new(ForResponse(edits.response)));
        }
    }

    fn no_decision(&self, status: u16, none: NoDecision, cx: &mut Cx<'_>) -> Reply {
        self.note("failed", cx);
        Reply::new(status, none.why, none.details, "not allowed\n")
    }

    fn note(&self, decision: &'static str, cx: &mut Cx<'_>) {
        cx.values.set(&DECISION, decision);
        self.counters.count(&decision, |decision| {
            self.worker.shard.counter(&metrics::EXT_AUTHZ, &[&self.listener, decision])
        });
    }
}
