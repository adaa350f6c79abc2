//! The operating system, and the only `unsafe` code of Sluice.
//!
//! Owns: socket options, listening sockets, event queues, pipes and `splice(2)`, batched datagrams,
//! descriptor limits. Refuses to know: protocols, who calls it.
//! Keeps: every function is safe to call with any argument; errors are the system's own.
#![allow(unsafe_code, reason = "this crate holds all of it; each block names what it relies on")]

pub mod datagram;
pub mod holder;
pub mod listen;
pub mod pipe;
pub mod process;
pub mod queue;
pub mod socket;
pub mod steer;
