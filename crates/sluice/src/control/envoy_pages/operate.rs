//! Changes that an operator makes on the pages of Envoy.
//!
//! Owns: health checks that are to fail, listeners that are drained, runtime values, the end of the process. Refuses to know:
//! how a worker does it. Keeps: what an operator has asked for holds until it is taken back; listeners that were drained stay
//! closed.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Name;
use sluice_core::limits::Limit;
use sluice_l4::metrics::LIMIT_REACHED;
use sluice_l7::runtime::Origin;
use sluice_l7::worker::ClosingListeners;

use super::{EnvoyPages, PageText, Parameters, ok};
use crate::control::runtime;
use crate::worker::WorkerCommand;

/// How long the response to `/quitquitquit` may take to be written.
const QUIT_GRACE: Duration = Duration::from_millis(50);

/// What an operator has asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct OperatorWishes {
    /// Health checks of clients fail.
    pub(super) fails_checks: bool,
    /// Connections of these listeners end after the next response.
    closing: ClosingListeners,
}

impl EnvoyPages {
    pub(super) async fn fail_checks(&self, fails: bool) -> PageText {
        self.standing.borrow_mut().fails_checks = fails;
        self.tell_workers().await;
        let what = if fails { "fail" } else { "pass" };
        tracing::info!("an operator has health checks {what} (`/healthcheck`)");
        ok()
    }

    async fn tell_workers(&self) {
        let OperatorWishes { fails_checks: leaving, closing } = self.standing.borrow().clone();
        let closing = if leaving { ClosingListeners::All } else { closing };
        for worker in &self.control.workers {
            worker.order(WorkerCommand::Stand { leaving, closing: closing.clone() }).await;
        }
    }

    pub(super) async fn drain_listeners(self: &Rc<Self>, parameters: &Parameters) -> PageText {
        let view = self.view().await;
        let names = self.names(&view);
        let inbound = parameters.has("inboundonly").then(|| {
            let inbound = names.listeners().filter(|(_, of)| of.is_inbound);
            Arc::new(inbound.map(|(native, _)| Arc::clone(native)).collect::<BTreeSet<Name>>())
        });
        let which = inbound.map_or(ClosingListeners::All, ClosingListeners::These);
        if !parameters.has("graceful") {
            self.close(&which).await;
            return ok();
        }
        self.standing.borrow_mut().closing = which.clone();
        self.tell_workers().await;
        tracing::info!("an operator drains listeners: connections end after the next response");
        if !parameters.has("skip_exit") {
            let time = self.control.in_force.borrow().process.drain.timeout.0;
            let pages = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(time).await;
                pages.close(&which).await;
            });
        }
        ok()
    }

    /// Closes listening sockets.
    async fn close(&self, which: &ClosingListeners) {
        let control = &self.control;
        let _turn = control.turn.lock().await;
        let keys = control.sockets.borrow().keys_of(|name| which.contains(name));
        {
            let sockets = control.sockets.borrow();
            let stopped = sockets.iter().map(|bound| &bound.listener);
            let stopped = stopped.filter(|name| which.contains(name)).cloned();
            control.stopped.borrow_mut().extend(stopped);
        }
        let keys = Arc::new(keys);
        for worker in &control.workers {
            worker.order(WorkerCommand::Close(Arc::clone(&keys))).await;
        }
        tracing::info!(sockets = keys.len(), "an operator closed listeners (`/drain_listeners`)");
    }

    pub(super) fn runtime_modify(&self, parameters: &Parameters) -> PageText {
        let control = &self.control;
        let all: Vec<(&str, &str)> = parameters.iter().collect();
        if all.is_empty() {
            let usage = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\nuse an empty value to remove a previously added override";
            return Err((400, usage.into()));
        }
        for (key, value) in &all {
            let problem = runtime::check_kind(key, value, &control.store.borrow());
            problem
                .or_else(|problem| if value.is_empty() { Ok(()) } else { Err((400, problem)) })?;
        }
        let values = &control.builder.around.runtime;
        let max = control.in_force.borrow().limits().size(Limit::Overrides);
        let in_force = values.all();
        let is_own = |key: &str| in_force.get(key).is_some_and(|of| of.origin == Origin::Admin);
        let own = in_force.values().filter(|of| of.origin == Origin::Admin).count();
        let new = all.iter().filter(|(key, value)| !value.is_empty() && !is_own(key)).count();
        if own + new > max {
            let limit = Limit::Overrides.def().name;
            control.shard.counter(&LIMIT_REACHED, &[limit]).increment();
            return Err((503, format!("`limits.{limit}` allows {max} values")));
        }
        for (key, value) in all {
            let value = (!value.is_empty()).then(|| value.to_owned());
            tracing::info!(key, value, "runtime value overridden");
            values.set_override(key, value);
        }
        ok()
    }

    pub(super) fn quit(&self) -> PageText {
        tracing::info!("an operator ends the process (`/quitquitquit`)");
        let control = Rc::clone(&self.control);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(QUIT_GRACE).await;
            control.quit.notify_one();
        });
        ok()
    }
}
