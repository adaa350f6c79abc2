//! Load balancers.
//!
//! Owns: what a balancer implements, and what it may ask of endpoints. Refuses to know: how the host is called. Keeps: what is lent is
//! borrowed from the call.

use std::marker::PhantomData;

use sluice_abi::{AbiBalancer, endpoint_fact, endpoint_number};

use crate::raw::balancer as raw;
use crate::{Config, Refusal};

/// A balancer: what a library makes of a configuration. All threads share it, and may pick at once. Exported with
/// [`balancer_module!`](crate::balancer_module).
pub trait Balancer: Send + Sync + Sized + 'static {
    /// What it makes of a list of endpoints.
    type Table: Send + Sync + 'static;

    /// Makes a balancer of the text of a configuration; `name` is the `name` of the settings.
    ///
    /// # Errors
    /// Why it cannot be used; `sluice check` prints it.
    fn new(config: &mut Config<'_>, name: &str, text: &str) -> Result<Self, String>;

    /// There are other endpoints to choose among, or they have other weights or states. `None` if the balancer cannot do with them:
    /// they are used in turn.
    fn begin(&self, endpoints: &Endpoints<'_>) -> Option<Self::Table>;

    /// The index of an endpoint that is open; `None` takes the next in turn.
    fn pick(&self, table: &Self::Table, pick: &Pick<'_>) -> Option<usize>;
}

/// The endpoints of a list, which have the indexes from 0. Each function returns `None` for an index of none.
#[derive(Debug)]
pub struct Endpoints<'a> {
    pub(crate) handle: AbiBalancer,
    pub(crate) count: usize,
    pub(crate) of_call: PhantomData<&'a *mut ()>,
}

impl Endpoints<'_> {
    /// The number of them; at least one.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none, which is never.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The address of one, which no other has.
    pub fn address(&self, index: usize) -> Option<&[u8]> {
        raw::fact(self, index, endpoint_fact::ADDRESS)
    }

    /// The host name that it was resolved from.
    pub fn host(&self, index: usize) -> Option<&[u8]> {
        raw::fact(self, index, endpoint_fact::HOST)
    }

    /// Its zone, region/zone or region/zone/sub-zone.
    pub fn locality(&self, index: usize) -> Option<&[u8]> {
        raw::fact(self, index, endpoint_fact::LOCALITY)
    }

    /// Its weight, at least 1, in proportion to those of the others.
    pub fn weight(&self, index: usize) -> Option<u64> {
        raw::number(self, index, endpoint_number::WEIGHT).ok()
    }

    /// Its relayed connections and requests in flight.
    pub fn load(&self, index: usize) -> Option<u64> {
        raw::number(self, index, endpoint_number::LOAD).ok()
    }

    /// Its priority; 0 is the highest.
    pub fn priority(&self, index: usize) -> Option<u64> {
        raw::number(self, index, endpoint_number::PRIORITY).ok()
    }
}

/// A pick for a connection, flow or request.
#[derive(Debug)]
pub struct Pick<'a>(pub(crate) Endpoints<'a>);

impl<'a> Pick<'a> {
    /// The endpoints.
    pub const fn endpoints(&self) -> &Endpoints<'a> {
        &self.0
    }

    /// Whether an endpoint can be chosen now: it is below its limits, and was not attempted before.
    pub fn is_open(&self, index: usize) -> bool {
        raw::is_open(&self.0, index)
    }

    /// The hash of what `hash` of the rule or relay names.
    pub fn hash(&self) -> Option<u64> {
        raw::hash(&self.0)
    }

    /// A random number below `bound`.
    ///
    /// # Errors
    /// `bound` is 0.
    pub fn random(&self, bound: u64) -> Result<u64, Refusal> {
        raw::random(&self.0, bound)
    }
}
