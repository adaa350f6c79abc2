//! What is counted about listeners, connections and flows.

use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_telemetry::CounterSet;

sluice_telemetry::metrics! {
    ACCEPTED = "sluice_listener_connections_accepted_total", Counter, ["listener"], "Connections accepted.";
    ACTIVE = "sluice_listener_connections_active", Gauge, ["listener"], "Connections open.";
    ENDED = "sluice_connections_ended_total", Counter, ["listener", "reason"], "Connections ended, by reason.";
    RECEIVED = "sluice_listener_received_bytes_total", Counter, ["listener"], "Bytes from clients, counted when their connection ends.";
    SENT = "sluice_listener_sent_bytes_total", Counter, ["listener"], "Bytes to clients, counted when their connection ends.";
    ACCEPT_ERRORS = "sluice_listener_accept_errors_total", Counter, ["listener"], "Times accepting failed, mostly for want of descriptors.";
    CHAIN = "sluice_chain_connections_total", Counter, ["listener", "chain"], "Connections that selected the chain.";
    HANDSHAKES = "sluice_tls_handshakes_total", Counter, ["listener", "result"], "TLS handshakes with clients: full, resumed or failed.";
    HANDSHAKE_TIME = "sluice_tls_handshake_seconds", Histogram, ["listener"], "Time of TLS handshakes with clients.";
    LIMIT_REACHED = "sluice_limits_reached_total", Counter, ["limit"], "Times a limit was reached.";
    FLOWS = "sluice_listener_flows_total", Counter, ["listener"], "UDP flows begun.";
    FLOWS_ACTIVE = "sluice_listener_flows_active", Gauge, ["listener"], "UDP flows open.";
    FLOW_ENDED = "sluice_flows_ended_total", Counter, ["listener", "reason"], "UDP flows ended, by reason.";
    DATAGRAMS = "sluice_flow_datagrams_total", Counter, ["listener", "result"], "Datagrams: received, sent, or dropped and why.";
    ICMP = "sluice_flow_icmp_errors_total", Counter, ["listener"], "ICMP errors that endpoints' hosts answered with.";
}

/// Counts that a limit was reached.
pub fn count_limit(worker: &WorkerCx, limit: Limit) {
    #[derive(Default)]
    struct ReachedLimits(CounterSet<&'static str>);
    let counter = |name: &&'static str| worker.shard.counter(&LIMIT_REACHED, &[name]);
    worker.local(ReachedLimits::default).0.count(&limit.def().name, counter);
}
