//! Where a resource came from.
//!
//! Owns: the way from a field of a resource back to what somebody wrote. Refuses to know: what the field means.
//! Keeps: resources themselves know nothing of files, so that a finding about one is given its place here.

use std::sync::Arc;

use sluice_core::{Diagnostic, Diags, Node};

/// Where a resource came from.
#[derive(Clone, Debug)]
pub enum Provenance {
    /// From the configuration files.
    File {
        /// The path of its section: `listeners[2]`.
        at: Arc<str>,
        /// Fields with another path in the file than in the resource, because of a short form or an invalid
        /// neighbour: the path in the resource, and the one in the file.
        moved: Vec<(String, String)>,
    },
    /// From a control plane.
    Plane {
        /// Its version there.
        version: Arc<str>,
    },
}

impl Provenance {
    /// A section of the configuration files.
    pub fn section(at: impl ToString) -> Self {
        Self::File { at: at.to_string().into(), moved: Vec::new() }
    }

    /// The path of a field as its author knows it. `field` is its path in the resource.
    pub fn path(&self, field: &str) -> String {
        let Self::File { at, moved } = self else { return field.to_owned() };
        let fits = |(from, _): &&(String, String)| {
            let rest = field.strip_prefix(from.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let field = match moved.iter().filter(fits).max_by_key(|(from, _)| from.len()) {
            Some((from, to)) => join(to, &field[from.len()..]),
            None => field.to_owned(),
        };
        join(at, &field)
    }

    /// Adds what was found in the resource, each finding at its place in the files, whose content is `root`.
    pub fn adopt(&self, found: Diags, root: &Node, diags: &mut Diags) {
        let file = matches!(self, Self::File { .. });
        diags.extend(found, |finding| {
            finding.path = self.path(&finding.path);
            if file {
                locate(finding, self, root);
            }
        });
    }
}

fn locate(finding: &mut Diagnostic, from: &Provenance, root: &Node) {
    if finding.span.is_none() {
        let (key, value) = root.locate(&finding.path);
        finding.span = Some(if finding.on_key { key } else { value });
    }
    if let Some((path, label)) = finding.other_at.take() {
        finding.other = Some((root.locate(&from.path(&path)).1, label));
    }
}

/// The path of `field` within what is at `outer`.
fn join(outer: &str, field: &str) -> String {
    let field = field.strip_prefix('.').unwrap_or(field);
    let dot = if outer.is_empty() || field.is_empty() || field.starts_with('[') { "" } else { "." };
    format!("{outer}{dot}{field}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_path_that_their_author_knows() {
        let moved = [("chains[0]", ""), ("chains[1]", "chains[2]")];
        let moved = moved.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let from = Provenance::File { at: "listeners[3]".into(), moved };
        for (field, path) in [
            ("", "listeners[3]"),
            ("quic", "listeners[3].quic"),
            ("chains[0].tls.certificates[0]", "listeners[3].tls.certificates[0]"),
            ("chains[1].relay", "listeners[3].chains[2].relay"),
            ("chains[10].relay", "listeners[3].chains[10].relay"),
            ("[0].rules", "listeners[3][0].rules"),
        ] {
            assert_eq!(from.path(field), path);
        }
        let plane = Provenance::Plane { version: "7".into() };
        assert_eq!(plane.path("chains[0].relay"), "chains[0].relay");
    }

    #[test]
    fn a_finding_is_marked_where_its_field_was_written() {
        use sluice_core::tree::MapEntry;
        use sluice_core::{Span, Value};

        let span = |start| Span { file: 0, start, end: start + 1 };
        let text =
            |at| Node { value: Value::Scalar { text: "x".into(), quoted: false }, span: span(at) };
        let map = |key: &str, at, node: Node| {
            let entry = MapEntry { key: key.into(), key_span: span(at), node };
            Node { value: Value::Map(vec![entry]), span: span(at) }
        };
        // clusters: { a.b: { tls: { ca: x } } }
        let root = map("clusters", 1, map("a.b", 2, map("tls", 3, map("ca", 4, text(5)))));
        let from = Provenance::section("clusters.a.b");
        let adopt = |found: Diags| {
            let mut diags = Diags::new();
            from.adopt(found, &root, &mut diags);
            let all: Vec<_> = diags.iter().cloned().collect();
            let [finding] = all.as_slice() else { panic!("{all:?}") };
            (finding.path.clone(), finding.span, finding.other.clone().map(|(span, _)| span))
        };
        let found = |path: &str, key: bool, other: Option<&str>, span: Option<Span>| {
            let mut found = Diags::new();
            let finding = found.error("x", span, path, "wrong");
            finding.on_key = key;
            if let Some(path) = other {
                finding.other_at(path, "the other one");
            }
            found
        };
        let at = |path: &str| format!("clusters.a.b{path}");
        assert_eq!(adopt(found("tls.ca", false, None, None)), (at(".tls.ca"), Some(span(5)), None));
        assert_eq!(
            adopt(found("tls.ca", true, Some("tls"), None)),
            (at(".tls.ca"), Some(span(4)), Some(span(4)))
        );
        // A field that was not written is marked where it would be.
        assert_eq!(
            adopt(found("tls.sni", false, None, None)),
            (at(".tls.sni"), Some(span(4)), None)
        );
        // A finding of a filter has its place already.
        assert_eq!(
            adopt(found("tls", false, None, Some(span(9)))),
            (at(".tls"), Some(span(9)), None)
        );
    }
}
