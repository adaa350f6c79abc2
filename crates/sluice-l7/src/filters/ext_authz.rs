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
use sluice_core::values::ValueFamily;
use sluice_core::{LocalFuture, Node, Reason, ValueDef};
use sluice_io::WorkerCx;
use sluice_telemetry::CounterSet;
use sluice_upstream::Cluster;

use self::answer::{AnswerFault, AuthzAnswer, AuthzEdits, HeaderEdit};
use self::messages::{CHECK, CheckResponse};
use self::settings::{AuthzProtocol, ExtAuthz};
use super::{
    BodyStart, CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings, ResponseStep,
    WholeStep,
};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::words::EditableHeader;

pub(super) mod answer;
pub(crate) mod messages;
mod over_http;
pub(crate) mod question;
pub mod settings;
#[cfg(test)]
mod tests;

sluice_core::values! {
    DECISION: &'static str = "ext_authz.decision", "What the service of the filter `ext_authz` decided: `allowed` or `denied`; `failed` if it did not.";
    METADATA: ValueFamily = "ext_authz.metadata.*", "What the service of the filter `ext_authz` tells of the request (dynamic metadata), by the names in it.";
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
            context: self.context.texts().collect(),
            service: cluster.map(|cluster| Arc::new(AuthzService::new(self, cluster))),
        }))
    }
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
