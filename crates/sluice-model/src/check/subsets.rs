//! Checks of subsets, and of the rules and relays that ask for one.
//!
//! Owns: selectors that contradict each other, metadata that nothing looks at, and requests that could only be refused.
//! Refuses to know: how a subset is found. Keeps: what an endpoint file may still make true is no finding.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::settings::Short;
use sluice_core::{Diags, Name, Path, Span, Spanned};
use sluice_l7::routes::EndpointMatch;
use sluice_upstream::SubsetKey;

use crate::sections::subsets::{Fallback, FallbackOfKeys, SubsetSelector, in_order};
use crate::sections::{Cluster, Config, Subsets};

/// Checks the subsets of a cluster, and the metadata of its endpoints.
pub(super) fn subsets(cluster: &Spanned<Short<Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    let Some(section) = &cluster.subsets else {
        unused_metadata(cluster, at, diags);
        return;
    };
    let here = at.key("subsets");
    if section.selectors.is_empty() {
        diags
            .error("missing-field", section.span, here, "subsets need at least one selector")
            .help("name the keys that make them: `subsets: [version]`");
    }
    let list = here.key("selectors");
    let mut known: HashMap<Vec<Arc<str>>, Span> = HashMap::new();
    for (place, selector) in section.selectors.iter().enumerate() {
        let at = list.index(place);
        if selector.keys.is_empty() || selector.has_duplicates() {
            let message = "a selector needs keys, each once";
            diags
                .error("bad-value", selector.span, at, message)
                .help("write for example `[version, stage]`");
        }
        if let Some(first) = known.insert(selector.sorted(), selector.span) {
            diags
                .error("duplicate-name", selector.span, at, "two selectors have the same keys")
                .other(first, "the other one")
                .help("remove one of them");
        }
    }
    for (place, selector) in section.selectors.iter().enumerate() {
        keys_subset(section, selector, &list.index(place), diags);
    }
    default_subset(cluster, section, &here, diags);
    if cluster.balance.load_max().is_some() {
        let message = "`max_load` compares the load of an endpoint with that of the whole cluster";
        diags
            .error("wrong-kind", section.span, at.key("balance"), message)
            .help("remove `max_load`, or make a cluster of its own for each subset");
    }
    // A file may change at any time.
    if cluster.endpoints_file.is_some() {
        return;
    }
    for (place, selector) in section.selectors.iter().enumerate() {
        let keys = selector.sorted();
        let has = |key: &Arc<str>, of: &Cluster, index: usize| {
            let metadata = of.endpoints[index].0.metadata.as_ref();
            metadata.is_some_and(|metadata| !metadata.0.values(key).is_empty())
        };
        let all = 0..cluster.endpoints.len();
        if !all.into_iter().any(|index| keys.iter().all(|key| has(key, cluster, index))) {
            let message = format!("no endpoint has metadata for {}", named(&keys));
            diags
                .warning("useless-setting", selector.span, list.index(place), message)
                .help("give endpoints `metadata: { KEY: VALUE }`, or remove the selector");
        }
    }
}

fn unused_metadata(cluster: &Cluster, at: &Path<'_>, diags: &mut Diags) {
    let list = at.key("endpoints");
    for (place, entry) in cluster.endpoints.iter().enumerate() {
        if let Some(metadata) = &entry.0.metadata {
            let message = "metadata is not looked at: the cluster has no `subsets`";
            let here = list.index(place);
            diags
                .warning("useless-setting", metadata.span, here.key("metadata"), message)
                .help("name the keys that make subsets: `subsets: [version]`");
        }
    }
}

/// Checks that a selector falls back to fewer keys, which another selector has.
fn keys_subset(
    section: &Subsets,
    selector: &Spanned<Short<SubsetSelector>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Some(FallbackOfKeys::KeysSubset(fewer)) = &selector.fallback else { return };
    let (keys, fewer) = (selector.sorted(), in_order(fewer));
    let is_part = fewer.len() < keys.len() && fewer.iter().all(|key| keys.contains(key));
    let message = if fewer.is_empty() || !is_part {
        "`keys_subset` must have some of the keys of its selector, and not all".to_owned()
    } else if !section.selectors.iter().any(|other| other.sorted() == fewer) {
        format!("no selector has only {}", named(&fewer))
    } else {
        return;
    };
    let here = at.key("fallback");
    diags
        .error("bad-value", selector.span, here.key("keys_subset"), message)
        .help("another selector must make subsets by these keys");
}

fn default_subset(
    cluster: &Cluster,
    section: &Spanned<Short<Subsets>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let usual = Some(FallbackOfKeys::Usual(Fallback::DefaultSubset));
    let is_used = section.fallback == Fallback::DefaultSubset
        || section.selectors.iter().any(|selector| selector.fallback == usual);
    let here = at.key("default_subset");
    match &section.default_subset {
        None if is_used => {
            let message = "`fallback: default_subset` needs a `default_subset`";
            diags
                .error("missing-field", section.span, here, message)
                .help("say what its endpoints have: `default_subset: { version: v1 }`");
        }
        Some(default) if !is_used => {
            diags
                .warning("useless-setting", default.span, here, "no fallback leads to it")
                .help("add `fallback: default_subset`, or remove it");
        }
        Some(default) if cluster.endpoints_file.is_none() && !any_has(cluster, &default.0) => {
            let message = format!("no endpoint has {{ {} }}", default.0);
            diags
                .warning("no-subset", default.span, here, message)
                .help("correct it, or the `metadata` of the endpoints");
        }
        Some(_) | None => {}
    }
}

fn any_has(cluster: &Cluster, asked: &SubsetKey) -> bool {
    let mut all = cluster.endpoints.iter().filter_map(|entry| entry.0.metadata.as_ref());
    all.any(|metadata| metadata.0.has(asked))
}

/// Checks that a cluster that gets copies of requests, which ask for no metadata, does not refuse them.
pub(crate) fn copies(
    config: &Config,
    to: &Spanned<Name>,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let section = config.clusters.get(&to.value).and_then(|cluster| cluster.subsets.as_ref());
    if let Some(section) = section.filter(|section| section.fallback == Fallback::Refuse) {
        let message = format!("the cluster `{}` has `subsets` without a fallback", to.value);
        diags
            .error("wrong-kind", span, at, message)
            .other(section.span, "these subsets")
            .help("copies ask for no metadata and would be refused: set `fallback` of the subsets");
    }
}

/// Checks that what a rule or relay asks for can be found in a cluster that it leads to.
pub(crate) fn asked(
    config: &Config,
    to: &Spanned<Name>,
    asked: Option<&EndpointMatch>,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Some(cluster) = config.clusters.get(&to.value) else { return };
    let name: &Name = &to.value;
    let here = at.key("endpoint_metadata");
    let (asked, section) = match (asked, &cluster.subsets) {
        (None, None) => return,
        (Some(_), None) => {
            let message = format!("the cluster `{name}` has no `subsets`: any endpoint would do");
            diags
                .error("wrong-kind", span, here, message)
                .other(cluster.span, "this cluster")
                .help("name the keys that make them: `subsets: [version]`");
            return;
        }
        (None, Some(section)) => {
            if section.fallback == Fallback::Refuse {
                let message = format!(
                    "the cluster `{name}` has `subsets` without a fallback, which refuses what asks for none"
                );
                diags
                    .error("missing-field", span, here, message)
                    .other(section.span, "these subsets")
                    .help(
                        "add `endpoint_metadata: { KEY: VALUE }`, or set `fallback` of the subsets",
                    );
            }
            return;
        }
        (Some(asked), Some(section)) => (asked, section),
    };
    let brought = asked.headers.iter().chain(&asked.values).map(|(key, _)| key);
    let mut keys: Vec<Arc<str>> =
        asked.fixed.iter().map(|(key, _)| key).chain(brought).cloned().collect();
    keys.sort();
    keys.dedup();
    // Which of those that filters share are there is known only of a request.
    let maybe: Vec<&Arc<str>> = asked.values.iter().map(|(key, _)| key).collect();
    if !maybe.is_empty() {
        let fits = |own: &[Arc<str>]| {
            keys.iter().all(|key| own.contains(key) || maybe.contains(&key))
                && own.iter().all(|key| keys.contains(key))
        };
        if !section.selectors.iter().any(|of| fits(&of.sorted())) {
            let message =
                format!("no selector of the cluster `{name}` has keys of {}", named(&keys));
            diags.error("unknown-name", span, here, message).other(section.span, "these subsets");
        }
        return;
    }
    let Some(selector) = section.selectors.iter().find(|of| of.sorted() == keys) else {
        let known = section.selectors.iter().map(|of| named(&of.sorted()));
        let known = known.collect::<Vec<_>>().join(", ");
        let message = format!("no selector of the cluster `{name}` has the keys {}", named(&keys));
        diags
            .error("unknown-name", span, here, message)
            .other(section.span, "these subsets")
            .help(format!("its selectors are {known}"));
        return;
    };
    let refuses = match &selector.fallback {
        None => section.fallback == Fallback::Refuse,
        Some(fallback) => *fallback == FallbackOfKeys::Usual(Fallback::Refuse),
    };
    let is_fixed = asked.headers.is_empty() && cluster.endpoints_file.is_none();
    if refuses && is_fixed && !any_has(cluster, &asked.fixed) {
        let message = format!("no endpoint of the cluster `{name}` has {{ {} }}", asked.fixed);
        diags
            .warning("no-subset", span, here, message)
            .other(cluster.span, "this cluster")
            .help("it would be refused; correct it, or the `metadata` of the endpoints");
    }
}

/// Keys for a message: `[stage, version]`.
fn named(keys: &[Arc<str>]) -> String {
    format!("[{}]", keys.join(", "))
}
