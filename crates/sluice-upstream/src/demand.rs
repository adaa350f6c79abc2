//! What requests ask a control plane for.
//!
//! Owns: where workers ask, and how many requests wait. Refuses to know: what becomes of a question, and who sends what. Keeps: as
//! many requests wait as may, of all workers together; a question that nobody will answer is answered with no.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use sluice_core::Name;
use tokio::sync::{mpsc, oneshot};

/// What a request needs and what is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demanded {
    /// The cluster of this name.
    Cluster(Name),
    /// A virtual host, as `TABLE/HOST`.
    Host(Name),
    /// The routes of a scope, by its key: each part with a zero byte behind it.
    Scope(Name),
}

/// A worker's question.
#[derive(Debug)]
pub struct DemandQuestion {
    /// What it is about.
    pub what: Demanded,
    /// Told whether it is there now. Dropped if nobody will know.
    pub answer: oneshot::Sender<bool>,
}

/// Why something that is not there cannot be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// Nobody sends anything on demand.
    NoDesk,
    /// As many requests wait as may.
    Full,
}

/// The wait for what was asked for.
#[derive(Debug)]
pub struct DemandWait<'a> {
    answer: oneshot::Receiver<bool>,
    waiting: &'a AtomicU64,
}

impl DemandWait<'_> {
    /// Whether it is there, once that is known.
    pub async fn answer(&mut self) -> bool {
        (&mut self.answer).await.unwrap_or(false)
    }
}

impl Drop for DemandWait<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

/// Where workers ask.
#[derive(Debug, Default)]
pub struct DemandDesk {
    desk: ArcSwapOption<mpsc::Sender<DemandQuestion>>,
    waiting: AtomicU64,
}

impl DemandDesk {
    /// Sets who takes the questions. For the control thread.
    pub fn open(&self, desk: mpsc::Sender<DemandQuestion>) {
        self.desk.store(Some(Arc::new(desk)));
    }

    /// Asks for something that is not there; at most `most` requests wait at once.
    ///
    /// # Errors
    /// Why it cannot be asked for.
    pub fn ask(&self, what: Demanded, most: u64) -> Result<DemandWait<'_>, Unasked> {
        let desk = self.desk.load_full().ok_or(Unasked::NoDesk)?;
        let (answer, answered) = oneshot::channel();
        let before = self.waiting.fetch_add(1, Relaxed);
        let wait = DemandWait { answer: answered, waiting: &self.waiting };
        if before >= most || desk.try_send(DemandQuestion { what, answer }).is_err() {
            return Err(Unasked::Full);
        }
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_wait_as_may() {
        let demands = DemandDesk::default();
        let cluster = |name: &str| Demanded::Cluster(name.into());
        assert_eq!(demands.ask(cluster("a"), 9).err(), Some(Unasked::NoDesk));
        let (desk, mut asked) = mpsc::channel(8);
        demands.open(desk);
        let first = demands.ask(cluster("a"), 1).unwrap();
        assert_eq!(demands.ask(Demanded::Host("t/h".into()), 1).err(), Some(Unasked::Full));
        assert_eq!(asked.try_recv().unwrap().what, cluster("a"));
        drop(first);
        assert!(demands.ask(Demanded::Host("t/h".into()), 1).is_ok());
    }
}
