//! Access checks of the admin pages.
//!
//! Owns: the checks of host and origin. Refuses to know: pages.
//! Keeps: a web page of another site, whatever name it makes a browser resolve to this address, can neither read a page
//! nor change a value.

use std::net::IpAddr;

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, Uri};

use crate::AdminPlan;

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) help: &'static str,
}

const HOST_REFUSED: Refusal = Refusal {
    status: StatusCode::MISDIRECTED_REQUEST,
    code: "unknown_host",
    help: "use an IP address or `localhost`, or list the name in `admin.hosts`",
};

const POST_REFUSED: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    code: "cross_site",
    help: "a change needs the header `x-sluice: 1` or the content type application/json, and must not come from a page of another site",
};

/// Checks that the request names an IP address, `localhost` or a configured name. A page of another site can make a
/// browser connect here under a name of its own (DNS rebinding), and that name reveals it.
pub(crate) fn host<B>(request: &Request<B>, plan: &AdminPlan) -> Result<(), Refusal> {
    let known = |authority: &str| is_known(authority, plan);
    let headers = request.headers();
    let in_target = request.uri().authority().is_none_or(|authority| known(authority.as_str()));
    let in_headers = headers.get_all(HOST).iter().all(|host| host.to_str().is_ok_and(known));
    if in_target && in_headers { Ok(()) } else { Err(HOST_REFUSED) }
}

fn is_known(authority: &str, plan: &AdminPlan) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host();
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    plan.any_host
        || literal.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || plan.hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Checks that the request comes from a program, or from a page of this address. Without `guard_changes` a form of
/// another site that a browser without `Origin` sends would pass: no browser of today is one.
pub(crate) fn change<B>(request: &Request<B>, plan: &AdminPlan) -> Result<(), Refusal> {
    let headers = request.headers();
    let fine = !is_foreign(headers) && (!plan.guard_changes || is_deliberate(headers));
    if fine { Ok(()) } else { Err(POST_REFUSED) }
}

/// Forms and images cannot send these headers; a script of another site needs a preflight, which is not granted.
fn is_deliberate(headers: &HeaderMap) -> bool {
    let json = |value: &str| {
        let kind = value.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/json")
    };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    headers.contains_key("x-sluice") || content_type.is_some_and(json)
}

fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let host = headers.get(HOST).map(text).unwrap_or_default();
    let own = |origin: String| {
        let authority = origin.parse::<Uri>().ok().and_then(|uri| uri.authority().cloned());
        authority.is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(&host))
    };
    let site = headers.get("sec-fetch-site").map(text);
    headers.get(ORIGIN).is_some_and(|origin| !own(text(origin)))
        || site.is_some_and(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_change_from_a_foreign_page_is_refused_whether_or_not_a_header_is_needed() {
        let plan = |guard_changes| AdminPlan {
            connections: 1,
            hosts: Vec::new(),
            any_host: false,
            answer_timeout: Duration::from_secs(1),
            guard_changes,
            stand_in_public: &[],
        };
        let allows = |headers: &[(&str, &str)], guard_changes| {
            let mut request = Request::post("/runtime").header(HOST, "127.0.0.1:9901");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            change(&request.body(()).unwrap(), &plan(guard_changes)).is_ok()
        };
        for (headers, guarded, unguarded) in [
            (&[][..], false, true),
            (&[("content-type", "text/plain")], false, true),
            (&[("content-type", "application/json; charset=utf-8")], true, true),
            (&[("x-sluice", "1")], true, true),
            (&[("x-sluice", "1"), ("origin", "http://127.0.0.1:9901")], true, true),
            (&[("x-sluice", "1"), ("origin", "http://127.0.0.1:1")], false, false),
            (&[("x-sluice", "1"), ("origin", "null")], false, false),
            (&[("x-sluice", "1"), ("sec-fetch-site", "cross-site")], false, false),
            (&[("x-sluice", "1"), ("sec-fetch-site", "same-origin")], true, true),
        ] {
            assert_eq!(allows(headers, true), guarded, "{headers:?}");
            assert_eq!(allows(headers, false), unguarded, "{headers:?}, without the guard");
        }
    }
}
