//! Filters in the exchange: what they change, how long they may take, what they share.

use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::scripted::SentEvent;

use super::kit::{Bench, Hooks, get, is_reset, response};
use crate::filters::{Cx, HeadStep, ResponseStep};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::RuleOptions;
use crate::template::HttpTemplate;

const SECOND: Duration = Duration::from_secs(1);

fn tag(head: &mut Head, tag: &str) {
    head.append(b"x-seen", tag.as_bytes());
}

#[test]
fn a_path_that_a_filter_sets_is_normalised_and_checked() {
    for (request, expected) in [
        (
            (|_, head| {
                head.set_path(b"/a%41");
                HeadStep::Continue
            }) as fn(&mut Cx<'_>, &mut Head) -> HeadStep,
            Some("/aA"),
        ),
        (
            |_, head| {
                head.set_path(b"/a/../b");
                HeadStep::Continue
            },
            None,
        ),
        (
            |_, head| {
                head.set_authority(b"user@app.test");
                HeadStep::Continue
            },
            None,
        ),
        (
            |_, head| {
                head.set_authority(b"other.test");
                HeadStep::Continue
            },
            Some("other.test"),
        ),
    ] {
        let bench =
            Bench::with_filters(RuleOptions::default(), &[Hooks { request, ..Hooks::NONE }]);
        let endpoint = bench.connects(false);
        let request = bench.serve(get(), true);
        match expected {
            Some(part) => {
                let sent = endpoint.sent();
                assert!(
                    matches!(&sent[..], [SentEvent::Head(text, _)] if text.contains(part)),
                    "{sent:?}"
                );
            }
            None => {
                request.check(400, reasons::MALFORMED);
                assert!(endpoint.sent().is_empty(), "no endpoint was asked");
            }
        }
    }
}

#[test]
fn filters_may_wait_with_a_request_and_with_its_response() {
    let hooks = Hooks {
        request: |_, _| {
            HeadStep::wait(async {
                |_: &mut Cx<'_>, head: &mut Head| {
                    tag(head, "request");
                    HeadStep::Continue
                }
            })
        },
        response: |_, _| {
            ResponseStep::wait(async {
                |_: &mut Cx<'_>, head: &mut Head| {
                    tag(head, "response");
                    ResponseStep::Continue
                }
            })
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[hooks]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, true));
    let has =
        |sent: &[SentEvent], tag| matches!(sent, [SentEvent::Head(text, _)] if text.contains(tag));
    assert!(has(&endpoint.sent(), "x-seen: request"));
    assert!(has(&request.client.sent(), "x-seen: response"));
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_filter_that_never_decides_on_a_response_is_given_up_and_the_others_see_what_the_client_gets() {
    let never = Hooks {
        response: |_, _| ResponseStep::Wait(Box::pin(std::future::pending())),
        ..Hooks::NONE
    };
    let tags = Hooks {
        response: |_, head| {
            tag(head, "before");
            ResponseStep::Continue
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[tags, never]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, true));
    assert!(request.is_waiting());
    request.pass(SECOND * 11);
    request.check(504, sluice_l4::reasons::FILTER_TIMEOUT);
    assert!(
        matches!(&request.client.sent()[0], SentEvent::Head(text, _) if text.contains("x-seen: before"))
    );
    assert!(is_reset(&endpoint));
}

#[test]
fn a_response_that_a_filter_replaces_is_shown_to_the_filters_before_it() {
    let tags = Hooks {
        response: |_, head| {
            tag(head, "first");
            ResponseStep::Continue
        },
        ..Hooks::NONE
    };
    let replaces = Hooks {
        response: |_, head| {
            let reply = Reply::new(451, reasons::LOCAL, "blocked", "no\n");
            if head.status() == 200 { ResponseStep::reply(reply) } else { ResponseStep::Continue }
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[tags, replaces]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    request.check(451, reasons::LOCAL);
    let heads: Vec<_> = request.client.sent();
    assert!(
        matches!(&heads[0], SentEvent::Head(text, _) if text.matches("x-seen").count() == 1),
        "{heads:?}"
    );
}

sluice_core::values! {
    USER: String = "test.user", "Who asks.";
    VISITS: u64 = "test.visits", "How often the client has asked.";
    UNSET: u64 = "test.unset", "What no filter sets.";
}

#[test]
fn filters_share_values_with_later_filters_and_with_templates() {
    sluice_core::values::declare(VALUES);
    assert!(
        HttpTemplate::parse("%VALUE(test.users)%").is_err_and(|said| said.contains("`test.user`"))
    );
    let sets = Hooks {
        request: |cx, _| {
            cx.values.set(&USER, "ann".to_owned());
            let first = cx.conn_values.set(&VISITS, 1);
            assert!(first && !cx.conn_values.set(&VISITS, 2), "it is written once");
            HeadStep::Continue
        },
        ..Hooks::NONE
    };
    let reads = Hooks {
        request: |cx, head| {
            assert_eq!(cx.values.get(&UNSET), None);
            let user = cx.values.get(&USER).cloned().unwrap_or_default();
            head.append(b"x-user", user.as_bytes());
            HeadStep::Continue
        },
        response: |cx, head| {
            let text =
                HttpTemplate::parse("%VALUE(test.user)% %VALUE(test.visits)% %VALUE(test.unset)%");
            let text = text.unwrap().fill(&cx.view(cx.request.unwrap()));
            head.append(b"x-shared", text.as_bytes());
            ResponseStep::Continue
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[sets, reads]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, true));
    let has = |sent: &[SentEvent], part| matches!(&sent[0], SentEvent::Head(text, _) if text.contains(part));
    assert!(has(&endpoint.sent(), "x-user: ann"));
    assert!(has(&request.client.sent(), "x-shared: ann 1 -"));
}
