//! Loaded libraries as access logs.
//!
//! Owns: the settings, the queue of a library and the thread that calls it. Refuses to know: what is in a record, and what a library
//! does with it. Keeps: neither a worker nor another access log waits for a library; what does not fit its queue is counted.

use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sluice_core::{Diags, Name, Path, Spanned};
use sluice_telemetry::RecordKind;
use sluice_telemetry::log::RecordSink;

use crate::config::CheckedConfig;
use crate::library;
use crate::text::ModuleText;

/// How long the end of the process waits for a library.
const FINISH: Duration = Duration::from_secs(5);

/// How often a full queue is tried again at the end of the process, and how long after.
const TRIES: (u32, Duration) = (1000, Duration::from_millis(5));

sluice_core::section! {
    /// A library that gets the records of an access log, in C, C++, Rust or another language (`sluice_filter.h`).
    pub struct LoggerLibrary {
        /// The library. Checking a configuration loads it, which runs code of it; it is never unloaded.
        pub library: Spanned<PathBuf>,
        /// The logger of the library; without it, the name of the file without `lib` and `.so`.
        pub name: Option<Name>,
        /// What the logger is configured with: a text; maps and lists become JSON.
        pub config: Option<ModuleText>,
    }
}

/// The access log that these settings are, with a queue of so many records. Errors are added to `diags`.
pub fn logger(
    written: &LoggerLibrary,
    folder: &FilePath,
    queued: usize,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Arc<dyn RecordSink>> {
    let LoggerLibrary { library: path, name, config } = written;
    let module = library::open(path, &folder.join(&path.value), at, diags)?;
    if !module.logs() {
        library::lacks(path, "takes no records: it has no `record`", at, diags)
            .help("if it filters HTTP, list it under `http.filters`");
        return None;
    }
    let name = name.as_ref().map_or_else(|| library::name_of(module), ToString::to_string);
    let text = config.as_ref().map(|text| &*text.0);
    let made = library::make(module, &name, text, path, at, diags)?;
    let counts = Arc::default();
    Some(Arc::new(ModuleLogger { name: name.into(), made, queued, queue: OnceLock::new(), counts }))
}

/// An access log. Its thread starts with the first record, since most configurations are only checked.
#[derive(Debug)]
struct ModuleLogger {
    name: Arc<str>,
    made: Arc<CheckedConfig>,
    queued: usize,
    /// `None` if the system has no thread for it.
    queue: OnceLock<Option<SyncSender<LoggerItem>>>,
    counts: Arc<LoggerCounts>,
}

#[derive(Debug, Default)]
struct LoggerCounts {
    /// Records that were not taken, and were not asked for yet.
    lost: AtomicU64,
}

#[derive(Debug)]
enum LoggerItem {
    Record(RecordKind, String),
    /// Tell when all before it is done.
    Finish(SyncSender<()>),
}

impl ModuleLogger {
    /// The queue, with its thread.
    fn start(&self) -> Option<SyncSender<LoggerItem>> {
        let (queue, items) = sync_channel(self.queued.max(1));
        let (name, made, counts) =
            (Arc::clone(&self.name), Arc::clone(&self.made), Arc::clone(&self.counts));
        let thread = std::thread::Builder::new().name("sluice-logger".to_owned());
        match thread.spawn(move || serve(&name, &made, &counts, &items)) {
            Ok(_) => Some(queue),
            Err(error) => {
                let filter = &*self.name;
                tracing::error!(filter, %error, "an access log has no thread; its records are lost");
                None
            }
        }
    }
}

impl RecordSink for ModuleLogger {
    fn record(&self, kind: RecordKind, line: &str) {
        let queue = self.queue.get_or_init(|| self.start());
        let item = LoggerItem::Record(kind, line.to_owned());
        if queue.as_ref().is_none_or(|queue| queue.try_send(item).is_err()) {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lost(&self) -> u64 {
        self.counts.lost.swap(0, Ordering::Relaxed)
    }

    fn finish(&self) {
        let Some(queue) = self.queue.get().and_then(Option::as_ref) else { return };
        let (done, wait) = sync_channel(1);
        let (tries, pause) = TRIES;
        for _ in 0..tries {
            match queue.try_send(LoggerItem::Finish(done.clone())) {
                Ok(()) => {
                    // A library that takes longer loses what it has not got.
                    let _ = wait.recv_timeout(FINISH);
                    return;
                }
                Err(TrySendError::Full(_)) => std::thread::sleep(pause),
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

/// Passes records to a library until nobody has any.
fn serve(name: &str, made: &CheckedConfig, counts: &LoggerCounts, items: &Receiver<LoggerItem>) {
    let mut failing = false;
    while let Ok(first) = items.recv() {
        let mut finished = Vec::new();
        for item in std::iter::once(first).chain(items.try_iter()) {
            let (kind, line) = match item {
                LoggerItem::Record(kind, line) => (kind, line),
                LoggerItem::Finish(done) => {
                    finished.push(done);
                    break;
                }
            };
            match made.object.record(number_of(kind), &line) {
                Ok(()) => failing = false,
                Err(code) => {
                    counts.lost.fetch_add(1, Ordering::Relaxed);
                    // What is full stays full for a while; log it once.
                    if !std::mem::replace(&mut failing, true) {
                        let filter = name;
                        tracing::error!(
                            filter,
                            "access log records are being lost: record returned {code}"
                        );
                    }
                }
            }
        }
        made.object.records_done();
        // Who asked may have given up.
        finished.into_iter().for_each(|done| _ = done.try_send(()));
    }
}

const fn number_of(kind: RecordKind) -> i32 {
    match kind {
        RecordKind::Connection => sluice_abi::record::CONNECTION,
        RecordKind::Flow => sluice_abi::record::FLOW,
        RecordKind::Request => sluice_abi::record::REQUEST,
        RecordKind::Health => sluice_abi::record::HEALTH,
    }
}
