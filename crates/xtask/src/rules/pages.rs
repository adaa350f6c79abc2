//! What pages say about the sources: the files and the names that they mention.
//!
//! Owns: finding paths and names in a page. Refuses to know: what a page is for. Keeps: only what is plainly a path is
//! checked, so that prose never breaks the rule.

use std::fs;
use std::path::{Path, PathBuf};

use super::{files_of, named};

/// The folders that a path in a page may begin with, besides the crates by name.
const FOLDERS: &[&str] =
    &["crates/", "docs/", "tests/", "config/", "benches/", "fuzz/fuzz_targets/"];

/// Paths in pages where there is no file, links that lead nowhere, and names in the diagrams of a page that the file
/// beside them does not declare.
///
/// # Errors
/// A page cannot be read.
pub fn paths(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut pages = files_of(&root.join("docs"), "md")?;
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|page| root.join(page)));
    let mut broken = Vec::new();
    for page in pages.into_iter().filter(|page| page.exists()) {
        let text = fs::read_to_string(&page)?;
        let place = page.strip_prefix(root).unwrap_or(&page).display().to_string();
        let folder = page.parent().unwrap_or(root);
        let dead = links(&text).filter(|link| !folder.join(link).exists());
        broken.extend(dead.map(|link| format!("{place} links to {link}, which does not exist")));
        let mut in_diagram = false;
        for line in text.lines() {
            if line.starts_with("```") {
                in_diagram = line == "```text";
                continue;
            }
            for (path, rest) in mentioned(line) {
                let Some(file) = find(root, path) else {
                    broken.push(format!("{place} names {path}, which does not exist"));
                    continue;
                };
                if in_diagram && file.is_file() {
                    let source = fs::read_to_string(&file)?;
                    let unknown = names(rest).filter(|name| !declares(&source, name));
                    broken.extend(unknown.map(|name| format!("{place}: {path} has no {name}")));
                }
            }
        }
    }
    Ok(broken)
}

/// The paths in a line that begin with a known folder or crate, each with what follows it. `NAME` stands for any name.
fn mentioned(line: &str) -> Vec<(&str, &str)> {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let (mut found, mut rest) = (Vec::new(), line);
    while let Some(start) = rest.find(inside) {
        let word = &rest[start..];
        let (word, behind) = word.split_at(word.find(|c| !inside(c)).unwrap_or(word.len()));
        let path = word.trim_end_matches('.');
        let known = FOLDERS.iter().any(|folder| path.starts_with(folder))
            || (path.starts_with("sluice") && path.contains("/src/"));
        if known && !path.contains("NAME") {
            found.push((path, behind));
        }
        rest = behind;
    }
    found
}

fn find(root: &Path, path: &str) -> Option<PathBuf> {
    [root.join(path), root.join("crates").join(path)].into_iter().find(|file| file.exists())
}

/// The names after a path in a diagram: `NAME, NAME`, up to a wider space.
fn names(rest: &str) -> impl Iterator<Item = &str> {
    let list = rest.trim_start().split("  ").next().unwrap_or_default();
    list.split(", ").filter(|name| !name.is_empty())
}

/// Whether a source declares a function, a method or a type of this name.
fn declares(source: &str, name: &str) -> bool {
    ["fn ", "struct ", "enum ", "trait ", "union ", "type "].iter().any(|kind| {
        let found = source.match_indices(kind);
        found.into_iter().any(|(at, _)| {
            named(&source[at + kind.len()..]).is_some_and(|declared| declared == name)
        })
    })
}

/// The targets of the links of a page, without those to other sites and to places within the page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains(':'))
}
