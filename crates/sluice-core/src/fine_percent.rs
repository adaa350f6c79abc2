//! Percentages with decimals.
//!
//! Owns: how a share finer than a hundredth is written. Refuses to know: what is shared. Keeps: whole parts of a million, so
//! that a share is never rounded.

/// A percentage with at most four decimals, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FinePercent(pub u32);

/// The millionths of the whole.
const WHOLE: u32 = 1_000_000;

/// The millionths of a percent.
pub const PERCENT: u32 = 10_000;

crate::text_setting! {
    FinePercent, "a percentage", "12.5%", parse_fine_percent, |share| show_fine_percent(*share);
}

/// Parses `10%`, `99.9%` or `0.0001%`.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_fine_percent(text: &str) -> Result<FinePercent, String> {
    let parts =
        text.strip_suffix('%').map(|number| number.split_once('.').unwrap_or((number, "0")));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let fits = |(whole, decimals): &(&str, &str)| {
        digits(whole) && digits(decimals) && whole.len() <= 3 && decimals.len() <= 4
    };
    let millionths = parts
        .filter(fits)
        .and_then(|(whole, decimals)| format!("{whole}{decimals:0<4}").parse::<u32>().ok());
    millionths.filter(|share| *share <= WHOLE).map(FinePercent).ok_or_else(|| {
        format!("expected a percentage from 0% to 100% with at most four decimals, not `{text}`")
    })
}

/// Formats a percentage as [`parse_fine_percent`] reads it.
pub fn show_fine_percent(share: FinePercent) -> String {
    let (whole, decimals) = (share.0 / PERCENT, format!("{:04}", share.0 % PERCENT));
    match decimals.trim_end_matches('0') {
        "" => format!("{whole}%"),
        decimals => format!("{whole}.{decimals}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_up_to_four_decimals() {
        for (text, millionths) in
            [("0%", 0), ("10%", 100_000), ("99.9%", 999_000), ("0.0001%", 1), ("100%", WHOLE)]
        {
            assert_eq!(parse_fine_percent(text), Ok(FinePercent(millionths)), "{text}");
            assert_eq!(show_fine_percent(FinePercent(millionths)), text);
        }
        assert_eq!(parse_fine_percent("1.50%"), Ok(FinePercent(15_000)));
        for text in ["", "%", "1", "1.%", ".5%", "100.0001%", "1.00001%", "-1%", "1e2%"] {
            assert!(parse_fine_percent(text).is_err(), "{text}");
        }
    }
}
