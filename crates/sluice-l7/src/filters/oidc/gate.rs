//! What requests are judged with on a worker.
//!
//! Owns: what the steps of a login, of a session and of a logout have in common: how a session is read and written, and how
//! a request is refused. Refuses to know: which of them a request is. Keeps: every refusal is counted; a session is read and
//! written within its limit.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_l4::metrics::count_limit;
use sluice_telemetry::CounterSet;

use super::LoginGuard;
use super::cookies::SentCookies;
use super::introspection::IntrospectedTokens;
use super::provider::{LoginProvider, Site, wall};
use super::refusal::LoginRefusal;
use super::renewals::Renewals;
use super::session::LoginSession;
use crate::filters::HeadStep;
use crate::metrics::OIDC_RESULTS;

/// What requests are judged with. Shared with those that wait.
pub(super) struct LoginGate {
    pub(super) guard: Arc<LoginGuard>,
    pub(super) renewals: Rc<Renewals>,
    pub(super) tokens: Rc<IntrospectedTokens>,
    results: CounterSet<&'static str>,
}

impl LoginGate {
    pub(super) fn new(guard: Arc<LoginGuard>, worker: &Rc<WorkerCx>) -> Rc<Self> {
        let renewals = worker.local(Renewals::default);
        let (tokens, results) = (IntrospectedTokens::of(worker), CounterSet::default());
        Rc::new(Self { guard, renewals, tokens, results })
    }

    /// The session that a request has sent, if it may still last.
    pub(super) fn session(
        &self,
        worker: &WorkerCx,
        provider: &LoginProvider,
        head: &Head,
        sent: &SentCookies,
    ) -> Option<(LoginSession, Site)> {
        let site = provider.site(head).ok()?;
        let bytes_max = worker.limits.size(Limit::OidcSession);
        let sealed = provider.own.cookies.session(sent, site.secure, bytes_max)?;
        let session = provider.open_session(&sealed)?;
        let lasts = !provider.age_left(&session, wall(worker)).is_zero();
        lasts.then_some((session, site))
    }

    /// `set-cookie` for a session.
    pub(super) fn cookies_of(
        &self,
        worker: &WorkerCx,
        provider: &LoginProvider,
        session: &LoginSession,
        site: &Site,
        sent: &SentCookies,
    ) -> Result<Vec<String>, LoginRefusal> {
        let sealed = provider.seal_session(session);
        if sealed.len() > worker.limits.size(Limit::OidcSession) {
            count_limit(worker, Limit::OidcSession);
            return Err(LoginRefusal::TooLarge);
        }
        let age: Duration = provider.age_left(session, wall(worker));
        Ok(provider.own.cookies.set_session(&sealed, age, site.secure, sent))
    }

    pub(super) fn refuse(&self, worker: &WorkerCx, refusal: LoginRefusal) -> HeadStep {
        self.count(worker, refusal.detail());
        HeadStep::reply(refusal.reply())
    }

    pub(super) fn count(&self, worker: &WorkerCx, result: &'static str) {
        self.results.count(&result, |result| worker.shard.counter(&OIDC_RESULTS, &[result]));
    }
}
