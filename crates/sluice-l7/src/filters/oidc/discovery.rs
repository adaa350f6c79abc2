//! What a provider says of itself: its endpoints, and the keys of its tokens.
//!
//! Owns: the discovery document (OpenID Connect Discovery 1.0 §3, RFC 8414) and the fetch of it and of the keys. Refuses to
//! know: when it is fetched, and who logs in. Keeps: a document counts only if its issuer is the one that is meant; what a
//! browser is sent to, or a secret is sent for, is HTTPS unless it is this machine.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::value::parse_authority;
use sluice_core::{LocalFuture, Moment};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Content, FetchOrigin};
use sluice_upstream::Cluster;

use crate::filters::jwt::keys::KeySet;
use crate::json::Json;
use crate::side_calls::{SideCalls, SideRequest};

/// A URL of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderUrl {
    text: Box<str>,
    /// Where the authority is.
    host: std::ops::Range<usize>,
}

impl ProviderUrl {
    /// Parses an absolute URL without a fragment: HTTPS, or HTTP to a loopback address.
    ///
    /// # Errors
    /// What is wrong with it, without its text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or("is not a URL that begins with https://")?;
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\\#\"<>".contains(&byte);
        if !text.bytes().all(plain) {
            return Err("is not a URL without a fragment");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let start = text.len() - rest.len();
        let url = Self { text: text.into(), host: start..start + end };
        if parse_authority(url.authority()).is_err() {
            return Err("is a URL without a host");
        }
        if !url.is_secure() && !is_loopback(url.authority()) {
            return Err("is not HTTPS, and not on this machine");
        }
        Ok(url)
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.text[self.host.clone()]
    }

    /// The host.
    pub fn host(&self) -> &str {
        host_of(self.authority())
    }

    /// Path and query.
    pub fn target(&self) -> String {
        match &self.text[self.host.end..] {
            rest if rest.starts_with('/') => rest.to_owned(),
            rest => format!("/{rest}"),
        }
    }

    /// The URL.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is HTTPS.
    pub fn is_secure(&self) -> bool {
        self.text.starts_with("https:")
    }

    /// The URL with a query added to its own.
    pub fn with_query(&self, query: &str) -> String {
        let sign = if self.text.contains('?') { '&' } else { '?' };
        format!("{}{sign}{query}", self.text)
    }
}

/// The host of an authority, without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

/// Whether an authority is of this machine (RFC 6761 §6.3 for the name).
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// What a provider says of itself.
#[derive(Debug)]
pub struct ProviderMetadata {
    /// Where browsers log in.
    pub authorization: ProviderUrl,
    /// Where codes and refresh tokens are exchanged.
    pub token: ProviderUrl,
    /// Where tokens are introspected (RFC 7662).
    pub introspection: Option<ProviderUrl>,
    /// Where browsers log out (OpenID Connect RP-Initiated Logout 1.0).
    pub end_session: Option<ProviderUrl>,
    /// Whether it names itself on the way back (RFC 9207).
    pub states_issuer: bool,
    /// The keys that verify its tokens.
    pub keys: Arc<KeySet>,
}

/// Reads the URL of a document.
fn url(document: &Json, name: &str) -> Result<Option<ProviderUrl>, String> {
    let value = document.get(name).filter(|value| **value != Json::Null);
    let Some(value) = value else { return Ok(None) };
    let text = value.text().ok_or_else(|| format!("`{name}` is not a text"))?;
    ProviderUrl::parse(text).map(Some).map_err(|problem| format!("`{name}` {problem}"))
}

fn required(document: &Json, name: &str) -> Result<ProviderUrl, String> {
    url(document, name)?.ok_or_else(|| format!("it has no `{name}`"))
}

impl Content for ProviderMetadata {
    /// Reads an array of the document and the key set.
    fn parse(content: &[u8]) -> Result<Self, String> {
        let both = Json::parse(content)?;
        let Some([document, keys]) = both.items() else {
            return Err("it is not a document with its keys".into());
        };
        let says = document.get("authorization_response_iss_parameter_supported");
        Ok(Self {
            authorization: required(document, "authorization_endpoint")?,
            token: required(document, "token_endpoint")?,
            introspection: url(document, "introspection_endpoint")?,
            end_session: url(document, "end_session_endpoint")?,
            states_issuer: says == Some(&Json::Bool(true)),
            keys: Arc::new(KeySet::of(keys)?),
        })
    }
}

/// Checks that a document is of this issuer, and returns where its keys are.
fn keys_of(document: &[u8], issuer: &str) -> Result<ProviderUrl, String> {
    let document = Json::parse(document)?;
    match document.get("issuer").and_then(Json::text) {
        Some(own) if own == issuer => required(&document, "jwks_uri"),
        // Not shown: it is not ours to trust.
        Some(_) => Err("it is the document of another issuer (`issuer`)".into()),
        None => Err("it has no `issuer`".into()),
    }
}

/// The clusters that reach a provider.
#[derive(Clone, Debug)]
pub struct ProviderClusters {
    /// The cluster of its issuer, and of hosts that are not listed.
    pub main: Arc<Cluster>,
    /// Further ones by host.
    pub by_host: Vec<(Box<str>, Arc<Cluster>)>,
}

impl ProviderClusters {
    /// The cluster that reaches a URL.
    pub fn of(&self, url: &ProviderUrl) -> &Arc<Cluster> {
        let mut own = self.by_host.iter();
        own.find(|(host, _)| host.eq_ignore_ascii_case(url.host()))
            .map_or(&self.main, |(_, cluster)| cluster)
    }
}

/// The document of an issuer, with its keys.
#[derive(Debug)]
pub struct DiscoveryOrigin {
    /// The issuer.
    pub issuer: ProviderUrl,
    /// What reaches it.
    pub clusters: ProviderClusters,
}

impl DiscoveryOrigin {
    /// Where the document is (OpenID Connect Discovery 1.0 §4).
    fn document(&self) -> String {
        let target = self.issuer.target();
        format!("{}/.well-known/openid-configuration", target.trim_end_matches('/'))
    }
}

impl fmt::Display for DiscoveryOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = &self.clusters.main.name;
        write!(f, "{cluster}: {}{}", self.issuer.authority(), self.document())
    }
}

impl FetchOrigin for DiscoveryOrigin {
    fn name(&self) -> String {
        self.to_string()
    }

    fn identity(&self) -> String {
        let by_host = self.clusters.by_host.iter().map(|(host, cluster)| (host, &cluster.name));
        format!("{self} {:?} {:?}", self.issuer.text, by_host.collect::<Vec<_>>())
    }

    fn fetch(&self, worker: &Rc<WorkerCx>, by: Moment) -> LocalFuture<Result<Vec<u8>, String>> {
        let calls = SideCalls::unbounded(worker);
        let (issuer, clusters) = (self.issuer.clone(), self.clusters.clone());
        let path = self.document();
        Box::pin(async move {
            let document = get(&calls, &clusters, &issuer, &path, by).await?;
            let keys = keys_of(&document, issuer.text())?;
            let keys = get(&calls, &clusters, &keys, &keys.target(), by)
                .await
                .map_err(|problem| format!("its keys: {problem}"))?;
            Ok([b"[", &document[..], b",", &keys, b"]"].concat())
        })
    }
}

/// The body of a response of a provider.
async fn get(
    calls: &SideCalls,
    clusters: &ProviderClusters,
    url: &ProviderUrl,
    path: &str,
    by: Moment,
) -> Result<Vec<u8>, String> {
    let request = SideRequest::new("GET", path)
        .host(url.authority())
        .with("accept", b"application/json, application/jwk-set+json");
    let response = calls.call(clusters.of(url), request, by).await;
    let response = response.map_err(|error| error.to_string())?;
    match response.head.status() {
        // Before it is joined with another: it must be JSON by itself.
        200 => Json::parse(&response.body).map(|_| response.body.to_vec()),
        status => Err(format!("answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_or_of_this_machine() {
        for (text, authority, target) in [
            ("https://id.test", "id.test", "/"),
            ("https://id.test:8443/a/b?c=d", "id.test:8443", "/a/b?c=d"),
            ("https://id.test?c=d", "id.test", "/?c=d"),
            ("http://127.0.0.1:80/a", "127.0.0.1:80", "/a"),
            ("http://[::1]:80/a", "[::1]:80", "/a"),
            ("http://localhost/a", "localhost", "/a"),
        ] {
            let url = ProviderUrl::parse(text).unwrap();
            assert_eq!((url.authority(), &*url.target()), (authority, target), "{text}");
        }
        for text in [
            "",
            "id.test",
            "//id.test",
            "http://id.test",
            "http://127.0.0.1.evil.test",
            "http://localhost.evil.test",
            "ftp://id.test",
            "https://",
            "https:///a",
            "https://ann@id.test",
            "https://id.test#a",
            "https://id.test\\@evil.test",
            "https://id test",
            "https://id.test/\r\nx: y",
            "javascript:alert(1)",
        ] {
            assert!(ProviderUrl::parse(text).is_err(), "{text}");
        }
        let url = ProviderUrl::parse("https://id.test:8443/a?b=c").unwrap();
        assert_eq!(url.host(), "id.test");
        assert_eq!(url.with_query("d=e"), "https://id.test:8443/a?b=c&d=e");
        assert_eq!(ProviderUrl::parse("https://[::2]").unwrap().host(), "[::2]");
    }

    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn metadata(more: &str) -> Result<ProviderMetadata, String> {
        let ends = r#""authorization_endpoint":"https://id.test/auth","token_endpoint":"https://id.test/token""#;
        ProviderMetadata::parse(format!("[{{{ends}{more}}},{KEYS}]").as_bytes())
    }

    #[test]
    fn a_document_has_what_a_login_needs() {
        let own = metadata(r#","authorization_response_iss_parameter_supported":true"#).unwrap();
        assert_eq!(own.token.text(), "https://id.test/token");
        assert!(own.states_issuer && own.end_session.is_none());
        let own = metadata(r#","end_session_endpoint":"https://id.test/out""#).unwrap();
        assert!(!own.states_issuer && own.end_session.is_some());
        for (more, problem) in [
            (
                r#","end_session_endpoint":"http://id.test""#,
                "`end_session_endpoint` is not HTTPS, and not on this machine",
            ),
            (r#","introspection_endpoint":7"#, "`introspection_endpoint` is not a text"),
            (r#","token_endpoint":"https://evil.test""#, "a name occurs twice in an object"),
        ] {
            assert_eq!(metadata(more).unwrap_err(), problem);
        }
        for (text, problem) in [
            ("{}".to_owned(), "it is not a document with its keys"),
            (format!("[{{}},{KEYS}]"), "it has no `authorization_endpoint`"),
            (format!("[{{}},{KEYS},{{}}]"), "it is not a document with its keys"),
        ] {
            assert_eq!(ProviderMetadata::parse(text.as_bytes()).unwrap_err(), problem);
        }
    }

    #[test]
    fn a_document_is_of_the_issuer_that_is_meant() {
        let of = |text: &str| keys_of(text.as_bytes(), "https://id.test");
        let keys = of(r#"{"issuer":"https://id.test","jwks_uri":"https://id.test/keys"}"#);
        assert_eq!(keys.unwrap().target(), "/keys");
        for (text, problem) in [
            (
                r#"{"issuer":"https://id.test/","jwks_uri":"https://id.test/keys"}"#,
                "another issuer",
            ),
            (
                r#"{"issuer":"https://evil.test","jwks_uri":"https://id.test/keys"}"#,
                "another issuer",
            ),
            (r#"{"jwks_uri":"https://id.test/keys"}"#, "it has no `issuer`"),
            (r#"{"issuer":"https://id.test"}"#, "it has no `jwks_uri`"),
            (r#"{"issuer":"https://id.test","jwks_uri":"http://id.test/keys"}"#, "not HTTPS"),
            ("<html>", "it is not JSON"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
