//! Builds the plan of QUIC on a listener from its section.
//!
//! Owns: which chains serve QUIC, its options, and which sessions may send early data.
//! Refuses to know: how chains are built.

use std::sync::Arc;

use sluice_codec::h2::H2Options;
use sluice_codec::quic::{Congestion, QuicTransport};
use sluice_core::settings::{Members, Short};
use sluice_core::{Diags, Path, Spanned};
use sluice_l4::inspect::Needs;
use sluice_l4::{ChainPlan, ChainTable, InspectPlan, ListenerPlan, Termination, Transport};
use sluice_l7::HttpPlan;
use sluice_quic::{QuicHandlerPlan, QuicListenerPlan, QuicOptions};
use sluice_tls::EarlySessions;

use super::listeners::Scope;
use crate::chains::over_quic;
use crate::sections::{self, Chain, Listener, Quic};

/// The chains of a listener that QUIC connections may be assigned to.
pub(super) struct QuicChains {
    table: ChainTable,
    /// Their indexes among all chains, in the order of the table.
    indexes: Vec<usize>,
}

impl Scope<'_, '_> {
    /// The chains that serve QUIC.
    pub(super) fn quic_chains(
        &self,
        quic: &Spanned<Short<Quic>>,
        chains: &Members<Chain>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<QuicChains> {
        let over_quic = over_quic(chains);
        if over_quic.is_empty() || self.udp {
            diags
                .error(
                    "wrong-kind",
                    quic.span,
                    at.key("quic"),
                    "QUIC needs a TCP listener with a chain that has both `tls` and `http`",
                )
                .help("HTTP/3 is served by the same chains as HTTP/1 and HTTP/2, with their certificates");
            return None;
        }
        let spans: Vec<_> = over_quic.iter().map(|chain| (chain.place, chain.span)).collect();
        let indexes = over_quic.iter().map(|chain| chain.index).collect();
        let criteria: Vec<_> = over_quic.into_iter().map(|chain| chain.criteria).collect();
        let table = self.table(&criteria, &spans, &at.key("chains"), diags)?;
        Some(QuicChains { table, indexes })
    }

    /// The listener for QUIC: some of the chains of `listener`, with handlers of QUIC connections.
    pub(super) fn quic_listener(
        &self,
        section: &Spanned<Short<Quic>>,
        listener: &ListenerPlan,
        chains: QuicChains,
        handlers: &[Option<Arc<HttpPlan>>],
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<QuicListenerPlan>> {
        let options = self.quic_options(section, at, diags)?;
        let QuicChains { table, indexes } = chains;
        let handler = |index: &usize| {
            let http = handlers[*index].as_ref().expect("only chains that serve HTTP are listed");
            Arc::clone(http) as Arc<dyn QuicHandlerPlan>
        };
        let handlers = indexes.iter().map(handler).collect();
        let listener = Arc::new(ListenerPlan {
            name: listener.name.clone(),
            filters: listener.filters.clone(),
            proxy_protocol: None,
            inspect: InspectPlan { needs: Needs::default(), ..listener.inspect.clone() },
            table,
            chains: Arc::new(indexes.iter().map(|index| over(&listener.chains[*index])).collect()),
        });
        Some(Arc::new(QuicListenerPlan { listener, handlers, options }))
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

    fn quic_options(
        &self,
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
        let qlog =
            qlog.as_ref().map(|folder| (self.build.input.folder.join(&folder.value), folder.span));
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
                congestion: match congestion {
                    sections::Congestion::Cubic => Congestion::Cubic,
                    sections::Congestion::NewReno => Congestion::NewReno,
                    sections::Congestion::Bbr => Congestion::Bbr,
                },
            },
            retry_above: *retry_above,
            streams_max: streams.get(),
            qlog: qlog.map(|(folder, _)| folder),
        })
    }
}

/// A chain for QUIC connections: the same without a handler for streams.
fn over(chain: &ChainPlan) -> ChainPlan {
    ChainPlan {
        name: chain.name.clone(),
        transport: match &chain.transport {
            Transport::Untouched => Transport::Untouched,
            Transport::Terminate(Termination { tls, timeout, plain_http, inner: _ }) => {
                Transport::Terminate(Termination {
                    tls: tls.clone(),
                    timeout: *timeout,
                    plain_http: *plain_http,
                    inner: None,
                })
            }
        },
        filters: chain.filters.clone(),
        handler: None,
    }
}

/// Maximum number of early-data sessions of a chain: each takes about 1 KiB, and a look-up takes longer the more there
/// are.
const EARLY_SESSIONS_MAX: u32 = 65_536;
