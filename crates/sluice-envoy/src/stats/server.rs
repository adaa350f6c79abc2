//! Statistics about the process.
//!
//! Owns: their names. Refuses to know: how they are measured. Keeps: each is a value of this moment, or counted by the
//! control thread.

use super::Statistic;

/// What is known of the process.
#[derive(Clone, Debug, Default)]
pub struct ServerFacts {
    /// `server.state`: 0 live, 1 draining, 2 before the initialization, 3 initializing.
    pub state: u64,
    /// Seconds since the start.
    pub uptime: u64,
    /// The number of workers.
    pub workers: u64,
    /// Bytes of memory in use.
    pub memory: u64,
    /// Open connections.
    pub connections: u64,
    /// Days until the first certificate expires; `None` without certificates.
    pub certificate_days: Option<u64>,
    /// Clusters in force.
    pub clusters: u64,
    /// Listeners in force.
    pub listeners: u64,
    /// Clusters that wait for something.
    pub clusters_warming: u64,
    /// Listeners that wait for something.
    pub listeners_warming: u64,
    /// Changes of clusters: added, modified, removed.
    pub cluster_changes: [u64; 3],
    /// Changes of listeners: added, modified, removed; and how many were refused.
    pub listener_changes: [u64; 4],
    /// Responses of control planes, accepted and rejected, for clusters; `None` if none are asked.
    pub cds: Option<[u64; 2]>,
    /// The same for listeners.
    pub lds: Option<[u64; 2]>,
    /// Runtime values that are set.
    pub runtime_keys: u64,
    /// The layers that they come from.
    pub runtime_layers: u64,
    /// Whether an operator has overridden any.
    pub runtime_overridden: bool,
    /// Whether the first listeners are served.
    pub started: bool,
}

impl ServerFacts {
    /// The statistics.
    pub fn statistics(&self) -> Vec<Statistic> {
        let mut all: Vec<Statistic> = [
            ("server.live", u64::from(self.state == 0)),
            ("server.state", self.state),
            ("server.uptime", self.uptime),
            ("server.concurrency", self.workers),
            ("server.memory_physical_size", self.memory),
            ("server.total_connections", self.connections),
            ("server.parent_connections", 0),
            ("server.hot_restart_epoch", 0),
            ("cluster_manager.active_clusters", self.clusters),
            ("cluster_manager.warming_clusters", self.clusters_warming),
            ("listener_manager.total_listeners_active", self.listeners),
            ("listener_manager.total_listeners_warming", self.listeners_warming),
            ("listener_manager.workers_started", u64::from(self.started)),
            ("runtime.num_keys", self.runtime_keys),
            ("runtime.num_layers", self.runtime_layers),
            ("runtime.admin_overrides_active", u64::from(self.runtime_overridden)),
        ]
        .map(|(name, value)| Statistic::gauge(name, value))
        .into();
        let days = self.certificate_days;
        all.extend(
            days.map(|days| Statistic::gauge("server.days_until_first_cert_expiring", days)),
        );
        let [added, modified, removed] = self.cluster_changes;
        let [listeners_added, listeners_modified, listeners_removed, refused] =
            self.listener_changes;
        let counters = [
            ("cluster_manager.cluster_added", added),
            ("cluster_manager.cluster_modified", modified),
            ("cluster_manager.cluster_removed", removed),
            ("listener_manager.listener_added", listeners_added),
            ("listener_manager.listener_modified", listeners_modified),
            ("listener_manager.listener_removed", listeners_removed),
            (
                "listener_manager.listener_create_success",
                (listeners_added + listeners_modified) * self.workers,
            ),
            ("listener_manager.listener_create_failure", refused),
        ];
        all.extend(counters.map(|(name, value)| Statistic::counter(name, value)));
        for (of, counts) in [("cluster_manager.cds", self.cds), ("listener_manager.lds", self.lds)]
        {
            let Some([accepted, rejected]) = counts else { continue };
            for (name, value) in [
                ("update_attempt", accepted + rejected),
                ("update_success", accepted),
                ("update_rejected", rejected),
            ] {
                all.push(Statistic::counter(format!("{of}.{name}"), value));
            }
        }
        all
    }
}
