//! `sluice run`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use sluice_model::store::Store;
use sluice_sys::process;
use tracing_subscriber::EnvFilter;

use crate::Extensions;
use crate::cli::{EXIT_CONFIG, Format, Run};
use crate::control::{self, ConfigBuilder, Options};

pub(crate) fn run(options: &Run, extensions: Extensions) -> anyhow::Result<ExitCode> {
    start_log(options.log_format);
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
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot create the runtime")?;
    runtime.block_on(control::run(options, built, builder))?;
    Ok(ExitCode::SUCCESS)
}

/// The default log filter. The HTTP/2 library warns of protocol errors by peers: these are counted and recorded,
/// and would let any client fill the log.
const LOGGED: &str = "info,h2=error";

fn start_log(format: Format) {
    let (filter, trouble) = log_filter(std::env::var("SLUICE_LOG").ok().as_deref());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber can only come from a test harness, which then does the logging.
    let _ = match format {
        Format::Json => builder.json().try_init(),
        Format::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
    };
    if let Some(trouble) = trouble {
        tracing::warn!("{trouble}");
    }
}

/// The log filter, and the problem with the requested one. Invalid parts are omitted.
fn log_filter(asked: Option<&str>) -> (EnvFilter, Option<String>) {
    let Some(asked) = asked.filter(|asked| !asked.trim().is_empty()) else {
        return (EnvFilter::new(LOGGED), None);
    };
    let (right, wrong): (Vec<&str>, Vec<&str>) =
        asked.split(',').map(str::trim).partition(|part| is_directive(part));
    let filter = if right.is_empty() { LOGGED.to_owned() } else { right.join(",") };
    let trouble = (!wrong.is_empty()).then(|| {
        format!(
            "SLUICE_LOG: `{}` is ignored; write a level (error, warn, info, debug, trace, off) or TARGET=LEVEL, as in `warn,sluice_upstream=debug`",
            wrong.join(",")
        )
    });
    (EnvFilter::new(filter), trouble)
}

/// Whether a part of `SLUICE_LOG` is valid: the library takes a bare word for a target, and an unknown target that is
/// not a level is a typo.
fn is_directive(part: &str) -> bool {
    let level = |text: &str| text.parse::<tracing::metadata::LevelFilter>().is_ok();
    let known = |target: &str| {
        let name = target.split("::").next().unwrap_or_default();
        TARGETS.contains(&name) || name.starts_with("sluice_")
    };
    match part.split_once('=') {
        Some((target, text)) => known(target) && level(text),
        None => level(part) || known(part),
    }
}

/// Crates besides `sluice_*` whose log messages are useful.
const TARGETS: [&str; 6] = ["sluice", "h2", "quinn", "rustls", "hickory_resolver", "hyper"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_filter_that_means_nothing_is_named_and_left_out() {
        for fine in ["info", "WARN", "off", "warn,sluice_upstream=debug", "sluice", "h2=trace", ""]
        {
            assert_eq!(log_filter(Some(fine)).1, None, "{fine}");
        }
        for wrong in ["bogus=x", "bogus", "inof", "info,sluice=loud", "nginx=debug"] {
            let (filter, trouble) = log_filter(Some(wrong));
            assert!(trouble.is_some_and(|text| text.contains("is ignored")), "{wrong}");
            assert_eq!(filter.max_level_hint(), EnvFilter::new("info").max_level_hint(), "{wrong}");
        }
        assert_eq!(log_filter(None).1, None);
    }
}
