//! A login: to the provider, and back with a session.
//!
//! Owns: what a browser is sent to, and what it may come back with. Refuses to know: what a session contains. Keeps: a login
//! ends only in the browser that it began in, once, in time, and with the provider that it began with (RFC 9207, RFC 9700
//! §4.4); it leads to a path of this origin; a browser has a bounded number of logins on their way.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use sluice_codec::{Head, Method};
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_l4::metrics::count_limit;

use super::cookies::SentCookies;
use super::discovery::ProviderMetadata;
use super::flow::{FLOW_LIFETIME, LoginFlow, flow_name};
use super::gate::LoginGate;
use super::provider::{LoginProvider, Site, wall};
use super::refusal::LoginRefusal;
use crate::filters::{Cx, HeadStep};
use crate::form::{self, FormText};
use crate::reasons;
use crate::reply::Reply;

/// The most logins on their way that are looked at in a request.
const LOOKED_AT: usize = 32;

/// A redirect of a login, which no cache keeps.
pub(super) fn redirect(details: &'static str, location: &str) -> Reply {
    Reply::new(303, reasons::LOCAL, details, "")
        .with("location", location)
        .with("cache-control", "no-store")
}

/// Adds `set-cookie`.
pub(super) fn with_cookies(reply: Reply, cookies: Vec<String>) -> Reply {
    cookies.into_iter().fold(reply, |reply, cookie| reply.with("set-cookie", cookie))
}

/// A login that a page asks for: `/login?rd=/path`.
pub(super) fn asked(
    gate: &Rc<LoginGate>,
    provider: &Arc<LoginProvider>,
    cx: &mut Cx<'_>,
    head: &Head,
    sent: SentCookies,
) -> HeadStep {
    if head.method() != Method::Get {
        return gate.refuse(cx.worker, LoginRefusal::Method);
    }
    let return_to = form::parameter(head.query().unwrap_or_default(), "rd").ok().flatten();
    begin(gate, provider, cx, head, sent, return_to.as_deref().unwrap_or("/"))
}

/// Sends a browser to the provider; it comes back to `return_to`.
pub(super) fn begin(
    gate: &Rc<LoginGate>,
    provider: &Arc<LoginProvider>,
    cx: &mut Cx<'_>,
    head: &Head,
    sent: SentCookies,
    return_to: &str,
) -> HeadStep {
    let site = match provider.site(head) {
        Ok(site) => site,
        Err(refusal) => return gate.refuse(cx.worker, refusal),
    };
    let path = return_to.split('?').next().unwrap_or_default();
    // A login that leads to a path of logins would not end.
    let return_to = if gate.guard.path_of(path).is_some() { "/" } else { return_to };
    let flow = LoginFlow::begin(wall(cx.worker), return_to);
    if let Some(metadata) = provider.own.metadata.current() {
        return HeadStep::reply(to_provider(
            gate, provider, cx.worker, &metadata, &site, &flow, &sent,
        ));
    }
    let (this, provider, worker) = (Rc::clone(gate), Arc::clone(provider), Rc::clone(cx.worker));
    HeadStep::wait(async move {
        let metadata = provider.metadata(&worker).await;
        move |cx: &mut Cx<'_>, _: &mut Head| match metadata {
            Ok(metadata) => HeadStep::reply(to_provider(
                &this, &provider, cx.worker, &metadata, &site, &flow, &sent,
            )),
            Err(refusal) => this.refuse(cx.worker, refusal),
        }
    })
}

/// The redirect to the provider.
fn to_provider(
    gate: &LoginGate,
    provider: &LoginProvider,
    worker: &WorkerCx,
    metadata: &ProviderMetadata,
    site: &Site,
    flow: &LoginFlow,
    sent: &SentCookies,
) -> Reply {
    gate.count(worker, "login");
    let own = &provider.own;
    let mut query = FormText::default()
        .with("response_type", "code")
        .with("client_id", &own.client.id)
        .with("redirect_uri", &provider.redirect_uri(site))
        .with("scope", &own.scopes)
        .with("state", &flow.state())
        .with("nonce", &flow.nonce())
        .with("code_challenge", &flow.challenge())
        .with("code_challenge_method", "S256");
    for (name, value) in &own.parameters {
        query = query.with(name, value);
    }
    let location = metadata.authorization.with_query(&query.into_text());
    let cookies = flow_cookies(provider, worker, site, flow, sent);
    with_cookies(redirect("oidc_login", &location), cookies)
}

/// `set-cookie` for a login; removes those that have ended and, at the bound, the oldest.
fn flow_cookies(
    provider: &LoginProvider,
    worker: &WorkerCx,
    site: &Site,
    flow: &LoginFlow,
    sent: &SentCookies,
) -> Vec<String> {
    let (cookies, now) = (&provider.own.cookies, wall(worker));
    let max = worker.limits.size(Limit::OidcFlows);
    let mut live: Vec<(Duration, &str)> = Vec::new();
    let mut gone: Vec<&str> = Vec::new();
    for (name, value) in cookies.flows(sent, site.secure).take(LOOKED_AT) {
        match provider.open_flow(value).filter(|own| own.is_live(now)) {
            Some(own) => live.push((own.began, name)),
            None => gone.push(name),
        }
    }
    live.sort_unstable();
    let over = (live.len() + 1).saturating_sub(max.max(1));
    if over > 0 {
        count_limit(worker, Limit::OidcFlows);
    }
    gone.extend(live.iter().take(over).map(|(_, name)| *name));
    let state = flow.state();
    let name = cookies.flow_cookie(site.secure, flow_name(&state).unwrap_or_default());
    let set = cookies.set(&name, &provider.seal_flow(flow), FLOW_LIFETIME, site.secure);
    let unset = gone.into_iter().filter(|own| *own != name);
    std::iter::once(set).chain(unset.map(|own| cookies.unset(own, site.secure))).collect()
}

/// What a browser comes back with (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProviderAnswer {
    pub(super) state: String,
    pub(super) issuer: Option<String>,
    pub(super) code: Option<String>,
    pub(super) error: Option<String>,
}

impl ProviderAnswer {
    /// Reads a query.
    pub(super) fn parse(query: &str) -> Result<Self, LoginRefusal> {
        let of = |name| form::parameter(query, name).map_err(|_| LoginRefusal::Malformed);
        let state = of("state")?.ok_or(LoginRefusal::Malformed)?;
        Ok(Self { state, issuer: of("iss")?, code: of("code")?, error: of("error")? })
    }

    /// The code, if the provider that was meant has agreed.
    pub(super) fn code(&self, issuer: &str, states_issuer: bool) -> Result<&str, LoginRefusal> {
        match &self.issuer {
            Some(own) if own != issuer => return Err(LoginRefusal::Issuer),
            None if states_issuer => return Err(LoginRefusal::Issuer),
            _ => {}
        }
        match (&self.error, &self.code) {
            (Some(error), _) if matches!(&**error, "server_error" | "temporarily_unavailable") => {
                Err(LoginRefusal::Unavailable)
            }
            (Some(_), _) => Err(LoginRefusal::Denied),
            (None, Some(code)) if !code.is_empty() => Ok(code),
            _ => Err(LoginRefusal::Malformed),
        }
    }
}

/// The login that an answer belongs to, with the name of its cookie.
pub(super) fn flow_of(
    provider: &LoginProvider,
    answer: &ProviderAnswer,
    site: &Site,
    sent: &SentCookies,
    now: Duration,
) -> Result<(LoginFlow, String), LoginRefusal> {
    let cookies = &provider.own.cookies;
    let name = flow_name(&answer.state).ok_or(LoginRefusal::State)?;
    let name = cookies.flow_cookie(site.secure, name);
    let flow = cookies.flow(sent, &name).and_then(|sealed| provider.open_flow(sealed));
    let same = |flow: &LoginFlow| {
        verify_slices_are_equal(flow.state().as_bytes(), answer.state.as_bytes()).is_ok()
    };
    let flow = flow.filter(same).ok_or(LoginRefusal::State)?;
    if flow.is_live(now) { Ok((flow, name)) } else { Err(LoginRefusal::Late) }
}

/// A browser comes back from the provider.
pub(super) fn callback(
    gate: &Rc<LoginGate>,
    provider: &Arc<LoginProvider>,
    cx: &mut Cx<'_>,
    head: &Head,
    sent: SentCookies,
) -> HeadStep {
    if head.method() != Method::Get {
        return gate.refuse(cx.worker, LoginRefusal::Method);
    }
    let found = ProviderAnswer::parse(head.query().unwrap_or_default()).and_then(|answer| {
        let site = provider.site(head)?;
        let (flow, cookie) = flow_of(provider, &answer, &site, &sent, wall(cx.worker))?;
        Ok((answer, site, flow, cookie))
    });
    let (answer, site, flow, cookie) = match found {
        Ok(found) => found,
        Err(refusal) => return gate.refuse(cx.worker, refusal),
    };
    let (this, provider) = (Rc::clone(gate), Arc::clone(provider));
    let (worker, calls) = (Rc::clone(cx.worker), cx.side_calls());
    HeadStep::wait(async move {
        let session = async {
            let metadata = provider.metadata(&worker).await?;
            let code = answer.code(provider.own.issuer.text(), metadata.states_issuer)?;
            provider.redeem(&calls, &worker, &site, &flow, code).await
        };
        let session = session.await;
        move |cx: &mut Cx<'_>, _: &mut Head| {
            // A login ends once, however it ends.
            let ended = provider.own.cookies.unset(&cookie, site.secure);
            let cookies = session
                .and_then(|session| this.cookies_of(cx.worker, &provider, &session, &site, &sent));
            let (reply, cookies) = match cookies {
                Ok(cookies) => {
                    this.count(cx.worker, "logged_in");
                    (redirect("oidc_logged_in", &flow.return_to), cookies)
                }
                Err(refusal) => {
                    this.count(cx.worker, refusal.detail());
                    (refusal.reply(), Vec::new())
                }
            };
            HeadStep::reply(with_cookies(reply, cookies).with("set-cookie", ended))
        }
    })
}
