//! The listener for QUIC beside a listener for connections: those of its chains that serve QUIC.
//!
//! Owns: which chains those are. Refuses to know: how chains are compiled, and the options of QUIC.

use std::sync::Arc;

use sluice_core::{Diags, Path, TransportKind};
use sluice_l4::inspect::Needs;
use sluice_l4::inspect::tls::TLS;
use sluice_l4::{
    ChainPlan, ChainTable, Criteria, InspectPlan, ListenerPlan, Termination, Transport,
};
use sluice_l7::HttpPlan;
use sluice_quic::{QuicHandlerPlan, QuicListenerPlan, QuicOptions};

use crate::model::FilterChain;
use crate::model::listener::{ChainKind, Service};

/// The chains of a listener that QUIC connections may be assigned to.
pub(super) struct QuicChains {
    table: ChainTable,
    /// Their places among all chains, in the order of the table.
    indexes: Vec<usize>,
}

/// A chain that QUIC connections may be assigned to.
#[derive(Clone, Debug)]
pub(super) struct OverQuic {
    /// Its place among the chains.
    pub(super) index: usize,
    /// Its criteria for a QUIC connection.
    pub(super) criteria: Criteria,
}

/// The chains that terminate TLS, serve HTTP and match nothing that a QUIC connection cannot have.
pub(super) fn over_quic(chains: &[FilterChain]) -> Vec<OverQuic> {
    let carries = |kind: &TransportKind| *kind != TransportKind::Plain;
    let fits = |of: &Criteria| {
        (of.transports.is_empty() || of.transports.iter().any(carries))
            && (of.protocols.is_empty() || of.protocols.contains(&TLS))
            && (of.alpn.is_empty() || of.alpn.iter().any(|alpn| alpn == b"h3"))
            && of.words.is_empty()
    };
    let all = chains.iter().enumerate().map(|(index, chain)| {
        let serves = matches!(chain.kind, ChainKind::Terminate(_, Service::Http(_)));
        let of = &chain.criteria;
        (serves && fits(of)).then(|| OverQuic {
            index,
            // On a QUIC connection, transport and protocol are given.
            criteria: Criteria {
                transports: Vec::new(),
                protocols: Vec::new(),
                ..Criteria::clone(of)
            },
        })
    });
    all.flatten().collect()
}

/// The index over these chains.
pub(super) fn chains(over_quic: &[OverQuic], diags: &mut Diags) -> Option<QuicChains> {
    if over_quic.is_empty() {
        let message = "QUIC needs a TCP listener with a chain that has both `tls` and `http`";
        diags.error("wrong-kind", None, "quic", message).help(
            "HTTP/3 is served by the same chains as HTTP/1 and HTTP/2, with their certificates",
        );
        return None;
    }
    let indexes: Vec<usize> = over_quic.iter().map(|chain| chain.index).collect();
    let criteria: Vec<_> = over_quic.iter().map(|chain| chain.criteria.clone()).collect();
    let table = super::chain_table(&criteria, &indexes, &Path::ROOT.key("chains"), diags)?;
    Some(QuicChains { table, indexes })
}

/// The listener for QUIC: some of the chains of `listener`, with the handlers of QUIC connections. `handlers` are those
/// of all its chains.
pub(super) fn listener(
    chains: QuicChains,
    listener: &ListenerPlan,
    handlers: &[Option<Arc<HttpPlan>>],
    options: &QuicOptions,
) -> Arc<QuicListenerPlan> {
    let QuicChains { table, indexes } = chains;
    let handler = |index: &usize| {
        let http = handlers[*index].as_ref().expect("only chains that serve HTTP are listed");
        Arc::clone(http) as Arc<dyn QuicHandlerPlan>
    };
    let handlers = indexes.iter().map(handler).collect();
    let listener = Arc::new(ListenerPlan {
        name: listener.name.clone(),
        filters: listener.filters.clone(),
        original_destination: false,
        proxy_protocol: None,
        inspect: InspectPlan { needs: Needs::default(), ..listener.inspect.clone() },
        table,
        chains: Arc::new(indexes.iter().map(|index| over(&listener.chains[*index])).collect()),
    });
    Arc::new(QuicListenerPlan { listener, handlers, options: options.clone() })
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
