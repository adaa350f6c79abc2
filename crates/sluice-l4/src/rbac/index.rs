//! The index that finds the few policies which may match a subject.
//!
//! Owns: tables of keys by dimension. Refuses to know: what a policy does. Keeps: every policy that matches is found;
//! the cost of a look-up grows with the keys of the subject, not with the number of policies for other keys.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use sluice_core::Cidr;
use smallvec::SmallVec;

use super::formula::{Formula, KeyIn, PolicyCondition, PolicyKey, SubjectKey};

/// Fewer policies than this are checked one by one.
const INDEXED_FROM: usize = 9;

/// The places of policies.
type Places = SmallVec<[u32; 2]>;

/// Policies by keys.
#[derive(Debug)]
pub(super) struct PolicyIndex<C: PolicyCondition> {
    /// The number of policies.
    count: usize,
    tables: Vec<(C::Dimension, KeyTable)>,
    /// Policies that no look-up finds; they are always checked.
    others: Vec<u32>,
    indexed: bool,
}

/// The keys of one dimension.
#[derive(Debug, Default)]
struct KeyTable {
    texts: HashMap<Box<[u8]>, Places, FixedState>,
    blocks: HashMap<Cidr, Places, FixedState>,
    /// The prefix lengths of `blocks`.
    lengths: Vec<u8>,
}

impl KeyTable {
    fn insert(&mut self, key: PolicyKey, place: u32) {
        let places = match key {
            PolicyKey::Text(text) => self.texts.entry(text).or_default(),
            PolicyKey::Block(block) => {
                if !self.lengths.contains(&block.bits()) {
                    self.lengths.push(block.bits());
                }
                self.blocks.entry(block).or_default()
            }
        };
        if places.last() != Some(&place) {
            places.push(place);
        }
    }

    fn find(&self, key: SubjectKey<'_>, found: &mut impl FnMut(&Places)) {
        match key {
            SubjectKey::Text(text) => self.texts.get(text).into_iter().for_each(found),
            SubjectKey::Address(address) => {
                let address = address.to_canonical();
                let blocks = self.lengths.iter().map(|bits| Cidr::around(address, *bits));
                blocks.filter_map(|block| self.blocks.get(&block)).for_each(found);
            }
            SubjectKey::Any => self.texts.values().chain(self.blocks.values()).for_each(found),
        }
    }
}

impl<C: PolicyCondition> PolicyIndex<C> {
    /// Builds the index over policies, by their places. Each is entered under the keys that it shares with the fewest
    /// others.
    pub(super) fn build<'f>(
        policies: impl ExactSizeIterator<Item = &'f Formula<C>> + Clone,
    ) -> Self {
        let count = policies.len();
        let (tables, others) = (Vec::new(), Vec::new());
        let mut index = Self { count, tables, others, indexed: count >= INDEXED_FROM };
        if !index.indexed {
            return index;
        }
        let mut shared = SharedKeys::<C>(Vec::new());
        policies.clone().for_each(|policy| policy.each_key(&mut |key| shared.add(key)));
        for (place, policy) in policies.enumerate() {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            match policy.best_keys(&|key| shared.count(key)) {
                None => index.others.push(place),
                Some((_, keys)) => {
                    keys.into_iter().for_each(|(of, key)| index.table(of).insert(key, place));
                }
            }
        }
        index
    }

    fn table(&mut self, dimension: C::Dimension) -> &mut KeyTable {
        let place = self.tables.iter().position(|(of, _)| *of == dimension).unwrap_or_else(|| {
            self.tables.push((dimension, KeyTable::default()));
            self.tables.len() - 1
        });
        &mut self.tables[place].1
    }

    /// The first policy in order that `fits`; only those that may match are asked.
    pub(super) fn find(
        &self,
        subject: &C::Subject<'_>,
        mut fits: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        if !self.indexed {
            return (0..self.count).find(|place| fits(*place));
        }
        let mut candidates = SmallVec::<[u32; 32]>::from_slice(&[]);
        for (dimension, table) in &self.tables {
            C::look_up(dimension, subject, &mut |key| {
                table.find(key, &mut |places| candidates.extend_from_slice(places));
            });
        }
        candidates.sort_unstable();
        candidates.dedup();
        let found = candidates.into_iter().map(|place| place as usize).find(|place| fits(*place));
        let others = self.others.iter().map(|place| *place as usize);
        let before = |place: &usize| found.is_none_or(|found| *place < found);
        others.take_while(before).find(|place| fits(*place)).or(found)
    }
}

/// How many policies have each key.
struct SharedKeys<C: PolicyCondition>(Vec<(C::Dimension, HashMap<PolicyKey, usize, FixedState>)>);

impl<C: PolicyCondition> SharedKeys<C> {
    fn add(&mut self, (dimension, key): KeyIn<C>) {
        let of = self.0.iter_mut().find(|(of, _)| *of == dimension);
        match of {
            Some((_, counts)) => *counts.entry(key).or_default() += 1,
            None => self.0.push((dimension, HashMap::from_iter([(key, 1)]))),
        }
    }

    fn count(&self, (dimension, key): &KeyIn<C>) -> usize {
        let counts = self.0.iter().find(|(of, _)| of == dimension);
        counts.and_then(|(_, counts)| counts.get(key)).copied().unwrap_or(0)
    }
}
