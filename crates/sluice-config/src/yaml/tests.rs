use super::*;
use proptest::prelude::*;
use sluice_core::{Plain, Setting};

fn errors(text: &str) -> Vec<String> {
    let mut diags = Diags::new();
    let node = read(text, 0, &mut diags);
    assert!(node.is_some() || diags.has_errors());
    diags.iter().map(|finding| format!("{}: {}", finding.code, finding.message)).collect()
}

fn show(text: &str) -> Plain {
    let mut diags = Diags::new();
    let node = read(text, 0, &mut diags).unwrap();
    assert!(!diags.has_errors(), "{:?}", diags.iter().collect::<Vec<_>>());
    node.show()
}

#[test]
fn scalars_stay_what_was_written() {
    let Plain::Map(fields) = show("a: no\nb: 0x10\nc: \"5\"\nd:\ne: ~\nf: [1, 2]\n") else {
        panic!()
    };
    let text = |text: &str| Plain::Text(text.into());
    assert_eq!(
        fields.into_iter().map(|(_, value)| value).collect::<Vec<_>>(),
        [
            text("no"),
            text("0x10"),
            text("5"),
            Plain::Null,
            Plain::Null,
            Plain::List(vec![text("1"), text("2")])
        ]
    );
}

#[test]
fn places_are_those_of_the_text() {
    let text = "clusters:\n  # ein Häuschen\n  web: { endpoints: [a:1] }\n";
    let node = read(text, 3, &mut Diags::new()).unwrap();
    let web = node.get("clusters").unwrap().node.get("web").unwrap();
    let slice = |span: Span| &text[span.start as usize..span.end as usize];
    assert_eq!((slice(web.key_span), web.key_span.file), ("web", 3));
    assert_eq!(slice(web.node.get("endpoints").unwrap().node.items()[0].span), "a:1");
    assert_eq!(slice(web.node.span), "{ endpoints: [a:1] }");
}

#[test]
fn merge_keys_give_what_is_not_there() {
    let shown = show("x: &x { a: 1, b: 2 }\ny: { <<: *x, b: 3 }\n");
    let Plain::Map(fields) = shown else { panic!() };
    let Plain::Map(y) = &fields[1].1 else { panic!() };
    assert_eq!(y, &[("b".into(), Plain::Text("3".into())), ("a".into(), Plain::Text("1".into()))]);
}

#[test]
fn what_is_wrong_is_told() {
    assert_eq!(errors("a: 1\nb: 2\na: 3\n"), ["duplicate-key: duplicate key `a`"]);
    assert!(errors("a: [1, 2\n")[0].starts_with("yaml: invalid YAML"));
    assert!(errors("a: *nowhere\n")[0].starts_with("yaml:"));
    assert!(errors("a: &a [*a]\n")[0].starts_with("yaml:"));
    assert_eq!(
        errors("a: 1\n---\nb: 2\n"),
        ["several-documents: a file must contain a single YAML document"]
    );
    assert!(errors(&"[".repeat(5000)).len() == 1);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    assert_eq!(errors(&bomb), ["too-large: the aliases expand to too many values"]);
}

#[test]
fn an_error_of_the_parser_comes_with_its_cure() {
    for (text, part) in [
        ("a:\n  b: 1\n c: 2\n", "indentation"),
        ("a:\n  - b: 1\n   c: 2\n", "indentation"),
        ("a: b: c\n", "quote values"),
        ("a:\n\tb: 1\n", "spaces"),
        ("a: { b: ${VAR} }\n", "write the variable in quotes"),
        ("a: [1\n", "close what was opened"),
        ("a: *\n", "quote values"),
        ("a:\n  b: [1, 2\n  c: 3\n", "brackets"),
    ] {
        let mut diags = Diags::new();
        assert!(read(text, 0, &mut diags).is_none(), "{text}");
        let help = diags.iter().next().and_then(|finding| finding.help.clone()).unwrap();
        assert!(help.contains(part), "{text}: {help}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-c:\\-\\[\\]{}&*<'\"#|>!%@ \n]{0,80}") {
        let _ = read(&text, 0, &mut Diags::new());
    }
}
