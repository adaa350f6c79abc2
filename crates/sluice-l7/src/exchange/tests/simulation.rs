//! Exchanges with peers that do anything at any moment, generated from a seed.
//!
//! Owns: what must hold in every case. Refuses to know: what should happen in any particular case. Keeps: a failure
//! reports its seed, and `SLUICE_SEED` runs that seed again.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{Body, ErrorKind, Head};
use sluice_core::settings::OrNone;
use sluice_upstream::reasons as upstream_reasons;

use super::kit::{Bench, Hooks, Running, get, is_reset, post};
use crate::filters::{BodyAccess, Cx, HeadStep, PieceStep, ResponseStep, WholeMessage, WholeStep};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{RetryPlan, RetryWhen, RuleOptions, Timeouts};

const SEEDS: u64 = 2000;
const STEPS: usize = 60;

#[test]
fn invariants_hold_whatever_the_peers_do() {
    let one = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in one.map_or(0..SEEDS, |seed: u64| seed..seed + 1) {
        let failed = std::panic::catch_unwind(|| run(&mut Rng::with_seed(seed)));
        assert!(failed.is_ok(), "seed {seed}: run it alone with SLUICE_SEED={seed}");
    }
}

fn options(rng: &mut Rng) -> RuleOptions {
    let mut timeout = || rng.bool().then(|| Duration::from_secs(rng.u64(1..40)));
    let timeouts = Timeouts {
        total: Some(OrNone(timeout())),
        stream: Some(OrNone(timeout())),
        response: timeout(),
        per_try: timeout(),
        per_try_idle: timeout(),
        idle: timeout(),
        ..Timeouts::default()
    };
    let when = RetryWhen {
        server_error: rng.bool(),
        reset: rng.bool(),
        per_try_timeout: rng.bool(),
        ..RetryWhen::default()
    };
    let retry = RetryPlan {
        attempts: rng.u32(1..5),
        when,
        body_max: rng.usize(0..64),
        ..RetryPlan::default()
    };
    RuleOptions { timeouts, retry, ..RuleOptions::default() }
}

/// What one endpoint has sent and received.
struct Endpoint {
    peer: ScriptedPeer,
    /// Whether its response has begun with a final head, and whether it has ended.
    head: bool,
    ended: bool,
    body: Vec<u8>,
}

/// A filter that lets some pieces of bodies through at once, and makes others wait for a turn or more.
const DELAYS: Hooks = Hooks {
    access: BodyAccess::Read,
    request_body: |_, body, _| delayed(body.len() % 3),
    response_body: |_, body, _| delayed(body.len() % 3),
    ..Hooks::NONE
};

fn delayed<E: 'static>(turns: usize) -> PieceStep<Body, E> {
    if turns == 0 {
        return PieceStep::Continue;
    }
    PieceStep::wait(async move {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        |_: &mut Cx<'_>, _: &mut Body| PieceStep::Continue
    })
}

/// A filter that receives messages whole, replaces some of them, and waits with others.
const HOLDS: Hooks = Hooks {
    request: |_, _| HeadStep::buffer(100, |_, whole| decided(whole)),
    response: |_, _| ResponseStep::buffer(30, |_, whole| decided(whole)),
    ..Hooks::NONE
};

fn decided(whole: &WholeMessage) -> WholeStep {
    match whole.body.len() % 5 {
        0 | 1 => WholeStep::Continue,
        2 => WholeStep::reply(Reply::new(451, reasons::DENIED, "withheld", "")),
        turns => WholeStep::wait(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            |_: &mut Cx<'_>, _: &mut WholeMessage| WholeStep::Continue
        }),
    }
}

/// A filter that looks at the start of bodies, refuses some requests, and waits with others.
const PEEKS: Hooks = Hooks {
    request: |_, _| {
        HeadStep::peek(12, |_, _, start| match start.bytes.len() % 5 {
            0 | 1 => HeadStep::Continue,
            2 if start.whole => {
                HeadStep::reply(Reply::new(451, reasons::DENIED, "withheld", "refused"))
            }
            turns => HeadStep::wait(async move {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                |_: &mut Cx<'_>, _: &mut Head| HeadStep::Continue
            }),
        })
    },
    ..Hooks::NONE
};

fn run(rng: &mut Rng) {
    let filters: [&[Hooks]; 6] = [
        &[],
        &[DELAYS, DELAYS],
        &[HOLDS, DELAYS],
        &[DELAYS, HOLDS, DELAYS, HOLDS],
        &[DELAYS, PEEKS, DELAYS],
        &[PEEKS, DELAYS, PEEKS, HOLDS, PEEKS],
    ];
    let bench = Bench::with_filters(options(rng), filters[rng.usize(..filters.len())]);
    let mut endpoints = Vec::new();
    for _ in 0..8 {
        match rng.u32(0..6) {
            0 => bench.fails_to_connect(upstream_reasons::REFUSED),
            1 if rng.u32(0..4) == 0 => bench.never_connects(),
            _ => {
                let peer = bench.connects(rng.bool());
                endpoints.push(Endpoint { peer, head: false, ended: false, body: Vec::new() });
            }
        }
    }
    let whole = rng.bool();
    let mut upload: Vec<u8> = Vec::new();
    let mut uploaded = whole;
    let mut request = bench.serve(if whole { get() } else { post() }, whole);
    for _ in 0..STEPS {
        if !request.is_waiting() {
            break;
        }
        match rng.u32(0..10) {
            0..3 if !uploaded => {
                let data = Bytes::from(vec![rng.u8(..); rng.usize(1..20)]);
                upload.extend_from_slice(&data);
                uploaded = rng.u32(0..4) == 0;
                request.client_does(PeerEvent::Data(data, uploaded));
            }
            3 => {
                request.client.reads(rng.bool());
                request.go_on();
            }
            4 if rng.u32(0..12) == 0 => {
                request.client.goes();
                request.go_on();
            }
            5 => {
                request.pass(Duration::from_millis(rng.u64(1..15_000)));
            }
            _ => step(rng, &mut request, &mut endpoints),
        }
        check(&request, &endpoints, &upload);
    }
    // Finally the client leaves, which ends a request that still waits even if no deadline does.
    request.client.goes();
    request.go_on();
    assert!(!request.is_waiting(), "it outlives its client");
    check(&request, &endpoints, &upload);
    drop(request);
    assert_eq!(bench.worker.buffers.bytes_out(), 0, "nothing is held any more");
    for endpoint in &endpoints {
        let sent = endpoint.peer.sent();
        let used = !sent.is_empty();
        let complete = sent.iter().any(|sent| {
            matches!(sent, SentEvent::Head(_, true) | SentEvent::Data(_, true) | SentEvent::End(_))
        });
        assert!(
            !used || is_reset(&endpoint.peer) || (complete && endpoint.ended),
            "a stream is left"
        );
    }
}

/// Lets the endpoint of the last attempt do something that a codec would pass on.
fn step(rng: &mut Rng, request: &mut Running<'_>, endpoints: &mut [Endpoint]) {
    let present = |endpoint: &&mut Endpoint| {
        !endpoint.peer.sent().is_empty() && !is_reset(&endpoint.peer) && !endpoint.ended
    };
    let Some(endpoint) = endpoints.iter_mut().rfind(present) else { return };
    let event = match rng.u32(0..12) {
        0 => {
            endpoint.ended = true;
            let kinds = [
                ErrorKind::Reset,
                ErrorKind::Finished,
                ErrorKind::Refused,
                ErrorKind::Malformed(502),
            ];
            PeerEvent::Fails(kinds[rng.usize(..kinds.len())])
        }
        1 => {
            endpoint.peer.reads(rng.bool());
            request.go_on();
            return;
        }
        _ if !endpoint.head => {
            let status = [103, 200, 200, 404, 500][rng.usize(..5)];
            endpoint.head = status >= 200;
            endpoint.ended = status >= 200 && rng.bool();
            PeerEvent::Head(Head::response(status), endpoint.ended)
        }
        _ => {
            let data = Bytes::from(vec![rng.u8(..); rng.usize(1..20)]);
            endpoint.body.extend_from_slice(&data);
            endpoint.ended = rng.u32(0..3) == 0;
            PeerEvent::Data(data, endpoint.ended)
        }
    };
    let peer = endpoint.peer.clone();
    request.after(&peer, event);
}

/// Checks what must hold after every step.
fn check(request: &Running<'_>, endpoints: &[Endpoint], upload: &[u8]) {
    let finals = request.statuses().into_iter().filter(|status| *status >= 200).count();
    assert!(finals <= 1, "a client gets one response");
    for endpoint in endpoints {
        assert!(upload.starts_with(&endpoint.peer.body()), "an endpoint gets what the client sent");
    }
    let body = request.client.body();
    let forwarded = endpoints.iter().any(|endpoint| endpoint.body.starts_with(&body));
    let status = request.statuses().last().copied().unwrap_or(0);
    assert!(
        body.is_empty() || forwarded || status >= 400,
        "a client gets the body of one endpoint"
    );
    let open = endpoints.iter().filter(|endpoint| {
        !endpoint.peer.sent().is_empty() && !is_reset(&endpoint.peer) && !endpoint.ended
    });
    assert!(open.count() <= 1, "one attempt at a time");
}
