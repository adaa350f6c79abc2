//! How many bytes and how much time the first bytes get, and what the next phase sees of them.

use std::pin::pin;

use sluice_core::Protocol;
use sluice_io::{Inspection, Inspector};

use super::kit::{conn, on_worker, pass, rest, settled, stream};
use super::*;
use crate::inspect::inspector_of;
use crate::inspect::postgres::POSTGRES;
use OnTimeout::{Close, Continue};
use Then::{Ends, Resets, Waits};

/// What a client does after its last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Waits,
    Ends,
    /// It closes without reading what it was sent, which resets the connection.
    Resets,
}

/// Recognises a protocol by one word.
#[derive(Debug)]
struct Word(&'static str);

impl Inspector for Word {
    fn protocol(&self) -> Protocol {
        Protocol::new(self.0)
    }

    fn inspect(&self, prefix: &[u8]) -> Inspection {
        let word = self.0.as_bytes();
        if prefix.starts_with(word) {
            Inspection::Match(Facts::of(self.protocol()))
        } else if word.starts_with(prefix) {
            crate::inspect::need(word.len() - prefix.len())
        } else {
            Inspection::No
        }
    }
}

fn words(words: &[&'static str]) -> Vec<Rc<dyn Inspector>> {
    words.iter().map(|word| -> Rc<dyn Inspector> { Rc::new(Word(word)) }).collect()
}

/// What the phase finds, and the bytes that the next one sees.
type Seen = Result<(Option<Protocol>, Vec<u8>), Reason>;

/// The outcome for a client that sends these pieces, and what it receives.
fn outcome(
    plan: &InspectPlan,
    inspectors: &[Rc<dyn Inspector>],
    pieces: &[&[u8]],
    then: Then,
) -> (Seen, Vec<u8>) {
    let mut seen = None;
    on_worker(Limits::default(), async |worker, registry| {
        let conn = conn(&worker, Peer::Unix);
        let (mut stream, client) = stream(&worker);
        let mut client = Some(client);
        let found = {
            let mut inspecting = pin!(inspect(plan, inspectors, &conn, &mut stream));
            let mut found = settled(inspecting.as_mut()).await;
            for piece in pieces {
                client.as_mut().unwrap().send(piece);
                if found.is_none() {
                    found = settled(inspecting.as_mut()).await;
                }
            }
            match then {
                Waits => {}
                Ends => client.as_ref().unwrap().ends(),
                Resets => client = None,
            }
            if found.is_none() {
                found = settled(inspecting.as_mut()).await;
            }
            match found {
                Some(found) => found,
                None => {
                    pass(&worker, plan.timeout + SECOND);
                    inspecting.await
                }
            }
        };
        let received = client.as_mut().and_then(Client::received).unwrap_or_default();
        client.iter().for_each(Client::ends);
        let limit = Limit::InspectBytes.def().name;
        let too_large = found == Err(reasons::INSPECT_TOO_LARGE);
        let counted = registry.value(metrics::LIMIT_REACHED.name, &[limit]);
        assert!(!too_large || counted == Some(1), "the limit is counted");
        seen = Some((
            match found {
                Ok(facts) => Ok((facts.protocol, rest(&mut stream, &worker).await)),
                Err(why) => Err(why),
            },
            received,
        ));
    });
    seen.unwrap()
}

fn plan(on_timeout: OnTimeout) -> InspectPlan {
    InspectPlan { needs: Needs::ALL, timeout: SECOND, bytes: 8, on_timeout }
}

/// Checks the outcome of a client that sends `sent`, with inspectors of `known`.
#[track_caller]
fn check(
    on_timeout: OnTimeout,
    known: &[&'static str],
    sent: &str,
    then: Then,
    expected: Result<&'static str, Reason>,
) {
    let (seen, received) = outcome(&plan(on_timeout), &words(known), &[sent.as_bytes()], then);
    let expected = expected.map(|word| (Some(Protocol::new(word)), sent.as_bytes().to_vec()));
    assert_eq!((seen, received), (expected, Vec::new()));
}

#[test]
fn what_was_inspected_is_given_back() {
    for then in [Waits, Ends] {
        check(Close, &["hello"], "hello, world, and more than fits", then, Ok("hello"));
        check(Close, &["hello"], "something else", then, Ok("unknown"));
    }
    let whole = b"hello, world";
    for cut in 1..whole.len() {
        let (first, second) = whole.split_at(cut);
        let (seen, _) = outcome(&plan(Close), &words(&["hello"]), &[first, second], Waits);
        assert_eq!(seen, Ok((Some(Protocol::new("hello")), whole.to_vec())), "cut at {cut}");
    }
}

#[test]
fn a_client_that_waits_is_judged_by_what_it_sent() {
    check(Continue, &["hello"], "", Waits, Ok("silent"));
    check(Continue, &["hello"], "hell", Waits, Ok("unknown"));
    check(Close, &["hello"], "", Waits, Err(reasons::INSPECT_TIMEOUT));
    check(Close, &["hello"], "hell", Waits, Err(reasons::INSPECT_TIMEOUT));
    // An inspector that comes first still waits; the other has decided.
    check(Close, &["hello", "hel"], "hell", Waits, Ok("hel"));
}

#[test]
fn a_client_that_ends_is_judged_at_once() {
    for on_timeout in [Continue, Close] {
        check(on_timeout, &["hello"], "", Ends, Err(reasons::INSPECT_CLOSED));
        check(on_timeout, &["hello"], "hell", Ends, Ok("unknown"));
        check(on_timeout, &["hello", "hel"], "hell", Ends, Ok("hel"));
    }
}

#[test]
fn inspection_holds_no_more_bytes_than_it_may() {
    let long = "a protocol with a long beginning";
    check(Continue, &[long], long, Waits, Ok("unknown"));
    check(Close, &[long], long, Waits, Err(reasons::INSPECT_TOO_LARGE));
    check(Close, &[long, "a "], long, Waits, Ok("a "));
    let exact = "8 bytes!";
    check(Close, &[exact], exact, Waits, Ok(exact));
}

#[test]
fn a_request_for_tls_is_replied_to_and_not_given_back() {
    let needs = Needs::ALL;
    let asks = inspector_of(POSTGRES).and_then(|of| of.upgrade.as_ref()).unwrap().request;
    let plan = InspectPlan { needs, bytes: 4096, ..plan(Close) };
    let tls = records(&hello(&[]), 16_384);
    let (seen, received) = outcome(&plan, &needs.inspectors(), &[asks, &tls], Waits);
    assert_eq!(received, b"S");
    assert_eq!(seen, Ok((Some(POSTGRES), tls)));

    let sent: [&[u8]; 2] = [asks, b"plain text after all"];
    let (seen, received) = outcome(&plan, &needs.inspectors(), &sent, Waits);
    assert_eq!((seen, received), (Err(reasons::INSPECT_MALFORMED), b"S".to_vec()));

    // After the reply, silence and an end are judged as at the beginning.
    let (seen, _) = outcome(&plan, &needs.inspectors(), &[asks], Ends);
    assert_eq!(seen, Err(reasons::INSPECT_CLOSED));
    let (seen, _) = outcome(&plan, &needs.inspectors(), &[asks], Waits);
    assert_eq!(seen, Err(reasons::INSPECT_TIMEOUT));
    let (seen, _) = outcome(&plan, &needs.inspectors(), &[asks], Resets);
    assert_eq!(seen, Err(end::DOWNSTREAM_RESET));
}
