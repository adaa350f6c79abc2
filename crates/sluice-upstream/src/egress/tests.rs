#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use std::sync::Arc;

use super::*;
use crate::endpoint::{EndpointState, Target};
use crate::plan::{ClusterPlan, ClusterSettings};

fn block(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

fn policy(allow: &[&str], deny: &[&str]) -> EgressPolicy {
    let blocks = |texts: &[&str]| texts.iter().map(|text| block(text)).collect();
    EgressPolicy::new(blocks(allow), blocks(deny))
}

#[track_caller]
fn check(policy: &EgressPolicy, address: &str, expected: Option<&str>) {
    let to = SocketAddr::new(address.parse().unwrap(), 80);
    let said = policy.judge(to, |_| false).err().map(|denial| denial.to_string());
    assert_eq!(said, expected.map(|cause| format!("{address} {cause}")));
}

#[test]
fn a_policy_for_all_denies_only_what_it_names() {
    let policy = EgressPolicy::all_but(vec![Cidr::parse("10.0.0.0/8").unwrap()]);
    for (address, is_allowed) in [
        ("127.0.0.1:80", true),
        ("169.254.1.1:80", true),
        ("[::1]:80", true),
        ("192.0.2.1:80", true),
        ("10.1.2.3:80", false),
        ("[::ffff:10.1.2.3]:80", false),
    ] {
        let judged = policy.judge(address.parse().unwrap(), |_| true);
        assert_eq!(judged.is_ok(), is_allowed, "{address}");
    }
}

#[test]
fn every_form_of_an_address_that_is_not_public_is_denied() {
    let usual = EgressPolicy::default();
    for (address, cause) in [
        ("0.0.0.0", "is unspecified"),
        ("0.1.2.3", "is unspecified"),
        ("10.255.255.255", "is private"),
        ("100.64.0.1", "is private (carrier-grade NAT)"),
        ("127.0.0.1", "is loopback"),
        ("127.255.0.9", "is loopback"),
        ("169.254.169.254", "is link-local"),
        ("172.31.0.1", "is private"),
        ("192.168.1.1", "is private"),
        ("224.0.0.1", "is multicast"),
        ("239.255.255.255", "is multicast"),
        ("240.0.0.1", "is reserved"),
        ("255.255.255.255", "is broadcast"),
        ("::", "is unspecified"),
        ("::1", "is loopback"),
        ("::7f00:1", "is reserved"),
        ("::ffff:127.0.0.1", "is loopback"),
        ("::ffff:10.0.0.1", "is private"),
        ("64:ff9b::127.0.0.1", "is loopback"),
        ("64:ff9b::169.254.169.254", "is link-local"),
        ("64:ff9b:1::8.8.8.8", "is private (NAT64)"),
        ("2002:7f00:1::", "is loopback"),
        ("2002:a9fe:a9fe::1", "is link-local"),
        ("2001::1", "is reserved"),
        ("2001:db8::1", "is for documentation"),
        ("fc00::1", "is private"),
        ("fdff::1", "is private"),
        ("fe80::1", "is link-local"),
        ("febf::1", "is link-local"),
        ("ff02::1", "is multicast"),
    ] {
        let address: IpAddr = address.parse().unwrap();
        check(&usual, &address.to_string(), Some(cause));
    }
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.0.0.1",
        "128.0.0.1",
        "169.253.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "2606:4700::1111",
        "2a00::1",
    ] {
        let address: IpAddr = address.parse().unwrap();
        check(&usual, &address.to_string(), None);
    }
}

#[test]
fn the_most_specific_block_decides() {
    let of = policy(&["10.1.0.0/16", "0.0.0.0/0", "169.254.0.0/16"], &["10.1.2.0/24", "8.0.0.0/8"]);
    check(&of, "10.1.1.1", None);
    check(&of, "10.1.2.1", Some("is in 10.1.2.0/24"));
    check(&of, "10.2.0.1", Some("is private"));
    check(&of, "127.0.0.1", Some("is loopback"));
    check(&of, "169.254.169.254", None);
    check(&of, "8.8.8.8", Some("is in 8.0.0.0/8"));
    check(&of, "::ffff:10.1.2.1", Some("is in 10.1.2.0/24"));
    check(&of, "64:ff9b::a01:201", Some("is in 10.1.2.0/24"));
    check(&of, "64:ff9b::a01:101", None);
    // The same block in both lists.
    check(&policy(&["1.0.0.0/8"], &["1.0.0.0/8"]), "1.1.1.1", Some("is in 1.0.0.0/8"));
    // The form itself may be denied or allowed.
    check(&policy(&[], &["64:ff9b::/96"]), "64:ff9b::808:808", Some("is in 64:ff9b::/96"));
    check(&policy(&["64:ff9b::/96"], &[]), "64:ff9b::a00:1", None);
}

#[test]
fn an_own_listener_is_denied_unless_it_is_allowed_alone() {
    let own: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let judge = |allow: &[&str], to: &str| {
        policy(allow, &[]).judge(to.parse().unwrap(), |address| address == own)
    };
    let cause = judge(&["10.0.0.0/8"], "10.0.0.1:80").unwrap_err().cause;
    assert_eq!(cause, EgressCause::OwnListener);
    let cause = judge(&["10.0.0.0/8"], "[::ffff:10.0.0.1]:80").unwrap_err().cause;
    assert_eq!(cause, EgressCause::OwnListener);
    assert_eq!(judge(&["10.0.0.0/8"], "10.0.0.1:81"), Ok(()));
    assert_eq!(judge(&["10.0.0.1/32"], "10.0.0.1:80"), Ok(()));
}

/// Whether the first `bits` bits are the same, bit by bit.
fn contains(block: (u32, u8), address: u32) -> bool {
    (0..u32::from(block.1)).all(|bit| block.0 >> (31 - bit) & 1 == address >> (31 - bit) & 1)
}

/// The plain version: every block in a list, the decision by sorting it.
fn allowed(allow: &[(u32, u8)], deny: &[(u32, u8)], address: u32) -> bool {
    let mut all: Vec<(u8, u8, bool)> = Vec::new();
    for (text, _) in SPECIAL.iter().filter(|(text, _)| !text.contains(':')) {
        let (network, bits) = text.split_once('/').unwrap();
        let network: Ipv4Addr = network.parse().unwrap();
        let bits: u8 = bits.parse().unwrap();
        if contains((network.to_bits(), bits), address) {
            all.push((bits, 0, false));
        }
    }
    all.extend(allow.iter().filter(|block| contains(**block, address)).map(|of| (of.1, 1, true)));
    all.extend(deny.iter().filter(|block| contains(**block, address)).map(|of| (of.1, 2, false)));
    all.sort_unstable();
    all.last().is_none_or(|(_, _, allowed)| *allowed)
}

#[test]
fn a_wide_block_of_ipv6_does_not_open_what_an_address_leads_to() {
    let cidr = |text: &str| Cidr::parse(text).unwrap();
    for (allow, deny, to, expected) in [
        (&["::/0"][..], &[][..], "64:ff9b::a9fe:a9fe", false),
        (&["::/0"], &[], "64:ff9b::808:808", true),
        (&["::/0"], &[], "2002:a00:1::", false),
        (&["2000::/3"], &["::/0"], "2002:a00:1::", false),
        (&["2002::/16"], &[], "2002:a00:1::", true),
        (&["64:ff9b::/96"], &[], "64:ff9b::a00:1", true),
        (&["64:ff9b::/96"], &["64:ff9b::a00:0/104"], "64:ff9b::a00:1", false),
        (&["::/0", "10.0.0.0/8"], &[], "64:ff9b::a00:1", true),
        (&[], &["2000::/3"], "2002:808:808::", false),
    ] {
        let blocks = |of: &[&str]| of.iter().map(|text| cidr(text)).collect::<Vec<_>>();
        let policy = EgressPolicy::new(blocks(allow), blocks(deny));
        let address = SocketAddr::new(to.parse().unwrap(), 1);
        assert_eq!(policy.judge(address, |_| false).is_ok(), expected, "{allow:?} {deny:?} {to}");
    }
}

#[test]
fn only_addresses_of_names_are_judged() {
    let bare = ClusterSettings::clone(&ClusterSettings::bare());
    let settings = ClusterSettings { egress: Some(EgressPolicy::default()), ..bare };
    let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
    let to: SocketAddr = "10.0.0.9:80".parse().unwrap();
    let name: Option<Arc<str>> = Some("a.test".into());
    let admits = |endpoint: EndpointState| plan.admit(&endpoint, to).is_ok();
    assert!(!admits(EndpointState::new(Target::Ip(to), name.clone())));
    assert!(admits(EndpointState::new(Target::Ip(to), None)));
    // The address of a check, whose name is for TLS.
    assert!(admits(EndpointState::listed(Target::Ip(to), name)));
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_plain_version(
        allow in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..6),
        deny in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..6),
        near in any::<proptest::sample::Index>(),
        flip in 0_u32..40,
        far in any::<u32>(),
    ) {
        // Most random addresses are in no block: begin with one that is, and change a bit.
        let all: Vec<u32> = allow.iter().chain(&deny).map(|of| of.0).chain([far]).collect();
        let base = all[near.index(all.len())];
        let address = if flip < 32 { base ^ 1 << flip } else { base };
        let blocks = |of: &[(u32, u8)]| -> Vec<Cidr> {
            of.iter().map(|(network, bits)| Cidr::around(Ipv4Addr::from_bits(*network).into(), *bits)).collect()
        };
        let policy = EgressPolicy::new(blocks(&allow), blocks(&deny));
        let expected = allowed(&allow, &deny, address);
        let v4 = Ipv4Addr::from_bits(address);
        for form in [IpAddr::V4(v4), IpAddr::V6(v4.to_ipv6_mapped())] {
            let judged = policy.judge(SocketAddr::new(form, 1), |_| false);
            prop_assert_eq!(judged.is_ok(), expected, "{}", form);
        }
        let nat64: IpAddr = format!("64:ff9b::{v4}").parse().unwrap();
        prop_assert_eq!(policy.judge(SocketAddr::new(nat64, 1), |_| false).is_ok(), expected);
    }
}
