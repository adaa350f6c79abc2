//! Why a connection was not served, and how flows end.

sluice_core::reasons! {
    DENIED = "accept.denied", Accept, Local, "-", "An `allow`, `deny`, `rbac` or `ext_authz` filter refused the connection; the detail names the filter, and the block or policy. If the client should be admitted, check the `filters` of the listener or chain.";
    LIMIT = "accept.limit", Accept, Local, "-", "`connection_limit.max` of the listener or chain or the limit `worker_connections` was reached; the detail says which. Raise it, or look on `/connections` for clients that keep connections open.";
    SOURCE_LIMIT = "accept.source_limit", Accept, Local, "-", "The source already has as many connections as `connection_limit.per_source` allows. Raise it if many clients share that address.";
    RATE = "accept.rate", Accept, Local, "RL", "Connections were opened faster than `rate_limit` allows, in total or by this source, or than the service of `global_rate_limit` does; the detail names the filter. Raise the limit, or check the client.";
    PROXY_MISSING = "proxy_header.missing", Accept, Downstream, "DPE", "A PROXY header is required, but none was received. Configure the sender in front of Sluice to send it, or set `proxy_protocol.accept: optional`.";
    PROXY_MALFORMED = "proxy_header.malformed", Accept, Downstream, "DPE", "The PROXY header violates the specification; the detail says how. Check the version that the sender uses, and that it sends nothing before the header.";
    PROXY_UNTRUSTED = "proxy_header.untrusted", Accept, Downstream, "-", "A PROXY header is required or was sent, but `proxy_protocol.trust` does not list the address of the sender. Add the address, or find out who connects from it.";
    INSPECT_TIMEOUT = "inspect.timeout", Inspect, Downstream, "-", "The first bytes did not arrive within `inspect.timeout`, and `on_timeout` is `close`. Raise the timeout, or set `on_timeout: continue` for clients that wait for the server to speak first.";
    INSPECT_TOO_LARGE = "inspect.too_large", Inspect, Downstream, "-", "The first `inspect.bytes` bytes did not reveal the protocol, and `on_timeout` is `close`. Raise `inspect.bytes`, or set `on_timeout: continue`.";
    INSPECT_MALFORMED = "inspect.malformed", Inspect, Downstream, "DPE", "The client requested TLS and then sent something else. Check the client: it or a device in between breaks TLS.";
    INSPECT_CLOSED = "inspect.closed", Inspect, Downstream, "DC", "The client closed the connection before it had sent anything to inspect. Check the client: usually this is a port scan or the probe of a load balancer.";
    UNMATCHED = "chain.unmatched", Select, Local, "NR", "No chain matches the connection, and the listener has no default chain. Compare the server name, ALPN and protocol in the record with `chains`, or add a chain without `match`.";
    BUFFERS = "relay.buffers", Handle, Local, "-", "The connection needed a buffer, usually for a slow receiver, and the worker had reached the limit `worker_buffer_bytes`. Raise it under `limits`, or look for peers that do not read.";
    FLOW_IDLE = "flow.idle", Handle, Local, "-", "No datagram was received for the idle timeout: the usual end of a flow. Nothing to do; raise `relay.idle_timeout` if flows end too early.";
    FLOW_DONE = "flow.done", Handle, Local, "-", "Every datagram received as many replies as `relay.responses` specifies. Nothing to do.";
    FLOW_WAITING_FULL = "flow.waiting_full", Filter, Local, "UO", "The first datagram of a new flow was dropped, because `flows_waiting` other new flows were waiting for a filter. Check the service that the filter asks, or raise the limit.";
    FLOW_TABLE_FULL = "flow.table_full", Handle, Local, "UO", "The first datagram of a new flow was dropped, because the flow table was full of flows in use. Raise the limit `flow_table_entries`, lower `relay.idle_timeout`, or set `relay.responses`.";
    FLOW_EVICTED = "flow.evicted", Handle, Local, "-", "The flow had been idle longest and was evicted to make room for a new one. If its client still needed it, raise `flow_table_entries` and the limit of open files (`ulimit -n`).";
    FLOW_UNANSWERED = "flow.unanswered", Handle, Upstream, "-", "The endpoint never replied, and the client sent nothing for `flow_unanswered_seconds` or `relay.idle_timeout`, whichever is shorter. Nothing to do for protocols without replies, such as syslog; otherwise check the endpoint.";
    FLOW_MOVED = "flow.moved", Handle, Upstream, "-", "The endpoint was unhealthy or ejected, and the client's next datagram began a new flow to another endpoint (`on_endpoint_unhealthy`). See `/clusters` on the admin address for the endpoint's health.";
    FLOW_ICMP = "flow.icmp", Handle, Upstream, "UF", "An ICMP error reported that nothing listens on the endpoint's port, or that the endpoint is unreachable. Check that the service runs and listens on that UDP port.";
    FILTER_TIMEOUT = "filter.timeout", Filter, Local, "-", "A filter did not decide within `filter_wait_seconds`; for an HTTP filter, the detail names it. Check the service that the filter asks.";
}

/// Every reason known to the layers up to this one, for the documentation and for the uniqueness test.
pub fn all() -> impl Iterator<Item = sluice_core::Reason> {
    let tables = [
        sluice_core::reason::end::TABLE,
        sluice_tls::reasons::TABLE,
        sluice_upstream::reasons::TABLE,
        TABLE,
    ];
    tables.into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_unique_and_have_the_form_subject_what() {
        let mut codes = std::collections::BTreeSet::new();
        for reason in super::all() {
            assert!(codes.insert(reason.code()), "{reason} is declared twice");
            let (subject, what) = reason.code().split_once('.').unwrap();
            let fits = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(fits(subject) && fits(what), "{reason}");
            assert!(reason.def().help.ends_with(['.', '?']), "{reason} has no sentence of help");
        }
    }
}
