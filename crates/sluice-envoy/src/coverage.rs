//! What of Envoy's files loads, and what they wait for.
//!
//! Owns: the tally over files. Refuses to know: how a file is loaded. Keeps: a file that Envoy would refuse, too, is
//! told apart from one that waits for something.

use std::collections::BTreeMap;
use std::fmt;

use sluice_core::{Diagnostic, Severity};

/// The code of a finding about something that has no counterpart.
pub const UNSUPPORTED: &str = "unsupported";

/// The code of a finding about something that behaves differently.
pub const DIFFERS: &str = "differs";

/// Files, with what was found in each.
#[derive(Debug, Default)]
pub struct Coverage {
    files: Vec<CoveredFile>,
}

#[derive(Debug)]
struct CoveredFile {
    name: String,
    /// What it waits for: types and fields, each with the path of the first.
    missing: BTreeMap<String, String>,
    /// What is wrong with it.
    wrong: Vec<String>,
    differences: usize,
}

impl Coverage {
    /// Adds a file.
    pub fn add(&mut self, name: String, findings: &[Diagnostic]) {
        let mut file =
            CoveredFile { name, missing: BTreeMap::new(), wrong: Vec::new(), differences: 0 };
        for finding in findings {
            if finding.severity == Severity::Warning {
                file.differences += usize::from(finding.code == DIFFERS);
            } else if finding.code == UNSUPPORTED || finding.code == "unknown-type" {
                let what = finding.message.split(" is not supported").next().unwrap_or_default();
                file.missing.entry(what.to_owned()).or_insert_with(|| finding.path.clone());
            } else {
                file.wrong.push(format!("{}: {}", finding.path, finding.message));
            }
        }
        self.files.push(file);
    }

    /// Whether every file loads.
    pub fn all_load(&self) -> bool {
        self.files.iter().all(CoveredFile::loads)
    }

    /// What files wait for: how many wait for it, and how many for nothing else; the most wanted first.
    fn wanted(&self) -> Vec<(&str, usize, usize)> {
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for file in &self.files {
            for what in file.missing.keys() {
                let count = counts.entry(what).or_default();
                count.0 += 1;
                count.1 += usize::from(file.missing.len() == 1 && file.wrong.is_empty());
            }
        }
        let mut all: Vec<_> =
            counts.into_iter().map(|(what, (files, alone))| (what, files, alone)).collect();
        all.sort_by_key(|(what, files, _)| (std::cmp::Reverse(*files), *what));
        all
    }
}

impl CoveredFile {
    fn loads(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            let verdict = match (file.loads(), file.differences) {
                (true, 0) => "loads".to_owned(),
                (true, 1) => "loads, with 1 difference".to_owned(),
                (true, count) => format!("loads, with {count} differences"),
                (false, _) => "does not load".to_owned(),
            };
            writeln!(f, "{}: {verdict}", file.name)?;
            for (what, path) in &file.missing {
                writeln!(f, "  missing  {what}  ({path})")?;
            }
            for problem in &file.wrong {
                writeln!(f, "  wrong    {problem}")?;
            }
        }
        let loading = self.files.iter().filter(|file| file.loads()).count();
        writeln!(f, "{loading} of {} files load", self.files.len())?;
        let wanted = self.wanted();
        if !wanted.is_empty() {
            writeln!(f, "\n{:>6} {:>6}  missing", "files", "alone")?;
        }
        for (what, files, alone) in wanted {
            writeln!(f, "{files:>6} {alone:>6}  {what}")?;
        }
        Ok(())
    }
}
