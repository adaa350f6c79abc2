//! Reports of load to control planes.
//!
//! Owns: which clusters are counted, reading what was counted, when a report is sent. Refuses to know: what is in a report. Keeps:
//! what an endpoint that has left still carried is in the reports until it carries nothing any more.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use sluice_envoy::message::ProtoMessage;
use sluice_envoy::sources::{self, ApiForm, ApiSource};
use sluice_l7::GrpcCallError;
use sluice_upstream::endpoint::RequestTotals;
use sluice_upstream::{Cluster, EndpointState, Locality, Target};
use sluice_xds::messages::load_stats::{
    LoadStatsRequest, LoadStatsResponse, LocalityMessage, PipeMessage, PlaneAddress,
    PlaneSocketAddress,
};
use sluice_xds::{ClusterLoad, CountedEndpoint, LoadReporter, LoadTotals, MetricLoad, OwnerKind};

use super::calls::{PlaneCall, send};
use super::{Planes, XdsType};
use crate::control::Control;

sluice_telemetry::metrics! {
    LOAD_STATS = "sluice_xds_load_reports_total", Counter, ["source"], "Reports of load that were sent to control planes, by cluster.";
}

const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// What a cluster says of reports about it.
#[derive(Clone, Debug, Default)]
pub(super) struct ReportedAs {
    /// The name of its endpoints at the plane; empty if that is its own.
    service: String,
    /// Whether the plane that it came from wants to know of it.
    to_own_plane: bool,
}

/// A stream of reports, one after the other.
#[derive(Debug)]
pub(super) struct LoadStream {
    pub(super) call: PlaneCall,
    /// Whether it is about clusters alone that say so.
    of_marked: bool,
    pub(super) reporter: RefCell<LoadReporter>,
    /// The endpoints of the last report, by the names of their clusters in Envoy.
    seen: RefCell<HashMap<Arc<str>, Vec<SeenEndpoint>>>,
}

#[derive(Clone, Debug)]
struct SeenEndpoint {
    endpoint: Arc<EndpointState>,
    locality: LocalityMessage,
    priority: u32,
}

impl LoadStream {
    fn wants(&self, name: &str, of: &ReportedAs) -> bool {
        (of.to_own_plane || !self.of_marked) && self.reporter.borrow().wants(name)
    }
}

impl Planes {
    /// Begins to report to the service that the bootstrap names.
    pub(super) fn begin_load_stats(self: &Rc<Self>, control: &Rc<Control>) {
        if let Some(api) = self.dynamic.load_stats.clone() {
            self.begin_load_stream(control, api, false);
        }
    }

    fn begin_load_stream(self: &Rc<Self>, control: &Rc<Control>, api: ApiSource, of_marked: bool) {
        let stream = Rc::new(LoadStream {
            call: PlaneCall::new(api, "load reports", self.clock.now()),
            of_marked,
            reporter: RefCell::new(LoadReporter::new(&self.node)),
            seen: RefCell::default(),
        });
        self.loads.borrow_mut().push(Rc::clone(&stream));
        let (planes, control) = (Rc::clone(self), Rc::clone(control));
        tokio::task::spawn_local(async move {
            let converse = async || {
                let ended = planes.report_load(&control, &stream).await;
                stream.reporter.borrow_mut().closed();
                ended
            };
            planes.keep_calling(&control, &stream.call, converse).await;
        });
    }

    /// Notes what a cluster says of reports about it.
    pub(super) fn note_reported_as(&self, kind: XdsType, name: &str, cluster: &ProtoMessage) {
        if kind == XdsType::Cluster {
            let (service, to_own_plane) = sources::load_report_of(cluster);
            let of = ReportedAs { service, to_own_plane };
            self.reported_as.borrow_mut().insert(name.into(), of);
        }
    }

    /// Counts the requests of the clusters whose load is wanted, of new ones too.
    pub(super) async fn count_wanted_loads(self: &Rc<Self>, control: &Rc<Control>) {
        let own_plane = self.reported_as.borrow().values().any(|of| of.to_own_plane);
        if own_plane
            && !self.loads.borrow().iter().any(|stream| stream.of_marked)
            && let Some(api) = self.dynamic.ads.clone()
            && !matches!(api.form, ApiForm::Rest(_))
        {
            self.begin_load_stream(control, api, true);
        }
        if self.loads.borrow().iter().all(|stream| !stream.reporter.borrow().wants_any()) {
            return;
        }
        for (name, of, cluster) in self.reported_clusters(control) {
            let wanted = self.loads.borrow().iter().any(|stream| stream.wants(&name, &of));
            cluster.report_load(wanted);
        }
    }

    /// Every cluster that a plane may know: the name in Envoy, what it says of reports, and the cluster. The caller has the
    /// turn.
    fn reported_clusters(&self, control: &Control) -> Vec<(Arc<str>, ReportedAs, Arc<Cluster>)> {
        let mut names: Vec<Arc<str>> = self.dynamic.file_clusters.clone();
        names.extend(self.inventory.borrow().names(OwnerKind::Cluster).cloned());
        let reported_as = self.reported_as.borrow();
        let mut mapper = self.mapper.borrow_mut();
        let Some(mapper) = mapper.as_mut() else { return Vec::new() };
        let clusters = names.into_iter().filter_map(|name| {
            let cluster = control.builder.around.clusters.find(&mapper.cluster(&name))?;
            let of = reported_as.get(&name).cloned().unwrap_or_default();
            Some((name, of, cluster))
        });
        clusters.collect()
    }

    /// Opens a stream and reports until it ends.
    async fn report_load(
        self: &Rc<Self>,
        control: &Rc<Control>,
        stream: &Rc<LoadStream>,
    ) -> Result<(), GrpcCallError> {
        let api = &stream.call.api;
        let mut wire =
            self.open_call::<LoadStatsRequest, LoadStatsResponse>(control, api, METHOD).await?;
        let greeting = stream.reporter.borrow().greeting();
        send(&mut wire, &greeting).await?;
        loop {
            let due = stream.reporter.borrow().due();
            let now = self.clock.now();
            tokio::select! {
                message = wire.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    let now = self.clock.now();
                    stream.call.responded(control, now);
                    stream.reporter.borrow_mut().receive(message, now);
                    let turn = self.turn.lock().await;
                    self.count_wanted_loads(control).await;
                    let loads = self.read_loads(control, stream);
                    drop(turn);
                    stream.reporter.borrow_mut().begin(loads, now);
                }
                () = tokio::time::sleep(due.unwrap_or(now).since(now)), if due.is_some() => {
                    let turn = self.turn.lock().await;
                    let loads = self.read_loads(control, stream);
                    drop(turn);
                    let report = stream.reporter.borrow_mut().report(loads, self.clock.now());
                    send(&mut wire, &report).await?;
                    control.shard.counter(&LOAD_STATS, &[&api.cluster]).increment();
                }
            }
        }
    }

    /// The load of the clusters that a stream is about. The caller has the turn.
    fn read_loads(&self, control: &Control, stream: &LoadStream) -> Vec<ClusterLoad> {
        let mut before = stream.seen.take();
        let mut seen = stream.seen.borrow_mut();
        let wanted = self.reported_clusters(control).into_iter();
        let wanted = wanted.filter(|(name, of, _)| stream.wants(name, of));
        let loads = wanted.map(|(name, of, cluster)| {
            let known = before.remove(&name).unwrap_or_default();
            let (endpoints, left) = endpoints_of(&cluster, known);
            let loads = endpoints.iter().chain(&left).map(load_of).collect();
            let carry = |of: &SeenEndpoint| of.endpoint.load() > 0;
            let kept = endpoints.into_iter().chain(left.into_iter().filter(carry));
            seen.insert(Arc::clone(&name), kept.collect());
            let drops = cluster.drop_totals();
            ClusterLoad {
                name,
                service_name: of.service,
                refused: drops.refused,
                dropped: drops.dropped,
                endpoints: loads,
            }
        });
        loads.collect()
    }
}

/// The endpoints of a cluster, and those that have left it since the last report.
fn endpoints_of(
    cluster: &Cluster,
    before: Vec<SeenEndpoint>,
) -> (Vec<SeenEndpoint>, Vec<SeenEndpoint>) {
    let members = cluster.members();
    let all = members.endpoints.iter().zip(&*members.traits);
    let endpoints: Vec<SeenEndpoint> = all
        .map(|(endpoint, traits)| SeenEndpoint {
            endpoint: Arc::clone(endpoint),
            locality: traits.locality.as_deref().map(locality).unwrap_or_default(),
            priority: traits.priority,
        })
        .collect();
    let there: HashSet<*const EndpointState> =
        endpoints.iter().map(|of| Arc::as_ptr(&of.endpoint)).collect();
    let has_left = |of: &SeenEndpoint| !there.contains(&Arc::as_ptr(&of.endpoint));
    (endpoints, before.into_iter().filter(has_left).collect())
}

fn load_of(of: &SeenEndpoint) -> CountedEndpoint {
    let SeenEndpoint { endpoint, locality, priority } = of;
    let RequestTotals { issued, succeeded, failed } = endpoint.request_totals();
    let metrics = endpoint.take_metrics().into_iter();
    let metrics: BTreeMap<String, MetricLoad> = metrics
        .map(|(name, sum)| (name.into_string(), MetricLoad { count: sum.count, total: sum.total }))
        .collect();
    CountedEndpoint {
        id: Arc::as_ptr(endpoint).addr(),
        address: address(&endpoint.target),
        locality: locality.clone(),
        priority: *priority,
        totals: LoadTotals { issued, succeeded, failed },
        in_progress: endpoint.load(),
        metrics,
    }
}

/// A locality as planes write it: the native form has `-` for a part that is missing before another.
pub(super) fn locality(of: &Locality) -> LocalityMessage {
    let part = |text: &str| if text == "-" { String::new() } else { text.to_owned() };
    LocalityMessage { region: part(&of.region), zone: part(&of.zone), sub_zone: part(&of.sub_zone) }
}

/// An address as planes write it.
pub(super) fn address(target: &Target) -> PlaneAddress {
    match target {
        Target::Ip(address) => PlaneAddress {
            socket_address: Some(PlaneSocketAddress {
                address: address.ip().to_string(),
                port_value: address.port().into(),
            }),
            pipe: None,
        },
        Target::Unix(path) => PlaneAddress {
            socket_address: None,
            pipe: Some(PipeMessage { path: path.display().to_string() }),
        },
    }
}
