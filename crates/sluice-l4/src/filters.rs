//! The connection filters that come with Sluice.
//!
//! Owns: the list of them. Refuses to know: which listener uses which. Keeps: built-in and third-party filters are
//! registered and configured in the same way.

use std::sync::Arc;

use sluice_io::ConnectionFilterPlan;

pub mod allow;
pub mod bandwidth_limit;
pub mod buckets;
pub mod connection_limit;
pub mod content;
pub mod fetch;
mod labelled;
pub mod lookup;
pub mod rate_limit;
pub mod rbac;
pub mod registry;
pub mod tap;
#[cfg(test)]
mod tests;

pub use content::{Content, LiveSecret, SecretUser};
pub use fetch::{FetchOrigin, FetchSchedule, Fetched, Fetches, FileOrigin};
pub use labelled::plan_of_use;
pub use registry::{
    CheckContext, FilterFactory, FilterNames, FilterOwner, FilterRegistry, check_key, long_form_of,
    owner_of_use, split_key,
};

/// Connection filters by name.
pub type Filters = FilterRegistry<dyn ConnectionFilterPlan>;

/// The connection filters that come with Sluice.
pub fn built_in() -> Filters {
    let all: [Arc<dyn FilterFactory<dyn ConnectionFilterPlan>>; 7] = [
        Arc::new(allow::ListFactory::Allow),
        Arc::new(allow::ListFactory::Deny),
        Arc::new(bandwidth_limit::ConnectionBandwidthFactory::default()),
        Arc::new(connection_limit::ConnectionLimitFactory::default()),
        Arc::new(rate_limit::ConnectionRateLimitFactory::default()),
        Arc::new(rbac::ConnectionRbacFactory),
        Arc::new(tap::ConnectionTapFactory),
    ];
    all.into_iter().collect()
}
