//! Fetches with a scripted origin.

use std::collections::VecDeque;
use std::future::Future;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_core::Limits;
use sluice_core::clock::ClockOrigin;
use sluice_io::Budget;
use sluice_telemetry::{LogQueue, Registry};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A list of words.
#[derive(Debug, PartialEq, Eq)]
struct Words(Vec<String>);

impl Content for Words {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8")?;
        Ok(Self(text.split(' ').map(str::to_owned).collect()))
    }
}

/// What a scripted origin does at an attempt.
#[derive(Clone, Debug)]
enum Act {
    Has(&'static [u8]),
    Fails(&'static str),
    Stalls,
}

/// Does what it is told at each attempt, the last thing for ever.
#[derive(Clone, Debug)]
struct Scripted {
    acts: Arc<Mutex<VecDeque<Act>>>,
    attempts: Arc<AtomicUsize>,
}

impl Scripted {
    fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        let acts = Arc::new(Mutex::new(acts.into_iter().collect()));
        Self { acts, attempts: Arc::default() }
    }

    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }
}

impl FetchOrigin for Scripted {
    fn name(&self) -> String {
        "scripted".into()
    }

    fn fetch(&self, _: &Rc<WorkerCx>, _: Moment) -> LocalFuture<Result<Vec<u8>, String>> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let mut acts = self.acts.lock().unwrap();
        let act = if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() };
        Box::pin(async move {
            match act.expect("it has an act") {
                Act::Has(content) => Ok(content.to_vec()),
                Act::Fails(why) => Err(why.to_owned()),
                Act::Stalls => std::future::pending().await,
            }
        })
    }
}

/// Refreshed never, and refetched whenever it is asked for.
fn on_demand() -> FetchSchedule {
    FetchSchedule { refresh: HOUR, timeout: HOUR, refetch_after: Duration::ZERO }
}

/// Runs a test on a control thread with this many fetches at once.
fn with_control<F: Future>(
    fetches: u64,
    test: impl FnOnce(Rc<WorkerCx>, Fetches, Rc<FetchRunner>) -> F,
) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let shard = Registry::new().shard(1);
        let (log, mut limits) = (LogQueue::nowhere(&shard), Limits::default());
        limits.set(Limit::Fetches, fetches).unwrap();
        let clock = ClockOrigin::read().clock();
        let worker = WorkerCx::new(0, clock, shard, log, limits, &Budget::unlimited());
        worker.start();
        let runner = FetchRunner::new(Rc::clone(&worker));
        test(worker, Fetches::default(), runner).await
    })
}

fn words(of: Option<Arc<Words>>) -> String {
    of.map_or_else(|| "nothing".into(), |words| words.0.join("+"))
}

#[test]
fn the_last_content_that_parses_stays_in_use() {
    let origin = Scripted::new([
        Act::Has(b"a b"),
        Act::Fails("answered 503"),
        Act::Has(b"\xff"),
        Act::Has(b"a b"),
        Act::Has(b"c"),
    ]);
    with_control(1, async |worker, fetches, runner| {
        let fetched = fetches.declare::<Words>(Arc::new(origin.clone()), on_demand());
        assert!(fetched.current().is_none() && fetched.age(worker.now()).is_none());
        fetches.start(&runner);
        assert_eq!(words(fetched.first(&worker, Moment::NEVER).await), "a+b");
        let kept = fetched.current().unwrap();
        let status = |expected: Option<&str>| {
            fetches.each(|name, _, status| {
                assert_eq!(
                    (name, status.failure().as_deref().map(String::as_str)),
                    ("scripted", expected)
                );
            });
        };
        status(None);
        for failure in
            [Some("answered 503"), Some("the content is not valid: it is not UTF-8"), None]
        {
            fetched.renewed(&worker, Moment::NEVER).await;
            assert!(Arc::ptr_eq(&fetched.current().unwrap(), &kept), "the same is not new");
            status(failure);
        }
        assert_eq!(words(fetched.renewed(&worker, Moment::NEVER).await), "c");
        assert_eq!(origin.attempts(), 5);
    });
}

#[test]
fn an_attempt_that_is_asked_for_has_a_distance_from_the_last() {
    let origin = Scripted::new([Act::Has(b"a"), Act::Has(b"b")]);
    with_control(1, async |worker, fetches, runner| {
        let schedule = FetchSchedule { refetch_after: HOUR, ..on_demand() };
        let fetched = fetches.declare::<Words>(Arc::new(origin.clone()), schedule);
        fetches.start(&runner);
        fetched.first(&worker, Moment::NEVER).await;
        for _ in 0..100 {
            assert_eq!(words(fetched.renewed(&worker, Moment::NEVER).await), "a");
        }
        assert_eq!(origin.attempts(), 1);
    });
}

#[test]
fn many_that_ask_at_once_get_one_attempt() {
    let origin = Scripted::new([Act::Has(b"a"), Act::Has(b"b")]);
    with_control(1, async |worker, fetches, runner| {
        let fetched = fetches.declare::<Words>(Arc::new(origin.clone()), on_demand());
        fetches.start(&runner);
        fetched.first(&worker, Moment::NEVER).await;
        let asked: Vec<_> = (0..50)
            .map(|_| tokio::task::spawn_local(fetched.renewed(&worker, Moment::NEVER)))
            .collect();
        for renewed in asked {
            assert_eq!(words(renewed.await.unwrap()), "b");
        }
        // One was in flight, and those who asked before it began may have led to one more.
        assert!(origin.attempts() <= 3, "{}", origin.attempts());
    });
}

#[test]
fn nothing_outlasts_an_origin_that_stalls() {
    let origin = Scripted::new([Act::Stalls]);
    with_control(1, async |worker, fetches, runner| {
        let soon = Duration::from_millis(5);
        let schedule = FetchSchedule { timeout: soon, ..on_demand() };
        let fetched = fetches.declare::<Words>(Arc::new(origin.clone()), schedule);
        // Before the fetch runs, only the deadline ends the wait.
        assert!(fetched.first(&worker, worker.now().after(soon)).await.is_none());
        assert!(fetched.renewed(&worker, worker.now().after(soon)).await.is_none());
        fetches.start(&runner);
        assert!(fetched.renewed(&worker, Moment::NEVER).await.is_none());
        fetches.each(|_, _, status| {
            let failure = status.failure();
            assert_eq!(failure.as_deref().map(String::as_str), Some("no content within 5 ms"));
        });
    });
}

#[test]
fn a_fetch_waits_while_enough_others_are_in_flight_and_ends_with_its_last_handle() {
    let (stalls, waits) = (Scripted::new([Act::Stalls]), Scripted::new([Act::Has(b"a")]));
    with_control(1, async |worker, fetches, runner| {
        let first = fetches.declare::<Words>(Arc::new(stalls.clone()), on_demand());
        fetches.start(&runner);
        while stalls.attempts() == 0 {
            tokio::task::yield_now().await;
        }
        let schedule = FetchSchedule { timeout: Duration::from_secs(60), ..on_demand() };
        let second = fetches.declare::<Words>(Arc::new(waits.clone()), schedule);
        fetches.start(&runner);
        let soon = worker.now().after(Duration::from_millis(5));
        assert!(second.first(&worker, soon).await.is_none());
        assert_eq!(waits.attempts(), 0);
        let clone = first.clone();
        drop(first);
        assert_eq!(fetches.declare::<Words>(Arc::new(stalls.clone()), on_demand()).current(), None);
        drop(clone);
        // Its attempt ends with it, and makes room for the other.
        assert_eq!(words(second.first(&worker, Moment::NEVER).await), "a");
        drop(second);
        assert_eq!(format!("{fetches:?}"), "[]");
    });
}

#[test]
fn equal_fetches_are_one() {
    /// The same content as another type.
    struct Bytes;

    impl Content for Bytes {
        fn parse(_: &[u8]) -> Result<Self, String> {
            Ok(Self)
        }
    }

    let (fetches, origin) = (Fetches::default(), || Arc::new(Scripted::new([])));
    let one = fetches.declare::<Words>(origin(), on_demand());
    let two = fetches.declare::<Words>(origin(), on_demand());
    assert!(Arc::ptr_eq(&one.0, &two.0));
    let other = FetchSchedule { refresh: Duration::from_secs(1), ..on_demand() };
    let other = fetches.declare::<Words>(origin(), other);
    assert!(!Arc::ptr_eq(&one.0, &other.0));
    let _typed = fetches.declare::<Bytes>(origin(), on_demand());
    assert_eq!(format!("{fetches:?}"), r#"["scripted", "scripted", "scripted"]"#);
}

#[test]
fn a_file_is_read_again_when_it_changes() {
    let mut file = tempfile();
    let path = file.1.clone();
    with_control(1, async |worker, fetches, runner| {
        file.0.write_all(b"a").unwrap();
        let origin = Arc::new(FileOrigin { path: path.clone(), limit: Limit::SideCallBytes });
        let schedule = FetchSchedule { refetch_after: HOUR, ..on_demand() };
        let fetched = fetches.declare::<Words>(origin, schedule);
        assert_eq!(fetches.files(), [path]);
        fetches.start(&runner);
        assert_eq!(words(fetched.first(&worker, Moment::NEVER).await), "a");
        file.0.write_all(b" b").unwrap();
        let mut ended = fetched.0.fetch.ended.subscribe();
        fetches.reread();
        ended.changed().await.unwrap();
        assert_eq!(words(fetched.current()), "a+b");
    });
    std::fs::remove_file(&file.1).unwrap();
}

#[test]
fn a_file_that_was_read_when_it_was_declared_is_new_only_once_it_changes() {
    let mut file = tempfile();
    let path = file.1.clone();
    with_control(1, async |_, fetches, runner| {
        file.0.write_all(b"a").unwrap();
        let fetched = fetches
            .declare_file::<Words>(FileOrigin { path, limit: Limit::SideCallBytes })
            .unwrap();
        let first = fetched.current().unwrap();
        let mut ended = fetched.0.fetch.ended.subscribe();
        fetches.start(&runner);
        ended.changed().await.unwrap();
        let current = fetched.current().unwrap();
        assert!(Arc::ptr_eq(&first, &current), "what was made of it counts as long as it stays");
        file.0.write_all(b" b").unwrap();
        fetches.reread();
        ended.changed().await.unwrap();
        assert_eq!(words(fetched.current()), "a+b");
    });
    std::fs::remove_file(&file.1).unwrap();
}

#[test]
fn what_cannot_be_read_says_why() {
    let (mut file, path) = tempfile();
    file.write_all(b"12345").unwrap();
    assert_eq!(read(&path, 5, Limit::SideCallBytes).unwrap(), b"12345");
    let said = |path: &Path, max| read(path, max, Limit::SideCallBytes).unwrap_err();
    assert_eq!(said(&path, 4), "has more than 4 bytes (`limits.side_call_bytes`)");
    assert_eq!(said(&std::env::temp_dir(), 4), "is not a file");
    std::fs::remove_file(&path).unwrap();
    assert!(said(&path, 4).starts_with("cannot be read: "));
}

/// A new file, and its path.
fn tempfile() -> (std::fs::File, PathBuf) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("sluice-fetch-{}-{number}", std::process::id()));
    (std::fs::File::create(&path).unwrap(), path)
}
