//! `sluice run`.

use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context as _;
use sluice_model::store::Store;
use sluice_sys::process;

use crate::Extensions;
use crate::cli::{EXIT_CONFIG, Run};
use crate::control::{self, ConfigBuilder, Options};
use crate::process_log::ProcessLog;

pub(crate) fn run(options: &Run, extensions: Extensions) -> anyhow::Result<ExitCode> {
    let process_log = Rc::new(ProcessLog::start(options.log_format));
    let config = options.config.path();
    let builder = ConfigBuilder::new(extensions);
    let built = match builder.build(&config, &Store::default()) {
        Ok(built) => built,
        Err(rejected) => {
            crate::say(&rejected.to_string());
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    for warning in built.warnings() {
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
        process_log,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot create the runtime")?;
    runtime.block_on(control::run(options, built, builder))?;
    Ok(ExitCode::SUCCESS)
}
