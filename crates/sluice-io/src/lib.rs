//! Streams and the worker they belong to.
//!
//! Owns: the context of a worker (clock, timers, sockets, buffers, pipes), streams over TCP, unix sockets and TLS, the
//! pump between two of them, and the traits that inspectors, filters and handlers implement.
//! Refuses to know: listeners, chains, clusters, protocols.
//! Keeps: everything here belongs to one thread and is not `Send`; an idle stream holds no buffer.
#![forbid(unsafe_code)]

pub mod buffers;
pub mod byte_filter;
pub mod datagram_filter;
pub mod descriptors;
mod holding;
pub mod pipes;
pub mod pump;
pub mod raw;
pub mod reactor;
pub mod seams;
pub mod stream;
pub mod tap;
pub mod timers;
pub mod tls;
pub mod turn;
pub mod wheel;
pub mod worker;

pub use byte_filter::{ByteFilter, ByteHooks, ByteRelease, ByteResume, ByteStep};
pub use datagram_filter::{DATAGRAM_MAX, DatagramFilter, DatagramStep};
pub use descriptors::{Allowance, Budget};
pub use raw::RawStream;
pub use reactor::{Interest, Reactor, Source};
pub use seams::{
    Admit, AdmitResume, ConnectionFilter, ConnectionFilterPlan, Inspection, Inspector,
    StreamHandler,
};
pub use stream::Stream;
pub use tap::ByteTap;
pub use tls::TlsStream;
pub use worker::WorkerCx;
pub use worker::conn::Conn;
