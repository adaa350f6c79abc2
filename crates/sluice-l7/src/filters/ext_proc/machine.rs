//! Which answers of a service fit what it was sent.
//!
//! Owns: what each direction of a request waits for, and how an answer is taken. Refuses to know: time, tasks, and what an
//! answer changes. Keeps: an answer is taken only for a part that was sent and waits for it, in the order headers, body,
//! trailers, and once; whatever a service says else is a fault, after which nothing is taken any more.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::messages::{
    BodyChange, CommonResponse, HeaderMutation, ImmediateResponse, ProcessingMode,
    ProcessingResponse, ResponsePart, StreamedBody,
};
use super::parts::{MessageSide, SentPart};
use crate::filters::ext_authz::messages::StructMessage;

/// What one direction waits for.
#[derive(Clone, Copy, Debug, Default)]
struct AwaitedParts {
    headers: bool,
    body: AwaitedBody,
    trailers: bool,
    /// Whether the service has asked for more time for this.
    extended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum AwaitedBody {
    #[default]
    Nothing,
    /// One answer.
    Answer,
    /// Pieces of a new body; `ended` once the service knows where the old one ends.
    Stream { ended: bool },
}

impl AwaitedParts {
    const fn is_any(self) -> bool {
        self.headers || self.trailers || !matches!(self.body, AwaitedBody::Nothing)
    }
}

/// The state of one conversation.
#[derive(Debug)]
pub(super) struct ProcMachine {
    request: AwaitedParts,
    response: AwaitedParts,
    /// The most time that an answer may ask for.
    timeout_max: Duration,
    /// Whether an answer did not fit, or replaced everything.
    is_over: bool,
}

/// What an answer means.
#[derive(Debug)]
pub(super) enum ProcEvent {
    /// It is about a part that was sent.
    Answer(MessageSide, ProcAnswer),
    /// Those who wait have this much time from now on.
    MoreTime(Duration),
    /// A response in place of all, for the direction that waits.
    Respond(MessageSide, Box<ImmediateResponse>),
    /// It asks for what it may not have.
    Ignored,
}

/// The answer to a part.
#[derive(Debug)]
pub(super) struct ProcAnswer {
    pub(super) of: AnswerPart,
    pub(super) metadata: Option<StructMessage>,
}

/// What an answer says about its part.
#[derive(Debug)]
pub(super) enum AnswerPart {
    Headers(CommonResponse, Option<ProcessingMode>),
    Body(CommonResponse),
    /// A piece of the body that takes the place of the other.
    Piece(Bytes, PieceEnd),
    Trailers(HeaderMutation),
}

/// Whether a piece is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceEnd {
    More,
    Last,
}

/// Why an answer does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcFault {
    /// It says nothing.
    Empty,
    /// Nothing waits for it.
    Unasked(MessageSide, SentPart),
    /// Nothing waits for a response in place of all.
    UnaskedResponse,
    /// It answers the body before the headers, or the trailers before the body.
    OutOfOrder(MessageSide, SentPart),
    /// It streams a body that was sent otherwise, or does not stream one that is.
    WrongBody(MessageSide),
    /// It ends a body whose end it does not know.
    EarlyEnd(MessageSide),
    /// It has a number that means nothing.
    Number,
    /// It follows one that did not fit, or a response in place of all.
    Over,
}

impl fmt::Display for ProcFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an answer says nothing"),
            Self::Unasked(side, part) => write!(f, "an answer to {part} of the {side} was not due"),
            Self::UnaskedResponse => f.write_str("a response was not due"),
            Self::OutOfOrder(side, part) => {
                write!(f, "the answer to {part} of the {side} came too early")
            }
            Self::WrongBody(side) => {
                write!(f, "the answer to the body of the {side} is for another body mode")
            }
            Self::EarlyEnd(side) => write!(f, "the body of the {side} ended too early"),
            Self::Number => f.write_str("an answer has a number without a meaning"),
            Self::Over => f.write_str("an answer came after the end"),
        }
    }
}

impl ProcMachine {
    /// A conversation in which answers may ask for at most this much time, and cannot if that is none.
    pub(super) const fn new(timeout_max: Duration) -> Self {
        let awaited = AwaitedParts {
            headers: false,
            body: AwaitedBody::Nothing,
            trailers: false,
            extended: false,
        };
        Self { request: awaited, response: awaited, timeout_max, is_over: false }
    }

    const fn side(&mut self, side: MessageSide) -> &mut AwaitedParts {
        match side {
            MessageSide::Request => &mut self.request,
            MessageSide::Response => &mut self.response,
        }
    }

    /// Notes that a part was sent, which waits for an answer.
    pub(super) fn sent(&mut self, side: MessageSide, part: SentPart) {
        let awaited = self.side(side);
        awaited.extended = false;
        match part {
            SentPart::Headers => awaited.headers = true,
            SentPart::Body => awaited.body = AwaitedBody::Answer,
            SentPart::Piece { ended } => awaited.body = AwaitedBody::Stream { ended },
            SentPart::Trailers => awaited.trailers = true,
        }
    }

    /// Whether a direction waits for anything.
    pub(super) const fn waits(&self, side: MessageSide) -> bool {
        match side {
            MessageSide::Request => self.request.is_any(),
            MessageSide::Response => self.response.is_any(),
        }
    }

    /// Whether a direction waits for the answer to its headers.
    pub(super) const fn awaits_headers(&self, side: MessageSide) -> bool {
        match side {
            MessageSide::Request => self.request.headers,
            MessageSide::Response => self.response.headers,
        }
    }

    /// Whether the service has pieces of a body that it has not given back.
    pub(super) const fn holds_body(&self, side: MessageSide) -> bool {
        let body = match side {
            MessageSide::Request => self.request.body,
            MessageSide::Response => self.response.body,
        };
        matches!(body, AwaitedBody::Stream { .. })
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// It does not fit what was sent. Nothing is taken after it.
    pub(super) fn answer(&mut self, answer: ProcessingResponse) -> Result<ProcEvent, ProcFault> {
        if self.is_over {
            return Err(ProcFault::Over);
        }
        let event = self.judge(answer);
        self.is_over = matches!(event, Err(_) | Ok(ProcEvent::Respond(..)));
        event
    }

    fn judge(&mut self, answer: ProcessingResponse) -> Result<ProcEvent, ProcFault> {
        use MessageSide::{Request, Response};
        if let Some(time) = answer.override_message_timeout {
            return Ok(self.more_time(time.seconds, time.nanos));
        }
        let metadata = answer.dynamic_metadata;
        let (side, of) = match answer.response.ok_or(ProcFault::Empty)? {
            ResponsePart::RequestHeaders(of) => {
                (Request, self.headers(Request, of.response, answer.mode_override)?)
            }
            ResponsePart::ResponseHeaders(of) => {
                (Response, self.headers(Response, of.response, answer.mode_override)?)
            }
            ResponsePart::RequestBody(of) => (Request, self.body(Request, of.response)?),
            ResponsePart::ResponseBody(of) => (Response, self.body(Response, of.response)?),
            ResponsePart::RequestTrailers(of) => {
                (Request, self.trailers(Request, of.header_mutation)?)
            }
            ResponsePart::ResponseTrailers(of) => {
                (Response, self.trailers(Response, of.header_mutation)?)
            }
            ResponsePart::Immediate(response) => {
                let waits = [Response, Request].into_iter().find(|side| self.waits(*side));
                let side = waits.ok_or(ProcFault::UnaskedResponse)?;
                return Ok(ProcEvent::Respond(side, Box::new(response)));
            }
        };
        Ok(ProcEvent::Answer(side, ProcAnswer { of, metadata }))
    }

    /// More time may be asked for once for each part.
    fn more_time(&mut self, seconds: i64, nanos: i32) -> ProcEvent {
        let whole = u64::try_from(seconds).ok();
        let rest = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let time = whole.zip(rest).map(|(seconds, nanos)| Duration::new(seconds, nanos));
        let fits = |time: &Duration| (Duration::from_millis(1)..=self.timeout_max).contains(time);
        let Some(time) = time.filter(fits) else { return ProcEvent::Ignored };
        let mut waits = false;
        for side in [&mut self.request, &mut self.response] {
            if side.is_any() && !side.extended {
                side.extended = true;
                waits = true;
            }
        }
        if waits { ProcEvent::MoreTime(time) } else { ProcEvent::Ignored }
    }

    fn headers(
        &mut self,
        side: MessageSide,
        response: Option<CommonResponse>,
        mode: Option<ProcessingMode>,
    ) -> Result<AnswerPart, ProcFault> {
        let awaited = self.side(side);
        if !std::mem::take(&mut awaited.headers) {
            return Err(ProcFault::Unasked(side, SentPart::Headers));
        }
        Ok(AnswerPart::Headers(common(response)?, mode))
    }

    fn body(
        &mut self,
        side: MessageSide,
        response: Option<CommonResponse>,
    ) -> Result<AnswerPart, ProcFault> {
        let awaited = self.side(side);
        if awaited.headers {
            return Err(ProcFault::OutOfOrder(side, SentPart::Body));
        }
        let mut response = common(response)?;
        let change = response.body_mutation.as_mut().and_then(|of| of.mutation.take());
        match (awaited.body, change) {
            (AwaitedBody::Nothing, _) => Err(ProcFault::Unasked(side, SentPart::Body)),
            (AwaitedBody::Answer, Some(BodyChange::Streamed(_)))
            | (
                AwaitedBody::Stream { .. },
                Some(BodyChange::Replace(_) | BodyChange::Clear(_)) | None,
            ) => Err(ProcFault::WrongBody(side)),
            (AwaitedBody::Answer, change) => {
                awaited.body = AwaitedBody::Nothing;
                if let Some(of) = response.body_mutation.as_mut() {
                    of.mutation = change;
                }
                Ok(AnswerPart::Body(response))
            }
            (AwaitedBody::Stream { ended }, Some(BodyChange::Streamed(piece))) => {
                let StreamedBody { body, end_of_stream } = piece;
                if !end_of_stream {
                    return Ok(AnswerPart::Piece(body, PieceEnd::More));
                }
                // Where trailers were sent, the answer to them is the end.
                if !ended || awaited.trailers {
                    return Err(ProcFault::EarlyEnd(side));
                }
                awaited.body = AwaitedBody::Nothing;
                Ok(AnswerPart::Piece(body, PieceEnd::Last))
            }
        }
    }

    fn trailers(
        &mut self,
        side: MessageSide,
        mutation: Option<HeaderMutation>,
    ) -> Result<AnswerPart, ProcFault> {
        let awaited = self.side(side);
        if !awaited.trailers {
            return Err(ProcFault::Unasked(side, SentPart::Trailers));
        }
        if awaited.headers || awaited.body == AwaitedBody::Answer {
            return Err(ProcFault::OutOfOrder(side, SentPart::Trailers));
        }
        (awaited.trailers, awaited.body) = (false, AwaitedBody::Nothing);
        Ok(AnswerPart::Trailers(mutation.unwrap_or_default()))
    }
}

/// An answer that changes nothing has no content. Its status is 0 or 1.
fn common(response: Option<CommonResponse>) -> Result<CommonResponse, ProcFault> {
    let response = response.unwrap_or_default();
    if matches!(response.status, 0 | 1) { Ok(response) } else { Err(ProcFault::Number) }
}

/// Feeds a machine with an input of a fuzzer: bytes that say what is sent, and answers behind their lengths. Checks that
/// nothing is taken that does not wait.
#[doc(hidden)]
pub fn fuzz(input: &[u8]) {
    use prost::Message as _;

    let mut machine = ProcMachine::new(Duration::from_secs(1));
    let mut rest = input;
    while let [first, more @ ..] = rest {
        rest = more;
        let side = if first & 1 == 0 { MessageSide::Request } else { MessageSide::Response };
        let part = match first >> 1 & 7 {
            0 => SentPart::Headers,
            1 => SentPart::Body,
            2 => SentPart::Piece { ended: false },
            3 => SentPart::Piece { ended: true },
            4 => SentPart::Trailers,
            _ => {
                let Some((len, more)) = rest.split_first() else { return };
                let (bytes, more) = more.split_at(usize::from(*len).min(more.len()));
                rest = more;
                let Ok(answer) = ProcessingResponse::decode(bytes) else { continue };
                let waited =
                    [MessageSide::Request, MessageSide::Response].map(|side| machine.waits(side));
                let over = machine.is_over;
                match machine.answer(answer) {
                    Ok(ProcEvent::Answer(MessageSide::Request, _)) => assert!(waited[0] && !over),
                    Ok(ProcEvent::Answer(MessageSide::Response, _)) => assert!(waited[1] && !over),
                    Ok(ProcEvent::MoreTime(time)) => {
                        assert!(waited.contains(&true) && time <= Duration::from_secs(1));
                    }
                    Ok(ProcEvent::Respond(..)) => {
                        assert!(waited.contains(&true) && machine.is_over)
                    }
                    Ok(ProcEvent::Ignored) => assert!(!over),
                    Err(_) => assert!(machine.is_over),
                }
                continue;
            }
        };
        machine.sent(side, part);
        assert!(machine.waits(side));
    }
}

#[cfg(test)]
mod tests;
