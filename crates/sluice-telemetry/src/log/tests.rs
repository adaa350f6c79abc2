use super::*;
use crate::metrics::Registry;
use crate::template::{Argument, Operator, TemplateField};

const N: Operator = Operator::plain("N", "");

struct Numbered(u64);
impl Record for Numbered {
    fn kind(&self) -> RecordKind {
        RecordKind::Connection
    }

    fn field(&self, _: &Operator, _: &Argument) -> TemplateField<'_> {
        TemplateField::Number(self.0)
    }
}

fn file_sink(path: &std::path::Path) -> SinkPlan {
    SinkPlan {
        target: SinkTarget::File(path.into()),
        kinds: RecordKind::Connection.bit(),
        template: Template::text("%N%", &[&N]).unwrap(),
    }
}

#[test]
fn records_come_out_in_order_and_follow_a_moved_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let hub = LogHub::start(&Registry::new(), 9).unwrap();
    let queue = hub.queue(1024).take_root(&Registry::new().shard(1), "0");
    assert!(!queue.wants(RecordKind::Connection));
    hub.use_sinks(OpenSinks::open(vec![file_sink(&path)]).unwrap());
    assert!(queue.wants(RecordKind::Connection) && !queue.wants(RecordKind::Flow));
    (0..500).for_each(|n| queue.push(Box::new(Numbered(n))));
    hub.flush();
    std::fs::rename(&path, &moved).unwrap();
    hub.reopen();
    queue.push(Box::new(Numbered(500)));
    hub.flush();
    let expected: String = (0..500).map(|n| format!("{n}\n")).collect();
    assert_eq!(std::fs::read_to_string(moved).unwrap(), expected);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "500\n");
}

#[test]
fn a_full_queue_drops_and_counts() {
    let registry = Registry::new();
    let ring: Ring = Arc::new(ArrayQueue::new(2));
    let shared = Arc::new(LogShared {
        wanted: AtomicU8::new(1),
        pending: AtomicBool::new(false),
        rings: Mutex::default(),
    });
    let seed = QueueSeed { ring, shared, thread: std::thread::current() };
    let queue = seed.take_root(&registry.shard(1), "0");
    (0..5).for_each(|n| queue.push(Box::new(Numbered(n))));
    assert_eq!(registry.value(DROPPED.name, &["0"]), Some(3));
}

#[test]
fn a_file_that_cannot_be_opened_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let hub = LogHub::start(&Registry::new(), 9).unwrap();
    hub.use_sinks(OpenSinks::open(vec![file_sink(&folder.path().join("log"))]).unwrap());
    let error = OpenSinks::open(vec![file_sink(folder.path())]).unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
    assert_eq!(hub.shared.wanted.load(Ordering::Relaxed), RecordKind::Connection.bit());
}

#[test]
fn records_that_cannot_be_written_are_counted() {
    let registry = Registry::new();
    let hub = LogHub::start(&registry, 9).unwrap();
    // A device that is always full.
    hub.use_sinks(OpenSinks::open(vec![file_sink(std::path::Path::new("/dev/full"))]).unwrap());
    let queue = hub.queue(8).take_root(&registry.shard(1), "0");
    (0..3).for_each(|n| queue.push(Box::new(Numbered(n))));
    hub.flush();
    assert_eq!(registry.value(UNWRITTEN.name, &[]), Some(3));
}
