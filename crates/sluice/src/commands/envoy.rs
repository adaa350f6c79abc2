//! `sluice envoy`: files of Envoy are run, translated, and measured.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use sluice_config::{Loaded, explain, render};
use sluice_core::Severity;
use sluice_envoy::coverage::{Coverage, DIFFERS};
use sluice_envoy::{LoadOptions, UnknownFields};
use sluice_model::store::Store;

use self::flags::{EnvoyFlags, EnvoyMode, unknown};
use super::print;
use super::run::{Start, start};
use crate::Extensions;
use crate::cli::{EXIT_CONFIG, EnvoyCommand, EnvoyTask, Format};
use crate::control::{ConfigBuilder, ConfigForm, LastGoodPlan, PlanesPlan};

mod flags;

pub(crate) fn run(command: &EnvoyCommand, extensions: Extensions) -> anyhow::Result<ExitCode> {
    match &command.task {
        None => {
            let secrets = command.last_good_secrets;
            let last_good = command.last_good.clone().map(|path| LastGoodPlan { path, secrets });
            let files = EnvoyFiles { report: command.report.clone(), last_good };
            with_flags(&command.flags, "envoy", files, extensions)
        }
        Some(EnvoyTask::Coverage { files, allow_unknown_static_fields }) => {
            coverage(files, unknown(*allow_unknown_static_fields), extensions)
        }
        Some(EnvoyTask::Translate { file, allow_unknown_static_fields }) => {
            translate(file, unknown(*allow_unknown_static_fields), &extensions)
        }
    }
}

/// Files of ours that Envoy's flags do not name.
#[derive(Debug, Default)]
pub(crate) struct EnvoyFiles {
    report: Option<PathBuf>,
    last_good: Option<LastGoodPlan>,
}

impl EnvoyFiles {
    /// As the environment says: `SLUICE_LAST_GOOD` is a path, and `SLUICE_LAST_GOOD_SECRETS` is `1`.
    pub(crate) fn of_environment() -> Self {
        let path = std::env::var_os("SLUICE_LAST_GOOD").filter(|path| !path.is_empty());
        let secrets = std::env::var("SLUICE_LAST_GOOD_SECRETS").is_ok_and(|word| word == "1");
        let last_good = path.map(|path| LastGoodPlan { path: path.into(), secrets });
        Self { report: None, last_good }
    }
}

/// Runs as Envoy does when it is started with these flags. `program` is what it was called by.
pub(crate) fn with_flags(
    arguments: &[String],
    program: &str,
    files: EnvoyFiles,
    extensions: Extensions,
) -> anyhow::Result<ExitCode> {
    let EnvoyFiles { report, last_good } = files;
    let flags = match EnvoyFlags::parse_all(arguments) {
        Ok(flags) => flags,
        Err(error) => error.exit(),
    };
    if flags.version {
        print(&flags::version(program));
        return Ok(ExitCode::SUCCESS);
    }
    for flag in flags.without_effect() {
        crate::say(&format!("warning: `{flag}` has no effect"));
    }
    let options = Arc::new(flags.load_options());
    let form = ConfigForm::Envoy(Arc::clone(&options));
    let builder = ConfigBuilder::new(extensions, form);
    let config = flags.config_path.unwrap_or_else(|| "--config-yaml".into());
    let shown = config.display();
    if flags.mode == EnvoyMode::Validate {
        return Ok(match builder.build(&config, &Store::default()) {
            Ok(_) => {
                print(&format!("configuration '{shown}' OK\n"));
                ExitCode::SUCCESS
            }
            Err(rejected) => {
                crate::say(&format!("error initializing configuration '{shown}': {rejected}"));
                ExitCode::FAILURE
            }
        });
    }
    let (builder, planes) = match beside_planes(&config, builder, options, last_good)? {
        Ok(found) => found,
        Err(status) => return Ok(status),
    };
    start(
        Start {
            config,
            workers: flags.concurrency.filter(|workers| *workers > 0),
            report,
            watch: false,
            takeover: false,
            log_format: Format::Text,
            log_level: flags.log_level.map(flags::EnvoyLevel::word),
            planes,
        },
        builder,
    )
}

/// What is started beside control planes: the whole file is checked, and then the part of it that does not depend on them
/// is run as any other. Without planes, that is all of it.
fn beside_planes(
    config: &Path,
    mut builder: ConfigBuilder,
    options: Arc<LoadOptions>,
    last_good: Option<LastGoodPlan>,
) -> anyhow::Result<Result<(ConfigBuilder, Option<PlanesPlan>), ExitCode>> {
    let (_, dynamic) = sluice_envoy::load_part(config, &options);
    let Some(dynamic) = dynamic else { return Ok(Ok((builder, None))) };
    if let Err(rejected) = builder.build(config, &Store::default()) {
        crate::say(&rejected.to_string());
        return Ok(Err(ExitCode::from(EXIT_CONFIG)));
    }
    let node = match dynamic.node() {
        Ok(node) => node,
        Err(problem) => {
            crate::say(problem);
            return Ok(Err(ExitCode::from(EXIT_CONFIG)));
        }
    };
    builder.set_form(ConfigForm::EnvoyPart(options));
    Ok(Ok((builder, Some(PlanesPlan { dynamic, node, last_good }))))
}

fn coverage(
    files: &[PathBuf],
    unknown: UnknownFields,
    extensions: Extensions,
) -> anyhow::Result<ExitCode> {
    let builder = ConfigBuilder::new(extensions, ConfigForm::Envoy(Arc::new(unknown.into())));
    let mut coverage = Coverage::default();
    for file in files {
        let findings = match builder.build(file, &Store::default()) {
            Ok(built) => built.diags.into_sorted(),
            Err(rejected) => rejected.loaded.diags.into_sorted(),
        };
        coverage.add(file.display().to_string(), &findings);
    }
    print(&coverage.to_string());
    Ok(if coverage.all_load() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) })
}

/// Prints the native form, and as comments before it what differs.
fn translate(
    file: &Path,
    unknown: UnknownFields,
    extensions: &Extensions,
) -> anyhow::Result<ExitCode> {
    let loaded = sluice_envoy::load(file, &unknown.into());
    let Some((config, root)) = loaded.usable().zip(loaded.root.as_ref()) else {
        print(&render::brief(&loaded.diags.into_sorted(), &loaded.sources, false));
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    print(&differences(&loaded));
    let config = &config.clone().completed();
    print(&explain::yaml(config, root, extensions));
    Ok(ExitCode::SUCCESS)
}

fn differences(loaded: &Loaded) -> String {
    let all = loaded.diags.sorted();
    let lines = all.iter().filter(|found| found.severity == Severity::Warning).map(|found| {
        let word = if found.code == DIFFERS { "differs" } else { "warning" };
        format!("# {word}: {}: {}\n", found.path, found.message)
    });
    lines.collect()
}
