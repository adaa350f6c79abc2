//! Reports of load to a control plane (LRS).
//!
//! Owns: which clusters are reported and when, and the difference to the report before. Refuses to know: sockets, clocks, how
//! requests are counted. Keeps: whatever is counted is in one report, whichever stream it goes over; a cluster is counted
//! from the moment on that the plane asks for it.
//!
//! A driver opens a stream, sends [`LoadReporter::greeting`], and tells [`LoadReporter::receive`] what comes. It reads the load of the
//! clusters that [`LoadReporter::wants`] names whenever [`LoadReporter::due`] is over, and sends [`LoadReporter::report`].
//!
//! Source: `envoy/service/load_stats/v3/lrs.proto`; Envoy, `load_stats_reporter.cc`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use sluice_core::Moment;

use crate::messages::TtlMessage;
use crate::messages::load_stats::{
    ClusterStats, DroppedRequests, EndpointStats, LoadStatsRequest, LoadStatsResponse,
    LocalityMessage, LocalityStats, MetricStats, PlaneAddress,
};

/// The shortest time between two reports, whatever the plane wants.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The time between two reports if the plane does not say.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a plane must know before it asks for all clusters.
const SUPPORTS_ALL: &str = "envoy.lrs.supports_send_all_clusters";

/// `client_features` of a node.
const CLIENT_FEATURES: u32 = 10;

/// Requests since the endpoint came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTotals {
    /// Those that were sent.
    pub issued: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
}

/// What was reported of a metric since the last time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricLoad {
    /// How often.
    pub count: u64,
    /// The sum.
    pub total: f64,
}

/// An endpoint as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CountedEndpoint {
    /// Tells it apart from all others for as long as anything is known of it.
    pub id: usize,
    /// Its address.
    pub address: PlaneAddress,
    /// Where it is.
    pub locality: LocalityMessage,
    /// Its priority.
    pub priority: u32,
    /// Its requests since it came.
    pub totals: LoadTotals,
    /// Those in progress.
    pub in_progress: u64,
    /// Metrics since the last report, by name.
    pub metrics: BTreeMap<String, MetricLoad>,
}

/// A cluster as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterLoad {
    /// Its name.
    pub name: Arc<str>,
    /// The name that its endpoints have at the plane; empty if that is its own.
    pub service_name: String,
    /// What limits have refused since it came.
    pub refused: u64,
    /// What was dropped since it came, by category.
    pub dropped: BTreeMap<Arc<str>, u64>,
    /// Its endpoints, with those that have left since the last report.
    pub endpoints: Vec<CountedEndpoint>,
}

/// Which clusters a plane wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WantedLoads {
    All,
    These(BTreeSet<String>),
}

/// What was reported of a cluster.
#[derive(Debug)]
struct ReportedCluster {
    at: Moment,
    refused: u64,
    dropped: BTreeMap<Arc<str>, u64>,
    endpoints: HashMap<usize, LoadTotals>,
}

/// What a plane is told of the load, over one stream after the other.
#[derive(Debug)]
pub struct LoadReporter {
    node: Bytes,
    wanted: WantedLoads,
    interval: Duration,
    by_endpoint: bool,
    /// When the next report is sent; `None` until the plane has asked on this stream.
    due: Option<Moment>,
    reported: HashMap<Arc<str>, ReportedCluster>,
}

impl LoadReporter {
    /// Nothing is wanted yet. `node` is encoded.
    pub fn new(node: &[u8]) -> Self {
        Self {
            node: with_feature(node, SUPPORTS_ALL),
            wanted: WantedLoads::These(BTreeSet::new()),
            interval: INTERVAL,
            by_endpoint: false,
            due: None,
            reported: HashMap::new(),
        }
    }

    /// The first message of a stream.
    pub fn greeting(&self) -> LoadStatsRequest {
        LoadStatsRequest { node: Some(self.node.clone()), cluster_stats: Vec::new() }
    }

    /// Takes what the plane wants. What is asked for again is reported from where the last report ended.
    pub fn receive(&mut self, response: LoadStatsResponse, now: Moment) {
        let LoadStatsResponse {
            clusters,
            load_reporting_interval,
            report_endpoint_granularity,
            send_all_clusters,
        } = response;
        self.wanted = if send_all_clusters {
            WantedLoads::All
        } else {
            WantedLoads::These(clusters.into_iter().collect())
        };
        self.interval = load_reporting_interval.and_then(TtlMessage::time).unwrap_or(INTERVAL);
        self.interval = self.interval.max(INTERVAL_MIN);
        self.by_endpoint = report_endpoint_granularity;
        self.due = Some(now.after(self.interval));
        let wanted = self.wanted.clone();
        self.reported.retain(|name, _| wanted.has(name));
    }

    /// The stream has ended. What is counted until the next one is in its first report.
    pub const fn closed(&mut self) {
        self.due = None;
    }

    /// Whether the load of a cluster is wanted.
    pub fn wants(&self, cluster: &str) -> bool {
        self.wanted.has(cluster)
    }

    /// Whether the load of any cluster may be wanted.
    pub fn wants_any(&self) -> bool {
        !matches!(&self.wanted, WantedLoads::These(names) if names.is_empty())
    }

    /// When the next report is to be sent.
    pub const fn due(&self) -> Option<Moment> {
        self.due
    }

    /// Notes where the counts of clusters begin that were not wanted before.
    pub fn begin(&mut self, clusters: Vec<ClusterLoad>, now: Moment) {
        for cluster in clusters {
            if self.wants(&cluster.name) && !self.reported.contains_key(&cluster.name) {
                let name = Arc::clone(&cluster.name);
                self.reported.insert(name, ReportedCluster::of(&cluster, now));
            }
        }
    }

    /// The report on these clusters: what is new since the last one.
    pub fn report(&mut self, clusters: Vec<ClusterLoad>, now: Moment) -> LoadStatsRequest {
        self.due = Some(now.after(self.interval));
        let mut stats = Vec::new();
        let mut after = HashMap::new();
        for cluster in clusters {
            if !self.wants(&cluster.name) {
                continue;
            }
            let before = self.reported.remove(&cluster.name);
            let reported = ReportedCluster::of(&cluster, now);
            let name = Arc::clone(&cluster.name);
            // One that came since has been counted from its begin.
            let before = before.unwrap_or_else(|| ReportedCluster::nothing(now));
            stats.push(self.of_cluster(cluster, &before, now));
            after.insert(name, reported);
        }
        self.reported = after;
        LoadStatsRequest { node: None, cluster_stats: stats }
    }

    fn of_cluster(
        &self,
        cluster: ClusterLoad,
        before: &ReportedCluster,
        now: Moment,
    ) -> ClusterStats {
        let mut localities: BTreeMap<(u32, LocalityMessage), LocalityStats> = BTreeMap::new();
        for endpoint in cluster.endpoints {
            let known = before.endpoints.get(&endpoint.id).copied().unwrap_or_default();
            let new = endpoint.totals.since(known);
            if new == LoadTotals::default()
                && endpoint.in_progress == 0
                && endpoint.metrics.is_empty()
            {
                continue;
            }
            let key = (endpoint.priority, endpoint.locality.clone());
            let of = localities.entry(key).or_insert_with(|| LocalityStats {
                locality: Some(endpoint.locality.clone()),
                priority: endpoint.priority,
                ..LocalityStats::default()
            });
            of.total_issued_requests += new.issued;
            of.total_successful_requests += new.succeeded;
            of.total_error_requests += new.failed;
            of.total_requests_in_progress += endpoint.in_progress;
            let metrics: Vec<MetricStats> = endpoint.metrics.into_iter().map(metric).collect();
            for metric in &metrics {
                add(&mut of.load_metric_stats, metric);
            }
            if self.by_endpoint {
                of.upstream_endpoint_stats.push(EndpointStats {
                    address: Some(endpoint.address),
                    total_successful_requests: new.succeeded,
                    total_requests_in_progress: endpoint.in_progress,
                    total_error_requests: new.failed,
                    load_metric_stats: metrics,
                    total_issued_requests: new.issued,
                });
            }
        }
        let mut total = cluster.refused.saturating_sub(before.refused);
        let mut dropped_requests = Vec::new();
        for (category, count) in cluster.dropped {
            let known = before.dropped.get(&category).copied().unwrap_or(0);
            let dropped_count = count.saturating_sub(known);
            if dropped_count > 0 {
                total += dropped_count;
                let category = category.to_string();
                dropped_requests.push(DroppedRequests { category, dropped_count });
            }
        }
        ClusterStats {
            cluster_name: cluster.name.to_string(),
            upstream_locality_stats: localities.into_values().collect(),
            total_dropped_requests: total,
            load_report_interval: Some(TtlMessage::of(now.since(before.at))),
            dropped_requests,
            cluster_service_name: cluster.service_name,
        }
    }
}

impl WantedLoads {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

impl LoadTotals {
    const fn since(self, before: Self) -> Self {
        Self {
            issued: self.issued.saturating_sub(before.issued),
            succeeded: self.succeeded.saturating_sub(before.succeeded),
            failed: self.failed.saturating_sub(before.failed),
        }
    }
}

impl ReportedCluster {
    fn of(cluster: &ClusterLoad, at: Moment) -> Self {
        Self {
            at,
            refused: cluster.refused,
            dropped: cluster.dropped.clone(),
            endpoints: cluster.endpoints.iter().map(|of| (of.id, of.totals)).collect(),
        }
    }

    fn nothing(at: Moment) -> Self {
        Self { at, refused: 0, dropped: BTreeMap::new(), endpoints: HashMap::new() }
    }
}

fn metric((name, load): (String, MetricLoad)) -> MetricStats {
    MetricStats {
        metric_name: name,
        num_requests_finished_with_metric: load.count,
        total_metric_value: load.total,
    }
}

fn add(all: &mut Vec<MetricStats>, one: &MetricStats) {
    match all.iter_mut().find(|of| of.metric_name == one.metric_name) {
        Some(of) => {
            of.num_requests_finished_with_metric += one.num_requests_finished_with_metric;
            of.total_metric_value += one.total_metric_value;
        }
        None => all.push(one.clone()),
    }
}

/// A node, encoded, with one more of its `client_features`.
fn with_feature(node: &[u8], feature: &str) -> Bytes {
    let mut all = BytesMut::with_capacity(node.len() + feature.len() + 8);
    all.put_slice(node);
    prost::encoding::string::encode(CLIENT_FEATURES, &feature.to_owned(), &mut all);
    all.freeze()
}

#[cfg(test)]
mod tests;
