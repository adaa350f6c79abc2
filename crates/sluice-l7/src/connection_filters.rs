//! Connection filters that need the clusters of HTTP.
//!
//! Owns: the list of connection filters up to this layer. Refuses to know: which listener uses which. Keeps: they are
//! registered and configured like those of the layer below.

use std::sync::Arc;

use sluice_l4::filters::Filters;

pub mod ext_authz;
pub mod ext_proc;
pub mod global_rate_limit;

/// The connection filters that come with Sluice.
pub fn built_in() -> Filters {
    let mut all = sluice_l4::filters::built_in();
    all.register(Arc::new(ext_authz::ConnectionAuthzFactory));
    all.register(Arc::new(ext_proc::ConnectionProcFactory));
    all.register(Arc::new(global_rate_limit::ConnectionGlobalRateLimitFactory::default()));
    all
}
