//! What of Envoy's files loads, and what they wait for.
//!
//! Owns: the tally over files. Refuses to know: how a file is loaded. Keeps: a file that Envoy would refuse, too, is
//! told apart from one that waits for something; one that needs a type which there is not at all from one that waits for a
//! field of a type that there is.

use std::collections::BTreeMap;
use std::fmt;

use sluice_core::{Diagnostic, Severity};

/// The code of a finding about something that has no counterpart.
pub const UNSUPPORTED: &str = "unsupported";

/// The code of a finding about a type of extension, or a kind of cluster, listener or address, that has no counterpart at
/// all.
pub const UNSUPPORTED_TYPE: &str = "unsupported-type";

/// The code of a finding about a type that Envoy's definitions do not have.
pub const UNKNOWN_TYPE: &str = "unknown-type";

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
    /// Whether a type is among that.
    foreign: bool,
    /// What is wrong with it.
    wrong: Vec<String>,
    differences: usize,
}

impl Coverage {
    /// Adds a file.
    pub fn add(&mut self, name: String, findings: &[Diagnostic]) {
        let mut file = CoveredFile {
            name,
            missing: BTreeMap::new(),
            foreign: false,
            wrong: Vec::new(),
            differences: 0,
        };
        for finding in findings {
            let of_type = [UNSUPPORTED_TYPE, UNKNOWN_TYPE].contains(&finding.code);
            if finding.severity == Severity::Warning {
                file.differences += usize::from(finding.code == DIFFERS);
            } else if of_type || finding.code == UNSUPPORTED {
                file.foreign |= of_type;
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

/// How many files there are, and how many load; of all, and of those that need no type which there is not.
#[derive(Clone, Copy, Debug, Default)]
struct LoadCounts {
    files: usize,
    native: usize,
    loading: usize,
}

impl LoadCounts {
    fn add(&mut self, file: &CoveredFile) {
        self.files += 1;
        self.native += usize::from(!file.foreign);
        // A file that loads misses nothing.
        self.loading += usize::from(file.loads());
    }

    /// How many files load, of all and of those that could: `n of n files load (n %)`.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, native, loading } = *self;
        writeln!(f, "{loading} of {files} files load ({})", PartInPercent(loading, files))?;
        let of_native = PartInPercent(loading, native);
        writeln!(f, "{loading} of {native} that need only types which Sluice has ({of_native})")
    }
}

/// A share in percent with one decimal, rounded down.
struct PartInPercent(usize, usize);

impl fmt::Display for PartInPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1 == 0 {
            return f.write_str("-");
        }
        let thousandth = self.0 * 1000 / self.1;
        write!(f, "{}.{} %", thousandth / 10, thousandth % 10)
    }
}

impl CoveredFile {
    fn loads(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty()
    }

    /// Where it comes from: its name without folder, ending and number, so that `corpus/kuma-12.yaml` is of `kuma`.
    fn source(&self) -> &str {
        let path = std::path::Path::new(&self.name);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or(&self.name);
        let source = stem.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let source = source.trim_end_matches(['-', '_', '.']);
        if source.is_empty() { stem } else { source }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = LoadCounts::default();
        let mut by_source: BTreeMap<&str, LoadCounts> = BTreeMap::new();
        for file in &self.files {
            file.write(f)?;
            all.add(file);
            by_source.entry(file.source()).or_default().add(file);
        }
        all.write(f)?;
        // A table of single files would say nothing new.
        if by_source.len() > 1 && by_source.len() < self.files.len() {
            writeln!(f, "\n{:>6} {:>6} {:>6}  source", "files", "native", "load")?;
            for (source, LoadCounts { files, native, loading }) in by_source {
                writeln!(f, "{files:>6} {native:>6} {loading:>6}  {source}")?;
            }
        }
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

impl CoveredFile {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.loads(), self.foreign, self.differences) {
            (true, _, 0) => "loads".to_owned(),
            (true, _, 1) => "loads, with 1 difference".to_owned(),
            (true, _, count) => format!("loads, with {count} differences"),
            (false, false, _) => "does not load".to_owned(),
            (false, true, _) => {
                "does not load: it needs types that Sluice does not have".to_owned()
            }
        };
        writeln!(f, "{}: {verdict}", self.name)?;
        for (what, path) in &self.missing {
            writeln!(f, "  missing  {what}  ({path})")?;
        }
        for problem in &self.wrong {
            writeln!(f, "  wrong    {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::{Diags, Span};

    use super::*;

    fn with(files: &[(&str, &[(&'static str, &str)])]) -> String {
        let mut coverage = Coverage::default();
        for (name, errors) in files {
            let mut diags = Diags::new();
            for (code, message) in *errors {
                diags.error(code, Some(Span::default()), "a.b", (*message).to_owned());
            }
            coverage.add((*name).to_owned(), &diags.into_sorted());
        }
        coverage.to_string()
    }

    #[test]
    fn files_that_need_a_type_are_told_apart() {
        let field = (UNSUPPORTED, "`x` of t is not supported: no");
        let foreign = (UNSUPPORTED_TYPE, "t.v3.T is not supported");
        let said = with(&[
            ("f/kuma-1.json", &[]),
            ("f/kuma-2.json", &[field]),
            ("f/gloo-3.json", &[field, foreign]),
            ("f/gloo-4.json", &[(UNKNOWN_TYPE, "the type u is not known")]),
        ]);
        for line in [
            "f/kuma-1.json: loads\n",
            "f/kuma-2.json: does not load\n  missing  `x` of t  (a.b)\n",
            "f/gloo-3.json: does not load: it needs types that Sluice does not have\n",
            "\n1 of 4 files load (25.0 %)\n1 of 2 that need only types which Sluice has (50.0 %)\n",
            " files native   load  source\n     2      0      0  gloo\n     2      2      1  kuma\n",
            "     2      1  `x` of t\n",
        ] {
            assert!(said.contains(line), "{line}\n{said}");
        }
        assert!(with(&[]).contains("0 of 0 files load (-)"));
        assert!(!with(&[("a.yaml", &[]), ("b.yaml", &[])]).contains("source"));
    }
}
