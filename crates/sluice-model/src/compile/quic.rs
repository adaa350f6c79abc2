//! The chains of a listener that serve QUIC.
//!
//! Owns: which chains those are. Refuses to know: how chains are compiled, and the options of QUIC.

use sluice_core::{Diags, Path, Protocol, TransportKind};
use sluice_l4::{Criteria, QuicPlan};

use crate::model::FilterChain;
use crate::model::listener::{ChainKind, Service};

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
            && (of.protocols.is_empty() || of.protocols.contains(&Protocol::Tls))
            && (of.alpn.is_empty() || of.alpn.iter().any(|alpn| alpn == b"h3"))
            && of.databases.is_empty()
            && of.users.is_empty()
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

/// The plan of these chains.
pub(super) fn plan(over_quic: &[OverQuic], diags: &mut Diags) -> Option<QuicPlan> {
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
    Some(QuicPlan { table, chains: indexes })
}
