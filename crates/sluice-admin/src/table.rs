//! JSON items as text for people: one block per item, one line per field.

use std::fmt::Write as _;

use serde_json::Value;

/// Renders the items one after the other.
pub(crate) fn render(items: &[Value]) -> String {
    let mut out = String::new();
    for item in items {
        write(item, 0, &mut out);
        out.push('\n');
    }
    if items.is_empty() {
        out.push_str("none\n");
    }
    out
}

fn write(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let _ = write!(out, "{:indent$}{key}: ", "");
                write_field(value, indent, out);
            }
        }
        other => {
            let _ = writeln!(out, "{:indent$}{}", "", single(other));
        }
    }
}

fn write_field(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            write(value, indent + 2, out);
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            out.push('\n');
            for item in items {
                let mut inner = String::new();
                write(item, indent + 4, &mut inner);
                let _ = write!(out, "{:1$}- {2}", "", indent + 2, inner.trim_start());
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(single).collect();
            let _ = writeln!(out, "{}", items.join(", "));
        }
        other => {
            let _ = writeln!(out, "{}", single(other));
        }
    }
}

fn single(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(_) => "{}".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn items_read_like_the_configuration() {
        let items = [json!({
            "name": "web",
            "endpoints": [{ "address": "a:1", "active": 2 }, { "address": "b:1", "active": 0 }],
            "tags": ["x", "y"],
            "limits": { "max": 5 },
        })];
        let expected = "\
name: web
endpoints:\x20
  - address: a:1
    active: 2
  - address: b:1
    active: 0
tags: x, y
limits:\x20
  max: 5

";
        assert_eq!(super::render(&items), expected);
        assert_eq!(super::render(&[]), "none\n");
    }
}
