//! HTTP on a chain: from a section to a plan.

use std::num::NonZeroU64;
use std::sync::Arc;

use sluice_codec::h1::parse::HeadLimits;
use sluice_codec::h1::stream::H1Options;
use sluice_codec::h2::H2Options;
use sluice_codec::h3::H3Options;
use sluice_core::settings::suggest_word;
use sluice_core::{Diags, Name, Path, Spanned};
use sluice_l7::HttpPlan;
use sluice_l7::client_auth::OwnClientAuth;
use sluice_l7::edge::Edge;
use sluice_l7::hygiene::Hygiene;
use sluice_l7::plan::{HttpOptions, Versions};

use super::Build;
use super::routes::{RouteMap, http_filters};
use crate::sections::http::{HeaderCase, Http};
use crate::sections::{Config, Quic, Tls};

/// What a chain that speaks HTTP is made from beside its own section.
pub(super) struct Around<'a> {
    pub(super) config: &'a Config,
    pub(super) routes: &'a RouteMap,
    pub(super) listener: &'a Name,
    pub(super) chain: &'a Name,
    /// How the listener speaks QUIC, where it does.
    pub(super) quic: Option<&'a Quic>,
    /// Which hosts of the listener authenticate their clients otherwise.
    pub(super) client_auth: Option<&'a OwnClientAuth>,
}

impl Build<'_> {
    pub(super) fn http(
        &self,
        section: &Spanned<Http>,
        around: &Around<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<HttpPlan> {
        let filters = http_filters(self, &section.filters, &at.key("filters"), diags);
        let routes = match around.routes.get(&section.routes.value) {
            Some((cell, _)) => Some(Arc::clone(cell)),
            None => {
                let names: Vec<&str> = around.config.routes.names().map(|name| &**name).collect();
                // Routes that are there and wrong have their own errors.
                if !names.contains(&&*section.routes.value) {
                    let help = suggest_word(&section.routes.value, &names).unwrap_or_else(|| {
                        format!("add them under `routes`; there are: {}", names.join(", "))
                    });
                    let message = format!("there are no routes `{}`", section.routes.value);
                    diags
                        .error("unknown-name", section.routes.span, at.key("routes"), message)
                        .help(help);
                }
                None
            }
        };
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        if !(1024..=64 << 10).contains(&section.head_bytes.0) {
            let message = "a head is bounded from 1KiB to 64KiB";
            diags.error("bad-value", section.span, at.key("head_bytes"), message);
            return None;
        }
        if !(8..=1000).contains(&section.head_fields) {
            let message = "fields are bounded from 8 to 1000";
            diags.error("bad-value", section.span, at.key("head_fields"), message);
            return None;
        }
        let http2 = &section.http2;
        let window = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).min((1 << 31) - 1);
        Some(HttpPlan {
            listener: Arc::clone(around.listener),
            owner: format!("{}/{}", around.listener, around.chain).into(),
            routes: routes?,
            filters: filters?,
            runtime: Arc::clone(self.needed.runtime),
            client_auth: around.client_auth.cloned(),
            options: HttpOptions {
                h1: H1Options {
                    limits: HeadLimits {
                        bytes: size(section.head_bytes.0),
                        fields: section.head_fields as usize,
                    },
                    lower: section.header_case == HeaderCase::Lower,
                },
                h2: H2Options {
                    streams_max: http2.streams.get(),
                    stream_window: window(http2.stream_window.0),
                    connection_window: http2.connection_window.0.map_or_else(
                        || H2Options::window_of(http2.streams.get(), window(http2.stream_window.0)),
                        |size| window(size.0),
                    ),
                    head_bytes: window(section.head_bytes.0),
                    head_fields: section.head_fields as usize,
                    resets_max: http2.resets as usize,
                    ping_interval: http2.ping_interval.0,
                    ping_timeout: http2.ping_timeout,
                },
                h3: H3Options {
                    head_bytes: size(section.head_bytes.0),
                    head_fields: section.head_fields as usize,
                    stream_window: around.quic.map_or(0, |quic| window(quic.stream_window.0)),
                    resets_max: around.quic.map_or(0, |quic| quic.resets),
                },
                advertise_h3: around.quic.is_some(),
                versions: section.versions,
                hygiene: Hygiene {
                    normalize: section.path.normalize,
                    merge_slashes: section.path.merge_slashes,
                    escaped_slashes: section.path.escaped_slashes,
                    underscores: section.underscores,
                },
                edge: Edge { trusted_hops: section.trusted_hops, forwarded: section.forwarded },
                head_timeout: section.head_timeout,
                body_timeout: section.body_timeout,
                idle_timeout: section.idle_timeout.0,
                requests_max: section.requests_per_connection.0.map(NonZeroU64::get),
            },
        })
    }
}

/// The ALPN protocols that a chain agrees on where its `tls` does not say.
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
