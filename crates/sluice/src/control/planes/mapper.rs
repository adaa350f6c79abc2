//! Resources of control planes, from bytes to changes of the store. Runs beside the control thread.
//!
//! Owns: the names that planes use, how a resource is put together with what it needs, the words for what is wrong with
//! it. Refuses to know: streams, versions of before, what becomes of a change. Keeps: every problem names the field as the
//! plane knows it, and whose field it is.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sluice_config::{Loaded, Sources};
use sluice_core::{Diagnostic, Diags, Name, Node, Severity};
use sluice_envoy::delivered::DeliveredSecrets;
use sluice_envoy::map::{self, PlaneNames, UnitSurroundings};
use sluice_envoy::message::ProtoMessage;
use sluice_envoy::parts::{GivenParts, NeededPart, PartKind};
use sluice_envoy::sources::{ApiForm, DynamicResources, ResourceSource, SourceKind};
use sluice_envoy::stats::names::OwnerStatNames;
use sluice_envoy::{descriptors, parts, sources, wire};
use sluice_model::planes::{PlaneInput, PlaneUpdates, translate_plane};
use sluice_xds::{OwnerKind, PartKey, XdsType};

mod scopes;

pub(super) use scopes::ScopeFacts;
use scopes::{ScopeSources, check_scopes};

/// What the names of clusters begin with that are made for health checks on behalf of a plane, and no others.
pub(super) const CHECKED_PREFIX: &str = "sluice.hds/";

/// Most problems that are told of one resource.
const TOLD_MAX: usize = 4;

/// What planes' resources are mapped with.
#[derive(Debug)]
pub(super) struct PlaneMapper {
    names: PlaneNames,
    resources: Option<ProtoMessage>,
    node: Option<Node>,
    /// The form of the stream for all types, if there is one.
    ads: Option<ApiForm>,
    /// Why single clusters cannot be asked for over it.
    no_demand_over_ads: Option<&'static str>,
    /// Where clusters come from that requests ask for.
    demand: Option<ResourceSource>,
    /// Where scopes come from, and the route tables that they name, once a listener has said so.
    scopes: Option<ScopeSources>,
    /// The layers of runtime values, in order.
    layers: Vec<Arc<str>>,
    /// Whether it is told which resources contain secrets.
    marks_secrets: bool,
    /// How many clusters had a name when the others were forgotten.
    kept: usize,
    /// The number of the next message, by which places tell messages apart.
    next: u16,
}

/// A resource that was read.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) message: ProtoMessage,
    /// What it needs, and where that comes from.
    pub(super) needs: Vec<(PartKey, ResourceSource)>,
    /// Where clusters come from that its requests ask for.
    pub(super) demand: Option<ResourceSource>,
    /// If it is a scope, what is to be known of it.
    pub(super) scope: Option<ScopeFacts>,
    /// What is missing in Sluice's definitions.
    pub(super) warnings: Vec<String>,
    /// Whether a secret is in it.
    pub(super) has_secret: bool,
}

/// A resource as it is there: as it was read, or its bytes.
#[derive(Debug)]
pub(super) enum GivenResource {
    Read(ProtoMessage),
    Received(XdsType, Bytes),
}

/// A cluster or listener, with what it needs.
#[derive(Debug)]
pub(super) struct UnitJob<R = GivenResource> {
    pub(super) owner: R,
    pub(super) version: Arc<str>,
    pub(super) parts: Vec<(PartKey, Option<R>)>,
}

/// The same, read.
type ReadJob = UnitJob<ProtoMessage>;

/// What became of it.
#[derive(Debug)]
pub(super) struct BuiltUnit {
    /// `None` if it could not be read again.
    job: Option<ReadJob>,
    root: Option<Node>,
    /// The clusters that it names.
    pub(super) clusters: HashSet<Arc<str>>,
    /// Its names in Envoy's statistics.
    pub(super) stat_names: Option<OwnerStatNames>,
    pub(super) updates: Result<PlaneUpdates, UnitFault>,
}

/// Why it cannot be used.
#[derive(Debug)]
pub(super) struct UnitFault {
    /// The part that is to blame; `None` if it is the owner.
    pub(super) part: Option<PartKey>,
    pub(super) problem: String,
}

impl PlaneMapper {
    /// A mapper for the resources that come to this bootstrap. Its own clusters keep their names.
    pub(super) fn new(dynamic: &DynamicResources, marks_secrets: bool) -> Self {
        let mut names = PlaneNames::default();
        for name in &dynamic.file_clusters {
            names.cluster(name);
        }
        let (resources, node) = (dynamic.resources.clone(), dynamic.node_section.clone());
        let layers = dynamic.runtime.iter().map(|(name, _)| Arc::clone(name)).collect();
        let ads = dynamic.ads.as_ref().map(|ads| ads.form);
        let over_ads = |source: &ResourceSource| source.from == SourceKind::Ads;
        let no_demand_over_ads = match &dynamic.ads {
            None => Some("it comes over `ads`, but there is no `ads_config`"),
            Some(ads) if ads.form != ApiForm::Delta => {
                Some("clusters on demand need an `ads_config` of the `api_type` DELTA_GRPC")
            }
            Some(_) if dynamic.clusters.as_ref().is_some_and(over_ads) => Some(
                "all clusters come over `ads` anyway (`cds_config`); name a service of its own, or remove `cds_config`",
            ),
            Some(_) => None,
        };
        let demand = dynamic.demand.clone();
        Self {
            names,
            resources,
            node,
            ads,
            no_demand_over_ads,
            demand,
            scopes: None,
            layers,
            marks_secrets,
            kept: 0,
            next: 1,
        }
    }

    /// The native name of a cluster.
    pub(super) fn cluster(&mut self, name: &str) -> Arc<str> {
        self.names.cluster(name)
    }

    /// The name in Envoy of the cluster with this native name.
    pub(super) fn original(&self, native: &str) -> Arc<str> {
        self.names.original(native)
    }

    /// Forgets a listener that is gone.
    pub(super) fn forget_listener(&mut self, name: &str) {
        self.names.forget_listener(name);
    }

    /// Whether so many clusters have a name that some may be forgotten.
    pub(super) fn knows_many(&self) -> bool {
        self.names.clusters_known() > 2 * self.kept + 1024
    }

    /// Forgets the clusters that nobody names.
    pub(super) fn forget_clusters(&mut self, live: &HashSet<Arc<str>>) {
        self.names.keep_clusters(live);
        self.kept = self.names.clusters_known();
    }

    /// Reads an encoded resource. What needs others is checked as if they had not come.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(&mut self, kind: XdsType, bytes: &[u8]) -> Result<Decoded, String> {
        let mut diags = Diags::new();
        let message = self.read(kind, bytes, &mut diags);
        self.check(kind, message, diags)
    }

    fn read(&mut self, kind: XdsType, bytes: &[u8], diags: &mut Diags) -> Option<ProtoMessage> {
        let file = self.next;
        self.next = self.next.checked_add(1).unwrap_or(1);
        let name = descriptors::name_of(kind.url()).unwrap_or_default();
        wire::decode(name, bytes, file, diags)
    }

    fn read_given(&mut self, given: GivenResource) -> Option<ProtoMessage> {
        match given {
            GivenResource::Read(message) => Some(message),
            // It was read before, so that everything about it was told.
            GivenResource::Received(kind, bytes) => self.read(kind, &bytes, &mut Diags::new()),
        }
    }

    fn read_job(&mut self, job: UnitJob) -> Option<ReadJob> {
        let UnitJob { owner, version, parts } = job;
        let owner = self.read_given(owner)?;
        let parts = parts.into_iter();
        let parts = parts.map(|(key, part)| (key, part.and_then(|part| self.read_given(part))));
        Some(UnitJob { owner, version, parts: parts.collect() })
    }

    /// Checks a resource that was read: from a plane, a file or the bootstrap.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(
        &mut self,
        kind: XdsType,
        message: Option<ProtoMessage>,
        mut diags: Diags,
    ) -> Result<Decoded, String> {
        let found = message.filter(|_| !diags.has_errors());
        let Some(message) = found else { return Err(told(&diags.into_sorted(), &[], None).1) };
        if kind == XdsType::Cluster && parts::name_of(&message).starts_with(CHECKED_PREFIX) {
            return Err(format!(
                "name: names that begin with `{CHECKED_PREFIX}` are reserved; choose another"
            ));
        }
        let needed = match kind {
            XdsType::Cluster | XdsType::Listener | XdsType::Scope | XdsType::Routes => {
                parts::needed(&message)
            }
            _ => Vec::new(),
        };
        let mut sources_of_scopes = None;
        let needs = needed.into_iter().filter_map(|part| {
            let source = sources::of_part(&message, &part, self.ads, &mut diags)?;
            if part.kind == PartKind::Scopes {
                let routes = sources::of_routes_of_scopes(&message, &part, self.ads, &mut diags)?;
                let found = sources_of_scopes.get_or_insert_with(|| (source.clone(), routes));
                check_scopes(&message, self.scopes.as_ref().unwrap_or(found), found, &mut diags);
            }
            Some((key_of(&part), source))
        });
        let mut needs: Vec<_> = needs.collect();
        let scope = self.facts_of_scope(kind, &message, &mut needs);
        let demand = sources::demand_of(&message, self.no_demand_over_ads, &mut diags);
        if let (Some(known), Some(demand)) = (&self.demand, &demand)
            && known.from != demand.from
        {
            diags.error(
                "unsupported",
                message.span,
                "odcds",
                "clusters on demand come from elsewhere already; name the same source, or restart Sluice to change it",
            );
        }
        if diags.has_errors() {
            return Err(told(&diags.into_sorted(), &[&message], None).1);
        }
        let warnings = diags.iter().map(|found| format!("{}: {}", found.path, found.message));
        let warnings = warnings.collect();
        if !needs.is_empty() && OwnerKind::of(kind).is_some() {
            let parts = needs.iter().map(|(key, _)| (key.clone(), None)).collect();
            let job = UnitJob { owner: message.clone(), version: "".into(), parts };
            self.build_read(job).updates.map_err(|fault| fault.problem)?;
        }
        if demand.is_some() {
            self.demand.clone_from(&demand);
        }
        if sources_of_scopes.is_some() {
            self.scopes = sources_of_scopes;
        }
        let has_secret = self.marks_secrets && parts::has_secret(&message);
        Ok(Decoded { message, needs, demand, scope, warnings, has_secret })
    }

    /// The layer that runtime values are, by its place and name: later ones win.
    fn layer(&self, owner: &ProtoMessage) -> Option<Name> {
        let name = (owner.descriptor.name() == "Runtime").then(|| parts::name_of(owner))?;
        let place = self.layers.iter().position(|layer| *layer == name)?;
        Some(format!("{place:04} {name}").into())
    }

    /// Maps and translates a unit.
    pub(super) fn build(&mut self, job: UnitJob) -> BuiltUnit {
        match self.read_job(job) {
            Some(job) => self.build_read(job),
            None => {
                let problem = "it cannot be read any more".to_owned();
                let updates = Err(UnitFault { part: None, problem });
                let clusters = HashSet::new();
                BuiltUnit { job: None, root: None, clusters, stat_names: None, updates }
            }
        }
    }

    /// Builds a cluster that is made for a health check: its native name, and what is to be changed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn build_checked(
        &mut self,
        name: &str,
        encoded: &[u8],
    ) -> Result<(Arc<str>, PlaneUpdates), String> {
        let mut diags = Diags::new();
        let message = self.read(XdsType::Cluster, encoded, &mut diags);
        let found = message.filter(|_| !diags.has_errors());
        let Some(owner) = found else { return Err(told(&diags.into_sorted(), &[], None).1) };
        let job = UnitJob { owner, version: "".into(), parts: Vec::new() };
        let updates = self.build_read(job).updates.map_err(|fault| fault.problem)?;
        Ok((self.names.cluster(name), updates))
    }

    fn build_read(&mut self, job: ReadJob) -> BuiltUnit {
        let mut diags = Diags::new();
        let whole = job.whole(&mut diags);
        let secrets = DeliveredSecrets::new(job.given(XdsType::Secret));
        let around = UnitSurroundings {
            resources: self.resources.as_ref(),
            node: self.node.as_ref(),
            secrets: &secrets,
        };
        let mapped = map::unit(&whole, &around, &mut self.names, &mut diags);
        let (folder, layer) = (Path::new("."), self.layer(&job.owner));
        let loaded = Loaded::of_tree(Sources::default(), folder.into(), mapped.root, diags);
        let Loaded { config, root, mut diags, .. } = loaded;
        let translated = config.zip(root.as_ref()).and_then(|(config, root)| {
            let layer = layer.as_ref();
            let input = PlaneInput { root, folder, version: &job.version, layer };
            translate_plane(config, input, &mut diags)
        });
        let updates = match translated.filter(|_| !diags.has_errors()) {
            Some(updates) => Ok(updates),
            None => Err(job.fault(&diags.into_sorted(), root.as_ref())),
        };
        let stat_names = OwnerStatNames::of(&job.owner, |name| self.names.cluster(name));
        BuiltUnit { job: Some(job), root, clusters: mapped.clusters, stat_names, updates }
    }
}

impl ReadJob {
    fn whole(&self, diags: &mut Diags) -> ProtoMessage {
        let given = GivenParts {
            endpoints: self.given(XdsType::Assignment).into_values().next(),
            routes: self.given(XdsType::Routes),
            hosts: self.hosts(),
            scopes: self.scopes(),
            extensions: self.given(XdsType::Extension),
        };
        parts::whole(&self.owner, &given, diags)
    }

    /// The parts of a type that have come, by name.
    fn given(&self, kind: XdsType) -> HashMap<Arc<str>, &ProtoMessage> {
        let of_kind = self.parts.iter().filter(|(key, _)| key.kind == kind);
        of_kind.filter_map(|(key, part)| Some((Arc::clone(&key.name), part.as_ref()?))).collect()
    }

    /// The virtual hosts that have come, by the name of their table.
    fn hosts(&self) -> HashMap<Arc<str>, Vec<&ProtoMessage>> {
        let mut hosts: HashMap<Arc<str>, Vec<&ProtoMessage>> = HashMap::new();
        for (key, part) in self.parts.iter().filter(|(key, _)| key.kind == XdsType::VirtualHost) {
            let table = key.name.rsplit_once('/').map(|(table, _)| table);
            if let Some((table, part)) = table.zip(part.as_ref()) {
                hosts.entry(table.into()).or_default().push(part);
            }
        }
        hosts
    }

    fn fault(&self, found: &[Diagnostic], root: Option<&Node>) -> UnitFault {
        let parts = || self.parts.iter().filter_map(|(key, part)| Some((key, part.as_ref()?)));
        let mut messages: Vec<&ProtoMessage> = parts().map(|(_, part)| part).collect();
        messages.push(&self.owner);
        let (blamed, problem) = told(found, &messages, root);
        let part = blamed.and_then(|at| parts().nth(at)).map(|(key, _)| key.clone());
        UnitFault { part, problem }
    }
}

impl BuiltUnit {
    /// The fault that the store has found in one of its resources: at these paths of the native form.
    pub(super) fn fault(
        &self,
        mut found: Vec<Diagnostic>,
        path: impl Fn(&str) -> String,
    ) -> UnitFault {
        for finding in &mut found {
            finding.path = path(&finding.path);
        }
        match &self.job {
            Some(job) => job.fault(&found, self.root.as_ref()),
            None => UnitFault { part: None, problem: told(&found, &[], None).1 },
        }
    }
}

/// The part that a resource needs.
fn key_of(part: &NeededPart<'_>) -> PartKey {
    let kind = match part.kind {
        PartKind::Endpoints => XdsType::Assignment,
        PartKind::Routes => XdsType::Routes,
        PartKind::Scopes => return PartKey::scopes(),
        PartKind::Hosts => return PartKey::hosts_of(&part.name),
        PartKind::Secret => XdsType::Secret,
        PartKind::Extension => XdsType::Extension,
    };
    PartKey { kind, name: Arc::clone(&part.name) }
}

/// What was found, in words, and in which message, by its place among them.
fn told(
    found: &[Diagnostic],
    messages: &[&ProtoMessage],
    root: Option<&Node>,
) -> (Option<usize>, String) {
    let mut blamed = None;
    let errors: Vec<&Diagnostic> =
        found.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let mut lines = Vec::new();
    for finding in errors.iter().take(TOLD_MAX) {
        let span = finding.span.or_else(|| root.map(|root| root.locate(&finding.path).1));
        let of = span.and_then(|span| messages.iter().position(|of| of.span.file == span.file));
        let path = of.zip(span).and_then(|(of, span)| messages.get(of)?.path_of(span));
        if blamed.is_none() {
            blamed = of;
        }
        // A path of the native form says nothing to a plane.
        let native = ["clusters.", "listeners[", "routes."];
        let own = Some(&finding.path).filter(|path| !native.iter().any(|of| path.starts_with(of)));
        let path = path.or_else(|| own.cloned()).unwrap_or_default();
        let mut line = if path.is_empty() { String::new() } else { format!("{path}: ") };
        line.push_str(&finding.message);
        if let Some(help) = &finding.help {
            line.push_str(&format!("; {help}"));
        }
        lines.push(line);
    }
    if errors.len() > TOLD_MAX {
        lines.push(format!("and {} more", errors.len() - TOLD_MAX));
    }
    (blamed, lines.join(", "))
}
