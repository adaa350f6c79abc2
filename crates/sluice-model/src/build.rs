//! Builds the snapshot that workers run from a configuration.
//!
//! Owns: the build order and the snapshot. Refuses to know: sockets and threads.
//! Keeps: every failure is reported here, with a place in the file; a snapshot that was built can be applied without
//! further checks.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use sluice_codec::quic::QuicOptions;
use sluice_core::{Diags, ListenAddress, Name, Path, Spanned};
use sluice_l4::filters::Filters;
use sluice_l4::udp::UdpPlan;
use sluice_l4::{ListenerPlan, record};
use sluice_l7::runtime::RuntimeMap;
use sluice_l7::{HttpFilters, RouteCell, RouteTable, Runtime};
use sluice_telemetry::log::{SinkPlan, SinkTarget};
use sluice_telemetry::{Operator, RecordKind, Template};
use sluice_tls::{Authorities, CertStore, LoadError};
use sluice_upstream::{Cluster, ClusterPlan};

use crate::check;
use crate::sections::{AccessLog, Config, LogFormat, LogKind, SocketOptions};

mod client_auth;
mod clusters;
mod filter_names;
mod http;
mod listeners;
mod quic;
mod routes;
mod runtime;
mod tls;

pub use filter_names::AskedClusters;

/// What a build needs from outside the configuration.
pub struct BuildInput<'a> {
    /// Certificates in use.
    pub certs: &'a CertStore,
    /// Connection filters by name.
    pub filters: &'a Filters,
    /// HTTP filters by name.
    pub http_filters: &'a HttpFilters,
    /// Runtime values.
    pub runtime: &'a Arc<Runtime>,
    /// Returns the cell of a route table: the live one, or a new one with this table.
    pub routes: &'a dyn Fn(&Name, &Arc<RouteTable>) -> Arc<RouteCell>,
    /// The folder that relative paths are resolved against.
    pub folder: &'a FilePath,
    /// Returns the cluster of a plan: the live one, or a new one.
    pub cluster: &'a dyn Fn(&Arc<ClusterPlan>) -> Arc<Cluster>,
    /// Seconds since the Unix epoch, for the validity of certificates.
    pub now: u64,
}

/// A configuration ready to run.
#[derive(Debug)]
pub struct Snapshot {
    /// Listeners by name.
    pub listeners: BTreeMap<Name, ListenerSnapshot>,
    /// Clusters by name: plan and live state.
    pub clusters: BTreeMap<Name, (Arc<ClusterPlan>, Arc<Cluster>)>,
    /// Routes by name: the live cell, and the table it is to hold.
    pub routes: BTreeMap<Name, (Arc<RouteCell>, Arc<RouteTable>)>,
    /// The runtime values of the configuration, and those of its file.
    pub runtime: (RuntimeMap, RuntimeMap),
    /// Names of the runtime values that are read anywhere.
    pub runtime_keys: BTreeSet<String>,
    /// The clusters that filters may ask.
    pub asked: AskedClusters,
    /// The access logs.
    pub sinks: Vec<SinkPlan>,
    /// Files that the configuration names; a change to one causes a reload.
    pub files: Vec<PathBuf>,
    /// Certificates that no longer load; those in use before are kept.
    pub stale_certificates: Vec<LoadError>,
}

/// A listener ready to run.
#[derive(Clone, Debug)]
pub struct ListenerSnapshot {
    /// The addresses it listens on.
    pub addresses: Vec<ListenAddress>,
    /// Socket options.
    pub socket: SocketOptions,
    /// What it does.
    pub plan: PlanKind,
    /// QUIC on the UDP ports of the same numbers.
    pub quic: Option<QuicListener>,
}

/// A listener for QUIC.
#[derive(Clone, Debug)]
pub struct QuicListener {
    /// The listener.
    pub listener: Arc<ListenerPlan>,
    /// The QUIC options.
    pub options: QuicOptions,
}

/// What a listener accepts: connections or datagrams.
#[derive(Clone, Debug)]
pub enum PlanKind {
    /// Connections.
    Stream(Arc<ListenerPlan>),
    /// Datagrams.
    Datagram(Arc<UdpPlan>),
    /// QUIC connections.
    Quic(QuicListener),
}

/// The state of one build.
struct Build<'a> {
    input: &'a BuildInput<'a>,
    files: BTreeSet<PathBuf>,
    stale: Vec<LoadError>,
    authorities: Authorities,
    /// Runtime values read by filters of chains.
    runtime_keys: RefCell<BTreeSet<String>>,
    /// Clusters that filters may ask.
    asked: RefCell<AskedClusters>,
}

/// Builds a snapshot; adds every error and warning to `diags`.
pub fn build(config: &Config, input: &BuildInput<'_>, diags: &mut Diags) -> Option<Snapshot> {
    check::names_and_addresses(config, diags);
    check::inspected_bytes(config, diags);
    check::admin(config, diags);
    check::clusters(config, diags);
    check::routes(config, diags);
    check::loops(config, diags);
    let mut state = Build {
        input,
        files: BTreeSet::new(),
        stale: Vec::new(),
        authorities: Authorities::default(),
        runtime_keys: RefCell::default(),
        asked: RefCell::default(),
    };
    let clusters = state.clusters(config, diags);
    let routes = state.routes(config, &clusters, diags);
    let listeners = state.listeners(config, &clusters, &routes, diags);
    let runtime = state.runtime(config, diags);
    let sinks = sinks(config, input.folder, diags);
    if diags.has_errors() {
        return None;
    }
    // With errors present, what seems unused may be used by what is wrong.
    let asked = state.asked.take();
    check::unused(config, asked.all(), diags);
    let mut runtime_keys = state.runtime_keys.take();
    routes.values().for_each(|(_, table)| runtime::keys_of_routes(table, &mut runtime_keys));
    Some(Snapshot {
        runtime_keys,
        asked,
        listeners,
        clusters,
        routes,
        runtime,
        sinks,
        files: state.files.into_iter().collect(),
        stale_certificates: state.stale,
    })
}

impl Build<'_> {
    /// Resolves a relative path and adds the file to those to watch.
    fn file(&mut self, path: &FilePath) -> PathBuf {
        let file = self.input.folder.join(path);
        self.files.insert(file.clone());
        file
    }
}

/// Reports a file that does not load, at the place that names it.
fn report(error: &LoadError, span: sluice_core::Span, at: &Path<'_>, diags: &mut Diags) {
    let finding = diags.error("bad-file", span, at, error.to_string());
    if let Some(help) = error.help {
        finding.help(help);
    }
}

/// Every operator that any record supports, those of connections first.
pub fn operators() -> Vec<&'static Operator> {
    let own = sluice_l7::record::OPERATORS;
    let new = own.iter().filter(|own| !record::OPERATORS.iter().any(|of| of.name == own.name));
    record::OPERATORS.iter().chain(new).copied().collect()
}

/// Every operator with the records that support it: `connection` (and flows), `request`, or `all`.
pub fn operators_of() -> impl Iterator<Item = (&'static Operator, &'static str)> {
    operators().into_iter().map(|operator| {
        let has = |table: &[&Operator]| table.iter().any(|of| of.name == operator.name);
        match (has(record::OPERATORS), has(sluice_l7::record::OPERATORS)) {
            (true, true) => (operator, "all"),
            (true, false) => (operator, "connection"),
            _ => (operator, "request"),
        }
    })
}

fn sinks(config: &Config, folder: &FilePath, diags: &mut Diags) -> Vec<SinkPlan> {
    let at = Path::ROOT.key("access_log");
    let mut sinks = Vec::new();
    for (index, log) in config.access_log.places() {
        let at = at.index(index);
        sinks.extend(sink(log, folder, &at, diags));
    }
    sinks
}

fn sink(
    log: &Spanned<AccessLog>,
    folder: &FilePath,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<SinkPlan> {
    let requests_only = log.kinds.as_slice() == [LogKind::Request];
    let operators = operators();
    let template = match &log.format.value {
        LogFormat::Json(fields) => {
            let fields = fields.iter().map(|(name, text)| (name.as_str(), text.as_str()));
            Template::fields(fields, &operators)
        }
        LogFormat::Line(line) => match line.as_str() {
            "json" => Template::json(&operators)
                .with(sluice_l7::record::DEFAULT_HEADERS.iter().copied(), &operators),
            "text" if requests_only => Template::text(sluice_l7::record::DEFAULT_TEXT, &operators),
            "text" => Template::text(record::DEFAULT_TEXT, &operators),
            text if text.contains('%') => Template::text(text, &operators),
            text => Err(format!("expected json, text or a line with %OPERATOR%s, not `{text}`")),
        },
    };
    let at_format = at.key("format");
    let template = template
        .map_err(|message| diags.error("bad-value", log.format.span, at_format, message))
        .ok();
    let kinds = log.kinds.iter().map(|kind| match kind {
        LogKind::Connection => RecordKind::Connection.bit(),
        LogKind::Flow => RecordKind::Flow.bit(),
        LogKind::Request => RecordKind::Request.bit(),
    });
    let kinds = kinds.reduce(|a, b| a | b).unwrap_or(u8::MAX);
    let target = match log.sink.value.as_str() {
        "stdout" => SinkTarget::Stdout,
        "stderr" => SinkTarget::Stderr,
        path => SinkTarget::File(folder.join(path)),
    };
    if let SinkTarget::File(path) = &target
        && path.is_dir()
    {
        let message = format!("{} is a folder", path.display());
        diags.error("bad-file", log.sink.span, at.key("sink"), message).help("name a file in it");
        return None;
    }
    if let SinkTarget::File(path) = &target
        && !path.parent().is_some_and(FilePath::is_dir)
    {
        diags
            .error(
                "bad-file",
                log.sink.span,
                at.key("sink"),
                format!("the folder of {} does not exist", path.display()),
            )
            .help("create the folder, or use `stdout` or `stderr`");
        return None;
    }
    Some(SinkPlan { target, kinds, template: template? })
}
