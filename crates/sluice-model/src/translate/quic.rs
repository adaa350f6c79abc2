//! QUIC on a listener: its options, and which sessions may send early data.

use sluice_codec::h2::H2Options;
use sluice_codec::quic::QuicTransport;
use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Spanned};
use sluice_quic::QuicOptions;
use sluice_tls::EarlySessions;
use sluice_upstream::plan::Congestion;

use super::Context;
use crate::sections::{self, Chain, Listener, Quic};

impl Context<'_> {
    pub(super) fn quic_options(
        self,
        section: &Spanned<Short<Quic>>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<QuicOptions> {
        if section.early_data_sessions > EARLY_SESSIONS_MAX {
            let problem = format!("`early_data_sessions` must not exceed {EARLY_SESSIONS_MAX}");
            let at = at.key("quic");
            diags.error("bad-value", section.span, at.key("early_data_sessions"), problem);
            return None;
        }
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
            early_data_sessions: _,
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

/// The sessions of a chain that may send early data. Their key (`of`) contains everything that clients were granted.
pub(super) fn early_sessions(listener: &Listener, chain: &Chain) -> Option<EarlySessions> {
    let quic = &listener.quic().filter(|quic| quic.0.early_data_sessions > 0)?.0;
    // Fields are listed by name: a session must not be resumed under limits other than those it was granted.
    let Quic {
        enabled: _,
        idle_timeout,
        retry_above: _,
        streams,
        resets: _,
        stream_window,
        connection_window,
        congestion: _,
        early_data_sessions,
        qlog: _,
    } = quic;
    let granted = (idle_timeout, streams, stream_window, connection_window);
    let head = chain.http.as_ref().map(|http| http.0.head_bytes);
    let certificates = chain.tls.iter().flat_map(|tls| &tls.certificates);
    let certificates: Vec<_> =
        certificates.map(|pair| (&*pair.cert, pair.key.as_deref())).collect();
    let (listener, chain) = (&listener.name.value, &chain.name);
    let of = format!("{listener} {chain:?} {certificates:?} {granted:?} {head:?}");
    Some(EarlySessions { count: *early_data_sessions, of })
}

/// Maximum number of early-data sessions of a chain: each takes about 1 KiB, and a look-up takes longer the more there
/// are.
const EARLY_SESSIONS_MAX: u32 = 65_536;
