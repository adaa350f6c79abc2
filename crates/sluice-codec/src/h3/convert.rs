//! Conversion of heads between our form and field sections.
//!
//! Owns: what the faults of a section affect in HTTP/3. Refuses to know: streams and frames. Keeps: a malformed message is
//! refused with the code that RFC 9114 §4.1.2 names, and never forwarded.
//!
//! Source: RFC 9114 §4.2, §4.3 and §4.4, RFC 9220.

use super::qpack::{self, SectionMalformed};
use crate::error::HttpError;
use crate::field_section::{
    Bounds, FieldFault, OutgoingField, SectionKind, SectionReader, for_each_request,
    for_each_response, for_each_trailer,
};
use crate::h3::frame::{self, code, kind};
use crate::head::{Head, Version};

/// A fault in a field section, and what it affects.
#[derive(Debug)]
pub enum SectionRefusal {
    /// The connection ends with this code.
    Connection(u32, &'static str),
    /// The message gets an error response, or its stream is reset.
    Message(HttpError),
}

impl From<SectionMalformed> for SectionRefusal {
    fn from(_: SectionMalformed) -> Self {
        Self::Connection(code::QPACK_DECOMPRESSION_FAILED, "http3.field_section_malformed")
    }
}

/// Decodes the field section of a request.
///
/// # Errors
/// It is not a request, or cannot be forwarded with one meaning.
pub fn request(section: &[u8], max: Bounds, head: &mut Head) -> Result<(), SectionRefusal> {
    read(SectionKind::Request, section, max, head)
}

/// Decodes the field section of a response.
///
/// # Errors
/// It is not a response.
pub fn response(section: &[u8], max: Bounds, head: &mut Head) -> Result<(), SectionRefusal> {
    read(SectionKind::Response, section, max, head)
}

/// Decodes trailers. Headers that are not allowed in trailers are left out.
///
/// # Errors
/// They are not trailers.
pub fn trailers(section: &[u8], max: Bounds, head: &mut Head) -> Result<(), SectionRefusal> {
    read(SectionKind::Trailers, section, max, head)
}

/// Decodes a field section of one kind.
///
/// # Errors
/// As `request`, `response` and `trailers`.
pub(crate) fn read(
    kind: SectionKind,
    section: &[u8],
    max: Bounds,
    head: &mut Head,
) -> Result<(), SectionRefusal> {
    let mut reader = SectionReader::new(head, kind, Version::Http3, max);
    qpack::decode(section, &mut reader)?;
    let too_large = |fault: FieldFault| fault.error_of(kind, Version::Http3, max);
    reader.finish().map_err(|fault| SectionRefusal::Message(too_large(fault)))
}

/// Adds a HEADERS frame with a response head.
///
/// # Errors
/// The head contains an invalid header.
pub fn put_response(out: &mut Vec<u8>, head: &Head) -> Result<(), HttpError> {
    let mut section = qpack::PREFIX.to_vec();
    for_each_response(head, Version::Http3, |field| qpack::encode(&mut section, field))?;
    put_frame(out, &section);
    Ok(())
}

/// Adds a HEADERS frame with a request head.
///
/// # Errors
/// The head contains an invalid header.
pub fn put_request(out: &mut Vec<u8>, head: &Head) -> Result<(), HttpError> {
    let mut section = qpack::PREFIX.to_vec();
    let put = |field: OutgoingField<'_>| qpack::encode(&mut section, field);
    // QUIC is always encrypted; a request that arrived in clear text was still meant for this endpoint.
    for_each_request(head, Version::Http3, Some("https"), put)?;
    put_frame(out, &section);
    Ok(())
}

/// Adds a HEADERS frame with trailers.
///
/// # Errors
/// They contain an invalid header.
pub fn put_trailers(out: &mut Vec<u8>, head: &Head) -> Result<(), HttpError> {
    let mut section = qpack::PREFIX.to_vec();
    for_each_trailer(head, Version::Http3, |field| qpack::encode(&mut section, field))?;
    put_frame(out, &section);
    Ok(())
}

fn put_frame(out: &mut Vec<u8>, section: &[u8]) {
    frame::put_head(out, kind::HEADERS, section.len());
    out.extend_from_slice(section);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field_section::{CollectingSink, OutgoingName};
    use crate::head::Method;
    use crate::names::Known;

    fn section(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut section = qpack::PREFIX.to_vec();
        for (name, value) in fields {
            // Without the encoder, which would make a name lower case.
            crate::prefix_int::put(&mut section, 0x20, 3, name.len());
            section.extend_from_slice(name.as_bytes());
            crate::prefix_int::put(&mut section, 0, 7, value.len());
            section.extend_from_slice(value.as_bytes());
        }
        section
    }

    fn read(fields: &[(&str, &str)]) -> Result<Head, SectionRefusal> {
        let mut head = Head::default();
        request(&section(fields), BOUNDS, &mut head).map(|()| head)
    }

    const BOUNDS: Bounds = Bounds { bytes: 4096, fields: 100 };

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x?y")];

    const CHAT: [(&str, &str); 5] = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/chat"),
    ];

    #[test]
    fn a_request_is_taken_apart() {
        let head = read(
            &[&GET[..], &[("cookie", "a=1"), ("x-one", "1"), ("cookie", "b=2"), ("cookie", "")]]
                .concat(),
        )
        .unwrap();
        assert_eq!((head.method_text(), head.authority(), head.path()), ("GET", "a.test", "/x?y"));
        assert_eq!(head.get(Known::Cookie), Some(&b"a=1; b=2"[..]));
        assert_eq!(read(&CHAT).unwrap().upgrade(), Some("websocket"));
        let tunnel = read(&[(":method", "CONNECT"), (":authority", "a:1")]).unwrap();
        assert_eq!((tunnel.method(), tunnel.authority()), (Method::Connect, "a:1"));
    }

    #[test]
    fn what_may_not_be_is_refused() {
        let with = |more: &[(&'static str, &'static str)]| [&GET[..], more].concat();
        let chat = |more: &[(&'static str, &'static str)]| [&CHAT[..], more].concat();
        let to = |authority| [&GET[..2], &[(":authority", authority)], &GET[3..]].concat();
        for (fields, detail) in [
            (with(&[("X-Upper", "1")]), "http3.field_name_malformed"),
            (with(&[("", "1")]), "http3.field_name_malformed"),
            (with(&[("a b", "1")]), "http3.field_name_malformed"),
            (with(&[("x", "a\r\nb")]), "http3.field_value_malformed"),
            (with(&[("x", " a")]), "http3.field_value_malformed"),
            (with(&[("connection", "close")]), "http3.connection_specific_field"),
            (with(&[("transfer-encoding", "chunked")]), "http3.connection_specific_field"),
            (with(&[("te", "gzip")]), "http3.te_malformed"),
            (with(&[("host", "b.test")]), "http3.authority_against_host"),
            (with(&[("x", "1"), (":path", "/")]), "http3.pseudo_field_misplaced"),
            (with(&[(":path", "/")]), "http3.pseudo_field_misplaced"),
            (with(&[(":status", "200")]), "http3.pseudo_field_misplaced"),
            (with(&[(":strange", "1")]), "http3.pseudo_field_unknown"),
            (with(&[(":protocol", "websocket")]), "http3.protocol_without_connect"),
            (
                with(&[("content-length", "1"), ("content-length", "1")]),
                "http3.content_length_malformed",
            ),
            (with(&[("content-length", "+1")]), "http3.content_length_malformed"),
            (GET[1..].to_vec(), "http3.method_malformed"),
            (GET[..3].to_vec(), "http3.pseudo_field_missing"),
            ([&GET[..2], &GET[3..]].concat(), "http3.authority_missing"),
            ([&GET[..3], &[(":path", "x")]].concat(), "http3.path_malformed"),
            ([&GET[..3], &[(":path", "/#a")]].concat(), "http3.path_malformed"),
            ([&GET[..3], &[(":path", "/\u{e9}")]].concat(), "http3.pseudo_field_malformed"),
            (
                vec![(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")],
                "http3.connect_malformed",
            ),
            (
                vec![(":method", "CONNECT"), (":authority", "a:1"), ("content-length", "1")],
                "http3.connect_with_content_length",
            ),
            (chat(&[("content-length", "0")]), "http3.connect_with_content_length"),
            (to("a:b"), "http3.authority_malformed"),
            (to("[::1"), "http3.authority_malformed"),
        ] {
            match read(&fields) {
                Err(SectionRefusal::Message(error)) => {
                    assert_eq!(error.detail(), detail, "{fields:?}")
                }
                other => panic!("{fields:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_response_has_a_status_and_no_other_version_to_switch_to() {
        let detail = |fields: &[(&str, &str)]| {
            let mut head = Head::default();
            match response(&section(fields), BOUNDS, &mut head) {
                Ok(()) => String::new(),
                Err(SectionRefusal::Message(error)) => error.detail().to_owned(),
                Err(other) => panic!("{other:?}"),
            }
        };
        for status in ["100", "103", "200", "999"] {
            assert_eq!(detail(&[(":status", status)]), "");
        }
        for status in ["101", "099"] {
            assert_eq!(detail(&[(":status", status)]), "http3.status_malformed", "{status}");
        }
        for status in ["1000", "2OO", ""] {
            assert_eq!(detail(&[(":status", status)]), "http3.pseudo_field_malformed", "{status}");
        }
        assert_eq!(detail(&[("x", "1")]), "http3.status_malformed");
    }

    #[test]
    fn trailers_hold_no_pseudo_fields_and_nothing_that_frames() {
        let mut head = Head::default();
        let fields = section(&[("x-sum", "1"), ("content-length", "9")]);
        trailers(&fields, BOUNDS, &mut head).unwrap();
        assert_eq!(head.fields().collect::<Vec<_>>(), [(&b"x-sum"[..], &b"1"[..])]);
        assert!(trailers(&section(&[(":status", "200")]), BOUNDS, &mut head).is_err());
    }

    #[test]
    fn responses_are_written() {
        let mut head = Head::response(404);
        head.append(b"X-One", b"1");
        head.append(b"connection", b"close");
        let mut out = Vec::new();
        put_response(&mut out, &head).unwrap();
        let (kind, length, skip) = frame::head(&out).unwrap();
        assert_eq!((kind, length), (kind::HEADERS, (out.len() - skip) as u64));
        let mut fields = CollectingSink::default();
        qpack::decode(&out[skip..], &mut fields).unwrap();
        assert_eq!(fields.shown(), [(":status", "404"), ("x-one", "1")]);
    }

    #[test]
    fn what_is_never_indexed_stays_so() {
        let mut plain = qpack::PREFIX.to_vec();
        for (name, value) in [(":method", "GET"), (":scheme", "https"), (":authority", "a")] {
            let name = OutgoingName::Other(name.as_bytes());
            let field = OutgoingField { name, value: value.as_bytes(), is_sensitive: false };
            qpack::encode(&mut plain, field);
        }
        for (name, value) in [(":path", "/"), ("x-token", "1"), ("authorization", "2")] {
            let name = OutgoingName::Other(name.as_bytes());
            let field = OutgoingField { name, value: value.as_bytes(), is_sensitive: true };
            qpack::encode(&mut plain, field);
        }
        let mut head = Head::default();
        request(&plain, BOUNDS, &mut head).unwrap();
        let mut out = Vec::new();
        put_request(&mut out, &head).unwrap();
        let (_, _, skip) = frame::head(&out).unwrap();
        let mut fields = CollectingSink::default();
        qpack::decode(&out[skip..], &mut fields).unwrap();
        assert_eq!(fields.sensitive(), [":path", "x-token", "authorization"]);
    }
}
