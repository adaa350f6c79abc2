//! Why a connection was not served, and how flows end.

sluice_core::reasons! {
    DENIED = "accept.denied", Accept, Local, "-", "The source is denied by an `allow` or `deny` filter; the detail names the filter and the block.";
    LIMIT = "accept.limit", Accept, Local, "-", "The listener's `connection_limit` or the worker's own limit was reached; the detail says which.";
    SOURCE_LIMIT = "accept.source_limit", Accept, Local, "-", "The source has as many connections as `connection_limit.per_source` allows.";
    RATE = "accept.rate", Accept, Local, "RL", "The source or listener opened connections faster than `rate_limit` allows.";
    PROXY_MISSING = "proxy_header.missing", Accept, Downstream, "DPE", "A PROXY header is required and none came; is the sender in front configured to send it?";
    PROXY_MALFORMED = "proxy_header.malformed", Accept, Downstream, "DPE", "The PROXY header breaks the specification; the detail says how. Is the sender in front configured for another protocol or version?";
    PROXY_UNTRUSTED = "proxy_header.untrusted", Accept, Downstream, "-", "A PROXY header came from an address that `trust` does not list.";
    INSPECT_TIMEOUT = "inspect.timeout", Inspect, Downstream, "-", "The first bytes did not come within `inspect.timeout`, and `on_timeout` is `close`.";
    INSPECT_TOO_LARGE = "inspect.too_large", Inspect, Downstream, "-", "The first `inspect.bytes` did not tell what the stream is, and `on_timeout` is `close`.";
    INSPECT_MALFORMED = "inspect.malformed", Inspect, Downstream, "DPE", "The client asked for TLS and then sent something else.";
    INSPECT_CLOSED = "inspect.closed", Inspect, Downstream, "DC", "The client closed before it had said what it wants.";
    UNMATCHED = "chain.unmatched", Select, Local, "NR", "No chain matches the connection and the listener has no default chain; the server name, protocol and addresses of the record say what a chain would have to match. A TLS client is told by an alert.";
    FILTER_REJECTED = "filter.rejected", Filter, Local, "UAEX", "A connection filter of the chain refused the connection.";
    FILTER_TIMEOUT = "filter.timeout", Filter, Local, "-", "A connection filter did not decide within `filter_wait_seconds`; look at what it asks.";
    BUFFERS = "relay.buffers", Handle, Local, "-", "A slow receiver needed a buffer and the worker had reached `worker_buffer_bytes`.";
    FLOW_IDLE = "flow.idle", Handle, Local, "-", "No datagram for the idle timeout; the usual end of a flow.";
    FLOW_DONE = "flow.done", Handle, Local, "-", "Every datagram was answered `responses` times.";
    FLOW_TABLE_FULL = "flow.table_full", Handle, Local, "UO", "The datagram of a new client was dropped: the flow table was full of flows in use; raise `flow_table_entries`, or lower `idle_timeout`.";
    FLOW_EVICTED = "flow.evicted", Handle, Local, "-", "The flow had been idle longest and made room for a new one; if its client still needed it, raise `flow_table_entries` and the limit of open files (`ulimit -n`).";
    FLOW_UNANSWERED = "flow.unanswered", Handle, Upstream, "-", "The endpoint never answered and the client fell silent for `flow_unanswered_seconds`; usual where protocols have no answers, as syslog has none, else look at the endpoint.";
    FLOW_MOVED = "flow.moved", Handle, Upstream, "-", "The endpoint was unhealthy or ejected, and the next datagram of the client began a new flow to another one (`on_endpoint_unhealthy`); see /clusters.";
    FLOW_ICMP = "flow.icmp", Handle, Upstream, "UF", "The endpoint's host said that nobody listens there, or the network that it cannot be reached; is the service up?";
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
