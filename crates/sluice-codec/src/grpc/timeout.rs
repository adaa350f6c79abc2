//! The header `grpc-timeout`: up to eight digits and a unit.
//!
//! Owns: its two directions. Refuses to know: when a call began. Keeps: what is written is never longer than what was
//! meant.

use std::time::Duration;

/// The largest number of eight digits.
const COUNT_MAX: u128 = 99_999_999;

/// Parses a `grpc-timeout`.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Writes a timeout in the smallest unit that has room for it.
pub fn show_timeout(timeout: Duration) -> String {
    let seconds = u128::from(timeout.as_secs());
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
    ];
    let fits = units.into_iter().find(|(count, _)| *count <= COUNT_MAX);
    let (count, unit) = fits.unwrap_or_else(|| (COUNT_MAX.min(seconds / 3600), 'H'));
    format!("{count}{unit}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        for (text, value) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("8n", Some(Duration::from_nanos(8))),
            ("3M", Some(Duration::from_secs(180))),
            ("2H", Some(Duration::from_secs(7200))),
            ("999999999S", None),
            ("S", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
            ("", None),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), value, "{text}");
        }
        for (value, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_secs(1), "1000000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(show_timeout(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_timeout_is_hardly_shortened(timeout: Duration) {
            let shown = show_timeout(timeout);
            let read = parse_timeout(shown.as_bytes()).unwrap();
            prop_assert!(read <= timeout, "{shown}");
            let lost = timeout - read;
            prop_assert!(lost <= timeout / 1_000_000 || shown == "99999999H", "{shown} loses {lost:?}");
        }
    }
}
