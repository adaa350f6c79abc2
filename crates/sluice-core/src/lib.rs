//! The words that every layer of Sluice shares.
//!
//! Owns: names, addresses and values as people write them, limits, reasons, time, the settings
//! tree with its places, and the diagnostics that point at them.
//! Refuses to know: sockets, runtimes, YAML, TLS, HTTP.
//! Keeps: everything here is a plain value. Nothing does input or output, nothing blocks.
#![forbid(unsafe_code)]

pub mod address;
pub mod clock;
pub mod connection;
pub mod diagnostics;
pub mod limits;
pub mod reason;
pub mod settings;
pub mod suggest;
pub mod tree;
pub mod value;

pub use address::{Cidr, Endpoint, ListenAddress};
pub use clock::{Clock, Moment};
pub use connection::{ConnInfo, Facts, Protocol, TransportKind};
pub use diagnostics::{Diagnostic, Diags, Severity};
pub use limits::Limits;
pub use reason::{Phase, Reason, ReasonDef, Side, Verdict};
pub use settings::{Path, Plain, Setting, Shape};
pub use tree::{Node, Span, Spanned, Value};

/// A name given in a configuration: listener, chain, cluster. Cheap to copy.
pub type Name = std::sync::Arc<str>;

/// A future that stays on its thread.
pub type LocalFuture<T> = std::pin::Pin<Box<dyn Future<Output = T>>>;
