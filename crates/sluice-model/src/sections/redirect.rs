//! The redirect of a listener.
//!
//! Owns: how it is written. Refuses to know: the rule that it stands for. Keeps: it leads to HTTPS and keeps the path.

use sluice_core::settings::{Path, Plain, Setting, Shape, bind_scalar};
use sluice_core::value::parse_authority;
use sluice_core::{Diags, Node};

/// Where a listener redirects all requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// The host; if omitted, that of the request.
    pub host: Option<String>,
    /// The port; if omitted, the default port.
    pub port: Option<u16>,
}

impl HttpsRedirect {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected https or https://HOST, not `{text}`");
        if text == "https" {
            return Ok(Self { host: None, port: None });
        }
        let authority = text.strip_prefix("https://").ok_or_else(wrong)?;
        if let Some((host, _)) = authority.split_once(['/', '?', '#']) {
            return Err(format!(
                "a redirect of a listener keeps the path of the request; write https://{host}, or a rule with `redirect`"
            ));
        }
        let authority = parse_authority(authority).map_err(|_| wrong())?.0;
        let port =
            authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match port {
            Some((host, port)) => Ok(Self { host: Some(host.to_owned()), port: Some(port) }),
            None => Ok(Self { host: Some(authority), port: None }),
        }
    }
}

impl Setting for HttpsRedirect {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "https or https://HOST", Self::parse)
    }

    fn shape() -> Shape {
        Shape::Text { what: "https or https://HOST", example: "https" }
    }

    fn show(&self) -> Plain {
        let host = self.host.as_ref().map_or_else(String::new, |host| format!("://{host}"));
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        Plain::Text(format!("https{host}{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(Option<&str>, Option<u16>), &str>) {
        match (HttpsRedirect::parse(text), expected) {
            (Ok(to), Ok(expected)) => {
                assert_eq!((to.host.as_deref(), to.port), expected);
                assert_eq!(to.show(), Plain::Text(text.into()));
            }
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn a_redirect_leads_to_https() {
        check("https", Ok((None, None)));
        check("https://a.test", Ok((Some("a.test"), None)));
        check("https://a.test:8443", Ok((Some("a.test"), Some(8443))));
        check("https://[::1]", Ok((Some("[::1]"), None)));
        check("https://[::1]:8443", Ok((Some("[::1]"), Some(8443))));
        for wrong in
            ["http", "http://a.test", "https://", "https:8443", "https://a.test:x", "a.test"]
        {
            check(wrong, Err("expected https or https://HOST"));
        }
        check("https://a.test/x", Err("write https://a.test,"));
    }
}
