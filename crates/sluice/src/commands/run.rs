//! `sluice run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context as _;
use sluice_model::store::Store;
use sluice_sys::process;

use crate::Extensions;
use crate::cli::{EXIT_CONFIG, Format, Run};
use crate::control::{self, ConfigBuilder, ConfigForm, Options};
use crate::process_log::ProcessLog;

/// How the proxy is started.
pub(super) struct Start {
    /// The file or folder of the configuration.
    pub(super) config: PathBuf,
    /// Number of worker threads; by default the number of processors.
    pub(super) workers: Option<u16>,
    /// Where events are written.
    pub(super) report: Option<PathBuf>,
    /// Whether files are watched.
    pub(super) watch: bool,
    /// Whether another process is taken over from.
    pub(super) takeover: bool,
    /// The format of the process log.
    pub(super) log_format: Format,
    /// The level of the process log, if `SLUICE_LOG` does not say otherwise.
    pub(super) log_level: Option<&'static str>,
    /// Control planes of a bootstrap.
    #[cfg(feature = "envoy")]
    pub(super) planes: Option<control::PlanesPlan>,
}

pub(crate) fn run(options: &Run, extensions: Extensions) -> anyhow::Result<ExitCode> {
    let start = Start {
        config: options.config.path(),
        workers: options.workers,
        report: options.report.clone(),
        watch: !options.no_watch,
        takeover: options.takeover,
        log_format: options.log_format,
        log_level: None,
        #[cfg(feature = "envoy")]
        planes: None,
    };
    self::start(start, ConfigBuilder::new(extensions, ConfigForm::Native))
}

/// Runs the proxy until it is stopped.
pub(super) fn start(start: Start, builder: ConfigBuilder) -> anyhow::Result<ExitCode> {
    let Start { config, workers, report, watch, takeover, log_format, log_level, .. } = start;
    let process_log = Rc::new(ProcessLog::start(log_format, log_level));
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
    #[cfg(feature = "envoy")]
    let planes = start.planes.or_else(|| control::PlanesPlan::beside_files(&built));
    #[cfg(not(feature = "envoy"))]
    if built.process.control_plane.is_some() {
        crate::say("`xds`: this build has no control planes; build it with the feature `envoy`");
        return Ok(ExitCode::from(EXIT_CONFIG));
    }
    let files = process::raise_file_limit();
    let workers = workers.map_or_else(process::processors, usize::from);
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
        report,
        watch,
        takeover,
        process_log,
        #[cfg(feature = "envoy")]
        planes,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot create the runtime")?;
    runtime.block_on(control::run(options, built, builder))?;
    Ok(ExitCode::SUCCESS)
}
