//! The metrics of listeners, connections and flows.

use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_telemetry::CounterSet;

sluice_telemetry::metrics! {
    ACCEPTED = "sluice_listener_connections_accepted_total", Counter, ["listener"], "Connections accepted.";
    ACTIVE = "sluice_listener_connections_active", Gauge, ["listener"], "Open connections.";
    ENDED = "sluice_connections_ended_total", Counter, ["listener", "reason"], "Connections ended, by reason.";
    RECEIVED = "sluice_listener_received_bytes_total", Counter, ["listener"], "Bytes received from clients, counted when the connection or flow ends.";
    SENT = "sluice_listener_sent_bytes_total", Counter, ["listener"], "Bytes sent to clients, counted when the connection or flow ends.";
    ACCEPT_ERRORS = "sluice_listener_accept_errors_total", Counter, ["listener"], "Errors when accepting connections, usually for lack of file descriptors.";
    CHAIN = "sluice_chain_connections_total", Counter, ["listener", "chain"], "Connections and flows for which the chain was selected.";
    HANDSHAKES = "sluice_tls_handshakes_total", Counter, ["listener", "result"], "TLS handshakes with clients, by result: full, resumed, early (resumed, and data arrived before it was complete, 0-RTT over TCP) or failed.";
    HANDSHAKE_TIME = "sluice_tls_handshake_seconds", Histogram, ["listener"], "Duration of TLS handshakes with clients.";
    LIMIT_REACHED = "sluice_limits_reached_total", Counter, ["limit"], "Times the limit was reached.";
    RBAC = "sluice_rbac_decisions_total", Counter, ["listener", "rules", "policy", "result"], "Decisions of the filter `rbac` on connections and requests: `rules` are `enforced`, `shadow` (only counted) or `log`; `policy` is the one that decided, or `none`, and policies beyond the limit `rbac_series` share `other`; `result` is `allowed`, `denied` or, for `log`, `matched`.";
    BANDWIDTH = "sluice_bandwidth_limited_total", Counter, ["listener", "direction"], "Connections (`upload`, `download`) and messages (`request`, `response`) of which the filter `bandwidth_limit` held bytes up, each counted once.";
    TAPS = "sluice_taps_total", Counter, ["listener", "result"], "Traces of the filter `tap`: `recorded`, `lost` because they came faster than they could be written, or `refused` because of a limit.";
    TAPS_UNWRITTEN = "sluice_taps_unwritten_total", Counter, [], "Traces, or pieces of them, that could not be written to their files; counted when the next one begins.";
    FLOWS = "sluice_listener_flows_total", Counter, ["listener"], "UDP flows begun.";
    FLOWS_ACTIVE = "sluice_listener_flows_active", Gauge, ["listener"], "Open UDP flows.";
    FLOW_ENDED = "sluice_flows_ended_total", Counter, ["listener", "reason"], "UDP flows ended, by reason.";
    DATAGRAMS = "sluice_flow_datagrams_total", Counter, ["listener", "result"], "Datagrams, by result: received, sent, dropped (a socket could not accept it), filtered (a filter dropped it) or refused (no flow for it).";
    ICMP = "sluice_flow_icmp_errors_total", Counter, ["listener"], "ICMP errors received for datagrams to endpoints.";
}

/// Counts that a limit was reached.
pub fn count_limit(worker: &WorkerCx, limit: Limit) {
    #[derive(Default)]
    struct ReachedLimits(CounterSet<&'static str>);
    let counter = |name: &&'static str| worker.shard.counter(&LIMIT_REACHED, &[name]);
    worker.local(ReachedLimits::default).0.count(&limit.def().name, counter);
}
