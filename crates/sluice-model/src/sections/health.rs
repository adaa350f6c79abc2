//! Health checks and outlier ejection.
//!
//! Owns: their fields, defaults and documentation. Refuses to know: how fields interact, and how a check is performed.
//! Keeps: fields are declared in the order of the reference page.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use sluice_core::settings::{Empty, OrNone, OrZero, Short, ShortForm, StatusRange};
use sluice_core::value::{Authority, Decimal, Percent};
use sluice_core::{Spanned, choice, section};

use super::routes::MethodName;

mod values;

pub use values::{DnsName, HeaderTexts, HexBytes, HexDigits, Payload};

section! {
    /// Active health checks, of one kind: tcp, udp, tls, http, grpc, redis, postgres, mysql or dns. If omitted, tcp.
    pub struct Health {
        /// TCP check: healthy if the endpoint accepts a connection and, if `send` or `expect` say so, responds.
        pub tcp: Option<TcpCheck>,
        /// UDP check: healthy if a datagram is answered as expected.
        pub udp: Option<UdpCheck>,
        /// TLS check: healthy if the handshake succeeds, with the cluster's `tls`.
        pub tls: Option<Empty>,
        /// HTTP check: healthy if the endpoint responds to a request as expected.
        pub http: Option<HttpCheck>,
        /// gRPC check: healthy if the gRPC health service reports SERVING.
        pub grpc: Option<GrpcCheck>,
        /// Redis check: healthy if the server responds to PING, or has the expected role.
        pub redis: Option<RedisCheck>,
        /// PostgreSQL check: healthy if a session can begin, on a server of the expected role.
        pub postgres: Option<PostgresCheck>,
        /// MySQL or MariaDB check: healthy if a login succeeds, on a server of the expected role.
        pub mysql: Option<MysqlCheck>,
        /// DNS check: healthy if the server responds to a query over UDP. The short form is the name to query.
        pub dns: Option<Short<DnsCheck>>,
        /// The port that is checked, if not the endpoint's own.
        pub port: Option<NonZeroU16>,
        /// The IP address that is checked instead of each endpoint's own, for an agent that speaks for all of them.
        pub address: Option<IpAddr>,
        /// Time between checks of one endpoint.
        pub interval: Duration = "5s",
        /// Time between checks of an unhealthy endpoint; if omitted, `interval`.
        pub unhealthy_interval: Option<Duration>,
        /// Time between checks as long as the cluster has never been used.
        pub no_traffic_interval: OrNone<Duration> = "none",
        /// Share by which each interval is shortened or prolonged at random, so that checks do not coincide.
        pub jitter: Percent = "10%",
        /// How long one check may take.
        pub timeout: Duration = "2s",
        /// Consecutive failures after which an endpoint is unhealthy. Not counted if the endpoint says itself that it is
        /// not fit for traffic (an unexpected HTTP status, NOT_SERVING, another role): then it is unhealthy at once.
        pub unhealthy_after: NonZeroU32 = "3",
        /// Consecutive successes after which it is healthy again.
        pub healthy_after: NonZeroU32 = "2",
        /// Whether a new endpoint takes traffic before its first check, whose result decides alone. If omitted, `wait`
        /// if a `role` is expected, else `use`.
        pub unchecked: Option<Unchecked>,
        /// Whether an endpoint that is removed, from a file, a list or the answer of a name server, stays in use as long as
        /// its checks succeed: then a faulty source takes nothing away.
        pub keep_removed: bool = "false",
    }
}

choice! {
    /// Whether a new endpoint takes traffic before its first check.
    pub enum Unchecked {
        /// It is assumed to be healthy.
        Use = "use",
        /// It takes none until a check has succeeded. Listeners wait for the first checks when Sluice starts.
        Wait = "wait",
    }
}

section! {
    /// A health check by TCP connection, over TLS if the cluster has `tls` and something is sent or expected.
    pub struct TcpCheck {
        /// What is sent: text, or `{ hex: "0d0a" }`.
        pub send: Option<Payload>,
        /// What must appear in what the endpoint sends: text, or `{ hex: "0d0a" }`.
        pub expect: Option<Payload>,
        /// Several steps of `send` and `expect`, in order.
        pub steps: Vec<Spanned<TcpStep>>,
    }
}

section! {
    /// A step of a TCP check.
    pub struct TcpStep {
        /// What is sent: text, or `{ hex: "0d0a" }`.
        pub send: Option<Payload>,
        /// What must appear in what the endpoint sends then: text, or `{ hex: "0d0a" }`.
        pub expect: Option<Payload>,
    }
}

section! {
    /// A health check by UDP datagram.
    pub struct UdpCheck {
        /// The datagram that is sent: text, or `{ hex: "0d0a" }`.
        pub send: Payload,
        /// What must appear in a datagram that comes back: text, or `{ hex: "0d0a" }`. If omitted, any will do.
        pub expect: Option<Payload>,
    }
}

section! {
    /// A health check by HTTP request, in the HTTP version of the cluster and over its TLS. An endpoint may also take
    /// itself out with the header `x-envoy-immediate-health-check-fail` in any response, until a check succeeds.
    pub struct HttpCheck {
        /// The method.
        pub method: MethodName = "GET",
        /// Path and query.
        pub path: String = "/",
        /// The host to request; if omitted, the endpoint's own name.
        pub host: Option<Authority>,
        /// Further headers, by name.
        pub headers: HeaderTexts,
        /// Statuses that count as healthy: 204, 200-299; one or a list. If omitted, 200-299.
        pub expect: Vec<StatusRange>,
        /// Other statuses that count as one failure (`unhealthy_after`). Any other status makes the endpoint unhealthy
        /// at once.
        pub retriable: Vec<StatusRange>,
        /// Text that must appear in the first 64 KiB of the body.
        pub body: Option<Payload>,
        /// Whether the connection is kept for the next check.
        pub reuse: bool = "true",
    }
}

section! {
    /// A health check through the gRPC health service.
    pub struct GrpcCheck {
        /// The service to query; if omitted, the server as a whole.
        pub service: String = "",
        /// The authority (host) to request; if omitted, the endpoint's own name.
        pub authority: Option<Authority>,
    }
}

section! {
    /// A health check of a Redis server.
    pub struct RedisCheck {
        /// The role that the server must have; if omitted, any.
        pub role: Option<ReplicaRole>,
        /// The user; if omitted, the default user.
        pub user: Option<String>,
        /// The password; best as `{ file: PATH }` or `{ env: NAME }`.
        pub password: Option<String>,
    }
}

section! {
    /// A health check of a PostgreSQL server, over TLS if the cluster has `tls`. Without `user`, healthy if the server
    /// responds to the beginning of a session, as `pg_isready` has it.
    pub struct PostgresCheck {
        /// The role that the server must have (PostgreSQL 14 and later); if omitted, any. Needs `user`.
        pub role: Option<StandbyRole>,
        /// The user to log in as. It needs no privileges but to connect.
        pub user: Option<String>,
        /// The password, for scram-sha-256 and md5, and for clear text over TLS; best as `{ file: PATH }` or
        /// `{ env: NAME }`.
        pub password: Option<String>,
        /// The database to connect to; if omitted, the one named like the user.
        pub database: Option<String>,
    }
}

section! {
    /// A health check of a MySQL or MariaDB server, over TLS if the cluster has `tls`.
    pub struct MysqlCheck {
        /// The role that the server must have: a replica is `read_only`. If omitted, any.
        pub role: Option<ReplicaRole>,
        /// The user to log in as. It needs no privileges.
        pub user: String,
        /// The password, for mysql_native_password and caching_sha2_password; best as `{ file: PATH }` or
        /// `{ env: NAME }`.
        pub password: Option<String>,
    }
}

choice! {
    /// The role of a Redis, MySQL or MariaDB server.
    pub enum ReplicaRole {
        /// It takes writes.
        Primary = "primary",
        /// It follows a primary.
        Replica = "replica",
    }
}

choice! {
    /// The role of a PostgreSQL server.
    pub enum StandbyRole {
        /// It takes writes.
        Primary = "primary",
        /// It is in hot standby.
        Standby = "standby",
    }
}

section! {
    /// A health check of a DNS server.
    pub struct DnsCheck {
        /// The name to query.
        pub name: DnsName,
        /// The type of the records to query.
        pub record as "type": DnsRecord = "A",
        /// The response code that is expected.
        pub rcode: DnsCode = "NOERROR",
    }
}

impl ShortForm for DnsCheck {
    const KEY: &'static str = "name";
}

macro_rules! numbered {
    ($(#[doc = $doc:literal])+ $name:ident: $number:ty { $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal, $value:literal;)+ }) => {
        choice! {
            $(#[doc = $doc])+
            pub enum $name { $($(#[doc = $vdoc])+ $variant = $word,)+ }
        }

        impl $name {
            /// Its number on the wire.
            pub const fn number(self) -> $number {
                match self { $(Self::$variant => $value),+ }
            }
        }
    };
}

numbered! {
    /// A type of DNS records.
    DnsRecord: u16 {
        /// IPv4 addresses.
        A = "A", 1;
        /// IPv6 addresses.
        Aaaa = "AAAA", 28;
        /// Another name.
        Cname = "CNAME", 5;
        /// Mail servers.
        Mx = "MX", 15;
        /// Name servers.
        Ns = "NS", 2;
        /// A name for an address.
        Ptr = "PTR", 12;
        /// The start of a zone.
        Soa = "SOA", 6;
        /// Servers of a service.
        Srv = "SRV", 33;
        /// Text.
        Txt = "TXT", 16;
    }
}

numbered! {
    /// A DNS response code.
    DnsCode: u8 {
        /// The name exists.
        NoError = "NOERROR", 0;
        /// The server could not respond.
        ServFail = "SERVFAIL", 2;
        /// The name does not exist.
        NxDomain = "NXDOMAIN", 3;
        /// The server refuses the query.
        Refused = "REFUSED", 5;
    }
}

section! {
    /// Outlier ejection (passive health checking): endpoints that fail connections or requests are ejected for a while.
    pub struct Outlier {
        /// Consecutive failed connections after which an endpoint is ejected.
        pub connect_failures: OrNone<NonZeroU32> = "5",
        /// Consecutive responses with status 500 or above, or missing responses, after which an endpoint is ejected.
        pub consecutive_5xx: OrNone<NonZeroU32> = "none",
        /// Consecutive responses with status 502, 503 or 504, or missing responses, after which an endpoint is ejected.
        pub consecutive_gateway_errors: OrNone<NonZeroU32> = "none",
        /// Whether a failed connection also counts as a response with status 503.
        pub connect_failures_as_503: bool = "false",
        /// Ejects endpoints whose success rate is far below that of the others: of responses below 500, and of
        /// connections.
        pub success_rate: Option<SuccessRate>,
        /// Ejects endpoints with a large share of failures: of responses from 500, and of connections.
        pub failure_percentage: Option<FailurePercentage>,
        /// UDP: ejects endpoints that do not reply.
        pub silence: Option<Silence>,
        /// HTTP: ejects endpoints that respond far more slowly than the others.
        pub latency: Option<Latency>,
        /// How often what is found has an effect. Below 100%, chance decides in each case whether the endpoint is
        /// ejected or the case is only counted (`sluice_cluster_ejections_not_enforced_total`).
        pub enforce: Enforce,
        /// The period over which `success_rate`, `failure_percentage` and `latency` compare results. An endpoint that is in use
        /// also has its next ejection shortened once per period.
        pub interval: Duration = "10s",
        /// Duration of the first ejection; the n-th lasts n times as long.
        pub ejection: Duration = "30s",
        /// Maximum duration of an ejection; `ejection` if that is longer.
        pub ejection_max: Duration = "5m",
        /// Each ejection is prolonged at random by up to this, so that endpoints do not return together.
        pub ejection_jitter: OrZero = "0s",
        /// Maximum share of endpoints ejected at once; one always may be, unless it is the last.
        pub max_ejected: Percent = "50%",
        /// Whether an active check that succeeds ends an ejection. Only checks by `http` or `grpc` end one for failed
        /// responses, and only those by `udp` or `dns` one for silence.
        pub readmit_after_check: bool = "true",
    }
}

section! {
    /// Ejects endpoints whose success rate is below the mean by more than some standard deviations.
    pub struct SuccessRate {
        /// The number of standard deviations.
        pub stdev_factor: Decimal = "1.9",
        /// Minimum number of endpoints with enough results; with fewer, nothing is compared.
        pub endpoints: NonZeroU32 = "5",
        /// Results of an endpoint that are enough, within `interval`.
        pub requests: NonZeroU32 = "100",
    }
}

section! {
    /// Ejects endpoints that have sent no datagram to any client, while at least this many were sent to them over at
    /// least this time. Not for protocols without replies, such as syslog.
    pub struct Silence {
        /// Datagrams without a reply.
        pub datagrams: NonZeroU32 = "10",
        /// How long after the first of them.
        pub time: Duration = "5s",
    }
}

section! {
    /// Ejects endpoints whose mean response time, to the response headers, is far above the median of all endpoints. A
    /// check that succeeds does not end such an ejection.
    pub struct Latency {
        /// How many times the median it must exceed.
        pub factor: Decimal = "3",
        /// By how much it must exceed the median at least.
        pub excess: Duration = "10ms",
        /// Minimum number of endpoints with enough responses; with fewer, nothing is compared.
        pub endpoints: NonZeroU32 = "3",
        /// Responses of an endpoint that are enough, within `interval`.
        pub requests: NonZeroU32 = "50",
    }
}

section! {
    /// In which share of the cases an endpoint is ejected; 0% only counts.
    pub struct Enforce {
        /// For `connect_failures`.
        pub connect_failures: Percent = "100%",
        /// For `consecutive_5xx`.
        pub consecutive_5xx: Percent = "100%",
        /// For `consecutive_gateway_errors`.
        pub consecutive_gateway_errors: Percent = "100%",
        /// For `success_rate`, of responses and of connections.
        pub success_rate: Percent = "100%",
        /// For `failure_percentage`, of responses and of connections.
        pub failure_percentage: Percent = "100%",
        /// For `silence`.
        pub silence: Percent = "100%",
        /// For `latency`.
        pub latency: Percent = "100%",
    }
}

section! {
    /// Ejects endpoints with a large share of failures.
    pub struct FailurePercentage {
        /// The share of failures.
        pub threshold: Percent = "85%",
        /// Minimum number of endpoints with enough results; with fewer, nobody is ejected.
        pub endpoints: NonZeroU32 = "5",
        /// Results of an endpoint that are enough, within `interval`.
        pub requests: NonZeroU32 = "50",
    }
}
