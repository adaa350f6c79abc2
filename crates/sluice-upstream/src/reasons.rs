//! Why an endpoint was not reached, or was lost.

use std::io;

use sluice_core::Reason;

sluice_core::reasons! {
    CLUSTER_UNKNOWN = "cluster.unknown", Handle, Local, "NC", "The cluster is not configured: a `cluster_header`, an expression, a server name or a filter (`cluster_from`) named it, a control plane did not send it on demand, or a reload removed it while the connection or request was in flight. Add it under `clusters` and, for a relay, to `allow`, or fix the client; the detail contains the name.";
    NAME_MISSING = "name.missing", Handle, Downstream, "NR", "The client gave no name, by which its cluster or endpoint is found, or none that can be one. Clients must send a server name (SNI) to a relay with `cluster_from: sni` or to a cluster with `forward`, and a host in a request to the latter; for others, add a chain or a rule that leads elsewhere.";
    NAME_DENIED = "name.denied", Handle, Downstream, "-", "The client named a host or port that the forward proxy does not serve; the detail says which. Add it to `forward.hosts` or `forward.ports` of the cluster, if clients may go there.";
    NO_ENDPOINT = "upstream.no_endpoint", Handle, Upstream, "UH", "The cluster has no endpoints: its control plane sent none, or its `endpoints_file` lists none. Check the service discovery behind it.";
    NO_HEALTHY = "upstream.no_healthy", Handle, Upstream, "UH", "No endpoint of the cluster is usable; the detail counts those that are unhealthy, ejected, or withheld by an operator (`sluice endpoint`). See `/clusters` on the admin address for each endpoint, then check the service or the cluster's `health` and `outlier`.";
    NO_SUBSET = "upstream.no_subset", Handle, Upstream, "UH", "The cluster has `subsets`, no endpoint has the metadata that the connection or request asks for (`endpoint_metadata`), and there is no fallback. The detail lists the subsets. Correct `endpoint_metadata` or the `metadata` of the endpoints, or set `fallback` of the subsets.";
    SESSION = "upstream.session", Handle, Upstream, "UH", "The endpoint of the client's session is not usable, at a limit or gone, and `strict` allows no other. See `/clusters` on the admin address; remove `strict` from `sticky` if another endpoint can serve the client.";
    LIMIT = "upstream.limit", Handle, Local, "UO", "A limit of the cluster was reached; the detail names it. Raise it under the cluster's `limits`, or add endpoints.";
    QUEUE_FULL = "upstream.queue_full", Handle, Local, "UO", "Every endpoint was at its limit, and as many connections or requests waited as `limits.queue.size` of the cluster allows. Add endpoints, raise the limit that the detail names if the service can bear more, or raise `size`.";
    QUEUE_TIMEOUT = "upstream.queue_timeout", Handle, Local, "UO", "Every endpoint was at its limit, and none had room within `limits.queue.timeout` of the cluster. Add endpoints, raise the limit that the detail names if the service can bear more, or raise `timeout`.";
    DROPPED = "upstream.dropped", Handle, Local, "DO", "`drop` of the cluster, or `drop_overloads` of its control plane, drops a part of the traffic to protect the endpoints; the detail contains the category. Lower its share or remove it once the endpoints can serve everything.";
    DNS = "upstream.dns", Handle, Upstream, "DF", "No host name of the cluster could be resolved; the detail contains the name server's response. Check the name in `endpoints` and the cluster's `dns.servers`.";
    EGRESS = "upstream.egress", Handle, Local, "-", "The cluster's `egress` denies the address; the detail says why. The owner of the name, or the client that chose it, points inside your network. If traffic may go there, add the address to `egress: { allow: [...] }` of the cluster.";
    REFUSED = "upstream.refused", Handle, Upstream, "UF", "The endpoint refused the connection; the detail names it. Check that the service runs and listens on that address and port.";
    UNREACHABLE = "upstream.unreachable", Handle, Upstream, "UF", "The endpoint could not be reached; the detail contains the system's error. Check the address in `endpoints`, routes and firewalls.";
    CONNECT_TIMEOUT = "upstream.connect_timeout", Handle, Upstream, "UF", "No connection to the endpoint was established within `connect_timeout`. Check its load, its backlog and firewalls that drop packets; raise `connect_timeout` for slow paths.";
    TLS = "upstream.tls", Handle, Upstream, "UF", "The TLS handshake with the endpoint failed; the detail says why. Check the endpoint's certificate and the cluster's `tls`: `ca`, `sni`, `alpn`, `min_version`.";
    STARTTLS_REFUSED = "starttls.refused", Handle, Upstream, "UF", "The endpoint refused the request to start TLS. Enable TLS on the endpoint (PostgreSQL: `ssl = on`), or remove `tls` from the cluster and `sni` from the chain.";
    FDS = "local.fds", Handle, Local, "-", "Sluice had no file descriptor left for a socket. Raise the limit of open files (`ulimit -n`, `LimitNOFILE=`), or check the limits `descriptor_reserve` and `flow_descriptors_percent`.";
    MEMORY = "local.memory", Handle, Local, "-", "The system had no memory left for a socket. Raise `net.ipv4.tcp_mem` or the memory limit of the control group.";
    LOCAL_CONNECT = "local.connect", Handle, Local, "-", "This machine did not let Sluice open the connection; the attempt contains the system's error number. `EADDRNOTAVAIL` (99): every source port to that endpoint is in use; widen `net.ipv4.ip_local_port_range`, add endpoints, or reuse connections. `EPERM` (1), `EACCES` (13): a local firewall rule, a security policy or the permissions of the unix socket forbid it, or the endpoint is a broadcast address; allow it or correct the address. `EAFNOSUPPORT` (97): the system has no IPv6 (or no IPv4); enable it, or use addresses of the other family.";
    RESET = "upstream.reset", Handle, Upstream, "UC", "The endpoint reset the connection or stream; the detail contains the code. Check the endpoint's log at that time for a crash, a limit or a timeout of its own.";
    CLOSED_EARLY = "upstream.closed_early", Handle, Upstream, "UC", "The endpoint closed the connection before it responded. Check the endpoint's log; if it closes idle connections, set the cluster's `reuse.idle_timeout` below its keep-alive timeout.";
    LOOP = "local.loop", Handle, Local, "-", "The connection or flow had passed as many listeners of this process as `own_hops` allows: a cluster leads back to the listener that uses it. Correct the cluster's endpoints.";
}

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;
const ENOBUFS: i32 = 105;

/// Whether the cluster had no room: at a limit, without a queue or after waiting in it.
pub fn is_overload(why: Reason) -> bool {
    [LIMIT, QUEUE_FULL, QUEUE_TIMEOUT].contains(&why)
}

/// The reason for an error of `socket(2)` or `connect(2)`. What the process or the system lacks is not the endpoint's
/// fault.
pub fn of_connect_error(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(EMFILE | ENFILE) => return FDS,
        Some(ENOBUFS | ENOMEM) => return MEMORY,
        Some(EADDRNOTAVAIL | EPERM | EACCES | EAFNOSUPPORT) => return LOCAL_CONNECT,
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

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::reason::Side;

    #[test]
    fn what_this_machine_refuses_is_not_blamed_on_the_endpoint() {
        let reason = |errno| of_connect_error(&io::Error::from_raw_os_error(errno));
        for errno in [EPERM, EACCES, EAFNOSUPPORT, EADDRNOTAVAIL] {
            assert_eq!(reason(errno), LOCAL_CONNECT, "errno {errno}");
        }
        assert_eq!(LOCAL_CONNECT.def().side, Side::Local);
        let (ehostunreach, econnrefused) = (113, 111);
        assert_eq!(reason(ehostunreach), UNREACHABLE);
        assert_eq!(reason(econnrefused), REFUSED);
    }
}
