//! Watches files: a change to the configuration, or to a file it names, triggers a reload.
//!
//! Folders are watched, not files: editors and control planes move a new file into place, and
//! Kubernetes swaps a link.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{Receiver, Sender};

/// Changes closer together than this count as one.
const SETTLE: Duration = Duration::from_millis(100);

/// Changes that do not pause for this long take effect all the same.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Watches the folders of files.
pub(crate) struct Watcher {
    system: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Watcher {
    /// Notifies `changed` of every change, at most once until the notification is taken.
    pub(crate) fn new(changed: Sender<()>) -> Self {
        let files: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let known = Arc::clone(&files);
        let tell = move |event: notify::Result<notify::Event>| {
            let files = known.lock().unwrap_or_else(PoisonError::into_inner);
            if event.is_ok_and(|event| concerns(&event, &files)) {
                // If the channel is full, a notification is pending already.
                let _ = changed.try_send(());
            }
        };
        let system = notify::recommended_watcher(tell)
            .map_err(|error| tracing::warn!(%error, "cannot watch files; reload with SIGHUP"))
            .ok();
        Self { system, folders: BTreeSet::new(), files }
    }

    /// Watches the folders of exactly these files.
    pub(crate) fn follow(&mut self, files: &[PathBuf]) {
        let folder = |file: &PathBuf| match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => Path::new(".").to_owned(),
        };
        let wanted: BTreeSet<PathBuf> = files.iter().map(folder).collect();
        let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        *known = files.iter().cloned().collect();
        drop(known);
        let Some(system) = &mut self.system else { return };
        for gone in self.folders.difference(&wanted) {
            let _ = system.unwatch(gone);
        }
        for new in wanted.difference(&self.folders) {
            if let Err(error) = system.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(%error, "cannot watch {}; reload with SIGHUP", new.display());
            }
        }
        self.folders = wanted;
    }
}

/// Whether an event may change what is read. Files are created, removed and moved for many reasons, and a link may
/// point elsewhere; but writes to a file that is not read, such as a log in the same folder, are not a change.
fn concerns(event: &notify::Event, files: &BTreeSet<PathBuf>) -> bool {
    use notify::event::{EventKind, ModifyKind};
    let written =
        matches!(event.kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)));
    let is_read = |path: &PathBuf| {
        let yaml =
            path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let same_name = |file: &PathBuf| file.file_name() == path.file_name();
        yaml || files.iter().any(same_name)
    };
    !event.kind.is_access() && (!written || event.paths.iter().any(is_read))
}

/// Waits for changes to arrive and settle. Remembers that it has seen one, so that a wait that is
/// cancelled loses nothing.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    seen: bool,
}

impl Settling {
    /// Returns after a change followed by a quiet period; `None` if the sender is gone.
    pub(crate) async fn settled(&mut self, changes: &mut Receiver<()>) -> Option<()> {
        if !self.seen {
            changes.recv().await?;
            self.seen = true;
        }
        let settled = async {
            while tokio::time::timeout(SETTLE, changes.recv())
                .await
                .is_ok_and(|change| change.is_some())
            {}
        };
        let _ = tokio::time::timeout(SETTLE_MAX, settled).await;
        self.seen = false;
        Some(())
    }
}
