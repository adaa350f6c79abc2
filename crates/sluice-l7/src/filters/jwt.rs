//! `jwt`: only requests with a valid JSON Web Token pass (RFC 7519, RFC 6750, RFC 8725).
//!
//! Owns: whose token a request needs, and what it gets of the claims. Refuses to know: how keys are fetched. Keeps: a
//! request without what is required gets no further, whatever fails; no header that carries claims is from a client; a
//! key that is not known leads to one attempt to fetch it, however many requests ask.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{Node, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::FilterOwner;

use super::credentials::check_realm;
use super::{CheckContext, HttpFilter, HttpFilterPlan, PlanSettings};

mod cache;
pub mod claims;
mod filter;
pub mod keys;
pub(super) mod provider;
pub mod settings;
pub mod token;
mod verified;

use provider::Provider;
use settings::{Jwt, TokenRequirement};

impl PlanSettings for Jwt {
    const NAME: &'static str = "jwt";
    const HELP: &'static str = "Only requests with a valid token (JWT) pass.";

    fn values() -> &'static [ValueDef] {
        claims::VALUES
    }

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let span = settings.span;
        check_realm(&self.realm, context)?;
        let mut providers = Some(Vec::new());
        let here = context.at.key("providers");
        for (name, own) in self.providers.iter() {
            let at = here.key(name);
            let provider = settings::provider(name, own, &mut context.within(&at));
            providers = providers.zip(provider).map(|(all, one)| [all, vec![one]].concat());
        }
        let providers = providers?;
        let inherits = self.providers.names().next().is_none();
        if inherits && !matches!(context.owner, FilterOwner::Routes(_)) {
            let message = "`jwt` needs the providers whose tokens it accepts";
            context.diags.error("missing-field", span, here, message);
            return None;
        }
        if let Some(require) = &self.require
            && !inherits
        {
            let mut unknown = None;
            require.value.names(&mut |name| {
                if self.providers.names().all(|own| own != name) {
                    unknown = Some(name);
                }
            });
            if let Some(name) = unknown {
                let message = format!("there is no provider `{name}`");
                context.diags.error(
                    "unknown-name",
                    require.span,
                    context.at.key("require"),
                    message,
                );
                return None;
            }
        }
        Some(Arc::new(JwtPlan(Arc::new(Guard::new(self, providers)))))
    }
}

/// What a use of the filter asks for.
#[derive(Debug)]
struct Guard {
    /// Empty if they are those of the settings around it.
    providers: Vec<Arc<Provider>>,
    require: Option<TokenRequirement>,
    allow_missing: bool,
    allow_invalid: bool,
    realm: String,
    /// The headers that only claims may be in.
    claim_headers: Vec<String>,
}

impl Guard {
    fn new(settings: Jwt, providers: Vec<Arc<Provider>>) -> Self {
        let Jwt { require, allow_missing, allow_invalid, realm, .. } = settings;
        let require = require.map(|require| require.value);
        let (realm, claim_headers) = (realm.value, Vec::new());
        Self { providers, require, allow_missing, allow_invalid, realm, claim_headers }.complete()
    }

    fn complete(mut self) -> Self {
        let names = self.providers.iter().flat_map(|provider| provider.passing.header_names());
        self.claim_headers = names.map(str::to_owned).collect();
        self
    }

    /// The requirement by which requests are judged.
    fn requirement(&self) -> TokenRequirement {
        let all = || self.providers.iter().map(|own| TokenRequirement::Provider(own.name.clone()));
        self.require.clone().unwrap_or_else(|| TokenRequirement::Any(all().collect()))
    }
}

#[derive(Debug)]
struct JwtPlan(Arc<Guard>);

impl HttpFilterPlan for JwtPlan {
    /// Settings without providers have those around them.
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        if !self.0.providers.is_empty() {
            return None;
        }
        let under: &dyn Any = under;
        let Guard { require, allow_missing, allow_invalid, realm, .. } = &*self.0;
        let guard = Guard {
            providers: under.downcast_ref::<Self>()?.0.providers.clone(),
            require: require.clone(),
            allow_missing: *allow_missing,
            allow_invalid: *allow_invalid,
            realm: realm.clone(),
            claim_headers: Vec::new(),
        };
        Some(Arc::new(Self(Arc::new(guard.complete()))))
    }

    fn lacks(&self) -> Option<String> {
        let providers = &self.0.providers;
        if providers.is_empty() {
            return Some("`providers`".to_owned());
        }
        let mut unknown = None;
        self.0.requirement().names(&mut |name| {
            if providers.iter().all(|own| own.name != *name) {
                unknown.get_or_insert_with(|| format!("the provider `{name}`"));
            }
        });
        unknown
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(filter::JwtFilter::new(Arc::clone(&self.0), worker))
    }
}
