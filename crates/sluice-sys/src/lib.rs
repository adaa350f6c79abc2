//! The operating system interface, and the only `unsafe` code in Sluice.
//!
//! Owns: socket options, listening sockets, event queues, pipes and `splice(2)`, batched datagrams, descriptor limits, the
//! allocator, loaded libraries, references lent to foreign runtimes.
//! Refuses to know: protocols and its callers.
//! Keeps: every function is safe to call with any argument; errors are those of the system.
#![allow(unsafe_code, reason = "this crate holds all of it; each block names what it relies on")]

pub mod datagram;
pub mod holder;
pub mod listen;
pub mod loan;
pub mod memory;
pub mod module;
pub mod pipe;
pub mod process;
pub mod queue;
pub mod socket;
pub mod steer;
