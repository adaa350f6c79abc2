//! Why requests and the connections that carry them ended.

sluice_core::reasons! {
    VIA_UPSTREAM = "http.answered", Handle, Upstream, "-", "An endpoint responded and the response was passed on whole. Nothing to do; for a status of 400 or more look at the endpoint.";
    LOCAL = "http.local", Handle, Local, "-", "Sluice responded by itself: a `redirect` or `respond` of the rule, or a filter. Nothing to do; `response_code_details` says which.";
    MALFORMED = "http.malformed", Handle, Downstream, "DPE", "The client's message breaks the protocol; the detail says how. Fix the client; if it speaks TLS to a port without `tls`, use the other port.";
    HEAD_TIMEOUT = "http.head_timeout", Handle, Downstream, "DPE", "The headers of a request did not come within `head_timeout`. Look at the client (it is slow, or an attack that sends byte by byte); raise `head_timeout` for slow paths.";
    BODY_TIMEOUT = "http.body_timeout", Handle, Downstream, "SI", "No part of a request's body came within `body_timeout`. Look at the client and its path; raise `body_timeout` for slow uploads.";
    HEAD_TOO_LARGE = "http.head_too_large", Handle, Downstream, "DPE", "The headers of a request are larger than `head_bytes` or have more fields than `head_fields`. Look for large cookies; raise the setting if they are legitimate.";
    QUIC_PROTOCOL = "quic.protocol", Transport, Downstream, "DPE", "The client broke QUIC, or its handshake failed; the detail says how. Check the client, and for a failed handshake the certificate in `tls.certificates`.";
    QUIC_VERSION = "quic.version", Transport, Downstream, "DPE", "The client speaks a version of QUIC that Sluice does not, which the detail names. It was told to use version 1; most clients then do, else update the client. Ten per second and socket are recorded; `sluice_listener_quic_unknown_versions_total` counts all.";
    TOO_EARLY = "http.too_early", Handle, Local, "-", "A request that changes something came before the handshake had ended (0-RTT), when it could be a replay. Nothing to do: the client sends it again; set `early_data_sessions: 0` if it does not.";
    MISDIRECTED = "http.misdirected", Handle, Downstream, "-", "The request names a host that another chain of the listener serves, with other client certificates than this connection's chain asks for. Clients connect to that host by its own name (SNI) and repeat the request; if both hosts are meant to share connections, give their chains the same `client_auth`.";
    BODY_TOO_LARGE = "http.body_too_large", Handle, Local, "-", "A body is larger than `body_max` or `buffer` allows. Raise the filter's `max` if such bodies are legitimate.";
    RATE = "http.rate", Handle, Local, "RL", "The filter `rate_limit` had nothing left for the request. Raise `requests` or `burst`, or look at the client.";
    DENIED = "http.denied", Handle, Local, "UAEX", "A filter refused the request. See the filter's settings; `response_code_details` names what it went by.";
    FLOOD = "http.flood", Handle, Downstream, "DPE", "The client did what only floods do: resets, pings, settings or empty frames without end; the detail says which. Look at the client; raise `http2.resets` if it is legitimate.";
    UPGRADE_DENIED = "http.upgrade_denied", Handle, Local, "-", "The rule does not list the protocol that the client wants to upgrade to, or does not allow CONNECT. Add it to `upgrades`, or set `connect: true`.";
    ROUTE_UNMATCHED = "route.unmatched", Handle, Local, "NR", "No virtual host, or no rule of it, matches the request. Ask `/try` on the admin address which rule it misses and why, then add a rule or a host `*`.";
    ROUTE_TIMEOUT = "route.timeout", Handle, Upstream, "UT", "The response did not come in time; the detail names the time-out. Look at the endpoint's load; raise the rule's `timeout.response` or `timeout.total` if it may take longer.";
    TRY_TIMEOUT = "route.try_timeout", Handle, Upstream, "UT", "The endpoint did not respond within the rule's `timeout.per_try`. Look at the endpoint; raise the time-out, or allow another attempt with `retry.when: try_timeout`.";
    STREAM_IDLE = "route.idle", Handle, Local, "SI", "No byte moved either way for the rule's `timeout.idle`. Look at the endpoint: it stopped in the middle of its response; raise `timeout.idle` for streams that may be silent.";
    RETRIES_EXHAUSTED = "route.retries_exhausted", Handle, Upstream, "URX", "Every attempt that the rule allows failed; the attempts and the detail say how. Look at the endpoints; raise `retry.attempts` only if they recover quickly.";
    RETRIED = "route.retried", Handle, Upstream, "-", "The endpoint responded with what the rule retries. It is in attempts only, with the status; look at that endpoint.";
    UPSTREAM_PROTOCOL = "upstream.protocol", Handle, Upstream, "UPE", "The endpoint's message breaks the protocol; the detail says how and where. Compare the cluster's `protocol` and `tls` with what the endpoint speaks, or fix the endpoint.";
    UPSTREAM_REFUSED_STREAM = "upstream.refused_stream", Handle, Upstream, "UR", "The endpoint refused the stream without looking at it (REFUSED_STREAM or GOAWAY); the detail has the code. Look at its limits of streams and its restarts; lower `reuse.streams`.";
    UPSTREAM_CUT = "upstream.cut", Handle, Upstream, "UC", "The endpoint broke off in the middle of its response; what had come was passed on, and the client's response broken off. Look at the endpoint's log at that time: a crash, a restart or a time-out.";
    CANCELLED = "downstream.cancelled", Handle, Downstream, "DC", "The client gave the request up before its response was complete. Look at the client's time-out and at the endpoint of the last attempt, which says how long it was waited for.";
    KEEPALIVE_IDLE = "http.idle", Handle, Local, "-", "The client sent no further request within `idle_timeout`: the usual end of a kept connection. Nothing to do.";
}

/// Every reason that layers up to this one know, for documents and for the test of uniqueness.
pub fn all() -> impl Iterator<Item = sluice_core::Reason> {
    sluice_l4::reasons::all().chain(TABLE.iter().copied())
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_unique_and_have_help() {
        let mut codes = std::collections::BTreeSet::new();
        for reason in super::all() {
            assert!(codes.insert(reason.code()), "{reason} stands twice");
            assert!(reason.def().help.ends_with(['.', '?']), "{reason} has no sentence of help");
        }
    }
}
