//! The files of traces, and what they may take.
//!
//! Owns: how many traces are recorded at once, what they hold, how many files and bytes the process writes, the thread that
//! writes. Refuses to know: what is traced. Keeps: a worker never waits for a file; only the owner of the process can read one; a
//! file that is there already is not touched.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use sluice_core::Limits;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_telemetry::{Counter, CounterSet};

use super::forms::TapFormat;
use super::trace::TraceValue;
use crate::metrics::{self, count_limit};

/// Traces and pieces of them that may wait to be written, whatever they weigh.
const WAITING: usize = 4096;

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapFilesPlan {
    /// What the names of the files begin with: a folder and the beginning of a name.
    pub prefix: PathBuf,
    /// Their form.
    pub format: TapFormat,
}

/// The process's account of its traces.
#[derive(Debug)]
struct TapAccount {
    /// Traces being recorded.
    open: AtomicUsize,
    /// Files begun.
    files: AtomicU64,
    /// Bytes written.
    bytes: AtomicU64,
    /// Bytes that wait to be written.
    waiting: AtomicUsize,
    /// Traces, or pieces of them, that could not be written.
    unwritten: AtomicU64,
    writer: OnceLock<Option<SyncSender<TapOrder>>>,
}

/// There is one disk for all workers and all configurations, and so one account.
static ACCOUNT: TapAccount = TapAccount {
    open: AtomicUsize::new(0),
    files: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
    waiting: AtomicUsize::new(0),
    unwritten: AtomicU64::new(0),
    writer: OnceLock::new(),
};

enum TapOrder {
    Write(TapPiece),
    /// Tells that everything before it has been written.
    Flush(SyncSender<()>),
}

/// A trace, or a piece of one, on its way to its file.
struct TapPiece {
    plan: Arc<TapFilesPlan>,
    id: u64,
    first: bool,
    /// Whether an earlier piece could not be written, so that the others are not.
    broken: Arc<AtomicBool>,
    trace: TraceValue,
    weight: usize,
}

/// Waits until the traces that were handed over have been written.
pub fn finish() {
    let Some(Some(writer)) = ACCOUNT.writer.get() else { return };
    let (done, wait) = sync_channel(1);
    if writer.send(TapOrder::Flush(done)).is_ok() {
        let _ = wait.recv();
    }
}

/// The files of one use of a tap, on one worker.
#[derive(Debug)]
pub struct TapFiles {
    plan: Arc<TapFilesPlan>,
    worker: Rc<WorkerCx>,
    listener: Box<str>,
    counts: CounterSet<&'static str>,
    unwritten: Counter,
}

/// A trace that is being recorded.
#[derive(Debug)]
pub struct OpenTap {
    /// Its number, by which its file is named.
    pub id: u64,
    files: Rc<TapFiles>,
    charge: Charge,
    /// The bytes that it may still record.
    left: usize,
    first: bool,
    /// Something has been left out.
    cut: bool,
    /// All has been recorded that may be.
    is_full: bool,
    recorded: bool,
    broken: Arc<AtomicBool>,
}

impl TapFiles {
    /// The files of a use by `owner`, which begins with the name of the listener.
    pub fn new(plan: Arc<TapFilesPlan>, worker: &Rc<WorkerCx>, owner: &str) -> Rc<Self> {
        let listener = owner.split('/').next().unwrap_or_default().into();
        let unwritten = worker.shard.counter(&metrics::TAPS_UNWRITTEN, &[]);
        let (worker, counts) = (Rc::clone(worker), CounterSet::default());
        Rc::new(Self { plan, worker, listener, counts, unwritten })
    }

    /// Begins a trace, unless there are as many as there may be.
    pub fn open(self: &Rc<Self>) -> Option<OpenTap> {
        self.unwritten.add(ACCOUNT.unwritten.swap(0, Ordering::Relaxed));
        let limits = &self.worker.limits;
        let full = [
            (ACCOUNT.open.load(Ordering::Relaxed) as u64, Limit::Taps),
            (ACCOUNT.files.load(Ordering::Relaxed), Limit::TapFiles),
            (ACCOUNT.bytes.load(Ordering::Relaxed), Limit::TapFileBytes),
        ];
        if let Some((_, limit)) = full.iter().find(|(taken, limit)| *taken >= limits.get(*limit)) {
            return self.refuse(*limit);
        }
        ACCOUNT.open.fetch_add(1, Ordering::Relaxed);
        // Not a number that the next process would use again.
        let id = (self.worker.random_below(usize::MAX) as u64).max(1);
        Some(OpenTap {
            id,
            files: Rc::clone(self),
            charge: self.worker.buffers.charge(),
            left: limits.size(Limit::TapBytes),
            first: true,
            cut: false,
            is_full: false,
            recorded: false,
            broken: Arc::default(),
        })
    }

    fn refuse<T>(&self, limit: Limit) -> Option<T> {
        count_limit(&self.worker, limit);
        self.count("refused");
        None
    }

    fn count(&self, result: &'static str) {
        let counter = |result: &&'static str| {
            self.worker.shard.counter(&metrics::TAPS, &[&self.listener, result])
        };
        self.counts.count(&result, counter);
    }
}

impl OpenTap {
    /// How many of `wanted` bytes more may be recorded; they count from now on, until what was recorded is submitted.
    pub fn take(&mut self, wanted: usize) -> usize {
        let room = wanted.min(self.left);
        if room < wanted {
            self.cut(Limit::TapBytes);
        }
        // Traces leave memory to requests.
        let held = self.charge.bytes() + room;
        if self.charge.set_leaving_half(held).is_err() {
            self.cut(Limit::WorkerBuffers);
            return 0;
        }
        self.left -= room;
        room
    }

    /// Counts that something is left out, once.
    fn cut(&mut self, limit: Limit) {
        if !std::mem::replace(&mut self.cut, true) {
            count_limit(&self.files.worker, limit);
        }
    }

    /// Hands a trace, or a piece of one, to the thread that writes. Once all has been recorded that may be, no pieces follow.
    pub fn submit(&mut self, trace: TraceValue) {
        if self.is_full || self.broken.load(Ordering::Relaxed) {
            return;
        }
        (self.recorded, self.is_full) = (true, self.left == 0);
        let weight = trace.weight();
        let piece = TapPiece {
            plan: Arc::clone(&self.files.plan),
            id: self.id,
            first: std::mem::take(&mut self.first),
            broken: Arc::clone(&self.broken),
            trace,
            weight,
        };
        if let Err(limit) = ACCOUNT.queue(piece, &self.files.worker.limits) {
            // What follows would be out of its context.
            self.broken.store(true, Ordering::Relaxed);
            count_limit(&self.files.worker, limit);
        }
        // It counts as waiting now. Lowering a charge always succeeds.
        let _ = self.charge.set(0);
    }
}

impl TapAccount {
    /// Queues a piece, unless a limit forbids it.
    fn queue(&self, piece: TapPiece, limits: &Limits) -> Result<(), Limit> {
        let weight = piece.weight;
        let waiting = self.waiting.fetch_add(weight, Ordering::Relaxed) + weight;
        let written = self.bytes.load(Ordering::Relaxed);
        let writer = self.writer.get_or_init(start).as_ref();
        let queued = if written >= limits.get(Limit::TapFileBytes) {
            Err(Limit::TapFileBytes)
        } else if waiting > limits.size(Limit::TapQueue) {
            Err(Limit::TapQueue)
        } else {
            let order = TapOrder::Write(piece);
            let sent = writer.is_some_and(|writer| writer.try_send(order).is_ok());
            if sent { Ok(()) } else { Err(Limit::TapQueue) }
        };
        if queued.is_err() {
            self.waiting.fetch_sub(weight, Ordering::Relaxed);
        }
        queued
    }
}

impl Drop for OpenTap {
    fn drop(&mut self) {
        ACCOUNT.open.fetch_sub(1, Ordering::Relaxed);
        if self.recorded {
            let lost = self.broken.load(Ordering::Relaxed);
            self.files.count(if lost { "lost" } else { "recorded" });
        }
    }
}

fn start() -> Option<SyncSender<TapOrder>> {
    let (sender, orders) = sync_channel(WAITING);
    let thread = std::thread::Builder::new().name("sluice-tap".into());
    match thread.spawn(move || write_all(&orders)) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::error!(%error, "cannot start the thread that writes traces; none are recorded");
            None
        }
    }
}

fn write_all(orders: &Receiver<TapOrder>) {
    let (mut bytes, mut failing) = (Vec::new(), false);
    while let Ok(order) = orders.recv() {
        let piece = match order {
            TapOrder::Write(piece) => piece,
            TapOrder::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        ACCOUNT.waiting.fetch_sub(piece.weight, Ordering::Relaxed);
        if piece.broken.load(Ordering::Relaxed) {
            continue;
        }
        bytes.clear();
        piece.plan.format.write(&piece.trace, &mut bytes);
        match piece.write(&bytes) {
            Ok(()) => failing = false,
            Err(error) => {
                piece.broken.store(true, Ordering::Relaxed);
                ACCOUNT.unwritten.fetch_add(1, Ordering::Relaxed);
                // A full disk stays full for a while; log it once.
                if !std::mem::replace(&mut failing, true) {
                    let file = piece.path();
                    tracing::error!(file = %file.display(), %error, "traces of a tap are being lost");
                }
            }
        }
    }
}

impl TapPiece {
    fn path(&self) -> PathBuf {
        let mut path = self.plan.prefix.clone().into_os_string();
        path.push(format!("_{}.{}", self.id, self.plan.format.extension()));
        path.into()
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).mode(0o600).create_new(self.first);
        let mut file = options.open(self.path())?;
        if self.first {
            ACCOUNT.files.fetch_add(1, Ordering::Relaxed);
        }
        ACCOUNT.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        file.write_all(bytes)
    }
}
