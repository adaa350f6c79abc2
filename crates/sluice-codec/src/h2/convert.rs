//! Conversion of heads between our form and the library's.
//!
//! Owns: what of HTTP/2 may become a head, and of a head HTTP/2. Refuses to know: streams. Keeps: what could not be
//! written as HTTP/1 with the same meaning is refused here, RFC 9113 §8.2, §8.3 and §10.3; the library has checked the
//! rest.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};

use crate::error::{ErrorKind, HttpError};
use crate::h1::parse::is_authority;
use crate::head::{Head, Method, Version};
use crate::names::{Known, is_token};

/// Converts a received request.
///
/// # Errors
/// The request cannot be forwarded with one meaning.
pub fn request_head<B>(
    request: &Request<B>,
    head: &mut Head,
    fields_max: usize,
) -> Result<(), HttpError> {
    head.clear();
    head.set_version(Version::Http2);
    head.set_method(request.method().as_str().as_bytes());
    let uri = request.uri();
    let authority = uri.authority().map(Authority::as_str);
    fields(request.headers(), head, fields_max)?;
    let host = head.get(Known::Host).map(<[u8]>::to_vec);
    if head.values(b"host").count() > 1 {
        return Err(refused("http2.host_repeated"));
    }
    match (authority, &host) {
        (Some(authority), Some(host)) if !authority.as_bytes().eq_ignore_ascii_case(host) => {
            return Err(refused("http2.authority_against_host"));
        }
        (None, None) => return Err(refused("http2.authority_missing")),
        (Some(authority), _) => head.set_authority(authority.as_bytes()),
        (None, Some(host)) => head.set_authority(host),
    };
    head.remove(b"host");
    if head.authority().is_empty() || !is_authority(head.authority().as_bytes()) {
        return Err(refused("http2.authority_malformed"));
    }
    if let Some(scheme) = uri.scheme_str() {
        head.set_scheme(scheme.as_bytes());
    }
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    if let Some(protocol) = protocol {
        if !is_token(protocol.as_str().as_bytes()) {
            return Err(refused("http2.protocol_malformed"));
        }
        if head.method() != Method::Connect {
            return Err(refused("http2.protocol_without_connect"));
        }
        head.set_upgrade(protocol.as_str().as_bytes());
    }
    // What follows CONNECT is not a body, so no header may state its length; HTTP/1 does the same.
    if head.method() == Method::Connect && head.get(Known::ContentLength).is_some() {
        return Err(refused("http2.connect_with_content_length"));
    }
    if head.method() == Method::Connect && protocol.is_none() {
        return Ok(());
    }
    // Without an authority, only the URI's parts distinguish a missing path from `/`.
    let missing = authority.is_none() && uri.clone().into_parts().path_and_query.is_none();
    let path = uri.path_and_query().filter(|_| !missing).map_or("", PathAndQuery::as_str);
    let fits = path.starts_with('/') || (path == "*" && head.method() == Method::Options);
    if !fits || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(refused("http2.path_malformed"));
    }
    head.set_path(path.as_bytes());
    Ok(())
}

/// Converts a received response head.
///
/// # Errors
/// The response cannot be forwarded with one meaning.
pub fn response_head<B>(
    response: &Response<B>,
    head: &mut Head,
    fields_max: usize,
) -> Result<(), HttpError> {
    head.clear();
    head.set_version(Version::Http2);
    head.set_status(response.status().as_u16());
    if head.status() == 101 {
        // RFC 9113 §8.6: there is no 101.
        return Err(refused("http2.status_malformed"));
    }
    fields(response.headers(), head, fields_max)
}

/// Converts received headers.
///
/// # Errors
/// There are more than `max`; or one is connection-specific, which HTTP/2 does not allow, or violates RFC 9113 §8.2.1.
pub fn fields(map: &HeaderMap, head: &mut Head, max: usize) -> Result<(), HttpError> {
    // Cookies arrive in crumbs, RFC 9113 §8.2.3, and count as one header.
    if map.len() > max && map.len() - map.get_all(http::header::COOKIE).iter().count() >= max {
        return Err(HttpError::coded(ErrorKind::Malformed(431), "http2.too_many_fields"));
    }
    let (mut cookies, mut lengths) = (0_usize, 0_usize);
    for (name, value) in map {
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(refused("http2.value_malformed"));
        }
        let known = Known::of(name.as_str().as_bytes());
        match known {
            Some(Known::Te) if value.as_bytes().eq_ignore_ascii_case(b"trailers") => {}
            Some(Known::Te) => return Err(refused("http2.te_malformed")),
            Some(known) if known.is_hop_by_hop() => {
                return Err(refused("http2.connection_specific_field"));
            }
            Some(Known::Cookie) => cookies += 1,
            Some(Known::ContentLength) => lengths += 1,
            _ => {}
        }
        head.append_line(name.as_str().as_bytes(), value.as_bytes(), known);
    }
    // An empty or repeated length could not be written as HTTP/1 with one meaning.
    if lengths > 1 || (lengths == 1 && head.content_length().is_none()) {
        return Err(refused("http2.content_length_malformed"));
    }
    if cookies > 1 {
        head.join_cookies();
    }
    Ok(())
}

fn refused(detail: &'static str) -> HttpError {
    HttpError::coded(ErrorKind::Malformed(400), detail)
}

/// Creates a request to send.
///
/// # Errors
/// The head contains something that HTTP/2 cannot express.
pub fn to_request(head: &Head) -> Result<Request<()>, HttpError> {
    let wrong = |_| HttpError::coded(ErrorKind::Malformed(400), "http2.head_cannot_be_sent");
    let mut request = Request::new(());
    *request.method_mut() =
        http::Method::from_bytes(head.method_text().as_bytes()).map_err(|_| wrong(()))?;
    let extended = head.upgrade();
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(Authority::try_from(head.authority()).map_err(|_| wrong(()))?);
    if head.method() != Method::Connect || extended.is_some() {
        uri.scheme = Some(match head.scheme() {
            "https" => Scheme::HTTPS,
            _ => Scheme::HTTP,
        });
        let path = if head.path().is_empty() { "/" } else { head.path() };
        uri.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| wrong(()))?);
    }
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| wrong(()))?;
    if let Some(protocol) = extended {
        *request.method_mut() = http::Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    }
    *request.headers_mut() = to_map(head)?;
    Ok(request)
}

/// Creates a response to send.
///
/// # Errors
/// The head contains something that HTTP/2 cannot express.
pub fn to_response(head: &Head) -> Result<Response<()>, HttpError> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status())
        .map_err(|_| HttpError::coded(ErrorKind::Malformed(502), "http2.status_cannot_be_sent"))?;
    *response.headers_mut() = to_map(head)?;
    Ok(response)
}

/// Creates headers to send; hop-by-hop headers are left out.
///
/// # Errors
/// A header cannot be expressed in HTTP/2.
pub fn to_map(head: &Head) -> Result<HeaderMap, HttpError> {
    let mut map = HeaderMap::with_capacity(head.field_count());
    for (name, value) in head.fields() {
        if Known::of(name).is_some_and(|known| known.is_hop_by_hop() || known == Known::Host) {
            continue;
        }
        let wrong = || HttpError::coded(ErrorKind::Malformed(502), "http2.field_cannot_be_sent");
        let name = HeaderName::from_bytes(name).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| wrong())?;
        map.append(name, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(request: Request<()>) -> String {
        request_head(&request, &mut Head::default(), 100).unwrap_err().detail().to_owned()
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        let get = |path: &str| Request::get(format!("http://a.test{path}"));
        assert_eq!(
            refusal(get("/").header("host", "b.test").body(()).unwrap()),
            "http2.authority_against_host"
        );
        assert_eq!(
            refusal(get("/").header("connection", "x").body(()).unwrap()),
            "http2.connection_specific_field"
        );
        assert_eq!(refusal(get("/").header("te", "gzip").body(()).unwrap()), "http2.te_malformed");
        assert_eq!(refusal(get("/\u{e9}").body(()).unwrap()), "http2.path_malformed");
        let alone = Request::builder().header("host", "a.test").uri(Uri::default());
        assert!(request_head(&alone.body(()).unwrap(), &mut Head::default(), 100).is_ok());
        let mut nothing = Request::new(());
        *nothing.uri_mut() = Uri::from_parts(http::uri::Parts::default()).unwrap();
        nothing.headers_mut().insert("host", HeaderValue::from_static("a.test"));
        assert_eq!(refusal(nothing), "http2.path_malformed");
        for value in [" x", "x\t"] {
            let request = get("/").header("x", value).body(()).unwrap();
            assert_eq!(refusal(request), "http2.value_malformed");
        }
        for lengths in [&[""][..], &["1", "1"], &["+1"]] {
            let request =
                lengths.iter().fold(get("/"), |r, value| r.header("content-length", *value));
            assert_eq!(refusal(request.body(()).unwrap()), "http2.content_length_malformed");
        }
    }

    #[test]
    fn what_follows_connect_has_no_length() {
        let request = |protocol: Option<&'static str>| {
            let uri = if protocol.is_some() { "http://a.test/x" } else { "a.test:443" };
            let mut request = Request::connect(uri).header("content-length", "0").body(()).unwrap();
            if let Some(protocol) = protocol {
                request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
            }
            request
        };
        for protocol in [None, Some("websocket")] {
            assert_eq!(refusal(request(protocol)), "http2.connect_with_content_length");
        }
        let mut other = request(Some("websocket"));
        *other.method_mut() = http::Method::GET;
        other.headers_mut().clear();
        assert_eq!(refusal(other), "http2.protocol_without_connect");
        let mut odd = request(Some("a b"));
        odd.headers_mut().clear();
        assert_eq!(refusal(odd), "http2.protocol_malformed");
    }

    #[test]
    fn fields_are_counted() {
        let request = |count: usize| {
            let get = Request::get("http://a.test/");
            // Headers of one name count each.
            (0..count).fold(get, |r, n| r.header("x", n.to_string())).body(()).unwrap()
        };
        assert!(request_head(&request(100), &mut Head::default(), 100).is_ok());
        assert_eq!(refusal(request(101)), "http2.too_many_fields");
    }

    #[test]
    fn nobody_switches_protocols_with_a_101() {
        let response = Response::builder().status(101).body(()).unwrap();
        let error = response_head(&response, &mut Head::default(), 100).unwrap_err();
        assert_eq!(error.detail(), "http2.status_malformed");
    }

    #[test]
    fn cookies_become_one_and_back_and_forth_is_the_same() {
        let request = Request::get("http://a.test/x?y")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("cookie", "")
            .header("x-one", "1")
            .body(())
            .unwrap();
        let mut head = Head::default();
        request_head(&request, &mut head, 100).unwrap();
        assert_eq!(head.get(Known::Cookie), Some(&b"a=1; b=2"[..]));
        let back = to_request(&head).unwrap();
        assert_eq!(back.uri().to_string(), "http://a.test/x?y");
        assert_eq!(back.headers()["x-one"], "1");
    }
}
