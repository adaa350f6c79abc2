//! The process: the command line, admin pages, metrics, reload, drain, takeover, and the samples.
//!
//! Owns: nothing; each module is a group of tests. Keeps: one binary, so that what all of them use is linked once.

mod admin;
mod cli;
mod metrics;
mod operations;
mod operators;
mod samples;
mod steady_state;
mod takeover;
