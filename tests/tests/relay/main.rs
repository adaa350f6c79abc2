//! What is relayed byte by byte or datagram by datagram, with peers of the protocols behind it.
//!
//! Owns: nothing; each module is a group of tests. Keeps: one binary, so that what all of them use is linked once.

mod blame;
mod corpora;
mod databases;
mod datagram_filters;
mod edges;
mod endpoint_sockets;
mod flows;
mod guests;
mod modules;
mod postgres;
mod records;
mod redirects;
mod refusals;
mod scripts;
mod tcp;
