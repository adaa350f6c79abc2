//! What Sluice reports about itself: metrics and access records.
//!
//! Owns: metric cells and their registry, the recorder behind the `metrics` facade, the Prometheus text format, record
//! templates, log sinks and the one thread that writes them.
//! Refuses to know: what is measured. Each layer declares its metrics and record operators.
//! Keeps: a hot path touches only cells that no other thread writes; a full log queue drops and counts, it never
//! blocks; a counter never decreases, even on reload.
#![forbid(unsafe_code)]

pub mod log;
pub mod metrics;
pub mod template;

pub use log::{LogHub, LogQueue};
pub use metrics::{
    Counter, CounterSet, Gauge, Histogram, MetricDef, MetricKind, Registry, SeriesSet, Shard,
};
pub use template::{
    Argument, JsonMember, Lookup, Operator, Record, RecordKind, Template, TemplateField,
};
