//! Why requests and the connections that carry them ended.

sluice_core::reasons! {
    VIA_UPSTREAM = "http.answered", Handle, Upstream, "-", "An endpoint answered and the answer was passed on whole.";
    LOCAL = "http.local", Handle, Local, "-", "Sluice answered by itself: a redirect, a direct response, or a filter.";
    MALFORMED = "http.malformed", Handle, Downstream, "DPE", "The client's message breaks the protocol; the detail says how.";
    HEAD_TIMEOUT = "http.head_timeout", Handle, Downstream, "DPE", "The head of a request did not come within `head_timeout`.";
    BODY_TIMEOUT = "http.body_timeout", Handle, Downstream, "SI", "No part of a request's body came within `body_timeout`.";
    HEAD_TOO_LARGE = "http.head_too_large", Handle, Downstream, "DPE", "The head of a request is larger than `head_bytes` or has more fields than `head_fields`.";
    QUIC_PROTOCOL = "quic.protocol", Transport, Downstream, "DPE", "The client broke QUIC, or its handshake failed; the detail says how.";
    TOO_EARLY = "http.too_early", Handle, Local, "-", "A request that changes something came before the handshake had ended (0-RTT), when it could have been repeated by somebody else; the client makes it again.";
    MISDIRECTED = "http.misdirected", Handle, Downstream, "-", "The request names a host that another chain of the listener serves, with other client certificates than this connection's chain asks for. Clients connect to that host by its own name (SNI) and repeat the request; if both hosts are meant to share connections, give their chains the same `client_auth`.";
    BODY_TOO_LARGE = "http.body_too_large", Handle, Local, "-", "A body is larger than a filter or `body_max` allows.";
    RATE = "http.rate", Handle, Local, "RL", "The filter `rate_limit` had nothing left for the request.";
    DENIED = "http.denied", Handle, Local, "UAEX", "A filter refused the request.";
    FLOOD = "http.flood", Handle, Downstream, "DPE", "The client did what only floods do: resets, pings, settings or empty frames without end.";
    UPGRADE_DENIED = "http.upgrade_denied", Handle, Local, "-", "The route does not list the protocol that the client wants to upgrade to, or does not allow CONNECT.";
    ROUTE_UNMATCHED = "route.unmatched", Handle, Local, "NR", "No virtual host or no rule of it matches; `/try` on the admin address says why.";
    ROUTE_TIMEOUT = "route.timeout", Handle, Upstream, "UT", "The head of the response did not come within the route's `timeout.response`, or the whole within `timeout.total`.";
    TRY_TIMEOUT = "route.try_timeout", Handle, Upstream, "UT", "The endpoint did not answer within the route's `timeout.per_try`.";
    STREAM_IDLE = "route.idle", Handle, Local, "SI", "No byte of the exchange moved for the route's `timeout.idle`.";
    RETRIES_EXHAUSTED = "route.retries_exhausted", Handle, Upstream, "URX", "Every try that the route allows failed; the attempts say how.";
    RETRIED = "route.retried", Handle, Upstream, "-", "The endpoint answered with what the rule tries again for; stands in attempts only.";
    UPSTREAM_PROTOCOL = "upstream.protocol", Handle, Upstream, "UPE", "The endpoint's message breaks the protocol; the detail says how.";
    UPSTREAM_REFUSED_STREAM = "upstream.refused_stream", Handle, Upstream, "UR", "The endpoint refused the stream without looking at it.";
    UPSTREAM_CUT = "upstream.cut", Handle, Upstream, "UC", "The endpoint broke off in the middle of its answer; what had come was passed on, and the client told.";
    CANCELLED = "downstream.cancelled", Handle, Downstream, "DC", "The client gave the request up before the answer was complete.";
    KEEPALIVE_IDLE = "http.idle", Handle, Local, "-", "The client sent no further request within `idle_timeout`; the usual end of a kept connection.";
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
