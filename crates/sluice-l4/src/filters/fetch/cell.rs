//! A fetch that is declared: its content, its state, and what wakes it.
//!
//! Owns: what workers and the control thread share of a fetch. Refuses to know: when the next attempt is due. Keeps: all
//! of it is read without a lock; dropping the last handle ends the fetch.

use std::any::Any;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sluice_core::Moment;
use tokio::sync::{Notify, watch};

use super::{FetchOrigin, FetchSchedule};
use crate::filters::content::Content;

/// A fetch, whatever its content is parsed to.
pub(super) struct Fetch {
    pub(super) name: String,
    pub(super) origin: Arc<dyn FetchOrigin>,
    pub(super) schedule: FetchSchedule,
    pub(super) status: FetchStatus,
    /// The number of attempts that have ended.
    pub(super) ended: watch::Sender<u64>,
    pub(super) signals: FetchSignals,
    /// Whether the control thread runs it.
    pub(super) runs: AtomicBool,
}

/// What wakes a fetch that waits for its next attempt.
#[derive(Debug, Default)]
pub(super) struct FetchSignals {
    /// A worker asks for an attempt.
    pub(super) asked: Notify,
    /// Its file has changed.
    pub(super) changed: Notify,
    /// Nothing uses it any more.
    pub(super) closed: Notify,
}

/// How a fetch is doing.
#[derive(Debug, Default)]
pub struct FetchStatus {
    /// When the last attempt ended, and when the last success did: microseconds since the clock's start, plus one.
    attempted: AtomicU64,
    fetched: AtomicU64,
    in_flight: AtomicBool,
    failure: ArcSwapOption<String>,
    /// A hash of the content.
    hash: AtomicU64,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempted {
    /// There is new content.
    Changed,
    /// The content is the same as before.
    Unchanged,
}

fn hash_of(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

fn moment(of: &AtomicU64) -> Option<Moment> {
    of.load(Relaxed).checked_sub(1).map(Moment::from_micros)
}

impl FetchStatus {
    /// When the origin was last known to have the current content.
    pub fn fetched_at(&self) -> Option<Moment> {
        moment(&self.fetched)
    }

    /// When the last attempt ended.
    pub fn attempted_at(&self) -> Option<Moment> {
        moment(&self.attempted)
    }

    /// Why the last attempt failed, if it did.
    pub fn failure(&self) -> Option<Arc<String>> {
        self.failure.load_full()
    }

    /// Notes that an attempt begins.
    pub(super) fn begin(&self) {
        self.in_flight.store(true, Relaxed);
    }

    /// Notes how an attempt ended; returns whether that is a change between success and failure.
    pub(super) fn end(&self, now: Moment, failure: Option<String>) -> bool {
        let at = now.as_micros().saturating_add(1);
        if failure.is_none() {
            self.fetched.store(at, Relaxed);
        }
        let before = self.failure.swap(failure.map(Arc::new));
        let changes = before.is_some() != self.failure.load().is_some();
        self.attempted.store(at, Relaxed);
        self.in_flight.store(false, Relaxed);
        changes
    }
}

impl Fetch {
    /// Asks for an attempt; returns whether one is in flight or begins.
    pub(super) fn ask(&self, now: Moment) -> bool {
        if self.status.in_flight.load(Relaxed) {
            return true;
        }
        let may = self.may_ask(now);
        if may {
            self.signals.asked.notify_one();
        }
        may
    }

    /// Whether the last attempt ended long enough ago for one that is asked for.
    pub(super) fn may_ask(&self, now: Moment) -> bool {
        let last = self.status.attempted_at();
        last.is_none_or(|at| now.since(at) >= self.schedule.refetch_after)
    }
}

/// A fetch with its content.
pub(super) struct FetchCell<T> {
    pub(super) fetch: Arc<Fetch>,
    pub(super) content: ArcSwapOption<T>,
}

impl<T> Drop for FetchCell<T> {
    fn drop(&mut self) {
        self.fetch.signals.closed.notify_one();
    }
}

impl<T: Content> FetchCell<T> {
    pub(super) fn new(origin: Arc<dyn FetchOrigin>, schedule: FetchSchedule) -> Arc<Self> {
        let fetch = Fetch {
            name: origin.name(),
            origin,
            schedule,
            status: FetchStatus::default(),
            ended: watch::Sender::new(0),
            signals: FetchSignals::default(),
            runs: AtomicBool::new(false),
        };
        Arc::new(Self { fetch: Arc::new(fetch), content: ArcSwapOption::empty() })
    }
}

impl<T> FetchCell<T> {
    /// Takes content that is at hand before the first attempt has been made, and what it was parsed from: an attempt
    /// that finds the same is no change.
    pub(super) fn begin_with(&self, content: &[u8], parsed: T) {
        if self.content.load().is_none() {
            self.content.store(Some(Arc::new(parsed)));
            self.fetch.status.hash.store(hash_of(content), Relaxed);
        }
    }
}

/// A [`FetchCell`] of any type.
pub(super) trait AnyCell: Send + Sync {
    fn fetch(&self) -> &Arc<Fetch>;

    /// How long the content can be used, if it says so.
    fn lifetime(&self) -> Option<Duration>;

    /// Parses new content and puts it in place of the old.
    fn take(&self, content: &[u8]) -> Result<Attempted, String>;

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Content> AnyCell for FetchCell<T> {
    fn fetch(&self) -> &Arc<Fetch> {
        &self.fetch
    }

    fn lifetime(&self) -> Option<Duration> {
        self.content.load().as_ref().and_then(|content| content.lifetime())
    }

    fn take(&self, content: &[u8]) -> Result<Attempted, String> {
        let hash = hash_of(content);
        let known = &self.fetch.status.hash;
        if known.load(Relaxed) == hash && self.content.load().is_some() {
            return Ok(Attempted::Unchanged);
        }
        self.content.store(Some(Arc::new(T::parse(content)?)));
        known.store(hash, Relaxed);
        Ok(Attempted::Changed)
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
