//! Access loggers.
//!
//! Owns: what an access logger implements. Refuses to know: how records are queued. Keeps: a record that is not taken is counted.

use crate::Config;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedKind {
    /// A connection.
    Connection,
    /// A UDP flow.
    Flow,
    /// A request.
    Request,
    /// An event of an endpoint.
    Health,
}

/// An access logger: what a library makes of a configuration. Exported with [`logger_module!`](crate::logger_module).
pub trait AccessLogger: Send + Sync + Sized + 'static {
    /// Makes a logger of the text of a configuration; `name` is the `name` of the settings.
    ///
    /// # Errors
    /// Why it cannot be used; `sluice check` prints it.
    fn new(config: &mut Config<'_>, name: &str, text: &str) -> Result<Self, String>;

    /// Takes a record in the format of the access log, or returns false: then it is counted as lost. Called by one thread, which may
    /// block: records wait in a queue meanwhile (`limits.logger_queue_records`).
    fn record(&self, kind: LoggedKind, line: &str) -> bool;

    /// No record follows for now: what was gathered can be written.
    fn done(&self) {}
}
