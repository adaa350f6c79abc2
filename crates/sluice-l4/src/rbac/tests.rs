use proptest::prelude::*;
use sluice_core::connection::{ClientCertFacts, Peer, TlsFacts};
use sluice_core::value::NamePattern;
use sluice_core::{Cidr, ConnValues};

use super::conn::{CertificateName, ConnCondition, ConnSubject};
use super::*;

fn ip(text: &str) -> Peer {
    Peer::Ip((text.parse::<std::net::IpAddr>().unwrap(), 7).into())
}

fn blocks(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| Cidr::parse(text).unwrap()).collect()
}

fn source(text: &str) -> Formula<ConnCondition> {
    Formula::Is(ConnCondition::Source(blocks(&[text])))
}

fn tls(names: &[&str]) -> TlsFacts {
    let own = |uris| {
        let of = names.iter().filter(|name| name.contains("://") == uris);
        of.map(|name| (*name).into()).collect()
    };
    TlsFacts {
        version: "1.3",
        cipher: "c",
        alpn: None,
        client: Some(Arc::new(ClientCertFacts {
            subject: "CN=x.example.com".into(),
            uris: own(true),
            names: own(false),
            ..ClientCertFacts::default()
        })),
        resumed: false,
        early: false,
    }
}

/// A connection from `source`, with this server name and these names in its certificate.
fn judged<R>(
    source: Peer,
    sni: Option<&str>,
    names: &[&str],
    judge: impl FnOnce(&ConnSubject<'_>) -> R,
) -> R {
    let (values, tls) = (ConnValues::default(), tls(names));
    let (peer, local) = (ip("198.51.100.1"), ip("127.0.0.1"));
    judge(&ConnSubject { id: 7, source, peer, local, sni, tls: Some(&tls), values: &values })
}

fn rules(
    deny: &[(&str, Formula<ConnCondition>)],
    allow: Option<&[(&str, Formula<ConnCondition>)]>,
) -> RbacRules<ConnCondition> {
    let named = |of: &[(&str, Formula<ConnCondition>)]| {
        of.iter().map(|(name, formula)| (Arc::from(*name), formula.clone())).collect()
    };
    RbacRules {
        deny: PolicySet::new(named(deny), Lean::ToMatch),
        allow: allow.map(|allow| PolicySet::new(named(allow), Lean::ToMiss)),
    }
}

#[test]
fn a_policy_that_denies_wins_and_one_must_allow() {
    let deny = [("bad", source("10.0.0.9"))];
    let allow = [("lan", source("10.0.0.0/8")), ("other", source("10.0.0.0/16"))];
    let both = rules(&deny, Some(&allow));
    let ruling = |rules: &RbacRules<ConnCondition>, from: &str| {
        judged(ip(from), None, &[], |subject| {
            let ruling = rules.judge(subject);
            (ruling.refused, ruling.policy.map(ToString::to_string))
        })
    };
    assert_eq!(ruling(&both, "10.0.0.1"), (false, Some("lan".into())));
    assert_eq!(ruling(&both, "10.0.0.9"), (true, Some("bad".into())));
    assert_eq!(ruling(&both, "11.0.0.1"), (true, None));
    let only_deny = rules(&deny, None);
    assert_eq!(ruling(&only_deny, "11.0.0.1"), (false, None));
    assert_eq!(ruling(&only_deny, "::ffff:10.0.0.9"), (true, Some("bad".into())));
}

#[test]
fn an_address_that_a_hop_garbled_counts_against_its_client() {
    let of = |count: usize| {
        let deny: Vec<_> = (0..count).map(|at| format!("10.0.{at}.1")).collect();
        let deny: Vec<_> = deny.iter().map(|block| (block.as_str(), source(block))).collect();
        let allow = [("not", Formula::Not(Box::new(source("10.0.0.0/8"))))];
        (rules(&deny, None), rules(&[], Some(&allow)))
    };
    // With an index and without.
    for count in [1, 100] {
        let (deny, allow) = of(count);
        judged(Peer::Unknown, None, &[], |subject| {
            assert!(deny.judge(subject).refused && allow.judge(subject).refused, "{count}");
        });
        judged(Peer::Unix, None, &[], |subject| {
            assert!(!deny.judge(subject).refused && !allow.judge(subject).refused, "{count}");
        });
    }
}

#[test]
fn certificates_are_told_by_their_alternative_names() {
    let fits = |pattern: CertificateName, names: &[&str]| {
        let condition = ConnCondition::Certificate(vec![pattern]);
        judged(Peer::Unix, None, names, |subject| condition.fits(subject, Lean::ToMiss))
    };
    let shop = "spiffe://example.com/shop/web";
    for (pattern, expected) in [
        (CertificateName::Exact(shop.into()), true),
        (CertificateName::Exact("spiffe://example.com/shop".into()), false),
        (CertificateName::Prefix("spiffe://example.com/shop/".into()), true),
        (CertificateName::Prefix("spiffe://example.com/shopping".into()), false),
        (CertificateName::Suffix(".example.com".into()), true),
        (CertificateName::Exact("CN=x.example.com".into()), true),
        (CertificateName::Prefix("CN=".into()), true),
        (CertificateName::Suffix("x.example.com".into()), false),
        (CertificateName::Any, true),
    ] {
        assert_eq!(fits(pattern.clone(), &["a.example.com", shop]), expected, "{pattern:?}");
    }
    assert!(fits(CertificateName::Any, &[]), "a certificate without names is one");
}

/// Conditions over few values, so that they often match.
fn condition() -> impl Strategy<Value = ConnCondition> {
    let block = prop_oneof![
        (0_u8..3, 0_u8..3).prop_map(|(a, b)| format!("10.{a}.{b}.0/24")),
        (0_u8..3).prop_map(|a| format!("10.{a}.0.0/16")),
        Just("0.0.0.0/0".to_owned()),
    ];
    let some_blocks = prop::collection::vec(block, 1..3)
        .prop_map(|texts| texts.iter().map(|text| Cidr::parse(text).unwrap()).collect::<Vec<_>>());
    let name = "(\\*\\.)?[ab]\\.[ab]";
    let pattern = name.prop_map(|text| sluice_core::value::parse_name_pattern(&text).unwrap());
    let certificate = "[ab]{2}".prop_flat_map(|text| {
        prop_oneof![
            Just(CertificateName::Exact(text.clone())),
            Just(CertificateName::Prefix(text[..1].to_owned())),
        ]
    });
    prop_oneof![
        some_blocks.clone().prop_map(ConnCondition::Source),
        some_blocks.prop_map(ConnCondition::Peer),
        prop::collection::vec(0_u16..9, 1..3).prop_map(ConnCondition::Port),
        prop::collection::vec(pattern, 1..3).prop_map(ConnCondition::Sni),
        prop::collection::vec(certificate, 1..3).prop_map(ConnCondition::Certificate),
    ]
}

fn formula() -> impl Strategy<Value = Formula<ConnCondition>> {
    condition().prop_map(Formula::Is).prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(Formula::All),
            prop::collection::vec(inner.clone(), 1..3).prop_map(Formula::Any),
            inner.prop_map(|inner| Formula::Not(Box::new(inner))),
        ]
    })
}

proptest! {
    /// The property: the index finds the first policy that matches, as asking all of them in order does.
    #[test]
    fn the_index_changes_nothing(
        formulas in prop::collection::vec(formula(), 9..60),
        third in 0_u8..4,
        second in 0_u8..4,
        known: bool,
        sni in prop::option::of("[ab]\\.[ab](\\.[ab])?"),
        names in prop::collection::vec("[abc]{2}", 0..3),
    ) {
        let source = if known { ip(&format!("10.{second}.{third}.1")) } else { Peer::Unknown };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for lean in [Lean::ToMatch, Lean::ToMiss] {
            let named = formulas.iter().enumerate();
            let named = named.map(|(at, formula)| (at.to_string().into(), formula.clone()));
            let set = PolicySet::new(named.collect(), lean);
            judged(source, sni.as_deref(), &names, |subject| {
                let slow = formulas.iter().position(|formula| formula.fits(subject, lean));
                let found = set.first(subject).map(|name| name.parse().unwrap());
                prop_assert_eq!(found, slow);
                Ok(())
            })?;
        }
    }
}

#[test]
fn few_of_many_policies_are_asked() {
    let of = |at: u32| {
        let [_, a, b, c] = at.to_be_bytes();
        let block = source(&format!("10.{a}.{b}.{c}"));
        let name = NamePattern::Exact(format!("{at}.test"));
        let sni = Formula::Is(ConnCondition::Sni(vec![name]));
        // Some are told by their address, some by their name, and all have a condition that all share.
        let own = if at.is_multiple_of(2) { block } else { sni };
        Formula::All(vec![source("10.0.0.0/8"), own])
    };
    for count in [100, 10_000] {
        let formulas: Vec<_> = (0..count).map(of).collect();
        let index = PolicyIndex::build(formulas.iter());
        judged(ip("10.0.0.42"), Some("43.test"), &[], |subject| {
            let mut asked = Vec::new();
            let found = index.find(subject, |place| {
                asked.push(place);
                formulas[place].fits(subject, Lean::ToMiss)
            });
            assert_eq!((found, asked.as_slice()), (Some(42), &[42][..]), "of {count}");
        });
    }
}
