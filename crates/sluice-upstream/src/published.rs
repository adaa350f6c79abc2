//! A value that the control thread replaces and workers read.
//!
//! Owns: the value in force, the number of times that it was replaced, and each worker's own reference to it. Refuses to
//! know: what it says. Keeps: a worker reads it without a write to memory that workers share, unless it was replaced
//! since.

use std::cell::{Cell, Ref, RefCell};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use arc_swap::ArcSwap;

/// A value that is replaced as a whole.
#[derive(Debug)]
pub struct Published<T> {
    value: ArcSwap<T>,
    version: AtomicU64,
}

impl<T> Published<T> {
    /// With a first value.
    pub fn new(value: Arc<T>) -> Self {
        Self { value: ArcSwap::new(value), version: AtomicU64::new(0) }
    }

    /// Puts another value in force.
    pub fn set(&self, value: Arc<T>) {
        self.value.store(value);
        self.version.fetch_add(1, Release);
    }

    /// The value in force.
    pub fn get(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// The value in force, borrowed briefly; not to be held across an await. Where a worker asks for each request, a
    /// [`PublishedView`] costs less.
    pub fn peek(&self) -> impl Deref<Target = Arc<T>> + use<T> {
        self.value.load()
    }
}

/// A worker's view of a published value. A request reads several, which [`Published::peek`] would pay for with two atomic
/// writes each. The view keeps a value that was replaced until it is asked again.
#[derive(Debug)]
pub struct PublishedView<T> {
    value: RefCell<Arc<T>>,
    version: Cell<u64>,
}

impl<T> PublishedView<T> {
    /// A view of `published`.
    pub fn new(published: &Published<T>) -> Self {
        // In this order: a value that is put in force in between is read again.
        let version = Cell::new(published.version.load(Acquire));
        Self { value: RefCell::new(published.get()), version }
    }

    /// The value in force, borrowed briefly; not to be held across an await. Within the borrow, it stays the same.
    /// `published` is what the view was made of.
    pub fn get(&self, published: &Published<T>) -> Ref<'_, Arc<T>> {
        let version = published.version.load(Acquire);
        if version != self.version.get()
            && let Ok(mut value) = self.value.try_borrow_mut()
        {
            *value = published.get();
            self.version.set(version);
        }
        self.value.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_put_in_force_is_read_from_then_on() {
        let published = Published::new(Arc::new(1));
        let view = PublishedView::new(&published);
        assert_eq!(**view.get(&published), 1);
        for value in 2..5 {
            published.set(Arc::new(value));
            assert_eq!((**view.get(&published), **view.get(&published)), (value, value));
        }
        let before = view.get(&published);
        published.set(Arc::new(9));
        assert_eq!(**view.get(&published), 4, "while it is borrowed");
        drop(before);
        assert_eq!((**view.get(&published), **published.peek()), (9, 9));
    }
}
