//! `cors`: which sites' scripts may read responses (cross-origin resource sharing; Fetch standard, §3.3).
//!
//! Owns: the answers to preflight requests, and the `access-control-*` headers of responses. Refuses to know: who the
//! client is. Keeps: the policy of the filter holds alone, since what an endpoint says about other origins is removed; a
//! response that depends on the origin says so to caches.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::head::Method;
use sluice_core::{Node, Spanned};
use sluice_io::WorkerCx;
use sluice_telemetry::CounterSet;

use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings, ResponseStep};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::words::{HeaderName, MethodName, OriginPattern};

sluice_core::section! {
    /// Lets scripts of other sites read responses (CORS), and responds to the preflight requests of browsers.
    pub struct Cors {
        /// The origins whose scripts may read responses; `*` for all, `{ regex: REGEX }` for those that it matches.
        pub origins: Vec<Spanned<OriginPattern>>,
        /// The methods that they may use besides GET, HEAD and POST, which browsers always allow.
        pub methods: Vec<MethodName>,
        /// The request headers that they may set besides those that browsers always allow.
        pub headers: Vec<HeaderName>,
        /// The response headers that they may read besides those that browsers always allow.
        pub expose: Vec<HeaderName>,
        /// How long a browser may remember the response to a preflight request. If omitted, it decides itself.
        pub max_age: Option<Duration>,
        /// Whether browsers send cookies and client certificates along, and show the response to the script then.
        pub credentials: bool = "false",
        /// Whether pages of the public internet may make requests to this private network.
        pub private_network: bool = "false",
    }
}

impl PlanSettings for Cors {
    const NAME: &'static str = "cors";
    const HELP: &'static str = "Lets scripts of other sites read responses (CORS).";

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let span = settings.span;
        let at = context.at.key("origins");
        if self.origins.is_empty() {
            let message = "`cors` needs the origins that it is about";
            let finding = context.diags.error("missing-field", span, at, message);
            finding.help("write `origins: https://app.example.com`, or `origins: \"*\"` for all");
            return None;
        }
        let any = self.origins.iter().find(|origin| origin.value == OriginPattern::Any);
        if let Some(any) = any.filter(|_| self.credentials) {
            let message = "with `credentials`, every site could act as its visitor here";
            let finding = context.diags.error("bad-value", any.span, at, message);
            finding.help("list the origins, or remove `credentials`");
            return None;
        }
        let is_star = |names: &[HeaderName]| names.iter().any(|name| name.0 == "*");
        let stars = [
            ("methods", self.methods.iter().any(|method| method.0 == "*")),
            ("headers", is_star(&self.headers)),
            ("expose", is_star(&self.expose)),
        ];
        if let Some((field, _)) = stars.into_iter().find(|(_, star)| *star && self.credentials) {
            let message = "with `credentials`, browsers take `*` for a name";
            let finding = context.diags.error("bad-value", span, context.at.key(field), message);
            finding.help("list the names, or remove `credentials`");
            return None;
        }
        Some(Arc::new(CorsPlan(Arc::new(Policy::of(self)))))
    }
}

#[derive(Debug)]
struct CorsPlan(Arc<Policy>);

impl HttpFilterPlan for CorsPlan {
    fn on_worker(&self, _: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(CorsFilter {
            policy: Arc::clone(&self.0),
            listener: owner.split('/').next().unwrap_or_default().into(),
            counted: CounterSet::default(),
        })
    }
}

/// The settings, as the values of headers.
#[derive(Debug)]
struct Policy {
    origins: Vec<OriginPattern>,
    /// Whether every origin may, and all of them hear the same.
    any: bool,
    methods: String,
    headers: String,
    expose: String,
    max_age: Option<String>,
    credentials: bool,
    private_network: bool,
}

impl Policy {
    fn of(cors: Cors) -> Self {
        let names = |names: Vec<HeaderName>| {
            names.into_iter().map(|name| name.0).collect::<Vec<_>>().join(", ")
        };
        let mut methods: Vec<String> = ["GET", "HEAD", "POST"].map(String::from).into();
        for MethodName(method) in cors.methods {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        let origins: Vec<OriginPattern> = cors.origins.into_iter().map(|one| one.value).collect();
        Self {
            any: origins.contains(&OriginPattern::Any),
            origins,
            methods: methods.join(", "),
            headers: names(cors.headers),
            expose: names(cors.expose),
            max_age: cors.max_age.map(|age| age.as_secs().to_string()),
            credentials: cors.credentials,
            private_network: cors.private_network,
        }
    }

    /// The origin of a request, if its scripts may read the response. Two of them are none.
    fn allowed<'h>(&self, request: &'h Head) -> Option<&'h str> {
        let mut origins = request.values(b"origin");
        let origin = origins.next().filter(|_| origins.next().is_none())?;
        let origin = std::str::from_utf8(origin).ok()?;
        self.origins.iter().any(|pattern| pattern.fits(origin)).then_some(origin)
    }

    /// The headers by which a browser lets this origin read a response.
    fn grant<'a>(&'a self, origin: &'a str) -> impl Iterator<Item = (&'static str, &'a str)> {
        let origin = if self.any { "*" } else { origin };
        let credentials = self.credentials.then_some((ALLOW_CREDENTIALS, "true"));
        [(ALLOW_ORIGIN, origin)].into_iter().chain(credentials)
    }

    fn preflight(&self, request: &Head) -> Reply {
        let Some(origin) = self.allowed(request) else {
            let body = "this origin may not make such requests\n";
            return self.varied(Reply::new(403, reasons::DENIED, "cors_origin", body));
        };
        let reply = Reply::new(204, reasons::LOCAL, "cors_preflight", "");
        let asks = request.get_named(REQUEST_PRIVATE_NETWORK.as_bytes()) == Some(b"true");
        let own = [
            (ALLOW_METHODS, Some(&*self.methods)),
            (ALLOW_HEADERS, Some(&*self.headers).filter(|list| !list.is_empty())),
            (MAX_AGE, self.max_age.as_deref()),
            (ALLOW_PRIVATE_NETWORK, (self.private_network && asks).then_some("true")),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let reply = self
            .grant(origin)
            .chain(own)
            .fold(reply, |reply, (name, value)| reply.with(name, value));
        self.varied(reply)
    }

    /// Edits the headers of the response to a request that is no preflight request; `origin` is that of the request, if
    /// its scripts may read the response.
    fn edit(&self, origin: Option<&str>, response: &mut Head) {
        let prefix = b"access-control-";
        response.remove_where(|name, _| {
            name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        });
        // A cache may keep it for a request from a script, so that it says `*` to every request.
        if let Some(origin) = origin.or_else(|| self.any.then_some("*")) {
            for (name, value) in self.grant(origin) {
                response.append(name.as_bytes(), value.as_bytes());
            }
            if !self.expose.is_empty() {
                response.append(EXPOSE_HEADERS.as_bytes(), self.expose.as_bytes());
            }
        }
        if !self.any {
            response.append(b"vary", b"origin");
        }
    }

    fn varied(&self, reply: Reply) -> Reply {
        if self.any { reply } else { reply.with("vary", "origin") }
    }
}

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";
const ALLOW_METHODS: &str = "access-control-allow-methods";
const ALLOW_HEADERS: &str = "access-control-allow-headers";
const ALLOW_PRIVATE_NETWORK: &str = "access-control-allow-private-network";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";
const MAX_AGE: &str = "access-control-max-age";
const REQUEST_METHOD: &str = "access-control-request-method";
const REQUEST_PRIVATE_NETWORK: &str = "access-control-request-private-network";

/// Whether a browser asks what a script may do (Fetch standard, §3.3.2).
fn is_preflight(request: &Head) -> bool {
    request.method() == Method::Options
        && request.get_named(b"origin").is_some()
        && request.get_named(REQUEST_METHOD.as_bytes()).is_some()
}

/// What the filter remembers of a request: later filters may change its headers.
enum Seen {
    Preflight,
    /// Scripts of this origin may read the response.
    Allowed(String),
}

#[derive(Debug)]
struct CorsFilter {
    policy: Arc<Policy>,
    listener: Box<str>,
    counted: CounterSet<&'static str>,
}

impl HttpFilter for CorsFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if head.get_named(b"origin").is_none() {
            return HeadStep::Continue;
        }
        let allowed = self.policy.allowed(head);
        let result = if allowed.is_some() { "allowed" } else { "refused" };
        self.counted.count(&result, |result| {
            cx.worker.shard.counter(&metrics::CORS, &[&self.listener, result])
        });
        if is_preflight(head) {
            *cx.state = Some(Box::new(Seen::Preflight));
            return HeadStep::reply(self.policy.preflight(head));
        }
        if !self.policy.any
            && let Some(origin) = allowed
        {
            *cx.state = Some(Box::new(Seen::Allowed(origin.to_owned())));
        }
        HeadStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        match cx.state.as_ref().and_then(|state| state.downcast_ref()) {
            Some(Seen::Preflight) => {}
            Some(Seen::Allowed(origin)) => self.policy.edit(Some(origin), head),
            None => self.policy.edit(None, head),
        }
        ResponseStep::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(origins: &[&str], credentials: bool) -> Policy {
        let parse = |text: &&str| crate::words::parse_origin_pattern(text).unwrap();
        let spanned = |value| Spanned { value, span: Default::default() };
        Policy::of(Cors {
            origins: origins.iter().map(parse).map(spanned).collect(),
            methods: vec![MethodName("PUT".into()), MethodName("GET".into())],
            headers: vec![HeaderName("content-type".into()), HeaderName("x-a".into())],
            expose: vec![HeaderName("x-total".into())],
            max_age: Some(Duration::from_secs(600)),
            credentials,
            private_network: true,
        })
    }

    fn request(method: &str, fields: &[(&str, &str)]) -> Head {
        let mut head = Head::request(method, "https", "api.test", "/");
        for (name, value) in fields {
            head.append(name.as_bytes(), value.as_bytes());
        }
        head
    }

    /// Lines of headers, sorted.
    fn lines<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut lines: Vec<String> =
            fields.map(|(name, value)| format!("{}: {}", text(name), text(value))).collect();
        lines.sort();
        lines
    }

    fn preflight(policy: &Policy, origin: &str, private: bool) -> (u16, Vec<String>) {
        let mut head = request("OPTIONS", &[("Origin", origin), (REQUEST_METHOD, "PUT")]);
        if private {
            head.append(REQUEST_PRIVATE_NETWORK.as_bytes(), b"true");
        }
        assert!(is_preflight(&head));
        let reply = policy.preflight(&head);
        let fields = reply.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        (reply.status, lines(fields))
    }

    fn response(policy: &Policy, request: &Head) -> Vec<String> {
        let mut head = Head::response(200);
        for (name, value) in [
            ("Access-Control-Allow-Origin", "*"),
            ("access-control-expose-headers", "x-secret"),
            ("x-total", "1"),
        ] {
            head.append(name.as_bytes(), value.as_bytes());
        }
        policy.edit(policy.allowed(request), &mut head);
        lines(head.fields())
    }

    #[test]
    fn a_preflight_request_hears_what_its_origin_may_do() {
        let some = policy(&["https://app.test", "https://*.app.test"], true);
        let granted = |origin: &str| {
            vec![
                "access-control-allow-credentials: true".to_owned(),
                "access-control-allow-headers: content-type, x-a".into(),
                "access-control-allow-methods: GET, HEAD, POST, PUT".into(),
                format!("access-control-allow-origin: {origin}"),
                "access-control-max-age: 600".into(),
                "vary: origin".into(),
            ]
        };
        for origin in ["https://app.test", "https://a.app.test"] {
            assert_eq!(preflight(&some, origin, false), (204, granted(origin)));
        }
        let private = preflight(&some, "https://app.test", true).1;
        assert!(private.contains(&"access-control-allow-private-network: true".into()));
        for origin in
            ["https://other.test", "http://app.test", "null", "https://app.test.other.test"]
        {
            assert_eq!(preflight(&some, origin, true), (403, vec!["vary: origin".into()]));
        }
        let (status, all) = preflight(&policy(&["*"], false), "null", false);
        assert_eq!(status, 204);
        assert!(all.contains(&"access-control-allow-origin: *".into()), "{all:?}");
        assert!(!all.iter().any(|line| line.starts_with("vary") || line.contains("credentials")));
    }

    #[test]
    fn a_response_has_the_headers_of_the_policy_and_none_of_the_endpoint() {
        let some = policy(&["https://app.test"], false);
        let allowed = request("GET", &[("origin", "https://app.test")]);
        let expected = [
            "access-control-allow-origin: https://app.test",
            "access-control-expose-headers: x-total",
            "vary: origin",
            "x-total: 1",
        ];
        assert_eq!(response(&some, &allowed), expected);
        for others in [
            &[][..],
            &[("origin", "https://other.test")],
            &[("origin", "https://app.test"), ("origin", "https://app.test")],
            &[("origin", "https://app.test, https://other.test")],
        ] {
            assert_eq!(response(&some, &request("GET", others)), ["vary: origin", "x-total: 1"]);
        }
        let any = policy(&["*"], false);
        let expected = [
            "access-control-allow-origin: *",
            "access-control-expose-headers: x-total",
            "x-total: 1",
        ];
        for request in [allowed, request("GET", &[])] {
            assert_eq!(response(&any, &request), expected);
        }
    }

    #[test]
    fn only_what_browsers_send_before_is_a_preflight_request() {
        let origin = ("origin", "https://app.test");
        assert!(!is_preflight(&request("OPTIONS", &[origin])));
        assert!(!is_preflight(&request("OPTIONS", &[(REQUEST_METHOD, "PUT")])));
        assert!(!is_preflight(&request("PUT", &[origin, (REQUEST_METHOD, "PUT")])));
    }
}
