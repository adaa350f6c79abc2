//! What a guest has of one connection.
//!
//! Owns: calls of the guest about it, what they come to, and what is held back. Refuses to know: how bytes are moved. Keeps: after a call
//! that failed, a guest is not called about its connection again; what it holds back is bounded, and counts towards the
//! buffers of the worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use sluice_core::{ConnInfo, Reason};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_l7::reasons;

use crate::conn_call::GuestConnCall;
use crate::conn_facts::GuestConnFacts;
use crate::failure::GuestFailure;
use crate::hooks::GuestHook;
use crate::in_use::OnGuestError;
use crate::running::{GuestConnContext, RunningGuest};
use crate::stream::StreamWait;

/// What a guest is told of the end of a connection: that it is not known who closed it, Sluice or the client.
const CLOSED_BY_SOMEONE: u32 = 0;
const CLOSED_HERE: u32 = 1;
const CLOSED_BY_CLIENT: u32 = 2;

/// What a guest has of a connection.
#[derive(Debug)]
pub(super) struct OpenGuest {
    running: Rc<RunningGuest>,
    context: GuestConnContext,
    facts: Rc<GuestConnFacts>,
    /// It sees nothing more of it.
    failed: Cell<bool>,
    ended: Cell<bool>,
    /// Whether the last byte was that to the client.
    last: Cell<Option<bool>>,
    /// What it holds back of what the client sent, and of what is sent to it.
    held: RefCell<[Vec<u8>; 2]>,
    charge: RefCell<Charge>,
    /// Why the connection ends, for the record.
    said: RefCell<Option<String>>,
}

/// What a call came to.
#[derive(Debug)]
pub(super) enum GuestConnVerdict {
    Continue,
    Pause,
    /// The guest closed the connection.
    Close,
    /// It failed, and the connection ends with it.
    Cut(Reason),
}

impl OpenGuest {
    /// Begins the context of a connection.
    pub(super) fn begin(
        running: &Rc<RunningGuest>,
        worker: &Rc<WorkerCx>,
        conn: &ConnInfo,
    ) -> Result<Rc<Self>, GuestFailure> {
        let facts = Rc::new(GuestConnFacts::of(conn));
        let context = running.connect(worker, &facts)?;
        Ok(Rc::new(Self {
            running: Rc::clone(running),
            context,
            facts,
            failed: Cell::new(false),
            ended: Cell::new(false),
            last: Cell::new(None),
            held: RefCell::default(),
            charge: RefCell::new(worker.buffers.charge()),
            said: RefCell::default(),
        }))
    }

    /// Calls the function for new connections.
    pub(super) fn opened(&self) -> GuestConnVerdict {
        self.run(false, GuestHook::NewConnection, [0, 0], None)
    }

    /// Waits until the guest lets a new connection go on, or decides otherwise.
    pub(super) async fn opens(&self) -> GuestConnVerdict {
        loop {
            StreamWait::new(&self.context.cell, false).await;
            match self.woken(false, None) {
                GuestConnVerdict::Pause => {}
                verdict => return verdict,
            }
        }
    }

    /// Whether it is closed, which the guest may do at any time.
    pub(super) fn is_closed(&self) -> bool {
        self.context.cell.is_closed()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Whether the guest let a direction go on since it was called last.
    pub(super) fn goes_on(&self, sent: bool) -> bool {
        self.context.cell.goes_on(sent)
    }

    /// Whether it waits for a call.
    pub(super) fn is_calling(&self) -> bool {
        self.context.cell.calls.get() > 0
    }

    pub(super) fn has(&self, hook: GuestHook) -> bool {
        self.context.vm.has(hook)
    }

    pub(super) fn wait(&self, sent: bool) -> StreamWait {
        StreamWait::new(&self.context.cell, sent)
    }

    pub(super) fn wake_with(&self, sent: bool, waker: &std::task::Waker) {
        self.context.cell.wake_with(sent, waker);
    }

    /// Notes the last byte of a direction.
    pub(super) fn note_last(&self, sent: bool) {
        self.last.set(Some(sent));
    }

    /// Calls a function about the connection; `args` are those after the context.
    pub(super) fn run(
        &self,
        sent: bool,
        hook: GuestHook,
        args: [usize; 2],
        bytes: Option<&mut Vec<u8>>,
    ) -> GuestConnVerdict {
        if self.failed.get() {
            return GuestConnVerdict::Continue;
        }
        let GuestConnContext { vm, cell, .. } = &self.context;
        cell.begin(sent);
        let [first, second] = args.map(|arg| u32::try_from(arg).unwrap_or(u32::MAX));
        let args = [cell.id, first, second];
        let returned = self.with_bytes(sent, bytes, |call| {
            self.running.counted(vm, || vm.call(cell.id, hook, &args, call))
        });
        self.settle(sent, returned.map(|returned| returned.unwrap_or(0) != 0))
    }

    /// Tells a guest what it waited for.
    pub(super) fn woken(&self, sent: bool, bytes: Option<&mut Vec<u8>>) -> GuestConnVerdict {
        if self.failed.get() {
            return GuestConnVerdict::Continue;
        }
        let GuestConnContext { vm, cell, .. } = &self.context;
        let done = self.with_bytes(sent, bytes, |call| {
            while let Some(arrived) = cell.take_arrived() {
                self.running.counted(vm, || vm.deliver(cell.id, arrived, call))?;
            }
            Ok(())
        });
        self.settle(sent, done.map(|()| true))
    }

    fn with_bytes<T>(
        &self,
        sent: bool,
        bytes: Option<&mut Vec<u8>>,
        then: impl FnOnce(&mut GuestConnCall<'_>) -> T,
    ) -> T {
        let Some(place) = bytes else { return then(&mut GuestConnCall::new(&self.facts)) };
        let mut bytes = Bytes::from(std::mem::take(place));
        let result = then(&mut GuestConnCall::with(&self.facts, sent, &mut bytes));
        *place = bytes.into();
        result
    }

    /// What a call came to; `pauses` unless the guest said otherwise meanwhile.
    fn settle(&self, sent: bool, pauses: Result<bool, GuestFailure>) -> GuestConnVerdict {
        match pauses {
            Err(failure) => self.fail(&failure),
            Ok(_) if self.is_closed() => GuestConnVerdict::Close,
            Ok(true) if !self.goes_on(sent) => GuestConnVerdict::Pause,
            Ok(_) => GuestConnVerdict::Continue,
        }
    }

    /// Counts and logs a failure; the connection ends with it, unless it may go on.
    fn fail(&self, failure: &GuestFailure) -> GuestConnVerdict {
        self.failed.set(true);
        self.running.note(failure, self.facts.id);
        self.said.replace(Some(self.running.said(failure)));
        match self.running.plan.on_error {
            OnGuestError::Fail => GuestConnVerdict::Cut(failure.reason()),
            OnGuestError::Continue => GuestConnVerdict::Continue,
        }
    }

    /// Takes what is held back of a direction.
    pub(super) fn take_held(&self, sent: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held.borrow_mut()[usize::from(sent)]);
        // Lowering it always succeeds.
        let _ = self.account();
        held
    }

    pub(super) fn holds(&self, sent: bool) -> bool {
        !self.held.borrow()[usize::from(sent)].is_empty()
    }

    /// Holds back bytes, after those that it took.
    ///
    /// # Errors
    /// They are too many.
    pub(super) fn hold(&self, sent: bool, bytes: Vec<u8>) -> Result<(), Reason> {
        if bytes.len() > self.running.plan.plugin.body_max {
            self.running.count_limit("held_max");
            return Err(reasons::WASM_HELD);
        }
        self.held.borrow_mut()[usize::from(sent)] = bytes;
        self.account()
    }

    fn account(&self) -> Result<(), Reason> {
        let bytes = self.held.borrow().iter().map(Vec::len).sum();
        self.charge.borrow_mut().set(bytes).map_err(|_| sluice_l4::reasons::BUFFERS)
    }

    /// The connection has ended, in any way.
    pub(super) fn end(&self, conn: &ConnInfo) {
        self.facts.note_end(conn);
        self.finish();
        self.facts.publish(conn);
        if self.is_closed() {
            conn.note(format_args!(
                "wasm[{}: it closed the connection]",
                self.running.plan.plugin.name
            ));
        }
        if let Some(said) = self.said.borrow_mut().take().filter(|_| self.failed.get()) {
            match self.running.plan.on_error {
                OnGuestError::Fail => conn.note(said),
                OnGuestError::Continue => {
                    conn.values.set(&crate::values::ERROR, said);
                }
            }
        }
    }

    /// Has what the guest shared when the connection began known to others.
    pub(super) fn publish(&self, conn: &ConnInfo) {
        self.facts.publish(conn);
    }

    fn finish(&self) {
        if self.ended.replace(true) {
            return;
        }
        let how = match self.last.get() {
            _ if self.is_closed() || self.failed.get() => CLOSED_HERE,
            Some(true) => CLOSED_HERE,
            Some(false) => CLOSED_BY_CLIENT,
            None => CLOSED_BY_SOMEONE,
        };
        let GuestConnContext { vm, cell, .. } = &self.context;
        let call = &mut GuestConnCall::new(&self.facts);
        let told = vm.call(cell.id, GuestHook::DownstreamClose, &[cell.id, how], call);
        if let Err(failure) = told
            && !self.failed.replace(true)
        {
            self.running.note(&failure, self.facts.id);
        }
        vm.end(cell, call);
    }
}

impl Drop for OpenGuest {
    fn drop(&mut self) {
        self.finish();
    }
}
