#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const KNOWN: &[AttributeDef] = &[
    AttributeDef { root: "request", field: "path", is_map: false },
    AttributeDef { root: "request", field: "size", is_map: false },
    AttributeDef { root: "request", field: "headers", is_map: true },
    AttributeDef { root: "connection", field: "mtls", is_map: false },
    AttributeDef { root: "metadata", field: "*", is_map: false },
];

struct Sample;

impl AttributeSource for Sample {
    fn attribute(&self, of: &AttributeUse) -> Option<AttributeValue> {
        let headers = [("x-a", "1"), ("x-b", "two")];
        match (of.root, &*of.field) {
            ("request", "path") => Some(AttributeValue::Text("/admin/x".into())),
            ("request", "size") => Some(AttributeValue::Number(7)),
            ("request", "headers") => {
                let asked = |name: &str| {
                    of.members.as_ref().is_none_or(|members| members.iter().any(|it| it == name))
                };
                let asked = headers.iter().filter(|(name, _)| asked(name));
                Some(AttributeValue::Map(
                    asked.map(|(name, value)| ((*name).into(), (*value).into())).collect(),
                ))
            }
            ("connection", "mtls") => Some(AttributeValue::Bool(true)),
            ("metadata", "set.tenant") => Some(AttributeValue::Text("acme".into())),
            _ => None,
        }
    }
}

#[test]
fn expressions_are_true_or_false_or_have_no_result() {
    let long = ["request.headers['x-a'] == '2'"; 100].join(" || ");
    let wide = format!("request.size in [{}]", ["7"; 900].join(", "));
    for (text, expected) in [
        ("true", Ok(true)),
        ("request.path.startsWith('/admin/') && connection.mtls", Ok(true)),
        ("request[\"path\"] == '/admin/x'", Ok(true)),
        ("request.size > 6 && request.size < 8", Ok(true)),
        ("request.headers['x-a'] == '1'", Ok(true)),
        ("request.headers['X-A'] == '1'", Err(NoResult::Absent)),
        ("'x-a' in request.headers", Ok(true)),
        ("has(request.headers.none)", Ok(false)),
        ("request.headers['none'] == '1'", Err(NoResult::Absent)),
        ("has(request.headers.none) && request.headers.none == '1'", Ok(false)),
        ("metadata['set.tenant'] == 'acme'", Ok(true)),
        ("metadata['set.none'] == 'acme'", Err(NoResult::Absent)),
        ("request.path.matches('^/adm.n/')", Ok(true)),
        ("request.path.matches('^/x')", Ok(false)),
        ("request.headers.exists(name, name.startsWith('x-'))", Ok(true)),
        ("request.headers.all(name, name == 'x-a')", Ok(false)),
        ("['a', 'b'].filter(x, x == 'a').size() == 1", Ok(true)),
        ("['a', 'b'].exists_one(x, x == 'a')", Ok(true)),
        ("request.path in ['/a', '/admin/x']", Ok(true)),
        ("request.size / 0 == 1", Err(NoResult::Failed)),
        ("request.path", Err(NoResult::Failed)),
        ("request.path > 1", Err(NoResult::Failed)),
        ("request.path ? true : false", Err(NoResult::Failed)),
        (&long, Ok(false)),
        (&wide, Ok(true)),
        ("'(((((((((((((((((((((((((((((((((((((((((((((((((((((((((((' != ''", Ok(true)),
        ("r'\\' != '\"' && \"\"\"a\"b\"\"\" != ''", Ok(true)),
    ] {
        let expression =
            Expression::parse(text, KNOWN).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expression.is_true(&Sample), expected, "{text}");
    }
}

#[test]
fn what_could_cost_much_or_names_nothing_is_refused() {
    let deep = format!("{}true{}", "(".repeat(60), ")".repeat(60));
    let nots = format!("{}true", "!".repeat(200));
    let chain = format!("request.size {} > 1", "+ request.size ".repeat(200));
    let sums = format!("1{} > 1", "+1".repeat(2000));
    let selects = format!("request.path{} == 1", ".a".repeat(2000));
    let indices = format!("[1]{} == 1", "[0]".repeat(1300));
    let calls = format!("'a'{} == 1", ".size()".repeat(500));
    let ors = ["true"; 600].join("||");
    let choices = "true?true:".repeat(300) + "true";
    let groups = "1+1+1+1+1+1+(".repeat(30) + "1" + &")".repeat(30);
    let loops = ["[1].all(x, x > 0)"; 9].join(" && ");
    let wide = ["1"; 1100].join(",");
    for (text, part) in [
        ("", "no expression"),
        ("request.path ==", "no expression"),
        ("request.pth == ''", "`request` has no `pth`; it has path, size, headers"),
        (
            "requests.path == ''",
            "there is no `requests`; attributes begin with request, connection, metadata",
        ),
        ("request == 1", "`request` needs a name after it, such as `request.path`"),
        ("request[request.path] == 1", "needs a name after it"),
        ("metadata[request.path] == 1", "needs a name after it, such as `metadata[\"name\"]`"),
        ("request.path.matches(request.headers['x'])", "must be written out"),
        ("request.path.matches('(')", "invalid regex"),
        ("request.path.matches('\\\\w{9}{9}{9}{9}{9}{9}')", "invalid regex"),
        ("[1].exists(x, [2].exists(y, x == y))", "cannot contain each other"),
        ("[1].map(x, x).size() == 1", "`map` cannot be used"),
        ("[1].map(x, [x, x]).size() == 1", "`map` cannot be used"),
        ("['a'].exists(x, (x + x) == 'aa')", "`+` cannot be used within"),
        ("request.path.x == ''", "`request.path` has no parts"),
        (&deep, "nested too deeply"),
        (&nots, "nested too deeply"),
        (&chain, "nested too deeply"),
        (&sums, "nested too deeply"),
        (&selects, "nested too deeply"),
        (&ors, "nested too deeply"),
        (&choices, "nested too deeply"),
        (&groups, "nested too deeply"),
        (&indices, "nested too deeply"),
        (&calls, "nested too deeply"),
        (&loops, "at most 8"),
        (&format!("[{wide}].size() == 1"), "at most 1024 parts"),
        (&format!("'{}' == ''", "x".repeat(5000)), "at most 4096 bytes"),
    ] {
        let error = Expression::parse(text, KNOWN).err();
        assert!(error.as_ref().is_some_and(|error| error.contains(part)), "{text}: {error:?}");
    }
}

#[test]
fn an_expression_tells_what_it_uses() {
    let text = "request.headers['X-B'] == '1' || request.headers.c == '2' || metadata['a.b'] == request.path";
    let expression = Expression::parse(text, KNOWN).unwrap();
    let uses: Vec<_> =
        expression.uses().iter().map(|of| (of.root, &*of.field, of.members.clone())).collect();
    let members = Some(vec!["x-b".to_owned(), "c".to_owned()]);
    assert_eq!(
        uses,
        [("request", "headers", members), ("metadata", "a.b", None), ("request", "path", None)]
    );
    let all =
        Expression::parse("request.headers.a == '' || size(request.headers) > 1", KNOWN).unwrap();
    assert_eq!(all.uses()[0].members, None);
    assert_eq!(all.source(), "request.headers.a == '' || size(request.headers) > 1");
}

#[test]
fn any_text_is_an_expression_or_an_error() {
    let words = [
        "request",
        ".path",
        ".headers",
        "['x-a']",
        "(",
        ")",
        "!",
        "-",
        "&&",
        "||",
        "==",
        "?",
        ":",
        "'a'",
        "1",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".exists(x,",
        ".matches('a')",
        "x",
        "in",
        "has(",
        "+",
        "\u{e9}",
        "\"",
        "\\",
        "0x",
        "1e",
    ];
    let mut state = 7_u64;
    let mut next = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..3000 {
        let text: String = (0..next(14)).map(|_| words[next(words.len())]).collect();
        if let Ok(expression) = Expression::parse(&text, KNOWN) {
            let _ = expression.is_true(&Sample);
        }
    }
}

#[test]
fn expressions_make_texts() {
    for (text, expected) in [
        ("request.path", Ok("/admin/x")),
        ("request.size + 1", Ok("8")),
        ("request.size * 0.5", Err(NoResult::Failed)),
        ("double(request.size) * 0.5", Ok("3.5")),
        ("connection.mtls", Ok("true")),
        ("connection.mtls ? 'inside' : 'outside'", Ok("inside")),
        ("request.headers['x-b'] + '/' + string(request.size)", Ok("two/7")),
        (
            "has(request.headers.none) ? request.headers['none'] : 'no ' + metadata['set.tenant']",
            Ok("no acme"),
        ),
        ("request.headers['none']", Err(NoResult::Absent)),
        ("null", Err(NoResult::Absent)),
        ("[request.size]", Err(NoResult::Failed)),
        ("request.headers", Err(NoResult::Failed)),
    ] {
        let expression =
            Expression::parse(text, KNOWN).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expression.text(&Sample).as_deref(), expected.as_ref().map(|it| *it), "{text}");
    }
}

struct Tiers;

impl ExpressionTable for Tiers {
    fn get(&self, key: &str) -> Option<String> {
        matches!(key, "acme" | "7" | "gold").then(|| format!("{key}!"))
    }
}

/// An expression whose tables are supplied, but for one.
fn with_tables(text: &str) -> Expression {
    let (parsed, uses) = noting_tables(|| Expression::parse(text, KNOWN));
    for table in uses.iter().filter(|table| table.name() != "later") {
        assert_eq!(table.expression(), text);
        table.supply(Arc::new(Tiers));
    }
    parsed.unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_table_is_asked_for_a_key() {
    for (text, expected) in [
        ("lookup('tiers', metadata['set.tenant'])", Ok("acme!")),
        ("lookup('tiers', request.size)", Ok("7!")),
        ("lookup('tiers', uint(7))", Ok("7!")),
        ("lookup('tiers', 'none')", Err(NoResult::Absent)),
        ("lookup('tiers', 'none', 'free')", Ok("free")),
        ("lookup('tiers', null, 'free')", Ok("free")),
        ("lookup('tiers', 'none', 1)", Ok("1")),
        ("lookup('tiers', 'none') == null", Ok("true")),
        ("lookup('tiers', 'none') != 'gold!'", Ok("true")),
        ("lookup('tiers', 'acme') == null ? 'none' : 'some'", Ok("some")),
        ("lookup('tiers', lookup('tiers', 'none'), 'free')", Ok("free")),
        ("lookup('tiers', lookup('tiers', request.headers['none']), 'free')", Ok("free")),
        // What does not exist has no entry.
        ("lookup('tiers', request.headers['none']) == null", Ok("true")),
        ("lookup('tiers', request.headers.none, 'free')", Ok("free")),
        ("lookup('tiers', metadata['set.none'], 'free')", Ok("free")),
        ("[lookup('tiers', metadata['set.none'])].size()", Ok("1")),
        ("lookup('tiers', request.headers['none'] + 'a', 'free')", Err(NoResult::Absent)),
        ("lookup('tiers', request.headers)", Err(NoResult::Failed)),
        ("lookup('tiers', 'none') + 'a'", Err(NoResult::Failed)),
        ("lookup('later', 'acme', 'none')", Ok("none")),
    ] {
        let found = with_tables(text).text(&Sample);
        assert_eq!(found.as_deref(), expected.as_ref().map(|it| *it), "{text}");
    }
    // Clones share what is supplied.
    let (parsed, uses) = noting_tables(|| Expression::parse("lookup('a', 'acme')", KNOWN));
    let (one, two) = (parsed.clone().unwrap(), parsed.unwrap());
    assert_eq!((one.text(&Sample), uses.len()), (Err(NoResult::Absent), 1));
    uses[0].supply(Arc::new(Tiers));
    assert_eq!(two.text(&Sample).as_deref(), Ok("acme!"));
}

#[test]
fn tables_are_named_where_somebody_supplies_them() {
    let many = ["lookup('a', 'b') == 'c'"; 9].join(" || ");
    for (text, part) in [
        ("lookup('a')", "write `lookup('TABLE', key)`"),
        ("lookup('a', 'b', 'c', 'd')", "write `lookup('TABLE', key)`"),
        ("'a'.lookup('b')", "write `lookup('TABLE', key)`"),
        ("lookup(request.path, 'b')", "must be written out"),
        ("['a'].exists(x, lookup('a', x) == 'b')", "cannot be used within `exists`"),
        ("lookup('a', request.pth)", "`request` has no `pth`"),
        (&many, "at most 8 of `lookup`"),
    ] {
        let (parsed, _) = noting_tables(|| Expression::parse(text, KNOWN));
        let error = parsed.expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
    let error = Expression::parse("lookup('a', 'b')", KNOWN).unwrap_err();
    assert!(error.contains("no lookup tables here"), "{error}");
    // Within another, each notes its own.
    let (inner, outer) = noting_tables(|| {
        let _ = Expression::parse("lookup('a', lookup('a', lookup('b', 'c')))", KNOWN);
        noting_tables(|| Expression::parse("lookup('d', 'e')", KNOWN)).1
    });
    let names = |uses: &[TableUse]| uses.iter().map(|it| it.name().to_owned()).collect::<Vec<_>>();
    assert_eq!((names(&outer), names(&inner)), (vec!["a".into(), "b".into()], vec!["d".into()]));
}
