//! The filter on a worker: from the session of a request to its identity.
//!
//! Owns: whether a request passes, waits for the provider, or leads to a login. Refuses to know: how a login goes. Keeps:
//! nothing waits without a bound; a session whose tokens have ended does not pass, unless they are renewed; the provider's
//! absence is an error, not a reason to log in again.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Head, Known};
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;

use super::LoginGuard;
use super::accepted::{AcceptedLogin, HELD, bearer_source};
use super::cookies::SentCookies;
use super::gate::LoginGate;
use super::introspection::{Introspected, introspect, opaque_token};
use super::provider::{LoginPath, LoginProvider, Site, claims_of, wall};
use super::refusal::LoginRefusal;
use super::renewals::Renewed;
use super::session::LoginSession;
use super::{login, logout};
use crate::filters::{Cx, HeadStep, HttpFilter, ResponseStep};
use crate::identity::WHO;
use crate::json::Json;

/// The filter.
pub(super) struct OidcFilter(Rc<LoginGate>);

impl fmt::Debug for OidcFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OidcFilter({:?})", self.0.guard.provider)
    }
}

/// Cookies that the response of a request sets.
struct NewCookies(Vec<String>);

impl OidcFilter {
    pub(super) fn new(guard: Arc<LoginGuard>, worker: &Rc<WorkerCx>) -> Self {
        Self(LoginGate::new(guard, worker))
    }
}

impl HttpFilter for OidcFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let gate = &self.0;
        // What an earlier run of this filter has put there is put there again.
        for name in &gate.guard.claim_headers {
            head.remove(name.as_bytes());
        }
        let cookies = gate.guard.providers.iter().map(|own| &own.own.cookies);
        let mut sent = SentCookies::take(head, cookies);
        if let Some(earlier) = cx.values.get(&HELD) {
            sent.extend(earlier);
        }
        if !sent.is_empty() {
            cx.values.set(&HELD, sent.clone());
        }
        let path = head.path_only();
        match gate.guard.path_of(path) {
            Some((provider, LoginPath::Callback)) => {
                login::callback(gate, provider, cx, head, sent)
            }
            Some((provider, LoginPath::Login)) => login::asked(gate, provider, cx, head, sent),
            Some((provider, LoginPath::Logout)) => logout::logout(gate, provider, cx, head, sent),
            None => gate.decide(cx, head, sent),
        }
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let new = cx.state.take().and_then(|state| state.downcast::<NewCookies>().ok());
        if let Some(new) = new {
            for cookie in &new.0 {
                head.append_known(Known::SetCookie, cookie.as_bytes());
            }
            // No cache may give the session of one to others.
            head.set(b"cache-control", b"no-store");
        }
        ResponseStep::Continue
    }
}

impl LoginGate {
    /// Judges a request.
    fn decide(self: &Rc<Self>, cx: &mut Cx<'_>, head: &mut Head, sent: SentCookies) -> HeadStep {
        let Some(provider) = self.guard.chosen().cloned() else {
            return self.refuse(cx.worker, LoginRefusal::Provider);
        };
        if let Some(login) = AcceptedLogin::of(cx.values)
            && login.provider.id == provider.id
        {
            login.write(head);
            return HeadStep::Continue;
        }
        let passes = self.guard.passes(head);
        if provider.own.introspection.is_some() && !passes {
            let mut tokens = Vec::new();
            bearer_source().each(head, |token| tokens.push(token.to_vec()));
            match tokens.as_slice() {
                [] => {}
                [token] => return self.judge_token(cx, head, provider, token),
                _ => return self.refuse(cx.worker, LoginRefusal::Inactive),
            }
        }
        let now = wall(cx.worker);
        match self.session(cx.worker, &provider, head, &sent) {
            Some((session, _)) if now < session.renew_at => {
                self.admit_session(cx, head, &provider, &session, "session")
            }
            Some((session, site)) if session.refresh_token.is_some() && !passes => {
                self.renew(cx, provider, session, site, sent)
            }
            Some((session, _)) if now < session.until => {
                self.admit_session(cx, head, &provider, &session, "session")
            }
            _ => self.without_session(cx, head, &provider, sent),
        }
    }

    /// What becomes of a request that has no session.
    fn without_session(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        head: &Head,
        provider: &Arc<LoginProvider>,
        sent: SentCookies,
    ) -> HeadStep {
        if self.guard.passes(head) || self.guard.allow_missing {
            return HeadStep::Continue;
        }
        if !self.guard.may_log_in(head) {
            return self.refuse(cx.worker, LoginRefusal::Missing);
        }
        login::begin(self, provider, cx, head, sent, head.path())
    }

    /// Lets a request with a session pass.
    fn admit_session(
        &self,
        cx: &mut Cx<'_>,
        head: &mut Head,
        provider: &Arc<LoginProvider>,
        session: &LoginSession,
        result: &'static str,
    ) -> HeadStep {
        let payload = session.payload();
        let claims = claims_of(payload).unwrap_or(Json::Null);
        let token = session.access_token.clone();
        self.admit(cx, head, AcceptedLogin::new(provider, claims, payload, token), result)
    }

    /// Gives a request what its login says.
    fn admit(
        &self,
        cx: &mut Cx<'_>,
        head: &mut Head,
        login: Result<(AcceptedLogin, Option<Arc<crate::identity::Identity>>), LoginRefusal>,
        result: &'static str,
    ) -> HeadStep {
        let (login, who) = match login {
            Ok(login) => login,
            Err(refusal) => return self.refuse(cx.worker, refusal),
        };
        self.count(cx.worker, result);
        login.write(head);
        if let Some(who) = who {
            cx.values.set(&WHO, who);
        }
        login.share(cx.values);
        // Rules may match what is known now.
        cx.reroute();
        HeadStep::Continue
    }

    /// Waits for newer tokens.
    fn renew(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        provider: Arc<LoginProvider>,
        session: LoginSession,
        site: Site,
        sent: SentCookies,
    ) -> HeadStep {
        let calls = cx.side_calls();
        let renewed = self.renewals.renewed(&provider, &session, calls, cx.worker);
        let this = Rc::clone(self);
        HeadStep::wait(async move {
            let renewed = renewed.await;
            move |cx: &mut Cx<'_>, head: &mut Head| {
                this.resume(cx, head, &provider, &session, &site, sent, renewed)
            }
        })
    }

    /// Judges a request whose tokens were to be renewed.
    #[allow(
        clippy::too_many_arguments,
        reason = "what the request was judged with before it waited"
    )]
    fn resume(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        head: &mut Head,
        provider: &Arc<LoginProvider>,
        before: &LoginSession,
        site: &Site,
        sent: SentCookies,
        renewed: Renewed,
    ) -> HeadStep {
        use LoginRefusal as R;
        let now = wall(cx.worker);
        match renewed {
            Ok(session) => match self.cookies_of(cx.worker, provider, &session, site, &sent) {
                Ok(cookies) => {
                    *cx.state = Some(Box::new(NewCookies(cookies)));
                    self.admit_session(cx, head, provider, &session, "renewed")
                }
                Err(refusal) => self.refuse(cx.worker, refusal),
            },
            Err(refusal @ (R::Unavailable | R::NotDiscovered | R::Client | R::Busy)) => {
                if now < before.until {
                    return self.admit_session(cx, head, provider, before, "session");
                }
                self.refuse(cx.worker, refusal)
            }
            Err(refusal) => {
                self.count(cx.worker, refusal.detail());
                self.without_session(cx, head, provider, sent)
            }
        }
    }

    /// Judges a request with an opaque token.
    fn judge_token(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        head: &mut Head,
        provider: Arc<LoginProvider>,
        token: &[u8],
    ) -> HeadStep {
        let token = match opaque_token(token, cx.worker.limits.size(Limit::JwtBytes)) {
            Ok(token) => Box::<str>::from(token),
            Err(refusal) => return self.refuse(cx.worker, refusal),
        };
        if let Some(known) = self.tokens.get(&provider, &token, wall(cx.worker)) {
            return self.admit_token(cx, head, &provider, &known, "known");
        }
        let (calls, worker, this) = (cx.side_calls(), Rc::clone(cx.worker), Rc::clone(self));
        HeadStep::wait(async move {
            let known = introspect(&provider, &calls, &worker, &token).await;
            move |cx: &mut Cx<'_>, head: &mut Head| match known {
                Ok(known) => this.admit_token(cx, head, &provider, &known, "introspected"),
                Err(refusal) => this.refuse(cx.worker, refusal),
            }
        })
    }

    fn admit_token(
        &self,
        cx: &mut Cx<'_>,
        head: &mut Head,
        provider: &Arc<LoginProvider>,
        known: &Introspected,
        result: &'static str,
    ) -> HeadStep {
        let payload = data_encoding::BASE64URL_NOPAD.encode(known.claims.to_string().as_bytes());
        if !provider.own.passing.forward {
            bearer_source().remove(head);
        }
        let login = AcceptedLogin::new(provider, known.claims.clone(), &payload, None);
        self.admit(cx, head, login, result)
    }
}
