//! Listeners that operators have paused.
//!
//! Owns: which, and since when. Refuses to know: how a worker stops accepting. Keeps: a pause lasts until it is removed,
//! whatever becomes of the configuration; a listener that does not exist cannot be paused, so that a typo is not
//! mistaken for a pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_core::clock::rfc3339;
use sluice_core::limits::Limit;
use sluice_core::settings::suggest_word;
use sluice_core::{ListenAddress, Name};
use sluice_l4::metrics::LIMIT_REACHED;
use sluice_model::model::Kind;

use super::Control;
use crate::worker::WorkerCommand;

/// The wall-clock time of each pause, by listener.
pub(super) type Pauses = BTreeMap<Name, Duration>;

impl Control {
    /// Pauses a listener or has it go on, on every worker. Returns what was done.
    pub(super) async fn operate_listener(
        &self,
        name: &str,
        action: &str,
    ) -> Result<String, String> {
        let done = match action {
            "pause" => self.pause(name)?,
            "resume" => self.resume(name)?,
            other => return Err(format!("there is no action `{other}`; it is pause or resume")),
        };
        let paused = Arc::new(self.pauses.borrow().keys().cloned().collect());
        for worker in &self.workers {
            let _ = worker.ask(|done| WorkerCommand::Pause(Arc::clone(&paused), done)).await;
        }
        Ok(format!("listener `{name}`: {done}"))
    }

    fn pause(&self, name: &str) -> Result<&'static str, String> {
        let mut pauses = self.pauses.borrow_mut();
        if pauses.contains_key(name) {
            return Ok("it is paused already");
        }
        self.check_pausable(name)?;
        let max = self.in_force.borrow().limits().size(Limit::Overrides);
        if pauses.len() >= max {
            let limit = Limit::Overrides.def().name;
            self.shard.counter(&LIMIT_REACHED, &[limit]).increment();
            return Err(format!(
                "as many listeners are paused as `limits.{limit}` allows ({max}); resume some (GET /overrides lists them)"
            ));
        }
        pauses.insert(name.into(), self.clock.wall(self.clock.now()));
        tracing::info!(listener = name, "the listener is paused: clients wait in the backlog");
        Ok("paused; clients wait in the backlog")
    }

    fn resume(&self, name: &str) -> Result<&'static str, String> {
        if self.pauses.borrow_mut().remove(name).is_none() {
            self.check_pausable(name)?;
            return Ok("it was not paused");
        }
        tracing::info!(listener = name, "the listener accepts connections again");
        Ok("it accepts connections again")
    }

    /// Checks that a listener exists, and only takes connections.
    fn check_pausable(&self, name: &str) -> Result<(), String> {
        let store = self.store.borrow();
        if !store.contains(Kind::Listener, name) {
            let names: Vec<&str> = store.names(Kind::Listener).map(|name| &**name).collect();
            let help = suggest_word(name, &names)
                .unwrap_or_else(|| format!("known listeners: {}", names.join(", ")));
            return Err(format!("there is no listener `{name}`; {help}"));
        }
        let sockets = self.sockets.borrow();
        let own = sockets.iter().filter(|bound| *bound.listener == *name);
        let datagrams =
            own.map(|bound| &bound.address).find(|at| matches!(at, ListenAddress::Udp(_)));
        match datagrams {
            Some(address) => Err(format!(
                "the listener `{name}` takes datagrams ({address}), which have no backlog to wait in; only listeners on TCP and unix sockets can be paused"
            )),
            None => Ok(()),
        }
    }

    /// Every pause, also of listeners that do not exist now.
    pub(super) fn paused_listeners(&self) -> Vec<Value> {
        let pauses = self.pauses.borrow();
        let item = |name: &Name| json!({ "listener": &**name, "override": self.show_pause(name) });
        pauses.keys().map(item).collect()
    }

    /// The pause of a listener, as it is shown.
    pub(super) fn show_pause(&self, name: &str) -> Option<Value> {
        let since = *self.pauses.borrow().get(name)?;
        Some(json!({ "action": "pause", "origin": "admin", "since": rfc3339(since) }))
    }
}
