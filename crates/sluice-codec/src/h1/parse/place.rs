//! Where in a head a fault is, as text for an access log.
//!
//! Owns: the search for the line and its excerpt. Refuses to know: how heads are parsed; it calls the parser line by
//! line. Keeps: it runs only after a fault, shows a bounded, escaped excerpt, and is never sent to a peer.

use super::{Line, field};
use crate::parse_error::ParseError;

/// Bytes of a line that are shown.
const EXCERPT: usize = 64;

/// Describes a fault in a response head: its detail, the line number and the beginning of that line.
pub(crate) fn in_response(fault: ParseError, head: &[u8]) -> String {
    // A start line that is refused early is reported as that of a request.
    let fault = if fault == ParseError::Method { ParseError::StatusLine } else { fault };
    let word = fault.detail();
    let Some((number, line)) = line_of(fault, head) else { return word.to_owned() };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let shown = line.get(..EXCERPT).unwrap_or(line);
    let more = if shown.len() < line.len() { ".." } else { "" };
    format!("{word} in line {number}: \"{}\"{more}", shown.escape_ascii())
}

/// Returns the line that contains a fault, counted from 1; `None` if the fault is not in one line alone.
fn line_of(fault: ParseError, head: &[u8]) -> Option<(usize, &[u8])> {
    let lines = head.split(|byte| *byte == b'\n');
    let mut lines = (1..).zip(lines);
    let has = |line: &[u8]| {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        field(&Line { text, start: 0 }).err() == Some(fault)
    };
    match fault {
        ParseError::StatusLine | ParseError::Version | ParseError::TlsRecord => lines.next(),
        ParseError::BareLf => lines.find(|(_, line)| !line.ends_with(b"\r")),
        _ => lines.skip(1).find(|(_, line)| has(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_shown_with_its_line() {
        for (fault, head, shown) in [
            (
                ParseError::SpaceBeforeColon,
                &b"HTTP/1.1 200 OK\r\na: b\r\nbad : \x1b[2J\r\n\r\n"[..],
                "http1.space_before_colon in line 3: \"bad : \\x1b[2J\"",
            ),
            (ParseError::Method, b"\0no", "http1.status_line_malformed in line 1: \"\\x00no\""),
            (
                ParseError::BareLf,
                b"HTTP/1.1 200 OK\nx",
                "http1.bare_lf in line 1: \"HTTP/1.1 200 OK\"",
            ),
            (ParseError::LengthWithEncoding, b"x", "http1.content_length_with_transfer_encoding"),
        ] {
            assert_eq!(in_response(fault, head), shown);
        }
        let long = [b"bad : ", &[b'x'; 1000][..]].concat();
        let head = [b"HTTP/1.1 200 OK\r\n", &long[..]].concat();
        assert!(in_response(ParseError::SpaceBeforeColon, &head).len() < 120);
    }
}
