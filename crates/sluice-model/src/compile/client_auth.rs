//! The client authentication that the chains of a listener require.
//!
//! Owns: the numbering of requirements, and the indexes that decide whether a host belongs to another chain.
//! Refuses to know: certificates. Keeps: the indexes are built from the criteria that select connections.

use std::sync::Arc;

use sluice_l4::{ChainTable, Criteria};
use sluice_l7::client_auth::{ChainsByName, ListenerClientAuth, Requirement};
use sluice_tls::ClientAuth;

use super::quic::OverQuic;
use crate::model::FilterChain;

/// The requirement of each chain, as a number: 0 is none.
pub(super) fn requirements(chains: &[FilterChain]) -> Vec<Requirement> {
    let mut known: Vec<Option<&ClientAuth>> = vec![None];
    chains
        .iter()
        .map(|chain| {
            let own = chain.tls().and_then(|tls| tls.client_auth.as_ref());
            let place = known.iter().position(|of| *of == own).unwrap_or_else(|| {
                known.push(own);
                known.len() - 1
            });
            Requirement::try_from(place).unwrap_or(Requirement::MAX)
        })
        .collect()
}

/// The requirements of the listener by host; `None` if all chains have the same, or if the criteria are wrong, which
/// selection reports.
pub(super) fn of_listener(
    criteria: &[Criteria],
    requirements: &[Requirement],
    over_quic: Option<Vec<OverQuic>>,
) -> Option<Arc<ListenerClientAuth>> {
    if requirements.iter().all(|of| *of == requirements[0]) {
        return None;
    }
    let tcp = by_name(criteria, requirements.to_vec())?;
    let quic = match over_quic {
        None => None,
        Some(chains) => {
            let requirements = chains.iter().map(|chain| requirements[chain.index]).collect();
            let criteria: Vec<_> = chains.into_iter().map(|chain| chain.criteria).collect();
            Some(by_name(&criteria, requirements)?)
        }
    };
    Some(Arc::new(ListenerClientAuth { tcp, quic }))
}

fn by_name(criteria: &[Criteria], requirements: Vec<Requirement>) -> Option<ChainsByName> {
    Some(ChainsByName { table: ChainTable::build(criteria).ok()?, requirements })
}
