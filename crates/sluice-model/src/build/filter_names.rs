//! What filters name in their settings.
//!
//! Owns: the look-up of clusters and routes on behalf of filters, and which clusters they may ask. Refuses to know: what
//! they ask for. Keeps: a cluster that a filter may ask counts as used, and as reached by the listener of the filter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_core::settings::suggest_word;
use sluice_core::{Diags, Name, Node, Path, Spanned};
use sluice_io::ConnectionFilterPlan;
use sluice_l4::filters::{CheckContext, FilterFactory, FilterNames, FilterOwner};
use sluice_upstream::Cluster;

use super::Build;
use super::clusters::ClusterMap;
use super::routes::{known, unknown_cluster};
use crate::check::https_of;
use crate::sections::{Config, FilterUse, Listener};

/// The clusters that filters may ask.
#[derive(Clone, Debug, Default)]
pub struct AskedClusters {
    by_listener: BTreeMap<Name, BTreeSet<Name>>,
    by_routes: BTreeMap<Name, BTreeSet<Name>>,
}

impl AskedClusters {
    /// Every cluster that a filter may ask.
    pub fn all(&self) -> impl Iterator<Item = &Name> {
        self.by_listener.values().chain(self.by_routes.values()).flatten()
    }

    /// The clusters that the filters of a listener, of its chains and of their routes may ask.
    pub fn of(&self, listener: &Listener) -> impl Iterator<Item = &Name> {
        let own = self.by_listener.get(&listener.name.value);
        let routed = https_of(listener).filter_map(|http| self.by_routes.get(&http.routes.value));
        own.into_iter().chain(routed).flatten()
    }

    fn note(&mut self, owner: FilterOwner<'_>, cluster: &Name) {
        let (owners, owner) = match owner {
            FilterOwner::Listener(listener) | FilterOwner::Chain { listener, .. } => {
                (&mut self.by_listener, listener)
            }
            FilterOwner::Routes(routes) => (&mut self.by_routes, routes),
        };
        owners.entry(owner.into()).or_default().insert(Arc::clone(cluster));
    }
}

/// The names in a configuration.
struct NamesInConfig<'a> {
    config: &'a Config,
    clusters: &'a ClusterMap,
    asked: &'a mut AskedClusters,
}

impl FilterNames for NamesInConfig<'_> {
    fn cluster(
        &mut self,
        owner: FilterOwner<'_>,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<Cluster>> {
        let Some((_, cluster)) = self.clusters.get(&name.value) else {
            unknown_cluster(self.config, name, at, diags);
            return None;
        };
        self.asked.note(owner, &name.value);
        Some(Arc::clone(cluster))
    }

    fn routes(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> bool {
        let names: Vec<&str> = self.config.routes.names().map(|name| &**name).collect();
        if names.contains(&&*name.value) {
            return true;
        }
        let help = suggest_word(&name.value, &names)
            .unwrap_or_else(|| known("add them under `routes`; known routes", &names));
        let message = format!("there are no routes named `{}`", name.value);
        diags.error("unknown-name", name.span, at, message).help(help);
        false
    }
}

/// Reports filters of bytes where nothing passes bytes through them.
pub(super) fn only_for_relays(
    uses: &[FilterUse],
    plans: Option<&[Arc<dyn ConnectionFilterPlan>]>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let list = at.key("filters");
    let plans = plans.unwrap_or_default().iter().enumerate();
    for (index, _) in plans.filter(|(_, plan)| plan.filters_bytes()) {
        let name = &uses[index].name;
        let message =
            format!("the filter `{}` changes bytes, which only a relay moves", name.value);
        let here = list.index(index);
        diags
            .error("wrong-kind", name.span, here.key(name), message)
            .help("use it on chains with `relay`");
    }
}

impl Build<'_> {
    /// Checks one use of a filter.
    pub(super) fn checked<P: ?Sized>(
        &self,
        factory: &dyn FilterFactory<P>,
        settings: &Node,
        owner: FilterOwner<'_>,
        (config, clusters): (&Config, &ClusterMap),
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<P>> {
        let mut asked = self.asked.borrow_mut();
        let mut names = NamesInConfig { config, clusters, asked: &mut asked };
        factory.check(settings, &mut CheckContext::new(at, owner, diags, &mut names))
    }
}
