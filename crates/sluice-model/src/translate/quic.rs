//! QUIC on a listener: its options.
//!
//! Owns: what its settings mean. Refuses to know: chains. Keeps: every setting is used or refused.

use sluice_codec::h2::H2Options;
use sluice_codec::quic::QuicTransport;
use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Spanned};
use sluice_quic::QuicOptions;
use sluice_upstream::plan::Congestion;

use super::Context;
use crate::sections::{self, Quic};

impl Context<'_> {
    pub(super) fn quic_options(
        self,
        section: &Spanned<Short<Quic>>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<QuicOptions> {
        // Fields are listed by name so that a new one cannot be forgotten.
        let Quic {
            enabled: _,
            idle_timeout,
            retry_above,
            streams,
            resets: _,
            stream_window,
            connection_window,
            congestion,
            qlog,
        } = &section.0;
        let qlog = qlog.as_ref().map(|folder| (self.file(folder.value.as_ref()), folder.span));
        if let Some((folder, span)) = &qlog
            && !folder.is_dir()
        {
            let problem = format!("{} is not a folder", folder.display());
            diags
                .error("no-folder", *span, at.key("quic").key("qlog"), problem)
                .help("create it and make it writable for Sluice's user; traces are written to it");
            return None;
        }
        Some(QuicOptions {
            transport: QuicTransport {
                idle_timeout: *idle_timeout,
                stream_window: stream_window.0,
                connection_window: connection_window.0.map_or_else(
                    || H2Options::window_of(streams.get(), stream_window.0),
                    |window| window.0,
                ),
                congestion: congestion_of(*congestion),
            },
            retry_above: *retry_above,
            streams_max: streams.get(),
            qlog: qlog.map(|(folder, _)| folder),
        })
    }
}

/// The algorithm that a setting names.
pub(super) const fn congestion_of(of: sections::Congestion) -> Congestion {
    match of {
        sections::Congestion::Cubic => Congestion::Cubic,
        sections::Congestion::NewReno => Congestion::NewReno,
        sections::Congestion::Bbr => Congestion::Bbr,
    }
}
