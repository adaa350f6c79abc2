//! One connection as all its phases see it, and the table of those that are open.
//!
//! Owns: the deadline of the current phase and the switch that ends a connection from outside.
//! Refuses to know: what the phases are. Keeps: every open connection stands in the table; one that
//! is told to end does so at its next poll, with the reason it was given.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use slab::Slab;
use sluice_core::{ConnInfo, Moment, Reason};
use smallvec::SmallVec;

use super::WorkerCx;
use crate::tap::ByteTap;
use crate::timers::{Timer, Until};

/// The deadline of the phase that a connection is in.
pub type Deadline = Timer;

/// A connection on its worker.
#[derive(Debug)]
pub struct Conn {
    /// What is known about it.
    pub info: ConnInfo,
    /// Where it lives.
    pub worker: Rc<WorkerCx>,
    /// The deadline of the current phase.
    pub deadline: Deadline,
    /// Those who want to see its bytes.
    pub taps: RefCell<SmallVec<[Rc<dyn ByteTap>; 0]>>,
    killed: Cell<Option<Reason>>,
    finishing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    place: Cell<usize>,
}

impl Conn {
    /// Enters a connection into its worker's table; it leaves on drop.
    pub fn enter(worker: &Rc<WorkerCx>, info: ConnInfo) -> Rc<Self> {
        let conn = Rc::new(Self {
            info,
            worker: Rc::clone(worker),
            deadline: Timer::new(&worker.timers),
            taps: RefCell::default(),
            killed: Cell::new(None),
            finishing: Cell::new(false),
            waker: RefCell::default(),
            place: Cell::new(0),
        });
        conn.place.set(worker.connections.0.borrow_mut().insert(Rc::downgrade(&conn)));
        conn
    }

    /// Ends the connection at its next poll, which is soon.
    pub fn kill(&self, why: Reason) {
        self.killed.set(Some(why));
        self.wake();
    }

    /// Why it was told to end, if it was.
    pub const fn why_killed(&self) -> Option<Reason> {
        self.killed.get()
    }

    /// Asks the connection to end as soon as what is under way on it is done. A relay cannot know when
    /// that is and goes on; a protocol with messages can.
    pub fn finish(&self) {
        self.finishing.set(true);
        self.wake();
    }

    /// Has the connection looked after soon.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether it was asked to end.
    pub const fn is_finishing(&self) -> bool {
        self.finishing.get()
    }

    /// Runs the life of the connection, unless it is told to end before: then the reason given to
    /// [`Conn::kill`] is the error.
    pub const fn live<F: Future>(&self, life: F) -> UntilKilled<'_, F> {
        UntilKilled { conn: self, life }
    }

    fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Runs a phase until it is done, or `by` has come: then the error is [`Late`](crate::timers::Late).
    pub fn until<F: Future>(&self, by: Moment, phase: F) -> Until<'_, F> {
        self.deadline.until(by, phase)
    }
}

// Futures by hand: an `async fn` would keep its argument twice, and a connection lives in there.
pin_project! {
    /// See [`Conn::live`].
    #[derive(Debug)]
    pub struct UntilKilled<'a, F> {
        conn: &'a Conn,
        #[pin]
        life: F,
    }
}

impl<F: Future> Future for UntilKilled<'_, F> {
    type Output = Result<F::Output, Reason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(why) = this.conn.killed.get() {
            return Poll::Ready(Err(why));
        }
        this.conn.listen(cx);
        this.life.poll(cx).map(Ok)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.worker.connections.0.borrow_mut().remove(self.place.get());
    }
}

/// The open connections of a worker.
#[derive(Debug, Default)]
pub struct ConnTable(RefCell<Slab<Weak<Conn>>>);

impl ConnTable {
    /// How many are open.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The open connections now.
    pub fn list(&self) -> Vec<Rc<Conn>> {
        self.0.borrow().iter().filter_map(|(_, conn)| conn.upgrade()).collect()
    }
}
