//! Every limit in one table.
//!
//! Owns: the name, default, range and help of each limit; a set of configured values.
//! Refuses to know: the code that enforces them. Keeps: every buffer, table and wait takes its bound from here;
//! what is evicted, refused or ended at a bound is counted, under the limit's name or as a reason.

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// A number of items.
    Count,
}

/// One row of the table.
#[derive(Debug)]
pub struct LimitDef {
    /// The name in configuration, metrics and documentation.
    pub name: &'static str,
    /// The value when the configuration sets none.
    pub default: u64,
    /// The smallest permitted value.
    pub min: u64,
    /// The largest permitted value.
    pub max: u64,
    /// The unit.
    pub unit: Unit,
    /// What is bounded and what happens at the bound.
    pub help: &'static str,
}

macro_rules! limits {
    ($($variant:ident = $name:literal, $default:expr, $min:expr, $max:expr, $unit:ident, $help:literal;)+) => {
        /// A row of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit { $(#[doc = $help] $variant,)+ }

        /// The table.
        pub const TABLE: &[LimitDef] = &[$(LimitDef {
            name: $name, default: $default, min: $min, max: $max, unit: Unit::$unit, help: $help,
        }),+];

        impl Limit {
            /// Every limit, in table order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
        }
    };
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

limits! {
    InspectBytes = "inspect_bytes", 16 * KIB, 512, 64 * KIB, Bytes, "The most that `inspect.bytes` of a listener may be, and the bytes buffered for a PROXY protocol header. At `inspect.bytes` the chain is selected from the bytes received so far, or the connection is closed (`inspect.on_timeout`).";
    WorkerConnections = "worker_connections", 1_000_000, 16, 10_000_000, Count, "Concurrent connections per worker; at the bound new connections are closed (`accept.limit`).";
    WorkerBuffers = "worker_buffer_bytes", 256 * MIB, MIB, 64 * 1024 * MIB, Bytes, "Bytes that a worker may hold for requests in flight (7 KiB each, besides large headers) and buffer for slow receivers; at the bound a connection that needs more is closed (`relay.buffers`). Data leaves an eighth to requests. A request is refused (`http.memory`) unless it leaves a sixteenth, or a quarter if it is beside others on its connection.";
    ProcessBuffers = "process_buffer_bytes", 1024 * MIB, MIB, 1024 * 1024 * MIB, Bytes, "The same of all workers together, whichever worker a connection is on.";
    ConnectionBuffers = "connection_buffer_bytes", 8 * MIB, 256 * KIB, 1024 * MIB, Bytes, "Bytes of request bodies that one downstream HTTP/2 connection may buffer for slow endpoints before its connection window, of at most this size, is no longer granted again; then the client may send no more until some bytes have been read.";
    QuicHellos = "quic_hellos", 1024, 16, 1_000_000, Count, "QUIC ClientHellos, incomplete or not yet claimed, that a worker keeps per socket; at the bound the oldest is evicted and counted. Clients with a validated address have a separate quota of the same size.";
    QuicIds = "quic_ids", 65_536, 64, 16_777_216, Count, "Connection IDs of the servers that QUIC is passed through to, by which a client is recognised after its address changes; at the bound the oldest is forgotten and counted.";
    WorkerPipes = "worker_pipes", 128, 0, 4096, Count, "Pipes that a worker keeps for `splice(2)`; at the bound bulk streams are copied instead.";
    DescriptorReserve = "descriptor_reserve", 256, 16, 1_000_000, Count, "File descriptors reserved for the admin address, log files, certificates and health checks, which connections, flows and pipes may not use; never more than a quarter of the process's limit. When the others are in use, new clients wait in the backlog and no more connections to endpoints are opened (`local.fds`).";
    FlowDescriptors = "flow_descriptors_percent", 50, 1, 100, Count, "Percentage of the file descriptors outside `descriptor_reserve` that UDP flows may use, over all workers; at the bound the flow of the same listener and worker that has been idle longest is evicted if it has been idle for a second, else the datagram is dropped (`local.fds`). Flows of other listeners are not evicted.";
    FlowUnanswered = "flow_unanswered_seconds", 10, 1, 86_400, Count, "Idle timeout in seconds of a UDP flow whose endpoint has never replied, where `idle_timeout` is longer; then the flow ends (`flow.unanswered`).";
    OwnHops = "own_hops", 8, 1, 255, Count, "Listeners of this process that a connection or flow may pass through in sequence; at the bound it is treated as a loop and ended (`local.loop`).";
    FilterWait = "filter_wait_seconds", 10, 1, 3600, Count, "Seconds that a filter may take to decide; at the bound the connection is closed, or the request gets a 504 response (`filter.timeout`).";
    SideCalls = "side_calls", 1024, 1, 1_000_000, Count, "Side calls in flight per worker: requests that filters send to clusters. Calls on behalf of requests that are side calls themselves have a separate quota of the same size. At the bound a call fails (`sidecall.limit`).";
    SideCallBytes = "side_call_bytes", MIB, KIB, 256 * MIB, Bytes, "The body of the response to a side call; a larger one fails the call (`sidecall.too_large`).";
    DiscoveryBytes = "discovery_bytes", 64 * MIB, KIB, 1024 * MIB, Bytes, "A message of a control plane; a larger one ends its stream, which is opened again.";
    OnDemandRequests = "on_demand_requests", 1024, 1, 1_000_000, Count, "Requests of all workers that wait for a cluster, virtual host or scope which a control plane sends on demand (`on_demand`); at the bound a request for one that is not there is refused at once (`cluster.unknown`, `route.unmatched`).";
    OnDemandClusters = "on_demand_clusters", 10_000, 1, 10_000_000, Count, "Clusters that a control plane is asked for on demand; at the bound others are not asked for, and requests for them are refused (`cluster.unknown`).";
    OnDemandHosts = "on_demand_hosts", 10_000, 1, 10_000_000, Count, "Virtual hosts that a control plane is asked for on demand; at the bound others are not asked for, and requests for them are refused (`route.unmatched`).";
    OnDemandScopes = "on_demand_scopes", 10_000, 1, 10_000_000, Count, "Scopes whose routes a control plane is asked for on demand; at the bound others are not asked for, and requests of them are refused (`route.unmatched`).";
    RouteScopes = "route_scopes", 100_000, 1, 10_000_000, Count, "Values of the scopes of a route table, of all its virtual hosts together; a table with more is refused.";
    HealthDiscovery = "health_discovery_checks", 4096, 1, 1_000_000, Count, "Checks of endpoints that a control plane may ask for (HDS): the endpoints of each of its clusters times their checks. A request for more is refused as a whole, and what was asked for before is checked on.";
    Mirrors = "mirrors", 1024, 0, 1_000_000, Count, "Copies of requests (`mirror`) in flight per worker; at the bound a copy is not sent.";
    MirrorBytes = "mirror_body_bytes", 256 * KIB, 0, 256 * MIB, Bytes, "The body of a request that is copied (`mirror`); a request with a larger body is not copied.";
    SideCallReserve = "side_call_reserve_percent", 10, 1, 90, Count, "Percentage of the connections, requests and streams that `limits` and `reuse.streams` of a cluster allow which is reserved for side calls, once filters call the cluster; at least one, if more than one is allowed. Other requests have the rest.";
    Fetches = "fetches", 32, 1, 4096, Count, "Attempts in flight to fetch content for filters, such as keys or lists; at the bound further ones wait.";
    LookupBytes = "lookup_bytes", 64 * MIB, KIB, 1024 * MIB, Bytes, "A file that values are looked up in, such as a table or a database of addresses; a larger one cannot be used.";
    WasmBytes = "wasm_module_bytes", 32 * MIB, KIB, 1024 * MIB, Bytes, "A file with a module of WebAssembly; a larger one cannot be used.";
    JwtBytes = "jwt_bytes", 16 * KIB, 256, MIB, Bytes, "A token of the filter `jwt`; a larger one is refused (`jwt.malformed`).";
    JwtCache = "jwt_cache_bytes", 8 * MIB, 0, 1024 * MIB, Bytes, "Tokens that a worker remembers as verified; at the bound those not used for longest are forgotten, and verified again when they are used.";
    OidcSession = "oidc_session_bytes", 16 * KIB, KIB, 64 * KIB, Bytes, "The session of a login (`oidc`) as it is in cookies, in as many as it takes; a larger one is not made (`oidc.too_large`), and is no session in a request.";
    OidcFlows = "oidc_logins", 4, 1, 16, Count, "Logins of a browser on their way, in cookies; at the bound the one that began first is given up.";
    OidcRenewals = "oidc_renewals", 1024, 1, 1_000_000, Count, "Sessions per worker whose tokens are being renewed, or were less than a minute ago; at the bound those that have been renewed are forgotten, and if all are in flight a further one is refused (`oidc.unavailable`).";
    OidcTokens = "oidc_token_cache_bytes", 4 * MIB, 0, 1024 * MIB, Bytes, "Answers of a provider about opaque tokens that a worker remembers (`introspection`); at the bound those not used for longest are forgotten, and the provider is asked again.";
    PasswordThreads = "password_threads", 2, 1, 256, Count, "Passwords that the filter `basic_auth` hashes at once, per worker, on threads beside it; further requests wait.";
    PasswordQueue = "password_queue", 64, 1, 65_536, Count, "Requests per worker whose password is hashed or waits for that; at the bound a further one gets 503 (`basic.busy`).";
    PasswordsOfSource = "password_queue_of_source", 8, 1, 65_536, Count, "The same, of one source: an IPv4 address or an IPv6 /64. At the bound a further request of the source gets 503 (`basic.busy`).";
    SourceTable = "source_table_entries", 65_536, 64, 16_777_216, Count, "Sources that a per-source limit, or a cluster with sticky sources, tracks over all workers; at the bound the least recently seen is forgotten, but none with connections, requests or bytes that count.";
    FlowTable = "flow_table_entries", 65_536, 16, 4_194_304, Count, "UDP flows per listener and worker; at the bound the listener's flow that has been idle longest on the worker is evicted if it has been idle for a second, else the datagram is dropped.";
    FlowsWaiting = "flows_waiting", 1024, 1, 1_000_000, Count, "New UDP flows per listener and worker that wait for a filter, each with the datagrams of its client, up to 32 KiB; at the bound the first datagram of a further one is dropped (`flow.waiting_full`).";
    HandshakePartial = "handshake_bytes", 64 * KIB, 16 * KIB, 64 * KIB, Bytes, "Bytes buffered for an unfinished TLS handshake; at the bound the connection is closed (`tls.protocol`).";
    LogQueue = "log_queue_records", 16_384, 64, 1_048_576, Count, "Log records per worker that may wait for the log thread; at the bound records are dropped and counted.";
    LoggerQueue = "logger_queue_records", 16_384, 64, 1_048_576, Count, "Records that may wait for a loaded library that is an access log; at the bound records are dropped and counted (`sluice_process_log_records_unwritten_total`).";
    Taps = "taps", 16_384, 1, 1_000_000, Count, "Requests and connections of all workers that are being traced, or may still come to be (`tap`); at the bound further ones are not traced.";
    TapBytes = "tap_bytes", MIB, KIB, 1024 * MIB, Bytes, "Bytes that a trace (`tap`) records of a request or a connection; what is more is left out. Traces of requests and connections that go on share half of `worker_buffer_bytes` with everything else; beyond it no more is recorded.";
    TapQueue = "tap_queue_bytes", 16 * MIB, KIB, 1024 * MIB, Bytes, "Traces (`tap`) of all workers that wait to be written; at the bound a further one is lost.";
    TapFiles = "tap_files", 10_000, 1, 100_000_000, Count, "Files that the process writes for traces (`tap`) while it lives; at the bound no more requests and connections are traced.";
    TapFileBytes = "tap_file_bytes", 1024 * MIB, KIB, 1024 * 1024 * MIB, Bytes, "Bytes that the process writes to such files while it lives; at the bound no more requests and connections are traced.";
    ResolvedAddresses = "resolved_addresses", 1024, 1, 65_536, Count, "Addresses used per host name; a look-up that returns more uses the first of them in numerical order and is counted (`result=\"too_many\"`).";
    ForwardLookups = "forward_lookups", 1024, 1, 65_536, Count, "Connections and requests that wait for the look-up of a host that a client named (`forward`), per cluster; at the bound a further one is refused (`upstream.limit`).";
    Subsets = "subsets", 1024, 1, 65_536, Count, "Subsets of a cluster by the metadata of its endpoints (`subsets`); at the bound those of further endpoints are not made, which is logged and shown (`sluice_cluster_subsets`), and requests for them get the fallback.";
    EndpointSeries = "endpoint_series", 1000, 0, 100_000, Count, "Endpoints with their own metrics; the rest share the label `other`.";
    RouteSeries = "route_series", 1000, 0, 100_000, Count, "Route rules with their own metrics, per chain of a listener; the rest share the label `other`.";
    GrpcSeries = "grpc_series", 500, 0, 100_000, Count, "gRPC methods with their own metrics, per use of the filter `grpc_stats` and worker; the rest share the labels `other`.";
    RbacSeries = "rbac_series", 1000, 0, 100_000, Count, "Policies with their own metrics, per use of the filter `rbac` and worker; the rest share the label `other`.";
    Overrides = "overrides", 1024, 1, 65_536, Count, "Overrides of endpoints (`sluice endpoint`), and pauses of listeners (`sluice listener`), each; at the bound a further one is refused and counted.";
    AdminConnections = "admin_connections", 64, 1, 4096, Count, "Concurrent connections to the admin address; beyond it only `/ready` is served, everything else gets 503, and the connection is counted.";
    AdminAnswer = "admin_answer_seconds", 30, 1, 3600, Count, "Seconds that a client of the admin address may take to read a response; then its connection is closed.";
}

impl Limit {
    /// The row of this limit.
    pub const fn def(self) -> &'static LimitDef {
        &TABLE[self as usize]
    }
}

/// A value for each limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits([u64; TABLE.len()]);

impl Default for Limits {
    fn default() -> Self {
        Self(std::array::from_fn(|row| TABLE[row].default))
    }
}

impl Limits {
    /// The value of `limit`.
    pub const fn get(&self, limit: Limit) -> u64 {
        self.0[limit as usize]
    }

    /// The value of `limit` as a `usize`, for indexing and sizing.
    pub fn size(&self, limit: Limit) -> usize {
        usize::try_from(self.get(limit)).unwrap_or(usize::MAX)
    }

    /// Sets `limit` to `value` if it is in range.
    ///
    /// # Errors
    /// `(min, max)` of the row if `value` is out of range.
    pub const fn set(&mut self, limit: Limit, value: u64) -> Result<(), (u64, u64)> {
        let row = limit.def();
        if value < row.min || value > row.max {
            return Err((row.min, row.max));
        }
        self.0[limit as usize] = value;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_lie_in_their_ranges_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for row in TABLE {
            assert!(row.min <= row.default && row.default <= row.max, "{}", row.name);
            assert!(names.insert(row.name), "{} is declared twice", row.name);
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_and_changes_nothing() {
        let mut limits = Limits::default();
        assert_eq!(limits.set(Limit::WorkerPipes, 5000), Err((0, 4096)));
        assert_eq!(limits.get(Limit::WorkerPipes), 128);
        assert_eq!(limits.set(Limit::WorkerPipes, 0), Ok(()));
        assert_eq!(limits.get(Limit::WorkerPipes), 0);
    }
}
