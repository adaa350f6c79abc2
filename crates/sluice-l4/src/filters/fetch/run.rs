//! Running a fetch on the control thread.
//!
//! Owns: the pauses between attempts, and what is logged and counted of them. Refuses to know: origins. Keeps: an attempt
//! ends in its time, whatever its origin does; failures are logged when they begin and when they end; the content is
//! parsed beside the control thread.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_telemetry::Gauge;
use tokio::sync::Semaphore;

use super::FetchSchedule;
use super::cell::{AnyCell, Attempted, Fetch};

sluice_telemetry::metrics! {
    FETCHES = "sluice_fetches_total", Counter, ["fetch", "result"], "Attempts to fetch content for filters, by result: `changed`, `unchanged`, `failed`, or `invalid` if the content could not be parsed.";
    FETCHED = "sluice_fetch_last_success_timestamp_seconds", Gauge, ["fetch"], "When the content was last fetched, in seconds since the Unix epoch.";
}

/// The pause after the first failure; doubled by each further one.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The longest pause after failures, unless `refresh` is shorter.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// What fetches run with.
#[derive(Debug)]
pub struct FetchRunner {
    /// The worker of the control thread.
    pub(super) worker: Rc<WorkerCx>,
    permits: Semaphore,
}

impl FetchRunner {
    /// At most `limits.fetches` attempts are in flight on `worker`.
    pub fn new(worker: Rc<WorkerCx>) -> Rc<Self> {
        let permits = Semaphore::new(worker.limits.size(Limit::Fetches));
        Rc::new(Self { worker, permits })
    }
}

/// Why an attempt has no content that can be used.
enum Unusable {
    Failed(String),
    Invalid(String),
}

/// Keeps the content of a fetch up to date until its cell is gone.
pub(super) async fn keep(fetch: Arc<Fetch>, cell: Weak<dyn AnyCell>, runner: Rc<FetchRunner>) {
    let shard = &runner.worker.shard;
    let counters = ["changed", "unchanged", "failed", "invalid"]
        .map(|result| shard.counter(&FETCHES, &[&fetch.name, result]));
    let fetched = shard.gauge(&FETCHED, &[&fetch.name]);
    let mut failures = 0;
    loop {
        let attempted = tokio::select! {
            attempted = attempt(&fetch, &cell, &runner) => attempted,
            () = fetch.signals.closed.notified() => return,
        };
        let counter = match &attempted {
            Ok(Attempted::Changed) => 0,
            Ok(Attempted::Unchanged) => 1,
            Err(Unusable::Failed(_)) => 2,
            Err(Unusable::Invalid(_)) => 3,
        };
        counters[counter].increment();
        failures = if attempted.is_ok() { 0 } else { failures + 1 };
        note(&fetch, attempted.err(), &fetched, &runner.worker);
        fetch.ended.send_modify(|attempts| *attempts += 1);
        let lifetime = cell.upgrade().and_then(|cell| cell.lifetime());
        let refresh = refresh_of(&fetch.schedule, lifetime);
        if !next(&fetch, pause(refresh, failures), &runner.worker).await {
            return;
        }
    }
}

/// Makes one attempt.
async fn attempt(
    fetch: &Fetch,
    cell: &Weak<dyn AnyCell>,
    runner: &FetchRunner,
) -> Result<Attempted, Unusable> {
    let _permit = match runner.permits.try_acquire() {
        Ok(permit) => permit,
        Err(_) => {
            crate::metrics::count_limit(&runner.worker, Limit::Fetches);
            runner.permits.acquire().await.expect("it is never closed")
        }
    };
    fetch.status.begin();
    let timeout = fetch.schedule.timeout;
    let by = runner.worker.now().after(timeout);
    let fetching = fetch.origin.fetch(&runner.worker, by);
    let content = match tokio::time::timeout(timeout, fetching).await {
        Ok(content) => content.map_err(Unusable::Failed)?,
        Err(_) => {
            let problem = format!("no content within {} ms", timeout.as_millis());
            return Err(Unusable::Failed(problem));
        }
    };
    // If it is gone, the caller notices next.
    let Some(cell) = cell.upgrade() else { return Ok(Attempted::Unchanged) };
    let parsed = tokio::task::spawn_blocking(move || cell.take(&content)).await;
    let parsed = parsed.unwrap_or_else(|_| Err("parsing the content failed".into()));
    parsed.map_err(Unusable::Invalid)
}

/// Notes how an attempt ended, and logs it if the last one ended otherwise.
fn note(fetch: &Fetch, unusable: Option<Unusable>, fetched: &Gauge, worker: &WorkerCx) {
    let now = worker.clock.now();
    let failed = unusable.map(|unusable| match unusable {
        Unusable::Failed(problem) => problem,
        Unusable::Invalid(problem) => format!("the content is not valid: {problem}"),
    });
    if failed.is_none() {
        fetched.set(worker.clock.wall(now).as_secs());
    }
    let known = fetch.status.fetched_at().is_some();
    let changes = fetch.status.end(now, failed.clone());
    let name = &*fetch.name;
    match failed {
        Some(problem) if changes && known => {
            tracing::warn!(fetch = name, problem, "cannot fetch; the last content stays in use");
        }
        Some(problem) if changes => {
            tracing::warn!(fetch = name, problem, "cannot fetch; there is no content yet");
        }
        None if changes => tracing::info!(fetch = name, "fetched again"),
        _ => {}
    }
}

/// The time from one success to the next attempt: shorter than the schedule says for content that ends before, so that
/// there is time for another attempt if that one fails.
fn refresh_of(schedule: &FetchSchedule, lifetime: Option<Duration>) -> Duration {
    let before_end = lifetime.map(|lifetime| lifetime.mul_f64(0.7).max(BACK_OFF));
    before_end.map_or(schedule.refresh, |before_end| before_end.min(schedule.refresh))
}

/// The pause before the next attempt: spread, so that many processes do not ask at once.
fn pause(refresh: Duration, failures: u32) -> Duration {
    let pause = match failures.checked_sub(1) {
        None => refresh,
        Some(before) => {
            let doubled = BACK_OFF.saturating_mul(1 << before.min(16));
            doubled.min(BACK_OFF_MAX).min(refresh)
        }
    };
    pause.mul_f64(0.9 + fastrand::f64() * 0.2)
}

/// Waits for the next attempt; `false` if nothing uses the fetch any more.
async fn next(fetch: &Fetch, pause: Duration, worker: &WorkerCx) -> bool {
    let signals = &fetch.signals;
    let paused = tokio::time::sleep(pause);
    tokio::pin!(paused);
    loop {
        tokio::select! {
            () = &mut paused => return true,
            () = signals.changed.notified() => return true,
            // It may have been asked for while an attempt was in flight.
            () = signals.asked.notified() => {
                if fetch.may_ask(worker.clock.now()) {
                    return true;
                }
            }
            () = signals.closed.notified() => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_ends_is_fetched_before_that() {
        let schedule =
            FetchSchedule { refresh: Duration::from_secs(600), ..FetchSchedule::default() };
        for (lifetime, refresh) in [(None, 600), (Some(3600), 600), (Some(300), 210), (Some(0), 1)]
        {
            let lifetime = lifetime.map(Duration::from_secs);
            assert_eq!(
                refresh_of(&schedule, lifetime),
                Duration::from_secs(refresh),
                "{lifetime:?}"
            );
        }
    }
}
