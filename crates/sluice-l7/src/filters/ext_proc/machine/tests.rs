//! Answers in and out of turn.
use proptest::prelude::*;

use super::super::messages::{BodyMutation, CommonAnswer, HttpBody, TrailersAnswer};
use super::*;
use crate::filters::global_rate_limit::messages::DurationMessage;
use MessageSide::{Request, Response};

const MOST: Duration = Duration::from_secs(1);

fn of(response: ResponsePart) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }
}

fn plain(status: i32, change: Option<BodyChange>) -> CommonAnswer {
    let body_mutation = change.map(|of| BodyMutation { mutation: Some(of) });
    let response = CommonResponse { status, body_mutation, ..CommonResponse::default() };
    CommonAnswer { response: Some(response) }
}

fn streamed(text: &'static str, end_of_stream: bool) -> CommonAnswer {
    let body = Bytes::from_static(text.as_bytes());
    plain(0, Some(BodyChange::Streamed(StreamedBody { body, end_of_stream })))
}

fn time(seconds: i64, nanos: i32) -> ProcessingResponse {
    let time = Some(DurationMessage { seconds, nanos });
    ProcessingResponse { override_message_timeout: time, ..ProcessingResponse::default() }
}

fn headers() -> ProcessingResponse {
    of(ResponsePart::RequestHeaders(CommonAnswer::default()))
}

fn body() -> ProcessingResponse {
    of(ResponsePart::RequestBody(CommonAnswer::default()))
}

fn piece(text: &'static str, last: bool) -> ProcessingResponse {
    of(ResponsePart::RequestBody(streamed(text, last)))
}

fn trailers() -> ProcessingResponse {
    of(ResponsePart::RequestTrailers(TrailersAnswer::default()))
}

/// What a machine makes of these answers after these parts of a request were sent: a word for each, up to the first fault.
#[track_caller]
fn check(sent: &[SentPart], answers: &[ProcessingResponse], expected: &[&str]) {
    let mut machine = ProcMachine::new(MOST);
    sent.iter().for_each(|part| machine.sent(Request, *part));
    let words = answers.iter().map(|answer| match machine.answer(answer.clone()) {
        Ok(ProcEvent::Answer(Request, answer)) => match answer.of {
            AnswerPart::Headers(..) => "headers".to_owned(),
            AnswerPart::Body(_) => "body".to_owned(),
            AnswerPart::Piece(bytes, end) => format!("{} {end:?}", String::from_utf8_lossy(&bytes)),
            AnswerPart::Trailers(_) => "trailers".to_owned(),
        },
        Ok(ProcEvent::Answer(Response, _)) => "of the response".to_owned(),
        Ok(ProcEvent::MoreTime(time)) => format!("{time:?}"),
        Ok(ProcEvent::Respond(side, _)) => format!("responds to the {side}"),
        Ok(ProcEvent::Ignored) => "ignored".to_owned(),
        Err(fault) => fault.to_string(),
    });
    assert_eq!(words.collect::<Vec<_>>(), expected, "{sent:?}");
}

use SentPart::{Body, Headers, Piece, Trailers};

#[test]
fn answers_are_taken_in_order_and_once() {
    check(&[Headers], &[headers()], &["headers"]);
    check(
        &[Headers],
        &[headers(), headers(), headers()],
        &[
            "headers",
            "an answer to the headers of the request was not due",
            "an answer came after the end",
        ],
    );
    check(&[Body], &[body()], &["body"]);
    check(&[Trailers], &[trailers()], &["trailers"]);
    check(&[Headers], &[body()], &["the answer to the body of the request came too early"]);
    check(&[Body], &[headers()], &["an answer to the headers of the request was not due"]);
    check(
        &[Body, Trailers],
        &[trailers()],
        &["the answer to the trailers of the request came too early"],
    );
    check(&[], &[body()], &["an answer to the body of the request was not due"]);
    check(
        &[Headers],
        &[of(ResponsePart::ResponseHeaders(CommonAnswer::default()))],
        &["an answer to the headers of the response was not due"],
    );
    check(&[Headers], &[ProcessingResponse::default()], &["an answer says nothing"]);
    check(
        &[Headers],
        &[of(ResponsePart::RequestHeaders(plain(2, None)))],
        &["an answer has a number without a meaning"],
    );
}

#[test]
fn a_streamed_body_is_answered_piece_by_piece_until_its_end() {
    let open = Piece { ended: false };
    let ended = Piece { ended: true };
    check(&[open], &[piece("a", false), piece("b", false)], &["a More", "b More"]);
    check(&[open, ended], &[piece("a", false), piece("b", true)], &["a More", "b Last"]);
    check(
        &[ended],
        &[piece("", true), piece("", true)],
        &[" Last", "an answer to the body of the request was not due"],
    );
    check(&[open], &[piece("a", true)], &["the body of the request ended too early"]);
    check(&[open, Trailers], &[piece("a", true)], &["the body of the request ended too early"]);
    check(&[open, Trailers], &[piece("a", false), trailers()], &["a More", "trailers"]);
    check(
        &[Headers, open],
        &[piece("a", false)],
        &["the answer to the body of the request came too early"],
    );
    let wrong = "the answer to the body of the request is for another body mode";
    check(&[open], &[body()], &[wrong]);
    check(&[Body], &[piece("a", true)], &[wrong]);
    let replaced = plain(0, Some(BodyChange::Replace(Bytes::new())));
    check(&[open], &[of(ResponsePart::RequestBody(replaced))], &[wrong]);
}

#[test]
fn a_response_takes_the_place_of_what_waits() {
    let response = || of(ResponsePart::Immediate(ImmediateResponse::default()));
    check(&[], &[response()], &["a response was not due"]);
    check(
        &[Headers],
        &[response(), headers()],
        &["responds to the request", "an answer came after the end"],
    );
    let mut machine = ProcMachine::new(MOST);
    machine.sent(Request, Body);
    machine.sent(Response, Headers);
    assert!(matches!(machine.answer(response()), Ok(ProcEvent::Respond(Response, _))));
}

#[test]
fn more_time_may_be_asked_for_once_for_each_part() {
    check(&[Headers], &[time(1, 0), time(1, 0), headers()], &["1s", "ignored", "headers"]);
    check(&[Headers], &[time(0, 999_999), time(0, 1_000_000)], &["ignored", "1ms"]);
    for (seconds, nanos) in [(1, 1), (-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, i32::MAX)] {
        check(&[Headers], &[time(seconds, nanos), headers()], &["ignored", "headers"]);
    }
    check(&[], &[time(0, 5_000_000)], &["ignored"]);
    let mut machine = ProcMachine::new(Duration::ZERO);
    machine.sent(Request, Headers);
    assert!(matches!(machine.answer(time(0, 1_000_000)), Ok(ProcEvent::Ignored)));
    // The next part has its own.
    let mut machine = ProcMachine::new(MOST);
    for part in [Headers, Body] {
        machine.sent(Request, part);
        assert!(matches!(machine.answer(time(1, 0)), Ok(ProcEvent::MoreTime(_))));
        let answer = if part == Headers { headers() } else { body() };
        assert!(machine.answer(answer).is_ok());
    }
}

#[test]
fn messages_are_read_whole_and_cut_anywhere() {
    use prost::Message as _;

    let mut answer = piece("hello", true);
    answer.mode_override =
        Some(ProcessingMode { request_body_mode: 4, ..ProcessingMode::default() });
    answer.override_message_timeout = Some(DurationMessage { seconds: 1, nanos: 5 });
    let bytes = answer.encode_to_vec();
    assert_eq!(ProcessingResponse::decode(&bytes[..]), Ok(answer));
    for cut in 0..bytes.len() {
        let mut machine = ProcMachine::new(MOST);
        machine.sent(Request, Headers);
        if let Ok(answer) = ProcessingResponse::decode(&bytes[..cut]) {
            let _ = machine.answer(answer);
        }
    }
    // The numbers of the fields, from the service's definition.
    let sent = super::super::messages::ProcessingRequest {
        request: Some(super::super::messages::RequestPart::RequestBody(HttpBody {
            body: Bytes::from_static(b"a"),
            end_of_stream: true,
        })),
        observability_mode: true,
        ..Default::default()
    };
    assert_eq!(sent.encode_to_vec(), b"\x22\x05\x0a\x01a\x10\x01\x50\x01");
}

proptest! {
    #[test]
    fn random_answers_are_taken_only_where_something_waits(input in proptest::collection::vec(any::<u8>(), 0..256)) {
        fuzz(&input);
    }
}
