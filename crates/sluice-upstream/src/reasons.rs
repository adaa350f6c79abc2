//! Why an endpoint was not reached, or was lost.

use std::io;

use sluice_core::Reason;

sluice_core::reasons! {
    CLUSTER_UNKNOWN = "cluster.unknown", Handle, Local, "NC", "The cluster that the chain names is not in the configuration any more.";
    NO_ENDPOINT = "upstream.no_endpoint", Handle, Upstream, "UH", "The cluster has no endpoints.";
    NO_HEALTHY = "upstream.no_healthy", Handle, Upstream, "UH", "Every endpoint of the cluster is unhealthy, ejected or was tried already; see /clusters.";
    LIMIT = "upstream.limit", Handle, Local, "UO", "The cluster is at `limits.connections`, or all its endpoints at their own limit.";
    DNS = "upstream.dns", Handle, Upstream, "DF", "The cluster's host names have not been resolved; see /clusters for what the resolver said.";
    REFUSED = "upstream.refused", Handle, Upstream, "UF", "The last endpoint tried refused the connection; is the service up and listening there?";
    UNREACHABLE = "upstream.unreachable", Handle, Upstream, "UF", "The last endpoint tried could not be reached; the attempt has the system's error number.";
    CONNECT_TIMEOUT = "upstream.connect_timeout", Handle, Upstream, "UF", "The last endpoint tried did not answer within `connect_timeout`.";
    TLS = "upstream.tls", Handle, Upstream, "UF", "The TLS handshake with the last endpoint tried failed; the detail says why.";
    STARTTLS_REFUSED = "starttls.refused", Handle, Upstream, "UF", "The endpoint does not speak TLS on request; enable it there or do not ask for it.";
    FDS = "local.fds", Handle, Local, "-", "Sluice had no open file left for a socket; raise the limit of open files (`ulimit -n`, `LimitNOFILE=`), or look at `descriptor_reserve` and `flow_descriptors_percent`.";
    MEMORY = "local.memory", Handle, Local, "-", "The system had no memory left for a socket; see net.ipv4.tcp_mem and the memory limit of the control group.";
    LOOP = "local.loop", Handle, Local, "-", "What came in had passed as many listeners of this process as `own_hops` allows: a cluster leads back to the listener that uses it; correct its endpoints.";
    RESET = "upstream.reset", Handle, Upstream, "UC", "The endpoint reset the connection; the reset was passed on.";
    CLOSED_EARLY = "upstream.closed_early", Handle, Upstream, "UC", "The endpoint closed before the stream could begin.";
}

const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;

/// The reason for an error of `socket(2)` or `connect(2)`. What the process or the system lacks is no fault of the
/// endpoint's.
pub fn of_connect_error(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(EMFILE | ENFILE) => return FDS,
        Some(ENOBUFS | ENOMEM) => return MEMORY,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => REFUSED,
        io::ErrorKind::TimedOut => CONNECT_TIMEOUT,
        io::ErrorKind::ConnectionReset => RESET,
        io::ErrorKind::UnexpectedEof => CLOSED_EARLY,
        _ => UNREACHABLE,
    }
}
