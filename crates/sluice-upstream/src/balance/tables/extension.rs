//! Balancers that are no part of Sluice.
//!
//! Owns: the traits that they implement, and the turn that is taken where they decide nothing. Refuses to know: the implementations.
//! Keeps: a usable endpoint is found if there is one, whatever a balancer says; what it gets wrong is counted.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::{Pick, StrideTable, Weighted, in_turn};
use crate::endpoint::EndpointState;

/// A balancer with its settings, shared by all clusters that have the same.
pub trait BalancerExtension: Debug + Send + Sync {
    /// The balancer in configurations and on the admin pages.
    fn word(&self) -> &'static str;

    /// Equal for two that choose alike, as long as both exist.
    fn identity(&self) -> usize;

    /// Begins with these endpoints, of which there is at least one; `None` if it cannot.
    fn build(&self, members: Offered<'_>) -> Option<Box<dyn ExtensionTable>>;
}

/// What a balancer made of a list of endpoints.
pub trait ExtensionTable: Debug + Send + Sync {
    /// The place of an endpoint among `members`; `None` if the balancer has no preference.
    ///
    /// # Errors
    /// It has failed.
    fn pick(
        &self,
        members: Offered<'_>,
        pick: &mut Pick<'_>,
    ) -> Result<Option<usize>, ExtensionFailed>;
}

/// The balancer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionFailed;

/// The endpoints that a balancer chooses among: the same in each pick, in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Offered<'a> {
    endpoints: &'a [Arc<EndpointState>],
    chosen: &'a [Weighted],
}

impl<'a> Offered<'a> {
    /// The number of them.
    pub const fn len(self) -> usize {
        self.chosen.len()
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.chosen.is_empty()
    }

    /// An endpoint, and its weight in proportion to those of the others.
    pub fn get(self, place: usize) -> Option<(&'a EndpointState, u64)> {
        let one = self.chosen.get(place)?;
        Some((&self.endpoints[one.index as usize], one.weight))
    }

    /// Whether it can be chosen: usable, below its limits, and not attempted before.
    pub fn is_open(self, place: usize, pick: &Pick<'_>) -> bool {
        self.chosen.get(place).is_some_and(|one| (pick.may)(one.index))
    }
}

/// A balancer as a part of a plan. Two are equal if they choose alike.
#[derive(Clone, Debug)]
pub struct ExtensionPlan(pub Arc<dyn BalancerExtension>);

impl PartialEq for ExtensionPlan {
    fn eq(&self, other: &Self) -> bool {
        self.0.identity() == other.0.identity()
    }
}

impl Eq for ExtensionPlan {}

impl Hash for ExtensionPlan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.identity().hash(state);
    }
}

/// The table of such a balancer.
#[derive(Debug)]
pub struct ExtendedTable {
    /// `None` if the balancer cannot do with these endpoints.
    own: Option<Box<dyn ExtensionTable>>,
    chosen: Vec<Weighted>,
    turns: StrideTable,
}

impl ExtendedTable {
    pub(super) fn build(
        plan: &ExtensionPlan,
        endpoints: &[Arc<EndpointState>],
        chosen: Vec<Weighted>,
    ) -> Self {
        let own = plan.0.build(Offered { endpoints, chosen: &chosen });
        Self { own, turns: StrideTable::build(&chosen), chosen }
    }

    pub(super) fn pick(
        &self,
        endpoints: &[Arc<EndpointState>],
        pick: &mut Pick<'_>,
    ) -> Option<u32> {
        let members = Offered { endpoints, chosen: &self.chosen };
        if let Some(own) = &self.own
            && pick.failed.is_some()
        {
            match own.pick(members, pick) {
                Ok(Some(place)) if members.is_open(place, pick) => {
                    return Some(self.chosen[place].index);
                }
                Ok(None) => {}
                // With nothing to choose, any choice is wrong.
                Ok(Some(_)) if !(0..members.len()).any(|place| members.is_open(place, pick)) => {}
                Ok(Some(_)) | Err(ExtensionFailed) => pick.note_failure(),
            }
        } else if self.own.is_none() {
            pick.note_failure();
        }
        in_turn(&self.turns, (pick.turn)(), pick.may)
    }
}

#[cfg(test)]
mod tests;
