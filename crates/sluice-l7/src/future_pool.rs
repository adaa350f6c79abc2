//! Memory for exchanges in flight, reused from one to the next.
//!
//! Owns: the slots of futures that have ended. Refuses to know: what runs in them. Keeps: an exchange occupies memory
//! only while it lasts, and in steady state none is allocated for it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

/// Unused slots kept per worker.
const KEEP: usize = 256;

/// A slot for one future, in use or not.
type Place<I, O> = Pin<Box<dyn ReusableFuture<I, O>>>;

/// Memory for futures of one kind, made from `I` and returning `O`.
pub struct FuturePool<I, O> {
    free: RefCell<Vec<Place<I, O>>>,
    make: Box<dyn Fn() -> Place<I, O>>,
}

impl<I, O> std::fmt::Debug for FuturePool<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FuturePool({})", self.free.borrow().len())
    }
}

trait ReusableFuture<I, O> {
    fn start(self: Pin<&mut Self>, input: I);
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O>;
    fn clear(self: Pin<&mut Self>);
}

pin_project! {
    struct FutureRoom<M, F> {
        make: M,
        #[pin]
        running: Option<F>,
    }
}

impl<I, F: Future, M: Fn(I) -> F> ReusableFuture<I, F::Output> for FutureRoom<M, F> {
    fn start(self: Pin<&mut Self>, input: I) {
        let mut this = self.project();
        // With this known, the future is written where it stays; it would be made elsewhere and copied otherwise.
        assert!(this.running.is_none(), "a slot in use");
        this.running.set(Some((this.make)(input)));
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let running = this.running.as_mut().as_pin_mut().expect("started before it is polled");
        let output = ready!(running.poll(cx));
        this.running.set(None);
        Poll::Ready(output)
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().running.set(None);
    }
}

impl<I: 'static, O: 'static> FuturePool<I, O> {
    /// Creates an empty pool for the futures that `make` returns.
    pub fn new<F, M>(make: M) -> Rc<Self>
    where
        F: Future<Output = O> + 'static,
        M: Fn(I) -> F + Copy + 'static,
    {
        Rc::new(Self {
            free: RefCell::default(),
            make: Box::new(move || Box::pin(FutureRoom { make, running: None })),
        })
    }

    /// Runs a future in a slot that was used before, if there is one.
    pub fn run(self: &Rc<Self>, input: I) -> Running<I, O> {
        let free = self.free.borrow_mut().pop();
        let mut slot = free.unwrap_or_else(|| (self.make)());
        slot.as_mut().start(input);
        Running { slot: Some(slot), slots: Rc::clone(self) }
    }
}

/// A future in its slot; returns the slot to the pool on drop.
pub struct Running<I, O> {
    slot: Option<Place<I, O>>,
    slots: Rc<FuturePool<I, O>>,
}

impl<I, O> std::fmt::Debug for Running<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

impl<I, O> Future for Running<I, O> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O> {
        self.slot.as_mut().expect("there until it is dropped").as_mut().poll(cx)
    }
}

impl<I, O> Drop for Running<I, O> {
    fn drop(&mut self) {
        if let Some(mut slot) = self.slot.take() {
            slot.as_mut().clear();
            let mut free = self.slots.free.borrow_mut();
            if free.len() < KEEP && !std::thread::panicking() {
                free.push(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_used_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let slots = FuturePool::new(|n: u32| async move {
            tokio::task::yield_now().await;
            n + 1
        });
        assert_eq!(runtime.block_on(slots.run(1)), 2);
        let room: *const () = std::ptr::from_ref(&*slots.free.borrow()[0]).cast();
        assert_eq!(runtime.block_on(slots.run(2)), 3);
        assert!(std::ptr::eq(room, std::ptr::from_ref(&*slots.free.borrow()[0]).cast()));
        assert_eq!(slots.free.borrow().len(), 1);
    }
}
