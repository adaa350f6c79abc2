//! Files of Envoy, and control planes.
//!
//! Owns: nothing; each module is a group of tests. Keeps: one binary, so that what all of them use is linked once.

mod envoy;
mod envoy_pages;
mod envoy_pages_hostile;
mod health_discovery;
mod kubernetes;
mod last_good;
mod load_reports;
mod on_demand;
mod scopes;
mod sovereign;
mod virtual_hosts;
mod xds;
mod xds_load;
mod xds_native;
mod xds_parts;
