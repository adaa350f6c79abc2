//! The server side of an HTTP/3 connection.
//!
//! Owns: accepting requests, and notifying the client when no more are accepted. Refuses to know: what requests are
//! for. Keeps: after a GOAWAY no new request is processed; those accepted before are finished.
//!
//! Source: RFC 9114 §5.2.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use sluice_core::LocalFuture;
use sluice_io::WorkerCx;

use crate::error::HttpError;
use crate::h1::Role;
use crate::h3::connection::{H3Shared, error_of, handshake};
use crate::h3::frame::{self, code, kind};
use crate::h3::{H3Options, H3Stream};

/// A connection on which requests are received.
pub struct H3Server {
    connection: Connection,
    shared: Rc<H3Shared>,
    accepting: LocalFuture<Result<(SendStream, RecvStream), ConnectionError>>,
    /// One more than the index of the last stream that was accepted.
    next: u64,
    drained: bool,
}

impl std::fmt::Debug for H3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "H3Server({})", self.connection.remote_address())
    }
}

impl H3Server {
    /// Performs the HTTP/3 handshake with a client.
    ///
    /// # Errors
    /// The client closed the connection.
    pub async fn handshake(
        connection: Connection,
        worker: &Rc<WorkerCx>,
        options: H3Options,
    ) -> Result<Self, HttpError> {
        let shared = handshake(connection.clone(), Role::Server, worker, options).await?;
        let accepting = accept(&connection);
        Ok(Self { connection, shared, accepting, next: 0, drained: false })
    }

    /// Receives the next stream on which a request will arrive; an error when the connection has ended, of kind
    /// [`ErrorKind::Finished`](crate::ErrorKind::Finished) if it ended cleanly.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<H3Stream, HttpError>> {
        loop {
            let accepted = ready!(self.accepting.as_mut().poll(cx));
            let (mut send, mut recv) = match accepted {
                Ok(both) => both,
                Err(error) => {
                    let fault = self.shared.fault.borrow_mut().take();
                    return Poll::Ready(Err(fault.unwrap_or_else(|| error_of(&error))));
                }
            };
            self.accepting = accept(&self.connection);
            if self.drained {
                // It is not processed and may be sent elsewhere, RFC 9114 §5.2.
                let _ = send.reset(code::REQUEST_REJECTED.into());
                let _ = recv.stop(code::REQUEST_REJECTED.into());
                continue;
            }
            self.next = recv.id().index() + 1;
            return Poll::Ready(Ok(H3Stream::new(Rc::clone(&self.shared), send, recv)));
        }
    }

    /// Returns the number of requests that are open.
    pub fn open_requests(&self) -> usize {
        self.shared.open.get()
    }

    /// Ready when no request is open.
    pub fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        if self.shared.open.get() == 0 {
            return Poll::Ready(());
        }
        *self.shared.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Notifies the client (GOAWAY), once, that no request from the next one on will be processed; open requests
    /// continue.
    pub fn drain(&mut self, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.drained, true) {
            return;
        }
        let mut out = Vec::new();
        let mut id = Vec::new();
        // Request streams have IDs divisible by four, RFC 9000 §2.1.
        frame::put(&mut id, self.next * 4);
        frame::put_head(&mut out, kind::GOAWAY, id.len());
        out.extend_from_slice(&id);
        // Written whole or not at all: a client that grants no room for so few bytes needs no GOAWAY.
        let mut control = self.shared.control.borrow_mut();
        let _ = Pin::new(&mut *control).poll_write(cx, &out);
    }

    /// Ready when the client has closed the connection.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Closes the connection cleanly.
    pub fn close(&self) {
        self.connection.close(code::NO_ERROR.into(), b"");
    }

    /// Returns the bytes of streams received from the client and sent to it, so far.
    pub fn moved(&self) -> (u64, u64) {
        (self.shared.received.get(), self.shared.sent.get())
    }
}

impl Drop for H3Server {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept(
    connection: &Connection,
) -> LocalFuture<Result<(SendStream, RecvStream), ConnectionError>> {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_bi().await })
}
