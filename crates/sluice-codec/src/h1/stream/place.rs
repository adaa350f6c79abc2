//! Where in a message a fault is, as text for an access log.
//!
//! Owns: the search for the line and its excerpt, the limits that are named. Refuses to know: how heads are parsed; it
//! calls the parser line by line. Keeps: it runs only after a fault, shows a bounded, escaped excerpt, shows no value
//! that a client sent, and is never sent to a peer.

use sluice_core::value::{plural, show_size};

use super::Role;
use crate::error::{ErrorKind, HttpError};
use crate::h1::chunked::EXTENSION_MAX;
use crate::h1::parse::{self, CONNECTIONS_MAX, HeadLimits};
use crate::head::decimal;
use crate::names::Known;
use crate::parse_error::ParseError;

/// Bytes of a line that are shown.
const EXCERPT: usize = 64;

/// Returns the error for a fault in a head: with the limit that it exceeds, or the line that it is in.
pub(crate) fn in_head(fault: ParseError, role: Role, head: &[u8], limits: HeadLimits) -> HttpError {
    // A start line that is refused early is reported as that of a request.
    let fault = match (fault, role) {
        (ParseError::Method, Role::Client) => ParseError::StatusLine,
        _ => fault,
    };
    error(fault, || match limit(fault, role, head, limits) {
        Some(limit) => limit,
        None => line(fault, role, head, "").unwrap_or_default(),
    })
}

/// Returns the error for a fault in the framing of a chunked body; `at` is the byte that it was found at.
pub(crate) fn in_chunks(fault: ParseError, role: Role, at: u64, limits: HeadLimits) -> HttpError {
    error(fault, || match limit(fault, role, b"", limits) {
        Some(limit) => limit,
        None => format!(" at byte {at} of the chunked body"),
    })
}

/// Returns the error for a fault in trailers.
pub(crate) fn in_trailers(
    fault: ParseError,
    role: Role,
    lines: &[u8],
    limits: HeadLimits,
) -> HttpError {
    error(fault, || match limit(fault, role, lines, limits) {
        Some(limit) => limit,
        None => line(fault, role, lines, " of the trailers").unwrap_or_default(),
    })
}

fn error(fault: ParseError, place: impl Fn() -> String) -> HttpError {
    let code = fault.detail();
    HttpError::coded_with(ErrorKind::Malformed(fault.status()), code, code.to_owned() + &place())
}

/// The limit that was exceeded. The settings that are named are those of listeners.
fn limit(fault: ParseError, role: Role, head: &[u8], limits: HeadLimits) -> Option<String> {
    let setting = |name: &str, value: &str| match role {
        Role::Server => format!(": more than `{name}` ({value})"),
        Role::Client => format!(": more than {value}"),
    };
    let connections =
        || lines(head).filter(|(_, line)| name_of(line) == Some(Known::Connection)).count();
    Some(match fault {
        ParseError::HeadTooLarge
        | ParseError::RequestLineTooLong
        | ParseError::TrailersTooLarge => setting("head_bytes", &show_size(limits.bytes as u64)),
        ParseError::TooManyFields if connections() > CONNECTIONS_MAX => {
            format!(": more than {CONNECTIONS_MAX} `connection` headers")
        }
        ParseError::TooManyFields if role == Role::Client => {
            format!(": more than {}", plural(limits.fields as u64, "header"))
        }
        ParseError::TooManyFields => setting("head_fields", &limits.fields.to_string()),
        ParseError::ChunkExtensionTooLong => {
            format!(": more than {}", show_size(u64::from(EXTENSION_MAX)))
        }
        _ => return None,
    })
}

/// The line that contains a fault: its number, and its beginning. Of a client's line only what precedes a value.
fn line(fault: ParseError, role: Role, head: &[u8], of: &str) -> Option<String> {
    let is_head = of.is_empty();
    let (number, line) = line_of(fault, head, is_head)?;
    let place = format!(" in line {number}{of}");
    let line = match role {
        Role::Client => line,
        Role::Server => match line.iter().position(|byte| matches!(byte, b':' | b'?')) {
            Some(end) => line.get(..=end)?,
            None if number == 1 && is_head => line,
            // Without a name, it may be anything.
            None => return Some(place),
        },
    };
    let shown = line.get(..EXCERPT).unwrap_or(line);
    let more = if shown.len() < line.len() { ".." } else { "" };
    Some(format!("{place}: \"{}\"{more}", shown.escape_ascii()))
}

/// The lines of a head with their numbers, counted from 1, without CRLF.
fn lines(head: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = head.split(|byte| *byte == b'\n');
    (1..).zip(lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
}

fn name_of(line: &[u8]) -> Option<Known> {
    Known::of(line.split(|byte| *byte == b':').next()?)
}

fn value_of(line: &[u8]) -> Option<&[u8]> {
    line.split(|byte| *byte == b':').nth(1).map(<[u8]>::trim_ascii)
}

/// Returns the line that contains a fault; for a contradiction, the last line that takes part in it. A head has a start
/// line, unlike trailers.
fn line_of(fault: ParseError, head: &[u8], is_head: bool) -> Option<(usize, &[u8])> {
    let named = |name| lines(head).filter(move |(_, line)| name_of(line) == Some(name));
    match fault {
        ParseError::Method
        | ParseError::TlsRecord
        | ParseError::Target
        | ParseError::Version
        | ParseError::VersionUnsupported
        | ParseError::StatusLine
        | ParseError::UpgradeUnasked
        // Which requires it.
        | ParseError::HostMissing => lines(head).next(),
        ParseError::BareLf => {
            let bare = head.split(|byte| *byte == b'\n').position(|line| !line.ends_with(b"\r"))?;
            lines(head).nth(bare)
        }
        ParseError::HostRepeated => named(Known::Host).nth(1),
        // Without the header, it is the host of the target.
        ParseError::HostMalformed => named(Known::Host).next().or_else(|| lines(head).next()),
        ParseError::LengthMalformed => {
            named(Known::ContentLength).find(|(_, line)| value_of(line).and_then(decimal).is_none())
        }
        ParseError::LengthRepeated => named(Known::ContentLength).nth(1),
        ParseError::EncodingUnknown => named(Known::TransferEncoding).find(|(_, line)| {
            !value_of(line).is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"))
        }),
        ParseError::EncodingRepeated => named(Known::TransferEncoding).nth(1),
        ParseError::EncodingInOldVersion => named(Known::TransferEncoding).next(),
        ParseError::LengthWithEncoding | ParseError::BodyOnConnect => lines(head)
            .filter(|(_, line)| {
                matches!(name_of(line), Some(Known::ContentLength | Known::TransferEncoding))
            })
            .last(),
        ParseError::TrailerBarred => lines(head)
            .find(|(_, line)| name_of(line).is_some_and(Known::is_barred_from_trailers)),
        _ => lines(head)
            .skip(usize::from(is_head))
            .find(|(_, line)| parse::fault_of_line(line) == Some(fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 2048, fields: 7 };

    fn shown(fault: ParseError, role: Role, head: &[u8]) -> String {
        in_head(fault, role, head, LIMITS).detail().to_owned()
    }

    #[test]
    fn a_fault_is_shown_with_its_line() {
        for (fault, head, line) in [
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
            (
                ParseError::LengthWithEncoding,
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\na: b\r\ncontent-length: 5\r\n",
                "http1.content_length_with_transfer_encoding in line 4: \"content-length: 5\"",
            ),
            (ParseError::HeadTooLarge, b"", "http1.head_too_large: more than 2KiB"),
            (ParseError::TooManyFields, b"", "http1.too_many_fields: more than 7 headers"),
        ] {
            assert_eq!(shown(fault, Role::Client, head), line);
        }
        let long = [b"bad : ", &[b'x'; 1000][..]].concat();
        let head = [b"HTTP/1.1 200 OK\r\n", &long[..]].concat();
        assert!(shown(ParseError::SpaceBeforeColon, Role::Client, &head).len() < 120);
    }

    #[test]
    fn no_value_of_a_client_is_shown() {
        for (fault, lines, line) in [
            (
                ParseError::FieldValue,
                "Cookie: secret\x01",
                "field_value_malformed in line 2: \"Cookie:\"",
            ),
            (
                ParseError::SpaceBeforeColon,
                "a: b\r\nx-app : 1",
                "space_before_colon in line 3: \"x-app :\"",
            ),
            (ParseError::FieldName, "secret", "field_name_malformed in line 2"),
            (ParseError::ObsFold, "a: b\r\n secret", "obsolete_folding in line 3"),
            (
                ParseError::HostRepeated,
                "host: a\r\nb: c\r\nHOST: b",
                "host_repeated in line 4: \"HOST:\"",
            ),
            (
                ParseError::LengthRepeated,
                "content-length: 1\r\ncontent-length: 1",
                "content_length_repeated in line 3: \"content-length:\"",
            ),
            (
                ParseError::LengthMalformed,
                "a: b\r\ncontent-length: +1",
                "content_length_malformed in line 3: \"content-length:\"",
            ),
            (
                ParseError::EncodingUnknown,
                "transfer-encoding: br",
                "transfer_encoding_unknown in line 2: \"transfer-encoding:\"",
            ),
            (ParseError::HostMissing, "a: b", "host_missing in line 1: \"GET /?\""),
            (ParseError::HeadTooLarge, "", "head_too_large: more than `head_bytes` (2KiB)"),
            (ParseError::TooManyFields, "", "too_many_fields: more than `head_fields` (7)"),
            (
                ParseError::TooManyFields,
                "connection: a\r\nconnection: a\r\nconnection: a\r\nconnection: a\r\nconnection: a",
                "too_many_fields: more than 4 `connection` headers",
            ),
        ] {
            let head = format!("GET /?secret HTTP/1.1\r\n{lines}\r\n\r\n");
            let said = shown(fault, Role::Server, head.as_bytes());
            assert_eq!(said, format!("http1.{line}"));
        }
    }

    #[test]
    fn faults_behind_the_head_have_a_place_too() {
        let chunks = |fault| in_chunks(fault, Role::Client, 7, LIMITS).detail().to_owned();
        let at_byte = "http1.chunk_size_malformed at byte 7 of the chunked body";
        assert_eq!(chunks(ParseError::ChunkSize), at_byte);
        let extension = "http1.chunk_extension_too_long: more than 4KiB";
        assert_eq!(chunks(ParseError::ChunkExtensionTooLong), extension);
        assert_eq!(
            chunks(ParseError::TrailersTooLarge),
            "http1.trailers_too_large: more than 2KiB"
        );
        let lines = b"a: b\r\nhost: a\r\n\r\n";
        let barred = in_trailers(ParseError::TrailerBarred, Role::Server, lines, LIMITS);
        let said = "http1.trailer_not_allowed in line 2 of the trailers: \"host:\"";
        assert_eq!((barred.detail(), barred.status()), (said, Some(400)));
    }
}
