//! QUIC and HTTP/3 on both sides, and early data.
//!
//! Owns: nothing; each module is a group of tests. Keeps: one binary, so that what all of them use is linked once.

mod early_data;
mod http3;
mod http3_race;
mod quic;
