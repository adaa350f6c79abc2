//! Conditions of rules, and what two of them are together.
//!
//! Owns: the conjunction of two `match` sections. Refuses to know: where they come from. Keeps: what is not known for
//! certain is said to be unclear, never guessed: a rule that matches too much may let somebody in.

use sluice_core::{Node, Span, Value};

use crate::native::{NativeMap, plain, quoted, same, single};

/// Two conditions together.
#[derive(Debug)]
pub(super) enum Both {
    /// A condition that says both.
    As(NativeMap),
    /// No request fulfils both.
    Never,
    /// It cannot be written as one.
    Unclear,
}

/// Both conditions, the fields of two `match` sections.
pub(super) fn both(a: &NativeMap, b: &NativeMap) -> Both {
    let mut result = a.clone();
    let folds = |map: &NativeMap| map.has("case_sensitive");
    if a.has("path") && b.has("path") && (folds(a) || folds(b)) && !a.says_as(b) {
        return Both::Unclear;
    }
    for entry in b.entries() {
        let Some(own) = a.get(&entry.key) else {
            result.set(&entry.key, entry.node.clone());
            continue;
        };
        let joined = match &*entry.key {
            _ if same(own, &entry.node) => continue,
            "path" => paths(own, &entry.node),
            "headers" | "query" | "cookies" => named(own, &entry.node),
            "method" => methods(own, &entry.node),
            _ => return Both::Unclear,
        };
        match joined {
            Ok(node) => result.set(&entry.key, node),
            Err(end) => return end,
        }
    }
    Both::As(result)
}

/// Conditions on values by name.
fn named(a: &Node, b: &Node) -> Result<Node, Both> {
    let mut result = NativeMap::of(Some(a.clone()), a.span);
    for entry in b.entries().unwrap_or_default() {
        match result.get(&entry.key) {
            None => result.set(&entry.key, entry.node.clone()),
            Some(own) if same(own, &entry.node) => {}
            Some(own) if own.text().is_some() && entry.node.text().is_some() => {
                return Err(Both::Never);
            }
            Some(_) => return Err(Both::Unclear),
        }
    }
    Ok(result.node())
}

fn methods(a: &Node, b: &Node) -> Result<Node, Both> {
    let of = |node: &Node| -> Vec<String> {
        node.items().iter().filter_map(|item| item.text().map(str::to_owned)).collect()
    };
    let others = of(b);
    let kept: Vec<Node> =
        of(a).iter().filter(|one| others.contains(one)).map(|one| quoted(one, a.span)).collect();
    if kept.is_empty() {
        return Err(Both::Never);
    }
    Ok(Node { value: Value::List(kept), span: a.span })
}

/// A condition on a path that can be compared with others.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PathCondition {
    Exact(String),
    /// A path, and everything below it.
    Below(String),
    /// The begin of the path.
    Begin(String),
}

impl PathCondition {
    fn of(node: &Node) -> Option<Self> {
        if let Some(text) = node.text() {
            return Some(match text.strip_suffix("/*") {
                Some(text) => Self::Below(text.to_owned()),
                None => Self::Exact(text.to_owned()),
            });
        }
        let begin = node.get("starts_with")?.node.text()?;
        Some(Self::Begin(begin.to_owned()))
    }

    fn node(&self, span: Span) -> Node {
        match self {
            Self::Exact(text) => quoted(text, span),
            Self::Below(text) => quoted(&format!("{text}/*"), span),
            Self::Begin(text) => single("starts_with", quoted(text, span)),
        }
    }

    /// Whether every path that fulfils the other condition fulfils this one.
    fn covers(&self, other: &Self) -> bool {
        let below = |text: &str, of: &str| {
            text.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match (self, other) {
            (Self::Begin(begin), Self::Exact(text) | Self::Below(text) | Self::Begin(text)) => {
                text.starts_with(begin.as_str())
            }
            (Self::Below(of), Self::Exact(text) | Self::Below(text)) => below(text, of),
            (Self::Below(of), Self::Begin(text)) => {
                text.strip_prefix(of.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
            (Self::Exact(own), Self::Exact(text)) => own == text,
            (Self::Exact(_), _) => false,
        }
    }
}

fn paths(a: &Node, b: &Node) -> Result<Node, Both> {
    let (Some(one), Some(two)) = (PathCondition::of(a), PathCondition::of(b)) else {
        return Err(Both::Unclear);
    };
    if one.covers(&two) {
        return Ok(two.node(b.span));
    }
    if two.covers(&one) {
        return Ok(one.node(a.span));
    }
    // Conditions of these kinds overlap only if one covers the other: each is a set of all paths with some begin.
    Err(Both::Never)
}

/// The condition that a header has this value, or begins with it; `None` for parts of a request that are none.
pub(super) fn header_is(name: &str, value: Node) -> Option<NativeMap> {
    let mut native = NativeMap::new(value.span);
    let prefix = value.get("prefix").map(|entry| entry.node.clone());
    match name {
        ":path" => {
            let is_path = |node: &Node| node.text().is_some_and(|text| text.starts_with('/'));
            let node = match (value.text(), prefix) {
                (Some(text), _) if !text.contains(['*', '?']) && is_path(&value) => value,
                (_, Some(prefix)) if is_path(&prefix) => single("starts_with", prefix),
                _ => return None,
            };
            native.set("path", node);
        }
        ":method" if value.text().is_some() => native.set("method", value),
        name if name.starts_with(':') => return None,
        name => native.set("headers", single(name, value)),
    }
    Some(native)
}

/// The condition of a preflight request of CORS.
pub(super) fn preflight(span: Span) -> NativeMap {
    let mut headers = NativeMap::new(span);
    for name in ["origin", "access-control-request-method"] {
        headers.set(name, single("present", plain("true", span)));
    }
    let mut native = NativeMap::new(span);
    native.text("method", "OPTIONS", span);
    native.map("headers", headers);
    native
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(node: Node) -> NativeMap {
        let mut native = NativeMap::new(Span::default());
        native.set("path", node);
        native
    }

    fn written(text: &str) -> Node {
        match text.strip_prefix('^') {
            Some(begin) => single("starts_with", quoted(begin, Span::default())),
            None => quoted(text, Span::default()),
        }
    }

    #[track_caller]
    fn check(a: &str, b: &str, expected: &str) {
        for (a, b) in [(a, b), (b, a)] {
            let joined = match both(&path(written(a)), &path(written(b))) {
                Both::As(map) => {
                    let node = map.get("path").unwrap();
                    match node.get("starts_with") {
                        Some(begin) => format!("^{}", begin.node.text().unwrap()),
                        None => node.text().unwrap().to_owned(),
                    }
                }
                Both::Never => "never".into(),
                Both::Unclear => "unclear".into(),
            };
            assert_eq!(joined, expected, "{a} and {b}");
        }
    }

    #[test]
    fn paths_that_fulfil_two_conditions() {
        check("/a", "/a", "/a");
        check("/a", "/b", "never");
        check("/a/b", "^/a", "/a/b");
        check("/a/b", "/a/*", "/a/b");
        check("/a", "/a/*", "/a");
        check("/ab", "/a/*", "never");
        check("^/a", "^/ab", "^/ab");
        check("^/a", "^/b", "never");
        check("/a/*", "^/a", "/a/*");
        check("/a/*", "^/a/b", "^/a/b");
        check("/a/*", "^/ab", "never");
        check("/a/*", "/a/b/*", "/a/b/*");
        check("/a/*", "/ab/*", "never");
    }

    #[test]
    fn what_is_not_known_is_unclear() {
        let regex = |text| path(single("regex", quoted(text, Span::default())));
        assert!(matches!(both(&regex("a"), &path(written("/a"))), Both::Unclear));
        assert!(matches!(both(&regex("a"), &regex("a")), Both::As(_)));
        let mut folded = path(written("/a"));
        folded.word("case_sensitive", false, Span::default());
        assert!(matches!(both(&folded, &path(written("/A"))), Both::Unclear));
        let header = |name: &str, value: Node| header_is(name, value).unwrap();
        let text = |text| quoted(text, Span::default());
        let prefix = |of| single("prefix", text(of));
        assert!(matches!(both(&header("a", text("1")), &header("a", text("2"))), Both::Never));
        assert!(matches!(both(&header("a", text("1")), &header("a", prefix("1"))), Both::Unclear));
        assert!(matches!(both(&header("a", text("1")), &header("b", text("1"))), Both::As(_)));
        let method = |of| header(":method", text(of));
        assert!(matches!(both(&method("GET"), &method("PUT")), Both::Never));
        assert!(matches!(both(&preflight(Span::default()), &method("OPTIONS")), Both::As(_)));
        assert!(header_is(":path", text("/a?b")).is_none());
        assert!(header_is(":scheme", text("https")).is_none());
    }
}
