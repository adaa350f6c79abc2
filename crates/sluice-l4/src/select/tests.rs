use super::*;
use crate::inspect::postgres::{DATABASE, POSTGRES};
use crate::inspect::redis::REDIS;
use proptest::prelude::*;
use sluice_core::value::{parse_name_pattern, parse_word_pattern};

/// The slow, obvious version: for each step, how well each chain matches; the best stay.
fn slow(chains: &[Criteria], subject: &ChainInput<'_>) -> Option<usize> {
    let mut left: Vec<usize> = (0..chains.len()).collect();
    for step in MatchStep::all() {
        let fits: Vec<(usize, i64)> = left
            .iter()
            .filter_map(|index| Some((*index, fit(&chains[*index], step, subject)?)))
            .collect();
        let best = fits.iter().map(|(_, fit)| *fit).max()?;
        left = fits.into_iter().filter(|(_, fit)| *fit == best).map(|(index, _)| index).collect();
    }
    left.first().copied()
}

/// How specifically a chain matches at a step: -1 if it has no values there, `None` if it does not match.
fn fit(chain: &Criteria, step: MatchStep, subject: &ChainInput<'_>) -> Option<i64> {
    if !has_values(chain, step) {
        return Some(-1);
    }
    let best = |fits: Vec<Option<i64>>| fits.into_iter().flatten().max();
    let ip = |blocks: &[Cidr], address: Option<(IpAddr, u16)>| {
        let address = address?.0;
        best(blocks.iter().map(|b| b.holds(address).then_some(i64::from(b.bits()))).collect())
    };
    let port =
        |ports: &[u16], address: Option<(IpAddr, u16)>| ports.contains(&address?.1).then_some(0);
    let word = |patterns: &[WordPattern], word: Option<&str>| {
        let word = word?;
        let length = |p: &WordPattern| match p {
            WordPattern::Exact(_) => i64::MAX,
            WordPattern::Prefix(start) => i64::try_from(start.len()).unwrap(),
        };
        best(patterns.iter().map(|p| p.fits(word).then(|| length(p))).collect())
    };
    let facts = subject.facts;
    match step {
        MatchStep::Port => port(&chain.ports, subject.destination),
        MatchStep::SourcePort => port(&chain.source_ports, subject.source),
        MatchStep::Destination => ip(&chain.destinations, subject.destination),
        MatchStep::Source => ip(&chain.sources, subject.source),
        MatchStep::Name => {
            let name = facts.get(&tls::SNI)?;
            let fit = |pattern: &NamePattern| match pattern {
                NamePattern::Exact(exact) => (exact == name).then_some(i64::MAX),
                NamePattern::Suffix(suffix) => name
                    .strip_suffix(suffix.as_str())
                    .filter(|rest| rest.ends_with('.'))
                    .map(|_| i64::try_from(suffix.len()).unwrap()),
            };
            best(chain.names.iter().map(fit).collect())
        }
        MatchStep::Transport => chain.transports.contains(&facts.transport).then_some(0),
        MatchStep::Alpn => {
            let place =
                |offer: &Vec<u8>| facts.get(&tls::OFFERS)?.iter().position(|o| *o == **offer);
            best(chain.alpn.iter().map(|a| place(a).map(|p| -i64::try_from(p).unwrap())).collect())
                .map(|fit| fit + 1000)
        }
        MatchStep::Protocol => chain.protocols.contains(&facts.protocol?).then_some(0),
        MatchStep::Word(fact) => word(chain.words_of(fact), facts.get(&fact.key)),
    }
}

fn some<T: Clone + std::fmt::Debug + 'static>(
    values: &[T],
) -> impl Strategy<Value = Vec<T>> + use<T> {
    prop::sample::subsequence(values.to_vec(), 0..=values.len().min(2))
}

fn criteria() -> impl Strategy<Value = Criteria> {
    let block = |text: &str| Cidr::parse(text).unwrap();
    let blocks = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "::/0"].map(block);
    let names = ["a.example.com", "*.example.com", "*.com", "b.example.com"];
    let names = names.map(|name| parse_name_pattern(name).unwrap());
    let words = ["orders", "ord*", "o*"].map(|word| parse_word_pattern(word).unwrap());
    (
        some(&[80_u16, 443]),
        some(&blocks),
        some(&names),
        some(&[TransportKind::Plain, TransportKind::Tls]),
        some(&[b"h2".to_vec(), b"http/1.1".to_vec()]),
        some(&[tls::TLS, POSTGRES, REDIS]),
        some(&words),
        some(&blocks),
        some(&[1000_u16, 2000]),
    )
        .prop_map(
            |(
                ports,
                destinations,
                names,
                transports,
                alpn,
                protocols,
                databases,
                sources,
                source_ports,
            )| {
                Criteria {
                    ports,
                    destinations,
                    names,
                    transports,
                    alpn,
                    protocols,
                    words: vec![(&DATABASE, databases)],
                    sources,
                    source_ports,
                }
            },
        )
}

fn facts() -> impl Strategy<Value = Facts> {
    let names =
        [None, Some("a.example.com"), Some("c.d.example.com"), Some("example.com"), Some("x.org")];
    (
        prop::sample::select(names.to_vec()),
        any::<bool>(),
        some(&["h2", "http/1.1"]),
        prop::sample::select(vec![None, Some(tls::TLS), Some(POSTGRES), Some(REDIS)]),
        prop::sample::select(vec![
            None,
            Some("orders"),
            Some("ordinary"),
            Some("other"),
            Some("x"),
        ]),
    )
        .prop_map(|(sni, in_tls, alpn, protocol, database)| {
            let transport = if in_tls { TransportKind::Tls } else { TransportKind::Plain };
            let mut facts = Facts::new(protocol, transport);
            facts.set(&tls::OFFERS, alpn.iter().map(|offer| offer.as_bytes()).collect());
            let texts = [(&tls::SNI, sni), (&DATABASE.key, database)];
            for (key, text) in texts {
                text.into_iter().for_each(|text| facts.set(key, text.into()));
            }
            facts
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_index_agrees_with_the_obvious_version(
        chains in prop::collection::vec(criteria(), 0..6),
        facts in facts(),
        address in prop::sample::select(vec!["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "::1"]),
        port in prop::sample::select(vec![80_u16, 443, 1000, 2000, 7]),
    ) {
        let end = Some((address.parse().unwrap(), port));
        let subject = ChainInput { destination: end, source: end, facts: &facts };
        if let Ok(table) = ChainTable::build(&chains) {
            prop_assert_eq!(table.find(&subject), slow(&chains, &subject));
        }
    }
}

#[test]
fn equal_criteria_are_named_and_a_default_takes_the_rest() {
    let name = |name: &str| Criteria {
        names: vec![parse_name_pattern(name).unwrap()],
        ..Criteria::default()
    };
    let both = Criteria {
        names: [name("a.test").names, name("b.test").names].concat(),
        ..Criteria::default()
    };
    let error =
        ChainTable::build(&[name("a.test"), Criteria::default(), both.clone()]).unwrap_err();
    assert_eq!(error, [(0, 2)]);
    let table = ChainTable::build(&[Criteria::default(), both]).unwrap();
    let facts = |name: &str| Facts::default().with(&tls::SNI, name.into());
    let find = |facts: &Facts| table.find(&ChainInput { destination: None, source: None, facts });
    assert_eq!((find(&facts("b.test")), find(&facts("c.test"))), (Some(1), Some(0)));
    assert_eq!(
        ChainTable::build(&[]).unwrap().find(&ChainInput {
            destination: None,
            source: None,
            facts: &facts("")
        }),
        None
    );
}

#[test]
fn postgres_names_are_compared_as_far_as_the_server_reads_them() {
    let long = "x".repeat(70);
    let words = vec![(&DATABASE, vec![parse_word_pattern(&long).unwrap()])];
    let chain = Criteria { words, ..Criteria::default() };
    let table = ChainTable::build(&[chain, Criteria::default()]).unwrap();
    let facts = Facts::of(POSTGRES).with(&DATABASE.key, "x".repeat(63).into());
    let subject = ChainInput { destination: None, source: None, facts: &facts };
    assert_eq!(table.find(&subject), Some(0));
}
