//! Better help for findings made while a configuration is read.
//!
//! Owns: where a misplaced field belongs, and files of other proxies. Refuses to know: what sections mean; it asks
//! their shapes. Keeps: a hint is only given if one place fits.

use sluice_core::settings::{KNOWN_HERE, SectionShape};
use sluice_core::{Diagnostic, Diags, Setting as _, Shape};
use sluice_model::Config;

/// How deep sections are searched for a field.
const DEPTH_MAX: usize = 8;

/// Top-level keys of other proxies' files, with the proxy.
const OTHER_PROXIES: &[(&str, &str)] = &[
    ("static_resources", "Envoy"),
    ("dynamic_resources", "Envoy"),
    ("layered_runtime", "Envoy"),
    ("cluster_manager", "Envoy"),
    ("stats_config", "Envoy"),
    ("stats_sinks", "Envoy"),
    ("overload_manager", "Envoy"),
    ("bootstrap_extensions", "Envoy"),
    ("node", "Envoy"),
    ("entryPoints", "Traefik"),
    ("providers", "Traefik"),
    ("http", "Traefik"),
    ("tcp", "Traefik"),
    ("udp", "Traefik"),
    ("apps", "Caddy"),
    ("frontend", "HAProxy"),
    ("backend", "HAProxy"),
    ("upstream", "nginx"),
    ("server", "nginx"),
];

/// Completes findings about unknown fields.
pub fn complete(diags: &mut Diags) {
    for finding in diags.iter_mut().filter(|finding| finding.code == "unknown-field") {
        if finding.help.as_deref().is_some_and(|help| help.starts_with(KNOWN_HERE))
            && let Some(help) = hint(finding)
        {
            finding.help(help);
        }
    }
}

fn hint(finding: &Diagnostic) -> Option<String> {
    let (parent, key) = match finding.path.rsplit_once('.') {
        Some((parent, key)) => (Some(parent), key),
        None => (None, finding.path.as_str()),
    };
    let Some(parent) = parent else {
        let (_, whose) = OTHER_PROXIES.iter().find(|(word, _)| *word == key)?;
        let ours: Vec<&str> =
            sections(&Config::shape()).first()?.fields.iter().map(|f| f.key).collect();
        return Some(format!(
            "this looks like a configuration file of {whose}; the sections of Sluice are {} (see docs/reference.md)",
            ours.join(", ")
        ));
    };
    let here = parent.split('.').try_fold(vec![Config::shape()], |shapes, step| {
        let step = step.split('[').next().unwrap_or_default();
        let below: Vec<Shape> = shapes.iter().flat_map(|shape| field(shape, step)).collect();
        (!below.is_empty()).then_some(below)
    })?;
    let here: Vec<SectionShape> = here.iter().flat_map(sections).collect();
    let below = here.iter().flat_map(|section| &section.fields);
    let mut below = below.filter(|of| sections(&of.shape).iter().any(|inner| has(inner, key)));
    if let (Some(inner), None) = (below.next(), below.next()) {
        return Some(format!("`{key}` is a field of `{0}`; indent it below `{0}`", inner.key));
    }
    let mut places = Vec::new();
    search(&Config::shape(), key, &mut Vec::new(), &mut Vec::new(), &mut places);
    // Requests are matched by rules, connections by chains.
    let of_rule = places.iter().find(|(name, _)| *name == "RouteMatch");
    match places.as_slice() {
        [(_, path)] => Some(format!("`{key}` is a field of `{path}`")),
        _ if here.iter().any(|section| section.name == "Match") => of_rule.map(|(_, path)| {
            format!("`{key}` is a field of `{path}`; match HTTP requests in rules")
        }),
        _ => None,
    }
}

fn has(section: &SectionShape, key: &str) -> bool {
    section.fields.iter().any(|field| field.key == key)
}

/// The sections that a shape allows.
fn sections(shape: &Shape) -> Vec<SectionShape> {
    match shape {
        Shape::Section(section) => vec![section()],
        Shape::OneOrMany(inner) | Shape::OrNone(inner) => sections(inner),
        Shape::Either(shapes) => shapes.iter().flat_map(sections).collect(),
        _ => Vec::new(),
    }
}

/// The shapes of the field `key` of a shape.
fn field(shape: &Shape, key: &str) -> Vec<Shape> {
    if let Shape::Named(inner) = shape {
        return vec![(**inner).clone()];
    }
    let own = sections(shape).into_iter().flat_map(|section| section.fields);
    own.filter(|field| field.key == key).map(|field| field.shape).collect()
}

/// Finds every section with a field `key`, once each, with the first path found to it.
fn search(
    shape: &Shape,
    key: &str,
    path: &mut Vec<String>,
    seen: &mut Vec<&'static str>,
    found: &mut Vec<(&'static str, String)>,
) {
    if let Shape::Named(inner) = shape {
        path.push("NAME".into());
        search(inner, key, path, seen, found);
        path.pop();
        return;
    }
    for section in sections(shape) {
        if seen.contains(&section.name) || path.len() > DEPTH_MAX {
            continue;
        }
        seen.push(section.name);
        if has(&section, key) {
            found.push((section.name, path.join(".")));
        }
        for field in &section.fields {
            path.push(field.key.into());
            search(&field.shape, key, path, seen, found);
            path.pop();
        }
    }
    if let Shape::OneOrMany(inner) = shape
        && matches!(**inner, Shape::Named(_))
    {
        search(inner, key, path, seen, found);
    }
}
