use std::cell::OnceCell;
use std::sync::Arc;

use proptest::prelude::*;
use sluice_codec::Head;
use sluice_core::connection::Peer;
use sluice_core::value::parse_host_pattern;
use sluice_core::{ConnValues, Setting as _, SharedValues};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_l4::rbac::settings::ConditionSettings as _;
use sluice_l4::rbac::{Formula, Lean, PolicyCondition as _, PolicyKey, PolicySet};

use super::request::{RequestCondition, RequestDimension, RequestMatch, RequestSubject};
use crate::expression::RequestExpression;
use crate::identity::{Identity, Means, WHO};
use crate::json::Json;
use crate::path_match::PathMatch;
use crate::path_value::PathValue;
use crate::value_match::ValueMatch;
use crate::words::MethodName;

fn request(method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> Head {
    let mut head = Head::request(method, "https", host, path);
    fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
    head
}

fn judged<R>(head: &Head, judge: impl FnOnce(&RequestSubject<'_>) -> R) -> R {
    let (values, shared, unix) = (ConnValues::default(), SharedValues::default(), Peer::Unix);
    let conn = ConnSubject {
        id: 7,
        source: unix,
        peer: unix,
        local: unix,
        sni: None,
        tls: None,
        values: &values,
    };
    judge(&RequestSubject { conn, head, values: &shared, readings: OnceCell::new() })
}

fn path(text: &str) -> RequestMatch {
    RequestMatch::Path(vec![PathMatch::parse(text).unwrap()])
}

/// Whether a policy of `deny` and one of `allow` match a request.
fn both(condition: &RequestMatch, head: &Head) -> (bool, bool) {
    judged(head, |subject| {
        (condition.fits(subject, Lean::ToMatch), condition.fits(subject, Lean::ToMiss))
    })
}

#[test]
fn a_path_counts_in_every_way_that_it_can_be_read() {
    let admin = path("/admin/*");
    for sent in ["/admin", "/admin/", "/admin/x?y=/public", "/admin/a%20b"] {
        assert_eq!(both(&admin, &request("GET", "a", sent, &[])), (true, true), "{sent}");
    }
    // Denied, and not allowed: it is this path for some servers only.
    for sent in [
        "/admin%2Fx",
        "/admin%2f",
        "/admin%5Cx",
        "/admin\\x",
        "//admin/x",
        "/%61dmin/x",
        "/admin;v=1/x",
        "/;/admin/x",
        "/public/..;/admin/x",
        "/public/%2e%2e/admin",
        "/public%2F..%2Fadmin",
        "/public/../admin",
        "/./admin/x",
        "/admin%252Fx",
        "/%2561dmin/x",
        "/admin/x/..%2F..%2Fpublic",
    ] {
        let expected = (true, false);
        assert_eq!(both(&admin, &request("GET", "a", sent, &[])), expected, "{sent}");
    }
    for sent in ["/public", "/administrator", "/public?/admin/", "/ADMIN", "*", "/a%00dmin"] {
        assert_eq!(both(&admin, &request("GET", "a", sent, &[])), (false, false), "{sent}");
    }
    let any_case = PathMatch::parse("/Admin/*").unwrap().in_any_case().unwrap();
    let any_case = RequestMatch::Path(vec![any_case]);
    for (sent, expected) in [("/ADMIN/x", (true, true)), ("/aDmIn%2fx", (true, false))] {
        assert_eq!(both(&any_case, &request("GET", "a", sent, &[])), expected, "{sent}");
    }
    // What is not a path may be allowed only if no reading is one.
    let not_admin = Formula::Not(Box::new(Formula::Is(admin)));
    for (sent, allowed) in [("/public", true), ("/admin%2Fx", false), ("/admin", false)] {
        let head = request("GET", "a", sent, &[]);
        let fits = judged(&head, |subject| not_admin.fits(subject, Lean::ToMiss));
        assert_eq!(fits, allowed, "{sent}");
    }
}

#[test]
fn every_value_of_a_header_counts() {
    let role = RequestMatch::Header("x-role".into(), ValueMatch::Exact("admin".into()));
    for (values, expected) in [
        (&["admin"][..], (true, true)),
        (&["admin", "admin"], (true, true)),
        (&["user", "admin"], (true, false)),
        (&["admin", "user"], (true, false)),
        (&["user"], (false, false)),
        (&["admin, user"], (false, false)),
        (&["ADMIN"], (false, false)),
        (&[""], (false, false)),
        (&[], (false, false)),
    ] {
        let fields: Vec<_> = values.iter().map(|value| ("X-Role", *value)).collect();
        assert_eq!(both(&role, &request("GET", "a", "/", &fields)), expected, "{values:?}");
    }
    let other = ValueMatch::Not(Box::new(ValueMatch::Exact("admin".into())));
    let other = RequestMatch::Header("x-role".into(), other);
    let two = request("GET", "a", "/", &[("x-role", "admin"), ("x-role", "user")]);
    assert_eq!(both(&other, &two), (true, false));
    assert_eq!(both(&other, &request("GET", "a", "/", &[])), (true, true));
}

#[test]
fn a_host_is_the_same_however_it_is_written() {
    let hosts = ["admin.test", "*.internal.test"].map(|host| parse_host_pattern(host).unwrap());
    let host = RequestMatch::Host(hosts.into());
    for (sent, expected) in [
        ("admin.test", true),
        ("ADMIN.test:8443", true),
        ("admin.test.", true),
        ("a.internal.test", true),
        ("internal.test", false),
        ("xadmin.test", false),
        ("admin.test.evil.test", false),
        ("", false),
    ] {
        assert_eq!(both(&host, &request("GET", sent, "/", &[])), (expected, expected), "{sent}");
    }
}

fn condition() -> RequestCondition {
    RequestCondition::absent().expect("all fields may be left out")
}

#[test]
fn the_fields_of_a_condition_are_all_required() {
    let of = RequestCondition {
        path: vec![PathValue(PathMatch::parse("/a/*").unwrap())],
        method: vec![MethodName("GET".into()), MethodName("HEAD".into())],
        not: Some(Box::new(RequestCondition {
            path: vec![PathValue(PathMatch::parse("/a/b").unwrap())],
            ..condition()
        })),
        ..condition()
    };
    let formula = of.formula();
    for (method, path, expected) in [
        ("GET", "/a", true),
        ("HEAD", "/a/c", true),
        ("POST", "/a", false),
        ("get", "/a", false),
        ("GET", "/a/b", false),
        ("GET", "/b", false),
    ] {
        let fits =
            judged(&request(method, "h", path, &[]), |subject| formula.fits(subject, Lean::ToMiss));
        assert_eq!(fits, expected, "{method} {path}");
    }
}

/// Whether a policy of `deny` and one of `allow` with this expression match a request.
fn with_expression(text: &str, head: &Head) -> (bool, bool) {
    let when = RequestExpression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let of = RequestCondition { when: Some(when), ..condition() };
    judged(head, |subject| {
        (of.formula().fits(subject, Lean::ToMatch), of.formula().fits(subject, Lean::ToMiss))
    })
}

#[test]
fn an_expression_counts_as_other_conditions_do() {
    let fields = [("x-role", "admin"), ("x-role", "user"), ("user-agent", "shop/1.0")];
    let head = request("GET", "Shop.test:443", "/admin/x?q=1", &fields);
    let (yes, no, failed) = ((true, true), (false, false), (true, false));
    for (text, expected) in [
        ("request.method == 'GET' && request.url_path.startsWith('/admin/')", yes),
        ("request.path == '/admin/x?q=1' && request.query == 'q=1'", yes),
        ("request.host == 'Shop.test:443' && request.scheme == 'https'", yes),
        ("request.headers['x-role'] == 'admin,user'", yes),
        ("request.headers[':method'] == 'GET' && request.headers['host'] == 'Shop.test:443'", yes),
        ("request.useragent.matches('^shop/') && request.protocol == 'HTTP/1.1'", yes),
        ("has(request.referer) || has(request.size) || has(request.headers.none)", no),
        ("request.referer == ''", no),
        ("!(request.headers.exists(name, name == 'x-role'))", no),
        ("connection.id == 7 && !connection.mtls", yes),
        ("has(connection.requested_server_name) || has(source.address)", no),
        ("has(source.port) && source.port / 0 == 1", no),
        ("connection.id / 0 == 1", failed),
        ("request.method", failed),
        ("request.method > 1", failed),
    ] {
        assert_eq!(with_expression(text, &head), expected, "{text}");
    }
    // Each reading of the path counts, as in other conditions.
    let text = "request.url_path.startsWith('/admin/')";
    for (path, expected) in [("/admin%2Fx", failed), ("//admin/x", failed), ("/public", no)] {
        assert_eq!(with_expression(text, &request("GET", "a", path, &[])), expected, "{path}");
    }
}

fn some_match() -> impl Strategy<Value = RequestMatch> {
    let path = prop_oneof![
        "(/[ab]){1,3}(/\\*)?".prop_map(|text| PathMatch::parse(&text).unwrap()),
        "(/[ab]?){1,3}".prop_map(|text| PathMatch::StartsWith(text.into())),
        "(/[aB]?){1,2}".prop_map(|text| PathMatch::StartsWith(text.into()).in_any_case().unwrap()),
        "(/[aB]){1,2}".prop_map(|text| PathMatch::parse(&text).unwrap().in_any_case().unwrap()),
        "(/[ab]){1,2}".prop_map(|text| PathMatch::parse_regex(&format!("{text}.*")).unwrap()),
    ];
    let header = prop_oneof![
        "[ab]".prop_map(ValueMatch::Exact),
        any::<bool>().prop_map(ValueMatch::Present),
        "[ab]".prop_map(ValueMatch::Prefix),
    ];
    let host = "(\\*\\.)?[ab]\\.[ab]".prop_map(|text| parse_host_pattern(&text).unwrap());
    prop_oneof![
        prop::collection::vec(path, 1..3).prop_map(RequestMatch::Path),
        prop::collection::vec(host, 1..3).prop_map(RequestMatch::Host),
        prop::collection::vec("GET|PUT".prop_map(String::from), 1..2)
            .prop_map(RequestMatch::Method),
        header.prop_map(|wanted| RequestMatch::Header("x-a".into(), wanted)),
    ]
}

proptest! {
    /// The property: the index finds the first policy that matches, as asking all of them in order does.
    #[test]
    fn the_index_changes_nothing(
        conditions in prop::collection::vec((some_match(), some_match(), any::<bool>()), 9..40),
        path in "(/([aAb]|\\.\\.|%2e|%2F|%61|;|a;b)?){1,5}",
        host in "[ab]\\.[ab](\\.[ab])?(:80)?",
        method in "GET|PUT|POST",
        values in prop::collection::vec("[abc]", 0..3),
    ) {
        let fields: Vec<_> = values.iter().map(|value| ("x-a", value.as_str())).collect();
        let head = request(&method, &host, &path, &fields);
        let formulas: Vec<_> = conditions
            .into_iter()
            .map(|(one, two, not)| {
                let two = Formula::Is(two);
                let two = if not { Formula::Not(Box::new(two)) } else { two };
                Formula::All(vec![Formula::Is(one), two])
            })
            .collect();
        for lean in [Lean::ToMatch, Lean::ToMiss] {
            let named = formulas.iter().enumerate();
            let named = named.map(|(at, formula)| (at.to_string().into(), formula.clone()));
            let set = PolicySet::new(named.collect(), lean);
            judged(&head, |subject| {
                let slow = formulas.iter().position(|formula| formula.fits(subject, lean));
                let found = set.first(subject).map(|name| name.parse().unwrap());
                prop_assert_eq!(found, slow);
                Ok(())
            })?;
        }
    }
}

#[test]
fn the_start_of_a_path_is_found_by_its_folder() {
    let deep = "/a".repeat(20);
    let deepest = "/a".repeat(9);
    for (start, folder) in [
        ("/team5/", Some("/team5")),
        ("/api/v1", Some("/api")),
        ("/api/v1/", Some("/api/v1")),
        ("//a", Some("/")),
        (deep.as_str(), Some(deepest.as_str())),
        ("/team", None),
        ("/", None),
        ("", None),
    ] {
        let keys = RequestMatch::Path(vec![PathMatch::StartsWith(start.into())]).keys();
        let dimension = RequestDimension::Path { folders: true, any_case: false };
        let expected =
            folder.map(|folder| vec![(dimension, PolicyKey::Text(folder.as_bytes().into()))]);
        assert_eq!(keys, expected, "{start}");
        let others =
            (0..20).map(|at| (format!("{at}").into(), Formula::Is(path(&format!("/{at}")))));
        let starts = RequestMatch::Path(vec![PathMatch::StartsWith(start.into())]);
        let all = others.chain([(Arc::from("it"), Formula::Is(starts))]);
        let set = PolicySet::new(all.collect(), Lean::ToMatch);
        for rest in ["", "x", "/", "/x/y"] {
            let head = request("GET", "a", &format!("{start}{rest}"), &[]);
            let found = judged(&head, |subject| set.first(subject).cloned());
            assert_eq!(found.as_deref(), Some("it"), "{start}{rest}");
        }
    }
}

#[test]
fn an_identity_and_the_members_of_a_claim_are_found_with_and_without_an_index() {
    sluice_core::values! {
        GROUPS: Json = "test.groups", "A claim with several values.";
    }
    let mut shared = SharedValues::default();
    let groups = Json::parse(br#"["staff", "admin"]"#).unwrap();
    shared.set(&GROUPS, groups);
    let ann = Identity { means: Means::Jwt, issuer: Some("corp".into()), name: "ann".into() };
    shared.set(&WHO, Arc::new(ann));
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let value = |text: &str| RequestMatch::Value("test.groups".into(), exact(text));
    let identity = |text: &str| RequestMatch::Identity(vec![exact("basic:ann"), exact(text)]);
    let (head, values, unix) = (request("GET", "a", "/", &[]), ConnValues::default(), Peer::Unix);
    let conn = ConnSubject {
        id: 7,
        source: unix,
        peer: unix,
        local: unix,
        sni: None,
        tls: None,
        values: &values,
    };
    let subject = RequestSubject { conn, head: &head, values: &shared, readings: OnceCell::new() };
    for (matches, expected) in [
        (value("admin"), true),
        (value("staff"), true),
        (value("adm"), false),
        (value(r#"["staff","admin"]"#), false),
        (identity("jwt:corp/ann"), true),
        (identity("jwt:other/ann"), false),
        (RequestMatch::Identity(vec![ValueMatch::Prefix("jwt:corp/".into())]), true),
    ] {
        // With others, so that there is an index.
        let others =
            (0..20).map(|at| (format!("{at}").into(), Formula::Is(value(&at.to_string()))));
        let all = others.chain([(Arc::from("it"), Formula::Is(matches.clone()))]);
        let set = PolicySet::new(all.collect(), Lean::ToMiss);
        let found = set.first(&subject).is_some_and(|name| &**name == "it");
        assert_eq!(
            (matches.fits(&subject, Lean::ToMiss), found),
            (expected, expected),
            "{matches:?}"
        );
    }
}
