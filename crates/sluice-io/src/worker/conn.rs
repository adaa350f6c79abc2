//! A connection as all its phases see it, and the table of open connections.
//!
//! Owns: the deadline of the current phase and the flag that ends a connection from outside.
//! Refuses to know: the phases. Keeps: every open connection is in the table; a killed connection ends at its next
//! poll, with the reason it was given.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use slab::Slab;
use sluice_core::{ConnInfo, Moment, Reason};

use super::WorkerCx;
use crate::byte_filter::ByteHooks;
use crate::timers::{Timer, Until};

/// A connection on its worker.
#[derive(Debug)]
pub struct Conn {
    /// What is known about it.
    pub info: ConnInfo,
    /// The worker it belongs to.
    pub worker: Rc<WorkerCx>,
    /// The deadline of the current phase.
    pub deadline: Timer,
    /// What sees its bytes, if anything does.
    pub byte_hooks: RefCell<Option<Box<ByteHooks>>>,
    killed: Cell<Option<Reason>>,
    finishing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    place: Cell<usize>,
}

impl Conn {
    /// Adds a connection to its worker's table; it is removed on drop.
    pub fn enter(worker: &Rc<WorkerCx>, info: ConnInfo) -> Rc<Self> {
        let conn = Rc::new(Self {
            info,
            worker: Rc::clone(worker),
            deadline: Timer::new(&worker.timers),
            byte_hooks: RefCell::default(),
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

    /// The reason it was killed, if it was.
    pub const fn why_killed(&self) -> Option<Reason> {
        self.killed.get()
    }

    /// Asks the connection to end as soon as the requests in flight on it are done. A relay cannot know when that is
    /// and continues; a protocol with messages can.
    pub fn finish(&self) {
        self.finishing.set(true);
        self.wake();
    }

    /// Wakes the task of the connection.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether it was asked to end.
    pub const fn is_finishing(&self) -> bool {
        self.finishing.get()
    }

    /// Runs the connection to its end unless it is killed before; then the error is the reason given to [`Conn::kill`].
    pub const fn live<F: Future>(&self, life: F) -> UntilKilled<'_, F> {
        UntilKilled { conn: self, life }
    }

    fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Runs `phase` until it completes or `by` has passed; then the error is [`Late`](crate::timers::Late).
    pub fn until<F: Future>(&self, by: Moment, phase: F) -> Until<'_, F> {
        self.deadline.until(by, phase)
    }
}

// Hand-written futures: an `async fn` would store its argument twice, and it contains a whole connection.
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
    /// The number of open connections.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether there are no open connections.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The connections that are open now.
    pub fn list(&self) -> Vec<Rc<Conn>> {
        self.0.borrow().iter().filter_map(|(_, conn)| conn.upgrade()).collect()
    }
}
