//! What an active check does, and when.
//!
//! Owns: the kinds of checks and their schedule. Refuses to know: how a check is performed. Keeps: a password is never
//! printed.

use std::fmt;
use std::time::Duration;

use crate::endpoint::ConnectTo;

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthPlan {
    /// What is checked.
    pub kind: CheckKind,
    /// Where checks go, if not to the endpoint's own address.
    pub connect_to: ConnectTo,
    /// Time between checks of one endpoint.
    pub interval: Duration,
    /// Time between checks of an unhealthy endpoint.
    pub unhealthy_interval: Duration,
    /// Time between checks as long as the cluster has never had a connection; `None` is like any other time.
    pub no_traffic_interval: Option<Duration>,
    /// The share of the interval by which each check is shifted at random, in either direction.
    pub jitter_percent: u8,
    /// The timeout of one check.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_after: u32,
    /// Whether a new endpoint takes no traffic until its first check has succeeded.
    pub waits: bool,
    /// Whether an endpoint that discovery has removed stays as long as its checks succeed.
    pub keeps_removed: bool,
}

/// The kind of an active check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// Whether a TCP connection is accepted; then these steps, in order, over the cluster's TLS.
    Tcp(Vec<SendExpect>),
    /// A datagram that is sent, and what must be in one that comes back.
    Udp(SendExpect),
    /// Whether the TLS handshake succeeds.
    Tls,
    /// An HTTP request.
    Http(Box<HttpCheck>),
    /// The gRPC health service.
    Grpc {
        /// The service to check; empty for the server as a whole.
        service: String,
        /// The authority in the request; the endpoint's own name if left out.
        authority: Option<String>,
    },
    /// Redis: PING, or ROLE.
    Redis(RedisCheck),
    /// PostgreSQL: the start of a session.
    Postgres(PostgresCheck),
    /// MySQL or MariaDB: a login.
    Mysql(MysqlCheck),
    /// A DNS query over UDP.
    Dns(DnsCheck),
}

/// What is sent, and what must then be received.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SendExpect {
    /// What is sent first; empty sends nothing.
    pub send: Vec<u8>,
    /// What must appear in what the endpoint sends then; empty waits for nothing.
    pub expect: Vec<u8>,
}

/// Statuses, as inclusive ranges.
pub type StatusRanges = Vec<(u16, u16)>;

/// A check by HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The host in the request; the endpoint's own name if left out.
    pub host: Option<String>,
    /// Further headers: name, value.
    pub headers: Vec<(String, String)>,
    /// The statuses of a healthy endpoint.
    pub expect: StatusRanges,
    /// Other statuses that count as one failure; the rest make an endpoint unhealthy at once.
    pub retriable: StatusRanges,
    /// What must appear in the body; empty expects nothing.
    pub body: Vec<u8>,
    /// Whether a connection is kept for the next check.
    pub reuse: bool,
}

/// The role of a server among replicas of the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerRole {
    /// It takes writes.
    Primary,
    /// It follows a primary.
    Replica,
}

/// A password, which is not printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// A user, and a password if one is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Option<Password>,
}

/// A check of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisCheck {
    /// The user; `None` is the default user.
    pub user: Option<String>,
    /// The password; `None` sends no AUTH.
    pub password: Option<Password>,
    /// The expected role; `None` only sends PING.
    pub role: Option<ServerRole>,
}

/// A check of a PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PostgresCheck {
    /// The login; `None` is content with any response to the start of a session, like `pg_isready`.
    pub login: Option<Login>,
    /// The database; `None` is that of the user's name.
    pub database: Option<String>,
    /// The expected role; needs a login.
    pub role: Option<ServerRole>,
}

/// A check of a MySQL or MariaDB server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MysqlCheck {
    /// The login.
    pub login: Login,
    /// The expected role: a primary is not `read_only`.
    pub role: Option<ServerRole>,
}

/// A check by DNS query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsCheck {
    /// The name that is asked for, as labels of 1 to 63 bytes, at most 253 with the dots between them.
    pub name: String,
    /// The number of the record type.
    pub record: u16,
    /// The number of the expected response code.
    pub rcode: u8,
}
