#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::egress::EgressPolicy;
use crate::plan::ClusterSettings;

fn answer(addresses: &[&str]) -> Answer {
    let of = |address: &&str| ResolvedAddress {
        address: address.parse().unwrap(),
        host: "a.test".into(),
        weight: 1,
        priority: 0,
        http3_port: None,
    };
    let addresses = addresses.iter().map(of).collect();
    Answer { addresses, valid_for: Duration::from_secs(1) }
}

fn plan(change: impl FnOnce(&mut ClusterSettings)) -> ClusterPlan {
    let mut settings = ClusterSettings::clone(&ClusterSettings::bare());
    change(&mut settings);
    ClusterPlan { name: "a".into(), settings: Arc::new(settings), tls: None }
}

fn shown(usable: &Usable) -> Vec<String> {
    usable.addresses.iter().map(|of| of.address.to_string()).collect()
}

#[test]
fn strict_answers_have_an_order_of_their_own_and_a_bound() {
    let plan = plan(|settings| settings.dns.addresses_max = 2);
    let used = usable(answer(&["10.0.0.3:1", "10.0.0.1:1", "10.0.0.2:1"]), &plan).unwrap();
    assert_eq!(shown(&used), ["10.0.0.1:1", "10.0.0.2:1"]);
    assert!(used.too_many && used.message.starts_with("2 of 3 addresses"), "{}", used.message);
}

#[test]
fn logical_answers_keep_their_order_with_families_in_turn() {
    let plan = plan(|settings| settings.dns.mode = ResolutionMode::Logical);
    let found =
        ["[2001:db8::2]:1", "[2001:db8::1]:1", "[2001:db8::3]:1", "10.0.0.2:1", "10.0.0.1:1"];
    let used = usable(answer(&found), &plan).unwrap();
    let expected =
        ["[2001:db8::2]:1", "10.0.0.2:1", "[2001:db8::1]:1", "10.0.0.1:1", "[2001:db8::3]:1"];
    assert_eq!(shown(&used), expected);
}

#[test]
fn denied_addresses_are_left_out_and_an_answer_of_them_alone_is_a_failure() {
    let plan = plan(|settings| settings.egress = Some(EgressPolicy::default()));
    let used = usable(answer(&["8.8.8.8:1", "10.0.0.1:1"]), &plan).unwrap();
    assert_eq!(shown(&used), ["8.8.8.8:1"]);
    assert!(used.message.contains("10.0.0.1 is private"), "{}", used.message);
    let denied = usable(answer(&["[::ffff:169.254.169.254]:80"]), &plan).unwrap_err();
    assert_eq!(denied.outcome, LookupOutcome::Denied);
    assert!(denied.message.contains("link-local"), "{}", denied.message);
}

#[test]
fn a_name_waits_until_it_was_looked_up_or_is_gone() {
    let name = |host: &str| DnsName::Host(host.into(), 1);
    let resolution = Resolution::default();
    resolution.expect(&name("a"));
    resolution.expect(&name("b"));
    resolution.looked_up(&name("a"));
    assert!(resolution.waits());
    resolution.keep_only(&[name("a")].into());
    assert!(!resolution.waits());
    resolution.good.borrow_mut().insert(name("a"), Vec::new());
    resolution.expect(&name("a"));
    assert!(!resolution.waits(), "there is an answer");
}
