//! The settings of `rbac`, whatever its conditions are about.
//!
//! Owns: policies by name, the rules of which they are part, and what makes them usable. Refuses to know: the fields of a
//! condition. Keeps: what would match everything by omission is an error.

use std::sync::Arc;

use sluice_core::settings::{FieldShape, Fields, Named, Plain};
use sluice_core::{Diags, Node, Path, Setting, Shape};

use super::{Formula, Lean, PolicyCondition, PolicySet, Rbac, RbacRules};

/// A condition as it is configured.
pub trait ConditionSettings: Setting + Clone {
    /// What it is compiled to.
    type Condition: PolicyCondition;

    /// Compiles it.
    fn formula(&self) -> Formula<Self::Condition>;

    /// What is wrong with it that its fields alone do not show.
    fn problem(&self) -> Option<&'static str> {
        None
    }
}

/// A policy: who may do what.
#[derive(Clone, Debug)]
pub struct RbacPolicy<T> {
    /// Who; any of them. Everybody if empty.
    pub principals: Vec<T>,
    /// What; any of it. Everything if empty.
    pub permissions: Vec<T>,
}

impl<T: ConditionSettings> RbacPolicy<T> {
    fn conditions(&self) -> impl Iterator<Item = &T> {
        self.principals.iter().chain(&self.permissions)
    }

    fn formula(&self) -> Formula<T::Condition> {
        let any = |conditions: &[T]| {
            (!conditions.is_empty())
                .then(|| Formula::Any(conditions.iter().map(T::formula).collect()))
        };
        let both = [any(&self.principals), any(&self.permissions)];
        Formula::All(both.into_iter().flatten().collect())
    }
}

impl<T: ConditionSettings> Setting for RbacPolicy<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let (errors, _) = diags.counts();
        let fields = Fields::open(node, at, diags, &["principals", "permissions"])?;
        let principals = fields.take("principals", None, diags);
        let permissions = fields.take("permissions", None, diags);
        let policy = Self { principals: principals?, permissions: permissions? };
        if diags.counts().0 > errors {
            // What is misspelt may be all that there is.
            return Some(policy);
        }
        if let Some(problem) = policy.conditions().find_map(T::problem) {
            diags.error("bad-value", node.span, at, problem);
            return None;
        }
        let formula = policy.formula();
        if matches!(&formula, Formula::All(parts) if parts.is_empty()) {
            let message = "a policy without principals and permissions would match everything";
            let finding = diags.error("missing-field", node.span, at, message);
            finding.help("write whom it is about (`principals`), or what (`permissions`)");
            return None;
        }
        if has_empty(&formula) {
            let message = "a condition without any field would match everything";
            let finding = diags.error("missing-field", node.span, at, message);
            finding.help("write what it compares, or leave the condition out");
            return None;
        }
        Some(policy)
    }

    fn shape() -> Shape {
        Shape::Fields(vec![
            field("principals", "Who: any of these; if omitted, everybody.", Vec::<T>::shape()),
            field("permissions", "What: any of these; if omitted, everything.", Vec::<T>::shape()),
        ])
    }

    fn show(&self) -> Plain {
        Plain::Map(vec![
            ("principals".into(), self.principals.show()),
            ("permissions".into(), self.permissions.show()),
        ])
    }
}

fn field(key: &'static str, doc: &str, shape: Shape) -> FieldShape {
    FieldShape { key, doc: doc.to_owned(), required: false, default: None, shape }
}

/// Whether some part of a formula has no condition.
fn has_empty<C>(formula: &Formula<C>) -> bool {
    match formula {
        Formula::Is(_) => false,
        Formula::All(inner) | Formula::Any(inner) => {
            inner.is_empty() || inner.iter().any(has_empty)
        }
        Formula::Not(inner) => has_empty(inner),
    }
}

/// The settings of `rbac`, or those of its shadow.
#[derive(Clone, Debug)]
pub struct RbacSettings<T> {
    deny: Policies<T>,
    allow: Policies<T>,
    log: Policies<T>,
    shadow: Option<Box<Self>>,
}

/// Policies by name.
type Policies<T> = Option<Named<RbacPolicy<T>>>;

impl<T: ConditionSettings> RbacSettings<T> {
    fn bind_rules(
        node: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
        known: &'static [&'static str],
    ) -> Option<Self> {
        let fields = Fields::open(node, at, diags, known)?;
        let policies = |key: &'static str, diags: &mut Diags| -> Option<Policies<T>> {
            if known.contains(&key) { fields.take(key, None, diags) } else { Some(None) }
        };
        let (deny, allow) = (policies("deny", diags), policies("allow", diags));
        let log = policies("log", diags);
        let shadow = match node.entries().unwrap_or_default().iter().find(|e| &*e.key == "shadow") {
            Some(entry) if known.contains(&"shadow") => {
                Self::bind_rules(&entry.node, &at.key("shadow"), diags, &["deny", "allow"])
                    .map(|shadow| Some(Box::new(shadow)))
            }
            _ => Some(None),
        };
        let rules = Self { deny: deny?, allow: allow?, log: log?, shadow: shadow? };
        rules.is_usable(node, at, diags).then_some(rules)
    }

    fn is_usable(&self, node: &Node, at: &Path<'_>, diags: &mut Diags) -> bool {
        let lists = [("deny", &self.deny), ("allow", &self.allow), ("log", &self.log)];
        let empty = lists.iter().find(|(_, policies)| {
            policies.as_ref().is_some_and(|policies| policies.names().next().is_none())
        });
        if let Some((key, _)) = empty {
            let message = format!("`{key}` has no policy");
            let finding = diags.error("missing-field", node.span, at.key(key), message);
            let help = match *key {
                "allow" => "write a policy; to refuse everything, `deny` what has the path /*",
                _ => "write a policy, or leave the field out",
            };
            finding.help(help);
            return false;
        }
        // If there are only fields that are not known, they have been reported.
        if node.entries().is_none_or(<[_]>::is_empty) {
            let finding = diags.error("missing-field", node.span, at, "there is no policy here");
            finding.help("write policies in `allow` or `deny`");
            return false;
        }
        true
    }

    /// Compiles the policies.
    pub fn compile(&self) -> Rbac<T::Condition> {
        let rules = |of: &Self| RbacRules {
            deny: set(&of.deny, Lean::ToMatch),
            allow: of.allow.is_some().then(|| set(&of.allow, Lean::ToMiss)),
        };
        Rbac {
            enforced: rules(self),
            shadow: self.shadow.as_deref().map(rules),
            log: set(&self.log, Lean::ToMatch),
        }
    }
}

fn set<T: ConditionSettings>(policies: &Policies<T>, lean: Lean) -> PolicySet<T::Condition> {
    let all = policies.iter().flat_map(Named::iter);
    let compiled = all.map(|(name, policy)| (Arc::clone(name), policy.value.formula()));
    PolicySet::new(compiled.collect(), lean)
}

impl<T: ConditionSettings> Setting for RbacSettings<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        Self::bind_rules(node, at, diags, &["deny", "allow", "log", "shadow"])
    }

    fn shape() -> Shape {
        let policies = || Shape::Named(Box::new(RbacPolicy::<T>::shape()));
        let deny = || field("deny", "What matches one of these is refused.", policies());
        let allow = || field("allow", "What matches none of these is refused.", policies());
        let log = field("log", "What matches one of these is recorded and counted.", policies());
        let doc = "Policies that are only recorded and counted, as if they were in force.";
        let shadow = field("shadow", doc, Shape::Fields(vec![deny(), allow()]));
        Shape::Fields(vec![deny(), allow(), log, shadow])
    }

    fn show(&self) -> Plain {
        let shadow = self.shadow.as_ref().map_or(Plain::Null, |shadow| shadow.show());
        Plain::Map(vec![
            ("deny".into(), self.deny.show()),
            ("allow".into(), self.allow.show()),
            ("log".into(), self.log.show()),
            ("shadow".into(), shadow),
        ])
    }
}
