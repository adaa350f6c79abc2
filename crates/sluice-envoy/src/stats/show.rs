//! Statistics as Envoy's pages show them.
//!
//! Owns: what is selected, and the forms: text, JSON, Prometheus. Refuses to know: where the values come from. Keeps: a filter
//! of a request takes bounded memory and time linear in the names, whatever is in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use regex::Regex;
use serde_json::{Value, json};

use super::{StatKind, StatRules, Statistic, quantiles, tags};

/// The longest filter of a request, in bytes.
const FILTER_BYTES_MAX: usize = 4096;

/// Which statistics a request asks for.
#[derive(Clone, Debug, Default)]
pub struct StatQuery {
    filter: Option<Regex>,
    /// Whether those are shown that the filter does not match.
    pub inverted: bool,
    /// Whether only those are shown in which something was counted.
    pub used_only: bool,
    /// Only those of this type.
    pub kind: Option<StatKind>,
}

impl StatQuery {
    /// Selects names that contain a match of the regex.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set_filter(&mut self, regex: &str) -> Result<(), String> {
        if regex.len() > FILTER_BYTES_MAX {
            return Err(format!("the filter is longer than {FILTER_BYTES_MAX} bytes"));
        }
        self.filter = Some(tags::compile(regex)?);
        Ok(())
    }

    /// Whether a name is one of those.
    pub fn matches(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(name) != self.inverted)
    }

    fn takes(&self, rules: &StatRules, of: &Statistic) -> bool {
        (of.used || !self.used_only)
            && self.kind.is_none_or(|kind| kind == of.kind)
            && self.matches(&of.name)
            && rules.shows(&of.name)
    }

    /// Those of these statistics that are selected.
    pub fn select<'a>(&self, rules: &StatRules, all: &'a [Statistic]) -> Vec<&'a Statistic> {
        all.iter().filter(|of| self.takes(rules, of)).collect()
    }
}

/// `name: value`, a line for each; histograms come last.
pub fn text(all: &[&Statistic]) -> String {
    let mut out = String::new();
    for of in all.iter().filter(|of| of.kind != StatKind::Histogram) {
        let _ = writeln!(out, "{}: {}", of.name, of.value);
    }
    for of in all.iter().filter(|of| of.kind == StatKind::Histogram) {
        let _ = writeln!(out, "{}: {}", of.name, quantiles_of(of));
    }
    out
}

fn quantiles_of(of: &Statistic) -> String {
    let one = |(share, word): &(f64, &str)| {
        let value = quantiles::quantile(&of.times, *share)?;
        Some(format!("{word}(nan,{value:.3})"))
    };
    let all: Option<Vec<String>> = quantiles::SHOWN.iter().map(one).collect();
    all.map_or_else(|| "No recorded values".to_owned(), |all| all.join(" "))
}

/// `{"stats": [{"name": ..., "value": ...}]}`; histograms are the last member.
pub fn as_json(all: &[&Statistic]) -> String {
    let numbers = all.iter().filter(|of| of.kind != StatKind::Histogram);
    let mut stats: Vec<Value> =
        numbers.map(|of| json!({ "name": of.name, "value": of.value })).collect();
    let histograms = all.iter().filter(|of| of.kind == StatKind::Histogram);
    let computed: Vec<Value> = histograms
        .map(|of| {
            let values = quantiles::SHOWN.iter().map(|(share, _)| {
                json!({ "interval": null, "cumulative": quantiles::quantile(&of.times, *share) })
            });
            json!({ "name": of.name, "values": values.collect::<Vec<_>>() })
        })
        .collect();
    if !computed.is_empty() {
        let shares: Vec<f64> = quantiles::SHOWN.iter().map(|(share, _)| share * 100.0).collect();
        stats.push(json!({ "histograms": { "supported_quantiles": shares, "computed_quantiles": computed } }));
    }
    json!({ "stats": stats }).to_string()
}

/// The text of Prometheus: `envoy_` and the name without its tags, which are labels.
pub fn prometheus(rules: &StatRules, all: &[&Statistic]) -> String {
    let mut families: BTreeMap<(String, StatKind), String> = BTreeMap::new();
    for of in all {
        let (rest, labels) = rules.split(&of.name);
        let name = format!("envoy_{}", tags::sanitized(&rest));
        let labels: Vec<String> = labels
            .iter()
            .chain(&rules.fixed)
            .map(|(label, value)| format!("{label}=\"{}\"", quoted(value)))
            .collect();
        let labels = labels.join(",");
        let out = families.entry((name.clone(), of.kind)).or_default();
        match of.kind {
            StatKind::Histogram => histogram(out, &name, &labels, &of.times),
            _ => drop(writeln!(out, "{name}{{{labels}}} {}", of.value)),
        }
    }
    let mut out = String::new();
    for ((name, kind), lines) in families {
        let word = match kind {
            StatKind::Counter => "counter",
            StatKind::Gauge => "gauge",
            StatKind::Histogram => "histogram",
        };
        let _ = write!(out, "# TYPE {name} {word}\n{lines}");
    }
    out
}

fn histogram(out: &mut String, name: &str, labels: &str, cells: &[u64]) {
    let comma = if labels.is_empty() { "" } else { "," };
    let total = quantiles::count(cells);
    for bound in quantiles::BOUNDS_MS {
        let below = quantiles::below(cells, bound);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", quantiles::sum_ms(cells));
    let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
}

fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
