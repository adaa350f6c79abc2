//! What part of the traffic of a cluster is dropped.

use std::sync::Arc;

/// Most categories of a cluster that are told apart; what further ones drop is counted as `other`.
pub const DROP_CATEGORIES_MAX: usize = 64;

/// A part of the traffic of a cluster that is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropPlan {
    /// Its name in reports and metrics.
    pub category: Arc<str>,
    /// How much of what earlier categories have left, in millionths.
    pub millionths: u32,
}
