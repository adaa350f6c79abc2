//! HTTP on a chain.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::h1::parse::HeadLimits;
use sluice_codec::h1::stream::H1Options;
use sluice_codec::h2::H2Options;
use sluice_codec::h3::H3Options;
use sluice_core::settings::Short;
use sluice_core::value::Authority;
use sluice_core::{Diags, Path, Spanned};
use sluice_l7::edge::Edge;
use sluice_l7::hygiene::Hygiene;
use sluice_l7::plan::{HostDemand, HttpOptions, ScopeDemand, TunnelRequest, Versions};

use crate::model::listener;
use crate::sections::http::{HeaderCase, Http, Http2, PathHygiene, Tunnel};
use crate::sections::{Quic, Tls};

/// HTTP on a chain of a listener with these QUIC settings.
pub(crate) fn http(
    section: &Spanned<Http>,
    quic: Option<&Quic>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<listener::Http> {
    Some(listener::Http {
        routes: section.routes.value.clone(),
        filters: super::filters(&section.filters),
        options: options(section, quic, at, diags)?,
    })
}

/// The HTTP options. Fields are listed by name so that a new one cannot be forgotten.
fn options(
    section: &Spanned<Http>,
    quic: Option<&Quic>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<HttpOptions> {
    let Http {
        routes: _,
        filters: _,
        versions,
        trusted_hops,
        trusted_header,
        forwarded,
        scheme,
        path: PathHygiene { normalize, merge_slashes, escaped_slashes },
        underscores,
        proxy_status,
        local_replies,
        header_case,
        head_bytes,
        head_fields,
        head_timeout,
        body_timeout,
        max_stream_duration,
        on_demand,
        hosts_on_demand,
        scopes_on_demand,
        idle_timeout,
        max_age,
        max_age_jitter,
        delayed_close,
        requests_per_connection,
        http2,
        tunnel,
    } = &section.value;
    let tunnel = match tunnel {
        None => None,
        Some(tunnel) => Some(tunnel_request(tunnel, quic, &at.key("tunnel"), diags)?),
    };
    if let Some(Spanned { value, span }) = local_replies
        && !value.check(*span, &at.key("local_replies"), diags)
    {
        return None;
    }
    let scopes_on_demand = match scopes_on_demand {
        None => None,
        Some(of) => {
            let at = at.key("scopes_on_demand");
            let at = at.key("key");
            let key = super::routes::scope_key(&of.value.key, &at, diags)?;
            Some(ScopeDemand { key, wait: of.value.wait })
        }
    };
    if !(1024..=64 << 10).contains(&head_bytes.0) {
        let message = "`head_bytes` must be from 1KiB to 64KiB";
        diags.error("bad-value", section.span, at.key("head_bytes"), message);
        return None;
    }
    if !(8..=1000).contains(head_fields) {
        let message = "`head_fields` must be from 8 to 1000";
        diags.error("bad-value", section.span, at.key("head_fields"), message);
        return None;
    }
    if max_age.0.is_none() && max_age_jitter.0 != AGE_JITTER {
        let message = "`max_age_jitter` has no effect without `max_age`";
        diags
            .warning("useless-setting", section.span, at.key("max_age_jitter"), message)
            .help("set `max_age`, the age at which a connection is closed");
    }
    let limits = HeadLimits {
        bytes: usize::try_from(head_bytes.0).unwrap_or(usize::MAX),
        fields: *head_fields as usize,
    };
    Some(HttpOptions {
        h2: http2_options(http2, limits, delayed_close.0),
        h3: H3Options {
            head_bytes: limits.bytes,
            head_fields: limits.fields,
            stream_window: quic.map_or(0, |quic| quic.stream_window.0),
            resets_max: quic.map_or(0, |quic| quic.resets),
        },
        h1: H1Options { limits, lower: *header_case == HeaderCase::Lower },
        advertise_h3: quic.is_some(),
        proxy_status: proxy_status.as_ref().map(|Short(status)| status.clone()),
        local_replies: local_replies.as_ref().map(|replies| Arc::new(replies.value.clone())),
        versions: *versions,
        hygiene: Hygiene {
            normalize: *normalize,
            merge_slashes: *merge_slashes,
            escaped_slashes: *escaped_slashes,
            underscores: *underscores,
        },
        edge: Edge {
            trusted_hops: *trusted_hops,
            trusted_header: *trusted_header,
            forwarded: *forwarded,
            scheme: *scheme,
        },
        head_timeout: *head_timeout,
        body_timeout: *body_timeout,
        idle_timeout: idle_timeout.0,
        stream_duration_max: max_stream_duration.0,
        cluster_wait: on_demand.0,
        hosts_on_demand: hosts_on_demand
            .as_ref()
            .map(|of| HostDemand { table: of.value.table.as_str().into(), wait: of.value.wait }),
        scopes_on_demand,
        requests_max: requests_per_connection.0.map(NonZeroU64::get),
        age_max: max_age.0,
        age_jitter_percent: max_age_jitter.0,
        delayed_close: delayed_close.0,
        tunnel,
    })
}

fn tunnel_request(
    section: &Spanned<Short<Tunnel>>,
    quic: Option<&Quic>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<TunnelRequest> {
    let Tunnel { host: Authority(host), post } = &section.value.0;
    let of_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    if quic.is_some() {
        let message = "clients of QUIC speak HTTP: their connections are no tunnels";
        diags.error("conflict", section.span, at, message).help("remove `tunnel` or `quic`");
    } else if post.is_none() && !of_port {
        let message = format!("CONNECT needs a port, which `{host}` does not have");
        let finding = diags.error("bad-value", section.span, at.key("host"), message);
        finding.help(format!("write `tunnel: '{host}:443'`"));
    } else if let Some(path) = post
        && !path.starts_with('/')
    {
        let message = format!("expected a path that begins with `/`, not `{path}`");
        diags.error("bad-value", section.span, at.key("post"), message);
    } else {
        return Some(TunnelRequest { host: host.clone(), post: post.clone() });
    }
    None
}

/// The jitter of `max_age` in percent, unless the configuration sets one.
const AGE_JITTER: u8 = 10;

fn http2_options(section: &Http2, limits: HeadLimits, linger: Duration) -> H2Options {
    let Http2 { streams, stream_window, connection_window, resets, ping_interval, ping_timeout } =
        section;
    H2Options {
        streams_max: streams.get(),
        stream_window: stream_window.0,
        connection_window: connection_window.0.map_or_else(
            || H2Options::window_of(streams.get(), stream_window.0),
            |window| window.0,
        ),
        head_bytes: u32::try_from(limits.bytes).unwrap_or(u32::MAX),
        head_fields: limits.fields,
        resets_max: *resets as usize,
        linger,
        ping_interval: ping_interval.0,
        ping_timeout: *ping_timeout,
    }
}

/// The ALPN protocols of a chain; derived from its HTTP versions if its `tls` lists none.
pub(super) fn alpn(tls: &Tls, http: Option<&Http>) -> Vec<Vec<u8>> {
    let given = || tls.alpn.iter().map(|alpn| alpn.clone().into_bytes()).collect();
    let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
    match http.filter(|http| http.tunnel.is_none()).map(|http| http.versions) {
        Some(Versions::Any) if tls.alpn.is_empty() => vec![h2, h1],
        Some(Versions::Http1) if tls.alpn.is_empty() => vec![h1],
        Some(Versions::Http2) if tls.alpn.is_empty() => vec![h2],
        _ => given(),
    }
}
