//! The bytes of a connection, as they pass a guest.
//!
//! Owns: what becomes of a piece after a call, and which one the guest sees when. Refuses to know: what the guest does with it. Keeps:
//! bytes of a direction go on in the order in which they came, as the guest left them.

use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_io::{ByteFilter, ByteRelease, ByteResume, ByteStep};
use sluice_l7::reasons;

use super::open::{GuestConnVerdict, OpenGuest};
use crate::hooks::GuestHook;

/// The byte filter of one connection.
#[derive(Debug)]
pub(super) struct GuestBytes(pub(super) Rc<OpenGuest>);

impl ByteFilter for GuestBytes {
    fn received(&mut self, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
        pass(&self.0, false, bytes, last)
    }

    fn sent(&mut self, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
        pass(&self.0, true, bytes, last)
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<ByteRelease> {
        release(&self.0, false, cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<ByteRelease> {
        release(&self.0, true, cx)
    }
}

/// What the guest did meanwhile.
fn release(open: &OpenGuest, sent: bool, cx: &Context<'_>) -> Poll<ByteRelease> {
    if open.is_closed() {
        return Poll::Ready(ByteRelease::Close(reasons::WASM_CLOSED));
    }
    if open.holds(sent) && (open.goes_on(sent) || open.has_failed()) {
        return Poll::Ready(ByteRelease::Bytes(open.take_held(sent)));
    }
    open.wake_with(sent, cx.waker());
    Poll::Pending
}

/// Shows a piece to the guest, with what it held back before.
fn pass(open: &Rc<OpenGuest>, sent: bool, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
    if open.is_closed() {
        return ByteStep::Close(reasons::WASM_CLOSED);
    }
    if last {
        open.note_last(sent);
    }
    let hook = if sent { GuestHook::UpstreamData } else { GuestHook::DownstreamData };
    // What has been let go on goes before the rest.
    let goes = open.goes_on(sent) || open.has_failed();
    let held = open.take_held(sent);
    let gone = if goes { held } else { joined(held, bytes) };
    let seen = open.has(hook) && (last || !bytes.is_empty());
    let verdict = match seen {
        true => open.run(sent, hook, [bytes.len(), usize::from(last)], Some(bytes)),
        false => GuestConnVerdict::Continue,
    };
    let closes = sent && last && open.has(GuestHook::UpstreamClose);
    let verdict = match verdict {
        GuestConnVerdict::Continue | GuestConnVerdict::Pause if closes => {
            let paused = matches!(verdict, GuestConnVerdict::Pause);
            match open.run(sent, GuestHook::UpstreamClose, [0, 0], None) {
                GuestConnVerdict::Continue if paused && !open.goes_on(sent) => verdict,
                told => told,
            }
        }
        verdict => verdict,
    };
    settle(open, sent, gone, bytes, last, verdict)
}

/// What becomes of a piece; `gone` goes before it.
fn settle(
    open: &Rc<OpenGuest>,
    sent: bool,
    gone: Vec<u8>,
    bytes: &mut Vec<u8>,
    last: bool,
    verdict: GuestConnVerdict,
) -> ByteStep {
    match verdict {
        GuestConnVerdict::Close => ByteStep::Close(reasons::WASM_CLOSED),
        GuestConnVerdict::Cut(reason) => ByteStep::Cut(reason),
        GuestConnVerdict::Continue => {
            joined(gone, bytes);
            ByteStep::Continue
        }
        // There is nothing more to wait for than what the guest does itself.
        GuestConnVerdict::Pause if last || open.is_calling() => {
            let (open, wait) = (Rc::clone(open), open.wait(sent));
            ByteStep::Wait(Box::pin(async move {
                wait.await;
                Box::new(move |bytes: &mut Vec<u8>| {
                    let verdict = open.woken(sent, Some(bytes));
                    settle(&open, sent, gone, bytes, last, verdict)
                }) as ByteResume
            }))
        }
        GuestConnVerdict::Pause => match open.hold(sent, std::mem::replace(bytes, gone)) {
            Ok(()) => ByteStep::Continue,
            Err(reason) => ByteStep::Cut(reason),
        },
    }
}

/// Puts bytes before those in `rest`, and leaves nothing.
fn joined(first: Vec<u8>, rest: &mut Vec<u8>) -> Vec<u8> {
    if !first.is_empty() {
        let behind = std::mem::replace(rest, first);
        rest.extend_from_slice(&behind);
    }
    Vec::new()
}
