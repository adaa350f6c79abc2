//! The control thread: start, reload, drain.
//!
//! Owns: the configuration in force, the workers, the sockets' addresses, signals.
//! Refuses to know: the bytes of any connection. Keeps: a reload is validated first and applied completely
//! or not at all; nothing slow runs on this thread itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sluice_admin::AdminSocket;
use sluice_codec::probe::RequestProbe;
use sluice_config::Sources;
use sluice_core::clock::{Clock, ClockOrigin};
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Limits, Name};
use sluice_io::{Budget, WorkerCx};
use sluice_l4::filters::fetch::FetchRunner;
use sluice_l7::attempts::Departure;
use sluice_l7::worker::HttpWorker;
use sluice_model::process::Process;
use sluice_model::store::Store;
use sluice_telemetry::{LogHub, Registry};
use sluice_upstream::health::{ConnectionProbe, HealthWatch, Probes};
use sluice_upstream::hops::{HopTransport, ListenerGuard};
use sluice_upstream::plan::{CheckKind, OnRemoved, OnUnhealthy};
use sluice_upstream::{Cluster, Clusters, EndpointState, LeftEndpoints};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::process_log::ProcessLog;
use crate::worker::{Worker, WorkerCommand, WorkerConfig};

mod admin_socket;
mod apply;
mod build;
mod clusters;
mod connections;
mod drain;
mod endpoint_files;
#[cfg(feature = "envoy")]
mod envoy_pages;
mod fetches;
mod filters;
mod first_load;
mod fixed;
mod form;
mod log_level;
mod overrides;
mod pages;
mod pauses;
#[cfg(feature = "envoy")]
mod planes;
mod reload;
mod report;
mod resources;
mod routes;
mod runtime;
mod sockets;
mod takeover;
#[cfg(test)]
mod tests;
mod unused_names;
mod vitals;
mod watch;

use admin_socket::{AdminBound, admin_plan, admin_socket};
use build::Built;
pub(crate) use build::ConfigBuilder;
use endpoint_files::EndpointFileStates;
#[cfg(feature = "envoy")]
pub(crate) use envoy_pages::envoy_build;
pub(crate) use form::ConfigForm;
use log_level::LogOverride;
use pauses::Pauses;
#[cfg(feature = "envoy")]
pub(crate) use planes::{LastGoodPlan, Planes, PlanesPlan};
use reload::ReloadFailure;
use report::Report;
use sockets::Sockets;
use vitals::Vitals;

sluice_telemetry::metrics! {
    RELOADS = "sluice_config_reloads_total", Counter, ["result"], "Reloads, by result: applied, unchanged or failed; stale_certificate counts certificates that no longer load.";
    RESOURCE_CHANGES = "sluice_resource_changes_total", Counter, ["kind", "change"], "Resources, of files and control planes, by what became of them: added, changed, removed or rejected.";
    SNAPSHOT = "sluice_config_snapshot_number", Gauge, [], "The number of the snapshot in force.";
}

/// Events of endpoints that the control thread has found and that may wait for the log thread; more are dropped and
/// counted.
const HEALTH_EVENTS: usize = 4096;

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
    pub(crate) process_log: Rc<ProcessLog>,
    /// Control planes.
    #[cfg(feature = "envoy")]
    pub(crate) planes: Option<PlanesPlan>,
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
    /// What requests of this thread run on: health checks and side calls.
    worker: Rc<WorkerCx>,
    fetches: Rc<FetchRunner>,
    endpoint_files: EndpointFileStates,
    pauses: RefCell<Pauses>,
    process_log: Rc<ProcessLog>,
    log_override: RefCell<Option<LogOverride>>,
    /// An override that may have an end was set.
    overrides_changed: tokio::sync::Notify,
    /// The resources in force.
    store: RefCell<Arc<Store>>,
    /// One change is put in force at a time.
    turn: tokio::sync::Mutex<()>,
    workers: Vec<Worker>,
    sockets: RefCell<Sockets>,
    log: LogHub,
    report: Report,
    stage: Cell<Stage>,
    /// Listeners that an operator has stopped for good.
    stopped: RefCell<BTreeSet<Name>>,
    /// An operator ends the process.
    quit: tokio::sync::Notify,
    in_force: RefCell<ActiveConfig>,
    #[cfg(feature = "envoy")]
    planes: RefCell<Option<Rc<Planes>>>,
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
    last_failure: Option<(ReloadFailure, Duration)>,
}

/// What triggered a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    Signal,
    Watch,
}

/// Runs the proxy until it is told to stop.
pub(crate) async fn run(
    mut options: Options,
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
        Some(admin) => Some(admin_socket(admin, options.takeover)?),
        None => None,
    };
    let control = Control::start(&options, built, builder).await?;
    // The admin pages are not for those who name hosts to a forward proxy: they count as a listener of ours.
    let mut _own = None;
    if let Some((admin, AdminBound { socket, staged, address })) = admin.zip(bound) {
        if let Some(file) = staged {
            sockets::place(&admin.address.value, file);
        }
        if let AdminSocket::Tcp(tcp) = &socket {
            _own = Some(ListenerGuard::on(HopTransport::Stream, tcp.local_addr()?));
        }
        control.report.admin(&address);
        let plan = admin_plan(&admin, control.in_force.borrow().limits(), &control.builder.form);
        let source = Rc::new(pages::Pages::new(Rc::clone(&control), &options.config));
        tokio::task::spawn_local(sluice_admin::serve(socket, source, plan));
        tokio::task::spawn_local(overrides::expire(Rc::clone(&control)));
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
    let first_load = Rc::new(tokio::sync::Notify::new());
    control.begin_planes(&mut options, &first_load);
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
            () = control.quit.notified() => {
                control.end_all(end::FORCED).await;
                control.write_all();
                return Ok(());
            }
            () = first_load.notified() => {
                control.now_ready();
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
        let Built { sources, folder, process, node_section: _, staged, diags } = built;
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
        // Health checks and side calls of this thread use the workers' protocol code; their sockets come from the
        // descriptor reserve.
        let control_worker = WorkerCx::new(
            options.workers,
            origin.clock(),
            shard.clone(),
            log.queue(HEALTH_EVENTS).take_root(&shard, "control"),
            limits.clone(),
            &Budget::unlimited(),
        );
        control_worker.start();
        let control = Rc::new_cyclic(|control: &std::rc::Weak<Self>| {
            let control = control.clone();
            let unhealthy = control.clone();
            let on_left = move |cluster: &Arc<Cluster>, left: &[Arc<EndpointState>]| {
                let Some(control) = control.upgrade() else { return };
                control.names_left.set(true);
                let policy = cluster.plan().on_endpoint_removed;
                Left::of(cluster, left, policy, Departure::Removed).tell_soon(control);
            };
            let on_unhealthy = move |cluster: &Arc<Cluster>, fallen: &[Arc<EndpointState>]| {
                let Some(control) = unhealthy.upgrade() else { return };
                if cluster.plan().on_endpoint_unhealthy == OnUnhealthy::Close {
                    Left::of(cluster, fallen, OnRemoved::Close, Departure::Unhealthy)
                        .tell_soon(control);
                }
            };
            let clock = origin.clock();
            Self {
                vitals: Vitals::new(&registry, &shard),
                names_left: Cell::new(false),
                registry,
                clusters: RefCell::new(Clusters::new(
                    Arc::clone(&builder.around.clusters),
                    HealthWatch {
                        worker: Rc::clone(&control_worker),
                        probes: probes(Rc::clone(&control_worker)),
                        on_unhealthy: Rc::new(on_unhealthy),
                        checked: tokio::sync::Notify::new(),
                    },
                    Rc::new(on_left),
                )),
                shard,
                fetches: FetchRunner::new(Rc::clone(&control_worker)),
                endpoint_files: EndpointFileStates::default(),
                pauses: RefCell::default(),
                process_log: Rc::clone(&options.process_log),
                log_override: RefCell::default(),
                overrides_changed: tokio::sync::Notify::new(),
                worker: control_worker,
                builder: Arc::new(builder),
                workers,
                sockets: RefCell::new(Sockets::new(options.workers, options.takeover)),
                log,
                report: Report::new(options.report.as_deref()),
                stage: Cell::new(Stage::Starting),
                stopped: RefCell::default(),
                quit: tokio::sync::Notify::new(),
                #[cfg(feature = "envoy")]
                planes: RefCell::default(),
                store: RefCell::default(),
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
        let verdicts = staged.verdicts.clone();
        control.put_in_force(&process, staged).await?;
        control.note_endpoint_files(&BTreeMap::new(), &verdicts);
        control.in_force.borrow_mut().number = 1;
        control.shard.gauge(&SNAPSHOT, &[]).set(1);
        control.vitals.reloaded(true, control.clock.wall(control.clock.now()));
        Ok(control)
    }

    /// Updates the expiry metrics of certificates. A certificate that left the configuration is kept while a connection
    /// with an older configuration may use it.
    fn tell_certificates(&self) {
        self.builder.around.certs.sweep();
        if self.vitals.tell_certificates(&self.builder.around.certs) {
            self.names_left.set(true);
        }
    }

    /// The metrics as Prometheus text.
    fn metrics(&self) -> String {
        self.measure();
        self.registry.render()
    }

    /// Updates what is measured when it is read.
    fn measure(&self) {
        let (bound, reserve_percent) = {
            let in_force = self.in_force.borrow();
            let limits = in_force.limits();
            (limits.size(Limit::EndpointSeries), limits.get(Limit::SideCallReserve))
        };
        self.tell_certificates();
        self.vitals.tell_endpoints(self.clusters.borrow().iter(), bound);
        self.vitals.tell_breakers(self.clusters.borrow().iter(), reserve_percent);
        self.vitals.tell_queues(self.clusters.borrow().iter());
        self.vitals.measure_process();
        self.measure_planes();
        self.forget_names();
    }
}

/// The health checks of endpoints.
fn probes(control_worker: Rc<WorkerCx>) -> Probes {
    Rc::new(move |plan, endpoint| {
        let (plan, endpoint) = (Arc::clone(plan), Arc::clone(endpoint));
        let worker = Rc::clone(&control_worker);
        match plan.health.as_ref().map(|health| &health.kind) {
            Some(CheckKind::Http(_) | CheckKind::Grpc { .. }) => {
                Rc::new(RequestProbe::new(plan, endpoint, worker))
            }
            _ => Rc::new(ConnectionProbe { plan, endpoint, worker }),
        }
    })
}

/// Endpoints of a cluster that are to be used no longer, for the workers.
struct Left {
    cluster: Name,
    endpoints: Arc<LeftEndpoints>,
    policy: OnRemoved,
    departure: Departure,
}

impl Left {
    fn of(
        cluster: &Cluster,
        left: &[Arc<EndpointState>],
        policy: OnRemoved,
        departure: Departure,
    ) -> Self {
        let endpoints = Arc::new(left.iter().map(|endpoint| endpoint.name.clone()).collect());
        Self { cluster: cluster.name.clone(), endpoints, policy, departure }
    }

    fn tell_soon(self, control: Rc<Control>) {
        tokio::task::spawn_local(async move {
            for worker in &control.workers {
                let order = WorkerCommand::Left {
                    cluster: self.cluster.clone(),
                    endpoints: Arc::clone(&self.endpoints),
                    policy: self.policy,
                    departure: self.departure,
                };
                worker.order(order).await;
            }
            let Self { cluster, endpoints, policy, departure } = self;
            let own = HttpWorker::of(&control.worker);
            own.endpoints_left(&control.worker, &cluster, &endpoints, policy, departure);
        });
    }
}
