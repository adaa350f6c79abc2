//! Programs with extensions of their own, and those from the page on extending, in a binary of their own that runs.
//!
//! Owns: which programs there are, and starting this binary as one of them. Refuses to know: what they extend. Keeps: the
//! binary is linked once for all of them, because it contains the whole of Sluice; started by the name of a program it is
//! that program, otherwise it runs the tests, those whose name contains the argument.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[path = "programs/extending_authz.rs"]
mod extending_authz;
#[path = "programs/extending_connections.rs"]
mod extending_connections;
#[path = "programs/extending_fetches.rs"]
mod extending_fetches;
#[path = "programs/extending_http.rs"]
mod extending_http;
#[path = "programs/extending_rewrite.rs"]
mod extending_rewrite;
#[path = "programs/extending_whole.rs"]
mod extending_whole;
#[path = "programs/fetched_files.rs"]
mod fetched_files;
#[path = "programs/grpc_calls.rs"]
mod grpc_calls;
#[path = "programs/reload_rollback.rs"]
mod reload_rollback;
#[path = "programs/reroute.rs"]
mod reroute;
#[path = "programs/undecided.rs"]
mod undecided;

/// A program, and what is tested of it.
struct Program {
    name: &'static str,
    run: fn() -> ExitCode,
    test: fn(),
}

/// The modules that are programs.
macro_rules! programs {
    ($($module:ident)*) => {
        &[$(Program { name: stringify!($module), run: $module::run, test: $module::test }),*]
    };
}

const PROGRAMS: &[Program] = programs! {
    extending_authz extending_connections extending_fetches extending_http extending_rewrite extending_whole fetched_files
    grpc_calls reload_rollback reroute undecided
};

#[allow(clippy::print_stdout, reason = "a test runner says what it runs")]
fn main() -> ExitCode {
    let mut args = std::env::args();
    let own = args.next().unwrap_or_default();
    let own = Path::new(&own).file_name();
    if let Some(program) = PROGRAMS.iter().find(|program| own == Some(program.name.as_ref())) {
        return (program.run)();
    }
    let word = args.next().filter(|word| !word.starts_with('-')).unwrap_or_default();
    for program in PROGRAMS.iter().filter(|program| program.name.contains(&word)) {
        println!("program {} ...", program.name);
        (program.test)();
    }
    ExitCode::SUCCESS
}

/// This binary by the name of a program.
fn binary(module: &str) -> PathBuf {
    let name = module.rsplit("::").next().unwrap_or(module);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (path, new) = (folder.join(name), folder.join(format!("{name}.{}", std::process::id())));
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &new).unwrap();
    // Moved into place: an older link may be there, or that of another run.
    std::fs::rename(&new, &path).unwrap();
    path
}
