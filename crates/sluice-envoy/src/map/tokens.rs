//! JSON Web Tokens.
//!
//! Owns: `jwt_authn`: providers, requirements, and which requests they are for. Refuses to know: routes. Keeps: a
//! requirement that cannot be written exactly is an error: without it, somebody would get in.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use sluice_core::{Node, Span, Value};

use super::cases::FilterCases;
use super::conditions::preflight;
use super::{Mapping, UniqueNames, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

/// The filter of a connection manager that verifies tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    /// The filter of the chain.
    pub(super) filter: Node,
    /// The settings of routes by the name of their requirement.
    pub(super) by_name: HashMap<Arc<str>, Node>,
    /// Which requests it is for, unless it is for all.
    pub(super) cases: Option<FilterCases>,
}

/// Providers, as they are mapped.
struct Providers<'m> {
    known: HashMap<Arc<str>, &'m ProtoMessage>,
    native: NativeMap,
    names: UniqueNames,
    /// Native names by the name and the audiences that a requirement asks for.
    added: HashMap<(Arc<str>, String), String>,
}

/// What a requirement asks for.
struct TokenDemand {
    /// `None` asks for nothing.
    tokens: Option<Node>,
    missing: bool,
    invalid: bool,
}

impl Mapping<'_> {
    /// The filter `jwt`, from a `JwtAuthentication`.
    pub(super) fn tokens(&mut self, config: &ProtoMessage) -> Option<Tokens> {
        config.without_effect(&["stat_prefix"]);
        self.only_false(config, "strip_failure_response", "responses say why a token is refused");
        let messages =
            config.map("providers").iter().filter_map(|(name, item)| match &item.value {
                ProtoValue::Message(provider) => Some((Arc::clone(name), provider)),
                _ => None,
            });
        let mut providers = Providers {
            known: messages.collect(),
            native: NativeMap::new(config.place("providers")),
            names: UniqueNames::default(),
            added: HashMap::new(),
        };
        let mut by_name = HashMap::new();
        for (name, item) in config.map("requirement_map") {
            if let ProtoValue::Message(requirement) = &item.value {
                let settings = self.settings_of(Some(requirement), &mut providers, config.span)?;
                by_name.insert(Arc::clone(name), settings);
            }
        }
        let skip = || plain("skip", config.span);
        let mut cases = Vec::new();
        if config.is("bypass_cors_preflight") {
            cases.push((preflight(config.place("bypass_cors_preflight")), skip()));
        }
        for rule in config.messages("rules") {
            let (matches, _) = self.route_match(rule.message("match")?);
            let settings = if let Some(name) = rule.text("requirement_name") {
                let Some(settings) = by_name.get(name) else {
                    let message = format!("there is no requirement `{name}`");
                    let at = rule.at("requirement_name");
                    self.diags.error("unknown-name", rule.place("requirement_name"), at, message);
                    return None;
                };
                settings.clone()
            } else {
                self.settings_of(rule.message("requires"), &mut providers, rule.span)?
            };
            cases.push((matches, settings));
        }
        // Providers that nothing asks for.
        for provider in providers.known.values() {
            provider.all_without_effect();
        }
        if providers.native.is_empty() {
            return None;
        }
        let whole = cases.first().filter(|(matches, _)| matches.is_empty());
        let (mut filter, cases) = match whole {
            Some((_, settings)) if settings.text().is_none() => {
                (NativeMap::of(Some(settings.clone()), config.span), None)
            }
            _ => {
                let filter = NativeMap::new(config.span);
                (filter, Some(FilterCases { filter: "jwt".into(), cases, otherwise: skip() }))
            }
        };
        filter.map("providers", providers.native);
        Some(Tokens { filter: single("jwt", filter.node()), by_name, cases })
    }

    /// The settings of a route, from a `PerRouteConfig`.
    pub(super) fn tokens_override(&mut self, config: &ProtoMessage) -> Option<Node> {
        let skip = Some(plain("skip", config.span));
        if config.is("disabled") {
            return skip;
        }
        let Some(name) = config.text("requirement_name") else { return skip };
        let found = self.requirements.get(name).cloned();
        if found.is_none() {
            let message = format!("there is no requirement `{name}` in `requirement_map`");
            let place = config.place("requirement_name");
            self.diags.error("unknown-name", place, config.at("requirement_name"), message);
        }
        found
    }

    /// The settings for requests that must fulfil a requirement.
    fn settings_of(
        &mut self,
        requirement: Option<&ProtoMessage>,
        providers: &mut Providers<'_>,
        span: Span,
    ) -> Option<Node> {
        let Some(requirement) = requirement else { return Some(plain("skip", span)) };
        let asked = self.requirement(requirement, providers)?;
        let mut native = NativeMap::new(requirement.span);
        match asked.tokens {
            Some(tokens) => native.set("require", tokens),
            None if asked.missing => {
                // Any provider's token will do, if there is one.
                let names: Vec<Arc<str>> = providers.known.keys().cloned().collect();
                for name in names {
                    self.provider(&name, None, requirement, providers)?;
                }
            }
            None => return Some(plain("skip", requirement.span)),
        }
        for (key, set) in [("allow_missing", asked.missing), ("allow_invalid", asked.invalid)] {
            if set {
                native.word(key, true, requirement.span);
            }
        }
        Some(native.node())
    }

    fn requirement(
        &mut self,
        of: &ProtoMessage,
        providers: &mut Providers<'_>,
    ) -> Option<TokenDemand> {
        let tokens = |node| TokenDemand { tokens: Some(node), missing: false, invalid: false };
        if let Some(name) = of.text("provider_name") {
            return Some(tokens(self.provider(name, None, of, providers)?));
        }
        if let Some(inner) = of.message("provider_and_audiences") {
            let name = inner.text("provider_name")?;
            return Some(tokens(self.provider(name, Some(inner), inner, providers)?));
        }
        if of.message("allow_missing").is_some() {
            return Some(TokenDemand { tokens: None, missing: true, invalid: false });
        }
        if of.message("allow_missing_or_failed").is_some() {
            return Some(TokenDemand { tokens: None, missing: true, invalid: true });
        }
        let (field, word) = [("requires_any", "any"), ("requires_all", "all")]
            .into_iter()
            .find(|(field, _)| of.has(field))?;
        let list = of.message(field)?;
        let mut nodes = Vec::new();
        let mut whole = TokenDemand { tokens: None, missing: false, invalid: false };
        for inner in list.messages("requirements") {
            let asked = self.requirement(inner, providers)?;
            if word == "all" && (asked.missing || asked.invalid) {
                let how = "`allow_missing` is for a whole requirement, or in `requires_any`";
                self.unsupported(of, field, how);
                return None;
            }
            nodes.extend(asked.tokens);
            whole.missing |= asked.missing;
            whole.invalid |= asked.invalid;
        }
        if !nodes.is_empty() {
            let list = Node { value: Value::List(nodes), span: list.span };
            whole.tokens = Some(single(word, list));
        }
        Some(whole)
    }

    /// The native name of a provider, which is mapped when it is first asked for; with other audiences, it is another.
    fn provider(
        &mut self,
        name: &Arc<str>,
        asked: Option<&ProtoMessage>,
        place: &ProtoMessage,
        providers: &mut Providers<'_>,
    ) -> Option<Node> {
        let Some(provider) = providers.known.get(name).copied() else {
            let message = format!("there is no provider `{name}`");
            self.diags.error("unknown-name", place.span, place.at("provider_name"), message);
            return None;
        };
        let audiences = asked.filter(|of| of.has("audiences")).unwrap_or(provider);
        let listed: Vec<(Arc<str>, Span)> =
            audiences.texts("audiences").map(|(text, span)| (Arc::clone(text), span)).collect();
        let texts: Vec<&str> = listed.iter().map(|(text, _)| &**text).collect();
        let key = (Arc::clone(name), texts.join("\n"));
        if let Some(known) = providers.added.get(&key) {
            return Some(quoted(known, place.span));
        }
        // A dot separates the provider from its claims.
        let native_name = providers.names.add(&name.replace('.', "_"));
        let native = self.provider_settings(provider, &listed)?;
        if let Some(key) = provider.text("payload_in_metadata") {
            let values = format!("jwt.{native_name}");
            self.metadata.below("envoy.filters.http.jwt_authn", key, values);
        }
        providers.native.push(&native_name, native);
        providers.added.insert(key, native_name.clone());
        Some(quoted(&native_name, place.span))
    }

    fn provider_settings(
        &mut self,
        of: &ProtoMessage,
        audiences: &[(Arc<str>, Span)],
    ) -> Option<Node> {
        // Claims are values that filters share; what reads metadata is reported there.
        of.without_effect(&[
            "payload_in_metadata",
            "header_in_metadata",
            "failed_status_in_metadata",
            "normalize_payload_in_metadata",
            "jwt_cache_config",
            "audiences",
        ]);
        for field in ["normalize_payload_in_metadata", "jwt_cache_config"] {
            of.message(field).into_iter().for_each(ProtoMessage::all_without_effect);
        }
        self.only_false(of, "clear_route_cache", "the route is chosen before");
        self.only_false(of, "pad_forward_payload_header", "");
        let mut native = NativeMap::new(of.span);
        native.text("issuer", of.text("issuer").map_or("*", |text| text), of.place("issuer"));
        let names: Vec<Node> = match audiences {
            [] => vec![quoted("*", of.span)],
            some => some.iter().map(|(text, span)| quoted(text, *span)).collect(),
        };
        native.list("audiences", names, of.span);
        native.word("require_expiration", of.is("require_expiration"), of.span);
        let skew = of.number("clock_skew_seconds").filter(|skew| *skew > 0).unwrap_or(60);
        native.word("skew", format!("{skew}s"), of.place("clock_skew_seconds"));
        self.token_keys(of, &mut native)?;
        self.token_places(of, &mut native);
        native.word("forward", of.is("forward"), of.place("forward"));
        if let Some(header) = of.text("forward_payload_header") {
            native.text("payload_header", header, of.place("forward_payload_header"));
        }
        let mut claims = NativeMap::new(of.place("claim_to_headers"));
        for claim in of.messages("claim_to_headers") {
            if let (Some(header), Some(name)) =
                (claim.text("header_name"), claim.text("claim_name"))
            {
                claims.text(&header.to_ascii_lowercase(), name, claim.span);
            }
        }
        native.map("claims", claims);
        Some(native.node())
    }

    fn token_keys(&mut self, of: &ProtoMessage, native: &mut NativeMap) -> Option<()> {
        if let Some(local) = of.message("local_jwks") {
            if let Some(folder) = local.message("watched_directory") {
                folder.all_without_effect();
            }
            if let Some(path) = local.text("filename") {
                native.text("jwks_file", path, local.span);
            } else {
                let mut text = self.given_text(local)?;
                if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
                    let how = "these keys are not JSON: every token is refused, as in Envoy";
                    self.differs(of, "local_jwks", how);
                    text = Arc::clone(key_of_nobody());
                }
                native.text("jwks", &text, local.span);
            }
            return Some(());
        }
        let remote = of.message("remote_jwks")?;
        let uri = remote.message("http_uri")?;
        let mut section = NativeMap::new(remote.span);
        self.http_uri(uri, &mut section)?;
        let refresh = self.duration(remote, "cache_duration", Zero::Refused);
        section.set("refresh", refresh.unwrap_or_else(|| plain("10m", remote.span)));
        if let Some(fetch) = remote.message("async_fetch") {
            // Keys are always fetched beforehand.
            fetch.all_without_effect();
        }
        if let Some(retries) = remote.message("retry_policy") {
            retries.all_without_effect();
            self.differs(remote, "retry_policy", "an attempt that fails is repeated after 10s");
        }
        native.map("jwks_remote", section);
        Some(())
    }

    /// Where tokens are; in Envoy, that is `authorization` and a query parameter unless something is said.
    fn token_places(&mut self, of: &ProtoMessage, native: &mut NativeMap) {
        let mut from = NativeMap::new(of.span);
        let mut headers = Vec::new();
        for header in of.messages("from_headers") {
            let Some(name) = header.text("name").map(|name| name.to_ascii_lowercase()) else {
                continue;
            };
            let prefix = header.text("value_prefix").map_or("", |text| text);
            let scheme = prefix.trim_end().eq_ignore_ascii_case("bearer");
            if (name == "authorization") == scheme || (prefix.is_empty() && name != "authorization")
            {
                headers.push(quoted(&name, header.span));
            } else {
                let how = "a token in `authorization` has `Bearer ` before it, one in another header nothing";
                self.unsupported(header, "value_prefix", how);
            }
        }
        let list = |texts: &mut dyn Iterator<Item = (&Arc<str>, Span)>| -> Vec<Node> {
            texts.map(|(text, span)| quoted(text, span)).collect()
        };
        let mut query = list(&mut of.texts("from_params"));
        let cookies = list(&mut of.texts("from_cookies"));
        if headers.is_empty() && query.is_empty() && cookies.is_empty() {
            headers.push(quoted("authorization", of.span));
            query.push(quoted("access_token", of.span));
        }
        from.list("headers", headers, of.span);
        from.list("query", query, of.span);
        from.list("cookies", cookies, of.span);
        native.map("from", from);
    }
}

/// A key that nobody can sign with: what belongs to it is forgotten.
fn key_of_nobody() -> &'static Arc<str> {
    static KEY: LazyLock<Arc<str>> = LazyLock::new(|| {
        let pair = rcgen::KeyPair::generate();
        // The format of the point, then both coordinates.
        let point = pair.as_ref().map_or(&[][..], |pair| pair.public_key_raw());
        let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len().saturating_sub(1) / 2);
        let [x, y] = [x, y].map(|part| data_encoding::BASE64URL_NOPAD.encode(part));
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}]}}"#).into()
    });
    &KEY
}
