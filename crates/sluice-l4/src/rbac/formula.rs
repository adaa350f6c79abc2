//! Conditions that are combined by `all`, `any` and `not`.
//!
//! Owns: how they are evaluated, and which keys an index may find a formula by. Refuses to know: what a condition is
//! about. Keeps: a formula that matches has at least one of the keys that it was given.

use std::fmt::Debug;
use std::net::IpAddr;

use sluice_core::Cidr;

/// A condition of one layer: on a connection, or on a request.
pub trait PolicyCondition: Debug + Send + Sync + 'static {
    /// What is judged.
    type Subject<'a>;

    /// Something that conditions compare: a path, say, or a certain header.
    type Dimension: Clone + Debug + PartialEq + Send + Sync;

    /// Whether the condition is fulfilled. `lean` decides where the subject can be read in several ways, one of which
    /// fulfils the condition: a header with two values, for example.
    fn fits(&self, subject: &Self::Subject<'_>, lean: Lean) -> bool;

    /// Keys of which a subject that fulfils the condition has at least one; `None` if no look-up finds it.
    fn keys(&self) -> Option<Vec<(Self::Dimension, PolicyKey)>>;

    /// Tells every key that a subject has in a dimension.
    fn look_up(
        dimension: &Self::Dimension,
        subject: &Self::Subject<'_>,
        found: &mut dyn FnMut(SubjectKey<'_>),
    );
}

/// A key of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKey {
    /// A text.
    Text(Box<[u8]>),
    /// A block of addresses.
    Block(Cidr),
}

/// A key of a subject.
#[derive(Clone, Copy, Debug)]
pub enum SubjectKey<'a> {
    /// A text.
    Text(&'a [u8]),
    /// An address, in every block that contains it.
    Address(IpAddr),
    /// What could be any key.
    Any,
}

/// Which way a condition leans that a subject fulfils in one reading, and not in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lean {
    /// It is fulfilled: for policies that refuse.
    ToMatch,
    /// It is not fulfilled: for policies that let pass.
    ToMiss,
}

impl Lean {
    /// The other way.
    const fn opposite(self) -> Self {
        match self {
            Self::ToMatch => Self::ToMiss,
            Self::ToMiss => Self::ToMatch,
        }
    }

    /// Whether a condition is fulfilled by readings that fulfil it or not; there is at least one.
    pub fn of_readings(self, mut readings: impl Iterator<Item = bool>) -> bool {
        match self {
            Self::ToMatch => readings.any(|fits| fits),
            Self::ToMiss => readings.all(|fits| fits),
        }
    }
}

/// Combined conditions.
#[derive(Clone, Debug)]
pub enum Formula<C> {
    /// One condition.
    Is(C),
    /// All of these.
    All(Vec<Self>),
    /// At least one of these.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
}

/// A key in a dimension.
pub(super) type KeyIn<C> = (<C as PolicyCondition>::Dimension, PolicyKey);

impl<C: PolicyCondition> Formula<C> {
    /// Whether a subject fulfils it.
    pub fn fits(&self, subject: &C::Subject<'_>, lean: Lean) -> bool {
        match self {
            Self::Is(condition) => condition.fits(subject, lean),
            Self::All(all) => all.iter().all(|one| one.fits(subject, lean)),
            Self::Any(any) => any.iter().any(|one| one.fits(subject, lean)),
            Self::Not(inner) => !inner.fits(subject, lean.opposite()),
        }
    }

    /// Whether it contains a condition of some kind.
    pub fn contains(&self, kind: &impl Fn(&C) -> bool) -> bool {
        match self {
            Self::Is(condition) => kind(condition),
            Self::All(inner) | Self::Any(inner) => inner.iter().any(|one| one.contains(kind)),
            Self::Not(inner) => inner.contains(kind),
        }
    }

    /// Tells every key that the formula might be found by.
    pub(super) fn each_key(&self, found: &mut impl FnMut(KeyIn<C>)) {
        match self {
            Self::Is(condition) => {
                condition.keys().into_iter().flatten().for_each(found);
            }
            Self::All(inner) | Self::Any(inner) => {
                inner.iter().for_each(|one| one.each_key(found));
            }
            Self::Not(_) => {}
        }
    }

    /// The cheapest keys that find the formula whenever it matches, with their cost; `None` if no keys do.
    pub(super) fn best_keys(
        &self,
        cost: &impl Fn(&KeyIn<C>) -> usize,
    ) -> Option<(usize, Vec<KeyIn<C>>)> {
        match self {
            Self::Is(condition) => {
                let keys = condition.keys()?;
                Some((keys.iter().map(cost).sum(), keys))
            }
            Self::All(all) => {
                all.iter().filter_map(|one| one.best_keys(cost)).min_by_key(|(cost, _)| *cost)
            }
            Self::Any(any) => {
                let (mut total, mut keys) = (0, Vec::new());
                for one in any {
                    let (cost, own) = one.best_keys(cost)?;
                    total += cost;
                    keys.extend(own);
                }
                Some((total, keys))
            }
            Self::Not(_) => None,
        }
    }
}
