//! The end of ejections.
//!
//! Owns: how long each ejection lasts. Refuses to know: why an endpoint was ejected. Keeps: an endpoint that is ejected
//! again stays out for longer.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::endpoint::EndpointState;
use crate::plan::OutlierPlan;

/// The ejections of a cluster's endpoints, by name.
pub(super) type Ejections = HashMap<Arc<str>, Ejection>;

pub(super) struct Ejection {
    times: u32,
    until: Option<Instant>,
}

/// Readmits ejected endpoints when their time is over; at once if the cluster has no ejection any more. Returns when
/// the next ejection ends, if there is one.
pub(super) fn readmit(
    cluster: &Cluster,
    endpoints: &[Arc<EndpointState>],
    outlier: Option<&OutlierPlan>,
    ejections: &mut Ejections,
) -> Option<Instant> {
    ejections.retain(|name, ejection| {
        let endpoint = endpoints.iter().find(|endpoint| endpoint.name == *name);
        // An endpoint that left and came back starts afresh, but its ejections are remembered.
        ejection.until =
            ejection.until.filter(|_| endpoint.is_some_and(|known| known.is_ejected()));
        endpoint.is_some()
    });
    let now = Instant::now();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.is_ejected()) {
        let entry = ejections
            .entry(Arc::clone(&endpoint.name))
            .or_insert(Ejection { times: 0, until: None });
        let until = if outlier.is_some() { entry.until } else { Some(now) };
        match (until, outlier) {
            (None, Some(outlier)) => {
                entry.times = entry.times.saturating_add(1);
                let length = outlier.ejection.saturating_mul(entry.times).min(outlier.ejection_max);
                entry.until = Some(now + length);
            }
            (Some(until), _) if until <= now => {
                entry.until = None;
                endpoint.readmit();
                tracing::info!(
                    cluster = &*cluster.name,
                    endpoint = &*endpoint.name,
                    "endpoint is back in use"
                );
            }
            _ => {}
        }
    }
    ejections.values().filter_map(|ejection| ejection.until).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cluster_that_ejects_no_more_takes_its_endpoints_back() {
        let cluster = Cluster::new(Arc::new(crate::cluster::tests::plan(None)));
        let target = crate::endpoint::Target::Ip(([127, 0, 0, 1], 1).into());
        let endpoints = [Arc::new(EndpointState::new(target, None, 1))];
        let hour = Duration::from_secs(3600);
        let outlier = OutlierPlan {
            connect_failures: 1,
            consecutive_5xx: 0,
            ejection: hour,
            ejection_max: hour,
            max_ejected_percent: 100,
        };
        let mut ejections = HashMap::new();
        let nothing = readmit(&cluster, &endpoints, Some(&outlier), &mut ejections);
        assert_eq!(nothing, None, "nothing is ejected, so nothing is to be awaited");
        assert!(endpoints[0].eject("it failed").is_some());
        let end = readmit(&cluster, &endpoints, Some(&outlier), &mut ejections);
        assert!(endpoints[0].is_ejected(), "its time is not over");
        assert!(end.is_some_and(|end| end > Instant::now()), "{end:?}");
        assert_eq!(readmit(&cluster, &endpoints, None, &mut ejections), None);
        assert!(!endpoints[0].is_ejected());
    }
}
