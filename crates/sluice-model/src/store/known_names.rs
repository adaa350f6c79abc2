//! Names that files use and do not declare.
//!
//! Owns: what is said about one. Refuses to know: where it was used. Keeps: thousands of wrong names cost about as much
//! as a hundred.

use std::cell::Cell;
use std::collections::HashSet;

use sluice_core::Name;
use sluice_core::settings::suggest_word;

use crate::model::Kind;

/// Most names that a finding about an unknown one lists.
const KNOWN_LISTED: usize = 10;

/// Unknown names that are compared with every known one, for a suggestion.
const COMPARED_MAX: usize = 100;

/// The names that were looked up.
#[derive(Debug, Default)]
pub(crate) struct KnownNames {
    /// How many of them were not known.
    unknown: Cell<usize>,
}

impl KnownNames {
    /// Why a name must not be used among files that declare these, and what to do; `None` if it may be. One that is
    /// declared and wrong has its own errors.
    pub(crate) fn why_unknown(
        &self,
        declared: &HashSet<(Kind, Name)>,
        kind: Kind,
        name: &Name,
    ) -> Option<(String, String)> {
        if declared.contains(&(kind, Name::clone(name))) {
            return None;
        }
        let (message, remedy, known) = match kind {
            Kind::Routes => (
                format!("there are no routes named `{name}`"),
                "add them under `routes`",
                "known routes",
            ),
            Kind::Secret => {
                (format!("there is no secret `{name}`"), "add it under `secrets`", "known secrets")
            }
            Kind::Map => (format!("there is no map `{name}`"), "add it under `maps`", "known maps"),
            kind => (
                format!("there is no {} `{name}`", kind.word()),
                "add it under `clusters`",
                "known clusters",
            ),
        };
        let before = self.unknown.replace(self.unknown.get() + 1);
        if before >= COMPARED_MAX {
            return Some((message, remedy.to_owned()));
        }
        let names = declared.iter().filter(|(of, _)| *of == kind);
        let mut names: Vec<&str> = names.map(|(_, name)| &**name).collect();
        names.sort_unstable();
        let help = suggest_word(name, &names)
            .unwrap_or_else(|| format!("{remedy}; {known}: {}", listed(&names)));
        Some((message, help))
    }
}

fn listed(names: &[&str]) -> String {
    match names.len() {
        0 => "none yet".to_owned(),
        all if all > KNOWN_LISTED => {
            format!("{} and {} more", names[..KNOWN_LISTED].join(", "), all - KNOWN_LISTED)
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_comes_with_the_nearest_or_with_all() {
        let known = KnownNames::default();
        let declared = |count: u32| -> HashSet<(Kind, Name)> {
            (0..count).map(|number| (Kind::Cluster, format!("web{number:02}").into())).collect()
        };
        let help = |count: u32, name: &str| {
            known.why_unknown(&declared(count), Kind::Cluster, &name.into()).map(|(_, help)| help)
        };
        assert_eq!(help(3, "web01"), None);
        assert_eq!(help(3, "wbe01").as_deref(), Some("did you mean `web01`?"));
        assert_eq!(
            help(2, "db").as_deref(),
            Some("add it under `clusters`; known clusters: web00, web01")
        );
        assert!(help(12, "db").unwrap().ends_with("web09 and 2 more"));
        assert!(help(10, "db").unwrap().ends_with("web08, web09"));
        assert!(help(0, "db").unwrap().ends_with("known clusters: none yet"));
        (0..COMPARED_MAX).for_each(|_| drop(help(1, "db")));
        assert_eq!(help(3, "wbe01").as_deref(), Some("add it under `clusters`"));
    }
}
