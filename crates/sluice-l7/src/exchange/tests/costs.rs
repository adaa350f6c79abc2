//! What a guard costs a request, in instructions that callgrind counts (`benches/README.md`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use sluice_codec::Head;
use sluice_core::{Limits, Name};
use sluice_l4::filters::FilterOwner;
use sluice_testkit::tokens::{SigningKey, key_set};

use super::kit::filters::{Clusters, filter};
use super::kit::{Bench, NAMES, cluster, connects, plan, response};
use crate::filters::built_in;
use crate::routes::RuleOptions;

/// The settings of a guard.
fn settings(name: &str, keys: &str) -> Json {
    match name {
        "cors" => json!({ "origins": "https://app.test" }),
        "jwt" => {
            json!({ "providers": { "corp": { "issuer": "id", "audiences": "shop", "jwks": keys } } })
        }
        "rbac" => {
            let policy = |number| {
                let path = format!("/team{number}/*");
                (format!("p{number}"), json!({ "permissions": { "path": path, "method": "GET" } }))
            };
            json!({ "allow": (0..1000).map(policy).collect::<Map<_, _>>() })
        }
        "rate_limit" => json!({ "requests": "1000000/s", "per": "source_ip" }),
        "ext_authz" => json!({ "cluster": "auth" , "protocol": "http" }),
        other => panic!("no costs of `{other}` are known"),
    }
}

const GUARDS: [&str; 7] = ["none", "skipped", "cors", "jwt", "rbac", "rate_limit", "ext_authz"];

/// Serves `COUNT` requests through each guard, or through the one in `GUARD`; through none for `none`. Its route skips the one
/// of `skipped`.
#[test]
fn requests_pass_one_guard_each() {
    let count = std::env::var("COUNT").map_or(2, |count| count.parse().unwrap());
    match std::env::var("GUARD") {
        Ok(guard) => pass(&guard, count),
        Err(_) => GUARDS.iter().for_each(|guard| pass(guard, count)),
    }
}

fn pass(guard: &str, count: usize) {
    let key = SigningKey::new("ES256", "k");
    let skips = guard == "skipped";
    let (kind, own) = if skips { ("rbac", (0, None)) } else { (guard, (1, None)) };
    let (mut plan, app) = plan(RuleOptions::default(), &[], &[("/team500", &[own])]);
    let auth = cluster("auth");
    let mut names = Clusters(HashMap::from([("auth", Arc::clone(&auth))]), Arc::default());
    let (listener, chain): (Name, Name) = ("web".into(), "default".into());
    let owner = FilterOwner::Chain { listener: &listener, chain: &chain };
    if guard != "none" {
        let of = settings(kind, &key_set([&key]));
        let (name, guard) = filter(&built_in(), &mut names, owner, kind, &of);
        plan.filters = vec![(if skips { NAMES[0].into() } else { name }, guard)];
    }
    let bench = Bench::of(Limits::default(), plan, app);
    let (pool, worker) = (bench.pool_of(&auth), &bench.worker);
    worker.clock.advance(Duration::from_secs(10_000));
    let until = worker.clock.wall(worker.now()).as_secs() + 10_000;
    let token = key.token(&json!({ "iss": "id", "aud": "shop", "sub": "ann", "exp": until }));
    for _ in 0..count {
        let mut head = Head::request("GET", "http", "app.test", "/team500/a");
        head.append(b"origin", b"https://app.test");
        head.append(b"authorization", format!("Bearer {token}").as_bytes());
        let asked = (guard == "ext_authz").then(|| connects(&pool, false));
        let endpoint = bench.connects(false);
        let mut request = bench.serve(head, true);
        if let Some(asked) = &asked {
            request.after(asked, response(200, true));
        }
        request.after(&endpoint, response(200, true));
        assert_eq!(request.statuses(), [200]);
    }
}
