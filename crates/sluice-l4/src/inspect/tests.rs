#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

use super::*;
use proptest::prelude::*;

/// A ClientHello message with these extensions.
pub(crate) fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let mut list = Vec::new();
    for (kind, data) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        list.extend(data);
    }
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

/// A handshake message in records of at most `size` bytes.
pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| {
        let mut record = vec![22, 3, 1];
        record.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
        record.extend(fragment);
        record
    };
    message.chunks(size).flat_map(record).collect()
}

pub(crate) fn server_name(name: &str) -> (u16, Vec<u8>) {
    let length = u16::try_from(name.len()).unwrap();
    let mut data = (length + 3).to_be_bytes().to_vec();
    data.push(0);
    data.extend(length.to_be_bytes());
    data.extend(name.as_bytes());
    (0, data)
}

fn alpn(offers: &[&str]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = offers
        .iter()
        .flat_map(|offer| [&[u8::try_from(offer.len()).unwrap()], offer.as_bytes()].concat())
        .collect();
    let mut data = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    data.extend(list);
    (16, data)
}

/// The panel's decision if the bytes come in pieces cut at `cuts`, and the replies it sends.
fn decide(needs: Needs, stream: &[u8], cuts: &[usize]) -> (Look, Vec<u8>) {
    judged(&needs.inspectors(), stream, cuts)
}

fn judged(inspectors: &[Rc<dyn Inspector>], stream: &[u8], cuts: &[usize]) -> (Look, Vec<u8>) {
    let mut panel = Panel::new(inspectors);
    let (mut start, mut replies) = (0, Vec::new());
    for end in cuts.iter().copied().chain([stream.len()]) {
        loop {
            match panel.look(&stream[start..end.max(start)]) {
                Look::Reply { bytes, consumed } => {
                    replies.extend(bytes);
                    start += consumed;
                }
                Look::More => break,
                look => return (look, replies),
            }
        }
    }
    (Look::More, replies)
}

/// Checks a stream as a whole, cut at every byte, and byte by byte.
#[track_caller]
fn check(stream: &[u8], expected: &Facts) {
    let whole = decide(Needs::ALL, stream, &[]);
    assert_eq!(whole.0, Look::Decided(expected.clone()));
    for cut in 0..stream.len() {
        assert_eq!(decide(Needs::ALL, stream, &[cut]), whole, "cut at {cut}");
    }
    let every: Vec<usize> = (0..stream.len()).collect();
    assert_eq!(decide(Needs::ALL, stream, &every), whole, "byte by byte");
}

fn tls_facts(sni: Option<&str>, offers: &[&str]) -> Facts {
    let mut facts = Facts::new(Some(tls::TLS), TransportKind::Tls);
    if let Some(sni) = sni {
        facts.set(&tls::SNI, sni.into());
    }
    if !offers.is_empty() {
        facts.set(&tls::OFFERS, offers.iter().map(|offer| offer.as_bytes()).collect());
    }
    facts
}

#[test]
fn a_client_hello_in_any_number_of_records() {
    // A key share of post-quantum size, and GREASE (RFC 8701) around it.
    let message = hello(&[
        (0x0a0a, vec![]),
        server_name("Shop.Example.com"),
        (51, vec![9; 1216]),
        alpn(&["h2", "http/1.1"]),
        (0xfe0d, vec![1; 200]),
        (0xfafa, vec![0]),
    ]);
    let expected = tls_facts(Some("shop.example.com"), &["h2", "http/1.1"]);
    for size in [16_384, 700, 50] {
        check(&records(&message, size), &expected);
    }
    let bytewise = records(&hello(&[server_name("a.b")]), 1);
    assert_eq!(decide(Needs::ALL, &bytewise, &[]).0, Look::Decided(tls_facts(Some("a.b"), &[])));
    check(&records(&hello(&[]), 16_384), &tls_facts(None, &[]));
}

#[test]
fn what_only_looks_like_tls_is_not() {
    let cases: Vec<Vec<u8>> = vec![
        b"\x16\x03\x01\x00\x00".to_vec(),
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"\x16\x02".to_vec(),
        b"\x17\x03\x03\x00\x05hello".to_vec(),
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00".to_vec(),
        records(&hello(&[(0, vec![0, 9, 0, 0, 1])]), 16_384),
        records(&hello(&[server_name("sp ace")]), 16_384),
    ];
    for stream in cases {
        let (look, _) = decide(Needs::of(tls::TLS), &stream, &[]);
        assert_eq!(look, Look::Decided(Facts::of(Protocol::UNKNOWN)), "{stream:?}");
    }
}

#[test]
fn protocols_by_their_first_bytes() {
    check(b"GET / HTTP/1.1\r\n", &Facts::of(http::HTTP1));
    check(b"\r\nM-SEARCH * HTTP/1.0\n", &Facts::of(http::HTTP1));
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &Facts::of(http::HTTP2));
    check(b"*1\r\n$4\r\nPING\r\n", &Facts::of(redis::REDIS));
    check(b"ping\r\n", &Facts::of(redis::REDIS));
    check(b"SSH-2.0-OpenSSH_9.2\r\n", &Facts::of(ssh::SSH));
    for unknown in [
        &b"\x00\x01"[..],
        b"GET key\r\n",
        b"*x",
        b"SSL-\r\n",
        b"hello, world\r\n",
        b"PING / HTTP/2\r\n",
    ] {
        check(unknown, &Facts::of(Protocol::UNKNOWN));
    }
}

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (key, value) in parameters {
        body.extend([key.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let mut message = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    message.extend(body);
    message
}

#[test]
fn postgres_in_clear() {
    let facts = |user: &str, database: &str| {
        let facts = Facts::of(POSTGRES).with(&postgres::USER.key, user.into());
        facts.with(&postgres::DATABASE.key, database.into())
    };
    check(&startup(&[("user", "ann"), ("database", "orders")]), &facts("ann", "orders"));
    check(&startup(&[("user", "ann"), ("application_name", "psql")]), &facts("ann", "ann"));
    // As the server reads them: an empty database is the user's name, and names have at most 63 bytes.
    check(&startup(&[("user", "ann"), ("database", "")]), &facts("ann", "ann"));
    let (long, cut) = ("x".repeat(70), "x".repeat(63));
    check(&startup(&[("user", &long), ("database", &long)]), &facts(&cut, &cut));
    check(&startup(&[("user", &long)]), &facts(&cut, &cut));
    let mut cancel = 16_u32.to_be_bytes().to_vec();
    cancel.extend(80_877_102_u32.to_be_bytes());
    check(&cancel, &Facts::of(POSTGRES));
    let clear = Needs::of(POSTGRES);
    let mut refused = SSL_REQUEST.to_vec();
    refused.extend(startup(&[("user", "ann")]));
    assert_eq!(decide(clear, &refused, &[]), (Look::Decided(facts("ann", "ann")), b"N".to_vec()));
}

use postgres::{POSTGRES, SSL_REQUEST};

#[test]
fn postgres_asks_for_tls_and_names_the_server_inside() {
    let mut gss = vec![0, 0, 0, 8];
    gss.extend(80_877_104_u32.to_be_bytes());
    let hello = records(&hello(&[server_name("orders.test"), alpn(&["postgresql"])]), 16_384);
    let mut direct = tls_facts(Some("orders.test"), &["postgresql"]);
    direct.protocol = Some(POSTGRES);
    let asked = direct.clone().with(&tls::STARTTLS, ());
    let stream = [&gss[..], SSL_REQUEST, &hello].concat();
    check(&stream, &asked);
    assert_eq!(decide(Needs::ALL, &stream, &[]).1, b"NS");
    check(&hello, &direct);
    let broken = [&SSL_REQUEST[..], b"plain text after all"].concat();
    assert_eq!(decide(Needs::ALL, &broken, &[]).0, Look::Malformed);
}

proptest! {
    #[test]
    fn cutting_does_not_matter(
        start in prop::sample::select(vec![
            vec![], vec![22, 3], vec![22, 3, 1, 0, 50, 1, 0, 0, 46], b"GET ".to_vec(), b"*".to_vec(),
            SSL_REQUEST.to_vec(), vec![0, 0, 0, 30, 0, 3, 0, 0],
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..300),
        mut cuts in prop::collection::vec(0_usize..300, 0..8),
    ) {
        let stream = [start, noise].concat();
        cuts.retain(|cut| *cut < stream.len());
        cuts.sort_unstable();
        prop_assert_eq!(decide(Needs::ALL, &stream, &cuts), decide(Needs::ALL, &stream, &[]));
    }

    #[test]
    fn a_hello_with_noise_in_it_never_panics(
        at in 0_usize..200,
        noise in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let mut stream = records(&hello(&[server_name("a.example"), alpn(&["h2"])]), 16_384);
        let at = at.min(stream.len());
        stream.splice(at..at, noise);
        let _ = decide(Needs::ALL, &stream, &[]);
    }
}

/// What the fuzzer found and may find: each file of the inspectors' corpora, as a whole and byte by byte.
#[test]
fn the_corpora_are_judged_the_same_however_they_are_cut() {
    let corpora = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
    let mut count = 0;
    for corpus in std::fs::read_dir(corpora).unwrap().map(|entry| entry.unwrap().path()) {
        if !corpus.file_name().unwrap().to_string_lossy().starts_with("inspect") {
            continue;
        }
        for file in std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()) {
            let stream = std::fs::read(&file).unwrap();
            let every: Vec<usize> = (1..stream.len()).collect();
            let mut panels: Vec<_> =
                Needs::ALL.inspectors().into_iter().map(|one| vec![one]).collect();
            panels.push(Needs::ALL.inspectors());
            for panel in panels {
                let (whole, cut) = (judged(&panel, &stream, &[]), judged(&panel, &stream, &every));
                let names: Vec<Protocol> = panel.iter().map(|one| one.protocol()).collect();
                assert_eq!(whole, cut, "{}: {names:?}", file.display());
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn a_match_waits_for_those_before_it_but_not_for_ever() {
    let both = b"SSH-T HTTP/1.1\r\n";
    check(both, &Facts::of(http::HTTP1));
    let inspectors = Needs::ALL.inspectors();
    let mut panel = Panel::new(&inspectors);
    assert_eq!(panel.look(&both[..6]), Look::More, "it may become a request line");
    assert_eq!(panel.give_up(&both[..6]), Some(Facts::of(ssh::SSH)));
    assert_eq!(panel.give_up(b"S"), None);
    check(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", &Facts::of(ssh::SSH));
}

#[test]
fn inspectors_are_declared_once_and_in_full() {
    for (index, of) in INSPECTORS.iter().enumerate() {
        let word = of.protocol.word();
        assert_eq!((of.make)(Needs::ALL).protocol(), of.protocol);
        assert!(INSPECTORS[..index].iter().all(|other| other.protocol != of.protocol), "{word}");
        for fact in of.words {
            assert_eq!(fact.protocol, of.protocol);
            assert!(fact.key.def().name.starts_with(&format!("{word}.")), "{fact:?}");
        }
        let needs = Needs::of(of.protocol);
        assert_eq!(needs.inspectors().len(), if of.upgrade.is_some() { 2 } else { 1 }, "{word}");
    }
    assert_eq!(Needs::ALL.inspectors().len(), INSPECTORS.len());
    assert!(
        Needs::of(Protocol::SILENT).any() && Needs::of(Protocol::SILENT).inspectors().is_empty()
    );
    let mut needs = Needs::of(POSTGRES);
    assert!(!needs.grants_tls(POSTGRES));
    needs.grant_tls(POSTGRES);
    assert!(needs.grants_tls(POSTGRES) && !needs.grants_tls(redis::REDIS));
    needs.remove(tls::TLS);
    let left: Vec<Protocol> = needs.inspectors().iter().map(|one| one.protocol()).collect();
    assert_eq!(left, [POSTGRES]);
}
