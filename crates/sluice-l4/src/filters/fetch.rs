//! Content that filters use and that is fetched again and again: a list, a set of keys, a token.
//!
//! Owns: the handle of a filter, what a fetch is declared with, and when one is made. Refuses to know: what the content
//! means, and how an origin is asked. Keeps: the control thread fetches and parses, once for all workers; what was
//! fetched last and parses stays in use; at most one attempt of a fetch is in flight, and nothing waits for one without
//! a deadline.
//!
//! For the author of a filter: implement [`Content`] for the parsed type, declare the fetch with
//! [`CheckContext::fetch`](crate::filters::CheckContext::fetch), and keep the [`Fetched`] in the plan.

use std::any::{Any, TypeId};
use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::{LocalFuture, Moment};
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;

use super::content::Content;

mod cell;
mod registry;
mod run;

use cell::FetchCell;
pub use cell::FetchStatus;
pub use registry::Fetches;
pub use run::FetchRunner;

/// Where content is fetched from.
pub trait FetchOrigin: Send + Sync + Debug {
    /// What it is called in logs, metrics and on admin pages, without secrets: `https://id.test/jwks`.
    fn name(&self) -> String;

    /// What makes it different from all other origins, never shown. Fetches that are equal in this, in their schedule and
    /// in their type are one.
    fn identity(&self) -> String {
        self.name()
    }

    /// Makes one attempt, on the control thread. It is dropped at `by`. The content has at most
    /// `limits.side_call_bytes`.
    ///
    /// # Errors
    /// Why there is no content, in a form such as `answered 503`.
    fn fetch(&self, worker: &Rc<WorkerCx>, by: Moment) -> LocalFuture<Result<Vec<u8>, String>>;

    /// The file that it reads: a change of it leads to an attempt at once.
    fn file(&self) -> Option<&Path> {
        None
    }
}

/// When content is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchSchedule {
    /// The time from one success to the next attempt; a tenth more or less.
    pub refresh: Duration,
    /// The time for one attempt.
    pub timeout: Duration,
    /// The least time between an attempt and the next that a worker asks for.
    pub refetch_after: Duration,
}

impl Default for FetchSchedule {
    /// Every ten minutes, within five seconds; if a worker asks, ten seconds after the last attempt.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { refresh: seconds(600), timeout: seconds(5), refetch_after: seconds(10) }
    }
}

/// The handle of a filter to content that is fetched. Clones share it; the fetch ends when the last one is dropped.
pub struct Fetched<T>(Arc<FetchCell<T>>);

impl<T: Content> Fetched<T> {
    /// What was fetched last; `None` until an attempt has succeeded.
    pub fn current(&self) -> Option<Arc<T>> {
        self.0.content.load_full()
    }

    /// The time since the origin was last known to have the current content.
    pub fn age(&self, now: Moment) -> Option<Duration> {
        self.0.fetch.status.fetched_at().map(|at| now.since(at))
    }

    /// Waits until there is content, until `by` at the latest.
    pub fn first(&self, worker: &Rc<WorkerCx>, by: Moment) -> LocalFuture<Option<Arc<T>>> {
        let (this, worker) = (self.clone(), Rc::clone(worker));
        Box::pin(async move {
            let mut ended = this.0.fetch.ended.subscribe();
            let fetched =
                async { while this.current().is_none() && ended.changed().await.is_ok() {} };
            let _ = Timer::new(&worker.timers).until(by, std::pin::pin!(fetched)).await;
            this.current()
        })
    }

    /// Asks for an attempt now, for example because a key is not in the current content, and returns what there is
    /// after it, or at `by`. Returns at once if the last attempt ended less than `refetch_after` ago: then the content
    /// is as new as it may be.
    pub fn renewed(&self, worker: &Rc<WorkerCx>, by: Moment) -> LocalFuture<Option<Arc<T>>> {
        let (this, worker) = (self.clone(), Rc::clone(worker));
        Box::pin(async move {
            let fetch = &this.0.fetch;
            let mut ended = fetch.ended.subscribe();
            if fetch.ask(worker.now()) {
                let next = std::pin::pin!(ended.changed());
                let _ = Timer::new(&worker.timers).until(by, next).await;
            }
            this.current()
        })
    }
}

impl<T> Clone for Fetched<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Debug for Fetched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fetched({})", self.0.fetch.name)
    }
}

/// What distinguishes a fetch.
// Not `Debug`: an identity may contain credentials.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FetchKey {
    content: TypeId,
    identity: String,
    schedule: FetchSchedule,
}

impl FetchKey {
    fn of<T: Any>(origin: &dyn FetchOrigin, schedule: FetchSchedule) -> Self {
        Self { content: TypeId::of::<T>(), identity: origin.identity(), schedule }
    }
}

/// A file whose content is fetched. Read again whenever it changes, and as often as the schedule says.
#[derive(Debug)]
pub struct FileOrigin {
    /// The path; see [`CheckContext::path`](crate::filters::CheckContext::path).
    pub path: PathBuf,
    /// The limit on its size; that of the content, [`Content::LIMIT`].
    pub limit: Limit,
}

impl FetchOrigin for FileOrigin {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn fetch(&self, worker: &Rc<WorkerCx>, _by: Moment) -> LocalFuture<Result<Vec<u8>, String>> {
        let (path, limit) = (self.path.clone(), self.limit);
        let max = worker.limits.get(limit);
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || read(&path, max, limit)).await;
            read.unwrap_or_else(|_| Err("reading it failed".into()))
        })
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

/// The content of a file of at most `max` bytes.
fn read(path: &Path, max: u64, limit: Limit) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Opening a pipe would block.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a file".into());
    }
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(max.saturating_add(1)).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > max {
        return Err(format!("has more than {max} bytes (`limits.{}`)", limit.def().name));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
