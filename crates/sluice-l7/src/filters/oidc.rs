//! `oidc`: browsers log in at a provider before their requests pass (OpenID Connect Core 1.0, RFC 6749, RFC 7636, RFC 9700).
//!
//! Owns: which provider a request needs a login at, and which requests need none. Refuses to know: how a login goes, and
//! what a session contains. Keeps: a request without a session gets no further, whatever fails; no header that carries
//! claims, and no cookie of a login, passes from a client to an endpoint.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Head, Known};
use sluice_core::{Name, Node, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::FilterOwner;

use super::{CheckContext, HttpFilter, HttpFilterPlan, PlanSettings};
use crate::hygiene;
use crate::path_match::PathMatch;

mod accepted;
pub mod cookies;
pub mod discovery;
mod filter;
pub mod flow;
mod gate;
mod introspection;
mod login;
mod logout;
mod provider;
pub mod refusal;
mod renewals;
pub mod seal;
pub mod session;
pub mod settings;
pub mod tokens;

use provider::{LoginPath, LoginProvider};
use settings::Oidc;

impl PlanSettings for Oidc {
    const NAME: &'static str = "oidc";
    const HELP: &'static str = "Browsers log in with OpenID Connect before their requests pass.";

    fn values() -> &'static [ValueDef] {
        accepted::VALUES
    }

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let providers = settings::providers(&self, context)?;
        let span = settings.span;
        let named: Vec<&Name> = self.providers.names().collect();
        if named.is_empty() && !matches!(context.owner, FilterOwner::Routes(_)) {
            let message = "`oidc` needs the providers that users log in at";
            context.diags.error("missing-field", span, context.at.key("providers"), message);
            return None;
        }
        let at = context.at.key("provider");
        match &self.provider {
            Some(chosen) if !named.is_empty() && !named.contains(&&chosen.value) => {
                let message = format!("there is no provider `{}`", chosen.value);
                context.diags.error("unknown-name", chosen.span, at, message);
                return None;
            }
            None if named.len() > 1 => {
                let message =
                    "there are several providers, and it is not clear which one to log in at";
                let finding = context.diags.error("missing-field", span, at, message);
                finding.help(format!("write `provider: {}`; rules may name another one", named[0]));
                return None;
            }
            _ => {}
        }
        Some(Arc::new(OidcPlan(Arc::new(LoginGuard::new(self, providers)))))
    }
}

/// What a use of the filter asks for.
#[derive(Debug)]
struct LoginGuard {
    /// Empty if they are those of the settings around it.
    providers: Vec<Arc<LoginProvider>>,
    /// The one that users log in at; the only one if it is not named.
    provider: Option<Name>,
    pass: Vec<PathMatch>,
    api: Vec<PathMatch>,
    allow_missing: bool,
    /// The headers that only claims may be in.
    claim_headers: Vec<String>,
}

impl LoginGuard {
    fn new(settings: Oidc, providers: Vec<Arc<LoginProvider>>) -> Self {
        let Oidc { provider, pass, api, allow_missing, .. } = settings;
        let provider = provider.map(|provider| provider.value);
        let paths = |all: Vec<crate::path_value::PathValue>| all.into_iter().map(|path| path.0);
        let (pass, api) = (paths(pass).collect(), paths(api).collect());
        let claim_headers = Vec::new();
        Self { providers, provider, pass, api, allow_missing, claim_headers }.complete()
    }

    fn complete(mut self) -> Self {
        let names = self.providers.iter().flat_map(|own| own.own.passing.header_names());
        self.claim_headers = names.map(str::to_owned).collect();
        self
    }

    /// The provider that users log in at.
    fn chosen(&self) -> Option<&Arc<LoginProvider>> {
        match &self.provider {
            Some(name) => self.providers.iter().find(|own| own.own.name == *name),
            None => self.providers.first().filter(|_| self.providers.len() == 1),
        }
    }

    /// The path of a login, and whose it is.
    fn path_of(&self, path: &str) -> Option<(&Arc<LoginProvider>, LoginPath)> {
        self.providers.iter().find_map(|own| Some((own, own.path_of(path)?)))
    }

    /// Whether a request passes without a session: by its path, in every way that a server may read it.
    fn passes(&self, head: &Head) -> bool {
        let fits = |path: &str| self.pass.iter().any(|own| own.fits(path));
        let path = head.path_only();
        let next = |path: &String| hygiene::lenient(path);
        fits(path)
            && std::iter::successors(hygiene::lenient(path), next).take(4).all(|read| fits(&read))
    }

    /// Whether the client of a request without a session is a browser that shows what it gets, so that it can be sent to
    /// the provider.
    fn may_log_in(&self, head: &Head) -> bool {
        let method = matches!(head.method_text(), "GET" | "HEAD");
        let field = |name: &[u8]| head.get_named(name);
        let navigates = field(b"sec-fetch-mode").is_none_or(|mode| mode == b"navigate");
        let script = field(b"x-requested-with")
            .is_some_and(|own| own.eq_ignore_ascii_case(b"xmlhttprequest"));
        let wants_page = head
            .values(b"accept")
            .any(|own| own.to_ascii_lowercase().windows(9).any(|part| part == b"text/html"));
        let api = self.api.iter().any(|own| own.fits(head.path_only()));
        let upgrades = head.upgrade().is_some() || head.get(Known::Upgrade).is_some();
        method && navigates && !script && wants_page && !api && !upgrades
    }
}

#[derive(Debug)]
struct OidcPlan(Arc<LoginGuard>);

impl HttpFilterPlan for OidcPlan {
    /// Settings without providers have those around them.
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        if !self.0.providers.is_empty() {
            return None;
        }
        let under: &dyn Any = under;
        let under = &under.downcast_ref::<Self>()?.0;
        let LoginGuard { provider, pass, api, allow_missing, .. } = &*self.0;
        let guard = LoginGuard {
            providers: under.providers.clone(),
            provider: provider.clone().or_else(|| under.provider.clone()),
            pass: pass.clone(),
            api: api.clone(),
            allow_missing: *allow_missing,
            claim_headers: Vec::new(),
        };
        Some(Arc::new(Self(Arc::new(guard.complete()))))
    }

    fn lacks(&self) -> Option<String> {
        match (&self.0.provider, self.0.chosen()) {
            (_, Some(_)) => None,
            (Some(name), None) => Some(format!("the provider `{name}`")),
            (None, None) => Some("`providers`".to_owned()),
        }
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn judges_target(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(filter::OidcFilter::new(Arc::clone(&self.0), worker))
    }
}

#[cfg(test)]
mod tests;
