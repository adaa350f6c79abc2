//! The plans of clusters.

use std::sync::Arc;

use sluice_core::{Diags, Name, Path};
use sluice_upstream::ClusterPlan;

use super::Compiler;
use crate::model::Cluster;

impl Compiler<'_> {
    pub(crate) fn cluster(
        &self,
        name: &Name,
        cluster: &Cluster,
        diags: &mut Diags,
    ) -> Option<Arc<ClusterPlan>> {
        let tls = match &cluster.tls {
            None => None,
            Some(tls) => Some(self.client_tls(tls, &Path::ROOT.key("tls"), diags)?),
        };
        let (name, settings) = (Arc::clone(name), Arc::clone(&cluster.settings));
        Some(Arc::new(ClusterPlan { name, settings, tls }))
    }
}
