//! Metrics that are updated when the metrics are read.
//!
//! Owns: the standard `process_*` metrics, the build, the outcome of reloads, the expiry of certificates, the health
//! of each endpoint, the circuit breakers and the queue of each cluster. Refuses to know: what is counted elsewhere.
//! Keeps: each series is looked up once, so that reading the metrics costs the workers nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Name;
use sluice_sys::process;
use sluice_telemetry::metrics::Seconds;
use sluice_telemetry::{Counter, Gauge, Registry, Shard};
use sluice_tls::CertStore;
use sluice_upstream::Cluster;

sluice_telemetry::metrics! {
    CPU = "process_cpu_seconds_total", Seconds, [], "Time that the process has spent on processors, in user space and in the kernel.";
    RESIDENT = "process_resident_memory_bytes", Gauge, [], "Resident memory of the process.";
    VIRTUAL = "process_virtual_memory_bytes", Gauge, [], "Virtual memory of the process.";
    OPEN_FILES = "process_open_fds", Gauge, [], "Open file descriptors of the process.";
    OPEN_FILES_MAX = "process_max_fds", Gauge, [], "File descriptors that the process may open.";
    STARTED = "process_start_time_seconds", Gauge, [], "When the process was started, in seconds since the Unix epoch.";
    BUILD = "sluice_build_info", Gauge, ["version"], "Always 1; the label tells the version.";
    LOOKUPS = "sluice_metric_series_lookups_total", Counter, [], "Times a series was looked up by its labels, which takes a lock; it stays the same while nothing new happens.";
    RELOAD_SUCCESSFUL = "sluice_config_last_reload_successful", Gauge, [], "Whether the last reload succeeded: 1, or 0 while an older configuration is in force.";
    RELOAD_TIME = "sluice_config_last_reload_success_timestamp_seconds", Gauge, [], "When a configuration was last applied, or found unchanged, in seconds since the Unix epoch.";
    CERTIFICATE = "sluice_tls_certificate_not_after_seconds", Gauge, ["certificate"], "When a certificate expires, in seconds since the Unix epoch.";
    ENDPOINT_HEALTHY = "sluice_endpoint_healthy", Gauge, ["cluster", "endpoint"], "Whether an endpoint can take traffic: 0 while it fails its checks or is ejected; an operator's `drain` and `maintenance` do not count. Endpoints beyond the limit `endpoint_series` are left out.";
    BREAKER_OPEN = "sluice_cluster_breaker_open", Gauge, ["cluster", "limit"], "Whether a limit of the cluster refuses the next: 1, or 0. A limit that was never set has no series.";
    QUEUE_WAITING = "sluice_cluster_queue_waiting", Gauge, ["cluster"], "Connections and requests that wait in the queue of the cluster. A cluster that never had one has no series.";
    ENDPOINTS_FULL = "sluice_cluster_endpoints_full", Gauge, ["cluster"], "Endpoints that are at a limit: `connections_per_endpoint`, `requests_per_endpoint` or one of their own. A cluster that never had one has no series.";
    BREAKER_LEFT = "sluice_cluster_breaker_left", Gauge, ["cluster", "limit"], "What a limit of the cluster leaves, over all workers.";
}

/// The handles of these metrics.
pub(super) struct Vitals {
    shard: Shard,
    registry: Registry,
    cpu: Seconds,
    lookups: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_files: Gauge,
    open_files_max: Gauge,
    reload_successful: Gauge,
    reload_time: Gauge,
    certificates: RefCell<HashMap<String, Gauge>>,
    endpoints: RefCell<HashMap<Name, HashMap<Arc<str>, Gauge>>>,
    breakers: RefCell<HashMap<(Name, &'static str), BreakerGauges>>,
    waiting: RefCell<HashMap<Name, Gauge>>,
    full: RefCell<HashMap<Name, Gauge>>,
}

/// The gauges of one limit of a cluster.
struct BreakerGauges {
    open: Gauge,
    left: Gauge,
}

impl Vitals {
    pub(super) fn new(registry: &Registry, shard: &Shard) -> Self {
        shard.gauge(&BUILD, &[env!("CARGO_PKG_VERSION")]).set(1);
        let started = process::booted().zip(process::usage());
        if let Some((booted, usage)) = started {
            shard.gauge(&STARTED, &[]).set((booted + usage.started).as_secs());
        }
        Self {
            cpu: shard.seconds(&CPU, &[]),
            lookups: shard.counter(&LOOKUPS, &[]),
            resident: shard.gauge(&RESIDENT, &[]),
            virtual_memory: shard.gauge(&VIRTUAL, &[]),
            open_files: shard.gauge(&OPEN_FILES, &[]),
            open_files_max: shard.gauge(&OPEN_FILES_MAX, &[]),
            reload_successful: shard.gauge(&RELOAD_SUCCESSFUL, &[]),
            reload_time: shard.gauge(&RELOAD_TIME, &[]),
            certificates: RefCell::default(),
            endpoints: RefCell::default(),
            breakers: RefCell::default(),
            waiting: RefCell::default(),
            full: RefCell::default(),
            registry: registry.clone(),
            shard: shard.clone(),
        }
    }

    /// Records the outcome of a reload, or of the start.
    pub(super) fn reloaded(&self, successful: bool, now: Duration) {
        self.reload_successful.set(u64::from(successful));
        if successful {
            self.reload_time.set(now.as_secs());
        }
    }

    /// Updates the metrics of the process.
    pub(super) fn measure_process(&self) {
        if let Some(usage) = process::usage() {
            self.cpu.set(usage.cpu);
            self.resident.set(usage.resident_bytes);
            self.virtual_memory.set(usage.virtual_bytes);
        }
        if let Some(open) = process::open_files() {
            self.open_files.set(open);
        }
        self.open_files_max.set(process::open_files_max());
        self.lookups.set(self.registry.lookups());
    }

    /// Updates the expiry of each certificate and drops those no longer in use. Returns whether any were dropped.
    pub(super) fn tell_certificates(&self, certs: &CertStore) -> bool {
        let mut old = self.certificates.take();
        let mut known = self.certificates.borrow_mut();
        for stored in certs.list() {
            let path = stored.name().into_owned();
            let new = || self.shard.gauge(&CERTIFICATE, &[&path]);
            let gauge = old.remove(&path).unwrap_or_else(new);
            gauge.set(stored.material().info.not_after);
            known.insert(path, gauge);
        }
        !old.is_empty()
    }

    /// Updates whether each endpoint takes traffic, up to `bound` per cluster; drops those that were removed.
    pub(super) fn tell_endpoints<'a>(
        &self,
        clusters: impl Iterator<Item = &'a Arc<Cluster>>,
        bound: usize,
    ) {
        let mut old = self.endpoints.take();
        let mut known = self.endpoints.borrow_mut();
        for cluster in clusters {
            let mut before = old.remove(&cluster.name).unwrap_or_default();
            let mut now = HashMap::new();
            for endpoint in cluster.members().endpoints.iter().take(bound) {
                let labels = [&*cluster.name, &*endpoint.name];
                let new = || self.shard.gauge(&ENDPOINT_HEALTHY, &labels);
                let gauge = before.remove(&endpoint.name).unwrap_or_else(new);
                gauge.set(u64::from(endpoint.is_sound()));
                now.insert(Arc::clone(&endpoint.name), gauge);
            }
            known.insert(cluster.name.clone(), now);
        }
    }

    /// Updates the circuit breakers of each cluster; drops those of limits that are no longer set.
    pub(super) fn tell_breakers<'a>(
        &self,
        clusters: impl Iterator<Item = &'a Arc<Cluster>>,
        reserve_percent: u64,
    ) {
        let mut old = self.breakers.take();
        let mut known = self.breakers.borrow_mut();
        for cluster in clusters {
            for breaker in cluster.breakers(reserve_percent) {
                let key = (Arc::clone(&cluster.name), breaker.limit);
                let labels = [&*cluster.name, breaker.limit];
                let new = || BreakerGauges {
                    open: self.shard.gauge(&BREAKER_OPEN, &labels),
                    left: self.shard.gauge(&BREAKER_LEFT, &labels),
                };
                let gauges = old.remove(&key).unwrap_or_else(new);
                gauges.open.set(u64::from(breaker.open));
                gauges.left.set(breaker.left());
                known.insert(key, gauges);
            }
        }
        // A limit that is not set refuses nothing and leaves nothing to count.
        for gauges in old.into_values() {
            gauges.open.set(0);
            gauges.left.set(0);
        }
    }

    /// Updates what waits in the queue of each cluster, and how many of its endpoints are full.
    pub(super) fn tell_queues<'a>(&self, clusters: impl Iterator<Item = &'a Arc<Cluster>>) {
        let (mut waiting, mut full) = (HashMap::new(), HashMap::new());
        for cluster in clusters {
            let has_queue = cluster.peek_plan().queue.is_some();
            let values = [
                (&QUEUE_WAITING, &self.waiting, &mut waiting, has_queue.then(|| cluster.waiting())),
                (&ENDPOINTS_FULL, &self.full, &mut full, cluster.full_endpoints()),
            ];
            for (metric, old, known, value) in values {
                let Some(value) = value else { continue };
                let new = || self.shard.gauge(metric, &[&cluster.name]);
                let gauge = old.borrow_mut().remove(&cluster.name).unwrap_or_else(new);
                gauge.set(value);
                known.insert(Arc::clone(&cluster.name), gauge);
            }
        }
        for gauge in self.waiting.replace(waiting).values().chain(self.full.replace(full).values())
        {
            gauge.set(0);
        }
    }

    /// Whether a certificate has a metric.
    pub(super) fn knows_certificate(&self, path: &str) -> bool {
        self.certificates.borrow().contains_key(path)
    }
}
