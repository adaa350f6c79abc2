//! Conversion of heads between our form and field sections.
//!
//! Owns: what of HTTP/3 may become a head, and of a head HTTP/3. Refuses to know: streams and frames. Keeps: a
//! malformed message is refused with the code that RFC 9114 §4.1.2 names, and never forwarded.
//!
//! Source: RFC 9114 §4.2, §4.3 and §4.4, RFC 9220.

use crate::error::{ErrorKind, HttpError};
use crate::h1::parse::is_authority;
use crate::h3::frame::{self, code, kind};
use crate::h3::qpack::{self, Wrong};
use crate::head::{Head, Method, Version};
use crate::names::{Known, is_field_value, is_token_byte};

/// A fault in a field section, and what it affects.
#[derive(Debug)]
pub enum SectionRefusal {
    /// The connection ends with this code.
    Connection(u32, &'static str),
    /// The message gets an error response, or its stream is reset.
    Message(HttpError),
}

impl From<Wrong> for SectionRefusal {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Malformed => {
                Self::Connection(code::QPACK_DECOMPRESSION_FAILED, "http3.field_section_malformed")
            }
            Wrong::TooLarge => {
                Self::Message(HttpError::coded(ErrorKind::Malformed(431), "http3.head_too_large"))
            }
        }
    }
}

fn refused(detail: &'static str) -> SectionRefusal {
    SectionRefusal::Message(HttpError::coded(ErrorKind::Malformed(400), detail))
}

/// The pseudo-headers seen so far.
#[derive(Default)]
struct Pseudo {
    method: bool,
    scheme: bool,
    path: bool,
    authority: bool,
    status: bool,
    protocol: bool,
    /// A regular header was seen; no pseudo-header may follow.
    over: bool,
    cookies: usize,
    /// Regular headers that may still arrive.
    fields_left: usize,
}

/// The bounds on a field section.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes, as RFC 9114 §4.2.2 counts them.
    pub bytes: usize,
    /// Number of headers, without pseudo-headers.
    pub fields: usize,
}

impl Pseudo {
    fn new(bounds: Bounds) -> Self {
        Self { fields_left: bounds.fields, ..Self::default() }
    }

    /// Adds one header to the head.
    fn take(&mut self, head: &mut Head, name: &[u8], value: &[u8]) -> Result<(), SectionRefusal> {
        if !is_field_value(value) || has_edges(value) {
            return Err(refused("http3.field_value_malformed"));
        }
        if let Some(pseudo) = name.strip_prefix(b":") {
            return self.take_pseudo(head, pseudo, value);
        }
        self.over = true;
        // Cookies arrive in crumbs, RFC 9114 §4.2.1, and count as one header.
        let crumb = self.cookies > 0 && name == b"cookie";
        let Some(left) = self.fields_left.checked_sub(usize::from(!crumb)) else {
            let error = HttpError::coded(ErrorKind::Malformed(431), "http3.too_many_fields");
            return Err(SectionRefusal::Message(error));
        };
        self.fields_left = left;
        let lower = |byte: &u8| is_token_byte(*byte) && !byte.is_ascii_uppercase();
        if name.is_empty() || !name.iter().all(lower) {
            return Err(refused("http3.field_name_malformed"));
        }
        let known = Known::of(name);
        match known {
            Some(Known::Te) if value.eq_ignore_ascii_case(b"trailers") => {}
            Some(Known::Te) => return Err(refused("http3.te_malformed")),
            Some(known) if known.is_hop_by_hop() => {
                return Err(refused("http3.connection_specific_field"));
            }
            Some(Known::Cookie) => self.cookies += 1,
            _ => {}
        }
        head.append_line(name, value, known);
        Ok(())
    }

    fn take_pseudo(
        &mut self,
        head: &mut Head,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), SectionRefusal> {
        let (met, set): (_, fn(&mut Head, &[u8]) -> bool) = match name {
            b"method" => (&mut self.method, Head::set_method),
            b"scheme" => (&mut self.scheme, Head::set_scheme),
            b"path" => (&mut self.path, Head::set_path),
            b"authority" => (&mut self.authority, Head::set_authority),
            b"protocol" => (&mut self.protocol, Head::set_upgrade),
            b"status" => (&mut self.status, |head, value| {
                let digits = value.len() == 3 && value.iter().all(u8::is_ascii_digit);
                let status = std::str::from_utf8(value).ok().filter(|_| digits);
                head.set_status(status.and_then(|status| status.parse().ok()).unwrap_or(0));
                true
            }),
            _ => return Err(refused("http3.pseudo_field_unknown")),
        };
        if self.over || std::mem::replace(met, true) {
            return Err(refused("http3.pseudo_field_misplaced"));
        }
        if set(head, value) { Ok(()) } else { Err(refused("http3.pseudo_field_malformed")) }
    }
}

/// Whether a value begins or ends with white space, RFC 9110 §5.5.
fn has_edges(value: &[u8]) -> bool {
    let white = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    white(value.first()) || white(value.last())
}

/// Decodes the field section of a request.
///
/// # Errors
/// It is not a request, or cannot be forwarded with one meaning.
pub fn request(section: &[u8], max: Bounds, head: &mut Head) -> Result<(), SectionRefusal> {
    head.clear();
    head.set_version(Version::Http3);
    let mut pseudo = Pseudo::new(max);
    qpack::decode(section, max.bytes, |name, value| pseudo.take(head, name, value))?;
    if pseudo.cookies > 1 {
        head.join_cookies();
    }
    let method = head.method_text().as_bytes();
    if pseudo.status
        || !pseudo.method
        || method.is_empty()
        || !method.iter().copied().all(is_token_byte)
    {
        return Err(refused("http3.method_malformed"));
    }
    authority(head, pseudo.authority)?;
    one_length(head)?;
    let connects = head.method() == Method::Connect;
    // What follows CONNECT is not a body, so no header may state its length; HTTP/1 does the same.
    if connects && head.get(Known::ContentLength).is_some() {
        return Err(refused("http3.connect_with_content_length"));
    }
    if connects && !pseudo.protocol {
        // RFC 9114 §4.4.
        if pseudo.scheme || pseudo.path || !pseudo.authority {
            return Err(refused("http3.connect_malformed"));
        }
        return Ok(());
    }
    if pseudo.protocol && head.upgrade().is_none_or(|protocol| !protocol.bytes().all(is_token_byte))
    {
        return Err(refused("http3.protocol_malformed"));
    }
    if pseudo.protocol && !connects {
        return Err(refused("http3.protocol_without_connect"));
    }
    if !pseudo.scheme || !pseudo.path {
        return Err(refused("http3.pseudo_field_missing"));
    }
    if !matches!(head.scheme(), "http" | "https") {
        return Err(refused("http3.scheme_unknown"));
    }
    let path = head.path();
    let fits = path.starts_with('/') || (path == "*" && head.method() == Method::Options);
    if !fits || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(refused("http3.path_malformed"));
    }
    Ok(())
}

/// Determines the authority; `Host` may repeat it, but not differ.
fn authority(head: &mut Head, said: bool) -> Result<(), SectionRefusal> {
    if head.values(b"host").count() > 1 {
        return Err(refused("http3.host_repeated"));
    }
    let host = head.get(Known::Host).map(<[u8]>::to_vec);
    match (said, &host) {
        (true, Some(host)) if !head.authority().as_bytes().eq_ignore_ascii_case(host) => {
            return Err(refused("http3.authority_against_host"));
        }
        (false, None) => return Err(refused("http3.authority_missing")),
        (true, _) => true,
        (false, Some(host)) => head.set_authority(host),
    };
    head.remove(b"host");
    if head.authority().is_empty() || !is_authority(head.authority().as_bytes()) {
        return Err(refused("http3.authority_malformed"));
    }
    Ok(())
}

/// Checks that there is at most one length, and that it is a number.
fn one_length(head: &Head) -> Result<(), SectionRefusal> {
    match head.values(b"content-length").count() {
        0 => Ok(()),
        1 if head.content_length().is_some() => Ok(()),
        _ => Err(refused("http3.content_length_malformed")),
    }
}

/// Decodes the field section of a response.
///
/// # Errors
/// It is not a response.
pub fn response(section: &[u8], max: Bounds, head: &mut Head) -> Result<(), SectionRefusal> {
    head.clear();
    head.set_version(Version::Http3);
    let mut pseudo = Pseudo::new(max);
    qpack::decode(section, max.bytes, |name, value| pseudo.take(head, name, value))?;
    let of_request =
        pseudo.method || pseudo.scheme || pseudo.path || pseudo.authority || pseudo.protocol;
    // RFC 9114 §4.5: there is no 101.
    if of_request || !(100..=999).contains(&head.status()) || head.status() == 101 {
        return Err(refused("http3.status_malformed"));
    }
    one_length(head)
}

/// Decodes trailers. Headers that are not allowed in trailers are left out.
///
/// # Errors
/// They are not trailers.
pub fn trailers(section: &[u8], max: Bounds, head: &mut Head) -> Result<(), SectionRefusal> {
    head.clear();
    let mut pseudo = Pseudo { over: true, ..Pseudo::new(max) };
    qpack::decode(section, max.bytes, |name, value| pseudo.take(head, name, value))?;
    head.remove_where(|name, _| Known::of(name).is_some_and(Known::is_barred_from_trailers));
    Ok(())
}

/// Adds a HEADERS frame with a response head.
///
/// # Errors
/// The head contains an invalid header.
pub fn put_response(out: &mut Vec<u8>, head: &Head) -> Result<(), HttpError> {
    let mut section = qpack::PREFIX.to_vec();
    let status = head.status();
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
    qpack::encode(
        &mut section,
        b":status",
        &[digit(status / 100), digit(status / 10), digit(status)],
    );
    put_fields(out, section, head)
}

/// Adds a HEADERS frame with a request head.
///
/// # Errors
/// The head contains an invalid header.
pub fn put_request(out: &mut Vec<u8>, head: &Head) -> Result<(), HttpError> {
    let mut section = qpack::PREFIX.to_vec();
    let extended = head.upgrade();
    let method = if extended.is_some() { "CONNECT" } else { head.method_text() };
    let mut put = |name: &[u8], value: &str| qpack::encode(&mut section, name, value.as_bytes());
    put(b":method", method);
    put(b":authority", head.authority());
    if head.method() != Method::Connect || extended.is_some() {
        // QUIC is always encrypted; a request that arrived in clear text was still meant for this endpoint.
        put(b":scheme", "https");
        put(b":path", if head.path().is_empty() { "/" } else { head.path() });
    }
    if let Some(protocol) = extended {
        put(b":protocol", protocol);
    }
    put_fields(out, section, head)
}

/// Adds a HEADERS frame with trailers.
///
/// # Errors
/// They contain an invalid header.
pub fn put_trailers(out: &mut Vec<u8>, head: &Head) -> Result<(), HttpError> {
    put_fields(out, qpack::PREFIX.to_vec(), head)
}

fn put_fields(out: &mut Vec<u8>, mut section: Vec<u8>, head: &Head) -> Result<(), HttpError> {
    if !head.is_sound() {
        return Err(HttpError::coded(ErrorKind::Malformed(502), "http3.field_cannot_be_sent"));
    }
    let mut lower = Vec::new();
    for (name, value) in head.fields() {
        if Known::of(name).is_some_and(|known| known.is_hop_by_hop() || known == Known::Host) {
            continue;
        }
        lower.clear();
        lower.extend(name.iter().map(u8::to_ascii_lowercase));
        qpack::encode(&mut section, &lower, value);
    }
    frame::put_head(out, kind::HEADERS, section.len());
    out.extend_from_slice(&section);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut section = qpack::PREFIX.to_vec();
        fields.iter().for_each(|(name, value)| {
            qpack::encode(&mut section, name.as_bytes(), value.as_bytes())
        });
        section
    }

    fn read(fields: &[(&str, &str)]) -> Result<Head, SectionRefusal> {
        let mut head = Head::default();
        request(&section(fields), BOUNDS, &mut head).map(|()| head)
    }

    const BOUNDS: Bounds = Bounds { bytes: 4096, fields: 100 };

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x?y")];

    #[test]
    fn a_request_is_taken_apart() {
        let head = read(
            &[&GET[..], &[("cookie", "a=1"), ("x-one", "1"), ("cookie", "b=2"), ("cookie", "")]]
                .concat(),
        )
        .unwrap();
        assert_eq!((head.method_text(), head.authority(), head.path()), ("GET", "a.test", "/x?y"));
        assert_eq!(head.get(Known::Cookie), Some(&b"a=1; b=2"[..]));
        let chat = read(&[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "a"),
            (":path", "/chat"),
        ]);
        assert_eq!(chat.unwrap().upgrade(), Some("websocket"));
        let tunnel = read(&[(":method", "CONNECT"), (":authority", "a:1")]).unwrap();
        assert_eq!((tunnel.method(), tunnel.authority()), (Method::Connect, "a:1"));
    }

    #[test]
    fn what_may_not_be_is_refused() {
        let with = |more: &[(&'static str, &'static str)]| [&GET[..], more].concat();
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
            (with(&[(":status", "200")]), "http3.method_malformed"),
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
        let mut fields = Vec::new();
        qpack::decode::<Wrong>(&out[skip..], 999, |name, value| {
            fields.push((name.to_vec(), value.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(
            fields,
            [(b":status".to_vec(), b"404".to_vec()), (b"x-one".to_vec(), b"1".to_vec())]
        );
    }
}
