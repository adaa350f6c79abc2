//! The timers of a worker: the wheel, driven by the runtime.
//!
//! Owns: one task that sleeps until the wheel has work to do. Refuses to know: what waits.
//! Keeps: without deadlines nothing is armed; a deadline costs no runtime timer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use pin_project_lite::pin_project;
use sluice_core::{Clock, Moment};

use crate::turn;
use crate::wheel::{TimerKey, Wheel, start_of, tick_after, tick_of};

/// The deadlines of one worker.
#[derive(Debug)]
pub struct Timers {
    clock: Clock,
    wheel: RefCell<Wheel<Option<Waker>>>,
    /// The tick that the driver sleeps until.
    armed: Cell<u64>,
    driver: RefCell<Option<Waker>>,
}

impl Timers {
    /// Creates an empty set of deadlines. They expire only while [`Timers::drive`] runs.
    pub fn new(clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            clock,
            wheel: RefCell::default(),
            armed: Cell::new(u64::MAX),
            driver: RefCell::default(),
        })
    }

    /// Wakes tasks whose deadlines are due; returns the tick of the next deadline. [`Timers::drive`] does it; a test whose
    /// clock is held does it after each step of that clock.
    pub fn expire(&self) -> u64 {
        let now = self.clock.now();
        let mut due = Vec::new();
        let next = {
            let mut wheel = self.wheel.borrow_mut();
            wheel.advance(tick_of(now), |waker| due.extend(waker.take()));
            wheel.next().unwrap_or(u64::MAX)
        };
        // A woken task must not see a time before its deadline.
        turn::next();
        due.into_iter().for_each(Waker::wake);
        self.armed.set(next);
        next
    }

    /// Wakes tasks whose deadlines are due, forever.
    pub async fn drive(self: Rc<Self>) {
        loop {
            let next = self.expire();
            let until = if next == u64::MAX { None } else { self.clock.instant(start_of(next)) };
            let mut sleep = pin!(async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            });
            // Woken by the clock, or when an earlier deadline is set.
            poll_fn(|cx| {
                *self.driver.borrow_mut() = Some(cx.waker().clone());
                if self.armed.get() < next { Poll::Ready(()) } else { sleep.as_mut().poll(cx) }
            })
            .await;
        }
    }

    fn set(&self, key: TimerKey, at: Moment) {
        let tick = tick_after(at);
        self.wheel.borrow_mut().set(key, tick);
        if tick < self.armed.get() {
            self.armed.set(tick);
            if let Some(driver) = &*self.driver.borrow() {
                driver.wake_by_ref();
            }
        }
    }
}

/// One deadline, moved by its owner. Removed on drop.
#[derive(Debug)]
pub struct Timer {
    timers: Rc<Timers>,
    key: TimerKey,
}

impl Timer {
    /// Creates a deadline that never expires until it is set.
    pub fn new(timers: &Rc<Timers>) -> Self {
        let key = timers.wheel.borrow_mut().insert(None);
        Self { timers: Rc::clone(timers), key }
    }

    /// Moves the deadline. Postponing is cheap: it writes a field.
    pub fn set(&self, at: Moment) {
        self.timers.set(self.key, at);
    }

    /// Ready once the deadline has passed; otherwise wakes the task of `cx` at that time.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut wheel = self.timers.wheel.borrow_mut();
        if wheel.is_due(self.key) {
            return Poll::Ready(());
        }
        let waker = wheel.value(self.key);
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Timer {
    /// Runs `phase` until it completes or `by` has passed; then the error is [`Late`].
    pub fn until<F: Future>(&self, by: Moment, phase: F) -> Until<'_, F> {
        self.set(by);
        Until { timer: self, phase }
    }

    /// Waits until `by` has passed.
    pub async fn passed(&self, by: Moment) {
        // It is late, which is what is waited for.
        let _ = self.until(by, std::future::pending::<()>()).await;
    }
}

pin_project! {
    /// See [`Timer::until`].
    #[derive(Debug)]
    pub struct Until<'a, F> {
        timer: &'a Timer,
        #[pin]
        phase: F,
    }
}

impl<F: Future> Future for Until<'_, F> {
    type Output = Result<F::Output, Late>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let done = match this.phase.poll(cx) {
            Poll::Ready(value) => Ok(value),
            Poll::Pending => {
                ready!(this.timer.poll(cx));
                Err(Late)
            }
        };
        this.timer.set(Moment::NEVER);
        Poll::Ready(done)
    }
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

impl Drop for Timer {
    fn drop(&mut self) {
        self.timers.wheel.borrow_mut().remove(self.key);
    }
}
