//! Requests that wait for a thread of a library.
//!
//! Owns: the waits of a worker, and the numbers of its requests. Refuses to know: what a request does when its wait has ended.
//! Keeps: a ticket ends the wait that it was made for, once; any other is ignored and counted.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use sluice_abi::AbiTicket;
use sluice_io::WorkerCx;
use sluice_sys::module::mailbox::{self, Mailbox};
use sluice_telemetry::Counter;

use crate::metrics;

/// The bits of the number of a request below that of its worker.
const COUNT_BITS: u32 = 40;

/// The waits of a worker.
#[derive(Debug)]
pub(crate) struct Waits {
    queue: u32,
    /// Until the first wait.
    mailbox: RefCell<Option<Mailbox>>,
    waiting: RefCell<Slab<WaitEntry>>,
    generation: Cell<u64>,
    requests: Cell<u64>,
    stale: Counter,
}

#[derive(Debug)]
struct WaitEntry {
    generation: u64,
    over: bool,
    waker: Option<Waker>,
}

impl Waits {
    /// The waits of `worker`.
    pub(crate) fn of(worker: &WorkerCx) -> Rc<Self> {
        worker.local(|| {
            let (mailbox, queue) = Mailbox::open();
            let number = worker.number.to_string();
            Self {
                queue,
                mailbox: RefCell::new(Some(mailbox)),
                waiting: RefCell::default(),
                generation: Cell::default(),
                requests: Cell::default(),
                stale: worker.shard.counter(&metrics::STALE_RESUMES, &[&number]),
            }
        })
    }

    /// A number that no other request of the process has.
    pub(crate) fn next_request(&self) -> u64 {
        let count = self.requests.get() + 1;
        self.requests.set(count);
        ((u64::from(self.queue) + 1) << COUNT_BITS) | count
    }

    /// Begins a wait.
    pub(crate) fn begin(self: &Rc<Self>, worker: &WorkerCx) -> ModuleWait {
        if let Some(mut mailbox) = self.mailbox.take() {
            let waits = Rc::clone(self);
            worker.spawn(async move {
                while let Some(ticket) = mailbox.next().await {
                    waits.end(ticket);
                }
            });
        }
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let entry = WaitEntry { generation, over: false, waker: None };
        let place = self.waiting.borrow_mut().insert(entry);
        ModuleWait { waits: Rc::clone(self), place, generation }
    }

    /// Ends the wait of a ticket.
    fn end(&self, ticket: AbiTicket) {
        let place = mailbox::place_of(ticket) as usize;
        let waker = match self.waiting.borrow_mut().get_mut(place) {
            Some(entry) if entry.generation == ticket.generation && !entry.over => {
                entry.over = true;
                entry.waker.take()
            }
            _ => {
                self.stale.increment();
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A wait, which is over when this is dropped.
#[derive(Debug)]
pub(crate) struct ModuleWait {
    waits: Rc<Waits>,
    place: usize,
    generation: u64,
}

impl ModuleWait {
    /// The ticket that ends it.
    pub(crate) fn ticket(&self) -> AbiTicket {
        // As many waits as there are requests: fewer than 2^32.
        let place = u32::try_from(self.place).unwrap_or(u32::MAX);
        mailbox::ticket(self.waits.queue, place, self.generation)
    }
}

impl Future for ModuleWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waits.waiting.borrow_mut();
        match waiting.get_mut(self.place) {
            Some(entry) if !entry.over => {
                entry.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for ModuleWait {
    fn drop(&mut self) {
        self.waits.waiting.borrow_mut().try_remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::Clock;

    #[test]
    fn a_ticket_ends_its_wait_once_and_no_other() {
        let worker = WorkerCx::solitary(Clock::held());
        let waits = Waits::of(&worker);
        // Without a runtime, nothing reads the mailbox.
        waits.mailbox.take();
        let mut first = waits.begin(&worker);
        let ticket = first.ticket();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(Pin::new(&mut first).poll(&mut cx), Poll::Pending);
        waits.end(AbiTicket { generation: ticket.generation + 1, ..ticket });
        waits.end(AbiTicket { id: ticket.id + 1, ..ticket });
        assert_eq!(Pin::new(&mut first).poll(&mut cx), Poll::Pending);
        waits.end(ticket);
        assert_eq!(Pin::new(&mut first).poll(&mut cx), Poll::Ready(()));
        waits.end(ticket);
        drop(first);
        // Another wait in the same place.
        let mut second = waits.begin(&worker);
        assert_eq!(second.ticket().id, ticket.id);
        waits.end(ticket);
        assert_eq!(Pin::new(&mut second).poll(&mut cx), Poll::Pending);
        assert_ne!(waits.next_request(), waits.next_request());
    }
}
