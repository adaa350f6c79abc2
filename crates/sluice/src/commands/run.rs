//! `sluice run`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use sluice_sys::process;
use tracing_subscriber::EnvFilter;

use crate::Extensions;
use crate::cli::{EXIT_CONFIG, Format, Run};
use crate::control::{self, Options, Workshop};

pub(crate) fn run(options: &Run, extensions: Extensions) -> anyhow::Result<ExitCode> {
    start_log(options.log_format);
    let config = options.config.path();
    let workshop = Workshop::new(extensions);
    let built = match workshop.build(&config) {
        Ok(built) => built,
        Err(rejected) => {
            crate::say(&rejected.to_string());
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    for warning in &built.warnings {
        tracing::warn!("{}", warning.trim_end());
    }
    let files = process::raise_file_limit();
    let workers = options.workers.map_or_else(process::processors, usize::from);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workers,
        open_files_max = files,
        "starting"
    );
    let options = Options {
        config,
        workers,
        files,
        report: options.report.clone(),
        watch: !options.no_watch,
        takeover: options.takeover,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("a runtime cannot be made")?;
    runtime.block_on(control::run(options, built, workshop))?;
    Ok(ExitCode::SUCCESS)
}

/// What is logged where nothing is said. The HTTP/2 library warns of what peers do wrong: that is counted
/// and stands in records, and would let any client fill the log.
const LOGGED: &str = "info,h2=error";

fn start_log(format: Format) {
    let filter = EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber can only come from a test harness; then it logs, not we.
    let _ = match format {
        Format::Json => builder.json().try_init(),
        Format::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
    };
}
