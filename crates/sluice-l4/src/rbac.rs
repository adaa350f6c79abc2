//! Role-based access control: policies that say who may do what, for connections and for requests alike.
//!
//! Owns: policies, the order in which rules are asked, and what comes of it. Refuses to know: what a condition is about;
//! each layer brings its own. Keeps: a policy that denies wins over every policy that allows; what is shadowed decides
//! nothing; where a subject can be read in two ways, the reading counts that refuses it.

use std::sync::Arc;

pub mod conn;
pub mod decisions;
mod formula;
mod index;
pub mod settings;
#[cfg(test)]
mod tests;

use sluice_telemetry::metrics::{SeriesLabels, other};

pub use decisions::RbacCounters;
pub use formula::{Formula, Lean, PolicyCondition, PolicyKey, SubjectKey};
use index::PolicyIndex;

use crate::metrics;

/// How decisions are counted that no policy made.
const NO_POLICY: &str = "none";

/// Everything that one use of the filter says.
#[derive(Debug)]
pub struct Rbac<C: PolicyCondition> {
    /// What is enforced.
    pub enforced: RbacRules<C>,
    /// What would be enforced; only recorded and counted.
    pub shadow: Option<RbacRules<C>>,
    /// Policies that are only recorded and counted.
    pub log: PolicySet<C>,
}

/// Policies that refuse, and policies without which nothing passes.
#[derive(Debug)]
pub struct RbacRules<C: PolicyCondition> {
    /// What matches one of these is refused.
    pub deny: PolicySet<C>,
    /// What matches none of these is refused; `None` if nothing needs to be allowed.
    pub allow: Option<PolicySet<C>>,
}

impl<C: PolicyCondition> Rbac<C> {
    fn policies(&self) -> impl Iterator<Item = &(Arc<str>, Formula<C>)> {
        let rules = [Some(&self.enforced), self.shadow.as_ref()].into_iter().flatten();
        let sets = rules.flat_map(|rules| [Some(&rules.deny), rules.allow.as_ref()]);
        sets.flatten().chain([&self.log]).flat_map(|set| &set.policies)
    }

    /// Judges a subject by all rules.
    pub fn judge(&self, subject: &C::Subject<'_>) -> RbacJudgement<'_> {
        RbacJudgement {
            logged: self.log.first(subject),
            shadow: self.shadow.as_ref().map(|rules| rules.judge(subject)),
            enforced: self.enforced.judge(subject),
        }
    }

    /// Whether a policy has a condition of some kind.
    pub fn contains(&self, kind: impl Fn(&C) -> bool) -> bool {
        self.policies().any(|(_, formula)| formula.contains(&kind))
    }

    /// Whether decisions are counted in the series with these labels.
    pub fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        let counts = |policy: &str| {
            let shared = policy == NO_POLICY || policy == &*other();
            shared || self.policies().any(|(name, _)| &**name == policy)
        };
        series.metric == metrics::RBAC.name && series.get("policy").is_some_and(counts)
    }
}

/// What rules say about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RbacRuling<'a> {
    /// Whether it is refused.
    pub refused: bool,
    /// The policy that decided; `None` if none matched.
    pub policy: Option<&'a Arc<str>>,
}

impl RbacRuling<'_> {
    /// The name of the policy that decided, or `none`.
    pub fn by(&self) -> &str {
        self.policy.map_or(NO_POLICY, |policy| policy)
    }

    /// The decision as a word.
    pub const fn word(&self) -> &'static str {
        if self.refused { "denied" } else { "allowed" }
    }
}

/// What one use of the filter says about a subject.
#[derive(Clone, Copy, Debug)]
pub struct RbacJudgement<'a> {
    /// The policy of `log` that matches.
    pub logged: Option<&'a Arc<str>>,
    /// What the rules would say that decide nothing.
    pub shadow: Option<RbacRuling<'a>>,
    /// What counts.
    pub enforced: RbacRuling<'a>,
}

impl<C: PolicyCondition> RbacRules<C> {
    /// Judges a subject.
    pub fn judge(&self, subject: &C::Subject<'_>) -> RbacRuling<'_> {
        let denied = self.deny.first(subject);
        if denied.is_some() {
            return RbacRuling { refused: true, policy: denied };
        }
        let Some(allow) = &self.allow else { return RbacRuling { refused: false, policy: None } };
        let policy = allow.first(subject);
        RbacRuling { refused: policy.is_none(), policy }
    }
}

/// Policies with an index over them, in the order of their names.
#[derive(Debug)]
pub struct PolicySet<C: PolicyCondition> {
    policies: Vec<(Arc<str>, Formula<C>)>,
    index: PolicyIndex<C>,
    lean: Lean,
}

impl<C: PolicyCondition> PolicySet<C> {
    /// Compiles policies; `lean` is how they are to be read if there are two ways.
    pub fn new(policies: Vec<(Arc<str>, Formula<C>)>, lean: Lean) -> Self {
        let index = PolicyIndex::build(policies.iter().map(|(_, formula)| formula));
        Self { policies, index, lean }
    }

    /// The name of the first policy that matches.
    pub fn first(&self, subject: &C::Subject<'_>) -> Option<&Arc<str>> {
        let place = self.index.find(subject, |place| {
            self.policies.get(place).is_some_and(|(_, formula)| formula.fits(subject, self.lean))
        })?;
        Some(&self.policies[place].0)
    }
}
