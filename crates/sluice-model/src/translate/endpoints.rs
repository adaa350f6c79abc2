//! Endpoints of clusters, listed in the configuration or in a file of their own.
//!
//! Owns: what an entry means, and which entries a file must not have. Refuses to know: how a file is read. Keeps: a
//! file that cannot be used leaves the endpoints in force that the cluster had from it; only a cluster that has none
//! yet is an error.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;

use sluice_core::settings::Short;
use sluice_core::{Diags, Endpoint, Name, Path, Spanned};
use sluice_upstream::endpoint::{ConnectTo, EndpointCheck, EndpointLimits};
use sluice_upstream::{EndpointPlan, EndpointTraits, Locality};

use super::Context;
use crate::check;
use crate::model::cluster::{EndpointFile, Endpoints};
use crate::sections::{self, CheckOf, Cluster, ClusterProtocol, EndpointEntry};

/// Endpoints as a file lists them.
pub type EndpointList = Vec<Spanned<Short<EndpointEntry>>>;

/// The endpoint files that a configuration names, by path: their content, or why it cannot be used.
pub type EndpointFiles = BTreeMap<PathBuf, Result<EndpointList, String>>;

/// The endpoints of a cluster, and the file that they come from.
type FoundEndpoints = (Option<Arc<EndpointFile>>, Arc<Endpoints>);

impl Context<'_> {
    /// The endpoints of the cluster `name`; `None` after an error. A file that cannot be used is noted in `stale`.
    pub(super) fn endpoints(
        self,
        name: &Name,
        section: &Spanned<Short<Cluster>>,
        at: &Path<'_>,
        stale: &mut BTreeMap<Name, String>,
        diags: &mut Diags,
    ) -> Option<FoundEndpoints> {
        let Some(path) = &section.endpoints_file else {
            let is_empty = section.endpoints.is_empty() && section.forward.is_none();
            let may_be_empty = section.allow_empty || self.sources.discovered;
            if is_empty && !may_be_empty && !diags.has_unknown(at) {
                let message = format!("the cluster `{name}` has no endpoints");
                diags
                    .error("missing-field", section.span, at.key("endpoints"), message)
                    .help("add at least one: `endpoints: [127.0.0.1:5432]`");
            }
            let weights = weights_of(section);
            let mut before = None;
            let entries = section.endpoints.iter();
            let listed = entries.map(|entry| endpoint(&entry.0, &weights, &mut before));
            return Some((None, listed.collect()));
        };
        let at = at.key("endpoints_file");
        if !section.endpoints.is_empty() {
            let message = "`endpoints` and `endpoints_file` cannot be combined";
            diags
                .error("short-and-long", path.span, at, message)
                .help("keep one of them, or move the endpoints into the file");
            return None;
        }
        let file = EndpointFile {
            path: self.file(&path.value),
            weights: weights_of(section),
            quic: section.protocol == ClusterProtocol::Http3,
            needs_name: check::clusters::needs_name(section),
            checks: check::clusters::checked_by(section),
        };
        let read = self.sources.endpoint_files.get(&file.path);
        let read = read.ok_or_else(|| format!("{}: not read", file.path.display()));
        let used = read.and_then(|read| of_file(read.as_ref().map_err(String::clone)?, &file));
        let endpoints = match used {
            Ok(endpoints) => endpoints,
            Err(problem) => {
                let Some(good) = self.last_good(name, &file) else {
                    diags
                        .error("bad-file", path.span, at, problem)
                        .help("the file contains what `endpoints` would: a list, in YAML or JSON");
                    return None;
                };
                stale.insert(Arc::clone(name), problem);
                good
            }
        };
        Some((Some(Arc::new(file)), endpoints))
    }

    /// The endpoints in force, if they came from this file.
    fn last_good(self, name: &Name, file: &EndpointFile) -> Option<Arc<Endpoints>> {
        let held = self.sources.store.cluster(name)?.endpoint_file.as_ref()?;
        let good = self.sources.store.endpoints(name).filter(|_| held.path == file.path)?;
        if held.weights == file.weights {
            return Some(Arc::clone(good));
        }
        let again = good.iter().cloned().map(|mut endpoint| {
            let weight = weight_of(endpoint.traits.locality.as_deref(), &file.weights);
            if endpoint.traits.locality_weight != weight {
                Arc::make_mut(&mut endpoint.traits).locality_weight = weight;
            }
            endpoint
        });
        Some(again.collect())
    }
}

/// The endpoints that a file lists.
///
/// # Errors
/// The first entry that the cluster cannot use, and why.
pub fn of_file(list: &EndpointList, file: &EndpointFile) -> Result<Arc<Endpoints>, String> {
    for (index, entry) in list.iter().enumerate() {
        if let Some(problem) = problem_of(&entry.0, file) {
            return Err(format!("{}: [{index}]: {problem}", file.path.display()));
        }
    }
    let mut before = None;
    Ok(list.iter().map(|entry| endpoint(&entry.0, &file.weights, &mut before)).collect())
}

/// Why the cluster cannot use an entry of its file.
fn problem_of(entry: &EndpointEntry, file: &EndpointFile) -> Option<String> {
    let EndpointEntry {
        address,
        weight: _,
        backup,
        priority,
        locality,
        limits: _,
        metadata: _,
        status: _,
        check,
    } = entry;
    let known = |locality: &Locality| file.weights.iter().any(|(known, _)| known == locality);
    if *backup && priority.0 > 0 {
        return Some("`backup` is `priority: 1`: write only one of them".into());
    }
    if file.quic && matches!(address.value, Endpoint::Unix(_)) {
        return Some("QUIC does not run over a unix socket".into());
    }
    if let Some(check) = check
        && let Some(problem) = check::clusters::check_problem(check, &address.value, file.checks)
    {
        return Some(problem.into());
    }
    if file.needs_name && matches!(address.value, Endpoint::Service(_)) {
        return Some(format!("{} needs `tls.sni` of the cluster", address.value));
    }
    match locality {
        _ if file.weights.is_empty() => None,
        None => Some("the cluster has `localities`, and this endpoint has no `locality`".into()),
        Some(locality) if !known(&locality.value.0) => {
            Some(format!("the locality `{}` has no weight in the cluster", locality.value.0))
        }
        Some(_) => None,
    }
}

fn weights_of(section: &Cluster) -> Vec<(Locality, u32)> {
    let weights = section.localities.0.iter();
    weights.map(|(locality, weight)| (locality.value.clone(), *weight)).collect()
}

fn weight_of(locality: Option<&Locality>, weights: &[(Locality, u32)]) -> u32 {
    let known = weights.iter().find(|(known, _)| Some(known) == locality);
    known.map_or(0, |(_, weight)| *weight)
}

/// One entry; `before` has what is said of the one before it, which is shared if it is the same.
fn endpoint(
    entry: &EndpointEntry,
    weights: &[(Locality, u32)],
    before: &mut Option<Arc<EndpointTraits>>,
) -> EndpointPlan {
    let EndpointEntry {
        address,
        weight,
        backup,
        priority,
        locality,
        limits,
        metadata,
        status,
        check,
    } = entry;
    let locality = locality.as_ref().map(|name| &name.0);
    let traits = EndpointTraits {
        weight: weight.get(),
        priority: priority.0.max(u32::from(*backup)),
        locality_weight: weight_of(locality, weights),
        locality: locality.cloned().map(Arc::new),
        limits: limits.as_ref().map_or_else(EndpointLimits::default, |limits| {
            let sections::EndpointLimits { connections, requests } = limits.value;
            EndpointLimits { connections, requests }
        }),
        metadata: metadata.as_ref().filter(|of| !of.0.is_empty()).map(|of| Arc::new(of.0.clone())),
        check: check.as_ref().map(|check| {
            let CheckOf { port, address, host } = &check.value;
            let connect_to = ConnectTo { ip: *address, port: port.map(NonZeroU16::get) };
            Arc::new(EndpointCheck { connect_to, host: host.as_ref().map(|host| host.0.clone()) })
        }),
        status: *status,
        // Only a look-up tells.
        http3_port: None,
    };
    let same = before.as_ref().filter(|before| ***before == traits);
    let traits = same.map_or_else(|| Arc::new(traits), Arc::clone);
    *before = Some(Arc::clone(&traits));
    EndpointPlan { address: address.value.clone(), traits }
}
