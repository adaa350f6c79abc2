//! The plan of HTTP on a chain.

use std::sync::Arc;

use sluice_core::{Diags, Name, Path};
use sluice_l4::filters::{FilterOwner, check_key};
use sluice_l7::HttpPlan;
use sluice_l7::client_auth::OwnClientAuth;
use sluice_l7::filters::HttpFilterPlan;

use super::{Compiler, FilteredChain, unknown_filter};
use crate::model::FilterConfig;
use crate::model::listener::Http;

/// The chain that HTTP is served on.
pub(super) struct HttpContext<'a> {
    pub(super) listener: &'a Name,
    pub(super) chain: &'a Name,
    /// Which hosts of the listener require other client authentication.
    pub(super) client_auth: Option<&'a OwnClientAuth>,
}

impl Compiler<'_> {
    pub(super) fn http(
        &self,
        http: &Http,
        context: &HttpContext<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<HttpPlan> {
        let of_chain = FilterOwner::Chain { listener: context.listener, chain: context.chain };
        let filters = self.filters_of_http(&http.filters, of_chain, &at.key("filters"), diags)?;
        let owner: Name = format!("{}/{}", context.listener, context.chain).into();
        self.chains.borrow_mut().push(FilteredChain {
            owner: Arc::clone(&owner),
            routes: Arc::clone(&http.routes),
            filters: filters.clone(),
        });
        Some(HttpPlan {
            listener: Arc::clone(context.listener),
            owner,
            routes: self.around.routes.reference(&http.routes),
            filters,
            runtime: Arc::clone(&self.around.runtime),
            client_auth: context.client_auth.cloned(),
            options: http.options.clone(),
        })
    }

    fn filters_of_http(
        &self,
        uses: &[FilterConfig],
        owner: FilterOwner<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Vec<(Name, Arc<dyn HttpFilterPlan>)>> {
        let filters = &self.around.http_filters;
        let mut plans: Option<Vec<(Name, Arc<dyn HttpFilterPlan>)>> = Some(Vec::new());
        for (index, FilterConfig { name, settings }) in uses.iter().enumerate() {
            let at = at.index(index);
            let here = at.key(name);
            let Some(factory) = filters.get(name) else {
                let known: Vec<&str> = filters.iter().map(|factory| factory.name()).collect();
                unknown_filter("HTTP filter", name, &known, &here, diags);
                plans = None;
                continue;
            };
            let before = uses.iter().take(index).map(|of| &*of.name);
            if check_key(name, before, &here, diags).is_none() {
                plans = None;
                continue;
            }
            let plan = self.checked(&**factory, settings, owner, &here, diags);
            if plan.as_ref().is_some_and(|plan| plan.says_replace()) {
                let message = "`replace` has nothing to replace in the settings of a chain";
                diags
                    .error("wrong-kind", None, here.key("replace"), message)
                    .help("use `replace: true` only in the `filters` of a rule or virtual host");
                plans = None;
                continue;
            }
            match (plan, &mut plans) {
                (Some(plan), Some(all)) => {
                    if let Some((guard, _)) =
                        all.iter().find(|(_, before)| before.is_guard() && !before.judges_target())
                        && plan.edits_target()
                    {
                        let message = format!(
                            "`{name}` may change what a request asks for after `{guard}` has judged it"
                        );
                        diags
                            .warning("edit-after-guard", None, here, message)
                            .on_key()
                            .help(format!("move it before `{guard}`"));
                    }
                    let keys = plan.runtime_keys().into_iter();
                    let keys = keys.map(|(key, kind)| (key.to_owned(), kind));
                    self.runtime_keys.borrow_mut().extend(keys);
                    all.push((name.as_str().into(), plan));
                }
                _ => plans = None,
            }
        }
        plans
    }
}
