//! `sluice envoy`: files of Envoy are run, translated, and measured.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use sluice_config::{Loaded, explain, render};
use sluice_core::Severity;
use sluice_envoy::UnknownFields;
use sluice_envoy::coverage::{Coverage, DIFFERS};
use sluice_model::store::Store;

use super::print;
use super::run::{Start, start};
use crate::Extensions;
use crate::cli::{EXIT_CONFIG, EnvoyCommand, EnvoyTask, Format};
use crate::control::{ConfigBuilder, ConfigForm, PlanesPlan};

/// Envoy's command line, as far as it is taken. What is missing is an error.
#[derive(Debug, Parser)]
#[command(name = "envoy", no_binary_name = true, disable_version_flag = true)]
struct EnvoyFlags {
    /// The bootstrap: a file in YAML or JSON.
    #[arg(short, long)]
    config_path: PathBuf,
    /// `serve`, or `validate` to check the configuration and exit.
    #[arg(long, value_enum, default_value = "serve")]
    mode: EnvoyMode,
    /// Number of worker threads.
    #[arg(long)]
    concurrency: Option<u16>,
    /// Take fields that messages do not have for warnings, except in filters that keep somebody out.
    #[arg(long)]
    allow_unknown_static_fields: bool,
    /// There is no hot restart that could be disabled; a takeover replaces it.
    #[arg(long)]
    disable_hot_restart: bool,
    /// The name of this process for control planes, in place of `node.id`.
    #[arg(long)]
    service_node: Option<String>,
    /// The name of its fleet for control planes, in place of `node.cluster`.
    #[arg(long)]
    service_cluster: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EnvoyMode {
    Serve,
    Validate,
}

fn unknown(allowed: bool) -> UnknownFields {
    if allowed { UnknownFields::Warn } else { UnknownFields::Refuse }
}

pub(crate) fn run(command: &EnvoyCommand, extensions: Extensions) -> anyhow::Result<ExitCode> {
    match &command.task {
        None => {
            let flags = match EnvoyFlags::try_parse_from(&command.flags) {
                Ok(flags) => flags,
                Err(error) => error.exit(),
            };
            serve(command, &flags, extensions)
        }
        Some(EnvoyTask::Coverage { files, allow_unknown_static_fields }) => {
            coverage(files, unknown(*allow_unknown_static_fields), extensions)
        }
        Some(EnvoyTask::Translate { file, allow_unknown_static_fields }) => {
            translate(file, unknown(*allow_unknown_static_fields), &extensions)
        }
    }
}

fn serve(
    command: &EnvoyCommand,
    flags: &EnvoyFlags,
    extensions: Extensions,
) -> anyhow::Result<ExitCode> {
    let form = ConfigForm::Envoy(unknown(flags.allow_unknown_static_fields));
    let builder = ConfigBuilder::new(extensions, form);
    let shown = flags.config_path.display();
    if flags.mode == EnvoyMode::Validate {
        return Ok(match builder.build(&flags.config_path, &Store::default()) {
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
    let unknown = unknown(flags.allow_unknown_static_fields);
    let (builder, planes) = match beside_planes(flags, builder, unknown)? {
        Ok(found) => found,
        Err(status) => return Ok(status),
    };
    start(
        Start {
            config: flags.config_path.clone(),
            workers: flags.concurrency.filter(|workers| *workers > 0),
            report: command.report.clone(),
            watch: false,
            takeover: false,
            log_format: Format::Text,
            planes,
        },
        builder,
    )
}

/// What is started beside control planes: the whole file is checked, and then the part of it that does not depend on them
/// is run as any other. Without planes, that is all of it.
fn beside_planes(
    flags: &EnvoyFlags,
    mut builder: ConfigBuilder,
    unknown: UnknownFields,
) -> anyhow::Result<Result<(ConfigBuilder, Option<PlanesPlan>), ExitCode>> {
    let (_, dynamic) = sluice_envoy::load_part(&flags.config_path, unknown);
    let Some(dynamic) = dynamic else { return Ok(Ok((builder, None))) };
    if let Err(rejected) = builder.build(&flags.config_path, &Store::default()) {
        crate::say(&rejected.to_string());
        return Ok(Err(ExitCode::from(EXIT_CONFIG)));
    }
    let node = dynamic.node(flags.service_node.as_deref(), flags.service_cluster.as_deref());
    let node = match node {
        Ok(node) => node,
        Err(problem) => {
            crate::say(problem);
            return Ok(Err(ExitCode::from(EXIT_CONFIG)));
        }
    };
    builder.set_form(ConfigForm::EnvoyPart(unknown));
    Ok(Ok((builder, Some(PlanesPlan { dynamic, node }))))
}

fn coverage(
    files: &[PathBuf],
    unknown: UnknownFields,
    extensions: Extensions,
) -> anyhow::Result<ExitCode> {
    let builder = ConfigBuilder::new(extensions, ConfigForm::Envoy(unknown));
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
    let loaded = sluice_envoy::load(file, unknown);
    let Some((config, root)) = loaded.usable().zip(loaded.root.as_ref()) else {
        print(&render::brief(&loaded.diags.into_sorted(), &loaded.sources, false));
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    print(&differences(&loaded));
    let config = &config.clone().completed();
    print(&explain::yaml(config, root, &|name| extensions.shapes(name)));
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
