//! Clusters: where endpoints come from, which of them gets traffic, and what becomes of those that fail.
//!
//! Owns: nothing; each module is a group of tests. Keeps: one binary, so that what all of them use is linked once.

mod affinity;
mod balancing;
mod by_name;
mod discovery;
mod endpoint_changes;
mod health_checks;
mod health_events;
mod https_records;
mod interventions;
mod module_balancers;
mod outliers;
mod queues;
mod subsets;
mod zones;
