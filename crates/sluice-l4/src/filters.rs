//! The connection filters that come with Sluice, and the registry of filters by name.
//!
//! Owns: the registry of filter factories. Refuses to know: which listener uses which. Keeps: built-in and third-party
//! filters are registered and configured in the same way.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_io::ConnectionFilterFactory;

pub mod allow;
pub mod buckets;
pub mod connection_limit;
pub mod rate_limit;
#[cfg(test)]
mod tests;

/// Filters by name.
#[derive(Clone, Debug)]
pub struct Filters(BTreeMap<&'static str, Arc<dyn ConnectionFilterFactory>>);

impl Default for Filters {
    /// The filters that come with Sluice.
    fn default() -> Self {
        let mut filters = Self(BTreeMap::new());
        filters.register(Arc::new(allow::ListFactory::Allow));
        filters.register(Arc::new(allow::ListFactory::Deny));
        filters.register(Arc::new(connection_limit::ConnectionLimitFactory::default()));
        filters.register(Arc::new(rate_limit::ConnectionRateLimitFactory::default()));
        filters
    }
}

impl Filters {
    /// Adds a filter, or replaces the one with the same name.
    pub fn register(&mut self, factory: Arc<dyn ConnectionFilterFactory>) {
        self.0.insert(factory.name(), factory);
    }

    /// The filter with that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn ConnectionFilterFactory>> {
        self.0.get(name)
    }

    /// Every filter, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn ConnectionFilterFactory>> {
        self.0.values()
    }
}
