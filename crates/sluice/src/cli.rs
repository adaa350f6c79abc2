//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Exit code for a failure that is not an error in the configuration.
pub(crate) const EXIT_FAILED: u8 = 1;

/// Exit code for a configuration with errors.
pub(crate) const EXIT_CONFIG: u8 = 3;

const AFTER: &str = "\
Exit codes: 0 success; 1 failure (an address in use, a path of `demo --check` that failed);
2 invalid command line; 3 errors in the configuration.
Signals while running: TERM or INT drain and exit (twice: immediately); HUP reloads; USR1 reopens log files.";

/// An L4-first proxy and load balancer for TCP, TLS, UDP, QUIC and HTTP.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command to run.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the proxy.
    Run(Run),
    /// Check a configuration and print every error and warning with its place.
    Check(Check),
    /// Print a configuration in its long form, with short forms expanded and defaults written out.
    Explain(Explain),
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Print the configuration reference (every section and field) in Markdown.
    Reference,
    /// Drain an endpoint of a running Sluice, take it out for maintenance or back, or change its weight.
    Endpoint(EndpointCommand),
    /// Pause a listener of a running Sluice, or have it accept connections again.
    Listener(ListenerCommand),
    /// End a connection or flow of a running Sluice.
    Connection(ConnectionCommand),
    /// Have a running Sluice log more or less.
    Log(LogLevelCommand),
    /// Say how a running Sluice would serve a request, and which policy would decide about it.
    Try(TryCommand),
    /// Run a file of Envoy (`sluice envoy -- -c FILE`), translate it, or say what of it is supported.
    #[cfg(feature = "envoy")]
    Envoy(EnvoyCommand),
    /// Start built-in services and a proxy with a path to each of them, to try Sluice out.
    Demo(Demo),
    /// Print what an expression in CEL, or a text with %OPERATOR%s, makes of a request.
    Eval(EvalCommand),
    /// Try a script in Lua with one request: print what an endpoint would get, and what the client gets.
    #[cfg(feature = "lua")]
    Lua(LuaTrial),
    /// Create a self-signed certificate and its private key, for testing.
    Cert(Cert),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The configuration to use.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ConfigPath {
    /// A configuration file, or a folder of configuration files.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as FILE, as an option.
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

/// The admin address of a running Sluice. For whatever changes something, it must be configured with `writable: true`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AdminTarget {
    /// The admin address: an IP address with a port, or unix:///path.
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) admin: Option<String>,
    /// Take the admin address from this configuration file or folder.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const AFTER_ENDPOINT: &str = "\
The action replaces the one before and survives reloads, changes of the endpoints, and the endpoint's leaving and coming \
back, until `ready`, its time, or the end of the process. Health checks go on meanwhile. \
`/clusters` and `/overrides` of the admin address show it.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_ENDPOINT)]
pub(crate) struct EndpointCommand {
    #[command(flatten)]
    pub(crate) admin: AdminTarget,
    /// The cluster.
    pub(crate) cluster: String,
    /// The address of the endpoint, as `/clusters` shows it.
    pub(crate) address: String,
    #[command(subcommand)]
    pub(crate) action: EndpointAction,
}

/// What is to become of an endpoint.
#[derive(Debug, Subcommand)]
pub(crate) enum EndpointAction {
    /// No new connections, flows and requests, except those of a sticky session.
    Drain(Lasting),
    /// Nothing new; open connections continue, or end if the cluster sets `on_endpoint_unhealthy`.
    Maintenance(Lasting),
    /// Remove the action in force.
    Ready,
    /// Set the load balancing weight.
    Weight {
        /// The weight, from 1 on; to take an endpoint out of use, drain it.
        #[arg(value_name = "N")]
        weight: String,
        #[command(flatten)]
        time: Lasting,
    },
}

const AFTER_LISTENER: &str = "\
A pause survives reloads and lasts until `resume` or the end of the process. `/listeners` and `/overrides` of the admin \
address show it.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_LISTENER)]
pub(crate) struct ListenerCommand {
    #[command(flatten)]
    pub(crate) admin: AdminTarget,
    /// The listener, as `/listeners` shows it.
    pub(crate) name: String,
    #[command(subcommand)]
    pub(crate) action: ListenerAction,
}

/// What is to become of a listener.
#[derive(Debug, Subcommand)]
pub(crate) enum ListenerAction {
    /// Accept no connections; clients wait in the backlog, and open connections continue.
    Pause,
    /// Accept connections again, those that wait first.
    Resume,
}

const AFTER_CONNECTION: &str = "\
The end is recorded with the reason `end.killed`. Requests in flight on the connection end with it. The client may come \
back; the next datagram of a flow's client begins a new flow.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_CONNECTION)]
pub(crate) struct ConnectionCommand {
    #[command(flatten)]
    pub(crate) admin: AdminTarget,
    /// The number of the connection or flow: `id` on `/connections`, `connection_id` in records.
    pub(crate) id: String,
    #[command(subcommand)]
    pub(crate) action: ConnectionAction,
}

/// What is to become of a connection.
#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionAction {
    /// End it at once.
    Kill,
}

const AFTER_LOG: &str = "\
A level without a target (`debug`) replaces what SLUICE_LOG set; levels of targets alone (`sluice_upstream=debug`) are \
added to it. The level survives reloads and lasts until `default`, its time, or the end of the process. `/log` and \
`/overrides` of the admin address show it.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_LOG)]
pub(crate) struct LogLevelCommand {
    #[command(flatten)]
    pub(crate) admin: AdminTarget,
    /// error, warn, info, debug, trace, off, or TARGET=LEVEL, several with commas between; `default` to go back to the
    /// level at the start.
    #[arg(value_name = "LEVEL")]
    pub(crate) level: String,
    #[command(flatten)]
    pub(crate) time: Lasting,
}

const AFTER_TRY: &str = "\
Nothing is sent: the tables of the running process are asked. The answer has an item for each chain with HTTP that could \
get the request. Filters that wait for others or count are named, but not asked; what they would share is given by --as \
and --value.
Example: sluice try -a 127.0.0.1:9901 --as jwt:corp/ann --value jwt.corp.roles:admin -X DELETE https://shop.test/orders/7";

#[derive(Debug, Args)]
#[command(after_help = AFTER_TRY)]
pub(crate) struct TryCommand {
    #[command(flatten)]
    pub(crate) admin: AdminTarget,
    /// Who makes the request: jwt:PROVIDER/SUBJECT, oidc:PROVIDER/SUBJECT, basic:USER, api_key:NAME or certificate:NAME.
    #[arg(long = "as", value_name = "IDENTITY")]
    pub(crate) identity: Option<String>,
    /// The method.
    #[arg(short = 'X', long, default_value = "GET")]
    pub(crate) method: String,
    /// A header, as `name: value`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// A value that a filter would share, as NAME:VALUE; may be given several times.
    #[arg(long = "value", value_name = "VALUE")]
    pub(crate) values: Vec<String>,
    /// The address of the client, or of the proxy in front.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<String>,
    /// The server name of the TLS handshake.
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// The HTTP version: http1, http2 or http3.
    #[arg(long = "http", value_name = "VERSION")]
    pub(crate) version: Option<String>,
    /// Only the chains of this listener.
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: Option<String>,
    /// The output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// The URL of the request; without a scheme, each chain is asked about as clients reach it.
    pub(crate) url: String,
}

/// For how long.
#[derive(Debug, Args)]
pub(crate) struct Lasting {
    /// End the action after this time, such as 10m or 1h30m.
    #[arg(long = "for", value_name = "TIME")]
    pub(crate) lasts: Option<String>,
}

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text, for people.
    Text,
    /// JSON, for programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) config: ConfigPath,
    /// Number of worker threads; by default the number of available processors.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) workers: Option<u16>,
    /// Write events to this file as lines of JSON, for programs that start Sluice: each bound address (including ports
    /// chosen by the system), the admin address, readiness and reloads.
    #[arg(long, value_name = "PATH")]
    pub(crate) report: Option<PathBuf>,
    /// Start alongside a process that listens on the same addresses, and take over from it when it is stopped.
    #[arg(long)]
    pub(crate) takeover: bool,
    /// Do not watch files for changes; reload on SIGHUP only.
    #[arg(long)]
    pub(crate) no_watch: bool,
    /// Format of the process log on standard error. SLUICE_LOG sets its level, e.g. `info` or
    /// `warn,sluice_upstream=debug`.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A configuration file, a folder of configuration files, or `-` for standard input.
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The same as FILE, as an option.
    #[arg(short, long = "config", value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// Treat warnings as errors: exit with 3 if there are any.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Show all errors and warnings, not only the first 20 of each.
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not look up the host names of endpoints. Otherwise names that do not exist are reported, after 2 s at most.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A configuration file, a folder of configuration files, or `-` for standard input.
    #[arg(value_name = "FILE", required_unless_present_any = ["limits", "reasons", "operators", "config"])]
    pub(crate) file: Option<PathBuf>,
    /// The same as FILE, as an option.
    #[arg(short, long = "config", value_name = "FILE", conflicts_with = "file")]
    pub(crate) config: Option<PathBuf>,
    /// Mark the values that are defaults, and name the settings that are not in force.
    #[arg(long, conflicts_with_all = ["limits", "reasons", "operators"])]
    pub(crate) defaults: bool,
    /// List the limits with name, default, range and meaning.
    #[arg(long)]
    pub(crate) limits: bool,
    /// List the reasons why connections, flows and requests end.
    #[arg(long, conflicts_with = "limits")]
    pub(crate) reasons: bool,
    /// List the operators of access logs, header values and bodies.
    #[arg(long, conflicts_with_all = ["limits", "reasons"])]
    pub(crate) operators: bool,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

/// Files of Envoy.
#[cfg(feature = "envoy")]
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct EnvoyCommand {
    #[command(subcommand)]
    pub(crate) task: Option<EnvoyTask>,
    /// Write events to this file, as `run --report` does.
    #[arg(long, value_name = "PATH")]
    pub(crate) report: Option<PathBuf>,
    /// Keep what control planes said last in this file, so that a restart comes up without them.
    #[arg(long, value_name = "PATH")]
    pub(crate) last_good: Option<PathBuf>,
    /// Keep secrets as well, in plain text, for every reader of the file.
    #[arg(long, requires = "last_good")]
    pub(crate) last_good_secrets: bool,
    /// Envoy's own flags.
    #[arg(last = true, value_name = "FLAGS")]
    pub(crate) flags: Vec<String>,
}

/// What is done with files of Envoy, other than running one.
#[cfg(feature = "envoy")]
#[derive(Debug, Subcommand)]
pub(crate) enum EnvoyTask {
    /// Say of each file whether it loads and what it waits for, by type and field, and count both over all files.
    Coverage {
        /// Bootstraps, in YAML or JSON.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Take fields that messages do not have for warnings.
        #[arg(long)]
        allow_unknown_static_fields: bool,
    },
    /// Print a file in the native form, with its differences from Envoy as comments.
    Translate {
        /// A bootstrap, in YAML or JSON.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Take fields that messages do not have for warnings.
        #[arg(long)]
        allow_unknown_static_fields: bool,
    },
}

/// An expression or a text, and the request to try it with.
#[derive(Debug, Args)]
pub(crate) struct EvalCommand {
    /// An expression, such as `request.headers['x-user'] + '@' + request.host`, or a text with operators, such as
    /// `%METHOD% %CEL(request.url_path)%`.
    #[arg(value_name = "TEXT")]
    pub(crate) text: String,
    /// Method and path of the request.
    #[arg(long, value_name = "METHOD PATH", default_value = "GET /")]
    pub(crate) request: String,
    /// A header of the request; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// A value that a filter would share, as NAME:VALUE; may be given several times.
    #[arg(long = "value", value_name = "VALUE")]
    pub(crate) values: Vec<String>,
    /// The address of the client.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<String>,
    /// The status of the response; without this and `--response-header` there is no response yet.
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<u16>,
    /// A header of the response; may be given several times.
    #[arg(long = "response-header", value_name = "NAME: VALUE")]
    pub(crate) response_headers: Vec<String>,
}

/// A script, and the request to try it with.
#[cfg(feature = "lua")]
#[derive(Debug, Args)]
pub(crate) struct LuaTrial {
    /// The script.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Method and path of the request.
    #[arg(long, value_name = "METHOD PATH", default_value = "GET /")]
    pub(crate) request: String,
    /// A header of the request; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The body of the request.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) body: String,
    /// A cluster that the script may call; the endpoint responds for it. May be given several times.
    #[arg(long = "cluster", value_name = "NAME")]
    pub(crate) clusters: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Cert {
    /// Host names and IP addresses the certificate is for; `*.` stands for any first label (wildcard).
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Write PATH.pem and PATH.key; by default, files in the working directory named after the first name.
    #[arg(short, long, value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,
    /// Number of days the certificate is valid.
    #[arg(long, default_value = "365", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) days: u16,
    /// Overwrite existing files.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Test every path once, print a line for each and exit: 0 if all succeed, 1 otherwise.
    #[arg(long)]
    pub(crate) check: bool,
    /// Do not start the built-in service of this name, to show what a failure looks like.
    #[arg(long, value_name = "SERVICE", hide = true)]
    pub(crate) without: Option<String>,
}
