//! What filters name in their settings.
//!
//! Owns: the look-up of clusters and routes on behalf of filters, and which clusters they may ask. Refuses to know: what
//! they ask for. Keeps: a cluster that a filter may ask counts as used, and as reached by the listener of the filter.

use std::sync::Arc;

use sluice_core::{Diags, Name, Node, Path, Spanned};
use sluice_io::ConnectionFilterPlan;
use sluice_l4::filters::{CheckContext, FilterFactory, FilterNames, FilterOwner};
use sluice_upstream::Cluster;

use super::Compiler;
use crate::model::{FilterConfig, Kind};

/// The names that filters of one resource may use.
struct NamesOfResource<'a, 'b>(&'a Compiler<'b>);

impl NamesOfResource<'_, '_> {
    fn exists(&self, kind: Kind, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> bool {
        let Some((message, help)) = self.0.others.why_unknown(kind, &name.value) else {
            return true;
        };
        diags.error("unknown-name", name.span, at, message).help(help);
        false
    }
}

impl FilterNames for NamesOfResource<'_, '_> {
    fn cluster(
        &mut self,
        _owner: FilterOwner<'_>,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<Cluster>> {
        if !self.exists(Kind::Cluster, name, at, diags) {
            return None;
        }
        self.0.asked.borrow_mut().insert(Arc::clone(&name.value));
        Some(self.0.around.clusters.reference(&name.value))
    }

    fn routes(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> bool {
        self.exists(Kind::Routes, name, at, diags)
    }
}

/// Reports filters of bytes where nothing passes bytes through them.
pub(super) fn only_for_relays(
    uses: &[FilterConfig],
    plans: Option<&[Arc<dyn ConnectionFilterPlan>]>,
    list: &Path<'_>,
    diags: &mut Diags,
) {
    let plans = plans.unwrap_or_default().iter().enumerate();
    for (index, _) in plans.filter(|(_, plan)| plan.filters_bytes()) {
        let name = &uses[index].name;
        let message = format!("the filter `{name}` changes bytes, which only a relay moves");
        let here = list.index(index);
        diags
            .error("wrong-kind", None, here.key(name), message)
            .on_key()
            .help("use it on chains with `relay`");
    }
}

impl Compiler<'_> {
    /// Checks one use of a filter.
    pub(super) fn checked<P: ?Sized>(
        &self,
        factory: &dyn FilterFactory<P>,
        settings: &Node,
        owner: FilterOwner<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<P>> {
        let mut names = NamesOfResource(self);
        factory.check(settings, &mut CheckContext::new(at, owner, diags, &mut names))
    }
}

#[cfg(test)]
mod tests;
