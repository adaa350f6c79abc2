//! What both roles do on an HTTP/3 connection.
//!
//! Owns: the beginning of our control stream, what a peer may send on its unidirectional streams, when the connection
//! ends and with which code. Refuses to know: requests. Keeps: the first reason for the end of the connection wins;
//! streams that the connection needs are read as long as it lives.
//!
//! Source: RFC 9114 §5.2, §6.2, §7.2.4 and §7.2.6, RFC 9204 §4.2.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use quinn::{
    Connection, ConnectionError, ReadExactError, RecvStream, SendStream, TransportErrorCode, VarInt,
};
use sluice_core::Side;
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;

use crate::error::{ErrorKind, HttpError};
use crate::h1::Role;
use crate::h3::H3Options;
use crate::h3::frame::{self, code, kind, setting, stream};

/// What the streams of a connection share.
pub(crate) struct H3Shared {
    pub(crate) role: Role,
    pub(crate) options: H3Options,
    pub(crate) connection: Connection,
    /// Our control stream: closing it would end the connection, so it lives as long.
    pub(crate) control: RefCell<SendStream>,
    /// Whether the handshake of QUIC is not complete on a connection that requests are sent on.
    pub(crate) early: Cell<bool>,
    /// The number of open requests.
    pub(crate) open: Cell<usize>,
    /// Bytes of streams received from the peer and sent to it.
    pub(crate) received: Cell<u64>,
    pub(crate) sent: Cell<u64>,
    /// Streams that were reset before their request was read, less those that were not reset.
    pub(crate) resets: Cell<u32>,
    /// Whether the peer sent a GOAWAY: a server will process no more requests.
    pub(crate) goaway_received: Cell<bool>,
    /// Whether no more streams will be opened: the connection then ends with the last one.
    pub(crate) closing: Cell<bool>,
    /// The error that ended the connection.
    pub(crate) fault: RefCell<Option<HttpError>>,
    /// Wakes the task that waits for the last stream to close.
    pub(crate) waiting: RefCell<Option<Waker>>,
    /// The charge for bytes beyond [`SEND_WINDOW`] that may wait in the library for acknowledgements.
    send_charge: RefCell<Charge>,
    /// Bytes that had been sent when the window was last widened.
    widened_at: Cell<u64>,
    /// The last ID of a GOAWAY, which must not rise, and of a MAX_PUSH_ID, which must not fall.
    goaway: Cell<u64>,
    push_max: Cell<u64>,
}

/// Bytes that may wait for acknowledgements on any connection; more is charged to the worker, and therefore granted
/// only to connections that need it.
pub(crate) const SEND_WINDOW: u64 = 64 << 10;

/// The same on a connection that has been widened to the maximum.
const SEND_WINDOW_MAX: u64 = 1 << 20;

impl H3Shared {
    /// Closes the connection for what the peer did, with the code and the reason.
    pub(crate) fn fail(&self, code: u32, detail: &'static str) -> HttpError {
        self.connection.close(code.into(), detail.as_bytes());
        let flood = code == code::EXCESSIVE_LOAD;
        let kind = if flood { ErrorKind::Flood } else { ErrorKind::Malformed(400) };
        self.fault.borrow_mut().get_or_insert_with(|| HttpError::coded(kind, detail));
        HttpError::new(ErrorKind::Reset, detail)
    }

    /// The kind of error of a stream whose connection was lost: while the handshake was not complete, the connection was
    /// never there.
    pub(crate) fn lost(&self) -> ErrorKind {
        if self.early.get() { ErrorKind::Reset } else { ErrorKind::ClosedEarly }
    }

    /// Counts whether a request was reset before it was read.
    pub(crate) fn count_begun(&self, reset: bool) {
        let resets = self.resets.get();
        self.resets.set(if reset { resets + 1 } else { resets.saturating_sub(1) });
        if reset && resets >= self.options.resets_max {
            self.fail(code::EXCESSIVE_LOAD, "http3.rapid_reset");
        }
    }

    /// Widens the window of bytes that wait for acknowledgements; returns whether it did.
    pub(crate) fn widen_send_window(&self) -> bool {
        let mut charge = self.send_charge.borrow_mut();
        let window = SEND_WINDOW + charge.bytes() as u64;
        // Less than a window was sent since: the stream waits for the peer, and more room here would not help.
        if self.sent.get() - self.widened_at.get() < window {
            return false;
        }
        let wider = (2 * window).min(SEND_WINDOW_MAX);
        let more = usize::try_from(wider - SEND_WINDOW).unwrap_or(usize::MAX);
        if wider == window || charge.set_leaving_half(more).is_err() {
            return false;
        }
        self.widened_at.set(self.sent.get());
        self.connection.set_send_window(wider);
        true
    }

    /// Counts bytes that the library has accepted for a stream.
    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Reverts [`H3Shared::widen_send_window`].
    fn narrow_send_window(&self) {
        let mut charge = self.send_charge.borrow_mut();
        if charge.bytes() > 0 && charge.set(0).is_ok() {
            self.connection.set_send_window(SEND_WINDOW);
        }
    }

    /// Notes that a stream has closed.
    pub(crate) fn closed(&self) {
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
            self.narrow_send_window();
        }
        self.close_if_over();
        if self.open.get() == 0
            && let Some(waker) = self.waiting.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Closes the connection cleanly if it has no streams and none will be opened.
    pub(crate) fn close_if_over(&self) {
        if self.closing.get() && self.open.get() == 0 {
            self.connection.close(code::NO_ERROR.into(), b"");
        }
    }
}

/// Opens our control stream and sends SETTINGS on it; from here on the peer's unidirectional streams are read.
///
/// # Errors
/// The peer closed the connection.
pub(crate) async fn handshake(
    connection: Connection,
    role: Role,
    worker: &Rc<WorkerCx>,
    options: H3Options,
) -> Result<Rc<H3Shared>, HttpError> {
    let control = open_control(&connection, role, &options).await?;
    let shared = Rc::new(H3Shared {
        role,
        options,
        connection,
        control: RefCell::new(control),
        early: Cell::new(false),
        open: Cell::new(0),
        received: Cell::new(0),
        sent: Cell::new(0),
        resets: Cell::new(0),
        goaway_received: Cell::new(false),
        closing: Cell::new(false),
        fault: RefCell::default(),
        waiting: RefCell::default(),
        send_charge: RefCell::new(worker.buffers.charge()),
        widened_at: Cell::new(0),
        goaway: Cell::new(u64::MAX),
        push_max: Cell::new(0),
    });
    worker.spawn(accept_uni_streams(Rc::clone(&shared), Rc::clone(worker)));
    Ok(shared)
}

/// Opens our control stream and sends SETTINGS on it.
pub(crate) async fn open_control(
    connection: &Connection,
    role: Role,
    options: &H3Options,
) -> Result<SendStream, HttpError> {
    let mut control = connection.open_uni().await.map_err(|error| error_of(&error))?;
    let mut settings = Vec::new();
    for (name, value) in [
        (setting::MAX_FIELD_SECTION_SIZE, options.head_bytes as u64),
        (setting::QPACK_MAX_TABLE_CAPACITY, 0),
        (setting::QPACK_BLOCKED_STREAMS, 0),
        // From a server it announces support; from a client it means nothing, RFC 9220 §3.
        (setting::ENABLE_CONNECT_PROTOCOL, u64::from(role == Role::Server)),
    ] {
        frame::put(&mut settings, name);
        frame::put(&mut settings, value);
    }
    let mut first = Vec::new();
    frame::put(&mut first, stream::CONTROL);
    frame::put_head(&mut first, kind::SETTINGS, settings.len());
    first.extend_from_slice(&settings);
    let sent = control.write_all(&first).await;
    sent.map_err(|error| HttpError::new(ErrorKind::ClosedEarly, error.to_string()))?;
    Ok(control)
}

/// Unidirectional streams that a peer may open: three that it needs, and some of unknown types.
pub(crate) const UNI_STREAMS_MAX: u32 = 8;

/// Bytes of SETTINGS, and of any frame on the control stream.
const CONTROL_FRAME_MAX: u64 = 4096;

/// Converts the end of a connection to the codec's error.
pub(crate) fn error_of(error: &ConnectionError) -> HttpError {
    let kind = match error {
        ConnectionError::ApplicationClosed(close)
            if [0, code::NO_ERROR].map(VarInt::from).contains(&close.error_code) =>
        {
            ErrorKind::Finished
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::NO_ERROR =>
        {
            ErrorKind::Finished
        }
        ConnectionError::LocallyClosed => ErrorKind::Finished,
        ConnectionError::TimedOut | ConnectionError::ApplicationClosed(_) => ErrorKind::ClosedEarly,
        ConnectionError::TransportError(_) => ErrorKind::Malformed(400),
        _ => ErrorKind::Reset,
    };
    // Only what the peer says of a handshake can still be heard here, and that is about us.
    let detail = sluice_tls::in_words(error, Side::Local);
    HttpError::new(kind, format!("quic: {detail}"))
}

/// Accepts the unidirectional streams that the peer opens.
async fn accept_uni_streams(shared: Rc<H3Shared>, worker: Rc<WorkerCx>) {
    let seen = Rc::new([const { Cell::new(false) }; 3]);
    while let Ok(recv) = shared.connection.accept_uni().await {
        let (shared, seen) = (Rc::clone(&shared), Rc::clone(&seen));
        worker.spawn(async move {
            // After an error the connection has ended: we closed it, or it ended by itself.
            let _ = mind(&shared, &seen, recv).await;
        });
    }
}

/// The peer went away, or did something that ended the connection; either way there is no peer left to notify.
struct Over;

impl From<ReadExactError> for Over {
    fn from(_: ReadExactError) -> Self {
        Self
    }
}

async fn mind(shared: &H3Shared, seen: &[Cell<bool>; 3], mut recv: RecvStream) -> Result<(), Over> {
    let over = |code, detail| {
        shared.fail(code, detail);
        Over
    };
    // A stream that ends before its type is complete is ignored, RFC 9114 §6.2.
    let of = integer(&mut recv).await?;
    let place = match of {
        stream::CONTROL => 0,
        stream::QPACK_ENCODER => 1,
        stream::QPACK_DECODER => 2,
        // Clients must not push, and servers only what a client has allowed, RFC 9114 §4.6.
        stream::PUSH if shared.role == Role::Client => {
            return Err(over(code::ID_ERROR, "http3.push_not_allowed"));
        }
        stream::PUSH => return Err(over(code::STREAM_CREATION_ERROR, "http3.push_by_client")),
        _ => {
            let _ = recv.stop(code::STREAM_CREATION_ERROR.into());
            return Ok(());
        }
    };
    if seen[place].replace(true) {
        return Err(over(code::STREAM_CREATION_ERROR, "http3.stream_repeated"));
    }
    let served = match of {
        stream::CONTROL => mind_control(shared, &mut recv).await,
        of => mind_qpack(shared, &mut recv, of).await,
    };
    // A critical stream must not end or be reset, unless the whole connection has ended.
    if served.is_err() && shared.connection.close_reason().is_none() {
        shared.fail(code::CLOSED_CRITICAL_STREAM, "http3.critical_stream_closed");
    }
    served
}

async fn mind_control(shared: &H3Shared, recv: &mut RecvStream) -> Result<(), Over> {
    let over = |code, detail| {
        shared.fail(code, detail);
        Over
    };
    let mut first = true;
    loop {
        let kind = integer(recv).await?;
        let length = integer(recv).await?;
        if first != (kind == kind::SETTINGS) {
            let code = if first { code::MISSING_SETTINGS } else { code::FRAME_UNEXPECTED };
            return Err(over(code, "http3.settings_misplaced"));
        }
        first = false;
        match kind {
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => {
                return Err(over(code::FRAME_UNEXPECTED, "http3.frame_unexpected"));
            }
            kind if kind::is_of_http2(kind) => {
                return Err(over(code::FRAME_UNEXPECTED, "http3.frame_unexpected"));
            }
            _ => {}
        }
        if length > CONTROL_FRAME_MAX {
            return Err(over(code::EXCESSIVE_LOAD, "http3.control_frame_too_large"));
        }
        let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
        recv.read_exact(&mut payload).await?;
        match kind {
            kind::SETTINGS => {
                check_settings(&payload).map_err(|(code, detail)| over(code, detail))?;
            }
            kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH => {
                let whole = frame::integer(&payload).filter(|(_, used)| *used == payload.len());
                let Some((id, _)) = whole else {
                    return Err(over(code::FRAME_ERROR, "http3.frame_malformed"));
                };
                mind_id(shared, kind, id).map_err(|(code, detail)| over(code, detail))?;
            }
            _ => {}
        }
    }
}

/// Handles an ID on the control stream: where requests end (RFC 9114 §5.2), or a push, of which there are none in
/// either direction (§7.2.3, §7.2.7).
fn mind_id(shared: &H3Shared, kind: u64, id: u64) -> Result<(), (u32, &'static str)> {
    let client = shared.role == Role::Client;
    match kind {
        kind::GOAWAY => {
            // A server names a request stream, which has an ID divisible by four, RFC 9000 §2.1; a client names a push.
            if id > shared.goaway.replace(id) || (client && !id.is_multiple_of(4)) {
                return Err((code::ID_ERROR, "http3.goaway_id"));
            }
            shared.goaway_received.set(true);
        }
        kind::MAX_PUSH_ID if client => {
            return Err((code::FRAME_UNEXPECTED, "http3.max_push_id_by_server"));
        }
        kind::MAX_PUSH_ID => {
            if id < shared.push_max.replace(id) {
                return Err((code::ID_ERROR, "http3.max_push_id_lowered"));
            }
        }
        // Nothing was ever promised, nor may be.
        _ => return Err((code::ID_ERROR, "http3.push_never_promised")),
    }
    Ok(())
}

/// Checks SETTINGS: each setting once, none of HTTP/2's, RFC 9114 §7.2.4.
fn check_settings(mut payload: &[u8]) -> Result<(), (u32, &'static str)> {
    let mut seen = Vec::new();
    while !payload.is_empty() {
        let cut = (code::FRAME_ERROR, "http3.settings_malformed");
        let (name, used) = frame::integer(payload).ok_or(cut)?;
        let (value, more) = frame::integer(&payload[used..]).ok_or(cut)?;
        payload = &payload[used + more..];
        let switch = name == setting::ENABLE_CONNECT_PROTOCOL;
        if seen.contains(&name) || setting::is_of_http2(name) || (switch && value > 1) {
            return Err((code::SETTINGS_ERROR, "http3.settings_wrong"));
        }
        seen.push(name);
    }
    Ok(())
}

/// Reads a QPACK stream: without a dynamic table, almost nothing may be sent on it.
async fn mind_qpack(shared: &H3Shared, recv: &mut RecvStream, of: u64) -> Result<(), Over> {
    loop {
        let mut byte = [0];
        recv.read_exact(&mut byte).await?;
        let fits = match of {
            // A capacity of zero, RFC 9204 §4.3.1.
            stream::QPACK_ENCODER => byte[0] == 0x20,
            // Stream Cancellation, RFC 9204 §4.4.2; the rest of a long number follows.
            _ => byte[0] & 0xc0 == 0x40,
        };
        if !fits {
            let code = match of {
                stream::QPACK_ENCODER => code::QPACK_ENCODER_STREAM_ERROR,
                _ => code::QPACK_DECODER_STREAM_ERROR,
            };
            shared.fail(code, "http3.qpack_instruction");
            return Err(Over);
        }
        if byte[0] == 0x7f {
            while {
                recv.read_exact(&mut byte).await?;
                byte[0] & 0x80 != 0
            } {}
        }
    }
}

async fn integer(recv: &mut RecvStream) -> Result<u64, Over> {
    let mut bytes = [0; 8];
    recv.read_exact(&mut bytes[..1]).await?;
    let length = 1 << (bytes[0] >> 6);
    recv.read_exact(&mut bytes[1..length]).await?;
    Ok(frame::integer(&bytes[..length]).map_or(0, |(value, _)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let of = |pairs: &[(u64, u64)]| {
            let mut payload = Vec::new();
            for (name, value) in pairs {
                frame::put(&mut payload, *name);
                frame::put(&mut payload, *value);
            }
            check_settings(&payload).map_err(|(code, _)| code)
        };
        assert_eq!(of(&[(1, 4096), (6, 100), (7, 16), (8, 1), (0x1f * 9 + 0x21, 7)]), Ok(()));
        assert_eq!(of(&[(6, 1), (6, 1)]), Err(code::SETTINGS_ERROR));
        assert_eq!(of(&[(3, 100)]), Err(code::SETTINGS_ERROR));
        assert_eq!(of(&[(8, 2)]), Err(code::SETTINGS_ERROR));
        assert_eq!(check_settings(&[6]).map_err(|(code, _)| code), Err(code::FRAME_ERROR));
    }
}
