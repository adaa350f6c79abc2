use super::*;
use crate::tree::{Substitution, SubstitutionError};

crate::choice! {
    /// A colour.
    enum Colour {
        /// Like grass.
        Green = "green",
        /// Like the sky.
        Blue = "blue",
    }
}

crate::section! {
    /// A thing.
    struct Thing {
        /// Its colour.
        pub colour: Colour,
        /// Its age.
        pub age: Duration = "1s",
        /// Its kind.
        pub kind as "type": Option<String>,
        /// Its parts.
        pub parts: Vec<Thing>,
    }
}

fn scalar(text: &str) -> Node {
    Node { value: Value::Scalar { text: text.into(), quoted: false }, span: Span::default() }
}

fn map<const N: usize>(entries: [(&str, Node); N]) -> Node {
    let entries =
        entries.map(|(key, node)| MapEntry { key: key.into(), key_span: Span::default(), node });
    Node { value: Value::Map(entries.into()), span: Span::default() }
}

#[track_caller]
fn findings(node: &Node) -> Vec<String> {
    let mut diags = Diags::new();
    let bound = Thing::bind(node, &Path::ROOT.key("thing"), &mut diags);
    assert_eq!(bound.is_none(), diags.iter().any(|d| d.code != "unknown-field"));
    diags.iter().map(|d| format!("{}: {}", d.path, d.message)).collect()
}

#[test]
fn a_section_binds_and_shows_its_long_form() {
    let node = map([("colour", scalar("blue")), ("parts", map([("colour", scalar("green"))]))]);
    let thing = Thing::bind(&node, &Path::ROOT, &mut Diags::new()).unwrap();
    assert_eq!((thing.age, thing.parts.len()), (Duration::from_secs(1), 1));
    let Plain::Map(fields) = thing.show() else { panic!("a section shows as a map") };
    assert_eq!(fields[1], ("age".into(), Plain::Text("1s".into())));
    assert_eq!(fields[2], ("type".into(), Plain::Null));
}

#[test]
fn every_error_of_a_section_comes_at_once() {
    let part = map([("colour", scalar("blu")), ("age", scalar("3"))]);
    let node = map([("type", map([])), ("parts", part), ("colur", scalar("blue"))]);
    assert_eq!(
        findings(&node),
        [
            "thing.colur: unknown field `colur`",
            "thing.type: expected text, found a map",
            "thing.parts.colour: `blu` is not one of green, blue; did you mean `blue`?",
            "thing.parts.age: a duration needs a unit; write 3s or 3ms",
        ]
    );
}

#[test]
fn zero_is_no_duration_and_no_count_from_one() {
    let findings = |bind: &dyn Fn(&mut Diags) -> bool| {
        let mut diags = Diags::new();
        assert!(!bind(&mut diags));
        let of = |d: &crate::Diagnostic| (d.message.clone(), d.help.clone().unwrap_or_default());
        diags.iter().map(of).next().unwrap()
    };
    let zero = scalar("0s");
    let (message, help) = findings(&|d| OrNone::<Duration>::bind(&zero, &Path::ROOT, d).is_some());
    assert!(message.contains("minimum is 1ms") && help == "`none` means unlimited");
    assert!(OrZero::bind(&zero, &Path::ROOT, &mut Diags::new()).is_some());
    let at_once = OrNone::<OrZero>::bind(&zero, &Path::ROOT, &mut Diags::new());
    assert_eq!(at_once, Some(OrNone(Some(OrZero(Duration::ZERO)))));
    let none = scalar("0");
    let (message, help) =
        findings(&|d| OrNone::<NonZeroU64>::bind(&none, &Path::ROOT, d).is_some());
    assert!(message.contains("at least 1") && help == "`none` means unlimited");
    let share = scalar("90%");
    let (message, _) = findings(&|d| u64::bind(&share, &Path::ROOT, d).is_some());
    assert_eq!(message, "expected a whole number, not `90%`; write 90");
}

#[test]
fn the_shape_names_what_is_required() {
    let Shape::Section(shape) = Thing::shape() else { panic!("a section") };
    let required: Vec<_> = shape().fields.iter().filter(|f| f.required).map(|f| f.key).collect();
    assert_eq!(required, ["colour"]);
}

crate::section! {
    /// A thing with defaults.
    struct Usual {
        /// Its age.
        pub age: Duration = "1s",
    }
}

#[test]
fn true_stands_for_a_section_with_its_defaults() {
    let bind = |node: &Node| Usual::bind(node, &Path::ROOT, &mut Diags::new());
    assert_eq!(bind(&scalar("true")), bind(&map([])));
    assert_eq!(Empty::bind(&scalar("true"), &Path::ROOT, &mut Diags::new()), Some(Empty));
    let quoted =
        Node { value: Value::Scalar { text: "true".into(), quoted: true }, span: Span::default() };
    for other in [scalar("false"), scalar("yes"), quoted] {
        assert_eq!(bind(&other), None);
        assert_eq!(Empty::bind(&other, &Path::ROOT, &mut Diags::new()), None);
    }
    assert_eq!(findings(&scalar("true")), ["thing.colour: `colour` is missing"]);
}

#[test]
fn a_placeholder_equals_itself_until_it_stands_for_something_else() {
    let placeholder = |text: Option<&str>| {
        let written = Value::Scalar { text: "${X}".into(), quoted: false };
        let error = SubstitutionError { code: "unset-variable", message: "".into(), help: "" };
        let text = text.map(Into::into).ok_or(error);
        let value = Value::Substituted(Substitution { written, text }.into());
        Node { value, span: Span::default() }
    };
    assert_eq!(placeholder(Some("a")), placeholder(Some("a")));
    assert_ne!(placeholder(Some("a")), placeholder(Some("b")));
    assert_eq!(
        placeholder(None),
        placeholder(None),
        "a literal text, where no variables are expanded"
    );
    assert_ne!(placeholder(None), placeholder(Some("a")));
}
