//! References that callbacks of a foreign runtime reach, for the time of a call.
//!
//! Owns: the place that a reference is lent in. Refuses to know: what is lent, and who calls back. Keeps: a callback reaches it
//! only while the call lasts that it was lent for, and only one callback at a time.
//!
//! A runtime whose callbacks may hold nothing that is borrowed gets such a place instead.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A type with a lifetime, such as `dyn Trait + 'a`.
pub trait Lendable: 'static {
    /// The type.
    type Of<'a>: ?Sized;
}

/// The place that a reference is lent in. It stays on its thread.
pub struct Loan<L: Lendable> {
    /// Points to a `&mut L::Of<'_>` on the stack of [`Loan::lend`].
    lent: Cell<Option<NonNull<()>>>,
    of: PhantomData<fn() -> L>,
}

impl<L: Lendable> Default for Loan<L> {
    fn default() -> Self {
        Self { lent: Cell::new(None), of: PhantomData }
    }
}

impl<L: Lendable> fmt::Debug for Loan<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loan({})", self.lent.get().is_some())
    }
}

/// Puts back what was in the place before.
struct PutBack<'a>(&'a Cell<Option<NonNull<()>>>, Option<NonNull<()>>);

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

impl<L: Lendable> Loan<L> {
    /// Lends `value` to whatever `run` calls.
    pub fn lend<R>(&self, mut value: &mut L::Of<'_>, run: impl FnOnce() -> R) -> R {
        let lent = NonNull::from(&mut value).cast::<()>();
        let _before = PutBack(&self.lent, self.lent.replace(Some(lent)));
        run()
    }

    /// Uses what is lent; `None` if nothing is, or if it is in use already.
    pub fn with<R>(&self, then: impl for<'b, 'a> FnOnce(&'b mut L::Of<'a>) -> R) -> Option<R> {
        let lent = self.lent.take()?;
        let _lent = PutBack(&self.lent, Some(lent));
        let mut place = lent.cast::<&mut L::Of<'_>>();
        // SAFETY: it was set by `lend`, whose frame is below this one: `lend` takes it out of the cell before it returns or
        // unwinds, and the cell does not leave its thread. It is out of the cell meanwhile, so that nothing else reaches it.
        // The caller may not choose the lifetime, so it can put nothing into the value that the value does not hold anyway.
        // `what_is_lent_is_reached_by_one_at_a_time` leans on it.
        let value = unsafe { place.as_mut() };
        Some(then(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;

    impl Lendable for Names {
        type Of<'a> = Vec<&'a str>;
    }

    #[test]
    fn what_is_lent_is_reached_by_one_at_a_time() {
        let loan = Loan::<Names>::default();
        assert_eq!(loan.with(|names| names.len()), None);
        let text = "a b".to_owned();
        let mut names: Vec<&str> = text.split(' ').collect();
        let mut others = vec!["c"];
        loan.lend(&mut names, || {
            let within = loan.with(|names| {
                names.push("d");
                loan.with(|names| names.len())
            });
            assert_eq!(within, Some(None));
            // A call within a call.
            loan.lend(&mut others, || loan.with(|names| names.clear()));
            assert_eq!(loan.with(|names| names.len()), Some(3));
        });
        assert_eq!(loan.with(|names| names.len()), None);
        assert_eq!((names.len(), others.len()), (3, 0));
    }

    #[test]
    fn a_panic_ends_the_loan() {
        let loan = Loan::<Names>::default();
        let mut names = vec!["a"];
        let run = std::panic::AssertUnwindSafe(|| loan.lend(&mut names, || panic!("in the call")));
        assert!(std::panic::catch_unwind(run).is_err());
        assert_eq!(loan.with(|names| names.len()), None);
    }
}
