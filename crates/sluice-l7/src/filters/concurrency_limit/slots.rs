//! The slots of requests that are counted together, and those that wait for one.
//!
//! Owns: how many are taken, over all workers, and the order of those that wait. Refuses to know: requests, time. Keeps: never
//! more slots are taken than the limit allows; a slot is given back when what holds it is dropped, and then goes to the
//! request that has waited longest; nothing that was dropped is waited for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use sluice_core::Moment;
use sluice_l4::filters::buckets::KeyState;

/// The slots of a key.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<SlotState>);

#[derive(Debug, Default)]
struct SlotState {
    taken: u32,
    /// The limit, as the latest request knew it.
    max: u32,
    /// In the order in which they came.
    waiting: VecDeque<SlotSeeker>,
    /// The number of the next place.
    next: u64,
}

/// The place of a request that waits.
#[derive(Debug)]
struct SlotSeeker {
    number: u64,
    waker: Option<Waker>,
}

/// A slot; given back on drop.
#[derive(Debug)]
pub(super) struct TakenSlot(Arc<Slots>);

/// Waits for a slot; leaves its place on drop, or gives the slot back that came too late.
#[derive(Debug)]
pub(super) struct SlotWait {
    slots: Arc<Slots>,
    /// Until the slot is handed over.
    number: Option<u64>,
}

impl Slots {
    /// Takes a slot, of at most `max`.
    pub(super) fn take(self: &Arc<Self>, max: u32) -> Option<TakenSlot> {
        let mut state = self.lock();
        state.max = max;
        let woken = state.hand_over();
        let free = state.taken < max;
        state.taken += u32::from(free);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        free.then(|| TakenSlot(Arc::clone(self)))
    }

    /// Waits for a slot, unless `waiting_max` others do.
    pub(super) fn wait(self: &Arc<Self>, waiting_max: u32) -> Option<SlotWait> {
        let mut state = self.lock();
        if state.waiting.len() >= waiting_max as usize {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(SlotSeeker { number, waker: None });
        Some(SlotWait { slots: Arc::clone(self), number: Some(number) })
    }

    fn give_back(&self) {
        let mut state = self.lock();
        state.taken = state.taken.saturating_sub(1);
        let woken = state.hand_over();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotState {
    /// Takes free slots for those that wait; a place that is gone has one.
    fn hand_over(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.taken < self.max
            && let Some(place) = self.waiting.pop_front()
        {
            self.taken += 1;
            woken.extend(place.waker);
        }
        woken
    }

    /// Where a place is; places are in the order of their numbers.
    fn find(&self, number: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&number, |place| place.number).ok()
    }
}

impl KeyState for Slots {
    fn is_blank(&self, _: Moment) -> bool {
        let state = self.lock();
        state.taken == 0 && state.waiting.is_empty()
    }
}

impl Drop for TakenSlot {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Future for SlotWait {
    type Output = TakenSlot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TakenSlot> {
        let number = self.number.expect("a future is not polled after it was ready");
        let mut state = self.slots.lock();
        if let Some(at) = state.find(number) {
            state.waiting[at].waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.number = None;
        Poll::Ready(TakenSlot(Arc::clone(&self.slots)))
    }
}

impl Drop for SlotWait {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.slots.lock();
        if let Some(at) = state.find(number) {
            state.waiting.remove(at);
            return;
        }
        drop(state);
        self.slots.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn poll(wait: &mut Option<SlotWait>) -> Option<TakenSlot> {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = pin!(wait.as_mut()?).poll(&mut cx);
        match polled {
            Poll::Ready(slot) => {
                *wait = None;
                Some(slot)
            }
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_slot_goes_to_the_request_that_has_waited_longest() {
        let slots = Arc::new(Slots::default());
        let first = slots.take(1).unwrap();
        assert!(slots.take(1).is_none());
        let (mut second, mut third) = (slots.wait(2), slots.wait(2));
        assert!(slots.wait(2).is_none(), "two may wait");
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(first);
        assert!(slots.take(1).is_none(), "a request that comes now stands behind");
        assert!(poll(&mut third).is_none());
        let slot = poll(&mut second).unwrap();
        // The third leaves, then the second is done.
        drop((third, slot));
        assert!(slots.is_blank(Moment::default()));
        assert!(slots.take(1).is_some());
    }

    #[test]
    fn a_slot_that_came_too_late_goes_on_to_the_next() {
        let slots = Arc::new(Slots::default());
        let first = slots.take(1).unwrap();
        let (second, mut third) = (slots.wait(2), slots.wait(2));
        drop(first);
        drop(second);
        assert!(poll(&mut third).is_some());
        assert!(slots.is_blank(Moment::default()));
    }

    #[test]
    fn a_higher_limit_lets_those_that_wait_in_first() {
        let slots = Arc::new(Slots::default());
        let _first = slots.take(1).unwrap();
        let mut second = slots.wait(9);
        assert!(slots.take(2).is_none());
        let _second = poll(&mut second).unwrap();
        let _third = slots.take(3).unwrap();
        assert!(slots.take(1).is_none(), "a lower one holds for those that come");
    }

    /// The plain version: a list of holders and one of waiters.
    #[test]
    fn slots_are_as_in_a_plain_model_whatever_happens() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let slots = Arc::new(Slots::default());
            let (mut max, waiting_max) = (random.u32(1..5), random.u32(0..5));
            let (mut held, mut model_held) = (Vec::<(u32, TakenSlot)>::new(), Vec::<u32>::new());
            let (mut waits, mut model_waits) = (Vec::<(u32, SlotWait)>::new(), Vec::<u32>::new());
            // What has a slot and has not noticed yet is held in the model.
            for name in 0..400_u32 {
                match random.u32(..6) {
                    0..=2 => {
                        if random.u32(..20) == 0 {
                            max = random.u32(1..5);
                        }
                        let slot = slots.take(max);
                        while model_held.len() < max as usize && !model_waits.is_empty() {
                            model_held.push(model_waits.remove(0));
                        }
                        assert_eq!(slot.is_some(), model_held.len() < max as usize, "seed {seed}");
                        if let Some(slot) = slot {
                            held.push((name, slot));
                            model_held.push(name);
                        } else {
                            let wait = slots.wait(waiting_max);
                            let fits = model_waits.len() < waiting_max as usize;
                            assert_eq!(wait.is_some(), fits, "seed {seed}");
                            if let Some(wait) = wait {
                                waits.push((name, wait));
                                model_waits.push(name);
                            }
                        }
                    }
                    3 if !held.is_empty() => {
                        let (name, slot) = held.swap_remove(random.usize(..held.len()));
                        drop(slot);
                        model_held.retain(|held| *held != name);
                    }
                    4 if !waits.is_empty() => {
                        let (name, wait) = waits.swap_remove(random.usize(..waits.len()));
                        drop(wait);
                        model_held.retain(|held| *held != name);
                        model_waits.retain(|waits| *waits != name);
                    }
                    _ if !waits.is_empty() => {
                        let (name, wait) = waits.swap_remove(random.usize(..waits.len()));
                        let mut wait = Some(wait);
                        let slot = poll(&mut wait);
                        assert_eq!(slot.is_some(), model_held.contains(&name), "seed {seed}");
                        held.extend(slot.map(|slot| (name, slot)));
                        waits.extend(wait.map(|wait| (name, wait)));
                    }
                    _ => {}
                }
                while model_held.len() < max as usize && !model_waits.is_empty() {
                    model_held.push(model_waits.remove(0));
                }
                let state = slots.lock();
                assert_eq!(state.taken as usize, model_held.len(), "seed {seed}");
                assert_eq!(state.waiting.len(), model_waits.len(), "seed {seed}");
            }
            drop((held, waits));
            assert!(slots.is_blank(Moment::default()), "seed {seed}: all is given back");
        }
    }

    #[test]
    fn threads_never_hold_more_slots_than_there_are() {
        use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
        let (slots, inside) = (Arc::new(Slots::default()), AtomicU32::new(0));
        let entered: u32 = std::thread::scope(|scope| {
            let work = || {
                let mut entered = 0;
                for _ in 0..2_000 {
                    let slot = slots.take(3);
                    let slot = slot.or_else(|| poll(&mut slots.wait(8)));
                    if let Some(slot) = slot {
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        inside.fetch_sub(1, SeqCst);
                        drop(slot);
                        entered += 1;
                    }
                }
                entered
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(entered > 0 && slots.is_blank(Moment::default()));
    }
}
