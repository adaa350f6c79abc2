//! Plain HTTP on a listener that terminates TLS: recognised, and given a response if so configured.
//!
//! Owns: the one response to such a client. Refuses to know: HTTP beyond a request line and `host`. Keeps: what is
//! copied from the request into the response is checked byte by byte, so that it cannot become another header; a
//! redirect leads to the host that the client itself named.

use sluice_io::{Inspection, Inspector as _};

use crate::inspect::http::Http1Inspector;

/// What a client that sends plain HTTP to a TLS listener gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// Nothing: the connection is closed.
    #[default]
    Close,
    /// A 400 response that explains it.
    Answer,
    /// A redirect to the same address with `https`.
    Redirect,
}

/// Whether a stream with these first bytes is HTTP/1.
pub(crate) fn is_http(began: &[u8]) -> bool {
    matches!(Http1Inspector.inspect(began), Inspection::Match(_))
}

/// The response to a request with these first bytes; `None` if none is sent.
pub(crate) fn response(how: PlainHttp, began: &[u8]) -> Option<Vec<u8>> {
    let (status, location) = match how {
        PlainHttp::Close => return None,
        PlainHttp::Answer => ("400 Bad Request", None),
        // Without a valid host there is no target for a redirect.
        PlainHttp::Redirect => match https_address(began) {
            Some(location) => ("308 Permanent Redirect", Some(location)),
            None => ("400 Bad Request", None),
        },
    };
    let location = location.map_or_else(String::new, |to| format!("location: {to}\r\n"));
    let body = if began.starts_with(b"HEAD ") { "" } else { BODY };
    let head = format!(
        "HTTP/1.1 {status}\r\n{location}content-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        BODY.len()
    );
    Some(head.into_bytes())
}

const BODY: &str = "This port serves HTTPS; the request was sent as plain HTTP.\n";

/// The address that the request asks for, with `https`.
fn https_address(began: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(began).ok()?;
    let (head, _) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?;
    let fits = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    let mut hosts = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim_matches([' ', '\t']))
    });
    let host = hosts.next().filter(|host| is_host(host))?;
    (fits && hosts.next().is_none()).then(|| format!("https://{host}{path}"))
}

fn is_host(host: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(how: PlainHttp, request: &str, starts: &str, location: Option<&str>) {
        assert!(is_http(request.as_bytes()));
        let response = String::from_utf8(response(how, request.as_bytes()).unwrap()).unwrap();
        assert!(response.starts_with(starts), "{response}");
        let (head, _) = response.split_once("\r\n\r\n").unwrap();
        let found = head.split("\r\n").find_map(|line| line.strip_prefix("location: "));
        assert_eq!(found, location, "{response}");
        assert_eq!(head.split("\r\n").count(), 4 + usize::from(location.is_some()));
    }

    #[test]
    fn a_redirect_leads_to_the_named_host_and_to_no_other_header() {
        let (answer, redirect) = (PlainHttp::Answer, PlainHttp::Redirect);
        let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        check(answer, &get("a.test", "/"), "HTTP/1.1 400", None);
        let to = Some("https://a.test:8443/x?y=1");
        check(redirect, &get("a.test:8443", "/x?y=1"), "HTTP/1.1 308", to);
        check(redirect, &get("[::1]:8443", "/"), "HTTP/1.1 308", Some("https://[::1]:8443/"));
        for odd in [
            get("a.test/..", "/"),
            get("a@evil.test", "/"),
            get("", "/"),
            get("a.test", "http://evil.test/"),
            get("a.test\rx: y", "/"),
            "GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n".into(),
            "GET / HTTP/1.0\r\n\r\n".into(),
            // The headers are incomplete.
            "GET / HTTP/1.1\r\nhost: a.test\r\n".into(),
        ] {
            check(redirect, &odd, "HTTP/1.1 400", None);
        }
        assert_eq!(response(PlainHttp::Close, b"GET / HTTP/1.1\r\n\r\n"), None);
        let head = response(answer, b"HEAD / HTTP/1.1\r\n\r\n").unwrap();
        assert!(head.ends_with(b"\r\n\r\n"), "a response to HEAD has no body");
    }
}
