use super::*;
use crate::runtime::Runtime;
use proptest::prelude::*;
use sluice_codec::Version;
use sluice_core::connection::Peer;
use sluice_core::fine_percent::parse_fine_percent;
use sluice_core::value::parse_name_pattern;
use sluice_core::{Facts, Moment};
use sluice_l4::inspect::tls::{SNI, TLS};

use crate::exchange::tests::kit::tls_facts;

fn rule(path: PathMatch, methods: &[&str]) -> Rule {
    let conditions = (!methods.is_empty()).then(|| {
        let methods = methods.iter().map(|m| (*m).to_owned()).collect();
        Box::new(Conditions { methods, ..Conditions::default() })
    });
    Rule {
        name: "r".into(),
        path,
        conditions,
        action: Action::Cluster(0),
        options: Arc::new(RuleOptions::default()),
        overrides: 0,
    }
}

fn subject<'a>(head: &'a Head, runtime: &'a Runtime) -> RouteInput<'a> {
    RouteInput { head, source: Peer::Unknown, conn: None, values: None, runtime, random: 7 }
}

fn connection() -> ConnInfo {
    let peer = Peer::Ip(([192, 0, 2, 1], 4711).into());
    ConnInfo::new(1, "web".into(), peer, peer, Moment::NEVER)
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let path = "(/[abA]{1,2}){1,3}";
    prop_oneof![
        Just(PathMatch::Any),
        path.prop_map(|p| PathMatch::Exact(p.into())),
        path.prop_map(|p| PathMatch::Prefix(p.into())),
        path.prop_map(|p| PathMatch::StartsWith(p.into())),
        path.prop_map(|p| PathMatch::parse_regex(&p).unwrap()),
        "(/([ab]|\\{x\\})){1,3}".prop_map(|t| PathMatch::parse_template(&t).unwrap()),
    ]
    .prop_flat_map(|path| match path.clone().in_any_case() {
        Some(any_case) => prop_oneof![Just(path), Just(any_case)].boxed(),
        None => Just(path).boxed(),
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_the_obvious_way_finds(
        rules in prop::collection::vec((path_match(), prop::sample::select(vec!["GET", "POST", ""])), 0..40),
        path in "(/[abAB]{0,2}){1,10}",
    ) {
        let one = |(path, method): (PathMatch, &'static str)| {
            if method.is_empty() { rule(path, &[]) } else { rule(path, &[method]) }
        };
        let rules: Vec<Rule> = rules.into_iter().map(one).collect();
        let runtime = Runtime::default();
        let head = Head::request("GET", "http", "a", &path);
        let subject = subject(&head, &runtime);
        let obvious = rules.iter().position(|rule| rule.fits(&subject));
        let host = VirtualHost::new(vec![HostPattern::Any], rules);
        prop_assert_eq!(host.find(&subject), obvious);
    }
}

#[test]
fn a_look_up_asks_as_few_rules_among_many_hosts_as_among_few() {
    let asked = |hosts: usize| {
        let rules = || {
            let paths = (0..20).map(|n| PathMatch::Prefix(format!("/service{n}").into()));
            paths.map(|path| rule(path, &[])).collect::<Vec<_>>()
        };
        let host = |n: usize| HostPattern::Exact(format!("host{n}.test"));
        let table = (0..hosts).map(|n| VirtualHost::new(vec![host(n)], rules())).collect();
        let table = RouteTable::build(table, Vec::new(), Arc::default(), Vec::new()).unwrap();
        let head = Head::request("GET", "http", &format!("host{}.test", hosts - 1), "/");
        let found = table.host(&head).unwrap();
        assert_eq!(found, hosts - 1);
        let (host, mut asked) = (&table.virtual_hosts[found], 0);
        let found = host.index.find(&host.rules, "/service13/x", |rule| {
            asked += 1;
            rule.path.fits("/service13/x")
        });
        assert_eq!(found, Some(13));
        asked
    };
    assert_eq!((asked(10), asked(10_000)), (1, 1));
}

#[test]
fn a_request_uses_the_hosts_of_its_scope_and_no_others() {
    let key: Arc<[ScopeKeyPart]> = ["x-tenant", "x-stage"]
        .map(|header| ScopeKeyPart {
            header: header.into(),
            separator: None,
            element: ScopeElement::Index(0),
        })
        .into();
    let host = |pattern: &str, values: &[[&str; 2]]| {
        let pattern = sluice_core::value::parse_host_pattern(pattern).unwrap();
        let mut host = VirtualHost::new(vec![pattern], Vec::new());
        let values = values.iter().map(|of| of.map(Into::into).into()).collect::<Vec<_>>();
        if !values.is_empty() {
            host.scope = Some(Box::new(HostScope { key: Arc::clone(&key), values }));
        }
        host
    };
    let build = |hosts| RouteTable::build(hosts, Vec::new(), Arc::default(), Vec::new());
    let table = build(vec![
        host("*", &[]),
        host("a.test", &[["blue", "1"]]),
        host("*.test", &[["blue", "1"], ["green", "1"]]),
        host("a.test", &[["green", "1"]]),
        host("b.test", &[]),
    ])
    .unwrap();
    let found = |tenant: &str, stage: Option<&str>, authority: &str| {
        let mut head = Head::request("GET", "http", authority, "/");
        head.append(b"x-tenant", tenant.as_bytes());
        if let Some(stage) = stage {
            head.append(b"x-stage", stage.as_bytes());
        }
        table.host(&head)
    };
    assert_eq!(found("blue", Some("1"), "a.test"), Some(1));
    assert_eq!(found("blue", Some("1"), "b.test"), Some(2));
    assert_eq!(found("green", Some("1"), "a.test"), Some(3));
    assert_eq!(found("green", Some("1"), "b.test:80"), Some(2));
    assert_eq!(found("green", Some("1"), "elsewhere"), None);
    // Of no scope: no such key, or a part of it is missing.
    assert_eq!(found("green", Some("2"), "a.test"), Some(0));
    assert_eq!(found("green", None, "b.test"), Some(4));
    assert_eq!(found("Green", Some("1"), "b.test"), Some(4));
    assert_eq!(found("", Some("green1"), "b.test"), Some(4));
    // A host is declared twice only within a scope.
    let twice = build(vec![
        host("a", &[["x", "1"], ["y", "1"]]),
        host("a", &[]),
        host("a", &[["z", "1"], ["y", "1"]]),
    ]);
    assert_eq!(twice.unwrap_err(), [(HostPattern::Exact("a".into()), 0, 2)]);
}

#[track_caller]
fn check(conditions: Conditions, head: &Head, why: Option<&str>) {
    let runtime = Runtime::default();
    assert_eq!(conditions.why_not(&subject(head, &runtime)), why);
}

#[test]
fn conditions_say_what_does_not_fit() {
    let mut head = Head::request("GET", "http", "a.test", "/s.v1.S/M?x=1&y");
    head.append(b"content-type", b"Application/JSON; charset=utf-8");
    head.append(b"cookie", b"a=1; b=2");
    head.append(b"x-tier", b"gold");
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let pair = |name: &str, value| vec![(name.to_owned(), value)];
    let none = Conditions::default;
    check(Conditions { methods: vec!["POST".into()], ..none() }, &head, Some("method"));
    check(Conditions { content_types: vec!["application/json".into()], ..none() }, &head, None);
    check(
        Conditions { content_types: vec!["application/jso".into()], ..none() },
        &head,
        Some("content_type"),
    );
    check(Conditions { headers: pair("x-tier", exact("gold")), ..none() }, &head, None);
    check(Conditions { headers: pair("host", exact("a.test")), ..none() }, &head, None);
    let absent = ValueMatch::Present(false);
    check(Conditions { headers: pair("x-tier", absent), ..none() }, &head, Some("headers"));
    check(Conditions { query: pair("x", exact("1")), ..none() }, &head, None);
    check(Conditions { query: pair("y", ValueMatch::Present(true)), ..none() }, &head, None);
    check(Conditions { query: pair("z", exact("1")), ..none() }, &head, Some("query"));
    check(Conditions { cookies: pair("b", exact("2")), ..none() }, &head, None);
    check(Conditions { cookies: pair("b", exact("3")), ..none() }, &head, Some("cookies"));
    let not = ValueMatch::Not(Box::new(exact("2")));
    check(Conditions { cookies: pair("b", not), ..none() }, &head, Some("cookies"));
    check(Conditions { grpc: Some(GrpcMatch::default()), ..none() }, &head, Some("grpc"));
    head.set(b"content-type", b"application/grpc");
    let grpc = |service: &str, method: Option<&str>| {
        let (service, method) = (Some(service.to_owned()), method.map(str::to_owned));
        Conditions { grpc: Some(GrpcMatch { service, method }), ..none() }
    };
    check(grpc("s.v1.S", None), &head, None);
    check(grpc("s.v1.S", Some("M")), &head, None);
    check(grpc("s.v1.S", Some("N")), &head, Some("grpc"));
    let share = |text| RuntimeShare { key: None, percent: parse_fine_percent(text).unwrap() };
    check(Conditions { runtime: Some(share("0.0008%")), ..none() }, &head, None);
    check(Conditions { runtime: Some(share("0.0007%")), ..none() }, &head, Some("runtime"));
}

sluice_core::values! {
    TIER: String = "test.tier", "The tier of the user.";
    VISITS: u64 = "test.visits", "How often the client has asked.";
}

#[test]
fn shared_values_are_compared_as_they_are_printed() {
    let (head, runtime) = (Head::request("GET", "http", "a.test", "/"), Runtime::default());
    let (mut values, conn) = (SharedValues::default(), connection());
    let why_not = |values, conn, name: &str, wanted| {
        let input = RouteInput { values, conn, ..subject(&head, &runtime) };
        let values = vec![(name.to_owned(), wanted)];
        Conditions { values, ..Conditions::default() }.why_not(&input)
    };
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let (tier, visits) = (TIER.name(), VISITS.name());
    assert_eq!(why_not(None, None, tier, exact("gold")), Some("values"));
    assert_eq!(why_not(None, None, tier, ValueMatch::Present(false)), None);
    assert!(conn.values.set(&VISITS, 3) && conn.values.set(&TIER, "tin".to_owned()));
    assert_eq!(why_not(None, Some(&conn), tier, exact("tin")), None);
    values.set(&TIER, "gold".to_owned());
    let both = |name, wanted| why_not(Some(&values), Some(&conn), name, wanted);
    assert_eq!(both(tier, exact("gold")), None, "the request comes before its connection");
    assert_eq!(both(tier, exact("tin")), Some("values"));
    assert_eq!(both(visits, exact("3")), None);
    assert_eq!(both(visits, ValueMatch::Not(Box::new(exact("3")))), Some("values"));
}

#[test]
fn conditions_on_the_connection() {
    let runtime = Runtime::default();
    let mut head = Head::request("GET", "http", "a.test", "/");
    let (clear, encrypted) = (connection(), connection());
    let nameless = connection();
    for conn in [&encrypted, &nameless] {
        conn.tls.set(tls_facts(None)).unwrap();
    }
    let facts = Facts::of(TLS).with(&SNI, "a.shop.test".into());
    encrypted.facts.set(Box::new(facts)).unwrap();
    let none = Conditions::default;
    let sni = |pattern| Conditions { sni: vec![parse_name_pattern(pattern).unwrap()], ..none() };
    let tls = |tls| Conditions { tls: Some(tls), ..none() };
    for (conditions, conn, why) in [
        (tls(true), &clear, Some("tls")),
        (tls(false), &clear, None),
        (tls(true), &encrypted, None),
        (tls(false), &encrypted, Some("tls")),
        (sni("a.shop.test"), &encrypted, None),
        (sni("*.shop.test"), &encrypted, None),
        (sni("*.a.shop.test"), &encrypted, Some("sni")),
        (sni("shop.test"), &encrypted, Some("sni")),
        (sni("a.shop.test"), &clear, Some("sni")),
        (sni("a.shop.test"), &nameless, Some("sni")),
    ] {
        let input = RouteInput { conn: Some(conn), ..subject(&head, &runtime) };
        assert_eq!(conditions.why_not(&input), why, "{conditions:?}");
    }
    for (version, fits) in [
        (Version::Http10, RequestVersion::Http1),
        (Version::Http11, RequestVersion::Http1),
        (Version::Http2, RequestVersion::Http2),
        (Version::Http3, RequestVersion::Http3),
    ] {
        head.set_version(version);
        for wanted in [RequestVersion::Http1, RequestVersion::Http2, RequestVersion::Http3] {
            let why = (wanted != fits).then_some("version");
            check(Conditions { versions: vec![wanted], ..none() }, &head, why);
        }
    }
}

#[test]
fn a_rule_takes_little_memory() {
    assert!(size_of::<Rule>() <= 128, "{}", size_of::<Rule>());
}
