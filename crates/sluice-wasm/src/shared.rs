//! What instances of the process share: data by key, and queues.
//!
//! Owns: the tables and their bounds. Refuses to know: guests. Keeps: instances share with those of the same `vm.id` only, on all
//! workers; a queue of another is found by its `vm.id` and name.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::abi::Status;
use crate::limits::{QUEUE_BYTES, QUEUE_ENTRIES, QUEUES, SHARED_BYTES, SHARED_ENTRIES};

static DATA: LazyLock<Mutex<HashMap<String, SharedData>>> = LazyLock::new(Mutex::default);
static ALL_QUEUES: LazyLock<Mutex<Vec<Arc<SharedQueue>>>> = LazyLock::new(Mutex::default);

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is within is whole after each statement.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The data of one `vm.id`.
#[derive(Debug, Default)]
struct SharedData {
    entries: HashMap<String, (Vec<u8>, u32)>,
    bytes: usize,
    cas: u32,
}

/// A value, and the number that it is replaced with.
pub(crate) fn data(vm: &str, key: &str) -> Option<(Vec<u8>, u32)> {
    lock(&DATA).get(vm)?.entries.get(key).cloned()
}

/// Sets a value, or removes it if it is empty; `cas` is the number that was read with the last one, or 0 for any.
///
/// # Errors
/// Another was set meanwhile, or there is no room.
pub(crate) fn set_data(vm: &str, key: &str, value: &[u8], cas: u32) -> Result<(), Status> {
    let mut all = lock(&DATA);
    let of = all.entry(vm.to_owned()).or_default();
    let before = of.entries.get(key);
    if cas != 0 && before.is_some_and(|(_, current)| *current != cas) {
        return Err(Status::CasMismatch);
    }
    let freed = before.map_or(0, |(value, _)| key.len() + value.len());
    let bytes = of.bytes - freed + key.len() + value.len();
    let is_new = before.is_none();
    if bytes > SHARED_BYTES || is_new && of.entries.len() >= SHARED_ENTRIES {
        return Err(Status::InternalFailure);
    }
    of.bytes = bytes;
    // 0 stands for any.
    of.cas = of.cas.checked_add(1).unwrap_or(1);
    of.entries.insert(key.to_owned(), (value.to_vec(), of.cas));
    Ok(())
}

/// A queue.
#[derive(Debug)]
pub(crate) struct SharedQueue {
    /// From 1.
    pub(crate) id: u32,
    vm: String,
    name: String,
    inner: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    entries: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How often something was put into it.
    filled: u64,
    /// Of those that registered it.
    wakers: Vec<Waker>,
}

/// The queue of that name, made if there is none.
///
/// # Errors
/// There are too many.
pub(crate) fn register(vm: &str, name: &str) -> Result<Arc<SharedQueue>, Status> {
    let mut all = lock(&ALL_QUEUES);
    if let Some(known) = all.iter().find(|queue| queue.vm == vm && queue.name == name) {
        return Ok(Arc::clone(known));
    }
    if all.len() >= QUEUES {
        return Err(Status::InternalFailure);
    }
    let id = u32::try_from(all.len() + 1).map_err(|_| Status::InternalFailure)?;
    let inner = Mutex::default();
    let made = Arc::new(SharedQueue { id, vm: vm.to_owned(), name: name.to_owned(), inner });
    all.push(Arc::clone(&made));
    Ok(made)
}

/// The queue of that name.
pub(crate) fn resolve(vm: &str, name: &str) -> Option<Arc<SharedQueue>> {
    let all = lock(&ALL_QUEUES);
    all.iter().find(|queue| queue.vm == vm && queue.name == name).cloned()
}

/// The queue of that number.
pub(crate) fn queue(id: u32) -> Option<Arc<SharedQueue>> {
    lock(&ALL_QUEUES).get((id as usize).checked_sub(1)?).cloned()
}

impl SharedQueue {
    /// Adds an entry.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn push(&self, entry: &[u8]) -> Result<(), Status> {
        let mut inner = lock(&self.inner);
        if inner.bytes + entry.len() > QUEUE_BYTES || inner.entries.len() >= QUEUE_ENTRIES {
            return Err(Status::InternalFailure);
        }
        inner.bytes += entry.len();
        inner.entries.push_back(entry.to_vec());
        inner.filled += 1;
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Takes the oldest entry.
    pub(crate) fn pop(&self) -> Option<Vec<u8>> {
        let mut inner = lock(&self.inner);
        let entry = inner.entries.pop_front()?;
        inner.bytes -= entry.len();
        Some(entry)
    }

    /// How often something was put into it.
    pub(crate) fn filled(&self) -> u64 {
        lock(&self.inner).filled
    }

    /// Waits until something was put into it after `seen`.
    pub(crate) fn poll_filled(&self, seen: u64, waker: &Waker) -> Poll<u64> {
        let mut inner = lock(&self.inner);
        if inner.filled != seen {
            return Poll::Ready(inner.filled);
        }
        if !inner.wakers.iter().any(|known| known.will_wake(waker)) {
            inner.wakers.push(waker.clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_replaced_by_who_read_it_last() {
        assert_eq!(data("data-test", "k"), None);
        assert_eq!(set_data("data-test", "k", b"1", 0), Ok(()));
        let (value, cas) = data("data-test", "k").unwrap();
        assert_eq!(value, b"1");
        assert_eq!(set_data("data-test", "k", b"2", cas), Ok(()));
        assert_eq!(set_data("data-test", "k", b"3", cas), Err(Status::CasMismatch));
        assert_eq!(data("data-test", "k").unwrap().0, b"2");
        assert_eq!(data("data-other", "k"), None);
    }

    #[test]
    fn data_and_queues_have_bounded_room() {
        let half = vec![0; SHARED_BYTES / 2];
        assert_eq!(set_data("room-test", "a", &half, 0), Ok(()));
        assert_eq!(set_data("room-test", "b", &half, 0), Err(Status::InternalFailure));
        assert_eq!(set_data("room-test", "a", &half, 0), Ok(()));
        let queue = register("room-test", "q").unwrap();
        assert_eq!(queue.push(&vec![0; QUEUE_BYTES]), Ok(()));
        assert_eq!(queue.push(b"x"), Err(Status::InternalFailure));
        assert!(queue.pop().is_some());
        assert_eq!(queue.push(b"x"), Ok(()));
    }

    #[test]
    fn a_queue_is_found_by_instance_and_name() {
        let made = register("queue-test", "q").unwrap();
        assert_eq!(register("queue-test", "q").unwrap().id, made.id);
        assert_eq!(resolve("queue-test", "q").unwrap().id, made.id);
        assert_eq!(queue(made.id).unwrap().name, "q");
        assert!(resolve("queue-test", "other").is_none() && queue(0).is_none());
        let seen = made.filled();
        assert!(made.poll_filled(seen, Waker::noop()).is_pending());
        made.push(b"a").unwrap();
        assert!(made.poll_filled(seen, Waker::noop()).is_ready());
        assert_eq!((made.pop(), made.pop()), (Some(b"a".to_vec()), None));
    }
}
