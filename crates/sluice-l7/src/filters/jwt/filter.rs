//! The filter on a worker: from the tokens of a request to its identity.
//!
//! Owns: which tokens a request has, whether they are what is required, and what changes in the request. Refuses to know:
//! how a token is verified. Keeps: nothing of a request changes before all that is required has been accepted, but for
//! the headers that only claims may be in, which are gone whatever happens.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_l4::metrics::count_limit;
use sluice_telemetry::CounterSet;

use super::Guard;
use super::cache::TokenCache;
use super::claims::{AcceptedToken, AcceptedTokens};
use super::provider::Provider;
use super::settings::TokenRequirement;
use super::token::TokenRefusal;
use crate::filters::credentials::CredentialSource;
use crate::filters::{Cx, HeadStep, HttpFilter};
use crate::identity::WHO;
use crate::metrics::JWT_TOKENS;

/// The cache of a worker.
struct WorkerCache(RefCell<TokenCache>);

/// The filter.
pub(super) struct JwtFilter(Rc<TokenJudge>);

impl fmt::Debug for JwtFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtFilter({:?})", self.0.requirement)
    }
}

/// What requests are judged with. Shared with those that wait for keys.
struct TokenJudge {
    guard: Arc<Guard>,
    requirement: TokenRequirement,
    worker: Rc<WorkerCache>,
    judged: CounterSet<&'static str>,
}

/// A request while it is judged.
struct Judging<'r> {
    judge: &'r TokenJudge,
    cx: &'r WorkerCx,
    head: &'r Head,
    earlier: &'r [AcceptedToken],
    bytes_max: usize,
    now: Duration,
    accepted: Vec<AcceptedToken>,
    /// The providers whose keys may be out of date.
    stale: Vec<Arc<Provider>>,
}

impl HttpFilter for JwtFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        // What an earlier run of this filter has put there is put there again.
        for name in &self.0.guard.claim_headers {
            head.remove(name.as_bytes());
        }
        self.0.decide(cx, head, false)
    }
}

impl JwtFilter {
    pub(super) fn new(guard: Arc<Guard>, worker: &Rc<WorkerCx>) -> Self {
        let bytes_max = worker.limits.size(Limit::JwtCache);
        let cache = worker.local(|| WorkerCache(RefCell::new(TokenCache::new(bytes_max))));
        let requirement = guard.requirement();
        let judged = CounterSet::default();
        Self(Rc::new(TokenJudge { guard, requirement, worker: cache, judged }))
    }
}

impl TokenJudge {
    /// Judges a request. The keys may have been fetched again already.
    fn decide(self: &Rc<Self>, cx: &mut Cx<'_>, head: &mut Head, renewed: bool) -> HeadStep {
        let mut judging = Judging {
            judge: self,
            cx: cx.worker,
            head,
            earlier: AcceptedTokens::of(cx.values),
            bytes_max: cx.worker.limits.size(Limit::JwtBytes),
            now: cx.worker.clock.wall(cx.worker.now()),
            accepted: Vec::new(),
            stale: Vec::new(),
        };
        let judged = judging.fulfil(&self.requirement);
        let has_token = judged.is_err() && judging.has_token();
        let Judging { accepted, stale, .. } = judging;
        let refusal = match judged {
            Ok(()) => {
                self.admit(cx, head, accepted);
                return HeadStep::Continue;
            }
            Err(refusal) => refusal,
        };
        if !stale.is_empty() && !renewed {
            return self.wait(cx, &stale);
        }
        self.count(cx.worker, refusal.detail());
        let passes = if has_token { self.guard.allow_invalid } else { self.guard.allow_missing };
        if passes && refusal != TokenRefusal::Provider {
            self.remove_tokens(head, &self.guard.providers);
            return HeadStep::Continue;
        }
        HeadStep::reply(refusal.reply(&self.guard.realm))
    }

    /// Waits for newer keys and judges again.
    fn wait(self: &Rc<Self>, cx: &Cx<'_>, stale: &[Arc<Provider>]) -> HeadStep {
        let now = cx.worker.now();
        let renewals: Vec<_> =
            stale.iter().filter_map(|own| own.keys.renewed(cx.worker, now)).collect();
        let this = Rc::clone(self);
        HeadStep::wait(async move {
            for renewal in renewals {
                renewal.await;
            }
            move |cx: &mut Cx<'_>, head: &mut Head| this.decide(cx, head, true)
        })
    }

    /// Gives a request what its tokens say.
    fn admit(&self, cx: &mut Cx<'_>, head: &mut Head, accepted: Vec<AcceptedToken>) {
        if accepted.is_empty() {
            return;
        }
        for AcceptedToken { token, .. } in &accepted {
            for (name, value) in &token.headers {
                head.set(name.as_bytes(), value);
            }
        }
        self.remove_tokens(head, accepted.iter().map(|accepted| &accepted.provider));
        if let Some(who) = accepted.iter().find_map(|accepted| accepted.token.identity.as_ref()) {
            cx.values.set(&WHO, Arc::clone(who));
        }
        AcceptedTokens(accepted).share(cx.values);
        // Rules may match what is known now.
        cx.reroute();
    }

    /// Removes the tokens of providers, unless endpoints get them.
    fn remove_tokens<'p>(
        &self,
        head: &mut Head,
        providers: impl IntoIterator<Item = &'p Arc<Provider>>,
    ) {
        for provider in providers {
            if !provider.passing.forward {
                provider.sources.iter().for_each(|source| source.remove(head));
            }
        }
    }

    fn count(&self, worker: &WorkerCx, result: &'static str) {
        self.judged.count(&result, |result| worker.shard.counter(&JWT_TOKENS, &[result]));
    }
}

impl<'r> Judging<'r> {
    /// Judges whether a requirement is fulfilled, and keeps the tokens that fulfil it.
    fn fulfil(&mut self, requirement: &TokenRequirement) -> Result<(), TokenRefusal> {
        match requirement {
            TokenRequirement::Provider(name) => {
                let providers = &self.judge.guard.providers;
                let Some(provider) = providers.iter().find(|own| own.name == *name) else {
                    return Err(TokenRefusal::Provider);
                };
                let accepted = self.accept(provider)?;
                self.accepted.push(accepted);
                Ok(())
            }
            TokenRequirement::All(all) => all.iter().try_for_each(|inner| self.fulfil(inner)),
            TokenRequirement::Any(all) => {
                let before = self.accepted.len();
                let mut furthest = TokenRefusal::Missing;
                for inner in all {
                    match self.fulfil(inner) {
                        Ok(()) => return Ok(()),
                        Err(refusal) if refusal.rank() >= furthest.rank() => furthest = refusal,
                        Err(_) => {}
                    }
                    self.accepted.truncate(before);
                }
                Err(furthest)
            }
        }
    }

    /// Whether the request has any token that might count, valid or not.
    fn has_token(&self) -> bool {
        let mut has = false;
        self.judge.requirement.names(&mut |name| {
            let mut own = self.judge.guard.providers.iter().filter(|own| own.name == *name);
            has |= own.any(|own| !matches!(self.token_for(own), Err(TokenRefusal::Missing)));
        });
        has
    }

    /// Verifies the token of a provider.
    fn accept(&mut self, provider: &Arc<Provider>) -> Result<AcceptedToken, TokenRefusal> {
        let (source, text) = self.token_for(provider)?;
        let mut cache = self.judge.worker.0.borrow_mut();
        let judged = provider.accept(text, self.bytes_max, &mut cache, self.now);
        drop(cache);
        match judged {
            Ok((token, how)) => {
                self.judge.count(self.cx, if how.known { "known" } else { "verified" });
                if how.forgot {
                    count_limit(self.cx, Limit::JwtCache);
                }
                Ok(AcceptedToken { provider: Arc::clone(provider), token, source })
            }
            Err(refusal) => {
                if matches!(refusal, TokenRefusal::Key | TokenRefusal::Unavailable) {
                    self.stale.push(Arc::clone(provider));
                }
                if refusal == TokenRefusal::TooLarge {
                    count_limit(self.cx, Limit::JwtBytes);
                }
                Err(refusal)
            }
        }
    }

    /// The one token that may be of a provider, and where it is or was.
    fn token_for(&self, provider: &Provider) -> Result<(CredentialSource, &'r [u8]), TokenRefusal> {
        let (head, earlier) = (self.head, self.earlier);
        let mut found: Option<(&CredentialSource, &'r [u8])> = None;
        let mut several = false;
        for source in &provider.sources {
            let earlier = earlier.iter().filter(|earlier| earlier.source == *source);
            let mut take = |token| match found {
                Some((_, other)) => several |= other != token,
                None => found = Some((source, token)),
            };
            earlier.for_each(|earlier| take(&*earlier.token.token));
            source.each(head, take);
        }
        match found {
            _ if several => Err(TokenRefusal::Several),
            Some((source, token)) => Ok((source.clone(), token)),
            None => Err(TokenRefusal::Missing),
        }
    }
}
