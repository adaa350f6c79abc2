use super::*;
use sluice_core::settings::SectionShape;
use sluice_core::tree::Entry;
use sluice_core::{Node, Setting, Shape, Value};

/// A tree from text as flow maps have it: `{ key: value }`, `[item]` or a word.
fn node(value: Value) -> Node {
    Node { value, span: Span::default() }
}

fn text(text: &str) -> Node {
    node(Value::Scalar { text: text.into(), quoted: false })
}

fn map(fields: &[(&str, Node)]) -> Node {
    let entry = |(key, node): &(&str, Node)| Entry {
        key: (*key).into(),
        key_span: Span::default(),
        node: node.clone(),
    };
    node(Value::Map(fields.iter().map(entry).collect()))
}

fn fields_of<T: Setting>() -> Vec<&'static str> {
    let Shape::Section(section) = T::shape() else { panic!("a section") };
    let section: SectionShape = section();
    section.fields.iter().map(|field| field.key).collect()
}

#[track_caller]
fn bind<T: Setting>(node: &Node) -> T {
    let mut diags = Diags::new();
    let bound = T::bind(node, &Path::ROOT, &mut diags);
    bound.unwrap_or_else(|| panic!("{:?}", diags.iter().collect::<Vec<_>>()))
}

#[test]
fn no_field_of_a_match_is_forgotten() {
    for field in fields_of::<RouteMatch>() {
        let value = match field {
            "path" => continue,
            "method" => text("GET"),
            "headers" | "query" | "cookies" => map(&[("x", text("1"))]),
            "content_type" => text("application/json"),
            "client_certificate" => text("true"),
            "source" => text("127.0.0.0/8"),
            "grpc" => text("*"),
            "runtime" => map(&[("percent", text("5%"))]),
            other => panic!("a value for the new field `{other}`, please"),
        };
        let matches: RouteMatch = bind(&map(&[(field, value)]));
        assert!(conditions(&matches).is_some(), "{field} alone makes no condition");
    }
    assert!(conditions(&bind::<RouteMatch>(&map(&[]))).is_none());
}

#[test]
fn options_that_differ_are_not_shared_with_rules_that_say_nothing() {
    let usual = RuleOptions::default();
    let changed = [
        RuleOptions { path: Some(PathRewrite::Whole("/".into())), ..usual.clone() },
        RuleOptions { host: HostRewrite::Endpoint, ..usual.clone() },
        RuleOptions { hash: vec![HashBy::SourceIp], ..usual.clone() },
        RuleOptions { upgrades: Vec::new(), ..usual.clone() },
        RuleOptions { connect: true, ..usual.clone() },
        RuleOptions { retry: RetryPlan { attempts: 3, ..RetryPlan::default() }, ..usual.clone() },
        RuleOptions { timeouts: Timeouts { idle: None, ..Timeouts::default() }, ..usual.clone() },
    ];
    for options in changed {
        assert_ne!(options, usual);
    }
}
