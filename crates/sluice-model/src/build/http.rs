//! Builds the plan of HTTP on a chain from its section.

use std::num::NonZeroU64;
use std::sync::Arc;

use sluice_codec::h1::parse::HeadLimits;
use sluice_codec::h1::stream::H1Options;
use sluice_codec::h2::H2Options;
use sluice_codec::h3::H3Options;
use sluice_core::settings::suggest_word;
use sluice_core::{Diags, Name, Path, Spanned};
use sluice_l4::filters::FilterOwner;
use sluice_l7::HttpPlan;
use sluice_l7::client_auth::OwnClientAuth;
use sluice_l7::edge::Edge;
use sluice_l7::hygiene::Hygiene;
use sluice_l7::plan::{HttpOptions, Versions};

use super::Build;
use super::clusters::ClusterMap;
use super::routes::{RouteMap, http_filters};
use crate::sections::http::{HeaderCase, Http, Http2, PathHygiene};
use crate::sections::{Config, Quic, Tls};

/// What a chain that serves HTTP is built from, besides its own section.
pub(super) struct HttpContext<'a> {
    pub(super) config: &'a Config,
    pub(super) clusters: &'a ClusterMap,
    pub(super) routes: &'a RouteMap,
    pub(super) listener: &'a Name,
    pub(super) chain: &'a Name,
    /// The QUIC settings of the listener, if QUIC is enabled.
    pub(super) quic: Option<&'a Quic>,
    /// Which hosts of the listener require other client authentication.
    pub(super) client_auth: Option<&'a OwnClientAuth>,
}

impl Build<'_> {
    pub(super) fn http(
        &self,
        section: &Spanned<Http>,
        context: &HttpContext<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<HttpPlan> {
        let owner = FilterOwner::Chain { listener: context.listener, chain: context.chain };
        let names = (context.config, context.clusters);
        let filters = http_filters(self, &section.filters, owner, names, &at.key("filters"), diags);
        let routes = match context.routes.get(&section.routes.value) {
            Some((cell, _)) => Some(Arc::clone(cell)),
            None => {
                let names: Vec<&str> = context.config.routes.names().map(|name| &**name).collect();
                // Routes that exist and are wrong have their own errors.
                if !names.contains(&&*section.routes.value) {
                    let help = suggest_word(&section.routes.value, &names).unwrap_or_else(|| {
                        super::routes::known("add them under `routes`; known routes", &names)
                    });
                    let message = format!("there are no routes named `{}`", section.routes.value);
                    diags
                        .error("unknown-name", section.routes.span, at.key("routes"), message)
                        .help(help);
                }
                None
            }
        };
        let options = options(section, context, at, diags);
        Some(HttpPlan {
            listener: Arc::clone(context.listener),
            owner: format!("{}/{}", context.listener, context.chain).into(),
            routes: routes?,
            filters: filters?,
            runtime: Arc::clone(self.input.runtime),
            client_auth: context.client_auth.cloned(),
            options: options?,
        })
    }
}

/// The HTTP options. Fields are listed by name so that a new one cannot be forgotten.
fn options(
    section: &Spanned<Http>,
    context: &HttpContext<'_>,
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
        path: PathHygiene { normalize, merge_slashes, escaped_slashes },
        underscores,
        header_case,
        head_bytes,
        head_fields,
        head_timeout,
        body_timeout,
        idle_timeout,
        requests_per_connection,
        http2,
    } = &section.value;
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
    let limits = HeadLimits {
        bytes: usize::try_from(head_bytes.0).unwrap_or(usize::MAX),
        fields: *head_fields as usize,
    };
    Some(HttpOptions {
        h2: http2_options(http2, limits),
        h3: H3Options {
            head_bytes: limits.bytes,
            head_fields: limits.fields,
            stream_window: context.quic.map_or(0, |quic| quic.stream_window.0),
            resets_max: context.quic.map_or(0, |quic| quic.resets),
        },
        h1: H1Options { limits, lower: *header_case == HeaderCase::Lower },
        advertise_h3: context.quic.is_some(),
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
        },
        head_timeout: *head_timeout,
        body_timeout: *body_timeout,
        idle_timeout: idle_timeout.0,
        requests_max: requests_per_connection.0.map(NonZeroU64::get),
    })
}

fn http2_options(section: &Http2, limits: HeadLimits) -> H2Options {
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
        ping_interval: ping_interval.0,
        ping_timeout: *ping_timeout,
    }
}

/// The ALPN protocols of a chain; derived from its HTTP versions if its `tls` lists none.
pub(super) fn alpn(tls: &Tls, http: Option<&Http>) -> Vec<Vec<u8>> {
    let given = || tls.alpn.iter().map(|alpn| alpn.clone().into_bytes()).collect();
    let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
    match http.map(|http| http.versions) {
        Some(Versions::Any) if tls.alpn.is_empty() => vec![h2, h1],
        Some(Versions::Http1) if tls.alpn.is_empty() => vec![h1],
        Some(Versions::Http2) if tls.alpn.is_empty() => vec![h2],
        _ => given(),
    }
}
