//! A logout: here, and at the provider (OpenID Connect RP-Initiated Logout 1.0).
//!
//! Owns: what ends, and where the browser goes. Refuses to know: logins. Keeps: the session ends here whether or not the
//! provider can be asked; a page of another site cannot end it.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Head, Method};

use super::cookies::SentCookies;
use super::discovery::ProviderMetadata;
use super::gate::LoginGate;
use super::login::{redirect, with_cookies};
use super::provider::{LoginProvider, Site};
use super::refusal::LoginRefusal;
use super::session::LoginSession;
use crate::filters::{Cx, HeadStep};
use crate::form::FormText;
use crate::reasons;
use crate::reply::Reply;

/// Ends the session of a browser.
pub(super) fn logout(
    gate: &Rc<LoginGate>,
    provider: &Arc<LoginProvider>,
    cx: &mut Cx<'_>,
    head: &Head,
    sent: SentCookies,
) -> HeadStep {
    if !matches!(head.method(), Method::Get | Method::Post) {
        return gate.refuse(cx.worker, LoginRefusal::Method);
    }
    if head.get_named(b"sec-fetch-site") == Some(b"cross-site") {
        return gate.refuse(cx.worker, LoginRefusal::CrossSite);
    }
    let site = match provider.site(head) {
        Ok(site) => site,
        Err(refusal) => return gate.refuse(cx.worker, refusal),
    };
    let session = gate.session(cx.worker, provider, head, &sent).map(|(session, _)| session);
    let (this, provider, worker) = (Rc::clone(gate), Arc::clone(provider), Rc::clone(cx.worker));
    HeadStep::wait(async move {
        let metadata = provider.metadata(&worker).await.ok();
        move |cx: &mut Cx<'_>, _: &mut Head| {
            this.count(cx.worker, "logged_out");
            let reply = next_page(&provider, metadata.as_deref(), session.as_ref(), &site);
            let cookies = provider.own.cookies.unset_session(&sent, site.secure, 0);
            HeadStep::reply(with_cookies(reply, cookies))
        }
    })
}

/// Where the browser goes: to the provider, which ends its own session, or to the path that is set.
fn next_page(
    provider: &LoginProvider,
    metadata: Option<&ProviderMetadata>,
    session: Option<&LoginSession>,
    site: &Site,
) -> Reply {
    let own = &provider.own;
    let end = metadata.and_then(|metadata| metadata.end_session.as_ref());
    match (end, &own.after_logout) {
        (Some(end), after) => {
            let mut query = FormText::default().with("client_id", &own.client.id);
            if let Some(session) = session {
                query = query.with("id_token_hint", &session.id_token);
            }
            if let Some(after) = after {
                let uri = format!("{}{after}", site.origin);
                query = query.with("post_logout_redirect_uri", &uri);
            }
            redirect("oidc_logged_out", &end.with_query(&query.into_text()))
        }
        (None, Some(after)) => redirect("oidc_logged_out", after),
        (None, None) => Reply::new(200, reasons::LOCAL, "oidc_logged_out", "you are logged out\n")
            .with("cache-control", "no-store"),
    }
}
