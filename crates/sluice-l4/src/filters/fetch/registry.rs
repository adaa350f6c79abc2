//! The fetches that filters have declared.
//!
//! Owns: which there are, and which of them run. Refuses to know: configurations: a fetch is there for as long as a plan
//! holds its handle. Keeps: equal fetches are one; none runs before the configuration that declares it is in force.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::cell::{AnyCell, FetchCell, FetchStatus};
use super::run::{self, FetchRunner};
use super::{FetchKey, FetchOrigin, FetchSchedule, Fetched, FileOrigin, read};
use crate::filters::content::Content;

/// The fetches of the process.
#[derive(Default)]
pub struct Fetches(Mutex<HashMap<FetchKey, Weak<dyn AnyCell>>>);

impl fmt::Debug for Fetches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.alive().iter().map(|cell| &cell.fetch().name)).finish()
    }
}

impl Fetches {
    /// Declares a fetch, or finds an equal one. It runs from [`Fetches::start`] on.
    pub fn declare<T: Content>(
        &self,
        origin: Arc<dyn FetchOrigin>,
        schedule: FetchSchedule,
    ) -> Fetched<T> {
        let key = FetchKey::of::<T>(&*origin, schedule);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, cell| cell.strong_count() > 0);
        let known = all.get(&key).and_then(Weak::upgrade);
        let known = known.and_then(|cell| cell.into_any().downcast::<FetchCell<T>>().ok());
        Fetched(known.unwrap_or_else(|| {
            let new = FetchCell::<T>::new(origin, schedule);
            let weak: Weak<FetchCell<T>> = Arc::downgrade(&new);
            all.insert(key, weak);
            new
        }))
    }

    /// Declares the content of a file, which is read and parsed at once. What is in use already stays until the file is
    /// read in its turn.
    ///
    /// # Errors
    /// It cannot be read or parsed.
    pub(in crate::filters) fn declare_file<T: Content>(
        &self,
        origin: FileOrigin,
    ) -> Result<Fetched<T>, String> {
        let content = read(&origin.path, origin.limit.def().max, origin.limit)?;
        let parsed = T::parse(&content)?;
        let fetched: Fetched<T> = self.declare(Arc::new(origin), FetchSchedule::default());
        fetched.0.begin_with(&content, parsed);
        Ok(fetched)
    }

    /// Runs every fetch that does not run yet, on this thread, each until nothing uses it any more.
    pub fn start(&self, runner: &Rc<FetchRunner>) {
        for cell in self.alive() {
            if !cell.fetch().runs.swap(true, Relaxed) {
                let fetch = Arc::clone(cell.fetch());
                runner.worker.spawn(run::keep(fetch, Arc::downgrade(&cell), Rc::clone(runner)));
            }
        }
    }

    /// Has files read again; those without a change cost a look at their content.
    pub fn reread(&self) {
        let cells = self.alive();
        let files = cells.iter().filter(|cell| cell.fetch().origin.file().is_some());
        files.for_each(|cell| cell.fetch().signals.changed.notify_one());
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = |cell: &Arc<dyn AnyCell>| cell.fetch().origin.file().map(Into::into);
        self.alive().iter().filter_map(files).collect()
    }

    /// Shows every fetch, by its name.
    pub fn each(&self, mut show: impl FnMut(&str, &FetchSchedule, &FetchStatus)) {
        let mut cells = self.alive();
        cells.sort_by(|one, two| one.fetch().name.cmp(&two.fetch().name));
        for cell in cells {
            let fetch = cell.fetch();
            show(&fetch.name, &fetch.schedule, &fetch.status);
        }
    }

    fn alive(&self) -> Vec<Arc<dyn AnyCell>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().filter_map(Weak::upgrade).collect()
    }
}
