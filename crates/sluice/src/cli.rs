//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Something went wrong that is no matter of the configuration.
pub(crate) const EXIT_FAILED: u8 = 1;

/// The configuration has errors.
pub(crate) const EXIT_CONFIG: u8 = 3;

const AFTER: &str = "\
Exit codes: 0 done; 1 failed (an address in use, a path of `demo --check` that failed);
2 wrong use of the command line; 3 errors in the configuration.
Signals while running: TERM or INT drain and exit (twice: at once); HUP reloads; USR1 opens log files anew.";

/// An L4-first proxy for TCP, TLS, UDP, QUIC and HTTP.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the proxy.
    Run(Run),
    /// Check a configuration: print every error and warning with its place.
    Check(Check),
    /// Print a configuration in its long form: short forms expanded, defaults written out.
    Explain(Explain),
    /// Print the JSON Schema of configurations, for editors.
    Schema,
    /// Print the reference of every section and field, in Markdown.
    Reference,
    /// Start built-in services and a proxy over each path, to try things out.
    Demo(Demo),
    /// Make a self-signed certificate and its key, to try things out.
    Cert(Cert),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which configuration.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ConfigPath {
    /// A configuration file, or a folder of them.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as an option.
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigPath {
    pub(crate) fn path(&self) -> PathBuf {
        self.file.clone().or_else(|| self.config.clone()).unwrap_or_default()
    }
}

impl Check {
    pub(crate) fn path(&self) -> PathBuf {
        self.file.clone().or_else(|| self.config.clone()).unwrap_or_default()
    }
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) config: ConfigPath,
    /// Worker threads; by default as many as there are processors to use.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) workers: Option<u16>,
    /// Write what programs that start Sluice wait for to this file, as lines of JSON: each bound address (also where
    /// the system chose the port), the admin address, and a line when ready.
    #[arg(long, value_name = "PATH")]
    pub(crate) report: Option<PathBuf>,
    /// Start beside a process that listens on the same addresses, to take over from it once it is stopped.
    #[arg(long)]
    pub(crate) takeover: bool,
    /// Do not watch files; reload on SIGHUP only.
    #[arg(long)]
    pub(crate) no_watch: bool,
    /// Format of the process log on standard error. Its level is set by SLUICE_LOG, as in `info` or `warn,sluice_upstream=debug`.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A configuration file, a folder of them, or `-` for standard input.
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The same, as an option.
    #[arg(short, long = "config", value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// Warnings count as errors: exit with 3 if there is any.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Show every error and warning, not only the first 20 of each.
    #[arg(long)]
    pub(crate) all: bool,
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A configuration file, a folder of them, or `-` for standard input.
    #[arg(value_name = "FILE", required_unless_present_any = ["limits", "reasons", "operators", "config"])]
    pub(crate) file: Option<PathBuf>,
    /// The same, as an option.
    #[arg(short, long = "config", value_name = "FILE", conflicts_with = "file")]
    pub(crate) config: Option<PathBuf>,
    /// List the limits: name, default, range and meaning.
    #[arg(long)]
    pub(crate) limits: bool,
    /// List the reasons that connections and flows end with.
    #[arg(long, conflicts_with = "limits")]
    pub(crate) reasons: bool,
    /// List the operators of records, header values and bodies.
    #[arg(long, conflicts_with_all = ["limits", "reasons"])]
    pub(crate) operators: bool,
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Cert {
    /// Host names and IP addresses that it is for; `*.` stands for any first label.
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Write PATH.pem and PATH.key; by default they are named after the first name, in the working folder.
    #[arg(short, long, value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,
    /// How long it is valid.
    #[arg(long, default_value = "365", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) days: u16,
    /// Replace files that exist.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Drive every path once, print a line for each and exit: 0 if all worked, 1 if not.
    #[arg(long)]
    pub(crate) check: bool,
    /// Stop the built-in service of that name, to see what a failure looks like.
    #[arg(long, value_name = "SERVICE", hide = true)]
    pub(crate) without: Option<String>,
}
