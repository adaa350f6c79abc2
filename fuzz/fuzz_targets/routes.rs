//! Finding a rule: the index finds the same rule as a scan over all rules in order.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;
use sluice_core::connection::Peer;
use sluice_core::value::HostPattern;
use sluice_l7::Runtime;
use sluice_l7::routes::{Action, PathMatch, RouteInput, Rule, RuleOptions, VirtualHost};

fn rule(kind: u8, path: &str) -> Rule {
    let path = format!("/{path}").into_boxed_str();
    let path = match kind % 4 {
        0 => PathMatch::Exact(path),
        1 => PathMatch::Prefix(path),
        2 => PathMatch::StartsWith(path),
        _ => PathMatch::Any,
    };
    let any_case = if kind < 128 { None } else { path.clone().in_any_case() };
    Rule {
        name: "r".into(),
        path: any_case.unwrap_or(path),
        conditions: None,
        action: Action::Cluster(0),
        options: Arc::new(RuleOptions::default()),
        overrides: 0,
    }
}

fuzz_target!(|input: (Vec<(u8, &str)>, &str)| {
    let (rules, path) = input;
    let rules: Vec<Rule> = rules.into_iter().map(|(kind, path)| rule(kind, path)).collect();
    let runtime = Runtime::default();
    let head = Head::request("GET", "http", "a", &format!("/{path}"));
    let subject = RouteInput {
        head: &head,
        source: Peer::Unknown,
        conn: None,
        values: None,
        runtime: &runtime,
        random: 7,
    };
    let obvious = rules.iter().position(|rule| rule.fits(&subject));
    assert_eq!(VirtualHost::new(vec![HostPattern::Any], rules).find(&subject), obvious);
});
