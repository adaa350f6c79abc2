//! All guards in one chain, against a plain model: random requests, each of which must end as the model says.
//!
//! Tokens, keys, sessions and passwords are real, as are the provider of the sessions and the server that counts for the fleet.
//! The model knows the order of the filters and what each is for, and none of their code: it has no index, no cache, no
//! token and no header to parse.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use fastrand::Rng;
use prost::Message as _;
use serde_json::{Value as Json, json};
use sluice_codec::Head;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer};
use sluice_core::value::HostPattern;
use sluice_core::{Name, Reason};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Fetches, FilterOwner};
use sluice_telemetry::Registry;
use sluice_testkit::tokens::{SigningKey, key_set};
use sluice_upstream::Cluster;
use sluice_upstream::plan::HttpVersion;

use super::kit::filters::{Clusters, filter};
use super::kit::{
    self, Bench, cluster, cluster_over, connects, head_sent_to, header_in, opens, plan, response,
};
use crate::filters::built_in;
use crate::filters::global_rate_limit::messages::{
    EntryMessage, RateLimitRequest, RateLimitResponse,
};
use crate::plan::HttpPlan;
use crate::routes::conditions::Conditions;
use crate::routes::{
    Action, Override, OverrideSet, Overrides, PathMatch, RouteCell, RouteTable, Rule, RuleOptions,
    VirtualHost,
};
use crate::value_match::ValueMatch;

mod model;
mod peers;
mod wallet;

use model::{Asked, Descriptors, LimitAnswer, Model, OF_BATCH, Password, Told};
use peers::Peers;
use wallet::Wallet;

const REQUESTS: usize = 10_000;

/// The filters of the chain, in their order.
fn chain(keys: &str, peers: &Peers) -> Vec<(&'static str, Json)> {
    let mut limits = vec![
        json!({ "requests": "5/s", "burst": 3, "per": "source_ip" }),
        json!({ "name": "who", "requests": "8/s", "burst": 2, "per": "identity" }),
    ];
    if peers.redis.is_some() {
        limits.push(json!({
            "name": "fleet", "requests": format!("{OF_BATCH}/d"), "per": "header:x-batch",
            "redis": { "cluster": "redis", "on_error": "deny" },
        }));
    }
    let hash = |key: &str| HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref());
    vec![
        ("cors", json!({ "origins": [PARTNER], "methods": ["PUT", "DELETE"] })),
        ("csrf", json!({ "origins": [PARTNER] })),
        (
            "api_key",
            json!({ "keys": { "acme": hash("key-acme"), "beta": hash("key-beta") }, "allow_missing": true }),
        ),
        (
            "jwt",
            json!({
                "providers": { "corp": { "issuer": "id", "audiences": "shop", "jwks": keys, "claims": { "x-user": "sub" } } },
                "allow_missing": true,
            }),
        ),
        ("basic_auth", json!({ "users": USERS, "user_header": "x-login", "allow_missing": true })),
        (
            "oidc",
            json!({
                "providers": { "corp": {
                    "issuer": peers.provider.issuer(), "cluster": "id", "client_id": "shop",
                    "origin": "https://shop.test", "claims": { "x-account": "sub" },
                    "session": { "key": "01234567890123456789012345678901" }, "refresh": "1000h",
                } },
                "allow_missing": true,
            }),
        ),
        (
            "rbac",
            json!({
                "deny": {
                    "outside": { "principals": { "not": { "source": "10.0.0.0/8" } }, "permissions": { "path": "/admin/*" } },
                    "guests": { "principals": { "headers": { "x-team": "guest" } }, "permissions": { "when": "request.method != 'GET'" } },
                },
                "allow": {
                    "readers": { "permissions": { "method": ["GET", "OPTIONS"] } },
                    "staff": { "principals": { "identity": { "prefix": "jwt:corp/" } } },
                    "members": { "principals": { "identity": { "prefix": "oidc:corp/" } }, "permissions": { "path": "/account/*" } },
                    "acme": { "principals": { "identity": "api_key:acme" }, "permissions": { "path": "/orders/*" } },
                },
            }),
        ),
        ("rate_limit", Json::Array(limits)),
        (
            "global_rate_limit",
            json!({
                "service": "limits", "domain": "shop",
                "descriptors": [
                    ["host", "source_ip"],
                    "identity",
                    ["method", { "value": "canary", "headers": { "x-canary": "1" } }],
                    [{ "key": "size", "of": "cel:request.size > 4 ? 'large' : 'small'" }],
                ],
            }),
        ),
        ("fault", json!({ "abort": { "by_header": true, "percent": "100%" } })),
        (
            "ext_authz",
            json!({
                "cluster": "auth", "protocol": "http", "upstream_headers": "x-role",
                "with_body": { "max": 4, "partial": true },
            }),
        ),
        ("body_max", json!(8)),
    ]
}

const PARTNER: &str = "https://app.partner.test";

/// Users, with as few rounds as a hash may have.
const USERS: &str = "ann:$5$rounds=1000$saltsalt$.36NyrNXcBO4aLIlZs.DfHjReuBjS6HzVulq/L6Je13\n\
                     bob:$5$rounds=1000$saltsalt$E6QHIQBXz1HvQ6R0D11GuvPHYoNeyfn135ZYZ5i/oRA\n";

/// A rule of the only virtual host.
struct RuleCase {
    name: &'static str,
    path: &'static str,
    conditions: Conditions,
    /// Whether it leads to the second cluster.
    second: bool,
    /// The settings of its own for filters; `None` leaves one out.
    filters: Vec<(&'static str, Option<Json>)>,
}

fn rules() -> Vec<RuleCase> {
    let exactly = |name: &str, value: &str| (name.to_owned(), ValueMatch::Exact(value.to_owned()));
    let admins =
        Conditions { values: vec![exactly("jwt.corp.roles", "admin")], ..Conditions::default() };
    let canary = Conditions { headers: vec![exactly("x-canary", "1")], ..Conditions::default() };
    let any = Conditions::default;
    let rule = |name, path, conditions, second, filters| RuleCase {
        name,
        path,
        conditions,
        second,
        filters,
    };
    let readers = json!({ "allow": { "all": { "permissions": { "method": "GET" } } } });
    let vault = json!({ "users": USERS, "user_header": "x-login" });
    let account = json!({ "api": "/account/api/*" });
    vec![
        rule(
            "open",
            "/open/*",
            any(),
            false,
            vec![("rbac", None), ("csrf", None), ("global_rate_limit", None)],
        ),
        rule(
            "members",
            "/members/*",
            any(),
            false,
            vec![("jwt", Some(json!({ "require": "corp" })))],
        ),
        rule(
            "export",
            "/export",
            any(),
            true,
            vec![("rate_limit", Some(json!({ "requests": "1/s" }))), ("rbac", Some(readers))],
        ),
        rule("vault", "/vault/*", any(), false, vec![("basic_auth", Some(vault))]),
        rule("account", "/account/*", any(), false, vec![("oidc", Some(account))]),
        rule("admins", "/admin/*", admins, true, vec![]),
        rule("canary", "/*", canary, true, vec![("ext_authz", None)]),
        rule("rest", "/*", any(), false, vec![]),
    ]
}

/// The chain, the clusters `app`, `back`, `auth` and `limits`, and what filters fetch.
fn build(keys: &str, peers: &Peers) -> (HttpPlan, [Arc<Cluster>; 4], Arc<Fetches>) {
    let (mut plan, app) = plan(RuleOptions::default(), &[], &[]);
    let (back, auth) = (cluster("back"), cluster("auth"));
    let limits = cluster_over("limits", HttpVersion::Http2);
    let all = built_in();
    let mut clusters =
        HashMap::from([("auth", Arc::clone(&auth)), ("limits", Arc::clone(&limits))]);
    clusters.extend(peers.clusters());
    let mut names = Clusters(clusters, Arc::default());
    let (listener, of_chain, of_routes): (Name, Name, Name) =
        ("web".into(), "default".into(), "main".into());
    let owner = FilterOwner::Chain { listener: &listener, chain: &of_chain };
    plan.filters = chain(keys, peers)
        .iter()
        .map(|(name, settings)| filter(&all, &mut names, owner, name, settings))
        .collect();
    let mut sets = vec![OverrideSet { owner: "".into(), said: Overrides::new() }];
    let mut built = Vec::new();
    for RuleCase { name, path, conditions, second, filters } in rules() {
        let said = filters.iter().map(|(name, settings)| match settings {
            None => ((*name).into(), Override::Skip),
            Some(settings) => {
                let owner = FilterOwner::Routes(&of_routes);
                let (name, plan) = filter(&all, &mut names, owner, name, settings);
                (name, Override::Over(plan))
            }
        });
        let said: Overrides = said.collect();
        let overrides = if said.is_empty() { 0 } else { u32::try_from(sets.len()).unwrap() };
        if overrides > 0 {
            sets.push(OverrideSet { owner: name.into(), said });
        }
        built.push(Rule {
            name: name.into(),
            path: PathMatch::parse(path).unwrap(),
            conditions: (conditions != Conditions::default()).then(|| Box::new(conditions)),
            action: Action::Cluster(second.into()),
            options: Arc::default(),
            overrides,
        });
    }
    let host = VirtualHost::new(vec![HostPattern::Exact("shop.test".into())], built);
    let clusters = vec![Arc::clone(&app), Arc::clone(&back)];
    let table = RouteTable::build(vec![host], clusters, Arc::default(), sets).unwrap();
    plan.routes = Arc::new(RouteCell::new("main".into(), Arc::new(table)));
    plan.options.edge.trusted_hops = 1;
    (plan, [app, back, auth, limits], names.1)
}

/// The head of a request, and of what only filters may say.
fn head_of(asked: &Asked, token: Option<&str>, cookie: Option<&str>) -> Head {
    let mut head = Head::request(asked.method, "http", asked.host, asked.path.sent);
    head.append(b"x-forwarded-for", asked.address().as_bytes());
    // What only filters may say.
    head.append(b"x-user", b"root");
    head.append(b"x-role", b"root");
    head.append(b"x-login", b"root");
    head.append(b"x-account", b"root");
    head.append(b"x-batch", asked.batch.to_string().as_bytes());
    if let Some(origin) = asked.origin {
        head.append(b"origin", origin.as_bytes());
    }
    if asked.preflight && asked.method == "OPTIONS" {
        head.append(b"access-control-request-method", b"PUT");
    }
    if let Some(key) = asked.key {
        head.append(b"x-api-key", key.as_bytes());
    }
    if let Some(token) = token {
        head.append(b"authorization", format!("Bearer {token}").as_bytes());
    }
    let password = match asked.password {
        Password::None => None,
        Password::Right(name) => Some(BASE64.encode(format!("{name}:pw-{name}").as_bytes())),
        Password::Wrong(text) => Some(BASE64.encode(text.as_bytes())),
        Password::Malformed => Some("YW5u".to_owned()),
    };
    if let Some(password) = password {
        head.append(b"authorization", format!("Basic {password}").as_bytes());
    }
    if let Some(cookie) = cookie {
        head.append(b"cookie", cookie.as_bytes());
    }
    if asked.page {
        head.append(b"accept", b"text/html");
    }
    asked.teams.iter().for_each(|team| head.append(b"x-team", team.as_bytes()));
    if asked.canary {
        head.append(b"x-canary", b"1");
    }
    if asked.fault {
        head.append(b"x-envoy-fault-abort-request", b"418");
    }
    if let Some(length) = asked.body {
        head.append(b"content-length", length.to_string().as_bytes());
    }
    head
}

/// What the service for limits was asked.
fn descriptors_sent_to(service: &ScriptedPeer) -> Descriptors {
    let asked = RateLimitRequest::decode(&service.body()[5..]).unwrap();
    assert_eq!(asked.domain, "shop");
    let entry = |entry: EntryMessage| (entry.key, entry.value);
    let descriptors = asked.descriptors.into_iter();
    descriptors.map(|of| of.entries.into_iter().map(entry).collect()).collect()
}

/// What the service for limits does.
fn limit_events(answer: LimitAnswer) -> Vec<PeerEvent> {
    let status = |status: &[u8]| {
        let mut head = Head::response(200);
        head.append(b"grpc-status", status);
        head
    };
    let overall_code = match answer {
        LimitAnswer::Allowed => 1,
        LimitAnswer::Limited => 2,
        LimitAnswer::Malformed => 3,
        LimitAnswer::Failed => return vec![PeerEvent::Head(status(b"14"), true)],
    };
    let message = RateLimitResponse { overall_code, ..Default::default() }.encode_to_vec();
    let message = sluice_codec::grpc::frame(&message).unwrap();
    vec![
        response(200, false),
        PeerEvent::Data(Bytes::copy_from_slice(&message), false),
        PeerEvent::Trailers(status(b"0")),
    ]
}

#[test]
fn random_requests_end_as_a_plain_model_says() {
    kit::on_worker(random_requests);
}

async fn random_requests(worker: Rc<WorkerCx>, registry: Registry) {
    let key = SigningKey::new("ES256", "k");
    let peers = Peers::start();
    let (plan, clusters, fetches) = build(&key_set([&key]), &peers);
    let bench = Bench::on(worker, registry, plan, Arc::clone(&clusters[0]));
    let pools = clusters.each_ref().map(|cluster| bench.pool_of(cluster));
    let clock = &bench.worker.clock;
    clock.advance(Duration::from_secs(10_000));
    let wallet = Wallet::new(&key, clock.wall(bench.worker.now()));
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(13);
    let mut rng = Rng::with_seed(seed);
    let jar = peers.log_in(&bench, &fetches).await;
    let wall = clock.wall(bench.worker.now());
    let brief_until = jar.brief_until.saturating_sub(wall).as_micros();
    let brief_until = u64::try_from(brief_until).unwrap();
    let mut model = Model::new(brief_until, peers.redis.is_some());
    let mut ends: HashMap<(u16, &'static str), usize> = HashMap::new();
    for number in 0..REQUESTS {
        let passed = rng.u64(..120_000);
        clock.advance(Duration::from_micros(passed));
        bench.worker.timers.expire();
        model.now += passed;
        let of = Asked::random(&mut rng);
        let expected = model.decide(&of);
        let place = format!("request {number} of seed {seed}: {of:?}: {expected:?}");
        // What the model does not expect finds no connection.
        let limits = expected.counted.as_ref().map(|_| opens(&pools[3]));
        let asked = expected.asked.map(|_| connects(&pools[2], false));
        let endpoint = expected.forwarded.map(|cluster| connects(&pools[cluster], false));
        let body = of.body.filter(|length| *length > 0);
        let head = head_of(&of, wallet.of(of.token), jar.of(of.session));
        let mut request = bench.serve(head, body.is_none());
        let text = Bytes::from_static(b"0123456789").slice(..body.unwrap_or(0));
        if body.is_some() && request.is_waiting() {
            request.client_does(PeerEvent::Data(text.clone(), true));
        }
        let next = limits.as_ref().or(asked.as_ref()).or(endpoint.as_ref());
        request.until(&place, || next.is_some_and(|peer| !peer.sent().is_empty())).await;
        if let (Some(limits), Some(counted)) = (&limits, &expected.counted) {
            assert_eq!(descriptors_sent_to(limits), *counted, "{place}");
            for event in limit_events(of.limit) {
                request.after(limits, event);
            }
        }
        if let (Some(asked), Some(length)) = (&asked, expected.asked) {
            assert_eq!(asked.body(), text.slice(..length), "{place}");
            let mut head = Head::response(of.answer);
            head.append(b"x-role", b"buyer");
            request.after(asked, PeerEvent::Head(head, true));
        }
        if let Some(endpoint) = &endpoint {
            let head = head_sent_to(endpoint);
            let Told { user, login, account, role } = expected.told;
            // Without the service, its header is as the client sent it.
            let role = if role { "buyer" } else { "root" };
            for (name, told) in [
                ("x-user", user),
                ("x-login", login),
                ("x-account", account),
                ("x-role", Some(role)),
                ("x-api-key", None),
                ("authorization", None),
                ("cookie", None),
            ] {
                assert_eq!(header_in(&head, name).as_deref(), told, "{name}: {place}");
            }
            assert_eq!(endpoint.body(), text, "{place}");
            request.after(endpoint, response(200, true));
        }
        assert!(!request.is_waiting(), "{place}");
        let summary = request.ended();
        let found = (summary.status, summary.reason.map(Reason::code));
        assert_eq!(found, (expected.status, Some(expected.reason)), "{place}: {summary:?}");
        let readable = request.header("access-control-allow-origin");
        assert_eq!(readable.as_deref() == Some(PARTNER), expected.readable, "{place}");
        assert_eq!(readable.is_some(), expected.readable, "{place}");
        for pool in &pools {
            assert!(pool.scripted.borrow().is_empty(), "{place}: not all were asked");
        }
        *ends.entry((expected.status, expected.reason)).or_default() += 1;
    }
    // Every way to end has been seen often enough.
    assert_eq!(ends.len(), 20, "{ends:?}");
    assert!(model.fleet.is_none() || model.fleet_refused >= 20, "{}", model.fleet_refused);
    assert!(ends.values().all(|count| *count >= 5), "{ends:?}");
}
