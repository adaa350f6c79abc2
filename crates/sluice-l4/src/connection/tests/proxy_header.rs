//! Which clients may send a PROXY header, and which must.

use std::pin::pin;

use sluice_core::Cidr;

use super::kit::{conn, on_worker, pass, rest, settled, stream};
use super::*;
use crate::listener::{ProxyAccept, ProxyPlan};
use ProxyAccept::{Optional, Required};
use Then::{Ends, Waits};

const HEADER: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n";

/// A source that `trust` contains, and one that it does not.
const TRUSTED: &str = "198.51.100.7:5000";
const STRANGER: &str = "192.0.2.66:5000";

/// What a client does after its last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Ends,
    Waits,
}

/// What becomes of a client: the source and the bytes that the next phase sees, or the reason why it is refused.
type Seen = Result<(String, Vec<u8>), Reason>;

/// The outcome for a client that sends these pieces.
fn outcome(accept: ProxyAccept, from: &str, pieces: &[&[u8]], then: Then) -> Seen {
    let mut seen = None;
    on_worker(Limits::default(), async |worker, _| {
        let trust = vec![Cidr::parse("198.51.100.0/24").unwrap()];
        let plan = ProxyPlan { accept, trust, timeout: SECOND };
        let conn = conn(&worker, from.parse().map_or(Peer::Unix, Peer::Ip));
        let (mut stream, mut client) = stream(&worker);
        let taken = {
            let mut taking = pin!(take_proxy_header(&plan, &conn, &mut stream));
            let mut taken = settled(taking.as_mut()).await;
            for piece in pieces {
                client.send(piece);
                if taken.is_none() {
                    taken = settled(taking.as_mut()).await;
                }
            }
            if then == Ends {
                client.ends();
            }
            if taken.is_none() {
                taken = settled(taking.as_mut()).await;
            }
            match taken {
                Some(taken) => taken,
                None => {
                    pass(&worker, SECOND * 2);
                    taking.await
                }
            }
        };
        client.ends();
        seen = Some(match taken {
            Ok(()) => Ok((conn.info.source().to_string(), rest(&mut stream, &worker).await)),
            Err(why) => Err(why),
        });
    });
    seen.unwrap()
}

#[track_caller]
fn check(
    accept: ProxyAccept,
    from: &str,
    sent: &[u8],
    then: Then,
    expected: Result<(&str, &[u8]), Reason>,
) {
    let expected = expected.map(|(source, rest)| (source.to_owned(), rest.to_vec()));
    assert_eq!(outcome(accept, from, &[sent], then), expected);
}

#[test]
fn a_header_changes_the_source_and_everything_behind_it_is_given_back() {
    let both = [HEADER, b"GET / HTTP/1.1"].concat();
    for accept in [Optional, Required] {
        for from in [TRUSTED, "unix"] {
            check(accept, from, &both, Waits, Ok(("203.0.113.9:4711", b"GET / HTTP/1.1")));
            check(accept, from, HEADER, Ends, Ok(("203.0.113.9:4711", b"")));
        }
        // It says that the sender itself connects, as for a health check.
        let unknown = b"PROXY UNKNOWN\r\nhello";
        check(accept, TRUSTED, unknown, Waits, Ok((TRUSTED, b"hello")));
    }
}

#[test]
fn a_header_may_arrive_in_pieces() {
    let both = [HEADER, b"GET"].concat();
    for cut in 1..both.len() {
        let (first, second) = both.split_at(cut);
        let seen = outcome(Required, TRUSTED, &[first, second], Waits);
        assert_eq!(seen, Ok(("203.0.113.9:4711".into(), b"GET".to_vec())), "cut at {cut}");
    }
}

#[test]
fn only_trusted_clients_may_send_a_header() {
    check(Optional, STRANGER, HEADER, Waits, Err(reasons::PROXY_UNTRUSTED));
    check(Optional, STRANGER, b"GET /", Waits, Ok((STRANGER, b"GET /")));
    // Where a header is required, nothing that a stranger sends is read.
    check(Required, STRANGER, HEADER, Waits, Err(reasons::PROXY_UNTRUSTED));
    check(Required, STRANGER, b"", Waits, Err(reasons::PROXY_UNTRUSTED));
}

#[test]
fn a_client_without_a_header_is_refused_where_one_is_required() {
    for (sent, then) in [(&b"GET /"[..], Waits), (b"", Waits), (b"", Ends)] {
        check(Required, TRUSTED, sent, then, Err(reasons::PROXY_MISSING));
        check(Optional, TRUSTED, sent, then, Ok((TRUSTED, sent)));
    }
}

#[test]
fn half_a_header_and_a_wrong_one_are_malformed() {
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    for sent in [&b"PROXY TC"[..], b"PROXY TCP9 x\r\n", &HEADER[..HEADER.len() - 1], &long] {
        for (accept, then) in [(Optional, Waits), (Optional, Ends), (Required, Ends)] {
            check(accept, TRUSTED, sent, then, Err(reasons::PROXY_MALFORMED));
        }
    }
}

#[test]
fn a_header_that_does_not_fit_is_malformed() {
    // Version 2: the longest one there is, of which only the beginning comes.
    let mut sent = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    sent.resize(20_000, 0);
    check(Optional, TRUSTED, &sent, Ends, Err(reasons::PROXY_MALFORMED));
}
