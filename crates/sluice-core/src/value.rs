//! Durations, sizes, rates, percentages and name patterns as written in a configuration.
//!
//! Owns: one parser for each. Refuses to know: the fields that use them.
//! Keeps: a bare number is never a time; what is printed parses back to the same value.

use std::fmt::Write as _;
use std::time::Duration;

mod byte_rate;

pub use byte_rate::{ByteRate, parse_byte_rate, show_byte_rate};

const DURATION_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Parses `250ms`, `5s`, `1m30s`, `1d`: units in descending order, whole numbers, at most 366 days.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut total = 0_u64;
    let mut rest = text;
    let mut last_unit = u64::MAX;
    if text.is_empty() {
        return Err("expected a duration such as 250ms, 5s or 1m30s".into());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(format!("expected a duration such as 250ms, 5s or 1m30s, not `{text}`"));
        }
        if unit.is_empty() {
            return Err(without_unit(text, number, tail));
        }
        let Some(&(_, factor)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_unit(number, unit));
        };
        if factor >= last_unit {
            return Err(
                "the units of a duration must go from large to small, each at most once".into()
            );
        }
        last_unit = factor;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
        let Some(sum) = part.and_then(|part| total.checked_add(part)) else {
            return Err("a duration must not exceed 366d".into());
        };
        total = sum;
        rest = tail;
    }
    let duration = Duration::from_millis(total);
    if duration > DURATION_MAX {
        return Err("a duration must not exceed 366d".into());
    }
    Ok(duration)
}

fn without_unit(text: &str, number: &str, tail: &str) -> String {
    if tail.starts_with('.') {
        return format!(
            "a duration takes whole numbers of d, h, m, s or ms; write `{text}` in a smaller unit"
        );
    }
    let word = tail.trim_start();
    if word.is_empty() {
        return format!("a duration needs a unit; write {number}s or {number}ms");
    }
    match unit_meant(word) {
        Some(unit) => format!("a duration must not contain a space; write {number}{unit}"),
        None => unknown_unit(number, word),
    }
}

fn unknown_unit(number: &str, word: &str) -> String {
    match unit_meant(word) {
        Some(unit) => format!("`{word}` is not a unit of time; write {number}{unit}"),
        None => format!("`{word}` is not a unit of time; use d, h, m, s or ms"),
    }
}

/// The unit that another spelling of it means.
fn unit_meant(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "d" | "day" | "days" => "d",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => "ms",
        _ => return None,
    })
}

/// Formats a duration as [`parse_duration`] reads it; fractions of a millisecond are truncated.
pub fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for &(unit, factor) in DURATION_UNITS {
        if millis >= factor {
            let _ = write!(out, "{}{unit}", millis / factor);
            millis %= factor;
        }
    }
    out
}

const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Parses `16KiB`, `1MiB`, `2GiB` or a number of bytes.
///
/// # Errors
/// A message that states what was expected; `KB` and the like are refused with the unit to use.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let Ok(number) = number.parse::<u64>() else {
        return Err(format!("expected a size such as 16KiB or a number of bytes, not `{text}`"));
    };
    if unit.is_empty() {
        return Ok(number);
    }
    if let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        return number.checked_mul(*factor).ok_or_else(|| format!("`{text}` is too large"));
    }
    let first = unit.chars().next().map(|c| c.to_ascii_uppercase());
    Err(match SIZE_UNITS.iter().find(|(name, _)| first.is_some_and(|c| name.starts_with(c))) {
        Some((name, _)) => format!("`{unit}` is ambiguous; write {number}{name}"),
        None => {
            format!("`{unit}` is not a unit of size; use KiB, MiB or GiB, or a number of bytes")
        }
    })
}

/// Formats a size as [`parse_size`] reads it.
pub fn show_size(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// A number of events per period: `500/s`, `10/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of events.
    pub count: u32,
    /// The period.
    pub per: Duration,
}

/// Parses `500/s`, `10/m`, `1000/h`.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("expected a rate such as 500/s or 10/m, not `{text}`");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let count = count.parse::<u32>().map_err(|_| wrong())?;
    let per = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("expected a rate per s, m, h or d, not per `{unit}`")),
    };
    if count == 0 {
        return Err("a rate of 0 admits nothing; use `deny` to refuse everything".into());
    }
    Ok(Rate { count, per: Duration::from_secs(per) })
}

/// Writes a number of things: `1 endpoint`, `2 endpoints`.
pub fn plural(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Formats a rate as [`parse_rate`] reads it.
pub fn show_rate(rate: Rate) -> String {
    let unit = match rate.per.as_secs() {
        60 => "m",
        3600 => "h",
        86_400 => "d",
        _ => "s",
    };
    format!("{}/{unit}", rate.count)
}

/// A percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

/// Parses `10%`.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_percent(text: &str) -> Result<Percent, String> {
    text.strip_suffix('%')
        .and_then(|number| number.parse::<u8>().ok())
        .filter(|number| *number <= 100)
        .map(Percent)
        .ok_or_else(|| format!("expected a percentage from 0% to 100%, not `{text}`"))
}

/// A percentage that is at least the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FactorPercent(pub u32);

/// Parses `140%`: from 100% to 10000%.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_factor_percent(text: &str) -> Result<FactorPercent, String> {
    text.strip_suffix('%')
        .and_then(|number| number.parse::<u32>().ok())
        .filter(|number| (100..=10_000).contains(number))
        .map(FactorPercent)
        .ok_or_else(|| format!("expected a percentage from 100% to 10000%, not `{text}`"))
}

/// A number with up to three decimals, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal(pub u32);

/// Parses `1`, `1.5` or `0.125`, below 10,000.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_decimal(text: &str) -> Result<Decimal, String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits(whole) && digits(decimals) && whole.len() <= 4 && decimals.len() <= 3;
    let number = format!("{whole}{decimals:0<3}");
    number.parse().ok().filter(|_| fits).map(Decimal).ok_or_else(|| {
        format!("expected a number with at most three decimals, such as 1.9, not `{text}`")
    })
}

/// Formats a number as [`parse_decimal`] reads it.
pub fn show_decimal(decimal: Decimal) -> String {
    let (whole, decimals) = (decimal.0 / 1000, format!("{:03}", decimal.0 % 1000));
    match decimals.trim_end_matches('0') {
        "" => whole.to_string(),
        decimals => format!("{whole}.{decimals}"),
    }
}

/// A host name as a chain matches it: exact, or `*.` before a suffix. Lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// `a.example.com`.
    Exact(String),
    /// `*.example.com`: any name with at least one more label; contains `example.com`.
    Suffix(String),
}

/// Parses a host name or `*.suffix`; case-insensitive.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_name_pattern(text: &str) -> Result<NamePattern, String> {
    let lower = text.to_ascii_lowercase();
    let (suffix, host) = match lower.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, lower.as_str()),
    };
    if host.contains('*') {
        return Err(format!(
            "`*` must be the whole first label, as in *.example.com, not `{text}`"
        ));
    }
    let label_fits = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.len() > 253 || !host.split('.').all(label_fits) {
        return Err(format!(
            "`{text}` is not a host name; use at most 253 letters, digits, `-` and dots"
        ));
    }
    Ok(if suffix { NamePattern::Suffix(host.into()) } else { NamePattern::Exact(host.into()) })
}

impl NamePattern {
    /// Whether a name fits that is in lower case and without a dot at its end.
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Suffix(suffix) => name
                .strip_suffix(suffix.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|first| !first.is_empty()),
        }
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The hosts that a virtual host serves. Lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `*`: any host.
    Any,
    /// `a.example.com`.
    Exact(String),
    /// `*.example.com`: any name with at least one more label; contains `example.com`.
    Suffix(String),
    /// `shop.*`: any name that continues after the prefix; contains `shop`.
    Prefix(String),
}

/// Parses a host, `*`, `*.suffix` or `prefix.*`; case-insensitive.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_host_pattern(text: &str) -> Result<HostPattern, String> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    let lower = text.to_ascii_lowercase();
    let bare = lower.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(HostPattern::Exact(lower));
    }
    if let Some((host, port)) = lower.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(format!("hosts are matched without a port; write {host}"));
    }
    if let Some(prefix) = lower.strip_suffix(".*") {
        return match parse_name_pattern(prefix)? {
            NamePattern::Exact(name) => Ok(HostPattern::Prefix(name)),
            NamePattern::Suffix(_) => Err(format!("`{text}` has a `*` at both ends; keep one")),
        };
    }
    Ok(match parse_name_pattern(&lower)? {
        NamePattern::Exact(name) => HostPattern::Exact(name),
        NamePattern::Suffix(suffix) => HostPattern::Suffix(suffix),
    })
}

impl HostPattern {
    /// Whether a host fits that is in lower case, without a port and without a dot at its end.
    pub fn fits(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == host,
            Self::Suffix(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            Self::Prefix(prefix) => {
                host.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}.*"),
        }
    }
}

/// A host as in a request: a name or an IP address, optionally with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(pub String);

/// Parses `shop.example.com`, `127.0.0.1:8080` or `[::1]`.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_authority(text: &str) -> Result<Authority, String> {
    let wrong = || {
        format!("expected a host such as shop.example.com, optionally with a port, not `{text}`")
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(wrong());
    }
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fits = match v6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => matches!(parse_name_pattern(host), Ok(NamePattern::Exact(_))),
    };
    if fits { Ok(Authority(text.into())) } else { Err(wrong()) }
}

/// A plain word with at most one `*`, at its end: `reports_*`. Case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WordPattern {
    /// The word itself.
    Exact(String),
    /// Any word with this prefix.
    Prefix(String),
}

/// Parses a word or `prefix*`.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_word_pattern(text: &str) -> Result<WordPattern, String> {
    let (word, prefix) = match text.strip_suffix('*') {
        Some(word) => (word, true),
        None => (text, false),
    };
    if word.contains('*') || text.is_empty() {
        return Err(format!("expected a name, or a prefix followed by one `*`, not `{text}`"));
    }
    Ok(if prefix { WordPattern::Prefix(word.into()) } else { WordPattern::Exact(word.into()) })
}

impl WordPattern {
    /// Whether `word` matches.
    pub fn fits(&self, word: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == word,
            Self::Prefix(prefix) => word.starts_with(prefix.as_str()),
        }
    }
}

impl std::fmt::Display for WordPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(word) => f.write_str(word),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn things_are_counted_in_words() {
        let counted = [0, 1, 2].map(|count| plural(count, "endpoint"));
        assert_eq!(counted, ["0 endpoints", "1 endpoint", "2 endpoints"]);
    }

    #[test]
    fn durations_read_as_written() {
        let ms = Duration::from_millis;
        for (text, value) in
            [("250ms", ms(250)), ("5s", ms(5000)), ("1m30s", ms(90_000)), ("1d", ms(86_400_000))]
        {
            assert_eq!(parse_duration(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn nonsense_durations_say_what_to_write() {
        for (text, part) in [
            ("5", "needs a unit; write 5s"),
            ("", "expected a duration"),
            ("1.5s", "whole numbers"),
            ("5 s", "write 5s"),
            ("5 min", "write 5m"),
            ("5min", "write 5m"),
            ("5sec", "write 5s"),
            ("5 parsecs", "not a unit of time"),
            ("5us", "not a unit of time"),
            ("5s1m", "large to small"),
            ("5s5s", "large to small"),
            ("-5s", "expected a duration"),
            ("99999999999999999999s", "not exceed 366d"),
            ("400d", "not exceed 366d"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_rates_and_shares() {
        assert_eq!(parse_size("16KiB"), Ok(16_384));
        assert_eq!(parse_size("512"), Ok(512));
        assert!(parse_size("16KB").unwrap_err().contains("write 16KiB"));
        assert!(parse_size("16k").unwrap_err().contains("write 16KiB"));
        assert!(parse_size("99999999999GiB").unwrap_err().contains("too large"));
        assert_eq!(parse_rate("500/s").map(show_rate), Ok("500/s".into()));
        assert_eq!(parse_rate("10/m").map(show_rate), Ok("10/m".into()));
        assert!(
            parse_rate("0/s").is_err() && parse_rate("5/day").is_err() && parse_rate("5").is_err()
        );
        assert_eq!(parse_percent("10%"), Ok(Percent(10)));
        assert!(parse_percent("10").is_err() && parse_percent("101%").is_err());
        assert_eq!(parse_factor_percent("140%"), Ok(FactorPercent(140)));
        for text in ["99%", "140", "10001%", "%", "-140%"] {
            assert!(parse_factor_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn decimals() {
        for (text, thousandths) in [
            ("0", 0),
            ("1", 1000),
            ("1.5", 1500),
            ("0.25", 250),
            ("2.005", 2005),
            ("9999.999", 9_999_999),
        ] {
            assert_eq!(parse_decimal(text), Ok(Decimal(thousandths)), "{text}");
            assert_eq!(show_decimal(Decimal(thousandths)), text);
        }
        for text in
            ["", ".", "1.", ".5", "1.2345", "1e3", "-1", "+1", "10000", "99999999999", "1.5.5"]
        {
            assert!(parse_decimal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(
            parse_name_pattern("*.Example.com"),
            Ok(NamePattern::Suffix("example.com".into()))
        );
        let fits = |pattern, name| parse_name_pattern(pattern).unwrap().fits(name);
        assert!(fits("a.test", "a.test") && fits("*.test", "a.test") && fits("*.test", "b.a.test"));
        assert!(!fits("a.test", "b.test") && !fits("*.test", "test") && !fits("*.test", ".test"));
        assert!(!fits("*.a.test", "xa.test"));
        for text in ["*", "a.*.b", "*a.b", "a..b", "", "a b"] {
            assert!(parse_name_pattern(text).is_err(), "{text}");
        }
        for text in ["*", "a.test", "*.a.test", "shop.*", "127.0.0.1", "[::1]"] {
            assert_eq!(parse_host_pattern(text).map(|host| host.to_string()), Ok(text.into()));
        }
        assert!(parse_host_pattern("a.test:80").unwrap_err().contains("write a.test"));
        assert!(parse_host_pattern("*.a.*").is_err() && parse_host_pattern("a*").is_err());
        let reports = parse_word_pattern("reports_*").unwrap();
        assert!(reports.fits("reports_2026") && !reports.fits("report"));
        assert!(parse_word_pattern("a*b").is_err());
    }

    #[test]
    fn authorities() {
        for text in ["a.test", "a_b", "A.test:80", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80"]
        {
            assert_eq!(parse_authority(text), Ok(Authority(text.into())));
        }
        for text in
            ["", "a b", "a/b", "a:b", ":80", "::1", "[a]", "*.a.test", "a.test:99999", "u@a"]
        {
            assert!(parse_authority(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0_u64..366 * 86_400_000, bytes: u64, decimal in 0_u32..10_000_000) {
            prop_assert_eq!(parse_decimal(&show_decimal(Decimal(decimal))), Ok(Decimal(decimal)));
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text), parse_rate(&text));
            let _ = (parse_host_pattern(&text), parse_decimal(&text), parse_factor_percent(&text));
            let _ = (parse_percent(&text), parse_name_pattern(&text), parse_word_pattern(&text));
        }
    }
}
