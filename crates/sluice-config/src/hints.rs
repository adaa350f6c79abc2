//! Better help for findings made while a configuration is read.
//!
//! Owns: where a misplaced field belongs, files and words of other proxies, an example for a value of the wrong kind.
//! Refuses to know: what sections mean; it asks their shapes. Keeps: a hint is only given if one place fits.

use sluice_core::settings::{FieldShape, KNOWN_HERE, SectionShape};
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

/// A field of other proxies.
struct OtherField {
    /// The section that it is written in.
    section: &'static str,
    /// Its names.
    keys: &'static [&'static str],
    /// The field of the section that it stands for; empty if the section has none.
    field: &'static str,
    /// What to write instead.
    help: &'static str,
}

/// Fields of other proxies.
const OTHER_FIELDS: &[OtherField] = &[
    OtherField {
        section: "EndpointEntry",
        keys: &["host", "ip", "hostname", "port", "url"],
        field: "address",
        help: "write both as `address: HOST:PORT`",
    },
    OtherField {
        section: "Cluster",
        keys: &["servers", "server", "hosts", "targets", "backends", "members", "load_assignment"],
        field: "endpoints",
        help: "write `endpoints: [HOST:PORT]`",
    },
    OtherField {
        section: "RouteMatch",
        keys: &["path_prefix", "prefix"],
        field: "path",
        help: "write `path: /PREFIX/*`",
    },
    OtherField {
        section: "RouteMatch",
        keys: &["uri", "url"],
        field: "path",
        help: "write `path: /PATH`",
    },
    OtherField {
        section: "RouteMatch",
        keys: &["host", "hosts", "authority", "server_name", "domains"],
        field: "",
        help: "hosts are matched outside of the rules: `routes: { NAME: [{ hosts: HOST, rules: [...] }] }`",
    },
];

/// Help for an unknown field.
struct UnknownHelp {
    /// The field of the same section that it stands for, or belongs into.
    field: Option<&'static str>,
    help: String,
}

impl From<String> for UnknownHelp {
    fn from(help: String) -> Self {
        Self { field: None, help }
    }
}

/// Balancers of other proxies: what to write instead.
const OTHER_BALANCERS: &[(&[&str], &str)] = &[
    (&["leastconn", "least_conn", "least_connections", "leastconns"], "write `least_request`"),
    (&["static-rr", "rr", "wrr"], "write `round_robin`"),
    (
        &["source", "ip_hash", "source_ip", "hash", "uri", "hdr"],
        "write `maglev`, and `hash` where the cluster is used",
    ),
];

/// How deep an example goes.
const EXAMPLE_DEPTH_MAX: usize = 3;

/// Completes findings about unknown fields and words, and about values of the wrong kind.
pub fn complete(diags: &mut Diags) {
    let mut meant = Vec::new();
    for finding in diags.iter_mut() {
        let unexplained = match finding.help.as_deref() {
            None => true,
            Some(help) => help.starts_with(KNOWN_HERE),
        };
        let help = match finding.code {
            "unknown-field" => {
                let found = other_field(finding).or_else(|| hint(finding).filter(|_| unexplained));
                if let Some(field) = found.as_ref().and_then(|found| found.field)
                    && let Some((section, _)) = finding.path.rsplit_once('.')
                {
                    meant.push(format!("{section}.{field}"));
                }
                found.map(|found| found.help)
            }
            _ if !unexplained => None,
            "wrong-kind" => right_kind(finding),
            "bad-value" => other_balancer(finding),
            _ => None,
        };
        if let Some(help) = help {
            finding.help(help);
        }
    }
    meant.iter().for_each(|path| diags.stands_for(path));
}

/// What to write in place of a field of another proxy.
fn other_field(finding: &Diagnostic) -> Option<UnknownHelp> {
    let (parent, key) = finding.path.rsplit_once('.')?;
    let here: Vec<SectionShape> = shapes_at(parent)?.iter().flat_map(sections).collect();
    let in_section = |name: &str| here.iter().any(|section| section.name == name);
    let found = OTHER_FIELDS.iter().find(|of| of.keys.contains(&key) && in_section(of.section));
    found.map(|OtherField { field, help, .. }| UnknownHelp {
        field: Some(*field).filter(|field| !field.is_empty()),
        help: (*help).to_owned(),
    })
}

fn other_balancer(finding: &Diagnostic) -> Option<String> {
    let word = finding.message.strip_prefix('`')?.split('`').next()?;
    let found = OTHER_BALANCERS.iter().find(|(words, _)| words.contains(&word));
    found.filter(|_| finding.path.ends_with(".balance")).map(|(_, help)| (*help).to_owned())
}

/// An example of the kind of value that was expected.
fn right_kind(finding: &Diagnostic) -> Option<String> {
    if !finding.message.starts_with("expected ") {
        return None;
    }
    let key = finding.path.rsplit('.').next()?.split('[').next()?;
    let example = shapes_at(&finding.path)?.iter().find_map(|shape| example(shape, 0))?;
    Some(format!("for example `{key}: {example}`"))
}

/// A value of this shape, with the fields that it needs.
fn example(shape: &Shape, depth: usize) -> Option<String> {
    if depth > EXAMPLE_DEPTH_MAX {
        return None;
    }
    match shape {
        // Any text may be wrong here.
        Shape::Text { what: "text", .. } => None,
        // What begins with `*` or `%` is no plain text in YAML.
        Shape::Text { example, .. } if example.starts_with(['*', '%']) => {
            Some(format!("\"{example}\""))
        }
        Shape::Text { example, .. } => Some((*example).to_owned()),
        Shape::Bool | Shape::Empty => Some("true".to_owned()),
        Shape::Count { min, max } => Some(10.clamp(*min, *max).to_string()),
        Shape::Choice(words) => words.first().map(|(word, _)| (*word).to_owned()),
        Shape::OneOrMany(inner) | Shape::OrNone(inner) => example(inner, depth),
        Shape::Either(forms) => forms.iter().find_map(|form| example(form, depth)),
        Shape::Named(inner) => Some(format!("{{ NAME: {} }}", example(inner, depth + 1)?)),
        Shape::Section(section) => {
            let fields = section().fields;
            let of = |field: &FieldShape| {
                Some(format!("{}: {}", field.key, example(&field.shape, depth + 1)?))
            };
            let needed: Option<Vec<String>> =
                fields.iter().filter(|of| of.required).map(of).collect();
            let needed = needed?.join(", ");
            let shown = if needed.is_empty() { fields.iter().find_map(of)? } else { needed };
            Some(format!("{{ {shown} }}"))
        }
        Shape::Secret | Shape::Tagged(_) | Shape::Fields(_) | Shape::Any => None,
    }
}

/// The shapes that the value at a path may have.
fn shapes_at(path: &str) -> Option<Vec<Shape>> {
    path.split('.').try_fold(vec![Config::shape()], |shapes, step| {
        let step = step.split('[').next().unwrap_or_default();
        let below: Vec<Shape> = shapes.iter().flat_map(|shape| field(shape, step)).collect();
        (!below.is_empty()).then_some(below)
    })
}

fn hint(finding: &Diagnostic) -> Option<UnknownHelp> {
    let (parent, key) = match finding.path.rsplit_once('.') {
        Some((parent, key)) => (Some(parent), key),
        None => (None, finding.path.as_str()),
    };
    let Some(parent) = parent else {
        let (_, whose) = OTHER_PROXIES.iter().find(|(word, _)| *word == key)?;
        let ours: Vec<&str> =
            sections(&Config::shape()).first()?.fields.iter().map(|f| f.key).collect();
        let help = format!(
            "this looks like a configuration file of {whose}; the sections of Sluice are {} (see docs/reference.md)",
            ours.join(", ")
        );
        return Some(help.into());
    };
    let here: Vec<SectionShape> = shapes_at(parent)?.iter().flat_map(sections).collect();
    let below = here.iter().flat_map(|section| &section.fields);
    let mut below = below.filter(|of| sections(&of.shape).iter().any(|inner| has(inner, key)));
    if let (Some(inner), None) = (below.next(), below.next()) {
        let help = format!("`{key}` is a field of `{0}`; indent it below `{0}`", inner.key);
        return Some(UnknownHelp { field: Some(inner.key), help });
    }
    let mut places = Vec::new();
    search(&Config::shape(), key, &mut Vec::new(), &mut Vec::new(), &mut places);
    // Requests are matched by rules, connections by chains.
    let of_rule = places.iter().find(|(name, _)| *name == "RouteMatch");
    match places.as_slice() {
        [(_, path)] => Some(format!("`{key}` is a field of `{path}`").into()),
        _ if here.iter().any(|section| section.name == "Match") => of_rule.map(|(_, path)| {
            format!("`{key}` is a field of `{path}`; match HTTP requests in rules").into()
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
