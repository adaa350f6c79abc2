use super::*;

#[test]
fn a_request_has_json_if_it_says_so() {
    for (kind, expected) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/problem+json", true),
        ("text/plain", false),
        ("application/jsonx", false),
        ("", false),
    ] {
        let mut head = Head::request("POST", "http", "a.test", "/");
        head.append(b"content-type", kind.as_bytes());
        assert_eq!(has_json(&head), expected, "{kind}");
    }
    assert!(!has_json(&Head::request("GET", "http", "a.test", "/")));
}

#[test]
fn the_values_of_a_request_are_printed_by_their_names() {
    let text = |text: &str| Arc::new(text.to_owned()) as Arc<dyn SharedValue>;
    let set = ValuesByName(vec![("a".into(), text("1")), ("b".into(), text("2"))]);
    assert_eq!(set.to_string(), "a=1,b=2");
    assert_eq!(set.part("b").map(ToString::to_string).as_deref(), Some("2"));
    assert!(set.part("c").is_none() && set.part("").is_none());
}
