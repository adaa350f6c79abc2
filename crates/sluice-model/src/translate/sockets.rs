//! Connections to endpoints: sockets, HTTP/2, HTTP/3, those made ahead.

use std::num::NonZeroU32;
use std::time::Duration;

use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Spanned};
use sluice_upstream::endpoint::{Http3When, RacePlan};
use sluice_upstream::plan::{Http2Plan, Http3Plan, KeepalivePlan, PreconnectPlan, SocketPlan};

use super::quic::congestion_of;
use crate::sections::{
    self, Cluster, ClusterHttp2, ClusterHttp3, ClusterProtocol, ClusterSocket, Http3Race,
    Keepalive, Preconnect, Verification,
};

/// The bounds of the system (tcp(7)): 32767 seconds, 127 probes.
const SECONDS_MAX: u64 = 32_767;
const PROBES_MAX: u32 = 127;

/// The largest time-out of unacknowledged data: what its milliseconds fit into.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// The plan. Fields are listed by name, here and below, so that a new one cannot be forgotten.
pub(super) fn socket_plan(section: &ClusterSocket) -> SocketPlan {
    let ClusterSocket { keepalive, user_timeout, dscp, source } = section;
    SocketPlan {
        keepalive: keepalive.as_ref().map(|Keepalive { idle, interval, probes }| KeepalivePlan {
            idle: *idle,
            interval: *interval,
            probes: probes.map(NonZeroU32::get),
        }),
        user_timeout: *user_timeout,
        dscp: dscp.and_then(|dscp| u8::try_from(dscp).ok()),
        sources: source.iter().map(|source| source.value).collect(),
    }
}

/// Reports what the system would refuse, and what would have no effect.
pub(super) fn check(
    section: &Spanned<ClusterSocket>,
    cluster: &Cluster,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let mut wrong = |code, key, message: String, help: &str| {
        diags.error(code, section.span, at.key(key), message).help(help);
    };
    let ClusterSocket { keepalive, user_timeout, dscp, source } = &section.value;
    if cluster.protocol == ClusterProtocol::Http3 {
        let message =
            "`socket` has no effect with `protocol: http3`: QUIC has a socket for all clusters";
        diags.error("useless-setting", section.span, at, message).help("remove it");
        return;
    }
    if cluster.adds_http3() && (dscp.is_some() || !source.is_empty()) {
        let message =
            "`dscp` and `source` would not hold for HTTP/3: QUIC has a socket for all clusters";
        let help = "remove them, or `http3` of the cluster";
        wrong(
            "wrong-kind",
            if dscp.is_some() { "dscp" } else { "source" },
            message.to_owned(),
            help,
        );
    }
    if let Some(Keepalive { idle, interval, probes }) = keepalive {
        for (key, value) in [("idle", idle), ("interval", interval)] {
            let fits = |value: &Duration| {
                value.subsec_nanos() == 0 && (1..=SECONDS_MAX).contains(&value.as_secs())
            };
            if value.as_ref().is_some_and(|value| !fits(value)) {
                let message = format!("`{key}` must be whole seconds, from 1s to {SECONDS_MAX}s");
                wrong("bad-value", "keepalive", message, "write it in seconds, as in `30s`");
            }
        }
        if probes.is_some_and(|probes| probes.get() > PROBES_MAX) {
            let message = format!("`probes` must be from 1 to {PROBES_MAX}");
            wrong("bad-value", "keepalive", message, "the system's value is usually 9");
        }
    }
    if user_timeout.is_some_and(|t| t < Duration::from_millis(1) || t > USER_TIMEOUT_MAX) {
        let message = "`user_timeout` must be from 1ms to 24 days".to_owned();
        wrong(
            "bad-value",
            "user_timeout",
            message,
            "remove it to leave the time-out to the system",
        );
    }
    if dscp.is_some_and(|dscp| dscp > 63) {
        let message = "`dscp` must be from 0 to 63".to_owned();
        wrong("bad-value", "dscp", message, "a TOS byte is four times its DSCP: write 46 for 0xb8");
    }
    for family in [true, false] {
        if let Some(second) = source.iter().filter(|of| of.value.is_ipv4() == family).nth(1) {
            let message = format!(
                "`{}` would never be used: there is an address of its family before it",
                second.value
            );
            diags
                .error("duplicate-name", second.span, at.key("source"), message)
                .help("keep one address for IPv4 and one for IPv6");
        }
    }
}

/// The plan of HTTP/2.
pub(super) fn http2_plan(section: &ClusterHttp2) -> Http2Plan {
    let ClusterHttp2 { stream_window, connection_window, ping_interval, ping_timeout } = section;
    Http2Plan {
        stream_window: stream_window.0,
        connection_window: connection_window.0.map(|window| window.0),
        ping_interval: ping_interval.0,
        ping_timeout: *ping_timeout,
    }
}

/// Reports settings of HTTP/2 on a cluster that speaks another version.
pub(super) fn check_http2(
    section: &Spanned<ClusterHttp2>,
    protocol: ClusterProtocol,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    if let ClusterProtocol::Http1 | ClusterProtocol::Http3 = protocol {
        let message = format!("`http2` has no effect with `protocol: {}`", protocol.word());
        diags
            .error("useless-setting", section.span, at, message)
            .help("remove it, or set `protocol: http2`, `same`, or `auto` with `tls`");
    }
}

/// The plan of HTTP/3.
pub(super) fn http3_plan(section: &ClusterHttp3, cluster: &Cluster) -> Http3Plan {
    let ClusterHttp3 {
        enabled,
        race,
        idle_timeout,
        ping_interval,
        stream_window,
        connection_window,
        congestion,
    } = section;
    let race = race.as_ref().map_or_else(RacePlan::default, |section| race_plan(section));
    let race = RacePlan { heeds_adverts: verifies(cluster), ..race };
    Http3Plan {
        idle_timeout: *idle_timeout,
        ping_interval: ping_interval.0,
        stream_window: stream_window.0,
        connection_window: connection_window.0.map(|window| window.0),
        congestion: congestion_of(*congestion),
        follows: *enabled && cluster.protocol == ClusterProtocol::Same,
        race: (*enabled && cluster.protocol == ClusterProtocol::Auto).then_some(race),
    }
}

fn race_plan(section: &Http3Race) -> RacePlan {
    let Http3Race { when, tcp_delay, retry, max_retry } = section;
    RacePlan {
        when: match when {
            sections::Http3When::Advertised => Http3When::Advertised,
            sections::Http3When::Always => Http3When::Always,
        },
        tcp_delay: tcp_delay.0,
        retry: *retry,
        retry_max: *max_retry,
        ..RacePlan::default()
    }
}

/// Whether endpoints are verified.
fn verifies(cluster: &Cluster) -> bool {
    cluster.tls.as_ref().is_none_or(|tls| tls.verify == Verification::Full)
}

/// Reports settings of HTTP/3 that have no effect, and what cannot work.
pub(super) fn check_http3(
    cluster: &Cluster,
    section: &Spanned<Short<ClusterHttp3>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let protocol = cluster.protocol;
    if let ClusterProtocol::Http1 | ClusterProtocol::Http2 = protocol {
        let message = format!("`http3` has no effect with `protocol: {}`", protocol.word());
        diags
            .error("useless-setting", section.span, at, message)
            .help("remove it, or set `protocol: http3`, or `auto` or `same` with `tls`");
    }
    if protocol == ClusterProtocol::Http3 && !section.enabled {
        diags
            .error("bad-value", section.span, at, "`protocol: http3` cannot do without HTTP/3")
            .help("set another `protocol`");
    }
    if section.ping_interval.0.is_some_and(|interval| interval >= section.idle_timeout) {
        let message = "`ping_interval` must be less than `idle_timeout`: pings would come too late";
        diags
            .error("bad-value", section.span, at.key("ping_interval"), message)
            .help("a third of `idle_timeout` leaves room for packets that are lost");
    }
    if let Some(race) = &section.race {
        check_race(cluster, race, &at.key("race"), diags);
    }
    let when = section.race.as_ref().map_or(sections::Http3When::Advertised, |race| race.when);
    if cluster.races_http3() && when == sections::Http3When::Advertised && !verifies(cluster) {
        let message = "an endpoint that is not verified cannot say where it speaks HTTP/3";
        diags
            .error("wrong-kind", section.span, at, message)
            .help("remove `verify: none`, or set `race: { when: always }` (RFC 7838 section 2.1)");
    }
}

fn check_race(cluster: &Cluster, race: &Spanned<Http3Race>, at: &Path<'_>, diags: &mut Diags) {
    if let ClusterProtocol::Http3 | ClusterProtocol::Same = cluster.protocol {
        let message = format!(
            "`race` has no effect with `protocol: {}`, which leaves no choice",
            cluster.protocol.word()
        );
        diags
            .error("useless-setting", race.span, at, message)
            .help("remove it, or set `protocol: auto`");
    }
    if race.tcp_delay.0 >= cluster.connect_timeout {
        let message = "`tcp_delay` must be less than `connect_timeout`: TCP would come too late";
        diags
            .error("bad-value", race.span, at.key("tcp_delay"), message)
            .help("300ms is enough for most round trips");
    }
    if race.retry > race.max_retry {
        let message = "`retry` must not exceed `max_retry`";
        diags
            .error("bad-value", race.span, at.key("retry"), message)
            .help("the pauses begin with `retry` and grow to `max_retry`");
    }
}

/// The plan of connections made ahead.
pub(super) const fn preconnect_plan(section: &Preconnect) -> PreconnectPlan {
    let Preconnect { per_endpoint, predicted } = section;
    PreconnectPlan { per_endpoint: per_endpoint.0, predicted: predicted.0 }
}

/// Reports connections made ahead that cannot be, or would be too many.
pub(super) fn check_preconnect(
    cluster: &Cluster,
    section: &Spanned<Short<Preconnect>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Preconnect { per_endpoint, predicted } = &section.value.0;
    for (key, factor) in [("per_endpoint", per_endpoint.0), ("predicted", predicted.0)] {
        if !(100..=300).contains(&factor) {
            let message = format!("`{key}` must be from 100% to 300%");
            diags
                .error("bad-value", section.span, at.key(key), message)
                .help("150% keeps one connection ready for every two in use");
        }
    }
    let obstacle = if cluster.forward.is_some() {
        "`forward`: clients name the endpoints"
    } else if cluster.balance.hashes() {
        "a balancer that goes by a hash: only a request tells which endpoint it picks"
    } else if cluster.balance.is_of_library() {
        "a balancer of a loaded library: it cannot be asked ahead"
    } else if cluster.subsets.is_some() {
        "`subsets`: only a request tells which one it asks for"
    } else {
        ""
    };
    if predicted.0 > 100 && !obstacle.is_empty() {
        let message = format!("`predicted` cannot be used with {obstacle}");
        diags
            .error("wrong-kind", section.span, at.key("predicted"), message)
            .help("remove it; `per_endpoint` needs no prediction");
    }
    if per_endpoint.0 == 100 && predicted.0 == 100 {
        diags
            .error(
                "useless-setting",
                section.span,
                at,
                "`preconnect` at 100% makes no connections ahead",
            )
            .help("set `per_endpoint: 150%`, for example, or remove `preconnect`");
    }
}
