//! Who may, and how often: authentication, authorisation, limits, and services that decide.
//!
//! Owns: nothing; each module is a group of tests. Keeps: one binary, so that what all of them use is linked once.

mod connection_proc;
mod ext_authz;
mod ext_proc;
mod ext_proc_versions;
mod global_limits;
mod identities;
mod jwt;
mod load_guards;
mod oidc;
mod oidc_provider;
mod oidc_sessions;
mod passwords;
mod rate_limits;
mod rbac;
mod redis_limits;
