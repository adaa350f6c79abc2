//! The bytes of a connection, as they pass a library.
//!
//! Owns: what a piece becomes after a hook. Refuses to know: what the library does with it. Keeps: a piece that waits is resumed with
//! the same hook.

use std::cell::RefCell;
use std::rc::Rc;

use sluice_io::{ByteFilter, ByteResume, ByteStep};
use sluice_sys::module::ConnectionHook;

use super::instance::{ConnectionInstance, ConnectionVerdict};

/// The byte filter of one connection.
#[derive(Clone, Debug)]
pub(super) struct ModuleBytes(pub(super) Rc<RefCell<ConnectionInstance>>);

impl ModuleBytes {
    fn step(&self, hook: ConnectionHook, bytes: &mut Vec<u8>, last: Option<bool>) -> ByteStep {
        let verdict = self.0.borrow_mut().bytes(hook, bytes, last);
        match verdict {
            ConnectionVerdict::Continue => ByteStep::Continue,
            ConnectionVerdict::Close(reason) => ByteStep::Cut(reason),
            ConnectionVerdict::Wait(wait) => {
                let again = self.clone();
                ByteStep::Wait(Box::pin(async move {
                    wait.await;
                    Box::new(move |bytes: &mut Vec<u8>| again.step(hook, bytes, None)) as ByteResume
                }))
            }
        }
    }
}

impl ByteFilter for ModuleBytes {
    fn received(&mut self, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
        self.step(ConnectionHook::Received, bytes, Some(last))
    }

    fn sent(&mut self, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
        self.step(ConnectionHook::Sent, bytes, Some(last))
    }
}
