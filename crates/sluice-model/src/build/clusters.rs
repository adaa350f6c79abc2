//! Clusters: from sections to plans.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_core::{Diags, Name, Path, Spanned};
use sluice_upstream::plan::{
    DnsPlan, EndpointPlan, HealthPlan, OnRemoved, OutlierPlan, ProxyVersion,
};
use sluice_upstream::{Cluster, ClusterPlan};

use super::Build;
use crate::sections::{self, Config, OnEndpointRemoved, ProxyHeader, Refresh};

/// Plan and life of each cluster.
pub(super) type ClusterMap = BTreeMap<Name, (Arc<ClusterPlan>, Arc<Cluster>)>;

impl Build<'_> {
    pub(super) fn clusters(&mut self, config: &Config, diags: &mut Diags) -> ClusterMap {
        let at = Path::ROOT.key("clusters");
        let mut all = ClusterMap::new();
        for (name, section) in config.clusters.iter() {
            if let Some(plan) = self.cluster(name, section, &at.key(name), diags) {
                let plan = Arc::new(plan);
                let cluster = (self.needed.cluster)(&plan);
                all.insert(Arc::clone(name), (plan, cluster));
            }
        }
        all
    }

    fn cluster(
        &mut self,
        name: &Name,
        section: &Spanned<sections::Cluster>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<ClusterPlan> {
        if section.endpoints.is_empty() {
            diags
                .error(
                    "missing-field",
                    section.span,
                    at.key("endpoints"),
                    format!("the cluster `{name}` has no endpoints"),
                )
                .help("add at least one: `endpoints: [127.0.0.1:5432]`");
        }
        let mut endpoints = Vec::new();
        for (index, entry) in section.endpoints.iter().enumerate() {
            let (address, weight) = (entry.0.address.value.clone(), entry.0.weight);
            if weight == 0 {
                let list = at.key("endpoints");
                diags
                    .error(
                        "bad-value",
                        entry.span,
                        list.index(index).key("weight"),
                        "a weight is at least 1",
                    )
                    .help("leave the endpoint out to send it nothing");
            }
            endpoints.push(EndpointPlan { address, weight });
        }
        if section.connect_attempts == 0 {
            diags.error(
                "bad-value",
                section.span,
                at.key("connect_attempts"),
                "at least one attempt is needed",
            );
        }
        let tls = match &section.tls {
            None => None,
            Some(tls) => Some(self.client_tls(tls, &at.key("tls"), diags)?),
        };
        Some(ClusterPlan {
            name: Arc::clone(name),
            endpoints,
            balance: section.balance,
            connect_timeout: section.connect_timeout,
            connect_attempts: section.connect_attempts,
            tls,
            health: section.health.as_ref().map(|health| HealthPlan {
                interval: health.interval,
                timeout: health.timeout,
                unhealthy_after: health.unhealthy_after.max(1),
                healthy_after: health.healthy_after.max(1),
            }),
            outlier: section.outlier.0.as_ref().map(|outlier| OutlierPlan {
                connect_failures: outlier.connect_failures.max(1),
                ejection: outlier.ejection,
                ejection_max: outlier.ejection_max,
                max_ejected_percent: outlier.max_ejected.0,
            }),
            connections_max: section.limits.connections.0,
            endpoint_connections_max: section.limits.connections_per_endpoint.0,
            on_endpoint_removed: match section.on_endpoint_removed {
                OnEndpointRemoved::Keep => OnRemoved::Keep,
                OnEndpointRemoved::Close => OnRemoved::Close,
                OnEndpointRemoved::Drain(drain) => OnRemoved::Drain(drain),
            },
            dns: DnsPlan {
                refresh: match section.dns.refresh {
                    Refresh::Ttl => None,
                    Refresh::Every(every) => Some(every),
                },
                serve_stale: section.dns.serve_stale.0,
                servers: section.dns.servers.clone(),
            },
            send_proxy: section.send_proxy_protocol.map(|version| match version {
                ProxyHeader::V1 => ProxyVersion::V1,
                ProxyHeader::V2 => ProxyVersion::V2,
            }),
        })
    }
}
