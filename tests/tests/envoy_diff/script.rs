//! The case files in `tests/cases/envoy/`, read.
//!
//! Owns: their format (the first file to read is `routing.txt`). Refuses to know: what steps and placeholders mean. Keeps:
//! a line that it does not understand fails the test, so that no case is dropped by a typing error.

use std::path::{Path, PathBuf};

/// A file: what both proxies are started with, and the cases.
#[derive(Debug, Default)]
pub(crate) struct Area {
    /// The name of the file, without its extension.
    pub(crate) name: String,
    /// Listeners that are written out.
    pub(crate) listeners: Vec<Block>,
    /// Listeners with one filter, an HTTP connection manager, whose fields are given.
    pub(crate) http: Vec<Block>,
    /// Entries of `static_resources.clusters`.
    pub(crate) clusters: String,
    /// Other fields of the bootstrap.
    pub(crate) bootstrap: String,
    /// `log_format` of all access logs, if not the usual one.
    pub(crate) log_format: String,
    /// Scripts in Lua, by name.
    pub(crate) scripts: Vec<Block>,
    /// Guests in WebAssembly, by name.
    pub(crate) guests: Vec<Block>,
    pub(crate) cases: Vec<Case>,
    pub(crate) edits: Vec<Edit>,
}

/// A named piece of YAML, a script or a guest.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) name: String,
    pub(crate) yaml: String,
}

/// What is asked of both proxies, and what they may answer differently.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) steps: Vec<String>,
    /// The number of requests that endpoints receive, if more than responses tell.
    pub(crate) received: usize,
    /// The number of lines in the access log, if not one for each request.
    pub(crate) logged: Option<usize>,
    /// The number of traces that taps write, or of pieces of them.
    pub(crate) traced: usize,
    /// Headers that are compared here, though not elsewhere.
    pub(crate) compared: Vec<String>,
    /// The numbers of the steps whose refusal Sluice words itself.
    pub(crate) refused: Vec<String>,
    pub(crate) deviations: Vec<Deviation>,
}

/// A part of what is observed that differs, and why.
#[derive(Debug)]
pub(crate) struct Deviation {
    /// The beginning of the key of an observation.
    pub(crate) key: String,
    /// The first column of a row in the section "What differs" of `docs/envoy.md`.
    pub(crate) what: String,
}

/// A feature taken out of the bootstrap, which must make this case fail.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) case: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// The folder with the case files.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/envoy")
}

/// Reads the file of an area.
pub(crate) fn read(name: &str) -> Area {
    let path = folder().join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut area = Area { name: name.to_owned(), ..Area::default() };
    let mut heading: Option<&str> = None;
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().chain(["end"]) {
        if line.starts_with('#') {
            continue;
        }
        if line.is_empty() || line.starts_with("  ") {
            lines.push(line.strip_prefix("  ").unwrap_or_default());
            continue;
        }
        if let Some(heading) = heading.replace(line) {
            area.add(heading, &lines);
        }
        lines.clear();
    }
    area
}

impl Area {
    fn add(&mut self, heading: &str, lines: &[&str]) {
        let (kind, name) = heading.split_once(' ').unwrap_or((heading, ""));
        let yaml = || lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let block = || Block { name: name.to_owned(), yaml: yaml() };
        match kind {
            "http" => self.http.push(block()),
            "script" => self.scripts.push(block()),
            "guest" => self.guests.push(block()),
            "listener" => self.listeners.push(block()),
            "clusters" => self.clusters += &yaml(),
            "bootstrap" => self.bootstrap += &yaml(),
            "log" => self.log_format = yaml(),
            "case" => self.cases.push(case(name, lines)),
            "without" => self.edits.push(edit(name, lines)),
            _ => panic!("{}: what is `{heading}`?", self.name),
        }
    }
}

fn case(name: &str, lines: &[&str]) -> Case {
    let mut case = Case { name: name.to_owned(), ..Case::default() };
    for line in lines.iter().filter(|line| !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "received" => case.received = rest.parse().expect("a number"),
            "traced" => case.traced = rest.parse().expect("a number"),
            "logged" => case.logged = Some(rest.parse().expect("a number")),
            "refused" => case.refused.push(rest.to_owned()),
            "compares" => case.compared.push(rest.to_owned()),
            "differs" => {
                let (key, what) = rest.split_once(": ").expect("`differs KEY: WHAT`");
                case.deviations.push(Deviation { key: key.into(), what: what.into() });
            }
            _ => case.steps.push((*line).to_owned()),
        }
    }
    case
}

/// `- TEXT` is replaced with `+ TEXT`, or removed.
fn edit(case: &str, lines: &[&str]) -> Edit {
    let of = |mark: &str| lines.iter().find_map(|line| line.strip_prefix(mark)).map(str::to_owned);
    let from = of("- ").expect("`- TEXT`");
    Edit { case: case.to_owned(), from, to: of("+ ").unwrap_or_default() }
}
