//! Resources of control planes, from bytes to changes of the store. Runs beside the control thread.
//!
//! Owns: the names that planes use, how a resource is put together with what it needs, the words for what is wrong with
//! it. Refuses to know: streams, versions of before, what becomes of a change. Keeps: every problem names the field as the
//! plane knows it, and whose field it is.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use sluice_config::{Loaded, Sources};
use sluice_core::{Diagnostic, Diags, Node, Severity};
use sluice_envoy::map::{self, PlaneNames, UnitSurroundings};
use sluice_envoy::message::ProtoMessage;
use sluice_envoy::sources::{DynamicResources, ResourceSource};
use sluice_envoy::{descriptors, parts, sources, wire};
use sluice_model::planes::{PlaneInput, PlaneUpdates, translate_plane};
use sluice_xds::{PartKey, XdsType};

/// Most problems that are told of one resource.
const TOLD_MAX: usize = 4;

/// What planes' resources are mapped with.
#[derive(Debug)]
pub(super) struct PlaneMapper {
    names: PlaneNames,
    resources: Option<ProtoMessage>,
    node: Option<Node>,
    /// Whether there is a stream for all types.
    has_ads: bool,
    /// The number of the next message, by which places tell messages apart.
    next: u16,
}

/// A resource that was read.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) message: ProtoMessage,
    /// What it needs, and where that comes from.
    pub(super) needs: Vec<(PartKey, ResourceSource)>,
    /// What is missing in Sluice's definitions.
    pub(super) warnings: Vec<String>,
}

/// A cluster or listener, with what it needs.
#[derive(Debug)]
pub(super) struct UnitJob {
    pub(super) owner: ProtoMessage,
    pub(super) version: Arc<str>,
    pub(super) parts: Vec<(PartKey, Option<ProtoMessage>)>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct BuiltUnit {
    job: UnitJob,
    root: Option<Node>,
    /// The clusters that it names.
    pub(super) clusters: HashSet<Arc<str>>,
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
    pub(super) fn new(dynamic: &DynamicResources) -> Self {
        let mut names = PlaneNames::default();
        for name in &dynamic.file_clusters {
            names.cluster(name);
        }
        let (resources, node) = (dynamic.resources.clone(), dynamic.node_section.clone());
        Self { names, resources, node, has_ads: dynamic.ads.is_some(), next: 1 }
    }

    /// The native name of a cluster.
    pub(super) fn cluster(&mut self, name: &str) -> Arc<str> {
        self.names.cluster(name)
    }

    /// Forgets a listener that is gone.
    pub(super) fn forget_listener(&mut self, name: &str) {
        self.names.forget_listener(name);
    }

    /// Forgets the clusters that nobody names, if there are many.
    pub(super) fn forget_clusters(&mut self, live: &HashSet<Arc<str>>) {
        if self.names.clusters_known() > 2 * live.len() + 1024 {
            self.names.keep_clusters(live);
        }
    }

    /// Reads an encoded resource. What needs others is checked as if they had not come.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(&mut self, kind: XdsType, bytes: &[u8]) -> Result<Decoded, String> {
        let file = self.next;
        self.next = self.next.checked_add(1).unwrap_or(1);
        let mut diags = Diags::new();
        let name = descriptors::name_of(kind.url()).unwrap_or_default();
        let message = wire::decode(name, bytes, file, &mut diags);
        self.check(kind, message, diags)
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
        let needed = match kind {
            XdsType::Cluster => parts::of_cluster(&message).into_iter().collect(),
            XdsType::Listener => parts::of_listener(&message),
            XdsType::Assignment | XdsType::Routes => Vec::new(),
        };
        let of = if kind == XdsType::Cluster { XdsType::Assignment } else { XdsType::Routes };
        let needs = needed.into_iter().filter_map(|part| {
            let source = sources::of_part(&message, &part, self.has_ads, &mut diags)?;
            Some((PartKey { kind: of, name: part.name }, source))
        });
        let needs: Vec<_> = needs.collect();
        if diags.has_errors() {
            return Err(told(&diags.into_sorted(), &[&message], None).1);
        }
        let warnings = diags.iter().map(|found| format!("{}: {}", found.path, found.message));
        let warnings = warnings.collect();
        if !needs.is_empty() {
            let parts = needs.iter().map(|(key, _)| (key.clone(), None)).collect();
            let job = UnitJob { owner: message.clone(), version: "".into(), parts };
            self.build(job).updates.map_err(|fault| fault.problem)?;
        }
        Ok(Decoded { message, needs, warnings })
    }

    /// Maps and translates a unit.
    pub(super) fn build(&mut self, job: UnitJob) -> BuiltUnit {
        let mut diags = Diags::new();
        let whole = job.whole(&mut diags);
        let around =
            UnitSurroundings { resources: self.resources.as_ref(), node: self.node.as_ref() };
        let mapped = map::unit(&whole, &around, &mut self.names, &mut diags);
        let folder = Path::new(".");
        let loaded = Loaded::of_tree(Sources::default(), folder.into(), mapped.root, diags);
        let Loaded { config, root, mut diags, .. } = loaded;
        let translated = config.zip(root.as_ref()).and_then(|(config, root)| {
            let input = PlaneInput { root, folder, version: &job.version };
            translate_plane(config, input, &mut diags)
        });
        let updates = match translated.filter(|_| !diags.has_errors()) {
            Some(updates) => Ok(updates),
            None => Err(job.fault(&diags.into_sorted(), root.as_ref())),
        };
        BuiltUnit { job, root, clusters: mapped.clusters, updates }
    }
}

impl UnitJob {
    fn whole(&self, diags: &mut Diags) -> ProtoMessage {
        match self.parts.first() {
            None => self.owner.clone(),
            Some((key, part)) if key.kind == XdsType::Assignment => {
                parts::with_endpoints(&self.owner, part.as_ref(), diags)
            }
            Some(_) => {
                let tables = self.parts.iter();
                let tables: HashMap<_, _> = tables
                    .filter_map(|(key, table)| Some((Arc::clone(&key.name), table.as_ref()?)))
                    .collect();
                parts::with_routes(&self.owner, &tables)
            }
        }
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
        self.job.fault(&found, self.root.as_ref())
    }
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
