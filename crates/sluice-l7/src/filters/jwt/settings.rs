//! The settings of `jwt`, and how they become providers.
//!
//! Owns: what is written, and what of it can be used. Refuses to know: requests. Keeps: what would accept more than was
//! meant is refused: an audience or issuer that is left out, a shared secret with algorithms of public keys.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::{Named, OrZero, Plain, bind_entries, entries_of, wrong_kind};
use sluice_core::value::Authority;
use sluice_core::{Diags, Name, Node, Path, SecretSource, Setting, Shape, Spanned, Value};
use sluice_l4::filters::{CheckContext, Content as _, FetchSchedule};

use super::keys::{KeySet, SigningAlgorithm};
use super::provider::{ClaimPassing, Provider, ProviderKeys};
use super::token::TokenRules;
use crate::filters::credentials::CredentialFrom;
use crate::http_origin::HttpOrigin;
use crate::words::{EditableHeader, editable_name};

sluice_core::section! {
    /// Only requests with a valid token (JWT, RFC 7519) pass.
    pub struct Jwt {
        /// Who issues tokens, by names of your own, which identities and values contain. A rule or virtual host that
        /// leaves it out has those of the settings around it.
        pub providers: Named<JwtProvider>,
        /// Whose tokens are required: a name, a list of which one is enough, or `{ all: [...] }`; `any` and `all` may
        /// contain each other. By default, a token of any provider is enough.
        pub require: Option<Spanned<TokenRequirement>>,
        /// Whether requests without a token pass, without an identity.
        pub allow_missing: bool = "false",
        /// Whether requests with a token that is not valid pass as well, without it and without an identity.
        pub allow_invalid: bool = "false",
        /// The realm in the challenge of a 401.
        pub realm: Spanned<String> = "sluice",
    }
}

sluice_core::section! {
    /// An issuer of tokens. Exactly one of `jwks`, `jwks_file`, `jwks_remote` and `secret` is required.
    pub struct JwtProvider {
        /// `iss` of its tokens; `*` for any.
        pub issuer: String,
        /// The audiences that this service is among; `*` for any. A token for none of them is refused.
        pub audiences: Vec<Spanned<String>>,
        /// Its keys, as a JSON Web Key Set.
        pub jwks: Option<Spanned<String>>,
        /// A file with its keys, as a JSON Web Key Set. It is read again when it changes.
        pub jwks_file: Option<Spanned<PathBuf>>,
        /// The cluster that has its keys.
        pub jwks_remote: Option<Spanned<RemoteKeys>>,
        /// The secret that it signs tokens with, if it has no public keys: at least 32 bytes.
        pub secret: Option<SecretSource>,
        /// The algorithms that tokens may be signed with. By default, all that fit: those of public keys, or HS256,
        /// HS384 and HS512 with a `secret`.
        pub algorithms: Vec<Spanned<SigningAlgorithm>>,
        /// How far the clock of the issuer may differ.
        pub skew: OrZero = "1m",
        /// Whether a token must say when it expires.
        pub require_expiration: bool = "true",
        /// Where requests carry its tokens; by default in the header `authorization`.
        pub from: CredentialFrom,
        /// Whether endpoints get the token; otherwise it is removed from the request.
        pub forward: bool = "false",
        /// Headers that claims are put into: `x-user: sub`. A nested claim is a path such as `realm_access.roles`; an
        /// array or object is JSON. What clients send in these headers is always removed.
        pub claims: ClaimHeaders,
        /// A header that gets all claims, base64url-encoded as they are in the token.
        pub payload_header: Option<EditableHeader>,
        /// The claim that names who it is, in identities.
        pub subject: String = "sub",
    }
}

sluice_core::section! {
    /// Keys that are fetched.
    pub struct RemoteKeys {
        /// The cluster. It is reached with its own TLS, limits and egress policy.
        pub cluster: Spanned<Name>,
        /// The path.
        pub path: String = "/.well-known/jwks.json",
        /// The host that is asked for; by default that of the endpoint.
        pub host: Option<Authority>,
        /// How often they are fetched.
        pub refresh: Duration = "10m",
        /// The time for an attempt, and what a request with an unknown key may wait for one.
        pub timeout: Duration = "5s",
        /// How long after an attempt an unknown key leads to another.
        pub refetch_after: Duration = "10s",
    }
}

/// Headers by name, with the claims that are put into them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimHeaders(pub Vec<(String, String)>);

impl Setting for ClaimHeaders {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries =
            entries_of(node, at, diags, "a map of headers to claims, such as `x-user: sub`")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            let header = editable_name(&entry.key)
                .map_err(|message| diags.error("bad-value", entry.key_span, here, message))
                .ok();
            let claim = String::bind(&entry.node, here, diags);
            header.zip(claim)
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Text { what: "a claim", example: "realm_access.roles" }))
    }

    fn show(&self) -> Plain {
        let shown = |(name, claim): &(String, String)| (name.clone(), Plain::Text(claim.clone()));
        Plain::Map(self.0.iter().map(shown).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// Whose tokens are required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRequirement {
    /// A token of this provider.
    Provider(Name),
    /// One of these.
    Any(Vec<Self>),
    /// All of these.
    All(Vec<Self>),
}

impl TokenRequirement {
    /// The names of the providers, in order.
    pub fn names<'r>(&'r self, found: &mut dyn FnMut(&'r Name)) {
        match self {
            Self::Provider(name) => found(name),
            Self::Any(all) | Self::All(all) => all.iter().for_each(|inner| inner.names(found)),
        }
    }
}

impl Setting for TokenRequirement {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        const FORMS: &str = "the name of a provider, a list of them, or a map with `any` or `all`";
        let list = |node: &Node, at: &Path<'_>, diags: &mut Diags| {
            let items = node.items();
            if items.is_empty() {
                diags.error("bad-value", node.span, at, "an empty list of providers says nothing");
                return None;
            }
            let inner = |(place, item)| Self::bind(item, &at.index(place), diags);
            items.iter().enumerate().map(inner).collect::<Option<Vec<_>>>()
        };
        match &node.value {
            Value::List(_) => list(node, at, diags).map(Self::Any),
            Value::Map(entries) => match entries.as_slice() {
                [entry] if &*entry.key == "any" => {
                    list(&entry.node, &at.key("any"), diags).map(Self::Any)
                }
                [entry] if &*entry.key == "all" => {
                    list(&entry.node, &at.key("all"), diags).map(Self::All)
                }
                _ => {
                    wrong_kind(node, at, diags, FORMS);
                    None
                }
            },
            _ => Name::bind(node, at, diags).map(Self::Provider),
        }
    }

    fn shape() -> Shape {
        Shape::Either(vec![Shape::OneOrMany(Box::new(Name::shape())), Shape::Any])
    }

    fn show(&self) -> Plain {
        let list = |all: &[Self]| Plain::List(all.iter().map(Setting::show).collect());
        match self {
            Self::Provider(name) => name.show(),
            Self::Any(all) => Plain::Map(vec![("any".into(), list(all))]),
            Self::All(all) => Plain::Map(vec![("all".into(), list(all))]),
        }
    }
}

/// Makes a provider of its settings; reports what cannot be used.
pub(super) fn provider(
    name: &Name,
    own: &Spanned<JwtProvider>,
    context: &mut CheckContext<'_>,
) -> Option<Arc<Provider>> {
    let (span, own) = (own.span, &own.value);
    if name.contains('.') {
        let message =
            format!("`{name}` contains a dot, which separates it from claims in `jwt.{name}.sub`");
        context.diags.error("bad-name", span, context.at, message).help("use `-` or `_`");
        return None;
    }
    if own.audiences.is_empty() {
        let message = "without `audiences`, tokens that were issued for other services would pass";
        let finding =
            context.diags.error("missing-field", span, context.at.key("audiences"), message);
        finding.help("name this service as the issuer does, or write `\"*\"` if any token will do");
        return None;
    }
    let (keys, algorithms) = (keys(own, span, context), algorithms(own, context));
    let any = |text: &str| text == "*";
    let audiences = own.audiences.iter().map(|audience| &*audience.value);
    let rules = TokenRules {
        issuer: (!any(&own.issuer)).then(|| own.issuer.as_str().into()),
        audiences: (!audiences.clone().any(any)).then(|| audiences.map(Into::into).collect()),
        algorithms: algorithms?.into(),
        skew: own.skew.0,
        endless: !own.require_expiration,
    };
    let passing = ClaimPassing {
        forward: own.forward,
        headers: own.claims.0.clone(),
        payload_header: own.payload_header.as_ref().map(|header| header.0.clone()),
        subject: own.subject.clone(),
    };
    Some(Provider::new(name.clone(), rules, keys?, own.from.sources("authorization"), passing))
}

fn keys(
    own: &JwtProvider,
    span: sluice_core::Span,
    context: &mut CheckContext<'_>,
) -> Option<ProviderKeys> {
    let JwtProvider { jwks, jwks_file, jwks_remote, secret, .. } = own;
    match (jwks, jwks_file, jwks_remote, secret) {
        (Some(text), None, None, None) => match KeySet::parse(text.value.as_bytes()) {
            Ok(keys) => Some(ProviderKeys::Fixed(Arc::new(keys))),
            Err(problem) => {
                let message = format!("cannot use these keys: {problem}");
                context.diags.error("bad-value", text.span, context.at.key("jwks"), message);
                None
            }
        },
        (None, Some(path), None, None) => {
            let keys = context.file(path, "jwks_file")?;
            Some(ProviderKeys::Fetched(keys, FetchSchedule::default().timeout))
        }
        (None, None, Some(remote), None) => {
            let RemoteKeys { cluster, path, host, refresh, timeout, refetch_after } = &remote.value;
            let at = context.at.key("jwks_remote");
            let mut context = context.within(&at);
            if !path.starts_with('/') {
                let message = format!("expected a path that begins with `/`, not `{path}`");
                context.diags.error("bad-value", remote.span, at.key("path"), message);
                return None;
            }
            let cluster = context.cluster(cluster, "cluster")?;
            let mut origin = HttpOrigin::new(cluster, path);
            if let Some(host) = host {
                origin = origin.host(&host.0);
            }
            let (refresh, timeout, refetch_after) = (*refresh, *timeout, *refetch_after);
            let schedule = FetchSchedule { refresh, timeout, refetch_after };
            Some(ProviderKeys::Fetched(context.fetch(origin, schedule), timeout))
        }
        (None, None, None, Some(source)) => {
            context.secret(source, "secret").map(ProviderKeys::Secret)
        }
        several => {
            let none = matches!(several, (None, None, None, None));
            let message =
                "a provider needs exactly one of `jwks`, `jwks_file`, `jwks_remote` and `secret`";
            context.not_exactly_one(span, none, message);
            None
        }
    }
}

/// The algorithms that tokens may be signed with: of public keys or of shared secrets, never of both.
fn algorithms(own: &JwtProvider, context: &mut CheckContext<'_>) -> Option<Vec<SigningAlgorithm>> {
    let (fitting, others): (&[SigningAlgorithm], _) = match own.secret {
        Some(_) => (&SigningAlgorithm::SHARED, "a `secret` goes with HS256, HS384 and HS512"),
        None => (&SigningAlgorithm::PUBLIC, "it is for a `secret`, and these are public keys"),
    };
    for algorithm in &own.algorithms {
        if !fitting.contains(&algorithm.value) {
            let message = format!("`{}` cannot be used here: {others}", algorithm.value.word());
            let at = context.at.key("algorithms");
            context.diags.error("bad-value", algorithm.span, at, message);
            return None;
        }
    }
    if own.algorithms.is_empty() {
        return Some(fitting.to_vec());
    }
    Some(own.algorithms.iter().map(|algorithm| algorithm.value).collect())
}
