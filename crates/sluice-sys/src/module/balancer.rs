//! Balancers, as a library knows them.
//!
//! Owns: the objects that a library makes of lists of endpoints, what it may ask meanwhile, and the calls. Refuses to know: which
//! endpoints there are, and what becomes of a choice. Keeps: an object is freed once, after the last choice; what is chosen is one
//! of the endpoints.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_abi::{AbiBalancer, endpoint_fact, endpoint_number, result};

use super::call::{CallPlace, HostAnswer, InProgress, Restore, with};
use super::{Module, ModuleConfig, call};

/// What a balancer may ask while it runs. What it lends stays where it is until the call ends.
pub trait BalancerCall {
    /// A text about the endpoint with that index.
    fn fact(&mut self, index: usize, fact: EndpointFact) -> HostAnswer<Option<&[u8]>>;
    /// A number about it.
    fn number(&mut self, index: usize, which: EndpointNumber) -> HostAnswer<u64>;
    /// Whether it can be chosen.
    fn is_open(&mut self, index: usize) -> HostAnswer<bool>;
    /// The hash of the pick.
    fn hash(&mut self) -> HostAnswer<Option<u64>>;
    /// A random number below a bound.
    fn random(&mut self, bound: u64) -> HostAnswer<u64>;
}

/// What is known of an endpoint, as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointFact {
    /// Its address.
    Address,
    /// The host name that it was resolved from.
    Host,
    /// Its locality.
    Locality,
}

impl EndpointFact {
    pub(super) const fn of(number: i32) -> Result<Self, i32> {
        Ok(match number {
            endpoint_fact::ADDRESS => Self::Address,
            endpoint_fact::HOST => Self::Host,
            endpoint_fact::LOCALITY => Self::Locality,
            _ => return Err(result::INVALID),
        })
    }
}

/// What is known of an endpoint, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointNumber {
    /// Its weight.
    Weight,
    /// Its connections and requests in flight.
    Load,
    /// Its priority.
    Priority,
}

impl EndpointNumber {
    pub(super) const fn of(number: i32) -> Result<Self, i32> {
        Ok(match number {
            endpoint_number::WEIGHT => Self::Weight,
            endpoint_number::LOAD => Self::Load,
            endpoint_number::PRIORITY => Self::Priority,
            _ => return Err(result::INVALID),
        })
    }
}

thread_local! {
    static BALANCER: CallPlace<dyn BalancerCall> = const { Cell::new(None) };
    /// The number of the last call of this thread.
    static LAST: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) << COUNT_BITS);
}

/// How many threads have called a balancer.
static THREADS: AtomicU64 = AtomicU64::new(1);

/// The bits of the number of a call below that of its thread.
const COUNT_BITS: u32 = 40;

/// Calls a library with these endpoints at hand.
pub(super) fn enter<R>(call: &mut dyn BalancerCall, run: impl FnOnce(AbiBalancer) -> R) -> R {
    let number = LAST.get() + 1;
    LAST.set(number);
    let call: NonNull<dyn BalancerCall + '_> = NonNull::from(call);
    // SAFETY: only the lifetime changes. `Restore` takes the pointer away before the borrow ends, and `with` is the only
    // reader.
    let call = unsafe {
        std::mem::transmute::<NonNull<dyn BalancerCall + '_>, NonNull<dyn BalancerCall + 'static>>(
            call,
        )
    };
    BALANCER.with(|place| {
        let _restore = Restore(place, place.replace(Some(InProgress { number, call })));
        run(AbiBalancer { id: number })
    })
}

/// Runs an operation on the endpoints at hand.
pub(super) fn with_balancer(
    balancer: AbiBalancer,
    run: impl FnOnce(&mut dyn BalancerCall) -> Result<i32, i32>,
) -> i32 {
    let ran = BALANCER.try_with(|place| with(place, balancer.id, |call| run(call)));
    ran.unwrap_or(result::NOT_NOW)
}

impl Module {
    /// Whether it is a balancer.
    pub const fn balances(&self) -> bool {
        self.table.balancer_pick.is_some()
    }
}

impl ModuleConfig {
    /// Begins with that many endpoints.
    ///
    /// # Errors
    /// What the library returned in place of 0.
    pub fn balance(
        self: &Arc<Self>,
        count: usize,
        call: &mut dyn BalancerCall,
    ) -> Result<ModuleBalancer, i32> {
        let mut state = std::ptr::null_mut();
        if let Some(new) = self.module.table.balancer_new {
            let object = self.object;
            let made = enter(call, |balancer| {
                // SAFETY: the function has this type by the header; the place is valid during the call.
                unsafe { new(balancer, object, count, &raw mut state) }
            });
            if made != result::OK {
                return Err(made);
            }
        }
        Ok(ModuleBalancer { config: Arc::clone(self), count, state })
    }
}

/// A list of endpoints, as a library knows it.
#[derive(Debug)]
pub struct ModuleBalancer {
    config: Arc<ModuleConfig>,
    count: usize,
    state: *mut c_void,
}

// SAFETY: by the rules of the header, a state is used and freed by any thread.
unsafe impl Send for ModuleBalancer {}
// SAFETY: as above; by several threads at once.
unsafe impl Sync for ModuleBalancer {}

impl ModuleBalancer {
    /// Chooses an endpoint; `None` if the library has no preference.
    ///
    /// # Errors
    /// What the library returned, or that it chose what is not there.
    pub fn pick(&self, call: &mut dyn BalancerCall) -> Result<Option<usize>, BadPick> {
        let Some(pick) = self.config.module.table.balancer_pick else { return Ok(None) };
        let (object, state) = (self.config.object, self.state);
        let mut index = usize::MAX;
        let picked = enter(call, |balancer| {
            // SAFETY: the function has this type by the header; the objects are the library's own, and were not freed; the place is
            // valid during the call.
            unsafe { pick(balancer, object, state, &raw mut index) }
        });
        match picked {
            result::OK if index < self.count => Ok(Some(index)),
            result::OK => Err(BadPick::Index(index)),
            result::NOT_FOUND => Ok(None),
            code => Err(BadPick::Code(code)),
        }
    }
}

impl Drop for ModuleBalancer {
    fn drop(&mut self) {
        if let Some(free) = self.config.module.table.balancer_free {
            call::outside(|| {
                // SAFETY: from `balancer_new`, once; no call with this state is in progress, since each borrows it.
                unsafe { free(self.config.object, self.state) }
            });
        }
    }
}

/// A choice that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPick {
    /// There is no endpoint with this index.
    Index(usize),
    /// What the library returned.
    Code(i32),
}
