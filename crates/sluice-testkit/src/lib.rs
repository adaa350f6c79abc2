//! The building blocks of black-box tests: a running Sluice, and peers for either side of it.
//!
//! Owns: starting and stopping the processes of a test, and the accounting at the end. Refuses to know: the inside of
//! Sluice; it sees what a user sees: files, addresses, admin pages, records. Keeps: everything is on loopback; a test
//! waits for events, never for time to pass; a test fails if a connection is not accounted for.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "a test kit panics to fail the test")]

pub mod browser;
pub mod built_guests;
pub mod certificates;
pub mod files;
pub mod frames;
pub mod guests;
pub mod http;
pub mod http3;
pub mod identity_provider;
pub mod libraries;
pub mod lossy;
pub mod mmdb;
pub mod origin;
pub mod peers;
pub mod quic_server;
pub mod running;
pub mod tls;
pub mod tokens;
pub mod tools;
pub mod wait;

pub use browser::Browser;
pub use certificates::Authority;
pub use identity_provider::IdentityProvider;
pub use origin::Origin;
pub use quic_server::QuicServer;
/// The library that [`QuicServer`] runs on.
pub use quinn;
pub use running::Running;
pub use running::Sluice;

/// Raises this process's limit of open files as far as possible, and returns it.
pub fn raise_file_limit() -> u64 {
    sluice_sys::process::raise_file_limit()
}
