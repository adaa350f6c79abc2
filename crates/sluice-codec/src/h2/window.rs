//! Flow-control windows.
//!
//! Owns: the arithmetic of what may be sent and received. Refuses to know: frames and streams. Keeps: a send window
//! becomes negative only when the peer lowers its initial window, and never exceeds 2^31-1; of a receive window, what
//! was granted is never exceeded without a violation.
//!
//! Source: RFC 9113 §5.2 and §6.9.

/// The largest window, RFC 9113 §6.9.1.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;

/// A window exceeded its maximum, or more was received than was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowOverrun;

/// What we may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendWindow(i64);

impl SendWindow {
    /// Creates a window of `bytes`.
    pub const fn new(bytes: u32) -> Self {
        Self(bytes as i64)
    }

    /// Returns how many bytes may be sent now.
    pub fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Takes bytes that are sent; no more than [`SendWindow::room`].
    pub fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.room(), "no more is sent than was granted");
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Adds what the peer grants.
    ///
    /// # Errors
    /// The window would exceed its maximum.
    pub fn grant(&mut self, more: u32) -> Result<(), WindowOverrun> {
        self.shift(i64::from(more))
    }

    /// Applies the difference between two initial windows of the peer, RFC 9113 §6.9.2; the result may be negative.
    ///
    /// # Errors
    /// The window would exceed its maximum.
    pub fn shift(&mut self, by: i64) -> Result<(), WindowOverrun> {
        let shifted = self.0 + by;
        if shifted > i64::from(WINDOW_MAX) {
            return Err(WindowOverrun);
        }
        self.0 = shifted;
        Ok(())
    }
}

/// What the peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvWindow {
    /// Bytes that the peer may still send.
    left: i64,
    /// Bytes that may be granted again.
    credit: u32,
    /// The size that grants restore.
    size: u32,
}

impl RecvWindow {
    /// Creates a window of `size` bytes of which the peer may already use `granted`.
    pub const fn new(size: u32, granted: u32) -> Self {
        let credit = size.saturating_sub(granted);
        Self { left: granted as i64, credit, size }
    }

    /// Takes received bytes.
    ///
    /// # Errors
    /// The peer was granted less.
    pub fn receive(&mut self, bytes: u32) -> Result<(), WindowOverrun> {
        let left = self.left - i64::from(bytes);
        if left < 0 && bytes > 0 {
            return Err(WindowOverrun);
        }
        self.left = left;
        Ok(())
    }

    /// Notes that bytes which were received no longer take up room.
    pub const fn release(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// Returns what to grant now: nothing until half of the window can be granted at once.
    pub fn take_grant(&mut self) -> Option<u32> {
        if self.credit == 0 || self.credit < self.size / 2 {
            return None;
        }
        let grant = std::mem::take(&mut self.credit);
        self.left += i64::from(grant);
        Some(grant)
    }

    /// Whether the peer may send nothing more for now.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.left <= 0
    }

    /// Whether everything that was received has been released.
    #[cfg(test)]
    pub(crate) fn is_whole(&self) -> bool {
        self.left + i64::from(self.credit) == i64::from(self.size)
    }

    /// Returns what the peer may still send.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        usize::try_from(self.left).unwrap()
    }

    /// Lowers what the peer may send, once it has acknowledged a smaller initial window.
    pub fn shrink(&mut self, by: u32) {
        self.left -= i64::from(by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_is_negative_only_by_settings() {
        let mut window = SendWindow::new(100);
        window.take(40);
        assert_eq!(window.room(), 60);
        window.shift(-100).unwrap();
        assert_eq!(window.room(), 0);
        window.grant(40).unwrap();
        assert_eq!(window.room(), 0);
        window.grant(5).unwrap();
        assert_eq!(window.room(), 5);
        assert_eq!(window.grant(WINDOW_MAX), Err(WindowOverrun));
        assert_eq!(window.room(), 5);
        window.grant(WINDOW_MAX - 5).unwrap();
        assert_eq!(window.grant(1), Err(WindowOverrun));
    }

    #[test]
    fn a_receive_window_is_granted_again_by_halves() {
        let mut window = RecvWindow::new(100, 100);
        window.receive(100).unwrap();
        window.receive(0).unwrap();
        assert_eq!(window.receive(1), Err(WindowOverrun));
        window.release(49);
        assert_eq!(window.take_grant(), None);
        window.release(1);
        assert_eq!((window.take_grant(), window.take_grant()), (Some(50), None));
        window.receive(50).unwrap();
        // A window that is larger than what was granted at first asks for the rest.
        assert_eq!(RecvWindow::new(200, 65).take_grant(), Some(135));
        let mut small = RecvWindow::new(10, 100);
        small.receive(20).unwrap();
        small.shrink(90);
        assert_eq!(small.receive(1), Err(WindowOverrun));
        small.receive(0).unwrap();
    }
}
