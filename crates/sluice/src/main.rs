//! The `sluice` binary: the library with its built-in filters.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: sluice_sys::memory::Allocator = sluice_sys::memory::Allocator;

fn main() -> ExitCode {
    sluice::main_with(sluice::Extensions::default())
}
