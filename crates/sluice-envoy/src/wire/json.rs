//! Messages as JSON, for services that are asked by HTTP.
//!
//! Owns: the text. Refuses to know: what a message means. Keeps: what is written is what the reader of files reads.

use sluice_core::{Diags, Node, Value};

use super::WireTree;
use crate::descriptors;
use prost_reflect::DynamicMessage;

/// An encoded message of the type `name` as JSON; `None` if it is not one.
pub fn json_of(name: &str, bytes: &[u8]) -> Option<String> {
    let message = DynamicMessage::decode(descriptors::message(name)?, bytes).ok()?;
    let mut diags = Diags::new();
    let mut tree = WireTree { file: 0, next: 0, depth: 0, diags: &mut diags, failed: false };
    let node = tree.message(&message, "");
    let mut text = String::new();
    write(&node, &mut text);
    (!tree.failed).then_some(text)
}

fn write(node: &Node, to: &mut String) {
    match &node.value {
        Value::Map(entries) => {
            let begin = to.len();
            to.push('{');
            for entry in entries {
                if to.len() > begin + 1 {
                    to.push(',');
                }
                quote(&entry.key, to);
                to.push(':');
                write(&entry.node, to);
            }
            to.push('}');
        }
        Value::List(items) => {
            to.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    to.push(',');
                }
                write(item, to);
            }
            to.push(']');
        }
        Value::Scalar { text, quoted: false } if is_bare(text) => to.push_str(text),
        Value::Scalar { text, .. } => quote(text, to),
        _ => to.push_str("null"),
    }
}

/// Whether JSON has this without quotes. Numbers that are none are words.
fn is_bare(text: &str) -> bool {
    matches!(text, "true" | "false") || text.parse::<f64>().is_ok_and(f64::is_finite)
}

fn quote(text: &str, to: &mut String) {
    to.push('"');
    for character in text.chars() {
        match character {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            other if other.is_control() => to.push_str(&format!("\\u{:04x}", u32::from(other))),
            other => to.push(other),
        }
    }
    to.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_what_was_encoded() {
        let text = r#"{"id":"a\"\\\u0007\n","metadata":{"list":[1,"2",true,null,{}],"x":0.5},"cluster":"c"}"#;
        let read = |text: &str| {
            let mut diags = Diags::new();
            let node = sluice_config::yaml::read(text, 0, &mut diags).expect("JSON");
            let of = descriptors::message("envoy.config.core.v3.Node").expect("a node");
            let read = crate::read::read(&node, &of, crate::UnknownFields::Refuse, &mut diags);
            assert!(!diags.has_errors(), "{diags:?}");
            super::super::encode(&read.expect("a node"))
        };
        let bytes = read(text);
        let shown = json_of("envoy.config.core.v3.Node", &bytes).expect("a message");
        assert!(shown.contains(r#""list":[1,"2",true,null,{}]"#), "{shown}");
        assert_eq!(read(&shown).len(), bytes.len(), "{shown}");
        assert_eq!(json_of("envoy.config.core.v3.Node", b"\xff"), None);
    }
}
