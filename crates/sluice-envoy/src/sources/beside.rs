//! A plane that files of the native form name.
//!
//! Owns: the sources that this makes. Refuses to know: the files. Keeps: clusters of the files keep their names.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Node, Span};

use super::{ApiForm, ApiSource, CallMetadata, DynamicResources, ResourceSource, SourceKind};
use crate::descriptors;
use crate::message::{ProtoMessage, ProtoValue};

/// A plane that sends resources beside those of files.
#[derive(Clone, Debug)]
pub struct PlaneBesideFiles {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Whether its responses say only what has changed.
    pub incremental: bool,
    /// By what it knows this process: `id` and `cluster` of the node.
    pub node: (String, String),
    /// Whether clusters come from it.
    pub clusters: bool,
    /// Whether listeners do.
    pub listeners: bool,
    /// How long the first of them are waited for; `None` for ever.
    pub fetch_timeout: Option<Duration>,
}

impl DynamicResources {
    /// The sources for a plane beside files, which have these clusters and this section `node`.
    pub fn beside(
        plane: PlaneBesideFiles,
        file_clusters: Vec<Arc<str>>,
        node_section: Option<Node>,
    ) -> Self {
        let PlaneBesideFiles { cluster, incremental, node, clusters, listeners, fetch_timeout } =
            plane;
        let form = if incremental { ApiForm::Delta } else { ApiForm::Sotw };
        let ads = ApiSource {
            form,
            cluster,
            authority: None,
            metadata: CallMetadata::new(),
            node_once: true,
        };
        let source = || ResourceSource { from: SourceKind::Ads, fetch_timeout };
        Self {
            node: node_message(&node),
            ads: Some(ads),
            clusters: clusters.then(source),
            listeners: listeners.then(source),
            load_stats: None,
            demand: (incremental && !clusters).then(source),
            health: None,
            runtime: Vec::new(),
            fixed: Vec::new(),
            file_clusters,
            resources: None,
            node_section,
        }
    }
}

fn node_message((id, cluster): &(String, String)) -> Option<ProtoMessage> {
    let descriptor = descriptors::message("envoy.config.core.v3.Node")?;
    let span = Span::default();
    let mut node = ProtoMessage { descriptor, path: "node".into(), span, fields: Vec::new() };
    node.set("id", span, ProtoValue::Text(id.as_str().into()));
    node.set("cluster", span, ProtoValue::Text(cluster.as_str().into()));
    Some(node)
}
