//! `inject_credentials`: requests get a credential of Sluice's own for the service behind it.
//!
//! Owns: the header, and what happens without a credential. Refuses to know: who the client is. Keeps: a client's own
//! value goes no further unless that is asked for; no request is forwarded without the credential, or with one that has
//! expired.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::names::is_field_value;
use sluice_core::value::Authority;
use sluice_core::{Name, Node, SecretSource, SecretText, Spanned};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Content, FetchSchedule, Fetched, LiveSecret};

use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings};
use crate::reasons;
use crate::reply::Reply;
use crate::words::EditableHeader;

pub mod oauth2;

use oauth2::{AccessToken, ClientAuthentication, OauthClient, TokenOrigin};

sluice_core::section! {
    /// Adds a credential to requests, for the service behind. Exactly one of `secret` and `oauth2` is required.
    pub struct InjectCredentials {
        /// The credential.
        pub secret: Option<SecretSource>,
        /// Where an access token is fetched (OAuth 2.0, client credentials).
        pub oauth2: Option<Spanned<ClientCredentials>>,
        /// The header that it is put into.
        pub header: EditableHeader = "authorization",
        /// What stands before it; `Bearer ` by default in `authorization`, and nothing in other headers.
        pub prefix: Option<Spanned<String>>,
        /// Whether a request keeps a value of that header that it has already; otherwise that is replaced.
        pub keep: bool = "false",
    }
}

sluice_core::section! {
    /// An OAuth 2.0 client (RFC 6749 §4.4).
    pub struct ClientCredentials {
        /// The cluster of the authorisation server. It is reached with its own TLS, limits and egress policy.
        pub cluster: Spanned<Name>,
        /// The path of its token endpoint.
        pub path: String,
        /// Its host; by default that of the endpoint.
        pub host: Option<Authority>,
        /// The client.
        pub client_id: String,
        /// Its secret.
        pub client_secret: SecretSource,
        /// How the client proves who it is.
        pub authentication: ClientAuthentication = "header",
        /// What the token is for.
        pub scopes: Vec<String>,
        /// The time for an attempt, and what a request waits for a token at most.
        pub timeout: Duration = "5s",
        /// How long after an attempt an expired token leads to another.
        pub refetch_after: Duration = "2s",
    }
}

/// The longest time between two attempts; a token that ends before is renewed before.
const REFRESH: Duration = Duration::from_secs(3600);

/// A credential that a header can contain.
struct StaticCredential(SecretText);

impl Content for StaticCredential {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let text = content.trim_ascii_end();
        if !is_field_value(text) {
            return Err("it has a control character, which no header can contain".into());
        }
        SecretText::new(text).map(Self).ok_or_else(|| "it is empty".into())
    }
}

impl PlanSettings for InjectCredentials {
    const NAME: &'static str = "inject_credentials";
    const HELP: &'static str = "Adds a credential to requests, for the service behind.";

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let span = settings.span;
        let credential = match (&self.secret, &self.oauth2) {
            (Some(source), None) => Credential::Static(context.secret(source, "secret")?),
            (None, Some(client)) => oauth2(client, context)?,
            (secret, _) => {
                let message = "`inject_credentials` needs exactly one of `secret` and `oauth2`";
                let finding = context.not_exactly_one(span, secret.is_none(), message);
                finding.help("write `inject_credentials: { secret: { secret: NAME } }`");
                return None;
            }
        };
        let header = self.header.0;
        let prefix = match self.prefix {
            Some(prefix) if !is_field_value(prefix.value.as_bytes()) => {
                let message = "a prefix must not contain control characters";
                context.diags.error("bad-value", prefix.span, context.at.key("prefix"), message);
                return None;
            }
            Some(prefix) => prefix.value,
            None if header == "authorization" => "Bearer ".into(),
            None => String::new(),
        };
        Some(Arc::new(InjectPlan(Arc::new(Injection {
            credential,
            header,
            prefix,
            keep: self.keep,
        }))))
    }
}

fn oauth2(
    client: &Spanned<ClientCredentials>,
    context: &mut CheckContext<'_>,
) -> Option<Credential> {
    let at = context.at.key("oauth2");
    let mut context = context.within(&at);
    let own = &client.value;
    if !own.path.starts_with('/') {
        let message = format!("expected a path that begins with `/`, not `{}`", own.path);
        context.diags.error("bad-value", client.span, at.key("path"), message);
        return None;
    }
    let cluster = context.cluster(&own.cluster, "cluster")?;
    let origin = TokenOrigin {
        cluster,
        path: own.path.clone(),
        host: own.host.clone(),
        client: OauthClient {
            id: own.client_id.clone(),
            secret: Some(context.secret(&own.client_secret, "client_secret")?),
            authentication: own.authentication,
        },
        scopes: own.scopes.clone(),
    };
    let (timeout, refetch_after) = (own.timeout, own.refetch_after);
    let schedule = FetchSchedule { refresh: REFRESH, timeout, refetch_after };
    Some(Credential::Fetched(context.fetch(origin, schedule), timeout))
}

/// Where the credential is from.
#[derive(Debug)]
enum Credential {
    Static(LiveSecret<StaticCredential>),
    /// An attempt to fetch it ends within this time.
    Fetched(Fetched<AccessToken>, Duration),
}

/// What a use of the filter does.
#[derive(Debug)]
struct Injection {
    credential: Credential,
    header: String,
    prefix: String,
    keep: bool,
}

#[derive(Debug)]
struct InjectPlan(Arc<Injection>);

impl HttpFilterPlan for InjectPlan {
    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn HttpFilter> {
        Rc::new(InjectFilter(Arc::clone(&self.0)))
    }
}

struct InjectFilter(Arc<Injection>);

impl fmt::Debug for InjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InjectFilter({})", self.0.header)
    }
}

impl HttpFilter for InjectFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let own = &self.0;
        if own.keep && head.get_named(own.header.as_bytes()).is_some() {
            return HeadStep::Continue;
        }
        // Whatever happens, the value of the client is not taken for ours.
        head.remove(own.header.as_bytes());
        let (token, timeout) = match &own.credential {
            Credential::Static(secret) => {
                own.put(head, secret.current().0.bytes());
                return HeadStep::Continue;
            }
            Credential::Fetched(token, timeout) => (token, *timeout),
        };
        if let Some(usable) = usable(token, cx.worker) {
            own.put(head, usable.text.as_bytes());
            return HeadStep::Continue;
        }
        let renewed = token.renewed(cx.worker, cx.worker.now().after(timeout));
        let this = Arc::clone(own);
        HeadStep::wait(async move {
            renewed.await;
            move |cx: &mut Cx<'_>, head: &mut Head| {
                let Credential::Fetched(token, _) = &this.credential else {
                    return HeadStep::Continue;
                };
                match usable(token, cx.worker) {
                    Some(usable) => {
                        this.put(head, usable.text.as_bytes());
                        HeadStep::Continue
                    }
                    None => {
                        let (why, details) =
                            (reasons::CREDENTIAL_UNAVAILABLE, "credential_unavailable");
                        HeadStep::reply(Reply::new(
                            503,
                            why,
                            details,
                            "the service cannot be used now\n",
                        ))
                    }
                }
            }
        })
    }
}

/// The token, if there is one that has not expired.
fn usable(token: &Fetched<AccessToken>, worker: &WorkerCx) -> Option<Arc<AccessToken>> {
    let current = token.current()?;
    let age = token.age(worker.now()).unwrap_or_default();
    (age < current.lifetime).then_some(current)
}

impl Injection {
    fn put(&self, head: &mut Head, credential: &[u8]) {
        let value = [self.prefix.as_bytes(), credential].concat();
        head.set(self.header.as_bytes(), &value);
    }
}
