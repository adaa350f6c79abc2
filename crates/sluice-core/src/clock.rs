//! Time, read once and passed on.
//!
//! Owns: the only calls to the system clocks. Refuses to know: timers and their callers.
//! Keeps: a [`Moment`] never goes backwards; wall time is derived from it, so that records are in order.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in monotonic time: microseconds since the clock was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The latest moment; as a deadline it means none.
    pub const NEVER: Self = Self(u64::MAX);

    /// Creates a moment from microseconds since the clock's start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since the clock's start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time elapsed since `earlier`; zero if `earlier` is later than this moment.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This moment plus `by`; saturates at [`Moment::NEVER`].
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// This moment plus `by`, or [`Moment::NEVER`] if there is no bound.
    pub fn after_bound(self, by: Option<Duration>) -> Self {
        by.map_or(Self::NEVER, |by| self.after(by))
    }
}

/// The source of monotonic and wall time, created from a [`ClockOrigin`] in every thread; tests use a clock that they
/// advance themselves.
#[derive(Clone, Debug)]
pub struct Clock(ClockSource);

#[derive(Clone, Debug)]
enum ClockSource {
    System { start: Instant, wall_at_start: Duration },
    Held(Rc<Cell<u64>>),
}

/// The start of the process's time: `Send`, so that each thread creates its own [`Clock`] from it.
#[derive(Clone, Copy, Debug)]
pub struct ClockOrigin {
    start: Instant,
    wall_at_start: Duration,
}

impl ClockOrigin {
    /// Reads both clocks once.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads them")]
    pub fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), wall_at_start: wall }
    }

    /// Creates the clock of one thread; all clocks of one origin agree.
    pub fn clock(self) -> Clock {
        Clock(ClockSource::System { start: self.start, wall_at_start: self.wall_at_start })
    }
}

impl Clock {
    /// Creates a clock that moves only when [`Clock::advance`] is called.
    pub fn held() -> Self {
        Self(ClockSource::Held(Rc::new(Cell::new(0))))
    }

    /// Reads the monotonic clock (a vDSO call, not a system call).
    pub fn now(&self) -> Moment {
        match &self.0 {
            ClockSource::System { start, .. } => {
                Moment(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
            }
            ClockSource::Held(micros) => Moment(micros.get()),
        }
    }

    /// Advances a held clock; has no effect on a system clock.
    pub fn advance(&self, by: Duration) {
        if let ClockSource::Held(micros) = &self.0 {
            micros.set(Moment(micros.get()).after(by).0);
        }
    }

    /// The wall time of `at`, since the Unix epoch.
    pub fn wall(&self, at: Moment) -> Duration {
        match &self.0 {
            ClockSource::System { wall_at_start, .. } => {
                *wall_at_start + Duration::from_micros(at.0)
            }
            ClockSource::Held(_) => Duration::from_micros(at.0),
        }
    }

    /// The instant of `at`, for runtimes that need one; `None` for a held clock or out of range.
    pub fn instant(&self, at: Moment) -> Option<Instant> {
        match &self.0 {
            ClockSource::System { start, .. } => start.checked_add(Duration::from_micros(at.0)),
            ClockSource::Held(_) => None,
        }
    }
}

/// Formats `since_epoch` as RFC 3339 in UTC with milliseconds: `2026-01-31T09:05:07.250Z`.
pub fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_epoch.subsec_millis()
    )
}

/// Converts days since 1970-01-01 to a date in the proleptic Gregorian calendar (years in 400-year eras that begin in
/// March, so that the leap day is the last day of its year).
const fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn never_stays_never() {
        assert_eq!(Moment::NEVER.after(Duration::from_secs(1)), Moment::NEVER);
        assert_eq!(Moment::default().after_bound(None), Moment::NEVER);
    }
}
