//! The timers of a worker: the wheel, driven by the runtime.
//!
//! Owns: one task that sleeps until the wheel has something to do. Refuses to know: what waits.
//! Keeps: with no deadline set nothing is armed; a deadline costs no timer of the runtime.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use pin_project_lite::pin_project;
use sluice_core::{Clock, Moment};

use crate::turn;
use crate::wheel::{TimerKey, Wheel, start_of, tick_after, tick_of};

/// Deadlines of one worker.
#[derive(Debug)]
pub struct Timers {
    clock: Clock,
    wheel: RefCell<Wheel<Option<Waker>>>,
    /// The tick the driver sleeps until.
    armed: Cell<u64>,
    driver: RefCell<Option<Waker>>,
}

impl Timers {
    /// No deadlines yet. [`Timers::drive`] must run for any to come.
    pub fn new(clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            clock,
            wheel: RefCell::default(),
            armed: Cell::new(u64::MAX),
            driver: RefCell::default(),
        })
    }

    /// Wakes what is due, for ever.
    pub async fn drive(self: Rc<Self>) {
        loop {
            let now = self.clock.now();
            let mut due = Vec::new();
            let next = {
                let mut wheel = self.wheel.borrow_mut();
                wheel.advance(tick_of(now), |waker| due.extend(waker.take()));
                wheel.next().unwrap_or(u64::MAX)
            };
            // Whoever is woken must see a time that is not before the deadline.
            turn::next();
            due.into_iter().for_each(Waker::wake);
            self.armed.set(next);
            let until = if next == u64::MAX { None } else { self.clock.instant(start_of(next)) };
            let mut sleep = pin!(async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            });
            // Wakes by the clock, or when an earlier deadline was set.
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

/// One deadline, moved about by whoever owns it. Removed on drop.
#[derive(Debug)]
pub struct Timer {
    timers: Rc<Timers>,
    key: TimerKey,
}

impl Timer {
    /// A deadline that never comes until it is set.
    pub fn new(timers: &Rc<Timers>) -> Self {
        let key = timers.wheel.borrow_mut().insert(None);
        Self { timers: Rc::clone(timers), key }
    }

    /// Moves the deadline. Later is cheap: it writes a field.
    pub fn set(&self, at: Moment) {
        self.timers.set(self.key, at);
    }

    /// Ready once the deadline has come; else wakes the task of `cx` then.
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
    /// Runs a phase until it is done, or `by` has come: then the error is [`Late`].
    pub fn until<F: Future>(&self, by: Moment, phase: F) -> Until<'_, F> {
        self.set(by);
        Until { timer: self, phase }
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

/// The deadline came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

impl Drop for Timer {
    fn drop(&mut self) {
        self.timers.wheel.borrow_mut().remove(self.key);
    }
}
