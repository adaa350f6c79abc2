//! The settings of `oidc`, and how they become providers.
//!
//! Owns: what is written, and what of it can be used. Refuses to know: requests. Keeps: what would weaken a login is
//! refused: plain HTTP, a symmetric algorithm, paths or cookies that two providers share; a session without a key of its
//! own is said aloud.

use std::sync::Arc;
use std::time::Duration;

use sluice_codec::names::is_token;
use sluice_core::settings::{Named, OrZero, Plain, bind_entries, entries_of};
use sluice_core::value::{NamePattern, parse_name_pattern};
use sluice_core::{Diags, Name, Node, Path, SecretSource, Setting, Shape, Span, Spanned};
use sluice_l4::filters::{CheckContext, FetchSchedule};

use super::cookies::LoginCookies;
use super::discovery::{DiscoveryOrigin, ProviderClusters, ProviderUrl};
use super::flow::local_path;
use super::provider::{IntrospectionRules, LoginProvider, ProviderParts};
use super::seal::KeySource;
use super::tokens::IdTokenRules;
use crate::filters::inject_credentials::oauth2::{ClientAuthentication, OauthClient};
use crate::filters::jwt::keys::SigningAlgorithm;
use crate::filters::jwt::provider::ClaimPassing;
use crate::filters::jwt::settings::ClaimHeaders;
use crate::filters::jwt::token::TokenRules;
use crate::path_match::PathMatch;
use crate::path_value::PathValue;
use crate::words::EditableHeader;

sluice_core::section! {
    /// Browsers log in with OpenID Connect before their requests pass.
    pub struct Oidc {
        /// Where users log in, by names of your own, which identities and values contain. A rule or virtual host that
        /// leaves it out has those of the settings around it.
        pub providers: Named<OidcProvider>,
        /// The provider that users log in at; needed if there are several.
        pub provider: Option<Spanned<Name>>,
        /// Paths that need no login. A session counts there as well, if there is one.
        pub pass: Vec<PathValue>,
        /// Paths of programs: without a session they get 401 instead of a redirect, as all clients do that do not ask for
        /// a page.
        pub api: Vec<PathValue>,
        /// Whether requests without a session pass, without an identity.
        pub allow_missing: bool = "false",
    }
}

sluice_core::section! {
    /// A provider of OpenID Connect.
    pub struct OidcProvider {
        /// Its issuer, exactly as its document `/.well-known/openid-configuration` says it.
        pub issuer: Spanned<String>,
        /// The cluster that reaches it. It is reached with its own TLS, limits and egress policy.
        pub cluster: Spanned<Name>,
        /// Clusters for further hosts that the document names, by host.
        pub clusters: Named<Name>,
        /// The client that is registered at the provider.
        pub client_id: Spanned<String>,
        /// Its secret; leave it out for a public client.
        pub client_secret: Option<SecretSource>,
        /// How the client proves who it is.
        pub authentication: ClientAuthentication = "header",
        /// What is asked for besides `openid`. Most providers give a refresh token for `offline_access` only.
        pub scopes: Vec<Spanned<String>>,
        /// Further parameters of the request to log in, such as `prompt` or `audience`.
        pub parameters: LoginParameters,
        /// What the paths of logins begin with; `/oauth2/NAME` by default. `PATH/callback` must be registered at the
        /// provider. `PATH/login` begins a login, which leads to the path in its parameter `rd`; `PATH/logout` ends a session.
        pub path: Option<Spanned<String>>,
        /// The origin that browsers use, such as `https://shop.example.com`; by default scheme and host of the request.
        pub origin: Option<Spanned<String>>,
        /// Where browsers return to from the provider when they have logged out: a path, which must be registered there. If
        /// omitted, they stay with the provider.
        pub after_logout: Option<Spanned<String>>,
        /// The session in the browser.
        pub session: SessionSettings,
        /// The algorithms that ID tokens may be signed with. By default, all of public keys.
        pub algorithms: Vec<Spanned<SigningAlgorithm>>,
        /// How far the clock of the provider may differ.
        pub skew: OrZero = "1m",
        /// Headers that claims are put into: `x-user: sub`. A nested claim is a path such as `realm_access.roles`; an
        /// array or object is JSON. What clients send in these headers is always removed.
        pub claims: ClaimHeaders,
        /// A header that gets all claims, base64url-encoded.
        pub payload_header: Option<EditableHeader>,
        /// The claim that names who it is, in identities.
        pub subject: String = "sub",
        /// Whether endpoints get the access token, in `authorization`.
        pub forward: bool = "false",
        /// Whether requests may have an opaque token in `authorization` instead of a session.
        pub introspection: Option<Spanned<IntrospectionSettings>>,
        /// How often the document and the keys are fetched.
        pub refresh: Duration = "10m",
        /// The time for a call to the provider, which a request waits for.
        pub timeout: Duration = "5s",
        /// How long after a fetch an unknown key leads to another.
        pub refetch_after: Duration = "10s",
    }
}

sluice_core::section! {
    /// The session of a login, which is in cookies that only Sluice can read.
    pub struct SessionSettings {
        /// The key of the cookies: at least 32 bytes. In a file, one key per line: the first is for new cookies. If omitted,
        /// a random one: sessions end when Sluice restarts, and other instances do not know them.
        pub key: Option<SecretSource>,
        /// How long a session lasts at most, however often its tokens are renewed.
        pub lifetime: Duration = "12h",
        /// The name of its cookie; `sluice-NAME` by default. With HTTPS, `__Host-` stands before it.
        pub cookie: Option<Spanned<String>>,
        /// The domain whose hosts share the session; by default only the host that the user has logged in at.
        pub domain: Option<Spanned<String>>,
    }
}

sluice_core::section! {
    /// How the provider is asked about opaque tokens (RFC 7662).
    pub struct IntrospectionSettings {
        /// The audiences that this service is among; `*` for any. A token for none of them is refused.
        pub audiences: Vec<String>,
        /// How long an answer counts.
        pub ttl: Duration = "1m",
    }
}

/// Parameters by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoginParameters(Vec<(String, String)>);

/// Those that a login sets itself.
const OWN_PARAMETERS: [&str; 9] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

impl Setting for LoginParameters {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of parameters, such as `prompt: login`")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            if OWN_PARAMETERS.contains(&&*entry.key) {
                let message = format!("`{}` is set by the login itself", entry.key);
                diags.error("bad-value", entry.key_span, here, message);
                return None;
            }
            Some((entry.key.to_string(), String::bind(&entry.node, here, diags)?))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Text { what: "a value", example: "login" }))
    }

    fn show(&self) -> Plain {
        let shown = |(name, text): &(String, String)| (name.clone(), Plain::Text(text.clone()));
        Plain::Map(self.0.iter().map(shown).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// Makes the providers of the settings; reports what cannot be used.
pub(super) fn providers(
    settings: &Oidc,
    context: &mut CheckContext<'_>,
) -> Option<Vec<Arc<LoginProvider>>> {
    let mut all: Option<Vec<Arc<LoginProvider>>> = Some(Vec::new());
    let here = context.at.key("providers");
    for (name, own) in settings.providers.iter() {
        let at = here.key(name);
        let mut context = context.within(&at);
        let provider = provider(name, own, &mut context);
        let shares = |with: &[Arc<LoginProvider>], own: &ProviderParts| {
            let of = |other: &&Arc<LoginProvider>| {
                other.own.path == own.path || other.own.cookies.name == own.cookies.name
            };
            with.iter().find(of).map(|other| other.own.name.clone())
        };
        let shared = all.as_deref().zip(provider.as_ref()).and_then(|(all, one)| shares(all, one));
        if let Some(other) = shared {
            let message = format!("`{name}` has the `path` or the cookie of `{other}`");
            let finding = context.diags.error("bad-value", own.span, context.at, message);
            finding.help("each provider needs its own, so that none can answer for another");
            all = None;
            continue;
        }
        all = all.zip(provider.map(LoginProvider::new)).map(|(all, one)| [all, vec![one]].concat());
    }
    all
}

/// Reports that a field cannot be used.
fn wrong<T>(context: &mut CheckContext<'_>, span: Span, key: &str, message: String) -> Option<T> {
    context.diags.error("bad-value", span, context.at.key(key), message);
    None
}

fn provider(
    name: &Name,
    own: &Spanned<OidcProvider>,
    context: &mut CheckContext<'_>,
) -> Option<ProviderParts> {
    let (span, own) = (own.span, &own.value);
    if name.contains('.') || !is_token(name.as_bytes()) {
        let message = format!(
            "`{name}` must have letters, digits, `-` and `_` only: claims are `oidc.{name}.sub`, and cookies are named by it"
        );
        context.diags.error("bad-name", span, context.at, message);
        return None;
    }
    let issuer = match ProviderUrl::parse(&own.issuer.value) {
        Ok(url) if !url.text().contains('?') => Some(url),
        Ok(_) => wrong(context, own.issuer.span, "issuer", "an issuer has no query".into()),
        Err(problem) => {
            let message = format!("`{}` {problem}", own.issuer.value);
            wrong(context, own.issuer.span, "issuer", message)
        }
    };
    let clusters = clusters(own, context);
    let client = client(own, context);
    let scopes = scopes(own, context);
    let (path, origin, after) =
        (path(name, own, context), origin(own, context), after(own, context));
    let algorithms = algorithms(own, context);
    let cookies = cookies(name, &own.session, context);
    let keys = key(&own.session, span, context);
    let introspection = introspection(own, context);
    let (issuer, clusters, client) = (issuer?, clusters?, client?);
    let client_id = Box::<str>::from(&*client.id);
    let origin_of = DiscoveryOrigin { issuer: issuer.clone(), clusters: clusters.clone() };
    let (refresh, timeout, refetch_after) = (own.refresh, own.timeout, own.refetch_after);
    let metadata = context.fetch(origin_of, FetchSchedule { refresh, timeout, refetch_after });
    let rules = IdTokenRules {
        token: TokenRules {
            issuer: Some(issuer.text().into()),
            audiences: Some([client_id.clone()].into()),
            algorithms: algorithms?.into(),
            skew: own.skew.0,
            endless: false,
        },
        client_id,
    };
    let passing = ClaimPassing {
        forward: own.forward,
        headers: own.claims.0.clone(),
        payload_header: own.payload_header.as_ref().map(|header| header.0.clone()),
        subject: own.subject.clone(),
    };
    Some(ProviderParts {
        name: name.clone(),
        issuer,
        clusters,
        client,
        metadata,
        rules,
        passing,
        scopes: scopes?,
        parameters: own.parameters.0.clone(),
        path: path?,
        origin: origin?,
        cookies: cookies?,
        keys: keys?,
        lifetime: own.session.lifetime,
        after_logout: after?,
        introspection: introspection?,
        timeout,
    })
}

fn clusters(own: &OidcProvider, context: &mut CheckContext<'_>) -> Option<ProviderClusters> {
    let main = context.cluster(&own.cluster, "cluster");
    let at = context.at.key("clusters");
    let mut context = context.within(&at);
    let mut by_host = Some(Vec::new());
    for (host, cluster) in own.clusters.iter() {
        let cluster = context.cluster(cluster, host);
        by_host = by_host.zip(cluster).map(|(mut all, one)| {
            all.push(((**host).into(), one));
            all
        });
    }
    Some(ProviderClusters { main: main?, by_host: by_host? })
}

fn client(own: &OidcProvider, context: &mut CheckContext<'_>) -> Option<OauthClient> {
    let id = &own.client_id;
    if id.value.is_empty() || !id.value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "a client ID has visible ASCII characters".into();
        return wrong(context, id.span, "client_id", message);
    }
    let secret = match &own.client_secret {
        Some(source) => Some(context.secret(source, "client_secret")?),
        None => None,
    };
    Some(OauthClient { id: id.value.clone(), secret, authentication: own.authentication })
}

fn scopes(own: &OidcProvider, context: &mut CheckContext<'_>) -> Option<String> {
    let mut all = "openid".to_owned();
    for scope in &own.scopes {
        // RFC 6749 §3.3.
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        if scope.value.is_empty() || !scope.value.bytes().all(fits) {
            let message = format!("`{}` is not a scope; write several as a list", scope.value);
            return wrong(context, scope.span, "scopes", message);
        }
        if scope.value != "openid" {
            all.push(' ');
            all.push_str(&scope.value);
        }
    }
    Some(all)
}

fn path(name: &Name, own: &OidcProvider, context: &mut CheckContext<'_>) -> Option<String> {
    let Some(path) = &own.path else { return Some(format!("/oauth2/{name}")) };
    match PathMatch::parse(&path.value) {
        Ok(PathMatch::Exact(text)) if local_path(&text) == &*text && !text.ends_with('/') => {
            Some(text.into())
        }
        _ => {
            let message = format!("expected a path such as /oauth2, not `{}`", path.value);
            wrong(context, path.span, "path", message)
        }
    }
}

fn origin(own: &OidcProvider, context: &mut CheckContext<'_>) -> Option<Option<ProviderUrl>> {
    let Some(origin) = &own.origin else { return Some(None) };
    match ProviderUrl::parse(&origin.value) {
        Ok(url) if url.target() == "/" => Some(Some(url)),
        Ok(_) => wrong(context, origin.span, "origin", "an origin has no path".into()),
        Err(problem) => {
            let message = format!("`{}` {problem}; browsers log in over HTTPS", origin.value);
            wrong(context, origin.span, "origin", message)
        }
    }
}

fn after(own: &OidcProvider, context: &mut CheckContext<'_>) -> Option<Option<String>> {
    let Some(after) = &own.after_logout else { return Some(None) };
    if after.value.starts_with('/') && local_path(&after.value) == after.value {
        return Some(Some(after.value.clone()));
    }
    let message = format!("expected a path such as /logged-out, not `{}`", after.value);
    wrong(context, after.span, "after_logout", message)
}

fn algorithms(own: &OidcProvider, context: &mut CheckContext<'_>) -> Option<Vec<SigningAlgorithm>> {
    for algorithm in &own.algorithms {
        if !SigningAlgorithm::PUBLIC.contains(&algorithm.value) {
            let word = algorithm.value.word();
            let message =
                format!("`{word}` cannot be used here: ID tokens are verified with public keys");
            return wrong(context, algorithm.span, "algorithms", message);
        }
    }
    if own.algorithms.is_empty() {
        return Some(SigningAlgorithm::PUBLIC.to_vec());
    }
    Some(own.algorithms.iter().map(|algorithm| algorithm.value).collect())
}

fn cookies(
    name: &Name,
    own: &SessionSettings,
    context: &mut CheckContext<'_>,
) -> Option<LoginCookies> {
    let at = context.at.key("session");
    let mut context = context.within(&at);
    let cookie = match &own.cookie {
        None => Some(format!("sluice-{name}")),
        Some(own) if is_token(own.value.as_bytes()) && !own.value.contains('.') => {
            let prefixed =
                ["__Host-", "__Secure-"].iter().any(|own_prefix| own.value.starts_with(own_prefix));
            if prefixed {
                let message = "leave out the prefix: it is added where browsers accept it".into();
                return wrong(&mut context, own.span, "cookie", message);
            }
            Some(own.value.clone())
        }
        Some(own) => {
            let message = format!("`{}` is not the name of a cookie without a dot", own.value);
            wrong(&mut context, own.span, "cookie", message)
        }
    };
    let domain = match &own.domain {
        None => None,
        Some(own) => match parse_name_pattern(&own.value) {
            Ok(NamePattern::Exact(_)) => Some(own.value.as_str().into()),
            _ => {
                let message = format!("`{}` is not a domain such as example.com", own.value);
                return wrong(&mut context, own.span, "domain", message);
            }
        },
    };
    Some(LoginCookies { name: cookie?.into(), domain })
}

fn key(own: &SessionSettings, span: Span, context: &mut CheckContext<'_>) -> Option<KeySource> {
    let at = context.at.key("session");
    let mut context = context.within(&at);
    if let Some(source) = &own.key {
        return context.secret(source, "key").map(KeySource::Given);
    }
    let message =
        "without a key, sessions end when Sluice restarts, and other instances do not know them";
    let at = context.at.key("key");
    let finding = context.diags.warning("random-key", span, at, message);
    finding.help("add a key: `session: { key: { file: session.key } }`");
    Some(KeySource::Random)
}

fn introspection(
    own: &OidcProvider,
    context: &mut CheckContext<'_>,
) -> Option<Option<IntrospectionRules>> {
    let Some(rules) = &own.introspection else { return Some(None) };
    let (span, rules) = (rules.span, &rules.value);
    if rules.audiences.is_empty() {
        let message = "without `audiences`, tokens that were issued for other services would pass";
        let at = context.at.key("introspection");
        let finding = context.diags.error("missing-field", span, at.key("audiences"), message);
        finding
            .help("name this service as the provider does, or write `\"*\"` if any token will do");
        return None;
    }
    let any = rules.audiences.iter().any(|own| own == "*");
    let audiences = rules.audiences.iter().map(|own| own.as_str().into());
    let audiences = (!any).then(|| audiences.collect());
    Some(Some(IntrospectionRules { audiences, ttl: rules.ttl }))
}
