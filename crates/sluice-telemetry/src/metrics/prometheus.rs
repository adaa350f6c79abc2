//! The registry as Prometheus text, exposition format 0.0.4.

use std::fmt::Write as _;
use std::sync::PoisonError;

use super::{BUCKETS, Family, MetricKind, Registry, sum};

impl Registry {
    /// Every series, summed over the shards, sorted by name and labels.
    pub fn render(&self) -> String {
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for (name, family) in families.iter() {
            family.render(name, &mut out);
        }
        out
    }
}

impl Family {
    fn render(&self, name: &str, out: &mut String) {
        let kind = match self.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", self.help);
        for (values, shards) in &self.series {
            let mut labels = String::new();
            for (label, value) in self.labels.iter().zip(values) {
                let comma = if labels.is_empty() { "" } else { "," };
                let _ = write!(labels, "{comma}{label}=\"{}\"", escape(value));
            }
            match self.kind {
                MetricKind::Counter => line(out, name, "", &labels, sum(shards, 0)),
                MetricKind::Gauge => line(out, name, "", &labels, sum(shards, 0).cast_signed()),
                MetricKind::Histogram => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let mut below = 0;
                    for bucket in 0..=BUCKETS.len() {
                        below += sum(shards, bucket);
                        let bound = BUCKETS.get(bucket);
                        let bound =
                            bound.map_or_else(|| "+Inf".into(), |b| b.as_secs_f64().to_string());
                        let labels = format!("{labels}{comma}le=\"{bound}\"");
                        line(out, name, "_bucket", &labels, below);
                    }
                    let micros = sum(shards, BUCKETS.len() + 1);
                    let seconds = std::time::Duration::from_micros(micros).as_secs_f64();
                    line(out, name, "_sum", &labels, seconds);
                    line(out, name, "_count", &labels, below);
                }
            }
        }
    }
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name}{suffix} {value}")
    } else {
        writeln!(out, "{name}{suffix}{{{labels}}} {value}")
    };
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
