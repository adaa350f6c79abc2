//! What becomes of rulings: series, and values that records show.
//!
//! Owns: the counters of one use of the filter on one worker. Refuses to know: what a policy is about. Keeps: policies
//! have series of their own only up to a limit.

use std::sync::Arc;

use sluice_core::limits::Limit;
use sluice_core::values::ValueKey;
use sluice_io::WorkerCx;
use sluice_telemetry::CounterSet;
use sluice_telemetry::metrics::other;

use super::{NO_POLICY, PolicyCondition, Rbac, RbacJudgement, RbacRuling};
use crate::metrics;

sluice_core::values! {
    POLICY: Arc<str> = "rbac.policy", "The policy of the filter `rbac` that decided; `none` if it was refused because no policy allows it.";
    SHADOW: Arc<str> = "rbac.shadow", "What the shadow policies of the filter `rbac` would have decided: `allowed` or `denied`, and by which policy.";
    LOG: Arc<str> = "rbac.log", "The policy of `log` of the filter `rbac` that matched.";
}

/// The series of one use of the filter on one worker.
#[derive(Debug)]
pub struct RbacCounters {
    listener: Box<str>,
    counts: CounterSet<(Arc<str>, RbacResult)>,
    none: Arc<str>,
}

/// A result by which decisions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RbacResult {
    Allowed,
    Denied,
    ShadowAllowed,
    ShadowDenied,
    Logged,
}

impl RbacResult {
    const fn of(shadow: bool, refused: bool) -> Self {
        match (shadow, refused) {
            (false, false) => Self::Allowed,
            (false, true) => Self::Denied,
            (true, false) => Self::ShadowAllowed,
            (true, true) => Self::ShadowDenied,
        }
    }

    /// The labels `rules` and `result`.
    const fn labels(self) -> [&'static str; 2] {
        match self {
            Self::Allowed => ["enforced", "allowed"],
            Self::Denied => ["enforced", "denied"],
            Self::ShadowAllowed => ["shadow", "allowed"],
            Self::ShadowDenied => ["shadow", "denied"],
            Self::Logged => ["log", "matched"],
        }
    }
}

impl RbacCounters {
    /// The series of a use by `owner`, which begins with the name of the listener.
    pub fn new(worker: &WorkerCx, owner: &str) -> Self {
        let bound = worker.limits.size(Limit::RbacSeries);
        let listener = owner.split('/').next().unwrap_or_default().into();
        let counts = CounterSet::bounded(bound, |(_, result)| (other(), *result));
        Self { listener, counts, none: NO_POLICY.into() }
    }

    /// Judges a subject, counts and notes what comes of it; returns the ruling of the rules in force.
    pub fn judge<'r, C: PolicyCondition>(
        &self,
        rbac: &'r Rbac<C>,
        subject: &C::Subject<'_>,
        worker: &WorkerCx,
        mut note: impl FnMut(&'static ValueKey<Arc<str>>, Arc<str>),
    ) -> RbacRuling<'r> {
        let RbacJudgement { logged, shadow, enforced } = rbac.judge(subject);
        if let Some(policy) = logged {
            self.count(policy, RbacResult::Logged, worker);
            note(&LOG, Arc::clone(policy));
        }
        if let Some(ruling) = shadow {
            let policy = ruling.policy.unwrap_or(&self.none);
            self.count(policy, RbacResult::of(true, ruling.refused), worker);
            note(&SHADOW, format!("{} by {policy}", ruling.word()).into());
        }
        let policy = enforced.policy.unwrap_or(&self.none);
        self.count(policy, RbacResult::of(false, enforced.refused), worker);
        if enforced.refused || enforced.policy.is_some() {
            note(&POLICY, Arc::clone(policy));
        }
        enforced
    }

    fn count(&self, policy: &Arc<str>, result: RbacResult, worker: &WorkerCx) {
        self.counts.count(&(Arc::clone(policy), result), |(policy, result)| {
            let [rules, result] = result.labels();
            worker.shard.counter(&metrics::RBAC, &[&self.listener, rules, policy, result])
        });
    }
}
