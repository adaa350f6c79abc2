//! Why requests and the connections that carry them ended.

sluice_core::reasons! {
    VIA_UPSTREAM = "http.answered", Handle, Upstream, "-", "An endpoint responded, and the whole response was forwarded. Nothing to do; for a status of 400 or more, check the endpoint.";
    LOCAL = "http.local", Handle, Local, "-", "Sluice responded itself: through `redirect` or `respond` of the rule, or through a filter. Nothing to do; `response_code_details` shows which.";
    MALFORMED = "http.malformed", Handle, Downstream, "DPE", "The client's message violates the protocol; the detail describes how. Fix the client; if it speaks TLS to a port without `tls`, use the other port.";
    HEAD_TIMEOUT = "http.head_timeout", Handle, Downstream, "DPE", "The request headers did not arrive within `head_timeout`. Check the client: it is slow, or an attacker that sends byte by byte. Raise `head_timeout` for slow network paths.";
    BODY_TIMEOUT = "http.body_timeout", Handle, Downstream, "SI", "No part of the request body arrived within `body_timeout`. Check the client and its network path; raise `body_timeout` for slow uploads.";
    HEAD_TOO_LARGE = "http.head_too_large", Handle, Downstream, "DPE", "The request headers are larger than `head_bytes`, or there are more than `head_fields` of them. Look for large cookies; raise the setting if they are legitimate.";
    TOO_EARLY = "http.too_early", Handle, Local, "-", "A request that changes state arrived before the handshake was complete (0-RTT), when it could be a replay. Nothing to do: the client sends it again; set `early_data_sessions: 0` if it does not.";
    MISDIRECTED = "http.misdirected", Handle, Downstream, "-", "The request names a host of another chain of the listener, which asks for other client certificates than the chain of this connection. Clients connect to that host by its own name (SNI) and repeat the request; if both hosts are meant to share connections, give their chains the same `client_auth`.";
    BODY_TOO_LARGE = "http.body_too_large", Handle, Local, "-", "The request body is larger than `body_max` or `buffer` allows. Raise the filter's `max` if such bodies are legitimate.";
    RESPONSE_TOO_LARGE = "http.response_too_large", Handle, Local, "-", "A filter receives responses whole, and the body of this one is larger than it allows; the detail names the filter. Raise its limit if such responses are legitimate.";
    RATE = "http.rate", Handle, Local, "RL", "The request exceeds the rate of the filter `rate_limit`. Raise `requests` or `burst`, or check the client.";
    GLOBAL_RATE = "http.global_rate", Handle, Local, "RL", "The request exceeds a limit of the service that the filter `global_rate_limit` asks, or the rate in `local` while the service does not decide; `response_code_details` shows which. Check the limits of the service, or the client.";
    DENIED = "http.denied", Handle, Local, "UAEX", "A filter refused the request. Check the settings of the filter; `response_code_details` contains what the decision was based on.";
    BASIC_MISSING = "basic.missing", Handle, Local, "UAEX", "The request has no name and password that the filter `basic_auth` requires. Nothing to do: browsers ask their users now.";
    BASIC_REFUSED = "basic.refused", Handle, Local, "UAEX", "The name or the password is wrong, or what the client sent cannot be read; `response_code_details` shows which. Check the client, and whether the user is in `users_file`; many of them from one source are guesses.";
    BASIC_BUSY = "basic.busy", Handle, Local, "UO", "Too many passwords wait for being hashed: of all clients (`limits.password_queue`) or of this source (`limits.password_queue_of_source`); `response_code_details` shows which. Check whether the source guesses passwords; raise the limit, or `limits.password_threads`, if it is legitimate.";
    API_KEY_MISSING = "api_key.missing", Handle, Local, "UAEX", "The request has no key that the filter `api_key` requires. Check the client: it sends none, or elsewhere than `from` says.";
    API_KEY_UNKNOWN = "api_key.unknown", Handle, Local, "UAEX", "The key of the request is not among those of the filter `api_key`, or there are several; `response_code_details` shows which. Check the client; compare `printf %s KEY | sha256sum` with the hashes.";
    API_KEY_DENIED = "api_key.denied", Handle, Local, "UAEX", "The key is known, but its holder is not among those in `allow`. Add the holder, or check the client.";
    CREDENTIAL_UNAVAILABLE = "credential.unavailable", Handle, Local, "UAEX", "The filter `inject_credentials` has no access token that has not expired, so that the request was not forwarded. `/fetches` shows why; check the authorisation server, the client and its secret.";
    JWT_MISSING = "jwt.missing", Handle, Local, "UAEX", "The request has no token that the filter `jwt` requires. Nothing to do if the client is not logged in; otherwise compare where it sends the token with `from` of the provider.";
    JWT_MALFORMED = "jwt.malformed", Handle, Local, "UAEX", "What the client sent is no token that can be read with certainty: malformed, too large (`limits.jwt_bytes`), with a critical extension, or there are several; `response_code_details` shows which. Check the client, and whether the issuer's tokens are JWTs.";
    JWT_KEY = "jwt.key", Handle, Local, "UAEX", "The token was signed with a key that is not among those of the provider, or with an algorithm that `algorithms` does not allow; `response_code_details` shows which. Compare `kid` of the token with the keys of the issuer; `/fetches` shows when they were fetched.";
    JWT_SIGNATURE = "jwt.signature", Handle, Local, "UAEX", "The signature of the token is not valid: it was changed or forged, or the keys of the provider are not those of the issuer. Check the client, and the keys.";
    JWT_TIME = "jwt.time", Handle, Local, "UAEX", "The token has expired, is not valid yet, or does not say when it expires; `response_code_details` shows which. Nothing to do if the client gets a new one; otherwise compare the clocks, raise `skew`, or set `require_expiration: false`.";
    JWT_CLAIMS = "jwt.claims", Handle, Local, "UAEX", "The token is from another issuer, for another audience, or has a claim that no header can contain; `response_code_details` shows which. Check the client, and compare `iss` and `aud` of the token with `issuer` and `audiences` of the provider.";
    JWT_UNAVAILABLE = "jwt.unavailable", Handle, Local, "UAEX", "The keys of the provider could not be fetched yet, so that no token can be verified. `/fetches` shows why; check the cluster and the path of `jwks_remote`, or the file.";
    JWT_PROVIDER = "jwt.provider", Handle, Local, "UAEX", "`require` of a rule or virtual host names a provider that the filter `jwt` of the chain does not have, or there is no such filter. Add the provider to the chain, or give the rule its own `providers`.";
    FAULT_ABORT = "fault.abort", Handle, Local, "FI", "The filter `fault` aborted the request on purpose. Nothing to do while faults are being tried out; otherwise remove the filter, or set its `percent` to 0%.";
    FLOOD = "http.flood", Handle, Downstream, "DPE", "The client sent what only floods contain: endless resets, pings, settings or empty frames; the detail shows which. Check the client; raise `http2.resets` if it is legitimate.";
    UPGRADE_DENIED = "http.upgrade_denied", Handle, Local, "-", "The rule does not list the protocol of the client's upgrade request, or does not allow CONNECT. Add the protocol to `upgrades`, or set `connect: true`.";
    ROUTE_UNMATCHED = "route.unmatched", Handle, Local, "NR", "No virtual host, or none of its rules, matches the request. Query `/try` on the admin address to see which rule it misses and why, then add a rule or a host `*`.";
    ROUTE_TIMEOUT = "route.timeout", Handle, Upstream, "UT", "The response did not arrive in time; the detail names the time-out. Check the load of the endpoint; raise the rule's `timeout.response` or `timeout.total` if the response may take longer.";
    TRY_TIMEOUT = "route.try_timeout", Handle, Upstream, "UT", "The endpoint did not respond within the rule's `timeout.per_try`, or within the time that a filter gives an attempt of its call. Check the endpoint; raise the time-out, or allow another attempt with `retry.when: try_timeout`.";
    STREAM_IDLE = "route.idle", Handle, Local, "SI", "No byte was transferred in either direction for the rule's `timeout.idle`. Check the endpoint: it stopped in the middle of its response. Raise `timeout.idle` for streams that may be silent.";
    RETRIES_EXHAUSTED = "route.retries_exhausted", Handle, Upstream, "URX", "Every attempt that the rule allows failed; the attempts and the detail show how. Check the endpoints; raise `retry.attempts` only if they recover quickly.";
    RETRIED = "route.retried", Handle, Upstream, "-", "The endpoint's response is one that the rule retries. This reason appears in attempts only, with the status; check that endpoint.";
    OVERTAKEN = "route.overtaken", Handle, Local, "-", "An earlier attempt of the same request, which was late and went on (`retry.hedge`), responded first. This reason appears in attempts only. Nothing to do; if it is frequent, raise `timeout.per_try`.";
    UPSTREAM_PROTOCOL = "upstream.protocol", Handle, Upstream, "UPE", "The endpoint's message violates the protocol; the detail shows how and where. Compare the cluster's `protocol` and `tls` with what the endpoint speaks, or fix the endpoint.";
    UPSTREAM_REFUSED_STREAM = "upstream.refused_stream", Handle, Upstream, "UR", "The endpoint refused the stream without processing it (REFUSED_STREAM or GOAWAY); the detail contains the code. Check its stream limits and its restarts; lower `reuse.streams`.";
    UPSTREAM_CUT = "upstream.cut", Handle, Upstream, "UC", "The endpoint broke off in the middle of its response; what had arrived was forwarded, and the response to the client was cut off. If a filter held the response back, the client got a 502 instead. Check the endpoint's log at that time for a crash, a restart or a time-out.";
    CANCELLED = "downstream.cancelled", Handle, Downstream, "DC", "The client cancelled the request before the response was complete. Check the client's time-out, and the endpoint of the last attempt, which shows how long it was waited for.";
    SIDE_CALL_TIMEOUT = "sidecall.timeout", Filter, Local, "-", "A filter asked a cluster, and no response arrived in the time that the filter gave it; `side_calls` of the record shows the call. Check the service that the filter asks.";
    SIDE_CALL_LIMIT = "sidecall.limit", Filter, Local, "UO", "A filter could not ask a cluster, because `limits.side_calls` calls of the worker were in flight. Check how long the service that the filter asks takes to respond; raise the limit if it is fast.";
    SIDE_CALL_TOO_LARGE = "sidecall.too_large", Filter, Upstream, "-", "The response to the request of a filter is larger than `limits.side_call_bytes`. Check the service that the filter asks; raise the limit if its responses are legitimate.";
    SIDE_CALL_PROTOCOL = "sidecall.protocol", Filter, Local, "-", "A filter makes gRPC calls to a cluster that is not reached over HTTP/2. Set `protocol: http2` in the cluster, or `auto` if its endpoints negotiate HTTP/2 over TLS.";
    SIDE_CALL_STATUS = "sidecall.grpc_status", Filter, Upstream, "-", "The gRPC call of a filter ended with an error status, which `side_calls` of the record shows. Check the service that the filter asks, and whether it has the method.";
    SIDE_CALL_MALFORMED = "sidecall.malformed", Filter, Upstream, "UPE", "The response to the gRPC call of a filter is not what gRPC or the method prescribes; `side_calls` of the record shows how. Check that the filter and the service use the same version of the service's definition.";
    SIDE_CALL_REDIS = "sidecall.redis", Filter, Upstream, "UPE", "The Redis server that a filter asks refused the login or the command, or its reply cannot be read; `side_calls` of the record shows what it said. Check user and password, that scripts are allowed, and that the endpoint is a Redis server that takes writes.";
    SIDE_CALL_LOOP = "sidecall.loop", Filter, Local, "-", "A filter asked a listener of this process, whose filter asked one again, and so on: calls within calls end at the second. Correct the cluster that the filter asks, or take the filter off the listener that answers it.";
    KEEPALIVE_IDLE = "http.idle", Handle, Local, "-", "The client sent no further request within `idle_timeout`: the usual end of a keep-alive connection. Nothing to do.";
}

/// Returns all reasons of this layer and those below it, for documents and for the test of uniqueness.
pub fn all() -> impl Iterator<Item = sluice_core::Reason> {
    sluice_quic::reasons::all().chain(TABLE.iter().copied())
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_unique_and_have_help() {
        let mut codes = std::collections::BTreeSet::new();
        for reason in super::all() {
            assert!(codes.insert(reason.code()), "{reason} is declared twice");
            assert!(reason.def().help.ends_with(['.', '?']), "{reason} has no sentence of help");
        }
    }
}
