//! Values from outside in a configuration that is shown: as they were written.
//!
//! Owns: which value of the long form a placeholder stands for. Refuses to know: how a placeholder is resolved.
//! Keeps: the long form contains the placeholder, not the value, and so it can be read again.

use sluice_core::tree::LEFT_OUT;
use sluice_core::{Node, Plain, Value};

/// Replaces the values in a long form that were written as placeholders in `root`.
pub(crate) fn as_written(value: Plain, root: &Node) -> Plain {
    restore(value, &WrittenAt { node: root, exact: true })
}

/// Where a value of the long form was written.
struct WrittenAt<'a> {
    node: &'a Node,
    /// Whether `node` is the value itself. If not, the value comes from a short form or is a default beside it.
    exact: bool,
}

fn restore(value: Plain, at: &WrittenAt<'_>) -> Plain {
    let Value::Substituted(of) = &at.node.value else { return within(value, at) };
    // A map with the key `env` or `file` that is no placeholder.
    let Ok(text) = &of.text else { return within(value, at) };
    let stands_for = |shown: &str| at.exact || **text == *shown;
    let replace = match &value {
        Plain::Null => false,
        Plain::Bool(value) => stands_for(&value.to_string()),
        Plain::Number(value) => stands_for(&value.to_string()),
        Plain::Text(text) => stands_for(text),
        // The settings of a filter are not bound yet.
        Plain::Map(fields) => {
            at.exact
                && matches!(fields.as_slice(), [(key, Plain::Text(_))] if key == "env" || key == "file")
        }
        Plain::List(_) => false,
    };
    if replace { at.node.value.as_written() } else { within(value, at) }
}

fn within(value: Plain, at: &WrittenAt<'_>) -> Plain {
    match value {
        Plain::List(items) => {
            let written = match &at.node.value {
                Value::List(written) if written.len() == items.len() => Some(written),
                Value::List(_) => return Plain::List(items),
                _ => None,
            };
            let item = |(index, item): (usize, Plain)| match written {
                Some(written) => {
                    restore(item, &WrittenAt { node: &written[index], exact: at.exact })
                }
                None => restore(item, at),
            };
            Plain::List(items.into_iter().enumerate().map(item).collect())
        }
        Plain::Map(fields) => {
            let field = |(key, value): (String, Plain)| {
                let restored = match at.node.get(&key) {
                    Some(entry) => {
                        restore(value, &WrittenAt { node: &entry.node, exact: at.exact })
                    }
                    // A short form: the value of one of the fields, or the fields of a list's only member.
                    None if !matches!(at.node.value, Value::Map(_))
                        || LEFT_OUT.contains(&&*key) =>
                    {
                        restore(value, &WrittenAt { node: at.node, exact: false })
                    }
                    None => value,
                };
                (key, restored)
            };
            Plain::Map(fields.into_iter().map(field).collect())
        }
        single => single,
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Span;
    use sluice_core::tree::{MapEntry, Substitution};

    use super::*;

    fn node(value: Value) -> Node {
        Node { value, span: Span::default() }
    }

    fn placeholder(text: &str) -> Node {
        let written = Value::Scalar { text: "${X}".into(), quoted: false };
        node(Value::Substituted(Substitution { written, text: Ok(text.into()) }.into()))
    }

    fn map(key: &str, inner: Node) -> Node {
        let entry = MapEntry { key: key.into(), key_span: Span::default(), node: inner };
        node(Value::Map(vec![entry]))
    }

    fn shown(key: &str, value: Plain) -> Plain {
        Plain::Map(vec![(key.into(), value)])
    }

    fn text(text: &str) -> Plain {
        Plain::Text(text.into())
    }

    #[track_caller]
    fn check(value: Plain, root: &Node, expected: Plain) {
        assert_eq!(as_written(value, root), expected);
    }

    #[test]
    fn a_field_is_shown_as_written() {
        let root = map("a", placeholder("90s"));
        check(shown("a", text("1m30s")), &root, shown("a", text("${X}")));
        check(shown("b", text("90s")), &root, shown("b", text("90s")));
        let list = |item| shown("a", Plain::List(vec![item]));
        check(list(text("90s")), &root, list(text("${X}")));
    }

    #[test]
    fn in_a_short_form_only_the_value_itself_is_replaced() {
        let root = map("tls", placeholder("a.pem"));
        let long = |cert| {
            let certificates = Plain::List(vec![shown("cert", cert)]);
            let fields = vec![
                ("certificates".to_owned(), certificates),
                ("min_version".to_owned(), text("1.2")),
            ];
            shown("tls", Plain::Map(fields))
        };
        check(long(text("a.pem")), &root, long(text("${X}")));
    }

    #[test]
    fn fields_of_a_member_that_is_not_in_a_list_are_found() {
        let root = map("web", map("cluster", placeholder("app")));
        let long = |cluster| {
            let rules = shown("rules", Plain::List(vec![shown("cluster", cluster)]));
            shown("web", Plain::List(vec![rules]))
        };
        check(long(text("app")), &root, long(text("${X}")));
    }
}
