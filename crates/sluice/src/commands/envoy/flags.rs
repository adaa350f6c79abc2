//! Envoy's command line.
//!
//! Owns: its flags, and what each is here. Refuses to know: configurations. Keeps: a flag that is not known is an error, and
//! one without effect is named.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, ValueEnum};
use sluice_envoy::{LoadOptions, UnknownFields};

use crate::control::envoy_build;

/// Envoy's command line, as far as it is taken. What is missing is an error.
#[derive(Debug, Parser)]
#[command(name = "envoy", no_binary_name = true, disable_version_flag = true)]
pub(super) struct EnvoyFlags {
    /// The bootstrap: a file in YAML or JSON.
    #[arg(short, long)]
    pub(super) config_path: Option<PathBuf>,
    /// A bootstrap in YAML or JSON that is laid over that of the file, or stands alone.
    #[arg(long, allow_hyphen_values = true)]
    config_yaml: Option<String>,
    /// `serve`, or `validate` to check the configuration and exit.
    #[arg(long, value_enum, default_value = "serve")]
    pub(super) mode: EnvoyMode,
    /// Number of worker threads.
    #[arg(long)]
    pub(super) concurrency: Option<u16>,
    /// As many worker threads as there are processors for the process, which is the default here.
    #[arg(long)]
    cpuset_threads: bool,
    /// Take fields that messages do not have for warnings, except in filters that keep somebody out.
    #[arg(long, visible_alias = "allow-unknown-fields")]
    allow_unknown_static_fields: bool,
    /// The identifier of this process: `node.id`.
    #[arg(long)]
    service_node: Option<String>,
    /// The cluster of this process: `node.cluster`.
    #[arg(long)]
    service_cluster: Option<String>,
    /// The zone of this process: `node.locality.zone`.
    #[arg(long)]
    service_zone: Option<String>,
    /// How long connections may continue once the process is asked to end, in seconds.
    #[arg(long)]
    drain_time_s: Option<u64>,
    /// Connections are always asked to close at once.
    #[arg(long, value_parser = ["gradual", "immediate"])]
    drain_strategy: Option<String>,
    /// What is written to the log.
    #[arg(short, long, value_enum)]
    pub(super) log_level: Option<EnvoyLevel>,
    /// There is no hot restart that could be disabled; a takeover replaces it.
    #[arg(long)]
    disable_hot_restart: bool,
    /// Tells processes apart that restart each other; there is no such thing here.
    #[arg(long)]
    base_id: Option<u32>,
    /// The same.
    #[arg(long)]
    use_dynamic_base_id: bool,
    /// The number of hot restarts so far: 0.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=0))]
    restart_epoch: Option<u32>,
    /// How long a process that is restarted lives on.
    #[arg(long)]
    parent_shutdown_time_s: Option<u64>,
    /// Deprecated fields are not logged one by one.
    #[arg(long)]
    skip_deprecated_logs: bool,
    #[command(flatten)]
    unheeded: UnheededFlags,
    /// Print the version and exit.
    #[arg(long)]
    pub(super) version: bool,
}

/// Flags without effect, which are named when Sluice starts.
#[derive(Debug, Args)]
struct UnheededFlags {
    #[arg(long)]
    component_log_level: Option<String>,
    #[arg(long)]
    log_format: Option<String>,
    #[arg(long)]
    log_format_escaped: bool,
    #[arg(long)]
    enable_fine_grain_logging: bool,
    #[arg(long)]
    file_flush_interval_msec: Option<u64>,
    #[arg(long)]
    file_flush_min_size_kb: Option<u64>,
    #[arg(long)]
    local_address_ip_version: Option<String>,
    #[arg(long)]
    enable_core_dump: bool,
    #[arg(long, action = ArgAction::Append)]
    stats_tag: Vec<String>,
    #[arg(long)]
    reject_unknown_dynamic_fields: bool,
    #[arg(long)]
    ignore_unknown_dynamic_fields: bool,
}

/// What Envoy is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EnvoyMode {
    Serve,
    Validate,
}

/// Envoy's log levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EnvoyLevel {
    Trace,
    Debug,
    Info,
    #[value(alias = "warn")]
    Warning,
    #[value(alias = "err")]
    Error,
    Critical,
    Off,
}

impl EnvoyLevel {
    /// The level here.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warn",
            Self::Error | Self::Critical => "error",
            Self::Off => "off",
        }
    }
}

impl EnvoyFlags {
    /// Parses the arguments behind the name of the program. As in Envoy, one may contain a flag and its value.
    pub(super) fn parse_all(arguments: &[String]) -> Result<Self, clap::Error> {
        let parts = arguments.iter().flat_map(|argument| {
            // A document in YAML may begin with three.
            let is_flag = argument.starts_with("--") && !argument.starts_with("---");
            match argument.split_once([' ', '\t']).filter(|_| is_flag) {
                Some((flag, value)) => vec![flag.to_owned(), value.trim_start().to_owned()],
                None => vec![argument.clone()],
            }
        });
        let flags = Self::try_parse_from(parts)?;
        if flags.config_path.is_none() && flags.config_yaml.is_none() && !flags.version {
            let kind = clap::error::ErrorKind::MissingRequiredArgument;
            let message = "at least one of --config-path and --config-yaml is required\n";
            return Err(clap::Error::raw(kind, message));
        }
        Ok(flags)
    }

    /// How the file is loaded, and what is laid over it.
    pub(super) fn load_options(&self) -> LoadOptions {
        let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let mut overlays: Vec<(String, String)> =
            self.config_yaml.iter().map(|text| named("--config-yaml", text)).collect();
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let node = [
            ("--service-node", "id", &self.service_node),
            ("--service-cluster", "cluster", &self.service_cluster),
        ];
        for (flag, field, value) in node {
            let text = value.as_ref().map(|of| format!("node: {{ {field}: {} }}", quoted(of)));
            overlays.extend(text.map(|text| named(flag, &text)));
        }
        if let Some(zone) = &self.service_zone {
            let text = format!("node: {{ locality: {{ zone: {} }} }}", quoted(zone));
            overlays.push(named("--service-zone", &text));
        }
        LoadOptions {
            unknown: unknown(self.allow_unknown_static_fields),
            overlays,
            without_file: self.config_path.is_none(),
            drain: self.drain_time_s.map(Duration::from_secs),
        }
    }

    /// The flags that were given and have no effect.
    pub(super) fn without_effect(&self) -> Vec<&'static str> {
        let of = &self.unheeded;
        let given = [
            ("--component-log-level", of.component_log_level.is_some()),
            ("--log-format", of.log_format.is_some()),
            ("--log-format-escaped", of.log_format_escaped),
            ("--enable-fine-grain-logging", of.enable_fine_grain_logging),
            ("--file-flush-interval-msec", of.file_flush_interval_msec.is_some()),
            ("--file-flush-min-size-kb", of.file_flush_min_size_kb.is_some()),
            ("--local-address-ip-version", of.local_address_ip_version.is_some()),
            ("--enable-core-dump", of.enable_core_dump),
            ("--stats-tag", !of.stats_tag.is_empty()),
            ("--reject-unknown-dynamic-fields", of.reject_unknown_dynamic_fields),
            ("--ignore-unknown-dynamic-fields", of.ignore_unknown_dynamic_fields),
        ];
        given.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect()
    }
}

/// What becomes of unknown fields.
pub(super) const fn unknown(allowed: bool) -> UnknownFields {
    if allowed { UnknownFields::Warn } else { UnknownFields::Refuse }
}

/// What `--version` prints: the path of the program, and five parts with slashes between them, as tools expect of Envoy.
pub(super) fn version(program: &str) -> String {
    format!("\n{program}  version: {}\n\n", envoy_build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<EnvoyFlags, String> {
        let all: Vec<String> = arguments.iter().map(|of| (*of).to_owned()).collect();
        EnvoyFlags::parse_all(&all).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_of_control_planes_are_taken() {
        let flags = parse(&[
            "--service-cluster a",
            "--service-node \"n\"",
            "-c",
            "f.yaml",
            "-l",
            "warn",
            "--config-yaml",
            "{ admin: {} }",
            "--drain-time-s",
            "60",
            "--drain-strategy",
            "immediate",
            "--component-log-level",
            "misc:error",
            "--disable-hot-restart",
            "--cpuset-threads",
        ])
        .unwrap();
        assert_eq!(flags.log_level.map(EnvoyLevel::word), Some("warn"));
        assert_eq!(flags.without_effect(), ["--component-log-level"]);
        let options = flags.load_options();
        assert_eq!(options.drain, Some(Duration::from_secs(60)));
        let texts: Vec<&str> = options.overlays.iter().map(|(_, text)| &**text).collect();
        let node = "node: { id: \"\\\"n\\\"\" }";
        assert_eq!(texts, ["{ admin: {} }", node, "node: { cluster: \"a\" }"]);
        assert!(!options.without_file);
        let alone = parse(&["--config-yaml", "---\nadmin: {}"]).unwrap().load_options();
        assert!(alone.without_file);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (arguments, expected) in [
            (&["--log-path", "a", "-c", "b"][..], "unexpected argument '--log-path'"),
            (&["--mode", "init_only", "-c", "b"], "invalid value 'init_only'"),
            (&["--restart-epoch", "1", "-c", "b"], "invalid value '1'"),
            (&["-l", "loud", "-c", "b"], "invalid value 'loud'"),
            (&[], "at least one of --config-path and --config-yaml"),
        ] {
            let error = parse(arguments).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_version_has_five_parts() {
        let text = version("envoy");
        let (_, of) = text.trim().split_once("version: ").unwrap();
        let parts: Vec<&str> = of.split('/').collect();
        assert_eq!(parts.len(), 5);
        assert_eq!((parts[0].len(), parts[1]), (40, "1.40.0"));
    }
}
