//! The vocabulary that every layer of Sluice shares.
//!
//! Owns: parsers for names, addresses and values, limits, reasons, secrets, time, the settings tree with its source positions,
//! and the diagnostics that point at them.
//! Refuses to know: sockets, runtimes, YAML, TLS, HTTP.
//! Keeps: everything here is a plain value. Nothing performs I/O, nothing blocks.
#![forbid(unsafe_code)]

pub mod address;
pub mod clock;
pub mod connection;
pub mod diagnostics;
pub mod facts;
pub mod fine_percent;
pub mod limits;
pub mod reader;
pub mod reason;
pub mod secret;
pub mod settings;
pub mod sni_pattern;
pub mod suggest;
pub mod tree;
pub mod value;
pub mod values;

pub use address::{Cidr, Endpoint, ListenAddress};
pub use clock::{Clock, Moment};
pub use connection::ConnInfo;
pub use diagnostics::{Diagnostic, Diags, Severity};
pub use facts::{Facts, Protocol, TransportKind};
pub use limits::Limits;
pub use reason::{Phase, Reason, ReasonDef, Side, Verdict};
pub use secret::{SecretSource, SecretText};
pub use settings::{Path, Plain, Setting, Shape};
pub use tree::{Node, Span, Spanned, Value};
pub use values::{ConnValues, SharedValues, ValueDef, ValueKey};

/// A name given in a configuration: listener, chain, cluster. Cheap to clone.
pub type Name = std::sync::Arc<str>;

/// A boxed future that is not `Send`.
pub type LocalFuture<T> = std::pin::Pin<Box<dyn Future<Output = T>>>;
