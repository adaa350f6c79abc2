//! The index for finding a virtual host, and the few rules of it that may match.
//!
//! Owns: hash tables over names and paths. Refuses to know: the conditions of a rule besides its path. Keeps: all rules
//! that may match are checked, in their order; the cost of a lookup does not grow with the number of hosts, or of rules
//! for other paths.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use sluice_core::value::HostPattern;
use smallvec::SmallVec;

use super::{HostTwice, Rule};
use crate::host_name::without_port;
use crate::path_match::{DEPTH_MAX, PathMatch, folders};

/// The longest host name that is looked up; RFC 1035 §2.3.4 with a margin.
const HOST_MAX: usize = 300;

type Map<V> = HashMap<Box<str>, V, FixedState>;

/// Virtual hosts by name.
#[derive(Debug, Default)]
pub struct HostIndex {
    exact: Map<u32>,
    suffix: Map<u32>,
    prefix: Map<u32>,
    any: Option<u32>,
}

impl HostIndex {
    /// Builds the index over virtual hosts in turn: the place and the patterns of each.
    ///
    /// # Errors
    /// Patterns that are declared twice.
    pub fn build<'a>(
        hosts: impl Iterator<Item = (usize, &'a [HostPattern])>,
    ) -> Result<Self, Vec<HostTwice>> {
        let mut index = Self::default();
        let mut twice = Vec::new();
        for (place, patterns) in hosts {
            let number = u32::try_from(place).unwrap_or(u32::MAX);
            for pattern in patterns {
                let before = match pattern {
                    HostPattern::Any => index.any.replace(number),
                    HostPattern::Exact(name) => index.exact.insert(name.as_str().into(), number),
                    HostPattern::Suffix(name) => index.suffix.insert(name.as_str().into(), number),
                    HostPattern::Prefix(name) => index.prefix.insert(name.as_str().into(), number),
                };
                if let Some(before) = before {
                    twice.push((pattern.clone(), before as usize, place));
                }
            }
        }
        if twice.is_empty() { Ok(index) } else { Err(twice) }
    }

    /// Returns the virtual host for an authority: exact, then the longest suffix, then the longest prefix, then any.
    pub fn find(&self, authority: &str) -> Option<usize> {
        let mut lower = [0_u8; HOST_MAX];
        let host = without_port(authority);
        let host = host.strip_suffix('.').unwrap_or(host);
        let found = lower.get_mut(..host.len()).and_then(|lower| {
            lower.copy_from_slice(host.as_bytes());
            lower.make_ascii_lowercase();
            self.find_lower(std::str::from_utf8(lower).ok()?)
        });
        found.or(self.any).map(|place| place as usize)
    }

    fn find_lower(&self, host: &str) -> Option<u32> {
        if let Some(place) = self.exact.get(host) {
            return Some(*place);
        }
        let dots = || host.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(at, _)| at);
        // A wildcard stands for at least one character.
        let inner = || dots().filter(|at| *at > 0);
        if !self.suffix.is_empty()
            && let Some(place) = inner().find_map(|at| self.suffix.get(&host[at + 1..]))
        {
            return Some(*place);
        }
        if self.prefix.is_empty() {
            return None;
        }
        let mut longest = None;
        for at in dots() {
            longest = self.prefix.get(&host[..at]).copied().or(longest);
        }
        longest
    }
}

/// Fewer rules than this are checked one by one.
const INDEXED_FROM: usize = 9;

/// Rules that a look-up has found.
type Candidates = SmallVec<[u32; 16]>;

/// Rules by exact paths and by prefixes.
#[derive(Debug, Default)]
struct PathIndex {
    exact: Map<SmallVec<[u32; 2]>>,
    prefix: Map<SmallVec<[u32; 2]>>,
}

impl PathIndex {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty()
    }

    /// Adds the rules that may match `path`.
    fn find(&self, path: &str, candidates: &mut Candidates) {
        candidates.extend(self.exact.get(path).into_iter().flatten().copied());
        if self.prefix.is_empty() {
            return;
        }
        for folder in folders(path) {
            candidates.extend(self.prefix.get(folder).into_iter().flatten().copied());
        }
    }
}

/// The rules of a virtual host by their paths.
#[derive(Debug, Default)]
pub struct RuleIndex {
    indexed: bool,
    as_written: PathIndex,
    /// Rules for paths in any case, by their lower case.
    any_case: PathIndex,
    /// Rules that no lookup finds; they are always checked.
    others: Vec<u32>,
}

impl RuleIndex {
    /// Builds the index over rules in order.
    pub fn build(rules: &[Rule]) -> Self {
        let mut index = Self { indexed: rules.len() >= INDEXED_FROM, ..Self::default() };
        if !index.indexed {
            return index;
        }
        for (place, rule) in rules.iter().enumerate() {
            let number = u32::try_from(place).unwrap_or(u32::MAX);
            let (paths, path) = match &rule.path {
                PathMatch::AnyCase(inner) => (&mut index.any_case, &**inner),
                path => (&mut index.as_written, path),
            };
            let key = |path: &str| match &rule.path {
                PathMatch::AnyCase(_) => path.to_ascii_lowercase().into(),
                _ => path.into(),
            };
            match path {
                PathMatch::Exact(path) => paths.exact.entry(key(path)).or_default().push(number),
                PathMatch::Prefix(path) if path.matches('/').count() <= DEPTH_MAX => {
                    paths.prefix.entry(key(path)).or_default().push(number);
                }
                _ => index.others.push(number),
            }
        }
        index
    }

    /// Returns the first rule in order that `fits`; only rules that may match `path` are checked.
    pub fn find(
        &self,
        rules: &[Rule],
        path: &str,
        mut fits: impl FnMut(&Rule) -> bool,
    ) -> Option<usize> {
        if !self.indexed {
            return rules.iter().position(fits);
        }
        let mut candidates = Candidates::new();
        self.as_written.find(path, &mut candidates);
        if !self.any_case.is_empty() {
            self.any_case.find(&path.to_ascii_lowercase(), &mut candidates);
        }
        candidates.sort_unstable();
        // Merges the two sorted lists.
        let mut found = candidates.iter().copied().peekable();
        let mut others = self.others.iter().copied().peekable();
        loop {
            let next = match (found.peek(), others.peek()) {
                (Some(a), Some(b)) if a < b => found.next(),
                (_, Some(_)) => others.next(),
                (Some(_), None) => found.next(),
                (None, None) => return None,
            };
            let place = next? as usize;
            if rules.get(place).is_some_and(&mut fits) {
                return Some(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::value::parse_host_pattern;

    #[test]
    fn the_most_specific_host_wins() {
        let patterns: Vec<Vec<HostPattern>> =
            [&["a.test"][..], &["*.test", "[::1]"], &["*.a.test"], &["a.*"], &["a.b.*"], &["*"]]
                .iter()
                .map(|texts| texts.iter().map(|text| parse_host_pattern(text).unwrap()).collect())
                .collect();
        let index = HostIndex::build(patterns.iter().map(Vec::as_slice).enumerate()).unwrap();
        for (authority, place) in [
            ("a.test", 0),
            ("A.Test:8080", 0),
            ("a.test.", 0),
            ("b.test", 1),
            ("x.a.test", 2),
            ("y.x.a.test", 2),
            ("a.example", 3),
            ("a.b.example", 4),
            ("example", 5),
            ("[::1]:80", 1),
            ("", 5),
        ] {
            assert_eq!(index.find(authority), Some(place), "{authority}");
        }
        let long = "a".repeat(1000);
        assert_eq!(index.find(&long), Some(5));
    }
}
