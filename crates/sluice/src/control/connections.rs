//! Open connections and flows: what is listed, and the one that an operator ends.
//!
//! Owns: the question to every worker. Refuses to know: what a connection does. Keeps: a number that nothing open has is
//! refused, so that a typo is not mistaken for an end.

use serde_json::Value;
use sluice_admin::Selection;
use sluice_core::Name;
use sluice_core::reason::end;
use sluice_core::settings::suggest_word;
use sluice_model::model::Kind;

use super::Control;
use crate::worker::WorkerCommand;

impl Control {
    /// Ends one connection or flow. Returns what was done.
    pub(super) async fn operate_connection(
        &self,
        id: &str,
        action: &str,
    ) -> Result<String, String> {
        if action != "kill" {
            return Err(format!("there is no action `{action}`; it is kill"));
        }
        let id: u64 = id.parse().map_err(|_| {
            format!("a connection is named by its number (`id` on /connections), not by `{id}`")
        })?;
        for worker in &self.workers {
            let kill = |answer| WorkerCommand::Kill { id, why: end::KILLED, answer };
            if let Some(what) = worker.ask(kill).await.flatten() {
                tracing::info!("an operator ended the {what}");
                return Ok(format!("{what}: ended"));
            }
        }
        Err(format!(
            "no connection or flow with the number {id} is open; GET /connections lists them"
        ))
    }

    /// The open connections and flows of every worker.
    pub(super) async fn connections(&self, selection: Selection) -> Result<Vec<Value>, String> {
        let Selection { listener, limit } = selection;
        if let Some(name) = &listener {
            self.check_listener(name)?;
        }
        let listener: Option<Name> = listener.map(Into::into);
        let mut all = Vec::new();
        for worker in &self.workers {
            let list = |answer| WorkerCommand::List { listener: listener.clone(), limit, answer };
            all.extend(worker.ask(list).await.unwrap_or_default());
        }
        all.sort_by_key(|item| item["id"].as_u64());
        all.truncate(limit.unwrap_or(usize::MAX));
        Ok(all)
    }

    /// Refuses a name that no listener has and that no open connection can have: it is a typo.
    fn check_listener(&self, name: &str) -> Result<(), String> {
        let store = self.store.borrow();
        let names: Vec<&str> = store.names(Kind::Listener).map(|name| &**name).collect();
        if names.contains(&name) || self.names_left.get() {
            return Ok(());
        }
        let help = suggest_word(name, &names)
            .unwrap_or_else(|| format!("known listeners: {}", names.join(", ")));
        Err(format!("there is no listener `{name}`; {help}"))
    }
}
