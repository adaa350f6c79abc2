//! The path of access records from a worker to a file, without blocking the worker.
//!
//! Owns: a bounded ring per worker, the one thread that writes, its sinks.
//! Refuses to know: the contents of records. Keeps: a full ring drops the record and counts it; the thread sleeps while
//! there is nothing to write and writes in batches under load.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::metrics::{Counter, Registry, Shard};
use crate::template::{Record, RecordKind, Template};

crate::metrics! {
    DROPPED = "sluice_process_log_records_dropped_total", Counter, ["worker"], "Access log records dropped because the queue to the log thread was full.";
    UNWRITTEN = "sluice_process_log_records_unwritten_total", Counter, [], "Access log records lost because their file or stream could not be written, or because the loaded library that they are for did not take them.";
}

/// How long the thread gathers records before it writes them.
const GATHER: Duration = Duration::from_millis(5);

type Ring = Arc<ArrayQueue<Box<dyn Record>>>;

/// A destination of records that is no file. It must not block: it is called by the log thread.
pub trait RecordSink: Send + Sync + std::fmt::Debug {
    /// Takes a record, in its format and without a line end, or counts it as lost.
    fn record(&self, kind: RecordKind, line: &str);

    /// The records that were lost since this was asked last.
    fn lost(&self) -> u64;

    /// Waits a bounded time until what it took is written.
    fn finish(&self);
}

/// The destination of log lines.
#[derive(Clone, Debug)]
pub enum SinkTarget {
    /// Standard output.
    Stdout,
    /// Standard error, which the process log uses too.
    Stderr,
    /// A file, opened for appending and reopened on request.
    File(PathBuf),
    /// Something else.
    Other(Arc<dyn RecordSink>),
}

/// A target, the records it accepts, and their format.
#[derive(Clone, Debug)]
pub struct SinkPlan {
    /// The destination of the lines.
    pub target: SinkTarget,
    /// Bits of [`RecordKind::bit`].
    pub kinds: u8,
    /// The format of a line.
    pub template: Template,
}

/// The control thread's handle to the log thread.
#[derive(Debug)]
pub struct LogHub {
    shared: Arc<LogShared>,
    orders: SyncSender<(LogCommand, SyncSender<()>)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct LogShared {
    wanted: AtomicU8,
    pending: AtomicBool,
    rings: Mutex<Vec<Ring>>,
}

/// A command from the control thread, executed after everything queued before it has been written.
enum LogCommand {
    Sinks(Vec<Sink>),
    Reopen,
    Flush,
    End,
}

/// Sinks with open files, ready for use.
#[derive(Debug)]
pub struct OpenSinks(Vec<Sink>);

impl OpenSinks {
    /// Opens the files.
    ///
    /// # Errors
    /// A file cannot be opened; the error names it.
    pub fn open(plans: Vec<SinkPlan>) -> io::Result<Self> {
        plans.into_iter().map(Sink::open).collect::<io::Result<Vec<_>>>().map(Self)
    }
}

#[derive(Debug)]
struct Sink {
    plan: SinkPlan,
    file: Option<File>,
    line: String,
    /// The last write failed.
    failing: bool,
}

impl LogHub {
    /// Starts the log thread, without sinks. It counts in shard `number` of `registry`.
    ///
    /// # Errors
    /// The system cannot create a thread.
    pub fn start(registry: &Registry, number: usize) -> io::Result<Self> {
        let shared = Arc::new(LogShared {
            wanted: AtomicU8::new(0),
            pending: AtomicBool::new(false),
            rings: Mutex::default(),
        });
        let (orders, inbox) = sync_channel(16);
        let (of_thread, registry) = (Arc::clone(&shared), registry.clone());
        let thread = std::thread::Builder::new()
            .name("sluice-log".into())
            .spawn(move || run(&of_thread, &inbox, &registry.shard(number)))?;
        Ok(Self { shared, orders, thread: Some(thread) })
    }

    /// Creates a queue for one worker; pass it to that worker's thread.
    pub fn queue(&self, capacity: usize) -> QueueSeed {
        let ring: Ring = Arc::new(ArrayQueue::new(capacity.max(1)));
        self.shared.rings.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&ring));
        QueueSeed { ring, shared: Arc::clone(&self.shared), thread: self.thread().clone() }
    }

    /// Replaces the sinks.
    pub fn use_sinks(&self, sinks: OpenSinks) {
        let wanted = sinks.0.iter().fold(0, |mask, sink| mask | sink.plan.kinds);
        self.order(LogCommand::Sinks(sinks.0));
        self.shared.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Reopens the files, after they have been moved (log rotation); later records go to the new ones.
    pub fn reopen(&self) {
        self.order(LogCommand::Reopen);
    }

    /// Waits until everything queued so far has been written.
    pub fn flush(&self) {
        self.order(LogCommand::Flush);
    }

    /// Sends `order` and waits until it has been executed.
    fn order(&self, order: LogCommand) {
        let (done, wait) = sync_channel(1);
        // The thread lives as long as this value; a closed channel means it is ending.
        let _ = self.orders.send((order, done));
        self.thread().unpark();
        let _ = wait.recv();
    }

    fn thread(&self) -> &Thread {
        self.thread.as_ref().expect("taken only on drop").thread()
    }
}

impl Drop for LogHub {
    fn drop(&mut self) {
        self.order(LogCommand::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A worker's queue before it reaches the worker's thread.
#[derive(Debug)]
pub struct QueueSeed {
    ring: Ring,
    shared: Arc<LogShared>,
    thread: Thread,
}

impl std::fmt::Debug for dyn Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind().word())
    }
}

impl QueueSeed {
    /// Creates the queue, on the worker's own thread; `shard` counts the dropped records.
    pub fn take_root(self, shard: &Shard, worker: &str) -> LogQueue {
        LogQueue { dropped: shard.counter(&DROPPED, &[worker]), seed: self }
    }
}

/// A worker's end of its queue.
#[derive(Debug)]
pub struct LogQueue {
    seed: QueueSeed,
    dropped: Counter,
}

impl LogQueue {
    /// Creates a queue that no thread reads and no sink uses: for a standalone worker.
    pub fn nowhere(shard: &Shard) -> Self {
        let shared = LogShared {
            wanted: AtomicU8::new(0),
            pending: AtomicBool::new(true),
            rings: Mutex::default(),
        };
        let ring = Arc::new(ArrayQueue::new(1));
        let seed = QueueSeed { ring, shared: Arc::new(shared), thread: std::thread::current() };
        seed.take_root(shard, "none")
    }

    /// Whether any sink accepts records of `kind`; if not, none need to be created.
    pub fn wants(&self, kind: RecordKind) -> bool {
        self.seed.shared.wanted.load(Ordering::Relaxed) & kind.bit() != 0
    }

    /// Queues a record; drops and counts it if the queue is full.
    pub fn push(&self, record: Box<dyn Record>) {
        if self.seed.ring.push(record).is_err() {
            self.dropped.increment();
        }
        // Wake the thread once per batch: a system call per record would cost more than the record.
        if !self.seed.shared.pending.load(Ordering::Relaxed)
            && !self.seed.shared.pending.swap(true, Ordering::AcqRel)
        {
            self.seed.thread.unpark();
        }
    }
}

fn run(shared: &LogShared, orders: &Receiver<(LogCommand, SyncSender<()>)>, shard: &Shard) {
    let mut sinks: Vec<Sink> = Vec::new();
    let unwritten = shard.counter(&UNWRITTEN, &[]);
    loop {
        if shared.pending.swap(false, Ordering::AcqRel) {
            drain(shared, &mut sinks, &unwritten);
            std::thread::sleep(GATHER);
            drain(shared, &mut sinks, &unwritten);
        }
        match orders.try_recv() {
            Ok((order, done)) => {
                drain(shared, &mut sinks, &unwritten);
                match order {
                    LogCommand::Sinks(new) => sinks = new,
                    LogCommand::Reopen => sinks.iter_mut().for_each(Sink::reopen),
                    LogCommand::Flush => sinks.iter().for_each(Sink::finish),
                    LogCommand::End => return sinks.iter().for_each(Sink::finish),
                }
                // The sender of the order may be gone by now.
                let _ = done.send(());
            }
            Err(_) if shared.pending.load(Ordering::Acquire) => {}
            Err(_) => std::thread::park(),
        }
    }
}

fn drain(shared: &LogShared, sinks: &mut [Sink], unwritten: &Counter) {
    let rings = shared.rings.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ring in rings {
        while let Some(record) = ring.pop() {
            for sink in sinks.iter_mut().filter(|s| s.plan.kinds & record.kind().bit() != 0) {
                sink.plan.template.fill(&*record, &mut sink.line);
                if let SinkTarget::Other(other) = &sink.plan.target {
                    other.record(record.kind(), sink.line.trim_end_matches('\n'));
                    sink.line.clear();
                } else if sink.line.len() > 64 * 1024 {
                    sink.write(unwritten);
                }
            }
        }
    }
    sinks.iter_mut().for_each(|sink| sink.write(unwritten));
}

impl Sink {
    fn open(plan: SinkPlan) -> io::Result<Self> {
        let file = match &plan.target {
            SinkTarget::Stdout | SinkTarget::Stderr | SinkTarget::Other(_) => None,
            SinkTarget::File(path) => Some(open(path)?),
        };
        Ok(Self { plan, file, line: String::new(), failing: false })
    }

    fn reopen(&mut self) {
        if let SinkTarget::File(path) = &self.plan.target {
            match open(path) {
                Ok(file) => self.file = Some(file),
                Err(error) => {
                    tracing::error!(%error, "cannot reopen the access log; writing continues to the old file");
                }
            }
        }
    }

    fn finish(&self) {
        if let SinkTarget::Other(other) = &self.plan.target {
            other.finish();
        }
    }

    fn write(&mut self, unwritten: &Counter) {
        if let SinkTarget::Other(other) = &self.plan.target {
            unwritten.add(other.lost());
        }
        if self.line.is_empty() {
            return;
        }
        let (written, done) = match &mut self.file {
            Some(file) => write_what_goes(file, self.line.as_bytes()),
            None if matches!(self.plan.target, SinkTarget::Stderr) => {
                write_what_goes(&mut io::stderr().lock(), self.line.as_bytes())
            }
            None => write_what_goes(&mut io::stdout().lock(), self.line.as_bytes()),
        };
        match done {
            Ok(()) => self.failing = false,
            Err(error) => {
                let rest = &self.line.as_bytes()[written..];
                unwritten.add(rest.iter().filter(|byte| **byte == b'\n').count() as u64);
                // A full disk stays full for a while; log it once.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(target = ?self.plan.target, %error, "access log records are being lost");
                }
            }
        }
        self.line.clear();
    }
}

/// Writes until something fails; returns how much was written.
fn write_what_goes(target: &mut impl io::Write, text: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < text.len() {
        match target.write(&text[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, target.flush())
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot open {} for appending: {error}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests;
