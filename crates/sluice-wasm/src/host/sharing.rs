//! Shared data, shared queues and metrics.
//!
//! Owns: how guests name them. Refuses to know: where they are kept. Keeps: a number that was not given out is not found.

use crate::abi::Status;
use crate::guest::{Guest, HostFault, HostResult};
use crate::{counters, events, shared};

/// Counts a bound that an operation reached.
fn counted<T>(
    guest: &Guest<'_, '_>,
    limit: &'static str,
    done: Result<T, Status>,
) -> HostResult<T> {
    if matches!(done, Err(Status::InternalFailure)) {
        guest.state().count_limit(limit);
    }
    done.map_err(HostFault::Status)
}

/// `proxy_get_shared_data`.
pub(super) fn data(
    guest: &mut Guest<'_, '_>,
    key: u32,
    length: u32,
    value_at: u32,
    length_at: u32,
    cas_at: u32,
) -> HostResult {
    let key = guest.text(key, length)?;
    let found = shared::data(&guest.state().setup.id, &key);
    let (value, cas) = found.ok_or(Status::NotFound)?;
    guest.give(&value, value_at, length_at)?;
    guest.write_u32(cas_at, cas)
}

/// `proxy_set_shared_data`.
pub(super) fn set_data(
    guest: &mut Guest<'_, '_>,
    key: u32,
    length: u32,
    value: u32,
    value_length: u32,
    cas: u32,
) -> HostResult {
    let (key, value) = (guest.text(key, length)?, guest.short(value, value_length)?);
    let done = shared::set_data(&guest.state().setup.id, &key, &value, cas);
    counted(guest, "shared_data", done)
}

/// `proxy_register_shared_queue`: the root context learns of what is put into it.
pub(super) fn register(
    guest: &mut Guest<'_, '_>,
    name: u32,
    length: u32,
    queue_at: u32,
) -> HostResult {
    let name = guest.text(name, length)?;
    let state = guest.state();
    let root = state.context()?.root;
    let queue = counted(guest, "queues", shared::register(&state.setup.id, &name))?;
    if let Some(worker) = &state.worker {
        events::queue(worker, &state.events, root, &queue);
    }
    guest.write_u32(queue_at, queue.id)
}

/// `proxy_resolve_shared_queue`.
pub(super) fn resolve(
    guest: &mut Guest<'_, '_>,
    vm: u32,
    vm_length: u32,
    name: u32,
    length: u32,
    queue_at: u32,
) -> HostResult {
    let (vm, name) = (guest.text(vm, vm_length)?, guest.text(name, length)?);
    let queue = shared::resolve(&vm, &name).ok_or(Status::NotFound)?;
    guest.write_u32(queue_at, queue.id)
}

/// `proxy_enqueue_shared_queue`.
pub(super) fn enqueue(guest: &mut Guest<'_, '_>, queue: u32, at: u32, length: u32) -> HostResult {
    let entry = guest.short(at, length)?;
    let queue = shared::queue(queue).ok_or(Status::NotFound)?;
    counted(guest, "queue", queue.push(&entry))
}

/// `proxy_dequeue_shared_queue`.
pub(super) fn dequeue(
    guest: &mut Guest<'_, '_>,
    queue: u32,
    bytes_at: u32,
    length_at: u32,
) -> HostResult {
    let queue = shared::queue(queue).ok_or(Status::NotFound)?;
    let entry = queue.pop().ok_or(Status::Empty)?;
    guest.give(&entry, bytes_at, length_at)
}

/// `proxy_define_metric`.
pub(super) fn define_metric(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    name: u32,
    length: u32,
    metric_at: u32,
) -> HostResult {
    let name = guest.text(name, length)?;
    let plugin = guest.state().plugin()?;
    let made = counted(guest, "metrics", counters::define(kind, &plugin.listener, &name))?;
    guest.write_u32(metric_at, made.id)
}

/// `proxy_increment_metric`.
pub(super) fn increment_metric(guest: &mut Guest<'_, '_>, metric: u32, by: i64) -> HostResult {
    let metric = counters::metric(metric).ok_or(Status::NotFound)?;
    Ok(metric.increment(by, guest.state().worker.as_deref())?)
}

/// `proxy_record_metric`.
pub(super) fn record_metric(guest: &mut Guest<'_, '_>, metric: u32, value: u64) -> HostResult {
    let metric = counters::metric(metric).ok_or(Status::NotFound)?;
    metric.record(value, guest.state().worker.as_deref());
    Ok(())
}

/// `proxy_get_metric`.
pub(super) fn metric(guest: &mut Guest<'_, '_>, metric: u32, value_at: u32) -> HostResult {
    let metric = counters::metric(metric).ok_or(Status::NotFound)?;
    guest.write_u64(value_at, metric.value())
}
