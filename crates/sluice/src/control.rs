//! The control thread: start, reload, drain.
//!
//! Owns: the configuration in force, the workers, the sockets' addresses, signals.
//! Refuses to know: the bytes of any connection. Keeps: a reload is validated first and applied completely
//! or not at all; nothing slow runs on this thread itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sluice_admin::{AdminPlan, AdminSocket};
use sluice_codec::probe::RequestProbe;
use sluice_config::Sources;
use sluice_core::clock::{Clock, ClockOrigin};
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Limits, ListenAddress, Name, Reason};
use sluice_io::{Budget, WorkerCx};
use sluice_model::diff::Diff;
use sluice_model::model::Kind;
use sluice_model::process::Process;
use sluice_model::sections::Admin;
use sluice_model::store::Store;
use sluice_sys::listen::StagedFile;
use sluice_telemetry::{LogHub, LogQueue, Registry};
use sluice_tls::LoadError;
use sluice_upstream::health::{Probes, TcpProbe};
use sluice_upstream::plan::CheckKind;
use sluice_upstream::{Cluster, Clusters};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::worker::{Worker, WorkerCommand, WorkerConfig};

mod apply;
mod build;
mod fixed;
mod pages;
mod report;
mod resources;
mod routes;
mod runtime;
mod sockets;
mod takeover;
#[cfg(test)]
mod tests;
mod vitals;
mod watch;

use build::Built;
pub(crate) use build::ConfigBuilder;
use report::Report;
use sockets::Sockets;
use vitals::Vitals;

sluice_telemetry::metrics! {
    RELOADS = "sluice_config_reloads_total", Counter, ["result"], "Reloads, by result: applied, unchanged or failed; stale_certificate counts certificates that no longer load.";
    SNAPSHOT = "sluice_config_snapshot_number", Gauge, [], "The number of the snapshot in force.";
}

/// The options of `run`.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) config: PathBuf,
    pub(crate) workers: usize,
    /// Maximum number of open files of the process.
    pub(crate) files: u64,
    pub(crate) report: Option<PathBuf>,
    pub(crate) watch: bool,
    pub(crate) takeover: bool,
}

/// The state of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    Draining,
}

/// The state shared by reload, drain and the admin pages.
pub(crate) struct Control {
    clock: Clock,
    registry: Registry,
    shard: sluice_telemetry::Shard,
    vitals: Vitals,
    /// Whether names may have been removed whose metric series still exist.
    names_left: Cell<bool>,
    builder: Arc<ConfigBuilder>,
    clusters: RefCell<Clusters>,
    /// The resources in force.
    store: RefCell<Arc<Store>>,
    /// Clusters that were removed, for the pools of workers.
    removed_clusters: RefCell<Vec<Name>>,
    /// One change is put in force at a time.
    turn: tokio::sync::Mutex<()>,
    workers: Vec<Worker>,
    sockets: RefCell<Sockets>,
    log: LogHub,
    report: Report,
    stage: Cell<Stage>,
    in_force: RefCell<ActiveConfig>,
}

/// The configuration files in force.
struct ActiveConfig {
    number: u64,
    loaded_at: Duration,
    sources: Sources,
    folder: PathBuf,
    process: Arc<Process>,
    warnings: usize,
    /// The last reload, if it failed.
    last_failure: Option<ReloadFailure>,
}

/// What triggered a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    Signal,
    Watch,
}

/// Runs the proxy until it is told to stop.
pub(crate) async fn run(
    options: Options,
    built: Built,
    builder: ConfigBuilder,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user = signal(SignalKind::user_defined1())?;
    let admin = built.process.admin.clone();
    // Bound before anything is put in force, since binding can fail.
    let bound = match &admin {
        Some(admin) => Some(admin_socket(&admin.address.value, options.takeover)?),
        None => None,
    };
    let control = Control::start(&options, built, builder).await?;
    if let Some((admin, (socket, staged, address))) = admin.zip(bound) {
        if let Some(file) = staged {
            sockets::place(&admin.address.value, file);
        }
        control.report.admin(&address);
        let plan = admin_plan(&admin, control.in_force.borrow().limits());
        let source = Rc::new(pages::Pages(Rc::clone(&control)));
        tokio::task::spawn_local(sluice_admin::serve(socket, source, plan));
    }
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher = options.watch.then(|| watch::Watcher::new(changed.clone()));
    if let Some(watcher) = &mut watcher {
        watcher.follow(&control.watched());
        // A change between reading and watching would be missed: check once.
        let _ = changed.try_send(());
    }
    let mut settling = watch::Settling::default();
    let mut looks = takeover::Looks::new();
    control.stage.set(Stage::Ready);
    control.report.ready();
    tracing::info!(
        workers = control.workers.len(),
        listeners = control.store.borrow().names(Kind::Listener).len(),
        "ready"
    );
    loop {
        let trigger = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => Trigger::Signal,
            Some(()) = settling.settled(&mut changes) => Trigger::Watch,
            () = tokio::time::sleep(looks.pause()), if control.sockets.borrow().waiting() > 0 => {
                control.take_over(&mut looks).await;
                continue;
            }
            () = control.next_deadline() => {
                control.expire().await;
                continue;
            }
            _ = user.recv() => {
                control.log.reopen();
                tracing::info!("log files reopened");
                continue;
            }
        };
        control.reload(&options.config, trigger).await;
        if let Some(watcher) = &mut watcher {
            watcher.follow(&control.watched());
        }
    }
    control.drain(&mut terminate, &mut interrupt).await;
    Ok(())
}

impl ActiveConfig {
    fn limits(&self) -> &Limits {
        &self.process.limits.0
    }
}

impl Control {
    async fn start(
        options: &Options,
        built: Built,
        builder: ConfigBuilder,
    ) -> anyhow::Result<Rc<Self>> {
        let origin = ClockOrigin::read();
        let registry = Registry::new();
        // A second recorder can only come from a test harness, which then does the counting.
        let _ = sluice_telemetry::metrics::install_recorder(&registry);
        let shard = registry.shard(options.workers + 1);
        let log =
            LogHub::start(&registry, options.workers + 2).context("cannot start the log thread")?;
        let Built { sources, folder, process, staged, diags } = built;
        let process = Arc::new(process);
        let limits = process.limits.0.clone();
        let descriptors = Budget::new(options.files, options.workers, &limits);
        let mut workers = Vec::new();
        for number in 0..options.workers {
            workers.push(Worker::start(WorkerConfig {
                number,
                workers: options.workers,
                origin,
                registry: registry.clone(),
                log: log.queue(limits.size(Limit::LogQueue)),
                limits: limits.clone(),
                descriptors: Arc::clone(&descriptors),
            })?);
        }
        // Health checks use the workers' protocol code on this thread; their sockets come from the descriptor reserve.
        let control_worker = WorkerCx::new(
            options.workers,
            origin.clock(),
            shard.clone(),
            LogQueue::nowhere(&shard),
            limits.clone(),
            &Budget::unlimited(),
        );
        control_worker.start();
        let control = Rc::new_cyclic(|control: &std::rc::Weak<Self>| {
            let control = control.clone();
            let on_left =
                move |cluster: &Arc<Cluster>, left: &[Arc<sluice_upstream::EndpointState>]| {
                    let Some(control) = control.upgrade() else { return };
                    control.names_left.set(true);
                    let order = Left {
                        cluster: cluster.name.clone(),
                        endpoints: left.iter().map(|endpoint| endpoint.name.clone()).collect(),
                        policy: cluster.plan().on_endpoint_removed,
                    };
                    tokio::task::spawn_local(async move { order.tell(&control).await });
                };
            let clock = origin.clock();
            Self {
                vitals: Vitals::new(&registry, &shard),
                names_left: Cell::new(false),
                registry,
                clusters: RefCell::new(Clusters::new(
                    Arc::clone(&builder.around.clusters),
                    shard.clone(),
                    probes(control_worker),
                    Rc::new(on_left),
                )),
                shard,
                builder: Arc::new(builder),
                workers,
                sockets: RefCell::new(Sockets::new(options.workers, options.takeover)),
                log,
                report: Report::new(options.report.as_deref()),
                stage: Cell::new(Stage::Starting),
                store: RefCell::default(),
                removed_clusters: RefCell::default(),
                turn: tokio::sync::Mutex::new(()),
                in_force: RefCell::new(ActiveConfig {
                    number: 0,
                    loaded_at: clock.wall(clock.now()),
                    sources,
                    folder,
                    warnings: diags.counts().1,
                    process: Arc::clone(&process),
                    last_failure: None,
                }),
                clock,
            }
        });
        control.put_in_force(&process, staged).await?;
        control.in_force.borrow_mut().number = 1;
        control.shard.gauge(&SNAPSHOT, &[]).set(1);
        control.vitals.reloaded(true, control.clock.wall(control.clock.now()));
        Ok(control)
    }

    async fn reload(&self, config: &std::path::Path, trigger: Trigger) {
        let outcome = self.try_reload(config, trigger).await;
        self.vitals.reloaded(outcome.is_ok(), self.clock.wall(self.clock.now()));
        let code = match &outcome {
            Ok(Some(diff)) => {
                let number = self.in_force.borrow().number;
                tracing::info!(snapshot = number, "reloaded: {diff}");
                "applied"
            }
            // Files are touched for many reasons; only a reload by signal reports that nothing changed.
            Ok(None) if trigger == Trigger::Watch => return,
            Ok(None) => {
                tracing::info!("reload: nothing changed");
                "unchanged"
            }
            Err(error) => {
                let failure = ReloadFailure::of(error);
                let mut in_force = self.in_force.borrow_mut();
                // Watched folders change for many reasons; the same failure is reported once.
                if trigger == Trigger::Watch && in_force.last_failure.as_ref() == Some(&failure) {
                    return;
                }
                in_force.last_failure = Some(failure);
                drop(in_force);
                tracing::error!(
                    "reload failed; the current configuration stays in force: {error:#}"
                );
                "failed"
            }
        };
        self.shard.counter(&RELOADS, &[code]).increment();
        self.report.reloaded(code, self.in_force.borrow().number);
    }

    fn tell_stale_certificates(&self, stale: &[LoadError]) {
        for trouble in stale {
            let help = trouble.help.unwrap_or("fix the file and reload");
            tracing::error!(
                "cannot load a certificate; the current one stays in use: {trouble}; {help}"
            );
            self.shard.counter(&RELOADS, &["stale_certificate"]).increment();
        }
    }

    async fn try_reload(
        &self,
        config: &std::path::Path,
        trigger: Trigger,
    ) -> anyhow::Result<Option<Diff>> {
        let _turn = self.turn.lock().await;
        let (builder, path) = (Arc::clone(&self.builder), config.to_owned());
        let store = Arc::clone(&self.store.borrow());
        let build = move || {
            // The sender of a signal wants to know of every certificate that does not load.
            let stale = match trigger {
                Trigger::Signal => builder.refresh_certificates(),
                Trigger::Watch => Vec::new(),
            };
            (builder.build(&path, &store), stale)
        };
        let (built, mut stale) = tokio::task::spawn_blocking(build).await?;
        let built = built?;
        let verdicts = &built.staged.verdicts;
        let diff = Diff::of(verdicts, &self.in_force.borrow().process, &built.process);
        let known = |new: &&LoadError| !stale.iter().any(|old| old.path == new.path);
        let more: Vec<_> = built.staged.stale_certificates.iter().filter(known).cloned().collect();
        stale.extend(more);
        self.tell_stale_certificates(&stale);
        if diff.is_empty() {
            self.in_force.borrow_mut().last_failure = None;
            return Ok(None);
        }
        for fixed in fixed::changes(&self.in_force.borrow().process, &built.process) {
            tracing::warn!("the change of `{fixed}` takes effect after a restart");
        }
        let Built { sources, folder, process, staged, diags } = built;
        self.put_in_force(&process, staged).await?;
        let mut in_force = self.in_force.borrow_mut();
        in_force.number += 1;
        in_force.loaded_at = self.clock.wall(self.clock.now());
        in_force.sources = sources;
        in_force.folder = folder;
        in_force.process = Arc::new(process);
        in_force.warnings = diags.counts().1;
        in_force.last_failure = None;
        self.shard.gauge(&SNAPSHOT, &[]).set(in_force.number);
        drop(in_force);
        self.tell_certificates();
        self.names_left.set(true);
        self.forget_names();
        Ok(Some(diff))
    }

    /// Every file that causes a reload when it changes.
    fn watched(&self) -> Vec<PathBuf> {
        let (in_force, store) = (self.in_force.borrow(), self.store.borrow());
        let sources = &in_force.sources;
        let own = sources.paths().chain(sources.value_paths());
        let own = own.chain(in_force.process.runtime_file.as_deref());
        let named: BTreeSet<PathBuf> = own.chain(store.files()).map(Into::into).collect();
        named.into_iter().collect()
    }

    /// Updates the expiry metrics of certificates. A certificate that left the configuration is kept while a connection
    /// with an older configuration may use it.
    fn tell_certificates(&self) {
        self.builder.around.certs.sweep();
        if self.vitals.tell_certificates(&self.builder.around.certs) {
            self.names_left.set(true);
        }
    }

    /// Removes the series of listeners, clusters, rules, endpoints and certificates that are no longer in use.
    /// A series stays while something still counts in it.
    fn forget_names(&self) {
        if !self.names_left.get() {
            return;
        }
        let store = self.store.borrow();
        let tables = store.routes().map(|(_, model, _)| model);
        let rules: HashSet<&str> =
            tables.flat_map(|table| table.rules()).map(|rule| &*rule.name).collect();
        let clusters = self.clusters.borrow();
        let members: Vec<_> = clusters.iter().map(|cluster| cluster.members()).collect();
        let endpoints: HashSet<&str> = members
            .iter()
            .flat_map(|members| &members.endpoints)
            .map(|endpoint| &*endpoint.name)
            .collect();
        let left = self.registry.forget(|label, value| match label {
            "listener" => !store.contains(Kind::Listener, value),
            "cluster" => !store.contains(Kind::Cluster, value),
            "route" => value != "other" && !rules.contains(value),
            "endpoint" => value != "other" && !endpoints.contains(value),
            "certificate" => !self.vitals.knows_certificate(value),
            _ => false,
        });
        self.names_left.set(left);
    }

    /// The metrics as Prometheus text.
    fn metrics(&self) -> String {
        let bound = {
            let in_force = self.in_force.borrow();
            in_force.limits().size(Limit::EndpointSeries)
        };
        self.tell_certificates();
        self.vitals.tell_endpoints(self.clusters.borrow().iter(), bound);
        self.vitals.measure_process();
        self.forget_names();
        self.registry.render()
    }

    /// Stops accepting and waits for open connections to end.
    async fn drain(&self, again: &mut Signal, also: &mut Signal) {
        let timeout = self.in_force.borrow().process.drain.timeout.0;
        self.stage.set(Stage::Draining);
        for worker in &self.workers {
            worker.order(WorkerCommand::Drain).await;
        }
        self.sockets.borrow().unlink();
        let started = self.clock.now();
        let mut told = Duration::ZERO;
        loop {
            let left = self.count().await;
            let total: usize = left.values().sum();
            if total == 0 {
                tracing::info!("drained; all connections have ended");
                break;
            }
            let waited = self.clock.now().since(started);
            if waited >= timeout {
                tracing::warn!(
                    connections = total,
                    "the drain timeout has expired; closing the remaining connections"
                );
                self.end_all(end::DRAIN).await;
                break;
            }
            if waited >= told {
                let by: Vec<String> =
                    left.iter().map(|(name, count)| format!("{name}: {count}")).collect();
                tracing::info!(
                    remaining = total,
                    deadline_s = (timeout - waited).as_millis().div_ceil(1000),
                    "draining: {}",
                    by.join(", ")
                );
                told = waited + DRAIN_TELL;
            }
            tokio::select! {
                () = tokio::time::sleep(DRAIN_LOOK) => {}
                _ = again.recv() => { self.end_all(end::FORCED).await; break; }
                _ = also.recv() => { self.end_all(end::FORCED).await; break; }
            }
        }
        self.log.flush();
    }

    async fn end_all(&self, why: Reason) {
        for worker in &self.workers {
            worker.order(WorkerCommand::EndAll(why)).await;
        }
        // Ending them takes a turn of each worker's loop.
        for _ in 0..ENDING_LOOKS {
            if self.count().await.is_empty() {
                return;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    async fn count(&self) -> BTreeMap<Name, usize> {
        let mut all = BTreeMap::new();
        for worker in &self.workers {
            for (name, count) in worker.ask(WorkerCommand::Count).await.unwrap_or_default() {
                *all.entry(name).or_default() += count;
            }
        }
        all
    }
}

/// A reload that failed.
#[derive(Debug, PartialEq, Eq)]
struct ReloadFailure {
    /// The text for the admin pages: without lines of the configuration, which may contain secrets.
    brief: String,
    /// A hash of the content read and of the error.
    content: u64,
}

impl ReloadFailure {
    fn of(error: &anyhow::Error) -> Self {
        let mut hasher = DefaultHasher::new();
        format!("{error:#}").hash(&mut hasher);
        let rejected = error.downcast_ref::<Box<build::Rejected>>();
        if let Some(rejected) = rejected {
            rejected.loaded.sources.texts().for_each(|text| text.hash(&mut hasher));
        }
        let brief = rejected.map_or_else(|| format!("{error:#}"), |rejected| rejected.brief());
        Self { brief, content: hasher.finish() }
    }
}

/// The health checks of clusters.
fn probes(control_worker: Rc<WorkerCx>) -> Probes {
    Rc::new(move |plan| match plan.health.as_ref().map(|health| &health.kind) {
        Some(CheckKind::Http { .. } | CheckKind::Grpc { .. }) => {
            Rc::new(RequestProbe { plan: Arc::clone(plan), worker: Rc::clone(&control_worker) })
        }
        _ => Rc::new(TcpProbe { reactor: Rc::clone(&control_worker.reactor) }),
    })
}

/// How often a drain checks whether it is done, and logs that it is not.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
const DRAIN_TELL: Duration = Duration::from_secs(3);

/// Maximum number of checks for the end of all connections.
const ENDING_LOOKS: u32 = 20;

/// Endpoints removed from a cluster, for the workers.
struct Left {
    cluster: Name,
    endpoints: Vec<Arc<str>>,
    policy: sluice_upstream::plan::OnRemoved,
}

impl Left {
    async fn tell(&self, control: &Control) {
        for worker in &control.workers {
            let order = WorkerCommand::Left {
                cluster: self.cluster.clone(),
                endpoints: self.endpoints.clone(),
                policy: self.policy,
            };
            worker.order(order).await;
        }
    }
}

fn admin_plan(admin: &Admin, limits: &Limits) -> AdminPlan {
    AdminPlan {
        connections: limits.size(Limit::AdminConnections),
        hosts: admin.hosts.iter().map(|host| host.value.clone()).collect(),
        // Browsers cannot reach a unix socket, and its clients send any host name.
        any_host: matches!(admin.address.value, ListenAddress::Unix(_)),
        answer_timeout: Duration::from_secs(limits.get(Limit::AdminAnswer)),
        guard_changes: true,
    }
}

/// The socket of the admin pages, its file if not yet in place, and its bound address.
type AdminBound = (AdminSocket, Option<StagedFile>, String);

fn admin_socket(address: &ListenAddress, takeover: bool) -> anyhow::Result<AdminBound> {
    let context = || format!("cannot listen on the admin address {address}");
    if !takeover {
        sockets::check_free(address).with_context(context)?;
    }
    match address {
        ListenAddress::Tcp(socket) => {
            let options =
                sluice_sys::listen::TcpOptions { backlog: 64, keepalive: true, fast_open: 0 };
            let fd = sluice_sys::listen::tcp(*socket, 1, options).with_context(context)?.remove(0);
            let tcp = tokio::net::TcpListener::from_std(fd.into()).with_context(context)?;
            let bound = tcp.local_addr()?.to_string();
            Ok((AdminSocket::Tcp(tcp), None, bound))
        }
        ListenAddress::Unix(path) => {
            let (mut sockets, file) =
                sluice_sys::listen::unix(path, 1, 64, takeover).with_context(context)?;
            let fd = sockets.remove(0);
            let unix = tokio::net::UnixListener::from_std(fd.into()).with_context(context)?;
            Ok((AdminSocket::Unix(unix), Some(file), address.to_string()))
        }
        ListenAddress::Udp(_) => {
            anyhow::bail!("the admin address must be a TCP address or a unix socket")
        }
    }
}
