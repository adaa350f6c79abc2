//! Clusters and their endpoints.

use std::path::PathBuf;
use std::sync::Arc;

use sluice_core::Path;
use sluice_upstream::Locality;
use sluice_upstream::balance::LocalityPlan;
use sluice_upstream::plan::{ClusterSettings, EndpointPlan};

use super::tls::ClientTls;
use super::{Kind, References};

/// A cluster. Its endpoints are a resource of their own, of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The settings.
    pub settings: Arc<ClusterSettings>,
    /// TLS to the endpoints.
    pub tls: Option<Arc<ClientTls>>,
    /// The file that its endpoints are read from.
    pub endpoint_file: Option<Arc<EndpointFile>>,
}

/// A file with the endpoints of a cluster, and what else of the cluster is needed to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFile {
    /// Its path.
    pub path: PathBuf,
    /// The weights of localities; if there are none, localities are not told apart.
    pub weights: Vec<(Locality, u32)>,
    /// Whether endpoints are spoken to over QUIC, which excludes unix sockets.
    pub quic: bool,
    /// Whether the targets of a service cannot be verified, since the cluster does not say by which name.
    pub needs_name: bool,
    /// Which settings of checks its endpoints may have.
    pub checks: CheckedBy,
}

/// How the endpoints of a cluster are checked, as far as settings of single endpoints depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckedBy {
    /// They are not.
    Nothing,
    /// By connections or datagrams.
    Connection,
    /// By requests, which name a host.
    Request,
}

impl Cluster {
    /// Whether connections and checks go on under `other`.
    pub(crate) fn goes_on_as(&self, other: &Self) -> bool {
        let Self { settings, tls, endpoint_file } = self;
        settings.is_as_good_as(&other.settings)
            && *tls == other.tls
            && *endpoint_file == other.endpoint_file
    }

    pub(crate) fn references(&self, found: &mut References) {
        for fallback in &self.settings.fallback {
            found.add(Kind::Cluster, fallback, "fallback");
        }
        if let LocalityPlan::ZoneAware(plan) = &self.settings.balancing.localities {
            found.add(Kind::Cluster, &plan.fleet, "zone_aware");
        }
        let tls = Path::ROOT.key("tls");
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        certificate.iter().for_each(|of| of.reference(&tls.key("certificate"), found));
    }
}

/// The endpoints of a cluster.
pub type Endpoints = [EndpointPlan];
