//! The level of the process log, as an operator has it.
//!
//! Owns: the override and its end. Refuses to know: what a level means. Keeps: an override lasts until it is removed or
//! its time is over, whatever becomes of the configuration; both are logged whatever the level.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_core::value::show_duration;
use tokio::time::Instant;

use super::Control;
use super::overrides::{self, read_time};

/// An operator's level.
#[derive(Clone, Debug)]
pub(super) struct LogOverride {
    /// As it was sent.
    level: String,
    since: Instant,
    pub(super) until: Option<Instant>,
}

impl Control {
    /// Sets the level of the process log, or with `default` that of the start again. Returns what was done.
    pub(super) fn set_log_level(&self, level: &str, lasts: Option<&str>) -> Result<String, String> {
        let lasts = read_time(lasts)?;
        if level == "default" {
            if lasts.is_some() {
                return Err(
                    "`default` removes an override and takes no time; leave out `for`".into()
                );
            }
            let before = self.log_override.borrow_mut().take();
            let filter = self.process_log.set(None)?;
            return Ok(match before {
                Some(before) => {
                    let level = before.level;
                    tracing::info!(%level, "the override of the log level was removed");
                    format!("process log: {filter}; `{level}` was removed")
                }
                None => format!("process log: {filter}; it had no override"),
            });
        }
        let filter = self.process_log.set(Some(level))?;
        let since = Instant::now();
        let one =
            LogOverride { level: level.into(), since, until: lasts.map(|lasts| since + lasts) };
        *self.log_override.borrow_mut() = Some(one);
        self.overrides_changed.notify_one();
        let time = lasts.map_or_else(String::new, |lasts| format!(" for {}", show_duration(lasts)));
        tracing::info!(level, "the log level was overridden{time}");
        Ok(format!("process log: {filter}{time}"))
    }

    /// Ends an override whose time is over.
    pub(super) fn expire_log_level(&self, now: Instant) {
        let is_over = |one: &mut LogOverride| one.until.is_some_and(|until| until <= now);
        let Some(over) = self.log_override.borrow_mut().take_if(is_over) else { return };
        match self.process_log.set(None) {
            Ok(_) => {
                tracing::info!(level = %over.level, "the override of the log level has expired")
            }
            Err(error) => tracing::error!(error, "cannot set the log level"),
        }
    }

    /// The level, for its page.
    pub(super) fn log_level(&self) -> Value {
        let mut item = json!({ "at_start": self.process_log.at_start() });
        if let Some(one) = self.show_log_override() {
            item["override"] = one;
        }
        item
    }

    /// The override, as it is shown.
    pub(super) fn show_log_override(&self) -> Option<Value> {
        let wall: Duration = self.clock.wall(self.clock.now());
        let one = self.log_override.borrow();
        let LogOverride { level, since, until } = one.as_ref()?;
        Some(overrides::show(level, *since, *until, wall))
    }
}
