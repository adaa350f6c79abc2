//! Every bound in one table.
//!
//! Owns: name, default, range and help of each limit; a set of chosen values.
//! Refuses to know: who keeps to them. Keeps: whoever holds a buffer, table or wait takes its
//! bound from here and counts reaching it under the same name.

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Count,
}

/// One row of the table.
#[derive(Debug)]
pub struct LimitDef {
    /// The name in configuration, metrics and documents.
    pub name: &'static str,
    /// The value when nothing is said.
    pub default: u64,
    /// The smallest value that may be set.
    pub min: u64,
    /// The largest value that may be set.
    pub max: u64,
    /// What it counts.
    pub unit: Unit,
    /// What is bounded and what happens at the bound.
    pub help: &'static str,
}

macro_rules! limits {
    ($($variant:ident = $name:literal, $default:expr, $min:expr, $max:expr, $unit:ident, $help:literal;)+) => {
        /// Names a row of the table.
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
    InspectBytes = "inspect_bytes", 16 * KIB, 512, 64 * KIB, Bytes, "Bytes of a connection's beginning that may be held to choose its chain; at the bound the choice is made with what is there.";
    WorkerConnections = "worker_connections", 1_000_000, 16, 10_000_000, Count, "Connections a worker holds at once; at the bound new ones are closed (`accept.limit`).";
    WorkerBuffers = "worker_buffer_bytes", 256 * MIB, MIB, 64 * 1024 * MIB, Bytes, "Bytes a worker may hold for slow receivers; at the bound a connection that needs more is closed (`accept.limit`).";
    ConnectionBuffers = "connection_buffer_bytes", 8 * MIB, 256 * KIB, 1024 * MIB, Bytes, "Bytes of request bodies that one HTTP/2 connection of a client may have waiting for slow endpoints: the largest window of a connection; at the bound its client may send no more until some was read.";
    QuicHellos = "quic_hellos", 1024, 16, 1_000_000, Count, "Hellos of QUIC that a worker keeps per socket while they are not whole or not asked for; at the bound the oldest makes room. Clients that have shown to be where they say have as many places of their own.";
    QuicIds = "quic_ids", 65_536, 64, 16_777_216, Count, "Connection IDs of servers that QUIC is passed through to, by which a client is known that comes from another address; at the bound the oldest is forgotten.";
    WorkerPipes = "worker_pipes", 128, 0, 4096, Count, "Pipes a worker keeps for splicing; at the bound a bulky stream is copied instead.";
    DescriptorReserve = "descriptor_reserve", 256, 16, 1_000_000, Count, "Open files that connections, flows and pipes leave to the admin address, log files, certificates and health checks; never more than a quarter of the process's limit. When the rest is in use new clients wait in the backlog, and no more connections to endpoints are opened (`local.fds`).";
    FlowDescriptors = "flow_descriptors_percent", 50, 1, 100, Count, "Percent of the open files that `descriptor_reserve` leaves which UDP flows may hold, over all workers; at the bound the flow of the same listener and worker that has been idle longest makes room if it has been idle for a second, else the datagram is dropped (`local.fds`). Flows of other listeners stay.";
    FlowUnanswered = "flow_unanswered_seconds", 10, 1, 86_400, Count, "Seconds that a UDP flow is kept without a datagram while its endpoint has never answered, where its `idle_timeout` is longer; then it ends (`flow.unanswered`).";
    OwnHops = "own_hops", 8, 1, 255, Count, "Listeners of this process that a connection or flow may pass one after the other; at the bound it is held to be a loop and ended (`local.loop`).";
    FilterWait = "filter_wait_seconds", 10, 1, 3600, Count, "Seconds that a filter may take to decide; at the bound the connection is closed, or the request answered with 504 (`filter.timeout`).";
    SourceTable = "source_table_entries", 65_536, 64, 16_777_216, Count, "Sources that a per-source limit remembers per worker; at the bound the one not seen longest is forgotten.";
    FlowTable = "flow_table_entries", 65_536, 16, 4_194_304, Count, "UDP flows per listener and worker; at the bound that listener's flow which has been idle longest on the worker makes room if it has been idle for a second, else the datagram is dropped.";
    HandshakePartial = "handshake_bytes", 64 * KIB, 16 * KIB, 64 * KIB, Bytes, "Bytes of an unfinished TLS handshake that are held; at the bound the connection is closed (`tls.protocol`).";
    LogQueue = "log_queue_records", 16_384, 64, 1_048_576, Count, "Records per worker that wait for the log thread; at the bound records are dropped and counted.";
    ResolvedAddresses = "resolved_addresses", 1024, 1, 65_536, Count, "Addresses taken from one host name; more are left out and counted.";
    EndpointSeries = "endpoint_series", 1000, 0, 100_000, Count, "Endpoints with metrics of their own; the rest share the label `other`.";
    RouteSeries = "route_series", 1000, 0, 100_000, Count, "Rules with metrics of their own, per listener's chain; the rest share the label `other`.";
    ConfigBytes = "config_bytes", 64 * MIB, KIB, 1024 * MIB, Bytes, "Bytes of one configuration file; a larger one is refused.";
    AdminConnections = "admin_connections", 64, 1, 4096, Count, "Connections to the admin address at once; beyond it `/ready` is answered, and nothing else (503).";
    AdminAnswer = "admin_answer_seconds", 30, 1, 3600, Count, "Seconds that a client of the admin pages may take to read an answer; then its connection is closed.";
}

impl Limit {
    /// The row.
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

    /// The value of `limit`, for indexing and sizing.
    pub fn size(&self, limit: Limit) -> usize {
        usize::try_from(self.get(limit)).unwrap_or(usize::MAX)
    }

    /// Sets `limit`, or says the range it must lie in.
    ///
    /// # Errors
    /// `(min, max)` of the row when `value` lies outside.
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
            assert!(names.insert(row.name), "{} stands twice", row.name);
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
