//! From Envoy's messages to the native form.
//!
//! Owns: what is collected while a file is mapped, and the findings of that. Refuses to know: text formats. Keeps:
//! what has no counterpart is an error that names its type and field, and a field that was not read is one, too; what
//! behaves differently is a warning.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sluice_core::{Diags, Node, Span};

use crate::delivered::DeliveredSecrets;
use crate::message::{ProtoDuration, ProtoMessage};
use crate::native::{NativeMap, plain};
use crate::native_names::{UniqueNames, native_name};
use crate::secret_files::SecretFiles;

mod access_logs;
mod actions;
mod addresses;
mod authz;
mod balancing;
mod bootstrap;
mod breakers;
mod cases;
mod chains;
mod clusters;
mod conditions;
mod credentials;
mod faults;
mod filters;
mod geo;
mod guards;
mod guests;
mod headers;
mod health;
mod http;
mod limit_cases;
mod listeners;
mod local_replies;
mod loops;
mod matched_filters;
mod matching;
mod metadata;
mod original_dst;
mod origins;
mod outliers;
mod passwords;
mod policies;
mod processing;
mod protocols;
mod rate_services;
mod rbac_trees;
mod record_filters;
mod responses;
mod retries;
mod route_trees;
mod routes;
mod scopes;
mod scripts;
mod secrets;
mod services;
mod set_metadata;
mod socket_matches;
mod sockets;
mod subsets;
mod switches;
mod taps;
mod tcp;
mod templates;
mod texts;
mod tls;
mod tokens;
mod trees;
mod tunnels;
mod udp;
mod units;
mod upgrades;
mod validation;

pub use bootstrap::map;
pub use units::{MappedUnit, PlaneNames, UnitSurroundings, unit};

/// A file as it is mapped.
struct Mapping<'a> {
    diags: &'a mut Diags,
    /// The clusters of the file by their names in Envoy.
    clusters: HashMap<Arc<str>, Arc<str>>,
    cluster_names: UniqueNames,
    /// The secrets of the file by name.
    secrets: HashMap<Arc<str>, &'a ProtoMessage>,
    used_secrets: HashSet<Arc<str>>,
    /// Files of secrets that the file names.
    secret_files: &'a SecretFiles,
    /// Secrets that control planes have sent.
    delivered: &'a DeliveredSecrets<'a>,
    /// The secrets of files and planes that something names.
    used_of_others: Vec<&'a ProtoMessage>,
    /// Whether something of the chain that is mapped has not come.
    chain_waits: bool,
    /// The route tables by their native names.
    routes: NativeMap,
    route_names: UniqueNames,
    /// The rules of the table that is being mapped.
    rule_names: UniqueNames,
    logs: access_logs::Loggers,
    /// Clusters that the file names and does not have, where Envoy takes that: their native names.
    missing_clusters: Vec<(Arc<str>, Span)>,
    /// One of them, for chains that lead nowhere.
    nowhere: Option<Arc<str>>,
    /// The filter of the connection manager that verifies tokens, until it is mapped.
    tokens: Option<Node>,
    /// Whether it is about some requests only.
    tokens_by_case: bool,
    /// Its settings by the name of a requirement.
    requirements: HashMap<Arc<str>, Node>,
    /// The filters of the connection manager by their names in Envoy: the native name, and the settings.
    chain_filters: HashMap<Arc<str>, (String, Node)>,
    /// The native names of those that are off unless a host or route says otherwise.
    filters_off: Vec<String>,
    /// What those with a matcher before them are, by the place of the matcher.
    matched: HashMap<Arc<str>, Node>,
    /// How long requests of the chain that is mapped wait for their clusters.
    on_demand: Option<Node>,
    /// Whether they wait for their virtual hosts.
    hosts_on_demand: bool,
    /// What they note about requests.
    metadata: metadata::KnownMetadata,
    /// The clusters with subsets, by their names in Envoy.
    by_subset: HashSet<Arc<str>>,
    /// The addresses of endpoints, by the names of their clusters in Envoy.
    endpoints: HashMap<Arc<str>, Vec<String>>,
    /// The stage of the rate limits that a service of the connection manager is asked about.
    rate_stage: Option<u64>,
    /// The cluster of this process, from `node`.
    own_cluster: Option<String>,
    /// The names of a control plane, whose resources may name what comes later; `None` for a file.
    plane: Option<PlaneNames>,
    /// The clusters of planes that were named.
    named_clusters: HashSet<Arc<str>>,
    /// Whether requests with high priority may reach clusters.
    high_priority: bool,
    /// The listener of a plane that is mapped.
    routes_of: Arc<str>,
    /// The listeners of the file that have no socket of their own.
    unbound: Vec<ProtoMessage>,
}

impl<'a> Mapping<'a> {
    fn new(
        secret_files: &'a SecretFiles,
        delivered: &'a DeliveredSecrets<'a>,
        span: Span,
        diags: &'a mut Diags,
    ) -> Self {
        Self {
            diags,
            clusters: HashMap::new(),
            cluster_names: UniqueNames::default(),
            secrets: HashMap::new(),
            used_secrets: HashSet::new(),
            secret_files,
            delivered,
            used_of_others: Vec::new(),
            chain_waits: false,
            routes: NativeMap::new(span),
            route_names: UniqueNames::default(),
            rule_names: UniqueNames::default(),
            logs: access_logs::Loggers::default(),
            missing_clusters: Vec::new(),
            nowhere: None,
            tokens: None,
            tokens_by_case: false,
            requirements: HashMap::new(),
            chain_filters: HashMap::new(),
            filters_off: Vec::new(),
            matched: HashMap::new(),
            on_demand: None,
            hosts_on_demand: false,
            metadata: metadata::KnownMetadata::default(),
            by_subset: HashSet::new(),
            endpoints: HashMap::new(),
            rate_stage: None,
            own_cluster: None,
            plane: None,
            named_clusters: HashSet::new(),
            high_priority: false,
            routes_of: "".into(),
            unbound: Vec::new(),
        }
    }

    /// Reports a field that has no counterpart. `why` continues the sentence that it is not supported.
    fn unsupported(&mut self, of: &ProtoMessage, field: &str, why: &str) {
        self.unsupported_as(crate::coverage::UNSUPPORTED, of, field, why);
    }

    /// The same of a field that stands for a whole kind of listener, cluster or address, as a type of extension does.
    fn unsupported_kind(&mut self, of: &ProtoMessage, field: &str, why: &str) {
        self.unsupported_as(crate::coverage::UNSUPPORTED_TYPE, of, field, why);
    }

    fn unsupported_as(&mut self, code: &'static str, of: &ProtoMessage, field: &str, why: &str) {
        let colon = if why.is_empty() { "" } else { ": " };
        let message = format!("`{field}` of {} is not supported{colon}{why}", of.type_name());
        let span = of.place(field);
        // What is in it is not reported one by one.
        if let Some(found) = of.field(field) {
            found.value.messages(&mut ProtoMessage::all_without_effect);
        }
        self.diags.error(code, span, of.at(field), message);
    }

    /// Reports something that a message says and that has no counterpart.
    fn unsupported_at(&mut self, of: &ProtoMessage, why: &str) {
        of.all_without_effect();
        let message = format!("this {} is not supported: {why}", of.type_name());
        self.diags.error(crate::coverage::UNSUPPORTED, of.span, &*of.path, message);
    }

    /// Reports a message of a type that has no counterpart. Its fields are not reported one by one.
    fn unsupported_type(&mut self, of: &ProtoMessage) {
        of.all_without_effect();
        let message = format!("{} is not supported", of.type_name());
        let finding =
            self.diags.error(crate::coverage::UNSUPPORTED_TYPE, of.span, &*of.path, message);
        if of.type_name().contains(".dynamic_modules.") {
            finding.help(other_library(of));
        }
    }

    /// Reports a field whose counterpart behaves differently.
    fn differs(&mut self, of: &ProtoMessage, field: &str, how: &str) {
        self.diags.warning(crate::coverage::DIFFERS, of.place(field), of.at(field), how);
    }

    /// Reports a truth value that has no counterpart, if it is true.
    fn only_false(&mut self, of: &ProtoMessage, field: &str, why: &str) {
        if of.is(field) {
            self.unsupported(of, field, why);
        }
    }

    /// The native name of a cluster that a field names. A cluster that the file does not have is reported.
    fn cluster(&mut self, name: &str, of: &ProtoMessage, field: &str) -> Arc<str> {
        if let Some(native) = self.clusters.get(name) {
            return Arc::clone(native);
        }
        if let Some(native) = self.plane_cluster(name) {
            return native;
        }
        let message = format!("there is no cluster `{name}`");
        self.diags.error("unknown-name", of.place(field), of.at(field), message);
        name.into()
    }

    /// The same where Envoy takes a cluster that is not there: one without endpoints stands in for it.
    fn cluster_or_none(&mut self, name: &Arc<str>, of: &ProtoMessage, field: &str) -> Arc<str> {
        if self.plane.is_none() && !self.clusters.contains_key(name) {
            let how = format!("there is no cluster `{name}`: connections are refused, as in Envoy");
            self.differs(of, field, &how);
            let native: Arc<str> = self.cluster_names.add(name).into();
            self.clusters.insert(Arc::clone(name), Arc::clone(&native));
            self.missing_clusters.push((native, of.place(field)));
        }
        self.cluster(name, of, field)
    }

    /// The native name of a cluster without endpoints, for chains of a file that lead nowhere.
    fn cluster_without_endpoints(&mut self, span: Span) -> Arc<str> {
        if let Some(native) = &self.nowhere {
            return Arc::clone(native);
        }
        let native: Arc<str> = self.cluster_names.add("nowhere").into();
        self.missing_clusters.push((Arc::clone(&native), span));
        self.nowhere = Some(Arc::clone(&native));
        native
    }

    /// A duration of at least a millisecond in the native form; zero is `none` or whatever `zero` says.
    fn duration(&mut self, of: &ProtoMessage, field: &str, zero: Zero) -> Option<Node> {
        let found = of.duration(field)?;
        let span = of.place(field);
        match (written(found), zero) {
            (Some(_), Zero::Word(word)) if found.0 == 0 => Some(plain(word, span)),
            (Some(_), Zero::Refused) if found.0 == 0 => {
                self.unsupported(of, field, "zero has no counterpart");
                None
            }
            (Some(text), _) => Some(plain(text, span)),
            (None, _) => {
                self.unsupported(
                    of,
                    field,
                    "a duration must be whole milliseconds, not negative, and at most a year",
                );
                None
            }
        }
    }
}

/// What a duration of zero is.
#[derive(Clone, Copy)]
enum Zero {
    /// No time at all.
    Kept,
    /// A word, such as `none`.
    Word(&'static str),
    /// Nothing that can be said.
    Refused,
}

/// A duration as the native form writes it.
fn written(duration: ProtoDuration) -> Option<String> {
    const YEAR: u128 = 366 * 86_400_000;
    let time = duration.time()?;
    let millis = time.as_millis();
    let whole = time.subsec_nanos().is_multiple_of(1_000_000);
    (whole && millis <= YEAR).then(|| {
        if millis.is_multiple_of(1000) {
            format!("{}s", millis / 1000)
        } else {
            format!("{}ms", millis)
        }
    })
}

/// What to do about a message that loads a library for Envoy.
fn other_library(of: &ProtoMessage) -> String {
    let name = of.message("dynamic_module_config").and_then(|config| config.text("name"));
    let library = name.map_or_else(|| "this module".to_owned(), |name| format!("`lib{name}.so`"));
    format!(
        "{library} has the interface of the one version of Envoy that it was built for (Envoy compares a hash), and Sluice \
         has its own, `sluice_filter.h` (version {}.{}): build it for that, and name it in `module` of a configuration of \
         Sluice",
        sluice_abi::MAJOR,
        sluice_abi::MINOR
    )
}
