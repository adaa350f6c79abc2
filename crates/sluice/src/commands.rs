//! The commands.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::Extensions;
use crate::cli::{Cli, Command};

mod cert;
mod check;
mod demo;
#[cfg(feature = "envoy")]
mod envoy;
mod eval;
mod explain;
#[cfg(feature = "lua")]
mod lua;
mod operate;
mod run;

/// Runs the given command.
pub(crate) fn run(cli: Cli, extensions: Extensions) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(options) => run::run(&options, extensions),
        Command::Check(options) => Ok(check::run(&options, extensions)),
        Command::Explain(options) => explain::run(&options, &extensions),
        Command::Schema => {
            print(&format!("{:#}\n", sluice_config::schema::schema()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Reference => {
            print(&sluice_config::reference::markdown());
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "envoy")]
        Command::Envoy(command) => envoy::run(&command, extensions),
        Command::Demo(options) => demo::run(&options),
        Command::Eval(options) => eval::run(&options),
        #[cfg(feature = "lua")]
        Command::Lua(options) => lua::run(&options),
        Command::Endpoint(options) => operate::endpoint(&options),
        Command::Listener(options) => operate::listener(&options),
        Command::Connection(options) => operate::connection(&options),
        Command::Log(options) => operate::log(&options),
        Command::Try(options) => operate::try_request(&options),
        Command::Cert(options) => cert::run(&options),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs as Envoy: with its flags, as the program that is called `program`.
#[cfg(feature = "envoy")]
pub(crate) fn run_as_envoy(
    flags: &[String],
    program: &str,
    extensions: Extensions,
) -> anyhow::Result<ExitCode> {
    envoy::with_flags(flags, program, envoy::EnvoyFiles::of_environment(), extensions)
}

/// Prints the result of a command. A closed pipe is ignored: the reader has seen enough.
pub(crate) fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
