//! What happens to endpoints: they become healthy or unhealthy, are ejected and readmitted.
//!
//! Owns: the words for it, in the process log and in records of the kind `health`. Refuses to know: who found out, and
//! what becomes of connections. Keeps: what the process log tells of an endpoint's state is a record, too.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::Name;
use sluice_io::WorkerCx;
use sluice_telemetry::template::{Argument, Operator, Record, RecordKind, TemplateField};

use crate::cluster::Cluster;
use crate::endpoint::EndpointState;

sluice_telemetry::operators! {
    /// The operators of records of the kind `health`.
    pub HEALTH_OPERATORS:
    START_TIME = "START_TIME", "When it began.";
    CLUSTER = "UPSTREAM_CLUSTER", "The cluster.";
    ENDPOINT = "UPSTREAM_HOST", "The endpoint.";
    EVENT = "EVENT", "What happened to an endpoint: `healthy`, `unhealthy`, `ejected`, `readmitted`, or `not_ejected` where `enforce` only counts.";
    DETAIL = "DETAIL", "Details.";
}

/// The format that `format: text` selects for records of this kind alone.
pub const HEALTH_TEXT: &str = "[%START_TIME%] %UPSTREAM_CLUSTER% %UPSTREAM_HOST% %EVENT% %DETAIL%";

/// What happened to an endpoint, with the cause.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EndpointEvent<'a> {
    /// The first check succeeded.
    FirstHealthy,
    /// As many checks succeeded as it takes.
    Healthy,
    /// As many checks failed as it takes, or the endpoint asked for no more traffic.
    Unhealthy(&'a str),
    /// An outlier was ejected.
    Ejected(&'a str),
    /// An outlier was found and, by `enforce`, not ejected.
    NotEjected(&'a str),
    /// The time of an ejection is over.
    EjectionOver,
    /// A health check refuted the cause of an ejection.
    EjectionRefuted,
}

impl EndpointEvent<'_> {
    const fn word(self) -> &'static str {
        match self {
            Self::FirstHealthy | Self::Healthy => "healthy",
            Self::Unhealthy(_) => "unhealthy",
            Self::Ejected(_) => "ejected",
            Self::NotEjected(_) => "not_ejected",
            Self::EjectionOver | Self::EjectionRefuted => "readmitted",
        }
    }

    /// The cause, or what ended the state before.
    const fn detail(&self) -> Option<&str> {
        match self {
            Self::Unhealthy(cause) | Self::Ejected(cause) | Self::NotEjected(cause) => Some(cause),
            Self::FirstHealthy => Some("its first health check succeeded"),
            Self::EjectionOver => Some("the time of its ejection is over"),
            Self::EjectionRefuted => Some("a health check succeeded"),
            Self::Healthy => None,
        }
    }

    /// Tells it in the process log, and to the logs that want such records.
    pub(crate) fn tell(self, worker: &WorkerCx, cluster: &Cluster, endpoint: &EndpointState) {
        let (name, host) = (&*cluster.name, &*endpoint.name);
        match self {
            Self::FirstHealthy => {
                tracing::info!(cluster = name, endpoint = host, "endpoint is healthy");
            }
            Self::Healthy => {
                tracing::info!(cluster = name, endpoint = host, "endpoint is healthy again");
            }
            Self::Unhealthy(error) => {
                tracing::warn!(cluster = name, endpoint = host, error, "endpoint is unhealthy");
            }
            Self::Ejected(cause) => {
                tracing::warn!(cluster = name, endpoint = host, "endpoint ejected: {cause}");
            }
            Self::NotEjected(cause) => {
                let told = "endpoint not ejected, by `enforce`";
                tracing::info!(cluster = name, endpoint = host, "{told}: {cause}");
            }
            Self::EjectionOver => {
                tracing::info!(cluster = name, endpoint = host, "endpoint is back in use");
            }
            Self::EjectionRefuted => {
                let told = "endpoint is back in use: a health check succeeded";
                tracing::info!(cluster = name, endpoint = host, "{told}");
            }
        }
        if worker.log.wants(RecordKind::Health) {
            worker.log.push(Box::new(EventRecord {
                at: worker.clock.wall(worker.clock.now()),
                cluster: Arc::clone(&cluster.name),
                endpoint: Arc::clone(&endpoint.name),
                event: self.word(),
                detail: self.detail().map(Box::from),
            }));
        }
    }
}

/// The record of an event.
#[derive(Debug)]
struct EventRecord {
    /// Since the Unix epoch.
    at: Duration,
    cluster: Name,
    endpoint: Arc<str>,
    event: &'static str,
    detail: Option<Box<str>>,
}

impl Record for EventRecord {
    fn kind(&self) -> RecordKind {
        RecordKind::Health
    }

    fn field(&self, operator: &Operator, _: &Argument) -> TemplateField<'_> {
        match operator.name {
            name if name == START_TIME.name => TemplateField::Time(self.at),
            name if name == CLUSTER.name => TemplateField::from(&*self.cluster),
            name if name == ENDPOINT.name => TemplateField::from(&*self.endpoint),
            name if name == EVENT.name => TemplateField::from(self.event),
            name if name == DETAIL.name => TemplateField::from(self.detail.as_deref()),
            _ => TemplateField::Missing,
        }
    }
}
