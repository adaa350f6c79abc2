//! Why a connection was not served, and how flows end.

sluice_core::reasons! {
    DENIED = "accept.denied", Accept, Local, "-", "An `allow` or `deny` filter refuses the source; the detail names the filter and the block. Check the `filters` of the listener or chain if the client should be let in.";
    LIMIT = "accept.limit", Accept, Local, "-", "The listener's `connection_limit.max` or the limit `worker_connections` was reached; the detail says which. Raise it, or look for clients that keep connections open on `/connections`.";
    SOURCE_LIMIT = "accept.source_limit", Accept, Local, "-", "The source has as many connections as `connection_limit.per_source` allows. Raise it if many clients share that address.";
    RATE = "accept.rate", Accept, Local, "RL", "The source or listener opened connections faster than `rate_limit` allows. Raise `connections` or `burst`, or look at the client.";
    PROXY_MISSING = "proxy_header.missing", Accept, Downstream, "DPE", "A PROXY header is required and none came. Configure the sender in front to send it, or set `proxy_protocol.accept: optional`.";
    PROXY_MALFORMED = "proxy_header.malformed", Accept, Downstream, "DPE", "The PROXY header breaks the specification; the detail says how. Check the sender: its version, and that nothing is sent before the header.";
    PROXY_UNTRUSTED = "proxy_header.untrusted", Accept, Downstream, "-", "A PROXY header came from an address that `proxy_protocol.trust` does not list. Add the sender's address, or look at who sends it.";
    INSPECT_TIMEOUT = "inspect.timeout", Inspect, Downstream, "-", "The first bytes did not come within `inspect.timeout`, and `on_timeout` is `close`. Raise the time-out, or set `on_timeout: continue` for clients that wait for the server to speak.";
    INSPECT_TOO_LARGE = "inspect.too_large", Inspect, Downstream, "-", "The first `inspect.bytes` did not tell what the stream is, and `on_timeout` is `close`. Raise `inspect.bytes`, or set `on_timeout: continue`.";
    INSPECT_MALFORMED = "inspect.malformed", Inspect, Downstream, "DPE", "The client asked for TLS and then sent something else. Check the client: it or something in between breaks TLS.";
    INSPECT_CLOSED = "inspect.closed", Inspect, Downstream, "DC", "The client closed before it had said what it wants. Look at the client: mostly a port scan or a probe of a load balancer.";
    UNMATCHED = "chain.unmatched", Select, Local, "NR", "No chain matches the connection and the listener has no default chain. Compare server name, ALPN and protocol of the record with `chains`, or add a chain without `match`.";
    FILTER_REJECTED = "filter.rejected", Filter, Local, "UAEX", "A connection filter wanted to wait, which it cannot do on a UDP listener. Remove the filter there, or use one that decides at once.";
    BUFFERS = "relay.buffers", Handle, Local, "-", "A slow receiver needed a buffer and the worker had reached the limit `worker_buffer_bytes`. Raise it under `limits`, or look for peers that do not read.";
    FLOW_IDLE = "flow.idle", Handle, Local, "-", "No datagram for the idle timeout: the usual end of a flow. Nothing to do; raise `relay.idle_timeout` if flows end too early.";
    FLOW_DONE = "flow.done", Handle, Local, "-", "Every datagram got as many answers as `relay.responses` says. Nothing to do.";
    FLOW_TABLE_FULL = "flow.table_full", Handle, Local, "UO", "The datagram of a new client was dropped: the flow table was full of flows in use. Raise the limit `flow_table_entries`, lower `relay.idle_timeout`, or set `relay.responses`.";
    FLOW_EVICTED = "flow.evicted", Handle, Local, "-", "The flow had been idle longest and made room for a new one. If its client still needed it, raise `flow_table_entries` and the limit of open files (`ulimit -n`).";
    FLOW_UNANSWERED = "flow.unanswered", Handle, Upstream, "-", "The endpoint never answered and the client fell silent for `flow_unanswered_seconds`. Nothing to do for protocols without answers, such as syslog; else look at the endpoint.";
    FLOW_MOVED = "flow.moved", Handle, Upstream, "-", "The endpoint was unhealthy or ejected, and the client's next datagram began a new flow to another one (`on_endpoint_unhealthy`). See `/clusters` on the admin address for the endpoint's health.";
    FLOW_ICMP = "flow.icmp", Handle, Upstream, "UF", "The endpoint's host said that nothing listens there or the network that it cannot be reached (ICMP). Check that the service runs and listens on that UDP port.";
    FILTER_TIMEOUT = "filter.timeout", Filter, Local, "-", "A filter did not decide within `filter_wait_seconds`; the detail names it where it is one of HTTP. Look at what it asks.";
}

/// Every reason that layers up to this one know, for documents and for the test of uniqueness.
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
            assert!(codes.insert(reason.code()), "{reason} stands twice");
            let (subject, what) = reason.code().split_once('.').unwrap();
            let fits = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(fits(subject) && fits(what), "{reason}");
            assert!(reason.def().help.ends_with(['.', '?']), "{reason} has no sentence of help");
        }
    }
}
