use super::matching::conditions;
use super::*;
use crate::sections::routes::RouteMatch;
use crate::trees::{bind, fields_of, map, text};
use sluice_core::fine_percent::FinePercent;
use sluice_l7::routes::{
    FollowPlan, FollowScheme, HostRewrite, Mirror, MirrorTarget, Originals, PathRewrite,
    RuntimeShare,
};

sluice_core::values! {
    USER: String = "test.user", "Who asks.";
}

#[test]
fn no_field_of_a_match_is_forgotten() {
    sluice_core::values::declare(VALUES);
    for field in fields_of::<RouteMatch>() {
        let value = match field {
            "path" | "case_sensitive" => continue,
            "method" => text("GET"),
            "headers" | "query" | "cookies" => map(&[("x", text("1"))]),
            "values" => map(&[(USER.name(), text("1"))]),
            "content_type" => text("application/json"),
            "client_certificate" => text("true"),
            "source" => text("127.0.0.0/8"),
            "tls" => text("true"),
            "sni" => text("a.test"),
            "version" => text("http2"),
            "when" => text("request.method == 'GET'"),
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
        RuleOptions {
            originals: Originals { path: true, ..Originals::default() },
            ..usual.clone()
        },
        RuleOptions { hash: vec![HashBy::SourceIp], ..usual.clone() },
        RuleOptions { upgrades: Vec::new(), ..usual.clone() },
        RuleOptions {
            mirrors: vec![Mirror {
                to: MirrorTarget::Cluster("shadow".into()),
                share: RuntimeShare { key: None, percent: FinePercent(50_000) },
                host_suffix: String::new(),
            }],
            ..usual.clone()
        },
        RuleOptions {
            follow: Some(Box::new(FollowPlan {
                statuses: vec![302],
                redirects_max: 1,
                scheme: FollowScheme::Same,
                routes: Vec::new(),
                new_routes_only: false,
                copy_headers: Vec::new(),
            })),
            ..usual.clone()
        },
        RuleOptions { envoy_headers: true, ..usual.clone() },
        RuleOptions { attempt_in_request: true, ..usual.clone() },
        RuleOptions { attempts_in_response: true, ..usual.clone() },
        RuleOptions { class: BreakerClass::High, ..usual.clone() },
        RuleOptions { connect: true, ..usual.clone() },
        RuleOptions { retry: RetryPlan { attempts: 3, ..RetryPlan::default() }, ..usual.clone() },
        RuleOptions { timeouts: Timeouts { idle: None, ..Timeouts::default() }, ..usual.clone() },
    ];
    for options in changed {
        assert_ne!(options, usual);
    }
}
