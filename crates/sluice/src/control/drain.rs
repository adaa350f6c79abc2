//! The end of the process: no new connections, and a wait for the open ones.
//!
//! Owns: the order of a graceful drain and its deadline. Refuses to know: what connections do. Keeps: a second signal
//! ends the wait at once; every connection that is ended has its record.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_core::reason::end;
use sluice_core::{Name, Reason};
use sluice_model::sections::Drain;
use tokio::signal::unix::Signal;

use super::{Control, Stage};
use crate::worker::WorkerCommand;

/// How often a drain checks whether it is done, and logs that it is not.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
const DRAIN_TELL: Duration = Duration::from_secs(3);

/// Maximum number of checks for the end of all connections.
const ENDING_LOOKS: u32 = 20;

impl Control {
    /// Has health checks fail, stops accepting after the delay, and waits for open connections to end.
    pub(super) async fn drain(&self, again: &mut Signal, also: &mut Signal) {
        let Drain { timeout, delay } = self.in_force.borrow().process.drain;
        let (timeout, delay) = (timeout.0, delay.0);
        self.stage.set(Stage::Draining);
        for worker in &self.workers {
            worker.order(WorkerCommand::Leave).await;
        }
        if !delay.is_zero() {
            tracing::info!(
                delay_s = delay.as_secs(),
                "health checks fail; draining begins after the delay"
            );
            let is_over = tokio::select! {
                () = tokio::time::sleep(delay) => true,
                _ = again.recv() => false,
                _ = also.recv() => false,
            };
            if !is_over {
                self.end_all(end::FORCED).await;
                self.write_all();
                return;
            }
        }
        for worker in &self.workers {
            worker.order(WorkerCommand::Drain).await;
        }
        self.sockets.borrow().unlink();
        let started = self.clock.now();
        let mut told = Duration::ZERO;
        loop {
            let left = self.count().await;
            let total: usize = left.values().sum();
            if total == 0 {
                tracing::info!("drained; all connections have ended");
                break;
            }
            let waited = self.clock.now().since(started);
            if waited >= timeout {
                tracing::warn!(
                    connections = total,
                    "the drain timeout has expired; closing the remaining connections"
                );
                self.end_all(end::DRAIN).await;
                break;
            }
            if waited >= told {
                let by: Vec<String> =
                    left.iter().map(|(name, count)| format!("{name}: {count}")).collect();
                tracing::info!(
                    remaining = total,
                    deadline_s = (timeout - waited).as_millis().div_ceil(1000),
                    "draining: {}",
                    by.join(", ")
                );
                told = waited + DRAIN_TELL;
            }
            tokio::select! {
                () = tokio::time::sleep(DRAIN_LOOK) => {}
                _ = again.recv() => { self.end_all(end::FORCED).await; break; }
                _ = also.recv() => { self.end_all(end::FORCED).await; break; }
            }
        }
        self.write_all();
    }

    /// Waits until records and traces have been written.
    pub(super) fn write_all(&self) {
        self.log.flush();
        sluice_l4::tap::finish();
    }

    pub(super) async fn end_all(&self, why: Reason) {
        for worker in &self.workers {
            worker.order(WorkerCommand::EndAll(why)).await;
        }
        // Ending them takes a turn of each worker's loop.
        for _ in 0..ENDING_LOOKS {
            if self.count().await.is_empty() {
                return;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    pub(super) async fn count(&self) -> BTreeMap<Name, usize> {
        let mut all = BTreeMap::new();
        for worker in &self.workers {
            for (name, count) in worker.ask(WorkerCommand::Count).await.unwrap_or_default() {
                *all.entry(name).or_default() += count;
            }
        }
        all
    }
}
