//! The registry as Prometheus text, exposition format 0.0.4.

use std::fmt::Write as _;

use super::{BUCKETS, LabelValues, MetricKind, Registry};

/// The series of a metric at one moment.
#[derive(Clone, Debug)]
pub struct FamilySnapshot {
    /// The name of the metric.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    help: String,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// The values of the labels, and the cells: one, or of a histogram one for each bucket and the sum in microseconds.
    pub series: Vec<(LabelValues, Vec<u64>)>,
}

impl Registry {
    /// Renders every series, summed over the shards, sorted by name and labels.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for family in self.snapshot() {
            family.render(&mut out);
        }
        out
    }

    /// Copies the current values, by name of the metric. What is rendered from them is rendered without the lock: a worker
    /// that creates a series waits only for the copying.
    pub fn snapshot(&self) -> Vec<FamilySnapshot> {
        let families = self.families();
        let copied = families.iter().map(|(name, family)| FamilySnapshot {
            name,
            kind: family.kind,
            help: family.help.clone(),
            labels: family.labels.clone(),
            series: family
                .series
                .iter()
                .map(|(values, shards)| {
                    let cells = (0..family.kind.cells()).map(|cell| shards.sum(cell));
                    (values.clone(), cells.collect())
                })
                .collect(),
        });
        copied.collect()
    }
}

impl FamilySnapshot {
    fn render(&self, out: &mut String) {
        let name = self.name;
        let kind = match self.kind {
            MetricKind::Counter | MetricKind::Seconds => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", self.help);
        for (values, cells) in &self.series {
            let mut labels = String::new();
            for (label, value) in self.labels.iter().zip(values) {
                let comma = if labels.is_empty() { "" } else { "," };
                let _ = write!(labels, "{comma}{label}=\"{}\"", escape(value));
            }
            match self.kind {
                MetricKind::Counter => line(out, name, "", &labels, cells[0]),
                MetricKind::Gauge => line(out, name, "", &labels, cells[0].cast_signed()),
                MetricKind::Seconds => line(out, name, "", &labels, seconds(cells[0])),
                MetricKind::Histogram => histogram(out, name, &labels, cells),
            }
        }
    }
}

fn histogram(out: &mut String, name: &str, labels: &str, cells: &[u64]) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut below = 0_u64;
    for (bucket, count) in cells[..=BUCKETS.len()].iter().enumerate() {
        below = below.wrapping_add(*count);
        let bound = BUCKETS.get(bucket);
        let bound = bound.map_or_else(|| "+Inf".into(), |b| b.as_secs_f64().to_string());
        line(out, name, "_bucket", &format!("{labels}{comma}le=\"{bound}\""), below);
    }
    line(out, name, "_sum", labels, seconds(cells[BUCKETS.len() + 1]));
    line(out, name, "_count", labels, below);
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name}{suffix} {value}")
    } else {
        writeln!(out, "{name}{suffix}{{{labels}}} {value}")
    };
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
