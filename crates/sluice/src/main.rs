//! Sluice: an L4-first proxy for TCP, TLS and UDP.
//!
//! Owns: the command line, and what each command names of the layers below.
//! Refuses to know: how anything is done. Keeps: exit codes are documented and few.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

mod cli;
mod commands;
mod control;
mod worker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("sluice: {error:#}"));
            ExitCode::from(cli::EXIT_FAILED)
        }
    }
}

/// The last word of a failed command.
#[allow(clippy::print_stderr, reason = "it goes to whoever called the command, not to a log")]
fn say(text: &str) {
    eprintln!("{}", text.trim_end());
}
