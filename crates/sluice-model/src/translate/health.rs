//! Health checks and outlier ejection.

use std::num::{NonZeroU16, NonZeroU32};

use sluice_core::settings::{OrNone, Short, StatusRange};
use sluice_core::{Diags, Endpoint, Path, Span, Spanned};
use sluice_upstream::endpoint::ConnectTo;
use sluice_upstream::plan::{
    self, CheckKind, EnforcePlan, FailurePercentagePlan, HealthPlan, LatencyPlan, Login,
    OutlierPlan, Password, SendExpect, ServerRole, SilencePlan, SuccessRatePlan,
};

use crate::sections::Cluster;
use crate::sections::health::{
    DnsCheck, Enforce, FailurePercentage, GrpcCheck, Health, HttpCheck, Latency, MysqlCheck,
    Outlier, Payload, PostgresCheck, RedisCheck, ReplicaRole, Silence, StandbyRole, SuccessRate,
    TcpCheck, TcpStep, UdpCheck, Unchecked,
};

/// The most bytes that the steps of a check send together.
const SENT_MAX: usize = 32 * 1024;

/// The longest datagram of a check, which every path carries whole.
const DATAGRAM_MAX: usize = 1200;

/// The longest text that a check expects.
const EXPECTED_MAX: usize = 16 * 1024;

impl Health {
    /// The kinds of checks that are given, by name.
    fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("tcp", self.tcp.is_some()),
            ("udp", self.udp.is_some()),
            ("tls", self.tls.is_some()),
            ("http", self.http.is_some()),
            ("grpc", self.grpc.is_some()),
            ("redis", self.redis.is_some()),
            ("postgres", self.postgres.is_some()),
            ("mysql", self.mysql.is_some()),
            ("dns", self.dns.is_some()),
        ];
        all.into_iter().filter_map(|(kind, given)| given.then_some(kind)).collect()
    }

    /// Whether a role is expected of endpoints.
    const fn expects_role(&self) -> bool {
        matches!(&self.redis, Some(RedisCheck { role: Some(_), .. }))
            || matches!(&self.postgres, Some(PostgresCheck { role: Some(_), .. }))
            || matches!(&self.mysql, Some(MysqlCheck { role: Some(_), .. }))
    }
}

/// Checks the health and outlier sections of a cluster.
pub(super) fn check(section: &Spanned<Short<Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    if let Some(outlier) = &section.outlier.0 {
        check_outlier(outlier, section.span, &at.key("outlier"), diags);
    }
    let Some(health) = &section.health else { return };
    let at = at.key("health");
    let span = section.span;
    if let [first, second, ..] = *health.kinds() {
        diags
            .error("short-and-long", span, at, "`health` must have only one kind of check")
            .help(format!("keep one of {first}, {second}"));
    }
    if health.tls.is_some() && section.tls.is_none() {
        diags
            .error("missing-field", span, at.key("tls"), "the cluster has no `tls` to check with")
            .help("add `tls` to the cluster, or check with `tcp`");
    }
    if let Some(tcp) = &health.tcp {
        check_tcp(tcp, span, &at.key("tcp"), diags);
    }
    if let Some(udp) = &health.udp
        && udp.send.0.len() > DATAGRAM_MAX
    {
        let message = format!("a datagram of a check has at most {DATAGRAM_MAX} bytes");
        diags.error("bad-value", span, at.key("udp"), message).help("send less");
    }
    if let Some(http) = &health.http {
        check_http(http, span, &at.key("http"), diags);
    }
    if let Some(redis) = &health.redis
        && redis.user.is_some()
        && redis.password.is_none()
    {
        needs("password", "user", span, &at.key("redis"), diags);
    }
    if let Some(postgres) = &health.postgres
        && postgres.user.is_none()
    {
        let at = at.key("postgres");
        let given = [
            ("role", postgres.role.is_some()),
            ("password", postgres.password.is_some()),
            ("database", postgres.database.is_some()),
        ];
        if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
            needs("user", field, span, &at, diags);
        }
    }
    let unix = section.endpoints.iter().any(|of| matches!(of.0.address.value, Endpoint::Unix(_)));
    let fields = [
        ("port", health.port.is_some()),
        ("address", health.address.is_some()),
        ("dns", health.dns.is_some()),
        ("udp", health.udp.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| unix && *given) {
        diags
            .error("wrong-kind", span, at.key(field), "an endpoint is a unix socket")
            .help("leave it out, or declare those endpoints as a cluster of their own");
    }
}

fn check_outlier(outlier: &Outlier, span: Span, at: &Path<'_>, diags: &mut Diags) {
    let threshold = outlier.failure_percentage.as_ref().map(|of| of.threshold.0);
    if threshold == Some(0) {
        let at = at.key("failure_percentage");
        diags
            .error("bad-value", span, at.key("threshold"), "0% would eject every endpoint")
            .help("set a share from 1%, or leave `failure_percentage` out");
    }
    if let Some(latency) = &outlier.latency
        && latency.factor.0 < 1100
    {
        let at = at.key("latency");
        let message = "endpoints vary by chance; a factor below 1.1 would eject healthy ones";
        diags.error("bad-value", span, at.key("factor"), message).help("the default is 3");
    }
    let Enforce {
        connect_failures,
        consecutive_5xx,
        consecutive_gateway_errors,
        success_rate,
        failure_percentage,
        silence,
        latency,
    } = &outlier.enforce;
    let off = [
        ("connect_failures", connect_failures, outlier.connect_failures.0.is_none()),
        ("consecutive_5xx", consecutive_5xx, outlier.consecutive_5xx.0.is_none()),
        (
            "consecutive_gateway_errors",
            consecutive_gateway_errors,
            outlier.consecutive_gateway_errors.0.is_none(),
        ),
        ("success_rate", success_rate, outlier.success_rate.is_none()),
        ("failure_percentage", failure_percentage, outlier.failure_percentage.is_none()),
        ("silence", silence, outlier.silence.is_none()),
        ("latency", latency, outlier.latency.is_none()),
    ];
    for (kind, _, _) in off.iter().filter(|(_, share, off)| *off && share.0 < 100) {
        let message = format!("`outlier` has no `{kind}` to enforce");
        diags
            .warning("useless-setting", span, at.key("enforce").key(kind), message)
            .help(format!("add `{kind}` to `outlier`, or remove it from `enforce`"));
    }
}

fn needs(needed: &str, field: &str, span: Span, at: &Path<'_>, diags: &mut Diags) {
    let message = format!("`{field}` needs `{needed}`");
    diags.error("missing-field", span, at.key(needed), message).help(format!("add `{needed}`"));
}

fn check_tcp(tcp: &TcpCheck, span: Span, at: &Path<'_>, diags: &mut Diags) {
    if !tcp.steps.is_empty() && (tcp.send.is_some() || tcp.expect.is_some()) {
        let message = "`send` and `expect` are the short form of a single step";
        diags.error("short-and-long", span, at, message).help("write them as the first of `steps`");
    }
    let steps = at.key("steps");
    for (index, step) in tcp.steps.iter().enumerate() {
        if step.send.is_none() && step.expect.is_none() {
            diags
                .error("missing-field", step.span, steps.index(index), "the step does nothing")
                .help("add `send` or `expect`");
        }
    }
    let all = tcp_steps(tcp);
    let sent: usize = all.iter().map(|step| step.send.len()).sum();
    let expected = all.iter().map(|step| step.expect.len()).max().unwrap_or_default();
    if sent > SENT_MAX || expected > EXPECTED_MAX {
        let message = format!(
            "a check sends at most {} KiB, and expects at most {} KiB in a step",
            SENT_MAX >> 10,
            EXPECTED_MAX >> 10
        );
        diags.error("bad-value", span, at, message).help("send and expect less");
    }
}

fn check_http(http: &HttpCheck, span: Span, at: &Path<'_>, diags: &mut Diags) {
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !http.path.starts_with('/') || !http.path.bytes().all(printable) {
        let message = format!("`{}` is not a path", http.path);
        diags
            .error("bad-value", span, at.key("path"), message)
            .help("write it as it is sent: from the first slash, with %-escapes, without fragment");
    }
    if http.method.0 == "CONNECT" {
        diags
            .error("bad-value", span, at.key("method"), "a check cannot open a tunnel")
            .help("use GET or HEAD");
    }
    if http.body.is_some() && http.method.0 == "HEAD" {
        diags
            .error("bad-value", span, at.key("body"), "the response to HEAD has no body")
            .help("use GET, or leave `body` out");
    }
}

/// The plan of a health section, with its fields listed by name so that a new one cannot be forgotten.
pub(super) fn health_plan(section: &Health) -> HealthPlan {
    let Health {
        tcp: _,
        udp: _,
        tls: _,
        http: _,
        grpc: _,
        redis: _,
        postgres: _,
        mysql: _,
        dns: _,
        port,
        address,
        interval,
        unhealthy_interval,
        no_traffic_interval,
        jitter,
        timeout,
        unhealthy_after,
        healthy_after,
        unchecked,
        keep_removed,
    } = section;
    HealthPlan {
        kind: check_kind(section),
        connect_to: ConnectTo { ip: *address, port: port.map(NonZeroU16::get) },
        interval: *interval,
        unhealthy_interval: unhealthy_interval.unwrap_or(*interval),
        no_traffic_interval: no_traffic_interval.0,
        jitter_percent: jitter.0,
        timeout: *timeout,
        unhealthy_after: unhealthy_after.get(),
        healthy_after: healthy_after.get(),
        waits: match unchecked {
            Some(unchecked) => *unchecked == Unchecked::Wait,
            None => section.expects_role(),
        },
        keeps_removed: *keep_removed,
    }
}

fn check_kind(health: &Health) -> CheckKind {
    if health.tls.is_some() {
        return CheckKind::Tls;
    }
    if let Some(UdpCheck { send, expect }) = &health.udp {
        return CheckKind::Udp(SendExpect { send: send.0.clone(), expect: bytes(expect) });
    }
    if let Some(http) = &health.http {
        return CheckKind::Http(Box::new(http_check(http)));
    }
    if let Some(GrpcCheck { service, authority }) = &health.grpc {
        let authority = authority.as_ref().map(|authority| authority.0.clone());
        return CheckKind::Grpc { service: service.clone(), authority };
    }
    if let Some(RedisCheck { role, user, password }) = &health.redis {
        let role = role.map(replica_role);
        let check = plan::RedisCheck { user: user.clone(), password: secret(password), role };
        return CheckKind::Redis(check);
    }
    if let Some(PostgresCheck { role, user, password, database }) = &health.postgres {
        return CheckKind::Postgres(plan::PostgresCheck {
            login: user
                .as_ref()
                .map(|user| Login { user: user.clone(), password: secret(password) }),
            database: database.clone(),
            role: role.map(|role| match role {
                StandbyRole::Primary => ServerRole::Primary,
                StandbyRole::Standby => ServerRole::Replica,
            }),
        });
    }
    if let Some(MysqlCheck { role, user, password }) = &health.mysql {
        let login = Login { user: user.clone(), password: secret(password) };
        return CheckKind::Mysql(plan::MysqlCheck { login, role: role.map(replica_role) });
    }
    if let Some(Short(DnsCheck { name, record, rcode })) = &health.dns {
        return CheckKind::Dns(plan::DnsCheck {
            name: name.0.clone(),
            record: record.number(),
            rcode: rcode.number(),
        });
    }
    CheckKind::Tcp(health.tcp.as_ref().map(tcp_steps).unwrap_or_default())
}

fn secret(password: &Option<String>) -> Option<Password> {
    password.clone().map(Password)
}

const fn replica_role(role: ReplicaRole) -> ServerRole {
    match role {
        ReplicaRole::Primary => ServerRole::Primary,
        ReplicaRole::Replica => ServerRole::Replica,
    }
}

fn bytes(payload: &Option<Payload>) -> Vec<u8> {
    payload.as_ref().map(|payload| payload.0.clone()).unwrap_or_default()
}

fn tcp_steps(tcp: &TcpCheck) -> Vec<SendExpect> {
    let TcpCheck { send, expect, steps } = tcp;
    if send.is_some() || expect.is_some() {
        return vec![SendExpect { send: bytes(send), expect: bytes(expect) }];
    }
    let step = |Spanned { value: TcpStep { send, expect }, .. }: &Spanned<TcpStep>| SendExpect {
        send: bytes(send),
        expect: bytes(expect),
    };
    steps.iter().map(step).collect()
}

fn http_check(section: &HttpCheck) -> plan::HttpCheck {
    let HttpCheck { method, path, host, headers, expect, retriable, body, reuse } = section;
    let ranges = |of: &[StatusRange]| of.iter().map(|range| (range.low, range.high)).collect();
    plan::HttpCheck {
        method: method.0.clone(),
        path: path.clone(),
        host: host.as_ref().map(|host| host.0.clone()),
        headers: headers.0.clone(),
        expect: if expect.is_empty() { vec![(200, 299)] } else { ranges(expect) },
        retriable: ranges(retriable),
        body: body.as_ref().map(|body| body.0.clone()).unwrap_or_default(),
        reuse: *reuse,
    }
}

/// The plan of an outlier section.
fn enforce_plan(section: &Enforce) -> EnforcePlan {
    let Enforce {
        connect_failures,
        consecutive_5xx,
        consecutive_gateway_errors,
        success_rate,
        failure_percentage,
        silence,
        latency,
    } = section;
    EnforcePlan {
        connect_failures: connect_failures.0,
        consecutive_5xx: consecutive_5xx.0,
        consecutive_gateway_errors: consecutive_gateway_errors.0,
        success_rate: success_rate.0,
        failure_percentage: failure_percentage.0,
        silence: silence.0,
        latency: latency.0,
    }
}

pub(super) fn outlier_plan(section: &Outlier) -> OutlierPlan {
    let Outlier {
        connect_failures,
        consecutive_5xx,
        consecutive_gateway_errors,
        connect_failures_as_503,
        success_rate,
        failure_percentage,
        silence,
        latency,
        enforce,
        interval,
        ejection,
        ejection_max,
        ejection_jitter,
        max_ejected,
        readmit_after_check,
    } = section;
    let in_a_row = |of: &OrNone<NonZeroU32>| of.0.map_or(0, NonZeroU32::get);
    OutlierPlan {
        connect_failures: in_a_row(connect_failures),
        consecutive_5xx: in_a_row(consecutive_5xx),
        consecutive_gateway_errors: in_a_row(consecutive_gateway_errors),
        connect_failures_as_503: *connect_failures_as_503,
        success_rate: success_rate.as_ref().map(
            |SuccessRate { stdev_factor, endpoints, requests }| SuccessRatePlan {
                stdev_factor_thousandths: stdev_factor.0,
                endpoints_min: endpoints.get() as usize,
                requests_min: u64::from(requests.get()),
            },
        ),
        failure_percentage: failure_percentage.as_ref().map(
            |FailurePercentage { threshold, endpoints, requests }| FailurePercentagePlan {
                percent: threshold.0,
                endpoints_min: endpoints.get() as usize,
                requests_min: u64::from(requests.get()),
            },
        ),
        silence: silence.as_ref().map(|Silence { datagrams, time }| SilencePlan {
            datagrams: datagrams.get(),
            time: *time,
        }),
        latency: latency.as_ref().map(|Latency { factor, excess, endpoints, requests }| {
            LatencyPlan {
                factor_thousandths: factor.0,
                excess_min: *excess,
                endpoints_min: endpoints.get() as usize,
                requests_min: u64::from(requests.get()),
            }
        }),
        enforce: enforce_plan(enforce),
        interval: *interval,
        ejection: *ejection,
        ejection_max: (*ejection_max).max(*ejection),
        ejection_jitter: ejection_jitter.0,
        max_ejected_percent: max_ejected.0,
        readmit_after_check: *readmit_after_check,
    }
}
