//! One HTTP/2 stream, as an exchange of messages uses it.
//!
//! Owns: one piece of a body that the peer has no room for yet. Refuses to know: its connection. Keeps: data is not
//! given to the library before the peer has granted room for it.

use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::body::{Body, Chunk, Frame};
use crate::error::{ErrorKind, HttpError};
use crate::h2::ledger::{CountedBody, Ledger};
use crate::h2::{code, convert};
use crate::head::Head;
use crate::open_streams::OpenStream;

/// A stream that speaks HTTP/2.
#[derive(Debug)]
pub struct H2Stream {
    incoming: Option<RecvStream>,
    awaited: Option<ResponseFuture>,
    respond: Option<SendResponse<Chunk>>,
    outgoing: Option<SendStream<Chunk>>,
    unsent: Chunk,
    after: H2SendEnd,
    received: bool,
    ledger: Ledger,
    /// The incoming body, as long as the library may hold some of it.
    counted: Option<CountedBody>,
    /// Its slot on a connection to an endpoint.
    place: Option<OpenStream>,
}

/// What follows the unsent data.
#[derive(Debug)]
enum H2SendEnd {
    More,
    End,
    Trailers(HeaderMap),
    Nothing,
}

impl H2Stream {
    /// Creates the stream of a received request, with the means to respond.
    pub(crate) fn server(
        mut incoming: RecvStream,
        respond: SendResponse<Chunk>,
        ledger: Ledger,
    ) -> Self {
        let received = incoming.is_end_stream();
        let counted = (!received).then(|| ledger.count_body(&mut incoming));
        Self {
            incoming: Some(incoming),
            awaited: None,
            respond: Some(respond),
            outgoing: None,
            unsent: Chunk::default(),
            after: H2SendEnd::More,
            received,
            ledger,
            counted,
            place: None,
        }
    }

    /// Creates the stream of a request that was sent; `end` means that it has no body.
    pub(crate) fn client(
        awaited: ResponseFuture,
        outgoing: SendStream<Chunk>,
        end: bool,
        place: OpenStream,
        ledger: Ledger,
    ) -> Self {
        Self {
            incoming: None,
            awaited: Some(awaited),
            respond: None,
            outgoing: Some(outgoing),
            unsent: Chunk::default(),
            after: if end { H2SendEnd::Nothing } else { H2SendEnd::More },
            received: false,
            ledger,
            counted: None,
            place: Some(place),
        }
    }

    /// Receives the next response head, with a status of at least 100.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_recv_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        let Some(awaited) = &mut self.awaited else {
            let error = HttpError::new(ErrorKind::Finished, "the stream has no further head");
            return Poll::Ready(Err(error));
        };
        if let Poll::Ready(Some(informational)) = awaited.poll_informational(cx) {
            let informational = informational.map_err(|error| self.ledger.error_of(&error))?;
            return Poll::Ready(convert::response_head(
                &informational,
                head,
                self.ledger.fields_max(),
            ));
        }
        let response =
            ready!(std::pin::Pin::new(awaited).poll(cx)).map_err(|e| self.ledger.error_of(&e))?;
        convert::response_head(&response, head, self.ledger.fields_max())?;
        self.awaited = None;
        let mut incoming = response.into_body();
        self.received = incoming.is_end_stream();
        self.counted = (!self.received).then(|| self.ledger.count_body(&mut incoming));
        self.incoming = Some(incoming);
        Poll::Ready(Ok(()))
    }

    /// Sets whether the receiver of the incoming message is not reading.
    pub fn set_blocked(&mut self, blocked: bool) {
        if let Some(place) = &mut self.place {
            place.set_blocked(blocked);
        }
    }

    /// Receives the next piece of the body.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, HttpError>> {
        let Some(incoming) = self.incoming.as_mut().filter(|_| !self.received) else {
            return Poll::Ready(Ok(Frame::End));
        };
        loop {
            match ready!(incoming.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    // Released at once: the receiver asks for more only when it has passed this piece on.
                    let _ = incoming.flow_control().release_capacity(bytes.len());
                    self.ledger.note_taken(bytes.len());
                    let last = incoming.is_end_stream();
                    self.received |= last;
                    if bytes.is_empty() && !last {
                        continue;
                    }
                    if bytes.is_empty() {
                        return Poll::Ready(Ok(Frame::End));
                    }
                    let body = Body::Shared(bytes);
                    return Poll::Ready(Ok(Frame::Data { body, last }));
                }
                Some(Err(error)) => return Poll::Ready(Err(self.ledger.error_of(&error))),
                None => {
                    let trailers =
                        ready!(incoming.poll_trailers(cx)).map_err(|e| self.ledger.error_of(&e))?;
                    self.received = true;
                    let Some(trailers) = trailers else { return Poll::Ready(Ok(Frame::End)) };
                    let mut head = Box::<Head>::default();
                    convert::fields(&trailers, &mut head, self.ledger.fields_max())?;
                    head.remove_where(|name, _| {
                        crate::names::Known::of(name)
                            .is_some_and(crate::names::Known::is_barred_from_trailers)
                    });
                    return Poll::Ready(Ok(Frame::Trailers(head)));
                }
            }
        }
    }

    /// Whether the incoming message has been read to its end.
    pub const fn is_received(&self) -> bool {
        self.received
    }

    /// Ready when the peer has abandoned the stream.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<HttpError> {
        let reset = match (&mut self.respond, &mut self.outgoing) {
            (Some(respond), _) => ready!(respond.poll_reset(cx)),
            (None, Some(outgoing)) => ready!(outgoing.poll_reset(cx)),
            (None, None) => return Poll::Pending,
        };
        Poll::Ready(match reset {
            Ok(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => {
                HttpError::new(ErrorKind::Cancelled, "the peer cancelled the stream")
            }
            Ok(reason) => HttpError::new(
                ErrorKind::Reset,
                format!("http2: RST_STREAM received: {}", code(reason)),
            ),
            Err(error) => self.ledger.error_of(&error),
        })
    }

    /// Sends a response head.
    ///
    /// # Errors
    /// The head cannot be expressed in HTTP/2, or the stream has ended.
    pub fn send_head(&mut self, head: &Head, end: bool) -> Result<(), HttpError> {
        let Some(respond) = &mut self.respond else {
            return Err(HttpError::new(ErrorKind::Finished, "a final head was already sent"));
        };
        let response = convert::to_response(head)?;
        if head.status() < 200 {
            return respond
                .send_informational(response)
                .map_err(|error| self.ledger.error_of(&error));
        }
        let outgoing =
            respond.send_response(response, end).map_err(|error| self.ledger.error_of(&error))?;
        if end {
            self.after = H2SendEnd::Nothing;
        }
        self.outgoing = Some(outgoing);
        self.respond = None;
        Ok(())
    }

    /// Ready when the peer has granted room for everything that was sent.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        let Some(outgoing) = &mut self.outgoing else { return Poll::Ready(Ok(())) };
        while self.unsent.has_remaining() {
            outgoing.reserve_capacity(self.unsent.remaining());
            let mut room = outgoing.capacity();
            if room == 0 {
                room = match ready!(outgoing.poll_capacity(cx)) {
                    Some(room) => room.map_err(|error| self.ledger.error_of(&error))?,
                    None => {
                        let gone = "the peer abandoned the stream";
                        return Poll::Ready(Err(HttpError::new(ErrorKind::Cancelled, gone)));
                    }
                };
            }
            if room == 0 {
                continue;
            }
            let piece = self.unsent.split_to(room);
            let end = !self.unsent.has_remaining() && matches!(self.after, H2SendEnd::End);
            self.ledger.note_sent(piece.remaining());
            outgoing.send_data(piece, end).map_err(|error| self.ledger.error_of(&error))?;
            if end {
                self.after = H2SendEnd::Nothing;
            }
        }
        match std::mem::replace(&mut self.after, H2SendEnd::Nothing) {
            H2SendEnd::More => self.after = H2SendEnd::More,
            H2SendEnd::Nothing => {}
            H2SendEnd::End => {
                outgoing
                    .send_data(Chunk::default(), true)
                    .map_err(|error| self.ledger.error_of(&error))?;
            }
            H2SendEnd::Trailers(trailers) => {
                outgoing.send_trailers(trailers).map_err(|error| self.ledger.error_of(&error))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends data of the body. Call it when [`H2Stream::poll_flushed`] is ready.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn send_data(
        &mut self,
        cx: &mut Context<'_>,
        body: Body,
        last: bool,
    ) -> Result<(), HttpError> {
        if self.is_sent() {
            // A response to HEAD has no body, whatever an HTTP/1 endpoint sent.
            return Ok(());
        }
        let chunk = body.into_chunk(&self.ledger.buffers());
        self.unsent = chunk.map_err(|_| HttpError::buffers())?;
        if last {
            self.after = H2SendEnd::End;
        }
        self.go(cx)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn send_end(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&Head>,
    ) -> Result<(), HttpError> {
        if self.is_sent() {
            return Ok(());
        }
        self.after = match trailers {
            Some(trailers) => H2SendEnd::Trailers(convert::to_map(trailers)?),
            None => H2SendEnd::End,
        };
        self.go(cx)
    }

    fn go(&mut self, cx: &mut Context<'_>) -> Result<(), HttpError> {
        match self.poll_flushed(cx) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }

    /// Whether the outgoing message has been given to the library to its end.
    pub const fn is_sent(&self) -> bool {
        matches!(self.after, H2SendEnd::Nothing)
    }

    /// Whether a head has been sent.
    pub const fn is_head_sent(&self) -> bool {
        self.respond.is_none()
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: h2::Reason) {
        if let Some(respond) = &mut self.respond {
            respond.send_reset(reason);
        }
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.send_reset(reason);
        }
    }
}
