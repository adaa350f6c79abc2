//! How a request got here within this process: through which number of listeners, and of side calls.
//!
//! Owns: the header that carries both numbers from one listener of this process to the next. Refuses to know: which
//! endpoints are listeners of this process, and what the bounds are. Keeps: nobody outside can claim that a request came
//! by a side call, since filters refuse to call on behalf of such requests, and may be set to let them pass then.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use sluice_codec::{Head, Known};

/// The header, which never leaves this process.
const HOPS: Known = Known::XSluiceHops;

/// What only this process knows.
static TOKEN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

/// What a request has passed within this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HopCount {
    /// Listeners.
    pub(crate) listeners: u64,
    /// Side calls that led to it, one within the other.
    pub(crate) side_calls: u32,
}

impl HopCount {
    /// Reads the header: the number of listeners, and that of side calls with the token, if there were any.
    pub(crate) fn of(request: &Head) -> Self {
        let value = request.get(HOPS).and_then(|value| std::str::from_utf8(value).ok());
        let Some(value) = value else { return Self::default() };
        let (listeners, rest) = value.split_once('.').unwrap_or((value, ""));
        let side_calls = rest
            .split_once('.')
            .filter(|(_, token)| u64::from_str_radix(token, 16).is_ok_and(|token| token == *TOKEN));
        Self {
            listeners: listeners.parse().unwrap_or(0),
            side_calls: side_calls.and_then(|(number, _)| number.parse().ok()).unwrap_or(0),
        }
    }

    /// Whether a request has the header.
    pub(crate) fn is_in(request: &Head) -> bool {
        request.get(HOPS).is_some()
    }

    /// Writes the header.
    pub(crate) fn write(self, request: &mut Head) {
        let Self { listeners, side_calls } = self;
        let value = match side_calls {
            0 => listeners.to_string(),
            _ => format!("{listeners}.{side_calls}.{:x}", *TOKEN),
        };
        request.set_known(HOPS, value.as_bytes());
    }

    /// Removes the header.
    pub(crate) fn remove(request: &mut Head) {
        request.remove_known(HOPS);
    }

    /// What a request has passed when it arrives at one more listener; `None` if it has passed `max` already.
    pub(crate) const fn next(self, max: u64) -> Option<Self> {
        if self.listeners < max {
            Some(Self { listeners: self.listeners + 1, side_calls: self.side_calls })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> HopCount {
        let mut head = Head::default();
        head.append_known(HOPS, value.as_bytes());
        HopCount::of(&head)
    }

    #[test]
    fn what_is_written_is_read() {
        for (listeners, side_calls) in [(0, 0), (3, 0), (1, 1), (7, 2)] {
            let (count, mut head) = (HopCount { listeners, side_calls }, Head::default());
            count.write(&mut head);
            assert_eq!(HopCount::of(&head), count);
            HopCount::remove(&mut head);
            assert!(!HopCount::is_in(&head));
        }
        assert_eq!(HopCount::default().next(1), Some(HopCount { listeners: 1, side_calls: 0 }));
        assert_eq!(HopCount { listeners: 1, side_calls: 1 }.next(1), None);
    }

    #[test]
    fn a_client_cannot_claim_to_be_a_side_call() {
        for value in ["2.2", "2.2.0", "2.2.", "2..", "2.2.ffffffffffffffff", "2.x.0"] {
            assert_eq!(read(value), HopCount { listeners: 2, side_calls: 0 }, "{value}");
        }
        assert_eq!(read("nonsense"), HopCount::default());
    }
}
