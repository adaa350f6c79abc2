//! Clusters and their endpoints.

use std::sync::Arc;

use sluice_core::Path;
use sluice_upstream::plan::{ClusterSettings, EndpointPlan};

use super::References;
use super::tls::ClientTls;

/// A cluster. Its endpoints are a resource of their own, of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The settings.
    pub settings: Arc<ClusterSettings>,
    /// TLS to the endpoints.
    pub tls: Option<Arc<ClientTls>>,
}

impl Cluster {
    pub(crate) fn references(&self, found: &mut References) {
        let tls = Path::ROOT.key("tls");
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        certificate.iter().for_each(|of| of.reference(&tls.key("certificate"), found));
    }
}

/// The endpoints of a cluster.
pub type Endpoints = [EndpointPlan];
