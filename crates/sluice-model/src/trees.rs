//! Trees as a configuration file yields them, for tests.

use sluice_core::settings::SectionShape;
use sluice_core::tree::MapEntry;
use sluice_core::{Diags, Node, Path, Setting, Shape, Span, Value};

fn node(value: Value) -> Node {
    Node { value, span: Span::default() }
}

/// A scalar.
pub(crate) fn text(text: &str) -> Node {
    node(Value::Scalar { text: text.into(), quoted: false })
}

/// A list.
pub(crate) fn list(items: Vec<Node>) -> Node {
    node(Value::List(items))
}

/// A map.
pub(crate) fn map(fields: &[(&str, Node)]) -> Node {
    let entry = |(key, node): &(&str, Node)| MapEntry {
        key: (*key).into(),
        key_span: Span::default(),
        node: node.clone(),
    };
    node(Value::Map(fields.iter().map(entry).collect()))
}

/// The keys of a section.
pub(crate) fn fields_of<T: Setting>() -> Vec<&'static str> {
    let Shape::Section(section) = T::shape() else { panic!("a section") };
    let section: SectionShape = section();
    section.fields.iter().map(|field| field.key).collect()
}

/// Binds a tree; panics if it is invalid.
#[track_caller]
pub(crate) fn bind<T: Setting>(node: &Node) -> T {
    let mut diags = Diags::new();
    let bound = T::bind(node, &Path::ROOT, &mut diags);
    bound.unwrap_or_else(|| panic!("{:?}", diags.iter().collect::<Vec<_>>()))
}
